//! `br_fdb_find_rcu`, `br_forward`, `should_deliver` and `is_skb_forwardable`: whether the frame may leave, and where.

use bridge_common::{
    decide::Edit,
    frame::Frame,
    maps::{Port, fdb_flags, port_flags, set_bit},
    reason::Reason,
};

use super::bed::{Bed, FRAME, HERE, PVID, SENDER, TAGGED, TARGET, THERE, UNAWARE_FID, check, fast, slow, tagged};

/// On the VLAN-unaware bridge: classified, in no VLAN.
const NO_VLAN: Option<u16> = Some(0);

#[test]
fn destination() {
    let with_flags = |flags| Bed::unaware().entry(TARGET, |entry| entry.flags = flags);
    let lost = |bed: Bed| bed.without(THERE);
    check(&[
        slow("unknown", Bed::unaware().forget(TARGET), FRAME, NO_VLAN, Reason::DestinationUnknown),
        // Trap 2.
        slow(
            "a local address, the bridge's own",
            with_flags(fdb_flags::LOCAL | fdb_flags::STATIC),
            FRAME,
            NO_VLAN,
            Reason::Local,
        ),
        slow(
            "a local address, of the ingress port",
            with_flags(fdb_flags::LOCAL).entry(TARGET, |entry| entry.slot = HERE),
            FRAME,
            NO_VLAN,
            Reason::Local,
        ),
        slow(
            "a local address behind no port",
            with_flags(fdb_flags::LOCAL).entry(TARGET, |entry| entry.slot = 0),
            FRAME,
            NO_VLAN,
            Reason::Local,
        ),
        slow("an entry left to the bridge", with_flags(fdb_flags::OPAQUE), FRAME, NO_VLAN, Reason::DestinationFeature),
        fast("a static entry", with_flags(fdb_flags::STATIC), FRAME, 0, Edit::Keep),
        fast("a sticky entry", with_flags(fdb_flags::STICKY), FRAME, 0, Edit::Keep),
        // Trap 36: only the source is refreshed.
        fast(
            "overdue, but not the sender",
            Bed::unaware().entry(TARGET, |entry| entry.refresh_at = 0),
            FRAME,
            0,
            Edit::Keep,
        ),
        // Trap 13: with hairpin it would go back, without it is dropped.
        slow(
            "behind the ingress port",
            Bed::unaware().entry(TARGET, |entry| entry.slot = HERE),
            FRAME,
            NO_VLAN,
            Reason::SamePort,
        ),
        slow("to itself", Bed::unaware(), Frame { dst: SENDER, ..FRAME }, NO_VLAN, Reason::SamePort),
        slow(
            "slot 0 is no port",
            Bed::unaware().entry(TARGET, |entry| entry.slot = 0),
            FRAME,
            NO_VLAN,
            Reason::Inconsistent,
        ),
        slow("in a slot without a port", lost(Bed::unaware()), FRAME, NO_VLAN, Reason::Inconsistent),
        slow("in a slot without a port, aware", lost(Bed::aware()), FRAME, Some(PVID), Reason::Inconsistent),
    ]);
}

#[test]
fn egress_port() {
    let isolated = port_flags::ISOLATED;
    let sized = |len, gso| Frame { len, gso, ..FRAME };
    check(&[
        // Traps 28 and 29: the states of both ports count.
        slow("does not forward", Bed::unaware().unflag(THERE, port_flags::EGRESS), FRAME, NO_VLAN, Reason::EgressPort),
        slow(
            "takes frames from the XDP program only",
            Bed::unaware().unflag(THERE, port_flags::EGRESS).flag(THERE, port_flags::EGRESS_XDP),
            FRAME,
            NO_VLAN,
            Reason::EgressPort,
        ),
        slow(
            "an empty slot",
            Bed::unaware().with(|bed| *bed.port_mut(THERE) = Port::EMPTY),
            FRAME,
            NO_VLAN,
            Reason::EgressPort,
        ),
        // Trap 15.
        slow(
            "isolated from each other",
            Bed::unaware().flag(HERE, isolated).flag(THERE, isolated),
            FRAME,
            NO_VLAN,
            Reason::Isolated,
        ),
        slow(
            "isolated in a VLAN",
            Bed::aware().flag(HERE, isolated).flag(THERE, isolated),
            FRAME,
            Some(PVID),
            Reason::Isolated,
        ),
        fast("only the ingress port isolated", Bed::unaware().flag(HERE, isolated), FRAME, 0, Edit::Keep),
        fast("only the egress port isolated", Bed::unaware().flag(THERE, isolated), FRAME, 0, Edit::Keep),
        fast("as large as the MTU allows", Bed::unaware(), sized(1518, false), 0, Edit::Keep),
        slow("a byte more", Bed::unaware(), sized(1519, false), NO_VLAN, Reason::Mtu),
        fast("a super-frame is cut later", Bed::unaware(), sized(65_000, true), 0, Edit::Keep),
        fast(
            "the ingress port's MTU is no matter",
            Bed::unaware().with(|bed| bed.port_mut(HERE).max_len = 64),
            sized(1518, false),
            0,
            Edit::Keep,
        ),
        // skb->len counts no tag, neither the one that comes off nor the one that is put on.
        fast("with a tag beside it", Bed::aware(), Frame { len: 1518, ..tagged(TAGGED) }, TAGGED, Edit::Keep),
    ]);
}

/// A slot that changed hands between two look-ups: the entry is of another bridge.
#[test]
fn another_bridge() {
    let aware = port_flags::VLAN_AWARE;
    check(&[
        slow(
            "unaware to unaware",
            Bed::unaware().with(|b| b.port_mut(THERE).fid_base += 1),
            FRAME,
            NO_VLAN,
            Reason::Inconsistent,
        ),
        slow("unaware to aware", Bed::unaware().flag(THERE, aware), FRAME, NO_VLAN, Reason::Inconsistent),
        slow(
            "aware to aware",
            Bed::aware().with(|b| b.port_mut(THERE).fid_base += 4096),
            FRAME,
            Some(PVID),
            Reason::Inconsistent,
        ),
        slow("aware to unaware", Bed::aware().unflag(THERE, aware), FRAME, Some(PVID), Reason::Inconsistent),
        slow(
            "unaware to aware, at the same fid",
            Bed::unaware()
                .with(|bed| *bed.port_mut(THERE) = Port { fid_base: UNAWARE_FID, ..Bed::aware().ports[&THERE] }),
            FRAME,
            NO_VLAN,
            Reason::Inconsistent,
        ),
        slow(
            "aware to unaware, at the same fid",
            Bed::aware().unflag(THERE, aware).with(|bed| bed.port_mut(THERE).fid_base += PVID),
            FRAME,
            Some(PVID),
            Reason::Inconsistent,
        ),
    ]);
}

#[test]
fn egress_vlan() {
    let leave = |vid| Bed::aware().with(|bed| set_bit(&mut bed.port_mut(THERE).member, vid, false));
    check(&[
        // Trap 34.
        slow("no member of the PVID's VLAN", leave(PVID), FRAME, Some(PVID), Reason::EgressVlan),
        slow("no member of the tag's VLAN", leave(TAGGED), tagged(TAGGED), Some(TAGGED), Reason::EgressVlan),
        fast("no member of another VLAN", leave(TAGGED), FRAME, PVID, Edit::Keep),
        fast(
            "the egress port's PVID is no matter",
            Bed::aware().with(|b| b.port_mut(THERE).pvid = 0),
            FRAME,
            PVID,
            Edit::Keep,
        ),
    ]);
}
