//! What fast frames still move and show, and what they no longer do: docs/semantics.md says so, this is where it comes from.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xbr_tests::{
    frame::{Frame, Tag, mac},
    measure::Reading,
    net::{Guest, Kind},
    packet::Capture,
    probe::Need,
    traffic::{Flow, flow},
    wait::slowness,
    xbr::count,
};

use super::{
    Test,
    scene::{Scene, warm, warm_tagged},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("visible::the_tc_path_shows_frames_and_moves_counters", the_tc_path, &[]),
    test("visible::the_xdp_path_shows_nothing", the_xdp_path, &[Need::Tun]),
    test("visible::entries_are_used_and_updated_less", entries_are_used_less, &[]),
    test("visible::conntrack_of_the_bridge_keeps_it_slow", conntrack, &[Need::NftBridge]),
    test("visible::statistics_by_vlan", statistics_by_vlan, &[Need::VlanFiltering]),
];

/// Frames in each flow.
const FRAMES: u32 = 200;

/// Packets that the kernel counted on a device.
fn counted(scene: &Scene, device: &str, direction: &str) -> Result<u64> {
    scene.net.host.link_counter(device, direction, "packets")
}

/// Frames of the lab that a tap on a device of the host has seen, both ways.
fn seen(capture: &mut Capture) -> Result<usize> {
    Ok(capture.drain(Duration::from_millis(200))?.len())
}

fn the_tc_path() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, _three] = scene.first();
    // A qdisc of one's own: it has counters.
    scene.host("tc qdisc add dev g2 root handle 7: pfifo limit 1000")?;
    let queued =
        || -> Result<u64> { Ok(count(&scene.net.host.json("tc -j -s qdisc show dev g2 root")?[0]["packets"])) };
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let before = (counted(&scene, "g1", "rx")?, counted(&scene, "g2", "tx")?, counted(&scene, "br0", "rx")?, queued()?);
    let mut taps = (Capture::both_ways(&scene.net.host, "g1")?, Capture::both_ways(&scene.net.host, "g2")?);
    let mut reading = Reading::take(&xbr)?;
    flow(one, two, &[], FRAMES, 4000)?.exact()?;
    let delta = reading.since(&xbr)?.remove("g1").context("g1")?;
    ensure!(delta.fast >= u64::from(FRAMES) - 1, "{delta:?}");
    let frames = FRAMES as usize;
    let (ingress, egress) = (seen(&mut taps.0)?, seen(&mut taps.1)?);
    ensure!(ingress == frames && egress == frames, "taps saw {ingress} frames at g1 and {egress} at g2");
    let after = (counted(&scene, "g1", "rx")?, counted(&scene, "g2", "tx")?, counted(&scene, "br0", "rx")?, queued()?);
    let moved = (after.0 - before.0, after.1 - before.1, after.2 - before.2, after.3 - before.3);
    ensure!(moved == (u64::from(FRAMES), u64::from(FRAMES), 0, u64::from(FRAMES)), "rx, tx, br0, qdisc: {moved:?}");
    // A tap on br0 makes it promiscuous: it sees every frame, and the fast path rests meanwhile.
    scene.host("ip link set br0 promisc on")?;
    xbr.wait_slow("g1", "bridge_promisc")?;
    let mut tap = Capture::both_ways(&scene.net.host, "br0")?;
    reading = Reading::take(&xbr)?;
    flow(one, two, &[], FRAMES, 4000)?.exact()?;
    ensure!(seen(&mut tap)? == frames, "br0 did not see every frame");
    ensure!(reading.since(&xbr)?.remove("g1").context("g1")?.fast == 0, "{}", xbr.summary());
    xbr.stop()
}

fn the_xdp_path() -> Result<()> {
    let scene = Scene::new(&[Kind::Tap, Kind::Wire])?;
    let [tap, wire] = scene.first();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    warm(&xbr, wire, tap)?;
    let mut taps = (Capture::both_ways(&scene.net.host, "eth0")?, Capture::both_ways(&scene.net.host, "g1")?);
    let before = (counted(&scene, "eth0", "rx")?, counted(&scene, "g1", "tx")?);
    let reading = Reading::take(&xbr)?;
    flow(wire, tap, &[], FRAMES, 4000 / slowness())?.exact()?;
    let delta = reading.since(&xbr)?.remove("eth0").context("eth0")?;
    let fast = delta.reasons.get("forwarded_xdp").copied().unwrap_or_default();
    ensure!(fast >= u64::from(FRAMES) - 1, "{delta:?}");
    let (ingress, egress) = (seen(&mut taps.0)?, seen(&mut taps.1)?);
    let slow = usize::try_from(u64::from(FRAMES) - fast)?;
    ensure!(ingress == slow && egress == slow, "taps saw {ingress} frames at eth0 and {egress} at g1");
    // The drivers count all the same.
    let moved = (counted(&scene, "eth0", "rx")? - before.0, counted(&scene, "g1", "tx")? - before.1);
    ensure!(moved == (u64::from(FRAMES), u64::from(FRAMES)), "rx of eth0, tx of g1: {moved:?}");
    xbr.stop()
}

