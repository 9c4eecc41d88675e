//! The source's part of `br_handle_frame_finish` and `br_fdb_update`: fast only if the bridge would learn nothing.

use bridge_common::{
    decide::Edit,
    maps::{fdb_flags, port_flags},
    reason::Reason,
};

use super::bed::{
    Bed, ELSEWHERE, FRAME, HERE, NOW, PVID, SENDER, TAGGED, TARGET, THERE, Want, case, check, fast, slow, tagged,
};

const LEARNING: u32 = port_flags::LEARNING;
const LOCKED: u32 = port_flags::LOCKED;
const SLOT_0: Option<u16> = Some(0);

/// A source entry on the learning port: with these flags, behind that port.
fn known(flags: u16, slot: u16) -> Bed {
    Bed::unaware().entry(SENDER, |entry| {
        entry.flags = flags;
        entry.slot = slot;
    })
}

#[test]
fn on_a_learning_port() {
    check(&[
        slow("unknown", Bed::unaware().forget(SENDER), FRAME, SLOT_0, Reason::SourceUnknown),
        slow("unknown, aware", Bed::aware().forget(SENDER), FRAME, Some(PVID), Reason::SourceUnknown),
        // Trap 38: seen at another port, it moves.
        slow("behind another port", known(0, ELSEWHERE), FRAME, SLOT_0, Reason::SourceMoved),
        slow("behind the egress port", known(0, THERE), FRAME, SLOT_0, Reason::SourceMoved),
        // Static entries move, only sticky ones stay.
        slow("static, behind another port", known(fdb_flags::STATIC, ELSEWHERE), FRAME, SLOT_0, Reason::SourceMoved),
        slow("sticky, behind another port", known(fdb_flags::STICKY, ELSEWHERE), FRAME, SLOT_0, Reason::SourceFixed),
        slow(
            "static and sticky, behind another port",
            known(fdb_flags::STATIC | fdb_flags::STICKY, ELSEWHERE),
            FRAME,
            SLOT_0,
            Reason::SourceFixed,
        ),
        fast("static, behind this port", known(fdb_flags::STATIC, HERE), FRAME, 0, Edit::Keep),
        fast("sticky, behind this port", known(fdb_flags::STICKY, HERE), FRAME, 0, Edit::Keep),
    ]);
}

#[test]
fn that_is_no_station_or_no_plain_one() {
    check(&[
        slow(
            "the bridge's own, of this port",
            known(fdb_flags::LOCAL | fdb_flags::STATIC, HERE),
            FRAME,
            SLOT_0,
            Reason::SourceFixed,
        ),
        slow(
            "the bridge's own, of another port",
            known(fdb_flags::LOCAL, ELSEWHERE),
            FRAME,
            SLOT_0,
            Reason::SourceFixed,
        ),
        slow("the bridge's own, of no port", known(fdb_flags::LOCAL, 0), FRAME, SLOT_0, Reason::SourceFixed),
        slow(
            "left to the bridge, behind this port",
            known(fdb_flags::OPAQUE, HERE),
            FRAME,
            SLOT_0,
            Reason::SourceFixed,
        ),
        slow(
            "left to the bridge, behind another port",
            known(fdb_flags::OPAQUE, ELSEWHERE),
            FRAME,
            SLOT_0,
            Reason::SourceFixed,
        ),
        // The source is looked at before the destination: it is learnt from every frame.
        slow(
            "unknown, to an unknown destination",
            Bed::unaware().with(|bed| bed.fdb.clear()),
            FRAME,
            SLOT_0,
            Reason::SourceUnknown,
        ),
        slow(
            "moved, to an unknown destination",
            known(0, ELSEWHERE).forget(TARGET),
            FRAME,
            SLOT_0,
            Reason::SourceMoved,
        ),
    ]);
}

