//! Two ports with a station behind each, and how a case is written down and checked.

use std::collections::BTreeMap;

use bridge_common::{
    decide::{Decision, Edit, Entry, Fid, Tables, Verdict, decide},
    frame::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, Frame, Tag},
    mac::Mac,
    maps::{Port, port_flags, set_bit},
    reason::Reason,
};

/// Slot of the port where every frame comes in.
pub(crate) const HERE: u16 = 1;
/// Slot of the port where the destination is.
pub(crate) const THERE: u16 = 2;
/// Slot of a third port.
pub(crate) const ELSEWHERE: u16 = 3;
/// The station that sends, at [`HERE`].
pub(crate) const SENDER: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
/// The station that is sent to, at [`THERE`].
pub(crate) const TARGET: Mac = Mac::new([2, 0, 0, 0, 0, 2]);
/// `fid_base` of the VLAN-unaware bridge.
pub(crate) const UNAWARE_FID: u16 = 7;
/// `fid_base` of the VLAN-aware bridge.
pub(crate) const AWARE_FID: u16 = 8192;
/// Nanoseconds; every deadline is later than that, unless a case says otherwise.
pub(crate) const NOW: u64 = 1_000;
/// PVID of both ports; leaves untagged.
pub(crate) const PVID: u16 = 10;
/// Another VLAN of both ports; leaves tagged.
pub(crate) const TAGGED: u16 = 20;

/// The tables of one case.
#[derive(Clone)]
pub(crate) struct Bed {
    pub(crate) ports: BTreeMap<u16, Port>,
    pub(crate) fdb: BTreeMap<(u16, u16, Mac), Entry>,
}

impl Tables for Bed {
    fn port(&self, slot: u16) -> Option<&Port> {
        self.ports.get(&slot)
    }

    fn fdb(&self, fid: u16, vid: u16, mac: Mac) -> Option<Entry> {
        self.fdb.get(&(fid, vid, mac)).copied()
    }

    fn now(&self) -> u64 {
        NOW
    }
}

impl Bed {
    fn new(flags: u32, fid_base: u16) -> Self {
        let port = |slot: u16| Port {
            ifindex: 100 + u32::from(slot),
            flags: port_flags::INGRESS | port_flags::EGRESS | port_flags::LEARNING | flags,
            max_len: 1518,
            fid_base,
            refresh_interval: 500,
            ..Port::EMPTY
        };
        let ports = [HERE, THERE, ELSEWHERE].map(|slot| (slot, port(slot)));
        Self { ports: ports.into(), fdb: BTreeMap::new() }
    }

    /// A VLAN-unaware bridge.
    pub(crate) fn unaware() -> Self {
        let mut bed = Self::new(0, UNAWARE_FID);
        bed.station(0, SENDER, HERE);
        bed.station(0, TARGET, THERE);
        bed
    }

    /// A VLAN-aware bridge with [`PVID`] and [`TAGGED`] on every port, both stations in both.
    pub(crate) fn aware() -> Self {
        let mut bed = Self::new(port_flags::VLAN_AWARE, AWARE_FID);
        for port in bed.ports.values_mut() {
            port.tpid = ETH_P_8021Q;
            port.pvid = PVID;
            set_bit(&mut port.member, PVID, true);
            set_bit(&mut port.member, TAGGED, true);
            set_bit(&mut port.untagged, PVID, true);
        }
        for vid in [PVID, TAGGED] {
            bed.station(vid, SENDER, HERE);
            bed.station(vid, TARGET, THERE);
        }
        bed
    }

    /// The same with `vlan_protocol` 802.1ad.
    pub(crate) fn aware_ad() -> Self {
        Self::aware().with(|bed| bed.ports.values_mut().for_each(|port| port.tpid = ETH_P_8021AD))
    }

    /// Changes it for one case.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Without the port in a slot.
    pub(crate) fn without(self, slot: u16) -> Self {
        self.with(|bed| {
            bed.ports.remove(&slot);
        })
    }

    /// With more flags on a port.
    pub(crate) fn flag(self, slot: u16, flags: u32) -> Self {
        self.with(|bed| bed.port_mut(slot).flags |= flags)
    }

