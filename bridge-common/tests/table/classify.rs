//! `__allowed_ingress`: which VLAN a frame is in.

use bridge_common::{
    decide::Edit,
    frame::{Frame, Tag},
    maps::{port_flags, set_bit},
    reason::Reason,
};

use super::bed::{
    AWARE_FID, Bed, FRAME, HERE, PVID, SENDER, TAGGED, TARGET, THERE, check, fast, slow, tagged, tagged_ad,
};

/// Trap 1: without filtering there are no VLANs, and a tag is payload.
#[test]
fn unaware_bridges_look_at_no_tag() {
    let mut cases = vec![fast(
        "a PVID that is configured, but not in force",
        Bed::unaware().with(|bed| bed.port_mut(HERE).pvid = PVID),
        FRAME,
        0,
        Edit::Keep,
    )];
    for tci in [0, 1, PVID, 0x0fff, 0xf000, 0xb00a] {
        cases.push(fast("802.1Q", Bed::unaware(), tagged(tci), 0, Edit::Keep));
        cases.push(fast("802.1ad", Bed::unaware(), tagged_ad(tci), 0, Edit::Keep));
    }
    check(&cases);
}

#[test]
fn tag_of_the_other_protocol() {
    check(&[
        // Payload: the frame belongs to the PVID, whatever stands in that tag.
        fast("802.1ad on 802.1Q", Bed::aware(), tagged_ad(TAGGED), PVID, Edit::Keep),
        fast("802.1Q on 802.1ad", Bed::aware_ad(), tagged(TAGGED), PVID, Edit::Keep),
        fast("priority tag", Bed::aware(), tagged_ad(0), PVID, Edit::Keep),
        fast("long enough for the far end", Bed::aware(), Frame { len: 16, ..tagged_ad(TAGGED) }, PVID, Edit::Keep),
        slow("too short", Bed::aware(), Frame { len: 15, ..tagged_ad(TAGGED) }, None, Reason::TagProtocol),
        // It counts for the MTU.
        fast("at the MTU", Bed::aware(), Frame { len: 1514, ..tagged_ad(TAGGED) }, PVID, Edit::Keep),
        slow("beyond", Bed::aware(), Frame { len: 1515, ..tagged_ad(TAGGED) }, Some(PVID), Reason::Mtu),
        // The bridge would push a second tag.
        slow(
            "tagged egress",
            Bed::aware().with(|bed| set_bit(&mut bed.port_mut(THERE).untagged, PVID, false)),
            tagged_ad(TAGGED),
            Some(PVID),
            Reason::TagProtocol,
        ),
        slow(
            "without PVID",
            Bed::aware().with(|bed| bed.port_mut(HERE).pvid = 0),
            tagged_ad(TAGGED),
            None,
            Reason::NoPvid,
        ),
        fast("802.1ad on 802.1ad", Bed::aware_ad(), tagged_ad(TAGGED), TAGGED, Edit::Keep),
        fast(
            "the egress port's protocol is no matter",
            Bed::aware().with(|bed| bed.port_mut(THERE).tpid = 0x88a8),
            tagged(TAGGED),
            TAGGED,
            Edit::Keep,
        ),
    ]);
}

#[test]
fn pvid() {
    let pvid = |pvid| Bed::aware().with(|bed| bed.port_mut(HERE).pvid = pvid);
    check(&[
        // Trap 33: it must be there and be a VLAN of the port.
        slow("none, untagged", pvid(0), FRAME, None, Reason::NoPvid),
        slow("none, priority-tagged", pvid(0), tagged(0xe000), None, Reason::NoPvid),
        fast("none, tagged", pvid(0), tagged(TAGGED), TAGGED, Edit::Keep),
        slow("no VLAN of the port, untagged", pvid(30), FRAME, None, Reason::IngressVlan),
        slow("no VLAN of the port, priority-tagged", pvid(30), tagged(0), None, Reason::IngressVlan),
        fast("another one, untagged", pvid(TAGGED), FRAME, TAGGED, Edit::Push(Tag::new(0x8100, TAGGED))),
        // Only 12 bits of the table's field are a VLAN id; the rest must not leak into the tag's priority.
        slow("no VLAN id in the field", pvid(0x1000), FRAME, None, Reason::NoPvid),
        fast(
            "more than a VLAN id in the field",
            pvid(0xf000 | TAGGED),
            FRAME,
            TAGGED,
            Edit::Push(Tag::new(0x8100, TAGGED)),
        ),
        fast("the tag wins", pvid(TAGGED), tagged(PVID), PVID, Edit::Pop),
    ]);
}

