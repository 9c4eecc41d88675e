//! The layout, and what is packed into it.

use super::*;

#[test]
fn sizes_fit_the_numbers_that_count_in_them() {
    // A fid is a u16, and a block of VLANs for each of 16 bridges fits.
    assert_eq!((MAX_FIDS, MAX_FIDS / u32::from(VLANS), TRUST_CELLS), (65536, 16, 1024 + 16 + 4096));
}

#[test]
fn only_a_fid_has_a_place_in_a_table() {
    use crate::decide::Fid;
    for fid in [0, 1, 4096, u16::MAX] {
        assert_eq!((Fid::new(fid).index(), Fid::new(fid).get()), (u32::from(fid), Some(fid)));
    }
    assert!(Fid::NONE.index() >= MAX_FIDS);
    assert_eq!(Fid::NONE.get(), None);
}

#[test]
fn many_bits_are_set_as_one_by_one() {
    for (first, last) in [(1, 4094), (1, 1), (63, 64), (64, 127), (100, 99), (4032, 4095), (0, 0), (10, 200)] {
        for on in [true, false] {
            let mut bits = [0x5555_5555_5555_5555; 64];
            let mut one_by_one = bits;
            set_bits(&mut bits, first, last, on);
            for vid in first..=last {
                set_bit(&mut one_by_one, vid, on);
            }
            assert_eq!(bits, one_by_one, "{first} to {last}: {on}");
        }
    }
}

#[test]
fn every_flag_is_a_bit_of_its_own() {
    use port_flags::{
        CHECK_IPV4, CHECK_IPV6, EGRESS, EGRESS_PEER, EGRESS_POLICY, EGRESS_XDP, INGRESS, ISOLATED, LEARNING, LOCKED,
        VIRTUAL_XDP, VLAN_AWARE,
    };
    let flags = [INGRESS, EGRESS, EGRESS_XDP, VLAN_AWARE, LEARNING, LOCKED, ISOLATED, VIRTUAL_XDP];
    let later = [CHECK_IPV4, CHECK_IPV6, EGRESS_POLICY, EGRESS_PEER];
    // In this order: the running programs of an older daemon read them, too.
    assert_eq!(flags, [1, 2, 4, 8, 16, 32, 64, 128]);
    assert_eq!(later, [1 << 12, 1 << 13, 1 << 14, 1 << 15]);
    let flags = [fdb_flags::LOCAL, fdb_flags::STICKY, fdb_flags::OPAQUE, fdb_flags::STATIC];
    assert_eq!(flags, [1, 2, 4, 8]);
}

#[test]
fn the_key_has_the_address_above_the_fid() {
    assert_eq!(FdbKey::new(0xabcd, Mac::new([1, 2, 3, 4, 5, 6])).0, 0x0102_0304_0506_abcd);
}

/// Multiplicative hashing: the upper bits of the product with 2^64 divided by the golden ratio.
#[test]
fn cells_follow_from_address_and_vlan() {
    let cells = GenerationCells::new(0x9e37_79b9_7f4a_7c14, 1024);
    let expected = |mac: [u8; 6], vid: u16| {
        let bytes = mac.into_iter().chain(vid.to_be_bytes());
        let product = bytes.fold(0, |key, byte| key * 256 + u128::from(byte)) * 0x9e37_79b9_7f4a_7c15;
        u32::try_from((product & u128::from(u64::MAX)) >> 50).unwrap()
    };
    for last in 0..=u8::MAX {
        for vid in [0, 1, 255, 256, 4094] {
            let mac = [2, 0x34, 0x56, 0x78, 0x9a, last];
            assert_eq!(cells.of(Mac::new(mac), vid), expected(mac, vid));
            assert!(cells.of(Mac::new(mac), vid) < cells.count());
        }
    }
}

#[test]
fn there_are_as_many_cells_as_entries() {
    for (entries, cells) in
        [(16, 16384), (16384, 16384), (16385, 32768), (65536, 65536), (65537, 131_072), (4_194_304, 4_194_304)]
    {
        assert_eq!(GenerationCells::new(1, entries).count(), cells);
    }
}

#[test]
fn the_outer_tag_survives_packing() {
    for tpid in [ETH_P_8021Q, ETH_P_8021AD] {
        for vid in 1..4095 {
            let port = Port { outer: Port::pack_outer(tpid, vid), ..Port::EMPTY };
            assert_eq!(port.outer_tag(), Some(Tag::new(tpid, vid)));
        }
    }
    for (tpid, vid) in [(ETH_P_8021Q, 0), (ETH_P_8021AD, 0), (ETH_P_8021Q, 4095), (0x9100, 10), (0, 10)] {
        assert_eq!(Port { outer: Port::pack_outer(tpid, vid), ..Port::EMPTY }.outer_tag(), None, "{tpid:x} {vid}");
    }
}

#[test]
fn logical_ports_differ_by_device_protocol_and_vlan_alone() {
    let key = logical_key(7, Tag::new(ETH_P_8021Q, 10));
    assert_eq!(key, logical_key(7, Tag::new(ETH_P_8021Q, 0xf00a)), "PCP and DEI");
    assert_ne!(key, logical_key(8, Tag::new(ETH_P_8021Q, 10)));
    assert_ne!(key, logical_key(7, Tag::new(ETH_P_8021AD, 10)));
    assert_ne!(key, logical_key(7, Tag::new(ETH_P_8021Q, 11)));
}

/// VLAN-unaware bridges have a fid of block 0 each, VLAN-aware ones a block each.
#[test]
fn no_two_bridges_share_a_trust_cell() {
    let mut taken = [false; TRUST_CELLS as usize];
    let aware = (VLANS..=u16::MAX).step_by(usize::from(VLANS));
    for fid_base in (0..VLANS).chain(aware) {
        let cell = bridge_cell(fid_base);
        assert!((MAX_PORTS..TRUST_CELLS).contains(&cell), "{fid_base}: {cell} is the cell of a port or none");
        assert!(!taken[cell as usize], "{fid_base}: {cell} is the cell of another bridge");
        taken[cell as usize] = true;
    }
}

#[test]
fn a_moment_has_the_time_above_who_looked() {
    assert_eq!(moment(5, 3), 5 * 1024 + 3);
    assert_eq!(moment(5, USER_SPACE), 5 * 1024 + 1023);
    assert_eq!(moment(5, 1024 + 3), moment(5, 3), "a CPU of a high number does not change the time");
    assert_eq!(moment(1 << 54, 3), 3, "modulo 2^64");
}

/// By an even one, addresses that differ in their first bit alone would share a cell.
#[test]
fn the_multiplier_is_odd_and_otherwise_as_given() {
    for random in [0, 1, 0x9e37_79b9_7f4a_7c14, 0x9e37_79b9_7f4a_7c15, u64::MAX] {
        let multiplier = GenerationCells::new(random, 1024).multiplier;
        assert_eq!((multiplier % 2, multiplier / 2), (1, random / 2));
    }
}
