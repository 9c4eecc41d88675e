//! Frames to containers, which tc hands to the far end of the veth directly (`bpf_redirect_peer`).

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xbr_tests::{
    bpf::foreign,
    frame::{Frame, mac},
    net::{Guest, Kind},
    packet::Capture,
    probe::Need,
    traffic::{self, Flow},
    wait,
    xbr::{Xbr, count},
};

use super::{
    Test,
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("peer::frames_are_handed_over_and_counted", handed_over_and_counted, &[Need::Tcx]),
    test("peer::the_containers_own_stack_takes_them", the_stack_takes_them, &[Need::Tcx]),
    test("peer::a_containers_xdp_program_sees_every_frame", a_program_sees_every_frame, &[Need::Tcx]),
    test("peer::a_container_changes_its_address", a_container_changes_its_address, &[Need::Tcx]),
    test("peer::listeners_and_qdiscs_at_the_near_end", listeners_and_qdiscs, &[Need::Tcx]),
];

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

/// Waits until fast frames leave by the port in this way.
fn wait_egress(xbr: &Xbr, port: &str, egress: &str) -> Result<()> {
    wait::until(&format!("{port} has egress {egress}"), Duration::from_secs(5), || {
        Ok(xbr.port(port)?["egress"] == egress)
    })
}

fn sent_by_kernel(scene: &Scene, guest: &Guest) -> Result<u64> {
    scene.net.host.link_counter(&guest.port, "tx", "packets")
}

fn handed_over_and_counted() -> Result<()> {
    const FRAMES: u32 = 500;
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&["--redirect-peer"])?;
    wait_egress(&xbr, &two.port, "peer")?;
    warm(&xbr, one, two)?;
    let kernel = sent_by_kernel(&scene, two)?;
    let sent = count(&xbr.port(&two.port)?["sent"]["packets"]);
    let received = two.space.link_counter(&two.dev, "rx", "packets")?;
    scene.steady(&xbr, one, two, FRAMES)?;
    let by_kernel = sent_by_kernel(&scene, two)? - kernel;
    ensure!(by_kernel < u64::from(FRAMES) / 10, "{by_kernel} of {FRAMES} frames left by the near end");
    // Neighbours and the like are in it as well.
    let sent = count(&xbr.port(&two.port)?["sent"]["packets"]) - sent;
    ensure!((u64::from(FRAMES)..u64::from(FRAMES) + 50).contains(&sent), "{sent} frames counted as sent");
    let received = two.space.link_counter(&two.dev, "rx", "packets")? - received;
    ensure!(received >= u64::from(FRAMES), "the container counts {received} received frames");
    xbr.stop()
}

/// `ip_rcv` drops what is for another host, as the bridge's port has to take every frame for.
fn the_stack_takes_them() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&["--redirect-peer"])?;
    wait_egress(&xbr, &two.port, "peer")?;
    let fast = xbr.fast(&one.port)?;
    one.space.cmd(&format!("ping -q -c 50 -i 0.01 -W 2 {}", two.ip))?;
    let fast = xbr.fast(&one.port)? - fast;
    ensure!(fast >= 40, "{fast} of 50 pings were fast: {}", xbr.summary());
    xbr.stop()
}

fn a_program_sees_every_frame() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&["--redirect-peer"])?;
    wait_egress(&xbr, &two.port, "peer")?;
    warm(&xbr, one, two)?;
    // It counts from the moment when it is attached, even if the daemon cannot have noticed.
    xbr.signal(Signal::SIGSTOP)?;
    let mut capture = two.capture()?;
    let program = two.space.enter(|| foreign::xdp_native_drop(&two.dev))??;
    let sender = one.sender()?;
    for number in 0..20 {
        sender.send(&Frame::new(one.mac, two.mac).numbered(7, number).bytes())?;
    }
    sleep(Duration::from_millis(50) * wait::slowness());
    let arrived = capture.drain(Duration::from_millis(20))?.iter().filter(|caught| caught.mark().is_some()).count();
    ensure!(arrived == 0, "{arrived} of 20 frames went around the container's program");
    xbr.signal(Signal::SIGCONT)?;
    wait::until("frames are no longer handed over", Duration::from_secs(5), || {
        Ok(xbr.port(&two.port)?["egress"] != "peer")
    })?;
    let account = Flow::start(one, &[two], &[three], Frame::new(one.mac, two.mac), 2000, 200)?.finish()?;
    ensure!(account.received == 0, "{} frames went around the container's program", account.received);
    drop(program);
    wait_egress(&xbr, &two.port, "peer")?;
    scene.greet()?;
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 200)?;
    xbr.stop()
}

fn a_container_changes_its_address() -> Result<()> {
    const OTHER: [u8; 6] = [0x02, 0x77, 0, 0, 0, 9];
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&["--redirect-peer"])?;
    wait_egress(&xbr, &two.port, "peer")?;
    one.space.cmd(&format!("ping -q -c 5 -i 0.01 -W 2 {}", two.ip))?;
    // At once, whether or not the daemon has noticed: the stack takes what is for the new address, as soon as the bridge knows it.
    two.space.cmd(&format!("ip link set {} address {}", two.dev, mac(OTHER)))?;
    one.space.cmd(&format!("ip neigh replace {} lladdr {} dev {} nud permanent", two.ip, mac(OTHER), one.dev))?;
    let (start, fast) = (Instant::now(), xbr.fast(&one.port)?);
    let mut rounds = 0;
    while start.elapsed() < Duration::from_millis(2500) {
        one.space.cmd(&format!("ping -q -c 10 -i 0.01 -W 2 {}", two.ip))?;
        rounds += 1;
    }
    let fast = xbr.fast(&one.port)? - fast;
    ensure!(fast >= rounds * 5, "{fast} of {} frames were fast: {}", rounds * 10, xbr.summary());
    xbr.stop()
}

fn listeners_and_qdiscs() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&["--redirect-peer"])?;
    wait_egress(&xbr, &two.port, "peer")?;
    warm(&xbr, one, two)?;
    // What tcpdump does.
    scene.host(&format!("ip link set {} promisc on", two.port))?;
    wait_egress(&xbr, &two.port, "tc")?;
    let mut listener = Capture::both_ways(&scene.net.host, &two.port)?;
    traffic::flow(one, two, &[], 200, 2000)?.exact()?;
    let seen = listener.drain(Duration::from_millis(50))?.iter().filter(|caught| caught.mark().is_some()).count();
    ensure!(seen == 200, "a listener on the port saw {seen} of 200 frames");
    scene.host(&format!("ip link set {} promisc off", two.port))?;
    wait_egress(&xbr, &two.port, "peer")?;
    scene.host(&format!("tc qdisc add dev {} root pfifo limit 1000", two.port))?;
    wait_egress(&xbr, &two.port, "tc")?;
    let kernel = sent_by_kernel(&scene, two)?;
    scene.steady(&xbr, one, two, 200)?;
    ensure!(sent_by_kernel(&scene, two)? - kernel >= 200, "frames went around a qdisc");
    scene.host(&format!("tc qdisc del dev {} root", two.port))?;
    wait_egress(&xbr, &two.port, "peer")?;
    xbr.stop()
}