#[test]
fn membership_of_the_ingress_port() {
    let leave = |vid| Bed::aware().with(|bed| set_bit(&mut bed.port_mut(HERE).member, vid, false));
    check(&[
        // Trap 30: refused, not mapped to the PVID.
        slow("tag of a VLAN that the port is not in", Bed::aware(), tagged(30), None, Reason::IngressVlan),
        slow("tag of the reserved VLAN", Bed::aware(), tagged(0x0fff), None, Reason::IngressVlan),
        // Trap 28: a VLAN that does not forward here has no bit.
        slow("left the tag's VLAN", leave(TAGGED), tagged(TAGGED), None, Reason::IngressVlan),
        slow("left the PVID's VLAN", leave(PVID), FRAME, None, Reason::IngressVlan),
        slow("left the PVID's VLAN, tagged with it", leave(PVID), tagged(PVID), None, Reason::IngressVlan),
        fast("left another VLAN", leave(PVID), tagged(TAGGED), TAGGED, Edit::Keep),
        fast("priority and DEI are no part of the VLAN", Bed::aware(), tagged(0xf000 | TAGGED), TAGGED, Edit::Keep),
        slow("a bit beyond the VLAN id counts for nothing", Bed::aware(), tagged(0x101e), None, Reason::IngressVlan),
    ]);
}

/// Every VLAN id has a bit of its own, on both sides, also at the words' edges.
#[test]
fn every_vlan_is_apart_from_its_neighbours() {
    for vid in [1u16, 2, 31, 32, 62, 63, 64, 65, 127, 128, 2047, 2048, 4031, 4032, 4093, 4094] {
        let alone = |slots: &[u16]| {
            Bed::aware().with(|bed| {
                for port in bed.ports.values_mut() {
                    port.member = [u64::MAX; 64];
                    port.untagged = [0; 64];
                }
                for slot in slots {
                    let port = bed.port_mut(*slot);
                    port.member = [0; 64];
                    set_bit(&mut port.member, vid, true);
                }
                for near in [vid - 1, vid, vid + 1] {
                    bed.station(near, SENDER, HERE);
                    bed.station(near, TARGET, THERE);
                }
            })
        };
        let mut cases = vec![fast("member", alone(&[HERE, THERE]), tagged(vid), vid, Edit::Keep)];
        for near in [vid - 1, vid + 1] {
            if (1..=4094).contains(&near) {
                cases.push(slow("ingress", alone(&[HERE]), tagged(near), None, Reason::IngressVlan));
                cases.push(slow("egress", alone(&[THERE]), tagged(near), Some(near), Reason::EgressVlan));
                let untagged = |bed: Bed| bed.with(|bed| set_bit(&mut bed.port_mut(THERE).untagged, vid, true));
                cases.push(fast("untagged", untagged(alone(&[])), tagged(vid), vid, Edit::Pop));
                cases.push(fast("tagged", untagged(alone(&[])), tagged(near), near, Edit::Keep));
            }
        }
        check(&cases);
    }
}

/// Each VLAN has its own FDB, and so has each bridge.
#[test]
fn learning_is_independent() {
    let only = |mac, vid: u16| Bed::aware().with(|bed| bed.fdb.retain(|(_, at, key), _| *key != mac || *at == vid));
    check(&[
        slow(
            "destination known in another VLAN",
            only(TARGET, PVID),
            tagged(TAGGED),
            Some(TAGGED),
            Reason::DestinationUnknown,
        ),
        slow("source known in another VLAN", only(SENDER, PVID), tagged(TAGGED), Some(TAGGED), Reason::SourceUnknown),
        fast("known in this VLAN only", only(TARGET, PVID), FRAME, PVID, Edit::Keep),
        fast(
            "behind another port in another VLAN",
            Bed::aware().with(|bed| bed.station(TAGGED, TARGET, HERE)),
            FRAME,
            PVID,
            Edit::Keep,
        ),
        slow(
            "entries of another bridge",
            Bed::aware().with(|bed| bed.ports.values_mut().for_each(|port| port.fid_base = AWARE_FID + 4096)),
            FRAME,
            Some(PVID),
            Reason::SourceUnknown,
        ),
        // Left in the kernel from before filtering was turned off, or on.
        slow(
            "unaware, entries in VLANs",
            Bed::unaware().with(|bed| {
                let base = bed.ports[&HERE].fid_base;
                bed.fdb = bed.fdb.iter().map(|((_, _, mac), entry)| ((base + PVID, PVID, *mac), *entry)).collect();
            }),
            tagged(PVID),
            Some(0),
            Reason::SourceUnknown,
        ),
        slow(
            "aware, entries without VLAN",
            Bed::aware().with(|bed| {
                bed.fdb = bed.fdb.iter().map(|((_, _, mac), entry)| ((AWARE_FID, 0, *mac), *entry)).collect();
            }),
            FRAME,
            Some(PVID),
            Reason::SourceUnknown,
        ),
    ]);
}

/// The highest fid there is: the last bridge's last VLAN.
#[test]
fn last_fid() {
    let bed = || {
        Bed::aware().with(|bed| {
            bed.fdb.clear();
            for port in bed.ports.values_mut() {
                port.fid_base = 15 << 12;
                set_bit(&mut port.member, 4094, true);
            }
            bed.station(4094, SENDER, HERE);
            bed.station(4094, TARGET, THERE);
        })
    };
    check(&[
        fast("tagged", bed(), tagged(4094), 4094, Edit::Keep),
        fast(
            "not learnt, not looked up",
            bed().forget(SENDER).unflag(HERE, port_flags::LEARNING),
            tagged(4094),
            4094,
            Edit::Keep,
        ),
        slow("control protocol", bed(), Frame { ethertype: 0x0806, ..tagged(4094) }, None, Reason::ControlProtocol),
    ]);
}
