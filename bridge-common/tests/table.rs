//! The decision rule by rule: each row breaks one condition of a frame that would be fast otherwise, so that no rule can
//! be changed or left out unnoticed.

use bridge_common::{
    decide::Edit,
    frame::{ETH_P_IPV6, Frame},
    mac::Mac,
    maps::{Port, port_flags},
    reason::Reason,
};
use table::bed::{Bed, FRAME, HERE, PVID, SENDER, TAGGED, THERE, check, fast, slow, tagged};

mod table {
    pub(crate) mod bed;
    mod classify;
    mod destination;
    mod source;
    mod tags;
}

#[test]
fn known_unicast_is_fast() {
    check(&[
        fast("VLAN-unaware bridge", Bed::unaware(), FRAME, 0, Edit::Keep),
        fast(
            "VLAN-aware bridge, untagged on both sides",
            Bed::aware(),
            FRAME,
            PVID,
            Edit::Keep,
        ),
        fast(
            "VLAN-aware bridge, tagged on both sides",
            Bed::aware(),
            tagged(TAGGED),
            TAGGED,
            Edit::Keep,
        ),
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
        bed.unflag(HERE, port_flags::INGRESS)
            .with(|bed| bed.port_mut(HERE).slow_reason = number)
    };
    let mut cases = vec![
        slow(
            "no such slot",
            Bed::unaware().without(HERE),
            FRAME,
            None,
            Reason::Inconsistent,
        ),
        slow("empty slot", empty(Bed::unaware()), FRAME, None, Reason::UnknownPort),
        slow(
            "a number that is no reason's",
            slow_for(Bed::unaware(), 63),
            FRAME,
            None,
            Reason::Inconsistent,
        ),
        slow(
            "the port's reason comes before the frame's own",
            slow_for(Bed::unaware(), Reason::Netfilter as u32),
            Frame {
                dst: Mac::new([0xff; 6]),
                src: Mac::new([0; 6]),
                ..FRAME
            },
            None,
            Reason::Netfilter,
        ),
    ];
    // Traps 28 and 29 (states), 11 (opt-out), 35 (tunnels), 22 (membership): whatever the plan gives as the reason.
    for reason in Reason::ALL {
        cases.push(slow(
            reason.name(),
            slow_for(Bed::unaware(), *reason as u32),
            FRAME,
            None,
            *reason,
        ));
        cases.push(slow(
            reason.name(),
            slow_for(Bed::aware(), *reason as u32),
            FRAME,
            None,
            *reason,
        ));
    }
    check(&cases);
}

#[test]
fn addresses() {
    let from = |bytes: [u8; 6]| Frame {
        src: Mac::new(bytes),
        ..FRAME
    };
    let to = |bytes: [u8; 6]| Frame {
        dst: Mac::new(bytes),
        ..FRAME
    };
    // Whatever the FDB says of them.
    let knows_all = || {
        Bed::unaware().with(|bed| {
            for mac in [
                [0; 6],
                [0xff; 6],
                [1, 0, 0, 0, 0, 1],
                [3, 0, 0, 0, 0, 1],
                [0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
            ] {
                bed.station(0, Mac::new(mac), HERE);
            }
        })
    };
    let to_all = || {
        knows_all()
            .with(|bed| bed.fdb.values_mut().for_each(|entry| entry.slot = THERE))
            .entry(SENDER, |e| e.slot = HERE)
    };
    let mut cases = vec![
        slow("source zero", knows_all(), from([0; 6]), None, Reason::InvalidSource),
        slow(
            "source broadcast",
            knows_all(),
            from([0xff; 6]),
            None,
            Reason::InvalidSource,
        ),
        slow(
            "source multicast",
            knows_all(),
            from([1, 0, 0, 0, 0, 1]),
            None,
            Reason::InvalidSource,
        ),
        slow(
            "source multicast, locally administered",
            knows_all(),
            from([3, 0, 0, 0, 0, 1]),
            None,
            Reason::InvalidSource,
        ),
        slow(
            "destination broadcast",
            to_all(),
            to([0xff; 6]),
            None,
            Reason::Broadcast,
        ),
        slow(
            "destination one bit from broadcast",
            to_all(),
            to([0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            None,
            Reason::Multicast,
        ),
        slow(
            "destination multicast",
            to_all(),
            to([1, 0, 0, 0, 0, 1]),
            None,
            Reason::Multicast,
        ),
        slow(
            "destination multicast, locally administered",
            to_all(),
            to([3, 0, 0, 0, 0, 1]),
            None,
            Reason::Multicast,
        ),
        slow(
            "invalid source to multicast",
            knows_all(),
            Frame {
                src: Mac::new([0; 6]),
                ..to([0xff; 6])
            },
            None,
            Reason::InvalidSource,
        ),
    ];
    for last in 0..=15 {
        cases.push(slow(
            "link-local group",
            to_all(),
            to([0x01, 0x80, 0xc2, 0, 0, last]),
            None,
            Reason::Multicast,
        ));
    }
    // Trap 3: bit 0 of byte 0, and no other.
    for bytes in [[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff], [0, 1, 1, 1, 1, 1]] {
        let bed = || {
            Bed::unaware().with(|bed| {
                bed.station(0, Mac::new(bytes), THERE);
                bed.station(0, Mac::new([bytes[0], 1, 1, 1, 1, 0]), HERE);
            })
        };
        cases.push(fast(
            "destination that looks like multicast",
            bed(),
            to(bytes),
            0,
            Edit::Keep,
        ));
        cases.push(fast(
            "source that looks like multicast",
            bed(),
            from([bytes[0], 1, 1, 1, 1, 0]),
            0,
            Edit::Keep,
        ));
    }
    check(&cases);
}

/// Trap 12: protocols that the kernel may answer or consume. Behind a tag as well.
#[test]
fn protocols() {
    let mut cases = Vec::new();
    let mut both = |name, ethertype, reason: Option<Reason>| {
        let bare = Frame { ethertype, ..FRAME };
        let behind = Frame {
            ethertype,
            ..tagged(TAGGED)
        };
        match reason {
            Some(reason) => {
                cases.push(slow(name, Bed::unaware(), bare, None, reason));
                cases.push(slow(name, Bed::aware(), behind, None, reason));
            }
            None => {
                cases.push(fast(name, Bed::unaware(), bare, 0, Edit::Keep));
                cases.push(fast(name, Bed::aware(), behind, TAGGED, Edit::Keep));
            }
        }
    };
    for ethertype in [0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7] {
        both("control protocol", ethertype, Some(Reason::ControlProtocol));
    }
    for ethertype in [0x0000, 0x0027, 0x05dc, 0x05ff] {
        both("802.3 length", ethertype, Some(Reason::Llc));
    }
    for ethertype in [
        0x0600, 0x0805, 0x0807, 0x8034, 0x8036, 0x88cb, 0x88cd, 0x9100, ETH_P_IPV6, 0xffff,
    ] {
        both("ordinary protocol", ethertype, None);
    }
    let discovery = Frame {
        ethertype: ETH_P_IPV6,
        neighbour_discovery: true,
        ..FRAME
    };
    cases.push(slow(
        "neighbour discovery",
        Bed::unaware(),
        discovery,
        None,
        Reason::NeighbourDiscovery,
    ));
    check(&cases);
}