    /// With fewer flags on a port.
    pub(crate) fn unflag(self, slot: u16, flags: u32) -> Self {
        self.with(|bed| bed.port_mut(slot).flags &= !flags)
    }

    pub(crate) fn port_mut(&mut self, slot: u16) -> &mut Port {
        self.ports.get_mut(&slot).expect("a port of the bed")
    }

    /// Puts a plain dynamic entry into the FDB.
    pub(crate) fn station(&mut self, vid: u16, mac: Mac, slot: u16) {
        let fid = self.ports[&HERE].fid_base + vid;
        self.fdb.insert((fid, vid, mac), Entry { slot, flags: 0, refresh_at: NOW + 1 });
    }

    /// Changes the entries of `mac` in every VLAN.
    pub(crate) fn entry(self, mac: Mac, change: impl Fn(&mut Entry)) -> Self {
        self.with(|bed| {
            bed.fdb.iter_mut().filter(|((_, _, key), _)| *key == mac).for_each(|(_, entry)| change(entry));
        })
    }

    /// Without the entries of `mac`.
    pub(crate) fn forget(self, mac: Mac) -> Self {
        self.with(|bed| bed.fdb.retain(|(_, _, key), _| *key != mac))
    }
}

/// A plain frame from the sender to the target.
pub(crate) const FRAME: Frame = Frame {
    dst: TARGET,
    src: SENDER,
    tag: None,
    ethertype: ETH_P_IP,
    len: 64,
    gso: false,
    neighbour_discovery: false,
    untouched: true,
};

/// [`FRAME`] with an 802.1Q tag.
pub(crate) const fn tagged(tci: u16) -> Frame {
    Frame { tag: Some(Tag::new(ETH_P_8021Q, tci)), ..FRAME }
}

/// [`FRAME`] with an 802.1ad tag.
pub(crate) const fn tagged_ad(tci: u16) -> Frame {
    Frame { tag: Some(Tag::new(ETH_P_8021AD, tci)), ..FRAME }
}

/// What a case asks for.
#[derive(Clone, Copy)]
pub(crate) enum Want {
    /// Out of the port [`THERE`], with this edit.
    Fast(Edit),
    Slow(Reason),
}

/// One row.
pub(crate) struct Case {
    name: &'static str,
    bed: Bed,
    frame: Frame,
    want: Want,
    /// The VLAN that the verdict was made in; `None`: before any.
    vid: Option<u16>,
}

/// A row.
pub(crate) fn case(name: &'static str, bed: Bed, frame: Frame, vid: Option<u16>, want: Want) -> Case {
    Case { name, bed, frame, want, vid }
}

/// A row that is slow for `reason`.
pub(crate) fn slow(name: &'static str, bed: Bed, frame: Frame, vid: Option<u16>, reason: Reason) -> Case {
    case(name, bed, frame, vid, Want::Slow(reason))
}

/// A row that is fast.
pub(crate) fn fast(name: &'static str, bed: Bed, frame: Frame, vid: u16, edit: Edit) -> Case {
    case(name, bed, frame, Some(vid), Want::Fast(edit))
}

/// Decides every row and compares port, flags, edit, reason, fid and VLAN; names every row that differs.
#[track_caller]
pub(crate) fn check(cases: &[Case]) {
    let mut failures = Vec::new();
    for Case { name, bed, frame, want, vid } in cases {
        let verdict = match *want {
            Want::Slow(reason) => Verdict::Pass(reason),
            Want::Fast(edit) => {
                let out = &bed.ports[&THERE];
                let leaves = match edit {
                    Edit::Keep => frame.tag,
                    Edit::Pop => None,
                    Edit::Push(tag) | Edit::Retag(tag) => Some(tag),
                };
                Verdict::Forward { slot: THERE, ifindex: out.ifindex, flags: out.flags, leaves }
            }
        };
        let fid = vid.map_or(Fid::NONE, |vid| Fid::new(bed.ports[&HERE].fid_base + vid));
        let want = Decision { verdict, fid, vid: vid.unwrap_or(0) };
        let got = decide(bed, HERE, frame);
        if got != want {
            failures.push(format!("{name}:\n  want {want:?}\n   got {got:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
