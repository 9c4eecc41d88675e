//! Tables and frames that follow from no bridge: flags at random, entries that name ports of other bridges or none.

use std::collections::HashMap;

use bridge_common::{
    decide::Entry,
    frame::{Frame, Tag},
    mac::Mac,
    maps::{Port, fdb_flags, port_flags},
};
use proptest::{collection::vec, prelude::*};

use super::{dice::Dice, tables::MemoryTables};

/// Slots in use are 0 to 3; entries name one more.
const SLOTS: u16 = 4;
/// Stations first, then two multicast addresses and zero.
const MACS: [[u8; 6]; 6] =
    [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3], [3, 0, 0, 0, 0, 1], [0xff; 6], [0; 6]];
const VIDS: [u16; 3] = [10, 1, 0];
const FID_BASES: [u16; 2] = [0, 4096];

/// Tables, and frames with the slot that they come in at.
pub(crate) fn any_tables(frames: usize) -> impl Strategy<Value = (MemoryTables, Vec<(u16, Frame)>)> {
    (any::<bool>(), vec(any::<u64>(), usize::from(SLOTS)), vec(any::<u128>(), 4), vec(any::<u64>(), frames)).prop_map(
        |(aware, ports, entries, frames)| {
            (
                draw(aware, &ports, &entries),
                frames.into_iter().map(|number| frame(&mut Dice::new(number.into()))).collect(),
            )
        },
    )
}

/// The tables that numbers stand for.
pub(crate) fn draw(aware: bool, ports: &[u64], entries: &[u128]) -> MemoryTables {
    let port = |(slot, number): (u16, &u64)| (slot, port(&mut Dice::new(u128::from(*number)), slot, aware));
    MemoryTables { ports: (0..).zip(ports).map(port).collect(), fdb: fdb(entries), now: 1 }
}

fn port(dice: &mut Dice, slot: u16, aware: bool) -> Port {
    let mut flags = 0;
    for (on, flag) in [
        (!dice.one_in(8), port_flags::INGRESS),
        (!dice.one_in(8), port_flags::EGRESS),
        (dice.one_in(2), port_flags::EGRESS_XDP),
        (aware != dice.one_in(8), port_flags::VLAN_AWARE),
        (dice.one_in(3), port_flags::LEARNING),
        (dice.one_in(8), port_flags::LOCKED),
        (dice.one_in(3), port_flags::ISOLATED),
        (dice.one_in(2), port_flags::VIRTUAL_XDP),
    ] {
        flags |= if on { flag } else { 0 };
    }
    let odd = 0xaaaa_aaaa_aaaa_aaaa;
    Port {
        ifindex: u32::from(slot) + 100,
        flags,
        max_len: dice.pick(&[1518, 1518, 60, 18]),
        fid_base: dice.pick(&[FID_BASES[0], FID_BASES[0], FID_BASES[0], FID_BASES[0], FID_BASES[1]]),
        pvid: dice.pick(&[10, 10, 1, 1, 0]),
        tpid: dice.pick(&[0x8100, 0x8100, 0x8100, 0x8100, 0x88a8]),
        refresh_interval: u64::from(dice.roll(2)),
        member: [dice.pick(&[u64::MAX, u64::MAX, u64::MAX, u64::MAX, odd, 0]); 64],
        untagged: [dice.pick(&[u64::MAX, 0, odd]); 64],
        ..Port::EMPTY
    }
}

/// An entry for most of the keys there can be; 32 bits of a number for each.
fn fdb(numbers: &[u128]) -> HashMap<(u16, u16, Mac), Entry> {
    let mut fdb = HashMap::new();
    let mut dice: Vec<Dice> = numbers.iter().map(|number| Dice::new(*number)).collect();
    for (index, mac) in MACS.into_iter().enumerate() {
        for base in FID_BASES {
            for vid in VIDS {
                let turn = index % dice.len();
                let dice = &mut dice[turn];
                let slot = dice.roll(SLOTS + 1);
                let rare = match dice.roll(12) {
                    0..8 => 0,
                    8 => fdb_flags::LOCAL,
                    9 => fdb_flags::STICKY,
                    10 => fdb_flags::OPAQUE,
                    _ => fdb_flags::STATIC,
                };
                if !dice.one_in(8) {
                    let refresh_at = 2 - u64::from(dice.roll(2));
                    fdb.insert((base + vid, vid, Mac::new(mac)), Entry { slot, flags: rare, refresh_at });
                }
            }
        }
    }
    fdb
}

/// A frame and the slot that it comes in at.
pub(crate) fn frame(dice: &mut Dice) -> (u16, Frame) {
    let mac = |dice: &mut Dice| {
        let index = if dice.one_in(10) { 3 + dice.roll(3) } else { dice.roll(3) };
        Mac::new(MACS[usize::from(index)])
    };
    let ingress = dice.roll(SLOTS);
    let (dst, src) = (mac(dice), mac(dice));
    let tag = dice.one_in(2).then(|| {
        let tpid = dice.pick(&[0x8100u16, 0x8100, 0x8100, 0x8100, 0x88a8]);
        let vid = dice.pick(&[10u16, 10, 1, 1, 0, 0, 11]);
        Tag::new(tpid, dice.roll(16) << 12 | vid)
    });
    let frame = Frame {
        dst,
        src,
        tag,
        ethertype: dice.pick(&[0x0800, 0x0800, 0x0800, 0x86dd, 0x86dd, 0x8100, 0x8100, 0x0806, 0x05ff]),
        len: dice.pick(&[60, 14, 17, 18, 19, 61, 1518, 1519]),
        gso: dice.one_in(8),
        neighbour_discovery: dice.one_in(16),
        untouched: dice.one_in(2),
    };
    (ingress, frame)
}
