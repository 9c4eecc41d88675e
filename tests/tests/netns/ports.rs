//! Bridges and ports that come and go, and options of ports.

use std::{sync::Arc, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xbr_tests::{
    frame::Frame,
    leak::descriptors,
    net::{Guest, Kind, Net},
    netns::Netns,
    probe::Need,
    traffic::{self, Flow},
    wait,
    xbr::{RunDir, Xbr, find_port},
};

use super::{
    Test,
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("ports::a_port_leaves_and_joins", a_port_leaves_and_joins, &[]),
    test("ports::a_port_goes_down_and_up", a_port_goes_down_and_up, &[]),
    test("ports::an_unplugged_tap_vanishes", an_unplugged_tap_vanishes, &[Need::Tun]),
    test("ports::a_tap_that_was_elsewhere_is_reached_by_xdp_again", a_tap_elsewhere_and_back, &[Need::Tun]),
    test("ports::isolated_ports_stay_isolated", isolated_ports_stay_isolated, &[]),
    test("ports::a_disabled_port_gets_nothing", a_disabled_port_gets_nothing, &[]),
    test("ports::a_bridge_is_deleted_and_made_again", a_bridge_is_deleted_and_made_again, &[]),
    test("ports::started_before_the_bridge", started_before_the_bridge, &[]),
    test("ports::all_takes_bridges_that_appear_later", all_takes_bridges_that_appear_later, &[]),
    test("ports::two_bridges", two_bridges, &[]),
    test("ports::only_some_ports", only_some_ports, &[]),
    test("ports::a_hook_turned_off", a_hook_turned_off, &[]),
    test("ports::interfaces_that_vanish_during_attach", interfaces_that_vanish_during_attach, &[]),
    test("ports::two_instances_in_two_namespaces", two_instances_in_two_namespaces, &[]),
];

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

/// Number of frames out of 100 that arrive.
fn arriving(from: &Guest, to: &Guest) -> Result<u32> {
    let flow = Flow::start(from, &[to], &[], Frame::new(from.mac, to.mac), 2000, 100)?;
    Ok(flow.finish()?.received)
}

fn a_port_leaves_and_joins() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for _ in 0..3 {
        warm(&xbr, one, two)?;
        scene.steady(&xbr, one, two, 200)?;
        scene.host(&format!("ip link set {} nomaster", two.port))?;
        ensure!(arriving(one, two)? == 0, "frames reach a port that left");
        ensure!(arriving(two, one)? == 0, "frames of a port that left are forwarded");
        warm(&xbr, one, three)?;
        scene.net.join(two, "br0")?;
        scene.greet()?;
    }
    xbr.stop()
}

fn a_port_goes_down_and_up() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for device in [&two.port, "br0"] {
        warm(&xbr, one, two)?;
        scene.host(&format!("ip link set {device} down"))?;
        // A port's carrier may be handled a little later; the bridge's own flag counts at once.
        sleep(Duration::from_millis(100));
        ensure!(arriving(one, two)? == 0, "frames pass while {device} is down");
        scene.host(&format!("ip link set {device} up"))?;
        scene.net.forwarding(&two.port)?;
        scene.net.forwarding(&one.port)?;
        scene.greet()?;
    }
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn an_unplugged_tap_vanishes() -> Result<()> {
    let mut scene = Scene::new(&[Kind::Veth, Kind::Tap, Kind::Veth])?;
    let xbr = scene.xbr(&[])?;
    let [one, two, three] = scene.first();
    warm(&xbr, one, two)?;
    warm(&xbr, one, three)?;
    scene.guests[1].unplug()?;
    wait::until("port of the tap gone from the status", Duration::from_secs(3), || {
        Ok(find_port(&xbr.status()?, &scene.guests[1].port).is_none())
    })?;
    let [one, _two, three] = scene.first();
    scene.greet_but(1)?;
    warm(&xbr, one, three)?;
    xbr.stop()
}

