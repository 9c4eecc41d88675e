//! The FDB: stations that move, entries that age, are flushed, or do not fit.

use std::{fmt::Write as _, fs, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xbr_tests::{
    frame::{Frame, Mac, Mark, mac},
    measure::Reading,
    net::Kind,
    packet::Capture,
    traffic::Flow,
    wait::{self, slowness},
    xbr::count,
};

use super::{
    Test,
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("fdb::a_move_is_followed_at_once", || a_move_is_followed_at_once("eth0=tc"), &[]),
    test("fdb::a_move_to_the_uplink_is_followed_at_once", || a_move_is_followed_at_once("eth0=xdp"), &[]),
    test("fdb::flush_floods_again", flush_floods_again, &[]),
    test("fdb::busy_entries_stay_silent_ones_go", busy_entries_stay_silent_ones_go, &[]),
    test("fdb::a_full_table_goes_by_the_bridge", a_full_table_goes_by_the_bridge, &[]),
    test("fdb::local_entries_leave_room_for_stations", local_entries_leave_room_for_stations, &[]),
    // Not in the group fdb: so many changes take a virtual machine minutes, and nothing in this depends on the kernel.
    test("overrun::lost_events_are_made_up_for", lost_events_are_made_up_for, &[]),
    test("fdb::a_static_entry_is_used", a_static_entry_is_used, &[]),
];

/// Numbers of the lab's frames that wait in a capture.
fn numbers(capture: &mut Capture) -> Result<Vec<u32>> {
    let frames = capture.drain(Duration::from_millis(100))?;
    Ok(frames.iter().filter_map(|frame| frame.mark().map(|mark| mark.seq)).collect())
}

/// Once the frame by which a station shows up elsewhere is through the bridge, no frame goes to its old port.
fn a_move_is_followed_at_once(hook: &str) -> Result<()> {
    const BURST: u32 = 20;
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Wire])?;
    let [talker, two, three] = scene.first();
    let xbr = scene.xbr(&["--hook", hook])?;
    let station: Mac = [2, 0x0b, 0, 0, 0x77, 1];
    let sender = talker.sender()?;
    let mut heard = talker.capture()?;
    for round in 0..12_u32 {
        let (here, there) = if round % 2 == 0 { (two, three) } else { (three, two) };
        let mut captures = (here.capture()?, there.capture()?);
        here.sender()?.send(&Frame::new(station, talker.mac).numbered(1, round).bytes())?;
        // The talker has the frame, so the bridge has learnt.
        let arrived = heard.next(Duration::from_secs(2) * slowness())?;
        ensure!(
            arrived.is_some_and(|frame| frame.mark() == Some(Mark { flow: 1, seq: round })),
            "the move frame was lost"
        );
        for number in 0..BURST {
            sender.send(&Frame::new(talker.mac, station).numbered(2, number).bytes())?;
        }
        let (right, wrong) = (numbers(&mut captures.0)?, numbers(&mut captures.1)?);
        ensure!(right.len() == BURST as usize, "round {round}: {} of {BURST} frames at the new port", right.len());
        ensure!(wrong.is_empty(), "round {round}: frames {wrong:?} went to the old port");
        // Now and then the new place gets time to become a fast one.
        if round % 3 == 2 {
            sleep(Duration::from_millis(100));
            for number in 0..BURST {
                sender.send(&Frame::new(talker.mac, station).numbered(2, number).bytes())?;
            }
            let fast = numbers(&mut captures.0)?;
            ensure!(fast.len() == BURST as usize, "round {round}: {} of {BURST} frames on the fast path", fast.len());
        }
    }
    ensure!(xbr.fast(&talker.port)? > 0, "the fast path was never taken: {}", xbr.summary());
    xbr.stop()
}

fn flush_floods_again() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for round in 0..5 {
        warm(&xbr, one, two)?;
        scene.steady(&xbr, one, two, 100)?;
        let mut capture = (two.capture()?, three.capture()?);
        scene.host("ip link set br0 type bridge fdb_flush")?;
        for number in 0..10 {
            one.sender()?.send(&Frame::new(one.mac, two.mac).numbered(3, number).bytes())?;
        }
        let (right, flooded) = (numbers(&mut capture.0)?, numbers(&mut capture.1)?);
        ensure!(
            right.len() == 10 && flooded.len() == 10,
            "round {round}: {} arrived, {} flooded",
            right.len(),
            flooded.len()
        );
    }
    xbr.stop()
}

/// More FDB changes than the daemon's socket holds, while it cannot read: what it missed has to be fast all the same.
fn lost_events_are_made_up_for() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let mut lines = String::new();
    for round in 0..6 {
        let verb = ["add", "del"][round % 2];
        for index in 0..20_000_u32 {
            let [_, _, high, low] = index.to_be_bytes();
            writeln!(lines, "fdb {verb} 06:00:00:00:{high:02x}:{low:02x} dev {} master static", one.port)?;
        }
    }
    let batch = xbr.run_dir().join("batch");
    fs::write(&batch, lines)?;
    xbr.signal(Signal::SIGSTOP)?;
    scene.host(&format!("bridge -batch {}", batch.display()))?;
    // Learnt last, so its event is among the lost ones.
    let newcomer: Mac = [2, 0x0b, 0, 0, 0x77, 1];
    three.sender()?.send(&Frame::new(newcomer, two.mac).bytes())?;
    xbr.signal(Signal::SIGCONT)?;
    wait::until("a resync", Duration::from_secs(5), || {
        Ok(xbr.status()?["resyncs"]["netlink_overrun"].as_u64() > Some(0))
    })?;
    sleep(Duration::from_secs(2));
    scene.steady_frame(&xbr, three, two, &Frame::new(newcomer, two.mac), 200)?;
    xbr.stop()
}

