//! The decision rule by rule: each row breaks one condition of a frame that would be fast otherwise, so that no rule can
//! be changed or left out unnoticed.

use bridge_common::{
    decide::Edit,
    frame::{ETH_P_IPV6, Frame},
    mac::Mac,
    maps::{Port, port_flags},
    reason::Reason,
};
use table::bed::{Bed, FRAME, HERE, PVID, TAGGED, THERE, check, fast, slow, tagged};

mod table {
    pub(crate) mod bed;
    mod classify;
    mod destination;
    mod policy;
    mod source;
    mod tags;
}

#[test]
fn known_unicast_is_fast() {
    check(&[
        fast("VLAN-unaware bridge", Bed::unaware(), FRAME, 0, Edit::Keep),
        fast("VLAN-aware bridge, untagged on both sides", Bed::aware(), FRAME, PVID, Edit::Keep),
        fast("VLAN-aware bridge, tagged on both sides", Bed::aware(), tagged(TAGGED), TAGGED, Edit::Keep),
        fast(
            "what the egress port may take by XDP is handed on",
            Bed::unaware().flag(THERE, port_flags::EGRESS_XDP | port_flags::VIRTUAL_XDP),
            FRAME,
            0,
            Edit::Keep,
        ),
        fast(
            "a slow egress port still takes frames",
            Bed::unaware().unflag(THERE, port_flags::INGRESS),
            FRAME,
            0,
            Edit::Keep,
        ),
        fast(
            "the ingress port needs to take none",
            Bed::unaware().unflag(HERE, port_flags::EGRESS),
            FRAME,
            0,
            Edit::Keep,
        ),
    ]);
}

#[test]
fn ingress_port() {
    let empty = |bed: Bed| bed.with(|bed| *bed.port_mut(HERE) = Port::EMPTY);
    let slow_for = |bed: Bed, number: u32| {
        bed.unflag(HERE, port_flags::INGRESS).with(|bed| bed.port_mut(HERE).slow_reason = number)
    };
    let mut cases = vec![
        slow("no such slot", Bed::unaware().without(HERE), FRAME, None, Reason::Inconsistent),
        slow("empty slot", empty(Bed::unaware()), FRAME, None, Reason::UnknownPort),
        slow("a number that is no reason's", slow_for(Bed::unaware(), 63), FRAME, None, Reason::Inconsistent),
        slow(
            "the port's reason comes before the frame's own",
            slow_for(Bed::unaware(), Reason::Netfilter as u32),
            Frame { dst: Mac::new([0xff; 6]), src: Mac::new([0; 6]), ..FRAME },
            None,
            Reason::Netfilter,
        ),
    ];
    // Traps 28 and 29 (states), 11 (opt-out), 35 (tunnels), 22 (membership): whatever the plan gives as the reason.
    for reason in Reason::ALL {
        cases.push(slow(reason.name(), slow_for(Bed::unaware(), *reason as u32), FRAME, None, *reason));
        cases.push(slow(reason.name(), slow_for(Bed::aware(), *reason as u32), FRAME, None, *reason));
    }
    check(&cases);
}

/// [`FRAME`] from another source.
fn from(bytes: [u8; 6]) -> Frame {
    Frame { src: Mac::new(bytes), ..FRAME }
}

/// [`FRAME`] to another destination.
fn to(bytes: [u8; 6]) -> Frame {
    Frame { dst: Mac::new(bytes), ..FRAME }
}

/// An FDB with entries for addresses that cannot be a station's: the address counts, whatever the FDB says.
fn knows_all(slot: u16) -> Bed {
    Bed::unaware().with(|bed| {
        for last in 0..=255 {
            bed.station(0, Mac::new([1, 0, 0, 0, 0, last]), slot);
            bed.station(0, Mac::new([3, 0, 0, 0, 0, last]), slot);
            bed.station(0, Mac::new([0x01, 0x80, 0xc2, 0, 0, last]), slot);
            bed.station(0, Mac::new([0xff, 0xff, 0xff, 0xff, 0xff, last]), slot);
        }
        bed.station(0, Mac::new([0; 6]), slot);
    })
}