/// The kernel takes a device that leaves out of every device map, and does not put it back when it comes home.
fn a_tap_elsewhere_and_back() -> Result<()> {
    let scene = Scene::new(&[Kind::Wire, Kind::Tap, Kind::Veth])?;
    let [uplink, tap, three] = scene.first();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    let by_xdp = || -> Result<u64> {
        warm(&xbr, uplink, tap)?;
        let before = xbr.reason("eth0", "forwarded_xdp")?;
        scene.steady(&xbr, uplink, tap, 100)?;
        Ok(xbr.reason("eth0", "forwarded_xdp")? - before)
    };
    ensure!(by_xdp()? >= 99, "not by XDP at first: {}", xbr.summary());
    // Back before the daemon has looked.
    xbr.signal(Signal::SIGSTOP)?;
    let elsewhere = Netns::create(&format!("{}-away", scene.net.host.name()))?;
    scene.host(&format!("ip link set {} netns {}", tap.port, elsewhere.name()))?;
    elsewhere.cmd(&format!("ip link set {} netns {}", tap.port, scene.net.host.name()))?;
    scene.host(&format!("ip link set {} up", tap.port))?;
    scene.net.join(tap, "br0")?;
    xbr.signal(Signal::SIGCONT)?;
    xbr.wait_accelerated(&tap.port)?;
    scene.greet()?;
    warm(&xbr, three, tap)?;
    ensure!(by_xdp()? >= 99, "not by XDP any more: {}", xbr.summary());
    xbr.stop()
}

fn isolated_ports_stay_isolated() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    warm(&xbr, one, three)?;
    for guest in [one, two] {
        scene.host(&format!("bridge link set dev {} isolated on", guest.port))?;
    }
    wait::until("no frames between isolated ports", Duration::from_secs(1), || Ok(arriving(one, two)? == 0))?;
    ensure!(arriving(two, one)? == 0, "isolated the other way");
    scene.steady(&xbr, one, three, 200)?;
    scene.steady(&xbr, three, one, 200)?;
    scene.host(&format!("bridge link set dev {} isolated off", two.port))?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn a_disabled_port_gets_nothing() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.host(&format!("bridge link set dev {} state 0", two.port))?;
    wait::until("no frames to a disabled port", Duration::from_secs(1), || Ok(arriving(one, two)? == 0))?;
    ensure!(arriving(two, one)? == 0, "frames of a disabled port are forwarded");
    scene.host(&format!("bridge link set dev {} state 3", two.port))?;
    scene.greet()?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn a_bridge_is_deleted_and_made_again() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for _ in 0..3 {
        warm(&xbr, one, two)?;
        scene.host("ip link del br0")?;
        ensure!(arriving(one, two)? == 0, "frames pass without a bridge");
        scene.net.bridge("br0", "")?;
        for guest in &scene.guests {
            scene.net.join(guest, "br0")?;
        }
        scene.greet()?;
    }
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 200)?;
    xbr.stop()
}

fn started_before_the_bridge() -> Result<()> {
    let net = Net::new()?;
    let xbr = Xbr::start(&net.host, &["br0"])?;
    net.bridge("br0", "")?;
    let (one, two) = (net.guest("g1", Kind::Veth)?, net.guest("g2", Kind::Veth)?);
    for guest in [&one, &two] {
        net.join(guest, "br0")?;
    }
    warm(&xbr, &one, &two)?;
    xbr.stop()
}

/// A second bridge with two more guests.
fn second_bridge(scene: &Scene) -> Result<[Guest; 2]> {
    scene.net.bridge("br1", "")?;
    let guests = [scene.net.guest("h1", Kind::Veth)?, scene.net.guest("h2", Kind::Veth)?];
    for guest in &guests {
        scene.net.join(guest, "br1")?;
    }
    Ok(guests)
}