/// Fast frames never reach the bridge; their sources must not age out of its FDB all the same.
fn busy_entries_stay_silent_ones_go() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, silent] = scene.first();
    let ageing = 3 * slowness();
    scene.host(&format!("ip link set br0 type bridge ageing_time {}", ageing * 100))?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.greet()?;
    let reading = Reading::take(&xbr)?;
    let there = Flow::start(one, &[two], &[silent], Frame::new(one.mac, two.mac), 500, u32::MAX)?;
    let back = Flow::start(two, &[one], &[silent], Frame::new(two.mac, one.mac), 500, u32::MAX)?;
    sleep(Duration::from_secs(u64::from(ageing) * 3));
    let entries = [one, two, silent].map(|guest| scene.net.fdb("br0", guest.mac, 0));
    let deltas = reading.since(&xbr)?;
    there.stop()?.exact()?;
    back.stop()?.exact()?;
    let [first, second, third] = entries;
    ensure!(first? == Some(one.port.clone()) && second? == Some(two.port.clone()), "a busy station aged out");
    ensure!(third?.is_none(), "a silent station did not age out");
    // One frame in each 32nd of the ageing time went to the bridge, and nothing else did.
    for guest in [one, two] {
        let delta = deltas.get(&guest.port).context("port")?;
        let refreshes = delta.reasons.get("refresh").copied().unwrap_or_default();
        ensure!((3 * 16..=3 * 48).contains(&refreshes), "{refreshes} refreshes in 3 ageing times: {delta:?}");
        ensure!(delta.slow - refreshes <= delta.fast / 100, "{delta:?}");
    }
    xbr.stop()
}

fn a_full_table_goes_by_the_bridge() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&["--fdb-size", "16"])?;
    let stations: Vec<Mac> = (0..60).map(|index| [2, 0x0b, 0, 0, 0x66, index]).collect();
    let (talker, behind) = (one.sender()?, two.sender()?);
    for station in &stations {
        behind.send(&Frame::new(*station, one.mac).bytes())?;
    }
    sleep(Duration::from_millis(300));
    let mut captures = (two.capture()?, three.capture()?);
    for (number, station) in stations.iter().cycle().take(stations.len() * 3).enumerate() {
        talker.send(&Frame::new(one.mac, *station).numbered(5, u32::try_from(number)?).bytes())?;
    }
    let (right, wrong) = (numbers(&mut captures.0)?, numbers(&mut captures.1)?);
    ensure!(
        right.len() == stations.len() * 3 && wrong.is_empty(),
        "{} arrived, {} at somebody else",
        right.len(),
        wrong.len()
    );
    let refused = |xbr: &xbr_tests::xbr::Xbr| -> Result<u64> {
        let status = xbr.status()?;
        let tables = status["tables"].as_array().into_iter().flatten();
        Ok(tables.filter(|table| table["name"] == "fdb").map(|table| count(&table["refused"])).sum())
    };
    wait::until("status says that entries found no room", Duration::from_secs(3), || Ok(refused(&xbr)? > 0))?;
    xbr.stop()
}

/// As where each port is in thousands of VLANs: the bridge has an entry of its own for each.
fn local_entries_leave_room_for_stations() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, _] = scene.first();
    let own: Vec<Mac> = (0..60).map(|index| [2, 0x0b, 0, 0, 0x77, index]).collect();
    let lines = own.iter().map(|address| format!("fdb add {} dev {} master permanent", mac(*address), two.port));
    scene.net.host.batch("bridge", &lines.collect::<Vec<_>>())?;
    // More than the table takes, and nearly as many.
    for size in ["16", "64"] {
        let xbr = scene.xbr(&["--fdb-size", size])?;
        warm(&xbr, one, two)?;
        let status = xbr.status()?;
        let entries = count(&status["bridges"][0]["fdb_entries"]);
        ensure!((2..=9).contains(&entries), "{entries} entries with room for {size}");
        let mut capture = two.capture()?;
        let sender = one.sender()?;
        for (number, address) in (0..).zip(&own) {
            sender.send(&Frame::new(one.mac, *address).numbered(7, number).bytes())?;
        }
        ensure!(numbers(&mut capture)?.is_empty(), "what is addressed to the bridge left by a port");
        xbr.stop()?;
    }
    Ok(())
}

fn a_static_entry_is_used() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.host(&format!("bridge fdb replace 02:0b:00:00:55:01 dev {} master static", two.port))?;
    let frame = Frame::new(one.mac, [2, 0x0b, 0, 0, 0x55, 1]);
    sleep(Duration::from_millis(300));
    scene.steady_frame(&xbr, one, two, &frame, 200)?;
    // It moves by hand as well.
    scene.host(&format!("bridge fdb replace 02:0b:00:00:55:01 dev {} master static", three.port))?;
    sleep(Duration::from_millis(300));
    scene.steady_frame(&xbr, one, three, &frame, 200)?;
    scene.host(&format!("bridge fdb del 02:0b:00:00:55:01 dev {} master", three.port))?;
    sleep(Duration::from_millis(300));
    let account = Flow::start(one, &[two, three], &[], frame, 1000, 50)?.finish()?;
    ensure!(account.received == 100, "after the entry went, frames are flooded: {account:?}");
    xbr.stop()
}