/// `BR_PORT_LOCKED`: the source must be there, behind this port, and neither local nor locked itself.
#[test]
fn on_a_locked_port() {
    for learning in [true, false] {
        let lock = |bed: Bed| {
            if learning { bed.flag(HERE, LOCKED) } else { bed.flag(HERE, LOCKED).unflag(HERE, LEARNING) }
        };
        let locked = |flags, slot| lock(known(flags, slot));
        check(&[
            slow("unknown", lock(Bed::unaware().forget(SENDER)), FRAME, SLOT_0, Reason::SourceLocked),
            slow("behind another port", locked(0, ELSEWHERE), FRAME, SLOT_0, Reason::SourceLocked),
            slow(
                "sticky, behind another port",
                locked(fdb_flags::STICKY, ELSEWHERE),
                FRAME,
                SLOT_0,
                Reason::SourceLocked,
            ),
            slow("the bridge's own", locked(fdb_flags::LOCAL, HERE), FRAME, SLOT_0, Reason::SourceLocked),
            slow("a locked entry", locked(fdb_flags::OPAQUE, HERE), FRAME, SLOT_0, Reason::SourceLocked),
            fast("authorised", locked(0, HERE), FRAME, 0, Edit::Keep),
            fast("authorised, static", locked(fdb_flags::STATIC, HERE), FRAME, 0, Edit::Keep),
            slow(
                "authorised in another VLAN",
                lock(Bed::aware().with(|bed| bed.fdb.retain(|(_, vid, mac), _| *mac != SENDER || *vid == PVID))),
                tagged(TAGGED),
                Some(TAGGED),
                Reason::SourceLocked,
            ),
        ]);
    }
    check(&[fast(
        "the egress port's lock is no matter",
        Bed::unaware().flag(THERE, LOCKED).forget(SENDER).with(|bed| bed.station(0, SENDER, HERE)),
        FRAME,
        0,
        Edit::Keep,
    )]);
}

/// Neither learning (or an ageing time of 0) nor locked: the bridge does not look at the source at all.
#[test]
fn on_a_port_that_does_not_learn() {
    let silent = |bed: Bed| bed.unflag(HERE, LEARNING);
    check(&[
        fast("unknown", silent(Bed::unaware().forget(SENDER)), FRAME, 0, Edit::Keep),
        fast("behind another port", silent(known(0, ELSEWHERE)), FRAME, 0, Edit::Keep),
        fast("sticky, behind another port", silent(known(fdb_flags::STICKY, ELSEWHERE)), FRAME, 0, Edit::Keep),
        fast("the bridge's own", silent(known(fdb_flags::LOCAL, HERE)), FRAME, 0, Edit::Keep),
        fast("a locked entry", silent(known(fdb_flags::OPAQUE, HERE)), FRAME, 0, Edit::Keep),
        fast("overdue", silent(Bed::unaware().entry(SENDER, |entry| entry.refresh_at = 0)), FRAME, 0, Edit::Keep),
        slow(
            "the egress port learns, that is no matter",
            Bed::unaware().unflag(THERE, LEARNING).forget(SENDER),
            FRAME,
            SLOT_0,
            Reason::SourceUnknown,
        ),
    ]);
}

/// Traps 7 and 36: one frame in a while goes to the bridge, for the source's sake only.
#[test]
fn refresh() {
    let due = |at| Bed::unaware().entry(SENDER, move |entry| entry.refresh_at = at);
    let flagged = |flags| due(0).entry(SENDER, move |entry| entry.flags = flags);
    check(&[
        slow("at the deadline", due(NOW), FRAME, SLOT_0, Reason::Refresh),
        slow("after the deadline", due(NOW - 1), FRAME, SLOT_0, Reason::Refresh),
        slow("never refreshed yet", due(0), FRAME, SLOT_0, Reason::Refresh),
        fast("before the deadline", due(NOW + 1), FRAME, 0, Edit::Keep),
        slow(
            "in a VLAN",
            Bed::aware().entry(SENDER, |entry| entry.refresh_at = 0),
            tagged(TAGGED),
            Some(TAGGED),
            Reason::Refresh,
        ),
        fast("no interval", due(0).with(|bed| bed.port_mut(HERE).refresh_interval = 0), FRAME, 0, Edit::Keep),
        slow(
            "the egress port has no interval",
            due(0).with(|bed| bed.port_mut(THERE).refresh_interval = 0),
            FRAME,
            SLOT_0,
            Reason::Refresh,
        ),
        fast("an entry that does not age", flagged(fdb_flags::STATIC), FRAME, 0, Edit::Keep),
        slow("a sticky entry ages", flagged(fdb_flags::STICKY), FRAME, SLOT_0, Reason::Refresh),
        slow("a locked port that learns", due(0).flag(HERE, LOCKED), FRAME, SLOT_0, Reason::Refresh),
        fast(
            "a locked port that does not learn",
            due(0).flag(HERE, LOCKED).unflag(HERE, LEARNING),
            FRAME,
            0,
            Edit::Keep,
        ),
        case(
            "behind another port, it moves",
            due(0).entry(SENDER, |e| e.slot = ELSEWHERE),
            FRAME,
            SLOT_0,
            Want::Slow(Reason::SourceMoved),
        ),
        // The frame refreshes its source whatever becomes of it afterwards.
        slow("to an unknown destination", due(0).forget(TARGET), FRAME, SLOT_0, Reason::Refresh),
    ]);
}
