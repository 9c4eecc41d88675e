//! The kinds of change: how each is made and undone, and where the flow may not go afterwards.

use anyhow::Result;
use xbr_tests::rtnl::PVID_UNTAGGED;

use super::stage::Stage;

/// `BR_STATE_DISABLED`.
const DISABLED: u8 = 0;
/// `BR_STATE_FORWARDING`.
const FORWARDING: u8 = 3;
/// `BR_STATE_BLOCKING`.
const BLOCKING: u8 = 4;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The station shows up at another port
    FdbMove,
    /// `bridge fdb replace` puts the station behind another port
    FdbReplace,
    /// `bridge fdb del` of the station
    FdbDelete,
    /// The station's port is flushed
    FlushPort,
    /// The bridge is flushed
    FlushBridge,
    /// The sender's port is set to disabled
    StateIngress,
    /// The station's port is set to disabled
    StateEgress,
    /// The station's port is isolated, as the sender's is already
    Isolated,
    /// The station's port leaves the bridge
    PortRemoved,
    /// The station's port goes down
    PortDown,
    /// The VLAN is removed from the sender's port
    VlanIngress,
    /// The VLAN is removed from the station's port
    VlanEgress,
    /// The VLAN is set to blocking on the sender's port
    VlanStateIngress,
    /// The VLAN is set to blocking on the station's port
    VlanStateEgress,
    /// The sender's port gets another PVID
    PvidMoved,
    /// `vlan_filtering` is turned on, and the two are in different VLANs
    FilteringOn,
}

/// What shows that a frame went the old way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// It arrived at the station's old place.
    Arrived,
    /// It did not arrive at a third place, as a flooded frame does.
    NotFlooded,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 16] = [
        Self::FdbMove,
        Self::FdbReplace,
        Self::FdbDelete,
        Self::FlushPort,
        Self::FlushBridge,
        Self::StateIngress,
        Self::StateEgress,
        Self::Isolated,
        Self::PortRemoved,
        Self::PortDown,
        Self::VlanIngress,
        Self::VlanEgress,
        Self::VlanStateIngress,
        Self::VlanStateEgress,
        Self::PvidMoved,
        Self::FilteringOn,
    ];

    /// As it is named on the command line.
    pub(super) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is a change of VLANs.
    pub(super) fn needs_vlans(self) -> bool {
        matches!(
            self,
            Self::VlanIngress
                | Self::VlanEgress
                | Self::VlanStateIngress
                | Self::VlanStateEgress
                | Self::PvidMoved
                | Self::FilteringOn
        )
    }

    /// Options of the bridge, in the words of `ip link add type bridge`.
    pub(super) fn options(self) -> &'static str {
        if self.needs_vlans() { "vlan_filtering 1 vlan_default_pvid 0" } else { "" }
    }

    /// What a late frame does.
    pub(super) fn late(self) -> Late {
        let flooded = matches!(self, Self::FdbDelete | Self::FlushPort | Self::FlushBridge | Self::PortDown);
        if flooded { Late::NotFlooded } else { Late::Arrived }
    }

    /// Whether the station's entry is learnt. Elsewhere it is static, or its removal would hide what is measured.
    pub(super) fn is_learnt(self) -> bool {
        matches!(self, Self::FdbMove | Self::FlushPort | Self::FlushBridge | Self::PortDown)
    }

    /// The VLAN of the static entries.
    fn vid(self) -> u16 {
        if self.needs_vlans() && self != Self::FilteringOn { 10 } else { 0 }
    }

    /// Once, before all rounds.
    pub(super) fn prepare(self, stage: &mut Stage) -> Result<()> {
        let [from, to, ..] = stage.ports;
        if self.needs_vlans() {
            for port in stage.ports {
                stage.rtnl.vlan_add(port, 10, PVID_UNTAGGED)?;
            }
        }
        if self == Self::Isolated {
            stage.rtnl.isolated(from, true)?;
        }
        if self == Self::FilteringOn {
            stage.rtnl.vlan_delete(to, 10)?;
            stage.rtnl.vlan_add(to, 20, PVID_UNTAGGED)?;
            stage.rtnl.vlan_filtering(stage.bridge, false)?;
        }
        if !self.is_learnt() {
            stage.rtnl.fdb_replace(from, stage.sender, self.vid())?;
            stage.rtnl.fdb_replace(to, stage.station, self.vid())?;
        }
        self.restore(stage)
    }

    /// Makes the change; on return the kernel has answered.
    pub(super) fn change(self, stage: &mut Stage) -> Result<()> {
        let [from, to, other, _] = stage.ports;
        match self {
            Self::FdbMove => stage.show_up(true),
            Self::FdbReplace => stage.rtnl.fdb_replace(other, stage.station, 0),
            Self::FdbDelete => stage.rtnl.fdb_delete(to, stage.station, 0),
            Self::FlushPort => stage.rtnl.flush_port(to),
            Self::FlushBridge => stage.rtnl.flush_bridge(stage.bridge),
            Self::StateIngress => stage.rtnl.port_state(from, DISABLED),
            Self::StateEgress => stage.rtnl.port_state(to, DISABLED),
            Self::Isolated => stage.rtnl.isolated(to, true),
            Self::PortRemoved => stage.rtnl.master(to, 0),
            Self::PortDown => stage.rtnl.up(to, false),
            Self::VlanIngress => stage.rtnl.vlan_delete(from, 10),
            Self::VlanEgress => stage.rtnl.vlan_delete(to, 10),
            Self::VlanStateIngress => stage.rtnl.vlan_state(from, 10, BLOCKING),
            Self::VlanStateEgress => stage.rtnl.vlan_state(to, 10, BLOCKING),
            Self::PvidMoved => stage.rtnl.vlan_add(from, 20, PVID_UNTAGGED),
            Self::FilteringOn => stage.rtnl.vlan_filtering(stage.bridge, true),
        }
    }

    /// Makes it as it was.
    pub(super) fn restore(self, stage: &mut Stage) -> Result<()> {
        let [from, to, ..] = stage.ports;
        match self {
            Self::FdbMove | Self::FlushPort | Self::FlushBridge => stage.show_up(false),
            Self::FdbReplace | Self::FdbDelete => stage.rtnl.fdb_replace(to, stage.station, 0),
            Self::StateIngress => stage.rtnl.port_state(from, FORWARDING),
            Self::StateEgress => stage.rtnl.port_state(to, FORWARDING),
            Self::Isolated => stage.rtnl.isolated(to, false),
            Self::PortRemoved => {
                stage.rtnl.master(to, stage.bridge)?;
                stage.rtnl.fdb_replace(to, stage.station, 0)
            }
            Self::PortDown => {
                stage.rtnl.up(to, true)?;
                stage.show_up(false)
            }
            Self::VlanIngress | Self::PvidMoved => stage.rtnl.vlan_add(from, 10, PVID_UNTAGGED),
            Self::VlanEgress => stage.rtnl.vlan_add(to, 10, PVID_UNTAGGED),
            Self::VlanStateIngress => stage.rtnl.vlan_state(from, 10, FORWARDING),
            Self::VlanStateEgress => stage.rtnl.vlan_state(to, 10, FORWARDING),
            Self::FilteringOn => stage.rtnl.vlan_filtering(stage.bridge, false),
        }
    }
}