/// Frames do not go from one bridge to another, though both know the address.
fn apart(here: &Guest, there: &Guest) -> Result<()> {
    let account = Flow::start(here, &[], &[there], Frame::new(here.mac, there.mac), 2000, 100)?.finish()?;
    ensure!(account.misdelivered == 0, "{} frames went from one bridge to another", account.misdelivered);
    Ok(())
}

fn all_takes_bridges_that_appear_later() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = Xbr::start(&scene.net.host, &["--all"])?;
    warm(&xbr, one, two)?;
    let [here, there] = second_bridge(&scene)?;
    warm(&xbr, &here, &there)?;
    apart(one, &there)?;
    xbr.stop()
}

fn two_bridges() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let [here, there] = second_bridge(&scene)?;
    let xbr = Xbr::start(&scene.net.host, &["br0", "br1"])?;
    warm(&xbr, one, two)?;
    warm(&xbr, &here, &there)?;
    // The same address on both bridges is two stations.
    let twin = Frame::new(two.mac, xbr_tests::frame::BROADCAST).bytes();
    there.sender()?.send(&twin)?;
    sleep(Duration::from_millis(200));
    let account = Flow::start(one, &[two], &[&here, &there], Frame::new(one.mac, two.mac), 2000, 200)?.finish()?;
    account.exact()?;
    let account = Flow::start(&here, &[&there], &[one, two], Frame::new(here.mac, two.mac), 2000, 200)?.finish()?;
    account.exact()?;
    apart(one, &there)?;
    xbr.stop()
}

fn only_some_ports() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&["--port", &one.port, "--port", &two.port])?;
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 200)?;
    traffic::flow(one, three, &[two], 200, 2000)?.exact()?;
    traffic::flow(three, one, &[two], 200, 2000)?.exact()?;
    let status = xbr.status()?;
    ensure!(find_port(&status, &three.port).is_none_or(|port| port["fast"]["packets"] == 0), "{}", xbr.summary());
    xbr.stop()
}

fn a_hook_turned_off() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&["--hook", &format!("{}=off", three.port)])?;
    warm(&xbr, one, two)?;
    traffic::flow(three, one, &[two], 200, 2000)?.exact()?;
    traffic::flow(one, three, &[two], 200, 2000)?.exact()?;
    let port = xbr.port(&three.port)?;
    ensure!(port["hook"] == "none" && port["accelerated"] == false, "{port}");
    xbr.stop()
}

/// Devices that join and are deleted at once, while the daemon attaches to them.
fn interfaces_that_vanish_during_attach() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let before = descriptors(xbr.pid())?;
    for round in 0..40_u64 {
        scene.host("ip link add name gone type veth peer name gone2")?;
        scene.host("ip link set gone up")?;
        scene.host("ip link set gone master br0")?;
        // From "before the event is read" to "in the middle of it".
        sleep(Duration::from_millis(round % 8));
        scene.host("ip link del gone")?;
    }
    wait::until("vanished port gone from the status", Duration::from_secs(3), || {
        Ok(find_port(&xbr.status()?, "gone").is_none())
    })?;
    scene.steady(&xbr, one, two, 200)?;
    let after = descriptors(xbr.pid())?;
    ensure!(after <= before + 1, "descriptors grew from {before} to {after}");
    xbr.stop()
}

fn two_instances_in_two_namespaces() -> Result<()> {
    let (left, right) = (Scene::new(&THREE)?, Scene::new(&THREE)?);
    let start = |scene: &Scene| -> Result<Xbr> {
        let mut xbr = Xbr::spawn(&scene.net.host, &["br0"], Arc::new(RunDir::new()?))?;
        xbr.wait_ready()?;
        Ok(xbr)
    };
    let (here, there) = (start(&left)?, start(&right)?);
    for (scene, xbr) in [(&left, &here), (&right, &there)] {
        let [one, two, _three] = scene.first();
        warm(xbr, one, two).context("two instances")?;
    }
    here.stop()?;
    let [one, two, _three] = right.first();
    right.steady(&there, one, two, 200)?;
    there.stop()
}
