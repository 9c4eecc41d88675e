//! The contents of the tables in a test, as the host and the programs see them.

use std::collections::BTreeMap;

use bridge_common::{
    decide::{Entry, Tables},
    frame::{ETH_P_8021AD, ETH_P_8021Q},
    mac::Mac,
    maps::{Port, port_flags, set_bit},
};
use bridge_user::datapath::FdbShape;

/// Slot of the port where frames come in.
pub(crate) const HERE: u16 = 1;
/// Slot of the port where the destination is.
pub(crate) const THERE: u16 = 2;
/// Slot of a third port, the last one that there is room for.
pub(crate) const ELSEWHERE: u16 = 1023;
/// Slot of a port whose device has left: no cell of the device map is filled.
pub(crate) const GONE: u16 = 5;
/// All slots of a test; 0 counts frames of unknown devices.
pub(crate) const SLOTS: [u16; 5] = [0, HERE, THERE, GONE, ELSEWHERE];

/// The station that sends, at [`HERE`].
pub(crate) const SENDER: Mac = Mac::new([2, 0x70, 0, 0, 0, 1]);
/// The station that is sent to, at [`THERE`].
pub(crate) const TARGET: Mac = Mac::new([2, 0x70, 0, 0, 0, 2]);

/// `fid_base` of the VLAN-unaware bridge.
pub(crate) const UNAWARE_FID: u16 = 7;
/// `fid_base` of the VLAN-aware bridge.
pub(crate) const AWARE_FID: u16 = 8192;
/// PVID of all ports; leaves untagged.
pub(crate) const PVID: u16 = 10;
/// Another VLAN of all ports; leaves tagged.
pub(crate) const TAGGED: u16 = 20;
/// Another VLAN of all ports; leaves untagged.
pub(crate) const UNTAGGED: u16 = 30;
/// The VLANs of the VLAN-aware bridge.
pub(crate) const VIDS: [u16; 3] = [PVID, TAGGED, UNTAGGED];

/// The table's. The same numbers at all times: the addresses of a test do not share a cell by chance.
pub(crate) const SHAPE: FdbShape =
    FdbShape::with(1024, [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93, 0x9e37_79b9_7f4a_7c15]);

/// The generation cell of an address.
pub(crate) const fn generation_cell(mac: Mac, vid: u16) -> u32 {
    SHAPE.generations.of(mac, vid)
}

/// A time that does not come.
pub(crate) const NEVER: u64 = u64::MAX;
/// An hour in nanoseconds.
const HOUR: u64 = 3_600_000_000_000;

/// How an FDB entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// With the current generation and its own key.
    Current,
    /// With a generation that is not the current one.
    Stale,
}

/// An FDB entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The kernel's VLAN id.
    pub(crate) vid: u16,
    pub(crate) slot: u16,
    /// `fdb_flags`.
    pub(crate) flags: u16,
    /// 0 or [`NEVER`]: what lies between depends on the clock.
    pub(crate) refresh_at: u64,
    pub(crate) state: State,
}

/// All tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct World {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) lease: u64,
    pub(crate) ports: BTreeMap<u16, Port>,
    /// By fid and address.
    pub(crate) fdb: BTreeMap<(u16, Mac), Row>,
}

impl Tables for World {
    fn port(&self, slot: u16) -> Option<&Port> {
        // An array has no holes.
        if u32::from(slot) < bridge_common::maps::MAX_PORTS {
            Some(self.ports.get(&slot).unwrap_or(&Port::EMPTY))
        } else {
            None
        }
    }

    fn fdb(&self, fid: u16, vid: u16, mac: Mac) -> Option<Entry> {
        let row = self.fdb.get(&(fid, mac)).filter(|row| row.state == State::Current && row.vid == vid)?;
        Some(Entry { slot: row.slot, flags: row.flags, refresh_at: row.refresh_at })
    }

    fn now(&self) -> u64 {
        1
    }
}

