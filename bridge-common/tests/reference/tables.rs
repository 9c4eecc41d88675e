//! The tables that follow from a bridge, as the daemon's plan would write them (documented at `bridge_common::maps`).

use std::collections::HashMap;

use bridge_common::{
    decide::{Edit, Entry, Tables},
    frame::Tag,
    mac::Mac,
    maps::{Port, fdb_flags, port_flags, set_bit},
    reason::Reason,
};

use super::kernel::{Bridge, Port as KernelPort, State};

/// Choices of the daemon that the bridge does not determine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// Slot of port 0; the others follow.
    pub(crate) first_slot: u16,
    /// A multiple of 4096 for a VLAN-aware bridge.
    pub(crate) fid_base: u16,
    /// Nanoseconds; 0 never.
    pub(crate) refresh_interval: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub(crate) now: u64,
}

/// Tables in ordinary collections.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTables {
    pub(crate) ports: HashMap<u16, Port>,
    /// By (fid, kernel's VLAN id, address): a look-up that mixes up the first two finds nothing.
    pub(crate) fdb: HashMap<(u16, u16, Mac), Entry>,
    pub(crate) now: u64,
}

impl Tables for MemoryTables {
    fn port(&self, slot: u16) -> Option<&Port> {
        self.ports.get(&slot)
    }

    fn fdb(&self, fid: u16, vid: u16, mac: Mac) -> Option<Entry> {
        self.fdb.get(&(fid, vid, mac)).copied()
    }

    fn now(&self) -> u64 {
        self.now
    }
}

/// Writes the tables. `refresh_at` gives each entry's deadline, by the order of the kernel's FDB.
pub(crate) fn tables_of(bridge: &Bridge, numbers: Numbers, refresh_at: &[u64]) -> MemoryTables {
    let slot = |port: usize| numbers.first_slot + u16::try_from(port).expect("few ports");
    let ports = bridge
        .ports
        .iter()
        .enumerate()
        .map(|(index, port)| (slot(index), port_of(bridge, port, 100 + u32::from(slot(index)), numbers)))
        .collect();
    let fdb = bridge
        .fdb
        .iter()
        .zip(refresh_at.iter().chain(std::iter::repeat(&0)))
        // Entries of the other mode stay in the kernel's FDB, unused.
        .filter(|(((_, vid), _), _)| bridge.vlan_filtering || *vid == 0)
        .map(|(((address, vid), entry), refresh_at)| {
            let mut flags = 0;
            for (on, flag) in [
                (entry.local, fdb_flags::LOCAL),
                (entry.sticky, fdb_flags::STICKY),
                (entry.locked, fdb_flags::OPAQUE),
                (entry.is_static, fdb_flags::STATIC),
            ] {
                flags |= if on { flag } else { 0 };
            }
            let value = Entry { slot: entry.port.map_or(0, slot), flags, refresh_at: *refresh_at };
            ((numbers.fid_base + vid, *vid, Mac::new(*address)), value)
        })
        .collect();
    MemoryTables { ports, fdb, now: numbers.now }
}

fn port_of(bridge: &Bridge, port: &KernelPort, ifindex: u32, numbers: Numbers) -> Port {
    let forwards = port.state == State::Forwarding && port.up && port.carrier;
    let slow = if bridge.mst {
        Some(Reason::BridgeFeature)
    } else if bridge.promisc {
        Some(Reason::BridgePromisc)
    } else if port.vlan_tunnel {
        Some(Reason::PortFeature)
    } else if !forwards {
        Some(Reason::PortState)
    } else {
        None
    };
    let mut flags = 0;
    for (on, flag) in [
        (slow.is_none(), port_flags::INGRESS),
        (forwards && !port.vlan_tunnel && !bridge.mst, port_flags::EGRESS),
        (bridge.vlan_filtering, port_flags::VLAN_AWARE),
        (port.learning && bridge.ages, port_flags::LEARNING),
        (port.locked, port_flags::LOCKED),
        (port.isolated, port_flags::ISOLATED),
    ] {
        flags |= if on { flag } else { 0 };
    }
    let mut member = [0; 64];
    let mut untagged = [0; 64];
    for vlan in &port.vlans {
        set_bit(&mut member, vlan.vid, vlan.state == State::Forwarding);
        set_bit(&mut untagged, vlan.vid, vlan.untagged);
    }
    Port {
        ifindex,
        flags,
        max_len: u32::try_from(port.mtu + 14 + 4).expect("small MTU"),
        slow_reason: slow.unwrap_or(Reason::UnknownPort) as u32,
        fid_base: numbers.fid_base,
        pvid: port.pvid.unwrap_or(0),
        tpid: bridge.vlan_proto,
        refresh_interval: numbers.refresh_interval,
        member,
        untagged,
        ..Port::EMPTY
    }
}

/// The frame after the edit, as the programs' bodies make it.
pub(crate) fn apply(edit: Edit, bytes: &[u8]) -> Vec<u8> {
    let with_tag = |tag: Tag, rest: usize| {
        let mut edited = bytes[..12].to_vec();
        edited.extend(tag.tpid().to_be_bytes());
        edited.extend(tag.tci().to_be_bytes());
        edited.extend(&bytes[rest..]);
        edited
    };
    match edit {
        Edit::Keep => bytes.to_vec(),
        Edit::Push(tag) => with_tag(tag, 12),
        Edit::Retag(tag) => with_tag(tag, 16),
        Edit::Pop => [&bytes[..12], &bytes[16..]].concat(),
    }
}