#[test]
fn source_address() {
    check(&[
        slow("source zero", knows_all(HERE), from([0; 6]), None, Reason::InvalidSource),
        slow("source broadcast", knows_all(HERE), from([0xff; 6]), None, Reason::InvalidSource),
        slow("source multicast", knows_all(HERE), from([1, 0, 0, 0, 0, 1]), None, Reason::InvalidSource),
        slow(
            "source multicast, locally administered",
            knows_all(HERE),
            from([3, 0, 0, 0, 0, 1]),
            None,
            Reason::InvalidSource,
        ),
        slow(
            "invalid source to multicast",
            knows_all(HERE),
            Frame { src: Mac::new([0; 6]), ..to([0xff; 6]) },
            None,
            Reason::InvalidSource,
        ),
    ]);
}

#[test]
fn destination_address() {
    let mut cases = vec![
        slow("destination broadcast", knows_all(THERE), to([0xff; 6]), None, Reason::Broadcast),
        slow(
            "destination one bit from broadcast",
            knows_all(THERE),
            to([0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            None,
            Reason::Multicast,
        ),
        slow("destination multicast", knows_all(THERE), to([1, 0, 0, 0, 0, 1]), None, Reason::Multicast),
        slow(
            "destination multicast, locally administered",
            knows_all(THERE),
            to([3, 0, 0, 0, 0, 1]),
            None,
            Reason::Multicast,
        ),
    ];
    for last in 0..=15 {
        cases.push(slow(
            "link-local group",
            knows_all(THERE),
            to([0x01, 0x80, 0xc2, 0, 0, last]),
            None,
            Reason::Multicast,
        ));
    }
    check(&cases);
}

/// Trap 3: bit 0 of byte 0 makes a multicast address, and no other.
#[test]
fn addresses_that_look_like_multicast() {
    let mut cases = Vec::new();
    for bytes in [[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff], [0, 1, 1, 1, 1, 1]] {
        let bed = || {
            Bed::unaware().with(|bed| {
                bed.station(0, Mac::new(bytes), THERE);
                bed.station(0, Mac::new([bytes[0], 1, 1, 1, 1, 0]), HERE);
            })
        };
        cases.push(fast("destination that looks like multicast", bed(), to(bytes), 0, Edit::Keep));
        cases.push(fast("source that looks like multicast", bed(), from([bytes[0], 1, 1, 1, 1, 0]), 0, Edit::Keep));
    }
    check(&cases);
}

/// Trap 12: protocols that the kernel may answer or consume. Behind a tag as well.
#[test]
fn protocols() {
    let mut cases = Vec::new();
    let mut both = |name, ethertype, reason: Option<Reason>| {
        let bare = Frame { ethertype, ..FRAME };
        let behind = Frame { ethertype, ..tagged(TAGGED) };
        if let Some(reason) = reason {
            cases.push(slow(name, Bed::unaware(), bare, None, reason));
            cases.push(slow(name, Bed::aware(), behind, None, reason));
        } else {
            cases.push(fast(name, Bed::unaware(), bare, 0, Edit::Keep));
            cases.push(fast(name, Bed::aware(), behind, TAGGED, Edit::Keep));
        }
    };
    for ethertype in [0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7] {
        both("control protocol", ethertype, Some(Reason::ControlProtocol));
    }
    for ethertype in [0x0000, 0x0027, 0x05dc, 0x05ff] {
        both("802.3 length", ethertype, Some(Reason::Llc));
    }
    for ethertype in [0x0600, 0x0805, 0x0807, 0x8034, 0x8036, 0x88cb, 0x88cd, 0x9100, ETH_P_IPV6, 0xffff] {
        both("ordinary protocol", ethertype, None);
    }
    let discovery = Frame { ethertype: ETH_P_IPV6, neighbour_discovery: true, ..FRAME };
    cases.push(slow("neighbour discovery", Bed::unaware(), discovery, None, Reason::NeighbourDiscovery));
    check(&cases);
}
