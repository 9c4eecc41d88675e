//! Changes of the bridge against a daemon that is inserting, slow, stopped or overrun: what the kernel has answered is
//! what the next frame follows.

use std::{
    env,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xbr_tests::{
    frame::{Frame, Mac},
    net::{Guest, Kind},
    packet::Capture,
    probe::Need,
    rtnl::{PVID_UNTAGGED, Rtnl},
    traffic::Flow,
    wait::{self, slowness},
    xbr::Xbr,
};

use super::{
    Test,
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("coherence::changes_win_over_inserts", || changes_win_over_inserts(&[], false), &[]),
    test("coherence::changes_win_over_a_daemon_that_stops_and_goes_on", || changes_win_over_inserts(&[], true), &[]),
    test("coherence::a_stopped_daemon_keeps_nothing_old", a_stopped_daemon_keeps_nothing_old, &[]),
    test("coherence::ten_thousand_port_changes", ten_thousand_port_changes, &[]),
    test("vlan::ten_thousand_vlan_changes", ten_thousand_vlan_changes, &[Need::VlanFiltering]),
    test("vlan::a_stopped_daemon_keeps_no_vlan", a_stopped_daemon_keeps_no_vlan, &[Need::VlanFiltering]),
    test("coherence::netlink_alone_follows_too", netlink_alone_follows_too, &[]),
    test("coherence::a_bridge_is_renamed", a_bridge_is_renamed, &[]),
    test("coherence::ports_are_renamed", ports_are_renamed, &[]),
    test("coherence::a_port_goes_to_another_namespace_and_back", a_port_goes_elsewhere_and_back, &[]),
];

/// Makes a change of a port, or undoes it.
type Change = fn(&mut Rtnl, u32, bool) -> Result<()>;

const STATION: Mac = [2, 0x0b, 0, 0, 0x77, 1];

/// Interface index of a port or bridge of the scene.
fn index(scene: &Scene, name: &str) -> Result<u32> {
    scene.net.host.enter(|| nix::net::if_::if_nametoindex(name))?.with_context(|| name.to_owned())
}

/// xorshift64: `XBR_TEST_SEED`, or the time; printed, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let given = env::var("XBR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let time =
            || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_micros().try_into().unwrap_or(1));
        let seed = given.unwrap_or_else(time).max(1);
        println!("XBR_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Numbers of the frames of `flow` that wait in a capture.
fn numbers(capture: &mut Capture, flow: u32) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    while let Some(frame) = capture.next(Duration::ZERO)? {
        numbers.extend(frame.mark().filter(|mark| mark.flow == flow).map(|mark| mark.seq));
    }
    Ok(numbers)
}

