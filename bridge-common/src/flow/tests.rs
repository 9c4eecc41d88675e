//! Keys, cells and flags.

extern crate std;

use std::{vec, vec::Vec};

use super::*;

/// A frame's bytes.
struct Wire(Vec<u8>);

impl Bytes for Wire {
    fn eight(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.0[offset..offset + 8].try_into().unwrap())
    }

    fn two(&self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.0[offset..offset + 2].try_into().unwrap())
    }

    fn one(&self, offset: usize) -> u8 {
        self.0[offset]
    }
}

/// [`FLOW_BYTES`] bytes of an IPv4 packet, with a tag or without.
fn wire(tag: Option<Tag>) -> Wire {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if let Some(tag) = tag {
        bytes.extend(tag.tpid().to_be_bytes());
        bytes.extend(tag.tci().to_be_bytes());
    }
    bytes.extend([0x08, 0x00, 0x45, 0xb8, 0, 99, 1, 2, 3, 4, 64, 17]);
    bytes.resize(FLOW_BYTES, 0xaa);
    Wire(bytes)
}

/// With the byte at `offset` changed.
fn with(mut wire: Wire, offset: usize) -> Wire {
    wire.0[offset] ^= 0x20;
    wire
}

const TEN: Option<Tag> = Some(Tag::new(ETH_P_8021Q, 10));

#[test]
fn whatever_differs_makes_another_key() {
    let mut keys = vec![FlowKey::NONE];
    for device in [7, 8] {
        // The priority is kept, so it matters; untagged is not the same as a tag of zeros.
        for (tpid, tci) in [(ETH_P_8021Q, 0), (ETH_P_8021Q, 10), (ETH_P_8021AD, 10), (ETH_P_8021Q, 0x200a)] {
            keys.push(FlowKey::of_tc(&wire(None), device, Some(Tag::new(tpid, tci))));
            keys.push(FlowKey::of_xdp(&wire(Some(Tag::new(tpid, tci))), device));
        }
        keys.push(FlowKey::of_tc(&wire(None), device, None));
        keys.push(FlowKey::of_xdp(&wire(None), device));
        // Addresses, EtherType, version and header length, protocol.
        for offset in (0..15).chain([23]) {
            keys.push(FlowKey::of_tc(&with(wire(None), offset), device, None));
            keys.push(FlowKey::of_xdp(&with(wire(None), offset), device));
        }
        // With what is behind a tag.
        for offset in (0..12).chain(16..19).chain([27]) {
            keys.push(FlowKey::of_xdp(&with(wire(TEN), offset), device));
        }
    }
    for (place, one) in keys.iter().enumerate() {
        assert!(one.cell() < FLOWS as usize);
        for other in &keys[place + 1..] {
            assert_ne!(one, other);
        }
    }
}

#[test]
fn what_the_decision_does_not_look_at_makes_no_other_key() {
    // Type of service, length, identification, time to live, checksum, addresses.
    for offset in (15..23).chain(24..34) {
        assert_eq!(FlowKey::of_xdp(&with(wire(None), offset), 7), FlowKey::of_xdp(&wire(None), 7), "{offset}");
        assert_eq!(FlowKey::of_tc(&with(wire(None), offset), 7, TEN), FlowKey::of_tc(&wire(None), 7, TEN), "{offset}");
    }
    for offset in (19..27).chain(28..38) {
        assert_eq!(FlowKey::of_xdp(&with(wire(TEN), offset), 7), FlowKey::of_xdp(&wire(TEN), 7), "{offset}");
    }
    for (ethertype, from) in [(0x88b5_u16, 14), (ETH_P_IPV6, 14)] {
        let other = |offset: usize| {
            let mut wire = wire(None);
            wire.0[12..14].copy_from_slice(&ethertype.to_be_bytes());
            FlowKey::of_xdp(&with(wire, offset), 7)
        };
        let same = other(from);
        let matters = |offset: usize| ethertype == ETH_P_IPV6 && offset == 20;
        assert!((from..FLOW_BYTES).all(|offset| matters(offset) != (other(offset) == same)));
    }
}

#[test]
fn the_parts_of_a_key_can_be_read() {
    for device in [1, 0x7fff_ffff] {
        for tag in [None, TEN] {
            let keys = [FlowKey::of_xdp(&wire(tag), device), FlowKey::of_tc(&wire(None), device, tag)];
            for key in keys {
                assert_eq!((key.ethertype(), key.protocol()), (ETH_P_IP, 17));
                assert!(key.decides());
            }
            assert_eq!(keys.map(|key| key.hook()), [Hook::Xdp, Hook::Tc]);
            assert_eq!(keys.map(|key| key.has_tag()), [tag.is_some(), false]);
        }
    }
}

