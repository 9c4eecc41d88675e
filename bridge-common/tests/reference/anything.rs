//! Tables and frames that follow from no bridge.

use bridge_common::{
    decide::Entry,
    frame::{Frame, Tag},
    mac::Mac,
    maps::{Port, port_flags},
};
use proptest::{prelude::*, sample::select};

use super::tables::MemoryTables;

/// Addresses of `any_frame`: the fourth and fifth are multicast, the last is zero.
fn any_mac() -> impl Strategy<Value = Mac> {
    select(
        &[
            [2, 0, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 2],
            [2, 0, 0, 0, 0, 3],
            [3, 0, 0, 0, 0, 1],
            [0xff; 6],
            [0; 6],
        ][..],
    )
    .prop_map(Mac::new)
}

/// Tables that follow from no bridge: every flag at random, entries that name ports of other bridges or none.
pub(crate) fn any_tables() -> impl Strategy<Value = MemoryTables> {
    let words = || prop_oneof![3 => Just([u64::MAX; 64]), 1 => Just([0; 64]), 1 => Just([0xaaaa_aaaa_aaaa_aaaa; 64])];
    let port = (
        // Mostly accelerated, aware and not locked.
        (any::<u32>(), any::<u32>(), any::<u32>()),
        select(&[18u32, 60, 1518][..]),
        (
            select(&[0u16, 0, 4096][..]),
            select(&[0u16, 1, 10][..]),
            select(&[0x8100u16, 0x8100, 0x88a8][..]),
        ),
        (words(), words(), 0..3u64),
    )
        .prop_map(
            |((a, b, c), max_len, (fid_base, pvid, tpid), (member, untagged, refresh_interval))| {
                let always = port_flags::INGRESS | port_flags::EGRESS | port_flags::VLAN_AWARE;
                let flags = (a & always | b & always | c & !always) & 0xff & !(a & port_flags::LOCKED);
                Port {
                    ifindex: a,
                    flags,
                    max_len,
                    fid_base,
                    pvid,
                    tpid,
                    refresh_interval,
                    member,
                    untagged,
                    ..Port::EMPTY
                }
            },
        );
    let key = (select(&[0u16, 4096][..]), select(&[0u16, 1, 10][..]), any_mac())
        .prop_map(|(base, vid, mac)| (base + vid, vid, mac));
    let entry = (0..7u16, any::<u16>(), any::<u16>(), 0..3u64).prop_map(|(slot, a, b, refresh_at)| Entry {
        slot,
        flags: a & b & 0x0f,
        refresh_at,
    });
    (
        prop::collection::hash_map(0..6u16, port, 4..=6),
        prop::collection::hash_map(key, entry, 8..30),
        0..3u64,
    )
        .prop_map(|(ports, fdb, now)| MemoryTables { ports, fdb, now })
}

/// A frame that is read already, with small numbers throughout.
pub(crate) fn any_frame() -> impl Strategy<Value = Frame> {
    let tag = prop::option::weighted(
        0.6,
        (
            select(&[0x8100u16, 0x8100, 0x88a8][..]),
            select(&[0u16, 1, 10, 11][..]),
            0..16u16,
        ),
    );
    (
        (any_mac(), any_mac(), tag),
        (
            select(&[0x0800u16, 0x0800, 0x86dd, 0x8100, 0x0806, 0x05ff][..]),
            select(&[14u32, 17, 18, 19, 60, 61, 1518, 1519][..]),
        ),
        (0..8u8, 0..16u8),
    )
        .prop_map(|((dst, src, tag), (ethertype, len), (gso, discovery))| Frame {
            dst,
            src,
            tag: tag.map(|(tpid, vid, priority)| Tag {
                tpid,
                tci: priority << 12 | vid,
            }),
            ethertype,
            len,
            gso: gso == 0,
            neighbour_discovery: discovery == 0,
        })
}
