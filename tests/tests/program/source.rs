//! The source check: a frame is fast only if the bridge would learn nothing from it.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use bridge_common::{
    decide::Edit,
    maps::{fdb_flags, port_flags},
    reason::Reason,
};
use xbr_tests::frame::{ETHERTYPE_LAB, Tag};

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, Outcome, TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT},
    check::{check, fast, slow},
    frames::{between, payload, plain},
    world::{ELSEWHERE, HERE, PVID, SENDER, State, TAGGED, TARGET, THERE, World, generation_cell},
};

pub(crate) const TESTS: &[Test] = &[
    ("source_table", table),
    ("source_refresh_takes_one_frame", refresh_takes_one_frame),
    ("source_refresh_comes_again", refresh_comes_again),
    ("source_move_cancels_the_entry", move_cancels_the_entry),
];

fn table(bench: &mut Bench) -> Result<()> {
    let frame = plain(&[]);
    let tagged = plain(&[Tag::q(TAGGED)]);
    let locked = || World::unaware().flag(HERE, port_flags::LOCKED);
    let no_learning = || World::unaware().unflag(HERE, port_flags::LEARNING);
    let flagged = |world: World, flags: u16| world.entry(SENDER, |row| row.flags |= flags);
    let moved = |world: World| world.entry(SENDER, |row| row.slot = ELSEWHERE);
    let due = |world: World| world.entry(SENDER, |row| row.refresh_at = 0);
    let state = |state: State| World::unaware().entry(SENDER, |row| row.state = state);
    let without = |world: World| world.forget(SENDER);
    let rows = [
        slow("unknown", without(World::unaware()), &frame, Some(0), Reason::SourceUnknown),
        slow("stale generation", state(State::Stale), &frame, Some(0), Reason::SourceUnknown),
        slow(
            "known in another VLAN only",
            World::aware().with(|world| world.fdb.retain(|(_, mac), row| *mac != SENDER || row.vid == PVID)),
            &tagged,
            Some(TAGGED),
            Reason::SourceUnknown,
        ),
        slow("moved", moved(World::unaware()), &frame, Some(0), Reason::SourceMoved),
        slow("moved, refresh due", due(moved(World::unaware())), &frame, Some(0), Reason::SourceMoved),
        slow(
            "static moves, too",
            flagged(moved(World::unaware()), fdb_flags::STATIC),
            &frame,
            Some(0),
            Reason::SourceMoved,
        ),
        slow(
            "sticky elsewhere",
            flagged(moved(World::unaware()), fdb_flags::STICKY),
            &frame,
            Some(0),
            Reason::SourceFixed,
        ),
        fast("sticky here", flagged(World::unaware(), fdb_flags::STICKY), &frame, 0, Edit::Keep),
        slow("the bridge's own", flagged(World::unaware(), fdb_flags::LOCAL), &frame, Some(0), Reason::SourceFixed),
        slow("opaque", flagged(World::unaware(), fdb_flags::OPAQUE), &frame, Some(0), Reason::SourceFixed),
        fast("locked, authorised", locked(), &frame, 0, Edit::Keep),
        slow("locked, unknown", without(locked()), &frame, Some(0), Reason::SourceLocked),
        slow("locked, elsewhere", moved(locked()), &frame, Some(0), Reason::SourceLocked),
        slow("locked, local", flagged(locked(), fdb_flags::LOCAL), &frame, Some(0), Reason::SourceLocked),
        slow("locked, opaque", flagged(locked(), fdb_flags::OPAQUE), &frame, Some(0), Reason::SourceLocked),
        slow(
            "locked without learning, unknown",
            without(locked()).unflag(HERE, port_flags::LEARNING),
            &frame,
            Some(0),
            Reason::SourceLocked,
        ),
        fast("no learning, unknown", without(no_learning()), &frame, 0, Edit::Keep),
        fast("no learning, elsewhere", moved(no_learning()), &frame, 0, Edit::Keep),
        fast("no learning, refresh due", due(no_learning()), &frame, 0, Edit::Keep),
        slow("refresh due", due(World::unaware()), &frame, Some(0), Reason::Refresh),
        slow("refresh due, tagged", due(World::aware()), &tagged, Some(TAGGED), Reason::Refresh),
        slow(
            "refresh before an unknown destination",
            due(World::unaware()).forget(TARGET),
            &frame,
            Some(0),
            Reason::Refresh,
        ),
        fast("static needs no refresh", flagged(due(World::unaware()), fdb_flags::STATIC), &frame, 0, Edit::Keep),
        fast(
            "no refresh at all",
            due(World::unaware()).port(HERE, |port| port.refresh_interval = 0),
            &frame,
            0,
            Edit::Keep,
        ),
        fast(
            "the destination's refresh is not asked",
            World::unaware().entry(TARGET, |row| row.refresh_at = 0),
            &frame,
            0,
            Edit::Keep,
        ),
    ];
    check(bench, &rows)
}

/// Verdict and the one reason that was counted.
fn reason(outcome: &Outcome) -> (u32, Option<Reason>) {
    let reason =
        outcome.counts.keys().find_map(|cell| if let Cell::Port(_, reason) = cell { Some(*reason) } else { None });
    (outcome.verdict, reason)
}