/// The words of a key, bit for bit: each part has a place of its own.
#[test]
fn the_parts_of_a_key_are_where_they_should_be() {
    const NETWORK: fn(u16) -> u64 = |number| u64::from(number.to_be());
    let word = |bytes: [u8; 8]| u64::from_ne_bytes(bytes);
    let double = Some(Tag::new(ETH_P_8021AD, 0xe00a));
    let head = word([2, 0, 0, 0, 0, 1, 2, 0]);
    let untagged = word([0, 0, 0, 2, 0x08, 0x00, 0x45, 0]);
    let wanted = FlowKey { head, middle: untagged, rest: 7 | 1 << 31 | 17 << 32 };
    assert_eq!(FlowKey::of_xdp(&wire(None), 7), wanted);
    let behind = NETWORK(ETH_P_IP) << 40 | 0x45 << 56;
    let middle = word([0, 0, 0, 2, 0x88, 0xa8, 0xe0, 0x0a]);
    assert_eq!(FlowKey::of_xdp(&wire(double), 7), FlowKey { head, middle, rest: wanted.rest | behind });
    for (tag, beside) in
        [(None, 0), (TEN, 10 << 40 | 1 << 56), (Some(Tag::new(ETH_P_8021AD, 0xe00a)), 0xe00a << 40 | 2 << 56)]
    {
        let key = FlowKey::of_tc(&wire(None), 7, tag);
        assert_eq!(key, FlowKey { head, middle: untagged, rest: 7 | 17 << 32 | beside });
    }
    // Of IPv6 only the next header; of what is no IP packet nothing behind the EtherType.
    for (ethertype, next_header) in [(ETH_P_IPV6, 0x11), (0x88b5, 0)] {
        let mut six = wire(None);
        six.0[12..14].copy_from_slice(&ethertype.to_be_bytes());
        six.0[20] = 0x11;
        let [high, low] = ethertype.to_be_bytes();
        let middle = word([0, 0, 0, 2, high, low, 0, 0]);
        let rest = 7 | next_header << 32;
        assert_eq!(FlowKey::of_tc(&six, 7, None), FlowKey { head, middle, rest });
        assert_eq!(FlowKey::of_xdp(&six, 7), FlowKey { head, middle, rest: rest | 1 << 31 });
    }
    let mut six = wire(TEN);
    six.0[16..18].copy_from_slice(&ETH_P_IPV6.to_be_bytes());
    six.0[24] = 0x11;
    assert_eq!(FlowKey::of_xdp(&six, 7).rest, 7 | 1 << 31 | 0x11 << 32 | NETWORK(ETH_P_IPV6) << 40);
}

#[test]
fn churn_cells_go_round() {
    for (vid, cell) in [(0, 0), (1, 1), (255, 255), (256, 0), (4094, 254)] {
        assert_eq!(churn_cell(vid), cell);
    }
}

#[test]
fn packets_of_ip() {
    for ethertype in 0..=u16::MAX {
        assert_eq!(is_ip(ethertype), [0x0800, 0x86dd].contains(&ethertype), "{ethertype:#06x}");
    }
}

#[test]
fn every_flag_is_a_bit_of_its_own() {
    use flow_flags::{
        COUNTS_SENT, FROM_PARENT, PASSES, PEER, POP, PUSH, REWRITE, TAGGED, UDP4, UDP6, UNCLASSIFIED, VIRTUAL,
    };
    let flags = [REWRITE, COUNTS_SENT, FROM_PARENT, VIRTUAL, TAGGED, UDP4, UDP6, PASSES, UNCLASSIFIED, PEER, PUSH, POP];
    assert_eq!(flags, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]);
}

#[test]
fn a_cell_says_what_its_frames_are_counted_by() {
    let cell = |key, flags, out| Flow { key, flags, out, fid: 9, ..Flow::NONE };
    let (tc, xdp) = (FlowKey::of_tc(&wire(None), 7, None), FlowKey::of_xdp(&wire(None), 7));
    // All other flags say nothing about it.
    for others in [0, !(flow_flags::PASSES | flow_flags::UNCLASSIFIED)] {
        assert_eq!(cell(tc, others, 3).reason(), Reason::ForwardedTc as usize);
        assert_eq!(cell(xdp, others, 3).reason(), Reason::ForwardedXdp as usize);
        assert_eq!(cell(xdp, others | flow_flags::PASSES, 3).reason(), 3);
        assert_eq!(cell(tc, others, 3).fid(), Fid::new(9));
        assert_eq!(cell(tc, others | flow_flags::UNCLASSIFIED, 3).fid(), Fid::NONE);
    }
}

#[test]
fn frames_and_bytes_are_counted_in_one_word() {
    let sum = served(64) + served(0xffff) + served(0);
    assert_eq!(packets_and_bytes(sum), (3, 64 + 0xffff));
    assert_eq!(packets_and_bytes(0), (0, 0));
}