/// Seconds since an entry was used as a destination, and since its host was heard.
fn ages(scene: &Scene, guest: &Guest) -> Result<(u64, u64)> {
    let entries = scene.net.host.json("bridge -j -s fdb show br br0")?;
    let address = mac(guest.mac);
    let entry = entries.as_array().into_iter().flatten().find(|entry| entry["mac"] == address.as_str());
    let entry: &Value = entry.with_context(|| format!("{address} is not in the FDB"))?;
    Ok((count(&entry["used"]), count(&entry["updated"])))
}

/// `used` of destinations stands still, `updated` of sources moves once an interval.
fn entries_are_used_less() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let [one, two] = scene.first();
    scene.host("ip link set br0 type bridge ageing_time 30000")?;
    let busy = || -> Result<()> {
        let there = Flow::start(one, &[two], &[], Frame::new(one.mac, two.mac), 200, u32::MAX)?;
        let back = Flow::start(two, &[one], &[], Frame::new(two.mac, one.mac), 200, u32::MAX)?;
        sleep(Duration::from_secs(4));
        there.stop()?.exact()?;
        back.stop()?.exact()
    };
    busy()?;
    let plain = ages(&scene, two)?;
    ensure!(plain.0 <= 1 && plain.1 <= 1, "the plain bridge: used, updated {plain:?} s ago");
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    busy()?;
    let fast = ages(&scene, two)?;
    ensure!(fast.0 >= 3 && fast.1 >= 3, "with the fast path: used, updated {fast:?} s ago");
    ensure!(fast.1 <= 300 / 32 + 2, "not refreshed: updated {} s ago", fast.1);
    ensure!(xbr.fast("g1")? > 500 && xbr.fast("g2")? > 500, "{}", xbr.summary());
    xbr.stop()
}

/// Connection tracking on a bridge hangs on a chain that asks for it: rules keep the bridge slow, so it sees all.
fn conntrack() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let [one, two] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let nft = |line: &str| scene.host(&format!("nft {line}"));
    nft("add table bridge watch")?;
    nft("add chain bridge watch forward { type filter hook forward priority 0 ; }")?;
    nft("add rule bridge watch forward counter")?;
    xbr.wait_slow("g1", "netfilter")?;
    flow(one, two, &[], FRAMES, 4000)?.exact()?;
    let rules = scene.net.host.json("nft -j list chain bridge watch forward")?;
    let packets = rules["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|item| item["rule"]["expr"][0]["counter"]["packets"].as_u64());
    ensure!(packets == Some(u64::from(FRAMES)), "the rule counted {packets:?} frames");
    nft("delete table bridge watch")?;
    xbr.wait_accelerated("g1")?;
    xbr.stop()
}

/// The kernel's statistics by VLAN miss fast frames; xbr counts them by VLAN itself.
fn statistics_by_vlan() -> Result<()> {
    let scene = Scene::with("vlan_filtering 1 vlan_default_pvid 0 vlan_stats_enabled 1", &[Kind::Veth, Kind::Veth])?;
    let [one, two] = scene.first();
    scene.host("bridge vlan add dev g1 vid 10 pvid untagged")?;
    scene.host("bridge vlan add dev g2 vid 10")?;
    let kernel = || -> Result<u64> {
        let devices = scene.net.host.json("bridge -j -s vlan show")?;
        let vlans = devices.as_array().into_iter().flatten().filter_map(|device| device["vlans"].as_array()).flatten();
        // With statistics, `bridge` calls them by another name than without.
        Ok(vlans.filter(|vlan| vlan["vid"] == 10).map(|vlan| count(&vlan["rx_packets"])).max().unwrap_or_default())
    };
    let xbr = scene.xbr(&[])?;
    warm_tagged(&xbr, (one, &[]), (two, &[Tag::q(10)]))?;
    let ours = || -> Result<u64> { Ok(count(&xbr.status()?["bridges"][0]["vlans"][0]["fast"]["packets"])) };
    let before = (kernel()?, ours()?);
    flow(one, two, &[], FRAMES, 2000 / slowness())?.exact()?;
    let after = (kernel()? - before.0, ours()? - before.1);
    ensure!(after.0 <= 2 && after.1 >= u64::from(FRAMES) - 2, "the kernel counted {}, xbr {}", after.0, after.1);
    ensure!(before.0 > 0, "the kernel counts nothing at all");
    xbr.stop()
}
