//! Addresses and protocols that are never plain unicast.

use anyhow::Result;
use bridge_common::{decide::Edit, mac::Mac, maps::port_flags, reason::Reason};
use xbr_tests::frame::{ETHERTYPE_LAB, Tag};

use crate::{
    Test,
    bench::Bench,
    check::{Row, check, fast, slow, tc_only},
    frames::{ICMPV6, TCP, UDP, between, frame, ipv4, ipv6, payload},
    world::{HERE, SENDER, TAGGED, TARGET, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("protocols_addresses", addresses),
    ("protocols_ethertypes", ethertypes),
    ("protocols_neighbour_discovery", neighbour_discovery),
];

fn addresses(bench: &mut Bench) -> Result<()> {
    let mut rows = Vec::new();
    // Nothing is learnt and nothing is locked: only the address itself can make the frame slow.
    let world = || World::unaware().unflag(HERE, port_flags::LEARNING);
    for (name, src, reason) in [
        ("zero source", [0; 6], Reason::InvalidSource),
        ("broadcast source", [0xff; 6], Reason::InvalidSource),
        ("multicast source", [1, 0, 0x5e, 0, 0, 1], Reason::InvalidSource),
        ("source with only the group bit", [1, 0, 0, 0, 0, 0], Reason::InvalidSource),
    ] {
        rows.push(slow(name, world(), &between(Mac::new(src), TARGET, &[], ETHERTYPE_LAB, payload(46)), None, reason));
    }
    for (name, dst, reason) in [
        ("broadcast", [0xff; 6], Reason::Broadcast),
        ("all but one bit of broadcast", [0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Reason::Multicast),
        ("IPv4 multicast", [1, 0, 0x5e, 0, 0, 1], Reason::Multicast),
        ("IPv6 multicast", [0x33, 0x33, 0, 0, 0, 1], Reason::Multicast),
        ("STP", [1, 0x80, 0xc2, 0, 0, 0], Reason::Multicast),
        ("LLDP", [1, 0x80, 0xc2, 0, 0, 0x0e], Reason::Multicast),
    ] {
        rows.push(slow(name, world(), &between(SENDER, Mac::new(dst), &[], ETHERTYPE_LAB, payload(46)), None, reason));
        let tagged = between(SENDER, Mac::new(dst), &[Tag::q(TAGGED)], ETHERTYPE_LAB, payload(46));
        rows.push(slow(format!("{name}, tagged"), World::aware(), &tagged, None, reason));
    }
    let zero = between(SENDER, Mac::new([0; 6]), &[], ETHERTYPE_LAB, payload(46));
    rows.push(slow("zero destination", world(), &zero, Some(0), Reason::DestinationUnknown));
    // The group bit of another byte than the first.
    let odd = Mac::new([2, 0x71, 1, 1, 1, 1]);
    rows.push(fast(
        "odd bytes make no multicast",
        World::unaware().station(0, odd, HERE),
        &between(odd, TARGET, &[], ETHERTYPE_LAB, payload(46)),
        0,
        Edit::Keep,
    ));
    check(bench, &rows)
}

/// Makes a row of name, tables, frame and VLAN.
type MakeRow = fn(String, World, &[u8], u16) -> Row;

fn ethertypes(bench: &mut Bench) -> Result<()> {
    let mut rows = Vec::new();
    let mut both = |name: &str, ethertype: u16, row: MakeRow| {
        rows.push(row(name.to_owned(), World::unaware(), &frame(&[], ethertype, payload(60)), 0));
        let tagged = frame(&[Tag::q(TAGGED)], ethertype, payload(60));
        rows.push(row(format!("{name}, tagged"), World::aware(), &tagged, TAGGED));
    };
    for (name, ethertype) in [
        ("ARP", 0x0806),
        ("RARP", 0x8035),
        ("EAPOL", 0x888e),
        ("LLDP", 0x88cc),
        ("MRP", 0x88e3),
        ("CFM", 0x8902),
        ("slow protocols", 0x8809),
        ("PTP", 0x88f7),
    ] {
        both(name, ethertype, |name, world, wire, _| slow(name, world, wire, None, Reason::ControlProtocol));
    }
    for (name, length) in [("LLC of 0", 0), ("LLC", 38), ("LLC of 1500", 1500), ("the last length", 0x05ff)] {
        both(name, length, |name, world, wire, _| slow(name, world, wire, None, Reason::Llc));
    }
    for (name, ethertype) in [
        ("the first EtherType", 0x0600),
        ("next to ARP", 0x0807),
        ("MPLS", 0x8847),
        ("PPPoE", 0x8864),
        ("MACsec", 0x88e5),
        ("the last EtherType", 0xffff),
    ] {
        both(name, ethertype, |name, world, wire, vid| fast(name, world, wire, vid, Edit::Keep));
    }
    check(bench, &rows)
}

fn neighbour_discovery(bench: &mut Bench) -> Result<()> {
    let mut rows = Vec::new();
    let tag = &[Tag::q(TAGGED)][..];
    for kind in 133..=137 {
        let name = format!("ICMPv6 type {kind}");
        rows.push(slow(&name, World::unaware(), &ipv6(&[], ICMPV6, kind), None, Reason::NeighbourDiscovery));
        rows.push(slow(
            format!("{name}, tagged"),
            World::aware(),
            &ipv6(tag, ICMPV6, kind),
            None,
            Reason::NeighbourDiscovery,
        ));
    }
    for kind in [0, 1, 128, 129, 132, 138, 255] {
        let name = format!("ICMPv6 type {kind}");
        rows.push(fast(&name, World::unaware(), &ipv6(&[], ICMPV6, kind), 0, Edit::Keep));
        rows.push(fast(format!("{name}, tagged"), World::aware(), &ipv6(tag, ICMPV6, kind), TAGGED, Edit::Keep));
    }
    rows.push(fast("UDP with 135 in its place", World::unaware(), &ipv6(&[], UDP, 135), 0, Edit::Keep));
    rows.push(tc_only("TCP with 135 in its place", World::unaware(), &ipv6(&[], TCP, 135), 0, Edit::Keep));
    rows.push(fast("IPv4 with protocol 58", World::unaware(), &ipv4(&[], ICMPV6, 5), 0, Edit::Keep));
    // On a VLAN-unaware bridge the outer tag is transparent, and what is behind it is looked at all the same.
    rows.push(slow(
        "behind a transparent tag",
        World::unaware(),
        &ipv6(tag, ICMPV6, 135),
        None,
        Reason::NeighbourDiscovery,
    ));
    // Two tags hide it, from the bridge (which looks behind none) as well.
    let two = &[Tag::q(TAGGED), Tag::q(7)][..];
    rows.push(fast("behind two tags", World::aware(), &ipv6(two, ICMPV6, 135), TAGGED, Edit::Keep));
    check(bench, &rows)
}