#[test]
fn frames_whose_contents_matter_are_not_decided_by_their_key() {
    let decides = |tag: Option<Tag>, ethertype: u16, protocol: u8| {
        let mut wire = wire(tag);
        let at = if tag.is_some() { 16 } else { 12 };
        wire.0[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
        let l4 = at + if ethertype == ETH_P_IPV6 { 8 } else { 11 };
        wire.0[l4] = protocol;
        FlowKey::of_xdp(&wire, 7).decides() && (tag.is_some() || FlowKey::of_tc(&wire, 7, None).decides())
    };
    for tag in [None, TEN] {
        assert!(decides(tag, ETH_P_IP, 17));
        assert!(decides(tag, ETH_P_IP, ICMPV6), "a protocol of IPv4");
        assert!(decides(tag, ETH_P_IPV6, 6));
        assert!(decides(tag, 0x88b5, 0));
        assert!(!decides(tag, ETH_P_IPV6, ICMPV6));
        assert!(!decides(tag, ETH_P_PPP_SES, 0));
    }
    assert!(!decides(TEN, ETH_P_8021Q, 0));
    assert!(!decides(TEN, ETH_P_8021AD, 0));
    // To tc, a tag in the bytes is not the outermost one.
    assert!(!FlowKey::of_tc(&wire(TEN), 7, None).decides());
}

#[test]
fn an_origin_is_everything_but_the_destination() {
    let keys = |wire: Wire| [FlowKey::of_xdp(&wire, 7), FlowKey::of_tc(&wire, 7, TEN)];
    for tag in [None, TEN] {
        let origins = keys(wire(tag)).map(|key| key.origin());
        for offset in 0..6 {
            assert_eq!(keys(with(wire(tag), offset)).map(|key| key.origin()), origins, "{offset}");
        }
        for offset in 6..14 {
            for (key, origin) in keys(with(wire(tag), offset)).iter().zip(&origins) {
                assert_ne!(key.origin(), *origin, "{offset}");
            }
        }
        for origin in origins {
            assert_eq!(origin.origin(), origin);
            assert!((FLOWS as usize..CELLS as usize).contains(&origin.origin_cell()));
        }
    }
    let origin = FlowKey::of_xdp(&wire(None), 7).origin();
    assert_ne!(origin, FlowKey::of_xdp(&wire(None), 8).origin());
    assert_ne!(origin, FlowKey::of_tc(&wire(None), 7, None).origin());
}

#[test]
fn the_destination_is_in_the_key() {
    let key = FlowKey::of_xdp(&wire(TEN), 7);
    assert_eq!(key.dst(), Mac::new([2, 0, 0, 0, 0, 1]));
    assert!(!key.is_to_many());
    for offset in 0..6 {
        for bit in 0..8 {
            let mut bytes = wire(None);
            bytes.0[offset] ^= 1 << bit;
            let key = FlowKey::of_xdp(&bytes, 7);
            assert_eq!(key.is_to_many(), key.dst().is_multicast(), "byte {offset}, bit {bit}");
            assert_eq!(key.dst().bytes(), bytes.0[..6]);
        }
    }
}

#[test]
fn one_in_so_many_frames_goes_all_the_way() {
    let due: Vec<u64> = (0..3200).filter(|frames| is_due((0..*frames).map(|_| served(64)).sum())).collect();
    assert_eq!(due, [1023, 2047, 3071]);
}

#[test]
fn flags_say_what_happens_to_the_tags() {
    use flow_flags::{POP, PUSH, REWRITE, TAGS, of};
    for (pop, push, flags) in
        [(0, 0, 0), (0, 1, REWRITE | PUSH), (1, 0, REWRITE | POP), (1, 1, REWRITE), (2, 0, REWRITE), (0, 2, REWRITE)]
    {
        assert_eq!(of(&Rewrite { pop, push, tags: [TEN; 2] }), flags, "{pop}, {push}");
    }
    assert_eq!(TAGS.count_ones(), 3);
}

/// Neighbours in address space, as a hypervisor gives them out, do not crowd in a few cells.
#[test]
fn cells_are_used_evenly() {
    let mut used = [[0u32; FLOWS as usize]; 4];
    for number in 0..u16::try_from(FLOWS).unwrap() {
        let [high, low] = number.to_be_bytes();
        let vlan = Some(Tag::new(ETH_P_8021Q, number % 4094 + 1));
        let mut to_many = wire(None);
        to_many.0[4..6].copy_from_slice(&[high, low]);
        let mut from_many = wire(None);
        from_many.0[10..12].copy_from_slice(&[high, low]);
        let keys = [
            FlowKey::of_xdp(&to_many, 7),
            FlowKey::of_xdp(&from_many, 7),
            FlowKey::of_xdp(&wire(vlan), 7),
            FlowKey::of_tc(&wire(None), 7, vlan),
        ];
        for (used, key) in used.iter_mut().zip(keys) {
            used[key.cell()] += 1;
        }
    }
    let mut origins = [0u32; (CELLS - FLOWS) as usize];
    for number in 0..u16::try_from(CELLS - FLOWS).unwrap() {
        let mut from_many = wire(None);
        from_many.0[10..12].copy_from_slice(&number.to_be_bytes());
        origins[FlowKey::of_xdp(&from_many, 7).origin().origin_cell() - FLOWS as usize] += 1;
    }
    assert!(origins.iter().filter(|count| **count > 0).count() > origins.len() / 2);
    for used in used {
        assert!(used.iter().filter(|count| **count > 0).count() > FLOWS as usize / 2);
        assert!(used.iter().all(|count| *count < 12));
    }
}
