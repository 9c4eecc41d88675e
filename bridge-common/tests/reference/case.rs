//! One frame, asked of both sides.

use bridge_common::{
    decide::{Decision, decide},
    frame::Frame,
    mac::Mac,
    maps::fdb_flags,
    reason::Reason,
};

use super::{
    kernel::{FdbChange, Outcome},
    scenario::{Arrival, Scenario},
    tables::MemoryTables,
};

/// What both sides say of one frame.
pub(crate) struct Case<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) tables: &'a MemoryTables,
    in_port: usize,
    in_slot: u16,
    pub(crate) frame: Frame,
    pub(crate) expected: Outcome,
    pub(crate) decided: Decision,
}

impl<'a> Case<'a> {
    pub(crate) fn new(scenario: &'a Scenario, tables: &'a MemoryTables, arrival: &Arrival) -> Self {
        let in_port = arrival.port;
        let in_slot = scenario.numbers.first_slot + u16::try_from(in_port).expect("few ports");
        let parsed = Frame::parse(&arrival.bytes).expect("whole frames only");
        let frame = Frame { gso: arrival.gso, ..parsed };
        let expected = scenario.bridge.receive(in_port, &arrival.bytes, arrival.gso);
        let decided = decide(tables, in_slot, &frame);
        Self { scenario, tables, in_port, in_slot, frame, expected, decided }
    }

    /// The bridge would do no more than send the frame out of one other port.
    pub(crate) fn could_be_fast(&self) -> bool {
        let expected = &self.expected;
        expected.known
            && matches!(&expected.deliveries[..], [one] if one.port != self.in_port && !one.tunnel)
            && !expected.up_to_bridge
            && !expected.up_to_port
            && matches!(expected.fdb, FdbChange::None | FdbChange::Refreshed)
    }

    /// Whether xbr leaves this frame to the bridge on purpose for `reason`, although it could be fast. Every such reason has
    /// its condition here; one that is not named, or given where its condition does not hold, is a gap.
    pub(crate) fn left_on_purpose(&self, reason: Reason) -> bool {
        let Scenario { bridge, numbers, .. } = self.scenario;
        let frame = &self.frame;
        let entry = |mac: Mac| {
            let vid = self.decided.vid;
            self.tables.fdb.get(&(numbers.fid_base + vid, vid, mac))
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "a new reason is no excuse until it is listed here")]
        match reason {
            // The bridge would push a second tag, or the far end might drop what it forwards.
            Reason::TagProtocol => {
                let tagged = |port: usize| {
                    bridge.ports[port].vlans.iter().any(|vlan| vlan.vid == self.decided.vid && !vlan.untagged)
                };
                bridge.vlan_filtering
                    && frame.tag.is_some_and(|tag| tag.tpid() != bridge.vlan_proto)
                    && (frame.len < 16 || self.expected.deliveries.iter().all(|delivery| tagged(delivery.port)))
            }
            // The kernel may answer these itself, depending on options that the model leaves out.
            Reason::ControlProtocol => {
                [0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7].contains(&frame.ethertype)
            }
            Reason::NeighbourDiscovery => frame.neighbour_discovery,
            Reason::Llc => frame.ethertype < 0x600,
            // One frame in a while keeps the kernel's entry alive.
            Reason::Refresh => {
                self.expected.fdb == FdbChange::Refreshed
                    && numbers.refresh_interval != 0
                    && entry(frame.src).is_some_and(|entry| {
                        entry.flags & fdb_flags::STATIC == 0 && self.tables.now >= entry.refresh_at
                    })
            }
            // The kernel's helpers refuse to take the outer tag off, and br_netfilter drops such frames.
            Reason::ShortInnerTag => [0x8100, 0x88a8].contains(&frame.ethertype) && frame.len < 20,
            Reason::Truncated => frame.ethertype == 0x8864 && frame.len < 22,
            // Not learnt again, but not plain either: a bridge's own address, a sticky or a locked one.
            Reason::SourceFixed => entry(frame.src).is_some_and(|entry| {
                entry.flags & (fdb_flags::LOCAL | fdb_flags::OPAQUE) != 0
                    || (entry.flags & fdb_flags::STICKY != 0 && entry.slot != self.in_slot)
            }),
            Reason::DestinationFeature => entry(frame.dst).is_some_and(|entry| entry.flags & fdb_flags::OPAQUE != 0),
            // Per-VLAN spanning tree and tunnels.
            Reason::BridgeFeature => bridge.mst,
            Reason::PortFeature => bridge.ports[self.in_port].vlan_tunnel,
            // The frame goes to the backup port, or to a port with VLAN tunnels.
            Reason::EgressPort => self.expected.deliveries.iter().all(|delivery| {
                let behind = entry(frame.dst).map(|entry| usize::from(entry.slot - numbers.first_slot));
                behind != Some(delivery.port) || bridge.ports[delivery.port].vlan_tunnel
            }),
            _ => false,
        }
    }
}