impl World {
    /// Ports on one bridge, and no stations.
    pub(crate) fn empty(flags: u32, fid_base: u16) -> Self {
        let port = Port {
            flags: port_flags::INGRESS | port_flags::EGRESS | port_flags::EGRESS_XDP | port_flags::LEARNING | flags,
            max_len: 1518,
            fid_base,
            refresh_interval: HOUR,
            ..Port::EMPTY
        };
        let ports = [HERE, THERE, ELSEWHERE, GONE].map(|slot| (slot, port));
        Self { lease: NEVER, ports: ports.into(), fdb: BTreeMap::new() }
    }

    /// A VLAN-unaware bridge with both stations.
    pub(crate) fn unaware() -> Self {
        Self::empty(0, UNAWARE_FID).station(0, SENDER, HERE).station(0, TARGET, THERE)
    }

    /// A VLAN-aware bridge with [`VIDS`] on every port, both stations in each.
    pub(crate) fn aware() -> Self {
        let mut world = Self::empty(port_flags::VLAN_AWARE, AWARE_FID);
        for port in world.ports.values_mut() {
            port.tpid = ETH_P_8021Q;
            port.pvid = PVID;
            for vid in VIDS {
                set_bit(&mut port.member, vid, true);
                set_bit(&mut port.untagged, vid, vid != TAGGED);
            }
        }
        for vid in VIDS {
            world = world.station(vid, SENDER, HERE).station(vid, TARGET, THERE);
        }
        world
    }

    /// The same with `vlan_protocol` 802.1ad.
    pub(crate) fn aware_ad() -> Self {
        Self::aware().with(|world| world.ports.values_mut().for_each(|port| port.tpid = ETH_P_8021AD))
    }

    /// Changes it.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Changes one port.
    pub(crate) fn port(self, slot: u16, change: impl FnOnce(&mut Port)) -> Self {
        self.with(|world| change(world.ports.entry(slot).or_insert(Port::EMPTY)))
    }

    /// With more flags on a port.
    pub(crate) fn flag(self, slot: u16, flags: u32) -> Self {
        self.port(slot, |port| port.flags |= flags)
    }

    /// With fewer flags on a port.
    pub(crate) fn unflag(self, slot: u16, flags: u32) -> Self {
        self.port(slot, |port| port.flags &= !flags)
    }

    /// With a dynamic entry.
    pub(crate) fn station(self, vid: u16, mac: Mac, slot: u16) -> Self {
        self.with(|world| {
            let fid = world.ports[&HERE].fid_base + vid;
            world.fdb.insert((fid, mac), Row { vid, slot, flags: 0, refresh_at: NEVER, state: State::Current });
        })
    }

    /// Changes the entries of `mac` in every VLAN.
    pub(crate) fn entry(self, mac: Mac, change: impl Fn(&mut Row)) -> Self {
        self.with(|world| world.fdb.iter_mut().filter(|((_, key), _)| *key == mac).for_each(|(_, row)| change(row)))
    }

    /// Without the entries of `mac`.
    pub(crate) fn forget(self, mac: Mac) -> Self {
        self.with(|world| world.fdb.retain(|(_, key), _| *key != mac))
    }

    /// What a program does to the tables when a source has moved: every entry of its generation cell is void.
    pub(crate) fn cancel(&mut self, vid: u16, mac: Mac) {
        let cell = generation_cell(mac, vid);
        for ((_, other), row) in &mut self.fdb {
            if generation_cell(*other, row.vid) == cell && row.state == State::Current {
                row.state = State::Stale;
            }
        }
    }

    /// What a program does to the tables when it sends a source's frame to the bridge.
    pub(crate) fn refreshed(&mut self, fid: u16, mac: Mac) {
        if let Some(row) = self.fdb.get_mut(&(fid, mac)) {
            row.refresh_at = NEVER;
        }
    }
}

/// The counter cell of a fid: one for each VLAN of a test, 0 for all others.
pub(crate) fn vlan_cell(fid: u16) -> u32 {
    match fid {
        UNAWARE_FID => 1,
        fid if fid == AWARE_FID + PVID => 2,
        fid if fid == AWARE_FID + TAGGED => 3,
        fid if fid == AWARE_FID + UNTAGGED => 4,
        _ => 0,
    }
}

/// All fids with a counter cell of their own.
pub(crate) const COUNTED: [u16; 4] = [UNAWARE_FID, AWARE_FID + PVID, AWARE_FID + TAGGED, AWARE_FID + UNTAGGED];