const FAST: (u32, Option<Reason>) = (TC_REDIRECT, Some(Reason::ForwardedTc));

fn refresh_takes_one_frame(bench: &mut Bench) -> Result<()> {
    let wire = plain(&[]);
    let arrival = Arrival { wire: &wire, ifindex: bench.device(HERE), gso: false, untouched: false };
    bench.install(&World::unaware().entry(SENDER, |row| row.refresh_at = 0))?;
    let generations = bench.tables.generations();
    let xdp = |bench: &mut Bench| bench.xdp_in(arrival, 0, wire.len());
    ensure!(xdp(bench)??.verdict == XDP_PASS, "XDP leaves the frame that is due to the bridge");
    ensure!(xdp(bench)??.verdict == XDP_PASS, "and it is tc that notes that it went there");
    let first = reason(&bench.tc_once(arrival, None)??);
    ensure!(first == (TC_PASS, Some(Reason::Refresh)), "the frame that is due: {first:?}");
    for number in 0..3 {
        let next = reason(&bench.tc_once(arrival, None)??);
        ensure!(next == FAST, "frame {number} after it: {next:?}");
    }
    ensure!(xdp(bench)??.verdict == XDP_REDIRECT, "XDP goes on");
    ensure!(bench.tables.generations() == generations, "a refresh cancels nothing");
    Ok(())
}

fn refresh_comes_again(bench: &mut Bench) -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(200);
    let wire = plain(&[]);
    let arrival = Arrival { wire: &wire, ifindex: bench.device(HERE), gso: false, untouched: false };
    let interval = u64::try_from(INTERVAL.as_nanos())?;
    let world = World::unaware().port(HERE, |port| port.refresh_interval = interval);
    bench.install(&world.entry(SENDER, |row| row.refresh_at = 0))?;
    for round in 0..3 {
        let due = reason(&bench.tc_once(arrival, None)??);
        ensure!(due == (TC_PASS, Some(Reason::Refresh)), "round {round}, the frame that is due: {due:?}");
        thread::sleep(INTERVAL / 10);
        let next = reason(&bench.tc_once(arrival, None)??);
        ensure!(next == FAST, "round {round}, after a tenth of the interval: {next:?}");
        // What is left of it, the units in which it is kept, and the ticks for which a decision is remembered.
        thread::sleep(INTERVAL * 3 / 2);
    }
    Ok(())
}

fn move_cancels_the_entry(bench: &mut Bench) -> Result<()> {
    let wire = plain(&[Tag::q(TAGGED)]);
    let to_sender = between(TARGET, SENDER, &[Tag::q(TAGGED)], ETHERTYPE_LAB, payload(46));
    // The sender is known at the third port, and shows up here.
    bench.install(&World::aware().entry(SENDER, |row| row.slot = ELSEWHERE))?;
    let at =
        |bench: &Bench, slot: u16| Arrival { wire: &wire, ifindex: bench.device(slot), gso: false, untouched: false };
    let back = |bench: &Bench| Arrival { wire: &to_sender, ..at(bench, THERE) };
    let before = bench.tables.generations();

    let (old, new) = (at(bench, ELSEWHERE), at(bench, HERE));
    ensure!(reason(&bench.tc_once(old, None)??) == FAST, "the sender sends where it is known");
    ensure!(reason(&bench.tc_once(back(bench), None)??) == FAST, "the sender is reached where it is known");
    ensure!(bench.xdp_in(new, 0, wire.len())??.verdict == XDP_PASS, "XDP leaves it to tc");
    ensure!(bench.tables.generations() == before, "XDP cancels nothing: tc sees the frame next");

    let moved = reason(&bench.tc_once(new, None)??);
    ensure!(moved == (TC_PASS, Some(Reason::SourceMoved)), "the frame at the other port: {moved:?}");
    let after = bench.tables.generations();
    let changed: Vec<usize> = (0..before.len()).filter(|cell| before[*cell] != after[*cell]).collect();
    let cell = generation_cell(SENDER, TAGGED);
    ensure!(changed == [cell as usize], "generations changed: {changed:?} instead of {cell}");
    ensure!(generation_cell(SENDER, PVID) != cell && generation_cell(TARGET, TAGGED) != cell);

    // Dead for everybody at once: for its owner at both ports, and for who sends to it. Not in another VLAN.
    for (port, arrival) in [("new", new), ("old", old)] {
        let next = reason(&bench.tc_once(arrival, None)??);
        ensure!(next == (TC_PASS, Some(Reason::SourceUnknown)), "the next frame at the {port} port: {next:?}");
    }
    let back_reason = reason(&bench.tc_once(back(bench), None)??);
    ensure!(back_reason == (TC_PASS, Some(Reason::DestinationUnknown)), "a frame to the sender: {back_reason:?}");
    let untagged = plain(&[]);
    let pvid = Arrival { wire: &untagged, ..old };
    ensure!(reason(&bench.tc_once(pvid, None)??) == FAST, "in another VLAN the address is another one");
    Ok(())
}