/// The station is put behind one port or the other, and ports are isolated and not, with pauses of every length that the
/// daemon's inserts may take. Right after the kernel's answer frames are sent: each has to follow that answer.
fn changes_win_over_inserts(args: &[&str], stopping: bool) -> Result<()> {
    const FLOW: u32 = 71;
    const FRAMES: u32 = 3;
    let rounds = 1500 / slowness();
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(args)?;
    warm(&xbr, one, two)?;
    let mut rtnl = Rtnl::open(&scene.net.host)?;
    let ports = [index(&scene, &two.port)?, index(&scene, &three.port)?];
    rtnl.isolated(index(&scene, &one.port)?, true)?;
    rtnl.fdb_replace(ports[0], STATION, 0)?;
    let mut captures = [two.capture()?, three.capture()?];
    let sender = one.sender()?;
    let mut dice = Dice::new();
    let (mut place, mut isolated, mut stopped) = (0, [false; 2], false);
    for round in 0..rounds {
        let longest = 1 << dice.below(13);
        let pause = Duration::from_micros(dice.below(longest));
        let start = Instant::now();
        while start.elapsed() < pause {
            std::hint::spin_loop();
        }
        if stopping && dice.below(8) == 0 {
            xbr.signal(if stopped { Signal::SIGCONT } else { Signal::SIGSTOP })?;
            stopped = !stopped;
        }
        if dice.below(3) == 0 {
            let which = usize::from(dice.below(2) == 1);
            isolated[which] = !isolated[which];
            rtnl.isolated(ports[which], isolated[which])?;
        } else {
            place = 1 - place;
            rtnl.fdb_replace(ports[place], STATION, 0)?;
        }
        for number in 0..FRAMES {
            sender.send(&Frame::new(one.mac, STATION).numbered(FLOW, round * FRAMES + number).bytes())?;
        }
        let wanted: Vec<u32> = (round * FRAMES..(round + 1) * FRAMES).collect();
        let mut seen = [Vec::new(), Vec::new()];
        let expected = if isolated[place] { 0 } else { wanted.len() };
        let limit = Duration::from_millis(if expected == 0 { 1 } else { 500 }) * slowness();
        let start = Instant::now();
        while start.elapsed() < limit && (expected == 0 || seen[place].len() < expected) {
            for (capture, seen) in captures.iter_mut().zip(&mut seen) {
                seen.extend(numbers(capture, FLOW)?);
            }
        }
        let right = if expected == 0 { &[][..] } else { &wanted[..] };
        ensure!(
            seen[place] == right && seen[1 - place].is_empty(),
            "round {round}, pause {pause:?}, station behind port {place}, isolated {isolated:?}, daemon stopped \
             {stopped}: sent {wanted:?}, arrived {seen:?}"
        );
    }
    xbr.signal(Signal::SIGCONT)?;
    for port in ports {
        rtnl.isolated(port, false)?;
    }
    // The daemon has not lost its way either.
    fast_again(&scene, &xbr, one, [two, three][place])?;
    ensure!(xbr.fast(&one.port)? > 0, "the fast path was never taken: {}", xbr.summary());
    xbr.stop()
}

/// Frames to the station take the fast path again, and all arrive.
fn fast_again(scene: &Scene, xbr: &Xbr, from: &Guest, to: &Guest) -> Result<()> {
    let frame = Frame::new(from.mac, STATION);
    wait::until("fast again", Duration::from_secs(5), || {
        warm(xbr, from, to)?;
        Ok(scene.steady_frame(xbr, from, to, &frame, 200).is_ok())
    })
}

/// How many of ten frames sent now arrive.
fn arriving(from: &Guest, to: Mac, capture: &mut Capture, flow: u32) -> Result<usize> {
    let sender = from.sender()?;
    numbers(capture, flow)?;
    for number in 0..10 {
        sender.send(&Frame::new(from.mac, to).numbered(flow, number).bytes())?;
    }
    sleep(Duration::from_millis(5) * slowness());
    Ok(numbers(capture, flow)?.len())
}

/// The lease still runs for more than a second, but what the kernel has announced counts at once.
fn a_stopped_daemon_keeps_nothing_old() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    let mut rtnl = Rtnl::open(&scene.net.host)?;
    let (from, to) = (index(&scene, &one.port)?, index(&scene, &two.port)?);
    let mut capture = two.capture()?;
    rtnl.isolated(from, true)?;
    let changes: [(&str, Change); 3] = [
        ("isolated", |rtnl, port, on| rtnl.isolated(port, on)),
        ("disabled", |rtnl, port, on| rtnl.port_state(port, if on { 0 } else { 3 })),
        ("down", |rtnl, port, on| rtnl.up(port, !on)),
    ];
    for (number, (name, change)) in (80..).zip(changes) {
        wait::until("fast", Duration::from_secs(5), || {
            scene.greet()?;
            warm(&xbr, one, two)?;
            Ok(scene.steady(&xbr, one, two, 100).is_ok())
        })?;
        xbr.signal(Signal::SIGSTOP)?;
        change(&mut rtnl, to, true)?;
        let arrived = arriving(one, two.mac, &mut capture, number)?;
        ensure!(arrived == 0, "{name}: {arrived} of 10 frames arrived while the daemon was stopped");
        change(&mut rtnl, to, false)?;
        xbr.signal(Signal::SIGCONT)?;
        scene.net.forwarding(&two.port)?;
    }
    wait::until("fast", Duration::from_secs(5), || {
        scene.greet()?;
        warm(&xbr, one, three)?;
        Ok(scene.steady(&xbr, one, two, 100).is_ok())
    })?;
    ensure!(xbr.reason(&one.port, "suspended")? == 0, "the lease ended under the test: {}", xbr.summary());
    xbr.stop()
}

