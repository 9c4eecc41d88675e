//! Who forwards.

use anyhow::Result;
use xbr_tests::{bpf::steer, probe::Need};

use super::{
    attachment::{Attachment, Foreign},
    case::Work,
    frames::Sink,
    stage::{IN, Middle, Stage},
};

/// A contender of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Nobody: frames are counted and dropped where they come in
    Floor,
    /// The bridge alone
    Bridge,
    /// A tc program that redirects everything, without a look-up
    Tc,
    /// An XDP program that redirects everything, without a look-up
    Xdp,
    /// A tc program that hands everything to the other end of the veth
    Peer,
    /// macvlan in place of the bridge
    Macvlan,
    /// The Open vSwitch kernel datapath in place of the bridge
    Ovs,
    /// xbr, with XDP where frames come in as from a NIC
    Xbr,
    /// xbr with tc alone
    XbrTc,
    /// xbr with tc alone and --redirect-peer
    XbrPeer,
    /// The bridge behind an empty tcx program
    EmptyTcx,
    /// The bridge behind an empty XDP program and an empty tcx program
    EmptyXdp,
    /// The bridge with br_netfilter, without rules
    BrNetfilter,
    /// The bridge with br_netfilter and a rule that asks for the connection
    Rules,
}

/// A contender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// One of this program's.
    Own(Kind),
    /// A command of the user's.
    Foreign {
        /// Its name in the output.
        name: String,
        /// What attaches it.
        command: String,
    },
}

impl Kind {
    /// The name in the output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "drop at once",
            Self::Bridge => "bridge",
            Self::Tc => "bare tc",
            Self::Xdp => "bare XDP",
            Self::Peer => "redirect_peer",
            Self::Macvlan => "macvlan",
            Self::Ovs => "OVS datapath",
            Self::Xbr => "xbr",
            Self::XbrTc => "xbr (tc)",
            Self::XbrPeer => "xbr --redirect-peer",
            Self::EmptyTcx => "bridge + empty tcx",
            Self::EmptyXdp => "bridge + empty XDP, tcx",
            Self::BrNetfilter => "bridge + br_netfilter",
            Self::Rules => "bridge + rules",
        }
    }

    /// What it needs of the machine.
    pub(crate) fn needs(self) -> Option<Need> {
        match self {
            Self::Tc | Self::Peer | Self::XbrPeer | Self::EmptyTcx | Self::EmptyXdp => Some(Need::Tcx),
            Self::Macvlan => Some(Need::Macvlan),
            Self::Ovs => Some(Need::OpenVswitch),
            Self::BrNetfilter | Self::Rules => Some(Need::BrNetfilter),
            Self::Floor | Self::Bridge | Self::Xdp | Self::Xbr | Self::XbrTc => None,
        }
    }
}

impl Contender {
    /// The name in the output.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Own(kind) => kind.name(),
            Self::Foreign { name, .. } => name,
        }
    }

    /// The stage that it needs.
    pub(crate) fn middle(&self) -> Middle {
        match self {
            Self::Own(Kind::Macvlan) => Middle::Macvlan,
            Self::Own(Kind::Ovs) => Middle::Ovs,
            Self::Own(_) | Self::Foreign { .. } => Middle::Bridge,
        }
    }

    /// Puts it in place; a floor counts in the sink.
    pub(crate) fn attach(&self, stage: &Stage, sink: &Sink) -> Result<Attachment> {
        let mut place = Attachment::default();
        match self {
            Self::Own(Kind::Floor) => {
                let nic = matches!(stage.work, Work::Frames(_));
                let drop = if nic { steer::xdp_sink } else { steer::tc_sink };
                place.programs.push(stage.host().enter(|| drop(IN, &sink.counter))??);
            }
            Self::Own(kind) => place.own(*kind, stage)?,
            Self::Foreign { command, .. } => place.foreign = Some(Foreign::start(command, stage)?),
        }
        Ok(place)
    }
}
