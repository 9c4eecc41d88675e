//! What the kernel changes in its own time: entries that age, ports that come to forward, topology changes.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::Frame,
    traffic::{Flow, flow},
    wait::slowness,
};

use super::{
    super::{
        scene::warm,
        settings::{Setting, everybody, follow, host},
    },
    scene,
};

/// Ageing time 0: the bridge learns nothing and floods everything.
pub(super) fn ageing_time() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let none = Setting::new(
        "ageing_time 0",
        host(&["ip link set br0 type bridge ageing_time 0", "ip link set br0 type bridge fdb_flush"]),
        host(&["ip link set br0 type bridge ageing_time 30000"]),
        &[("g1", "destination_unknown"), ("g3", "destination_unknown")],
    );
    follow(&scene, &[], &probes, &[none])
}

/// Busy stations stay in the FDB when the ageing time falls below what was left until their next refresh.
pub(super) fn ageing_is_shortened() -> Result<()> {
    let scene = scene()?;
    let [one, two, silent] = scene.first();
    // Refreshed every 18 s.
    scene.host("ip link set br0 type bridge ageing_time 60000")?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let ageing = 3 * slowness();
    scene.host(&format!("ip link set br0 type bridge ageing_time {}", ageing * 100))?;
    let there = Flow::start(one, &[two], &[silent], Frame::new(one.mac, two.mac), 200, u32::MAX)?;
    let back = Flow::start(two, &[one], &[silent], Frame::new(two.mac, one.mac), 200, u32::MAX)?;
    sleep(Duration::from_secs(u64::from(ageing) * 2));
    let (there, back) = (there.stop()?, back.stop()?);
    there.exact().context("flooded, or lost")?;
    back.exact().context("flooded, or lost")?;
    ensure!(xbr.fast(&one.port)? > 100, "{}", xbr.summary());
    xbr.stop()
}

/// The forward-delay timer runs with STP off as well: it lets a port forward that was set to learning by hand.
pub(super) fn a_port_forwards_by_itself() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.host(&format!("ip link set br0 type bridge forward_delay {}", 150 * slowness()))?;
    scene.host("ip link set g2 down")?;
    scene.host("ip link set g2 up")?;
    scene.net.forwarding("g2")?;
    scene.host("bridge link set dev g2 state 2")?;
    xbr.wait_slow("g2", "port_state")?;
    two.sender()?.send(&Frame::new(two.mac, one.mac).bytes())?;
    ensure!(flow(one, two, &[], 20, 2000)?.received == 0, "frames reach a port that only learns");
    scene.net.forwarding("g2")?;
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 100)?;
    scene.steady(&xbr, three, one, 100)?;
    xbr.stop()
}

/// The kernel's own STP: ports listen, learn and forward by its timers; a topology change ages entries within the forward
/// delay, unannounced, and busy stations have to survive that.
pub(super) fn kernel_stp() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    // Two seconds are the least; hello and age have to fit.
    scene.host("ip link set br0 type bridge forward_delay 200 hello_time 100 max_age 600")?;
    scene.host("ip link set br0 type bridge stp_state 1")?;
    for port in ["g1", "g2", "g3"] {
        scene.host(&format!("ip link set {port} down"))?;
        scene.host(&format!("ip link set {port} up"))?;
    }
    xbr.wait_slow("g1", "port_state")?;
    for port in ["g1", "g2", "g3"] {
        scene.net.forwarding(port)?;
    }
    scene.greet()?;
    warm(&xbr, one, two)?;
    let changing = || -> Result<bool> {
        let links = scene.net.host.json("ip -j -d link show br0")?;
        Ok(links[0]["linkinfo"]["info_data"]["topology_change"] == 1)
    };
    // Busy from before the change until long after the forward delay.
    let there = Flow::start(one, &[two], &[three], Frame::new(one.mac, two.mac), 200, u32::MAX)?;
    let back = Flow::start(two, &[one], &[three], Frame::new(two.mac, one.mac), 200, u32::MAX)?;
    scene.host("ip link set g3 down")?;
    scene.host("ip link set g3 up")?;
    // The change is noted when the port forwards again.
    scene.net.forwarding("g3")?;
    ensure!(changing()?, "no topology change");
    sleep(Duration::from_secs(4));
    ensure!(changing()?, "the topology change is over too early for this test");
    there.stop()?.exact().context("flooded, or lost")?;
    back.stop()?.exact().context("flooded, or lost")?;
    ensure!(xbr.fast("g1")? > 500, "{}", xbr.summary());
    xbr.stop()
}