/// Three ports in VLAN 10, untagged.
fn aware() -> Result<Scene> {
    let scene = Scene::with("vlan_filtering 1 vlan_default_pvid 0", &[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let mut rtnl = Rtnl::open(&scene.net.host)?;
    for guest in &scene.guests {
        rtnl.vlan_add(index(&scene, &guest.port)?, 10, PVID_UNTAGGED)?;
    }
    scene.greet()?;
    Ok(scene)
}

fn a_stopped_daemon_keeps_no_vlan() -> Result<()> {
    let scene = aware()?;
    let [one, two, _] = scene.first();
    let xbr = scene.xbr(&[])?;
    let mut rtnl = Rtnl::open(&scene.net.host)?;
    let to = index(&scene, &two.port)?;
    let mut capture = two.capture()?;
    // Static, so that the entry stays when the VLAN goes.
    rtnl.fdb_replace(to, two.mac, 10)?;
    for (number, vlan) in (90..).zip([true, false, true]) {
        warm(&xbr, one, two)?;
        xbr.signal(Signal::SIGSTOP)?;
        if vlan {
            rtnl.vlan_delete(to, 10)?;
        } else {
            rtnl.vlan_state(to, 10, 4)?;
        }
        let arrived = arriving(one, two.mac, &mut capture, number)?;
        ensure!(arrived == 0, "{arrived} of 10 frames arrived in a VLAN that the port had left");
        if vlan {
            rtnl.vlan_add(to, 10, PVID_UNTAGGED)?;
        } else {
            rtnl.vlan_state(to, 10, 3)?;
        }
        xbr.signal(Signal::SIGCONT)?;
    }
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 100)?;
    xbr.stop()
}

/// While `change` is made 10,000 times, frames between two other ports lose nothing, the daemon answers, and in the end
/// everything is fast.
fn burst(scene: &Scene, mut change: impl FnMut(&mut Rtnl, u32, u32) -> Result<()>) -> Result<()> {
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    warm(&xbr, one, three)?;
    let mut rtnl = Rtnl::open(&scene.net.host)?;
    let port = index(scene, &three.port)?;
    let flow = Flow::start(one, &[two], &[three], Frame::new(one.mac, two.mac), 2000 / slowness(), u32::MAX)?;
    let before = xbr.fast(&one.port)?;
    for number in 0..10_000 {
        change(&mut rtnl, port, number)?;
    }
    let during = xbr.fast(&one.port)? - before;
    let account = flow.stop()?;
    account.exact()?;
    println!("fast during the burst: {during} of {}", account.sent);
    ensure!(during > 0, "no frame was fast during the burst: {}", xbr.summary());
    ensure!(xbr.reason(&one.port, "suspended")? == 0, "the lease ended: {}", xbr.summary());
    warm(&xbr, one, three)?;
    scene.steady(&xbr, one, two, 200)?;
    scene.steady(&xbr, one, three, 200)?;
    xbr.stop()
}

fn ten_thousand_port_changes() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    burst(&scene, |rtnl, port, number| rtnl.isolated(port, number % 2 == 0))
}

fn ten_thousand_vlan_changes() -> Result<()> {
    let scene = aware()?;
    burst(&scene, |rtnl, port, number| {
        let vid = 100 + u16::try_from(number / 2 % 1000)?;
        if number % 2 == 0 { rtnl.vlan_add(port, vid, 0) } else { rtnl.vlan_delete(port, vid) }
    })
}

