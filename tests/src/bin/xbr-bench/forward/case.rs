//! What is measured.

use std::fmt;

use xbr_tests::probe::Need;

use super::contender::Kind;

/// Where frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other end of a veth, where XDP counts and drops.
    Drop,
    /// A tap that is read.
    Tap,
    /// The network stack of a container, where tc counts and drops.
    Stack,
}

/// What a bridge that filters VLANs does with the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vlans {
    /// The bridge does not filter.
    None,
    /// Every port is in so many, tagged but for the last one, in which the frames are.
    Many(u16),
    /// Both ports have them untagged.
    Access,
    /// They come in untagged and leave with a tag.
    Push,
    /// They come in with a tag and leave untagged.
    Pop,
}

/// Frames that come in as from a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Bytes of each, without the FCS.
    pub(crate) len: usize,
    /// Where they end.
    pub(crate) end: End,
    /// Whether the bridge knows the destination.
    pub(crate) known: bool,
    /// Destination addresses, drawn at random.
    pub(crate) addresses: u32,
    /// Ports beside the one where they come in; each has an equal part of the addresses.
    pub(crate) ports: u32,
    /// VLANs.
    pub(crate) vlans: Vlans,
}

impl Frames {
    /// 64 bytes to one address at one port.
    pub(crate) const fn to(end: End) -> Self {
        Self { len: 64, end, known: true, addresses: 1, ports: 1, vlans: Vlans::None }
    }
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// NIC to somewhere.
    Frames(Frames),
    /// UDP from one container to another, with so many bytes of payload.
    Udp(usize, Vlans),
    /// TCP from one container to another, in so many streams.
    Tcp(usize),
    /// Requests of one byte and their answers over TCP, between two containers.
    Requests,
}

impl Work {
    /// What the bridge does with VLANs.
    pub(crate) fn vlans(self) -> Vlans {
        match self {
            Self::Frames(Frames { vlans, .. }) | Self::Udp(_, vlans) => vlans,
            Self::Tcp(_) | Self::Requests => Vlans::None,
        }
    }
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// Its name on the command line.
    pub(crate) name: String,
    /// What runs.
    pub(crate) work: Work,
    /// Who takes part, in this order.
    pub(crate) contenders: Vec<Kind>,
}

impl Case {
    fn new(name: &str, work: Work, contenders: &[Kind]) -> Self {
        Self { name: name.to_owned(), work, contenders: contenders.to_vec() }
    }

    /// All of them, the most telling ones first.
    pub(crate) fn all() -> Vec<Self> {
        use Kind::{
            BrNetfilter, Bridge, EmptyTcx, EmptyXdp, Floor, Macvlan, Ovs, Peer, Rules, Tc, Xbr, XbrPeer, XbrTc, Xdp,
        };
        let drop = Frames::to(End::Drop);
        let frames = |frames: Frames| Work::Frames(frames);
        let nic = [Bridge, Ovs, Tc, Xdp, XbrTc, Xbr, Floor];
        let tap = [Bridge, Tc, Xdp, XbrTc, Xbr];
        let container = [Bridge, Ovs, Tc, Peer, Xdp, Macvlan, Xbr, XbrPeer];
        let streams = [Bridge, Tc, Peer, Macvlan, Xbr, XbrPeer];
        let table = [Bridge, Tc, Xdp, Xbr];
        let mut cases = vec![
            Self::new("nic64", frames(drop), &nic),
            Self::new("nic1514", frames(Frames { len: 1514, ..drop }), &nic),
            Self::new("nic-tap", frames(Frames::to(End::Tap)), &tap),
            Self::new("nic-container", frames(Frames::to(End::Stack)), &[Bridge, Tc, Peer, Xdp, Macvlan, XbrTc, Xbr]),
            Self::new("udp18", Work::Udp(18, Vlans::None), &container),
            Self::new("udp1400", Work::Udp(1400, Vlans::None), &container),
            Self::new("tcp1", Work::Tcp(1), &streams),
            Self::new("tcp8", Work::Tcp(8), &streams),
            Self::new("requests", Work::Requests, &streams),
            Self::new("passed64", frames(Frames { known: false, ..drop }), &[Bridge, EmptyTcx, XbrTc, EmptyXdp, Xbr]),
            Self::new("netfilter64", frames(drop), &[Bridge, BrNetfilter, Rules, Xbr]),
        ];
        for addresses in [10, 1000, 100_000, 1_000_000] {
            cases.push(Self::new(&format!("fdb-{addresses}"), frames(Frames { addresses, ..drop }), &table));
        }
        for ports in [2, 50, 500] {
            let many = Frames { ports: ports - 1, addresses: ports - 1, ..drop };
            cases.push(Self::new(&format!("ports-{ports}"), frames(many), &[Bridge, Xdp, Xbr]));
        }
        for vlans in [1, 100, 4000] {
            cases.push(Self::new(
                &format!("vlans-{vlans}"),
                frames(Frames { vlans: Vlans::Many(vlans), ..drop }),
                &[Bridge, Xdp, Xbr],
            ));
        }
        cases
    }

    /// What it needs of the machine.
    pub(crate) fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::Root, Need::Kernel(5, 18)];
        needs.extend((self.work.vlans() != Vlans::None).then_some(Need::VlanFiltering));
        if let Work::Frames(frames) = self.work {
            needs.extend((frames.end == End::Tap).then_some(Need::Tun));
        }
        needs
    }

    /// What is counted.
    pub(crate) fn unit(&self) -> Unit {
        match self.work {
            Work::Frames(_) | Work::Udp(..) => Unit::Frame,
            Work::Tcp(_) => Unit::Byte,
            Work::Requests => Unit::Transaction,
        }
    }
}

/// What processor time is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A frame that arrived.
    Frame,
    /// A byte that arrived.
    Byte,
    /// A request that was answered.
    Transaction,
}

impl Unit {
    /// A cost in nanoseconds per unit as a rate for people, and what that is called.
    pub(crate) fn rate(self, cost: f64) -> (f64, &'static str) {
        match self {
            Self::Frame => (1e3 / cost, "Mframes/s per core"),
            Self::Byte => (8.0 / cost, "Gbit/s per core"),
            Self::Transaction => (1e6 / cost, "k/s per core"),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Frame => "frame",
            Self::Byte => "byte",
            Self::Transaction => "transaction",
        })
    }
}