/// `--coherence netlink`: later, but in the end the same.
fn netlink_alone_follows_too() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&["--coherence", "netlink"])?;
    warm(&xbr, one, two)?;
    let status = xbr.status()?;
    let warnings = status["warnings"].as_array().map_or(0, Vec::len);
    ensure!(warnings == 2, "two warnings say what is not attached: {}", status["warnings"]);
    let mut rtnl = Rtnl::open(&scene.net.host)?;
    for to in [two, three, two] {
        rtnl.fdb_replace(index(&scene, &to.port)?, STATION, 0)?;
        sleep(Duration::from_millis(100) * slowness());
        scene.steady_frame(&xbr, one, to, &Frame::new(one.mac, STATION), 100)?;
    }
    let (from, to) = (index(&scene, &one.port)?, index(&scene, &two.port)?);
    rtnl.isolated(from, true)?;
    rtnl.isolated(to, true)?;
    sleep(Duration::from_millis(100) * slowness());
    ensure!(arriving(one, STATION, &mut two.capture()?, 60)? == 0, "frames pass between isolated ports");
    xbr.stop()
}

/// The bridge that was named is gone, then there again; a bridge of `--all` is served under any name.
fn a_bridge_is_renamed() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    for all in [false, true] {
        let args = if all { "--all" } else { "br0" };
        let xbr = Xbr::start(&scene.net.host, &[args])?;
        warm(&xbr, one, two)?;
        let rename = |from: &str, to: &str| -> Result<()> {
            scene.host(&format!("ip link set {from} down"))?;
            scene.host(&format!("ip link set {from} name {to}"))?;
            scene.host(&format!("ip link set {to} up"))?;
            scene.guests.iter().try_for_each(|guest| scene.net.forwarding(&guest.port))?;
            scene.greet()
        };
        rename("br0", "brx")?;
        let account = Flow::start(one, &[two], &[three], Frame::new(one.mac, two.mac), 1000, 200)?.finish()?;
        account.exact()?;
        if all {
            warm(&xbr, one, two)?;
        } else {
            wait::until("the bridge is absent", Duration::from_secs(3), || {
                let status = xbr.status()?;
                Ok(xbr_tests::xbr::find_port(&status, &one.port).is_none())
            })?;
        }
        rename("brx", "br0")?;
        warm(&xbr, one, two)?;
        scene.steady(&xbr, one, two, 200)?;
        xbr.stop()?;
    }
    Ok(())
}

fn ports_are_renamed() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, _] = scene.first();
    let xbr = scene.xbr(&["--port", &one.port, "--port", &two.port])?;
    warm(&xbr, one, two)?;
    let rename = |from: &str, to: &str| -> Result<()> {
        // Kernels before 6.2 rename only what is down.
        scene.host(&format!("ip link set {from} down"))?;
        scene.host(&format!("ip link set {from} name {to}"))?;
        scene.host(&format!("ip link set {to} up"))?;
        scene.net.forwarding(to)?;
        scene.greet()
    };
    rename(&two.port, "other")?;
    xbr.wait_slow("other", "not_selected")?;
    let account = Flow::start(two, &[one], &[], Frame::new(two.mac, one.mac), 1000, 200)?.finish()?;
    account.exact()?;
    rename("other", &two.port)?;
    xbr.wait_accelerated(&two.port)?;
    warm(&xbr, one, two)?;
    scene.steady(&xbr, two, one, 200)?;
    xbr.stop()
}

/// A port that leaves for another namespace takes nothing with it, and is served again when it comes back.
fn a_port_goes_elsewhere_and_back() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for round in 0..3 {
        warm(&xbr, one, two)?;
        scene.steady(&xbr, one, two, 100)?;
        let mut captures = [two.capture()?, three.capture()?];
        scene.host(&format!("ip link set {} netns {}", two.port, three.space.name()))?;
        ensure!(arriving(one, two.mac, &mut captures[1], 100 + round)? == 10, "frames to a port that left are flooded");
        ensure!(numbers(&mut captures[0], 100 + round)?.is_empty(), "frames reach a port that left");
        wait::until("the port is gone", Duration::from_secs(3), || {
            Ok(xbr_tests::xbr::find_port(&xbr.status()?, &two.port).is_none())
        })?;
        three.space.cmd(&format!("ip link set {} netns {}", two.port, scene.net.host.name()))?;
        scene.host(&format!("ip link set {} up", two.port))?;
        scene.net.join(two, "br0")?;
        scene.greet()?;
        xbr.wait_accelerated(&two.port)?;
    }
    warm(&xbr, one, two)?;
    scene.steady(&xbr, two, one, 200)?;
    xbr.stop()
}
