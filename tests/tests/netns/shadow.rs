//! Shadow mode: nothing is forwarded, real traffic agrees, and every kind of disagreement that is made is found.

#[path = "shadow/made.rs"]
mod made;

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xbr_tests::{
    frame::{Frame, Tag},
    leak,
    net::{Guest, Kind},
    probe::Need,
    traffic::{self, flow_number, ping, tcp},
    wait::{self, slowness},
    xbr::{Xbr, count},
};

use super::{Test, scene::Scene, test};

pub(crate) const TESTS: &[Test] = &[
    test("shadow::real_traffic_agrees", real_traffic_agrees, &[Need::Tun]),
    test("shadow::tags_agree", tags_agree, &[Need::VlanFiltering, Need::Tun]),
    test("shadow::a_dropped_frame_never_left", made::a_dropped_frame_never_left, &[Need::NftBridge]),
    test("shadow::a_redirected_frame_left_by_another_port", made::a_redirected_frame, &[Need::NftBridge]),
    test("shadow::a_frame_turned_to_the_bridge_went_up", made::a_frame_turned_to_the_bridge, &[Need::NftBridge]),
    test("shadow::a_promiscuous_bridge_gets_an_extra_copy", made::a_promiscuous_bridge, &[]),
    test("shadow::a_mirrored_frame_is_an_extra_copy", made::a_mirrored_frame, &[Need::Tcx]),
    test("shadow::a_rewritten_byte_is_found", made::a_rewritten_byte, &[Need::Tcx]),
    test("shadow::a_rewritten_byte_far_behind_is_found", made::a_rewritten_byte_far_behind, &[Need::Tcx]),
    test("shadow::the_fast_path_is_off", the_fast_path_is_off, &[]),
    test("shadow::a_port_that_is_not_named_is_looked_at", a_port_that_is_not_named, &[]),
    test("shadow::more_frames_than_records", more_frames_than_records, &[]),
    test("shadow::ports_are_left_as_they_were_found", ports_are_left_as_they_were_found, &[]),
];

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

/// The account of the instance.
fn total(xbr: &Xbr) -> Result<Value> {
    Ok(xbr.status()?["shadow"]["total"].clone())
}

/// Waits until at least so many frames were compared, and gives the account.
fn compared(xbr: &Xbr, at_least: u64) -> Result<Value> {
    let mut last = Value::Null;
    wait::until(&format!("{at_least} frames compared"), Duration::from_secs(5), || {
        last = total(xbr)?;
        Ok(count(&last["agreed"]) + count(&last["disagreed"]) + count(&last["unknown"]) >= at_least)
    })
    .with_context(|| format!("account: {last}; {}", xbr.summary()))?;
    Ok(last)
}

/// What agreed since a moment, and that nothing else happened.
fn all_agree(xbr: &Xbr, at_least: u64) -> Result<()> {
    let account = compared(xbr, at_least)?;
    ensure!(
        count(&account["disagreed"]) == 0 && count(&account["unknown"]) == 0,
        "disagreements: {account}: {}",
        xbr.status()?["shadow"]["examples"]
    );
    Ok(())
}

/// Single frames between two guests until those of both would be forwarded.
fn warm(xbr: &Xbr, one: (&Guest, &[Tag]), other: (&Guest, &[Tag])) -> Result<()> {
    let flow = flow_number();
    let (here, there) = (one.0.sender()?, other.0.sender()?);
    let frame = |from: (&Guest, &[Tag]), to: &Guest| {
        let mut frame = Frame::new(from.0.mac, to.mac).numbered(flow, 0);
        frame.tags = from.1.to_vec();
        frame.bytes()
    };
    let would = |guest: &Guest| xbr.reason(&guest.port, "would_forward");
    let before = (would(one.0)?, would(other.0)?);
    wait::until(&format!("{} and {} known", one.0.name, other.0.name), Duration::from_secs(5), || {
        here.send(&frame(one, other.0))?;
        there.send(&frame(other, one.0))?;
        sleep(Duration::from_millis(20));
        Ok(would(one.0)? > before.0 && would(other.0)? > before.1)
    })
    .with_context(|| xbr.summary())
}

fn plain(guest: &Guest) -> (&Guest, &'static [Tag]) {
    (guest, &[])
}

fn real_traffic_agrees() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Tap, Kind::Wire, Kind::Veth])?;
    // XDP is asked for and not attached.
    let xbr = scene.xbr(&["--shadow", "--sample", "1", "--hook", "eth0=xdp"])?;
    ensure!(xbr.log().contains("--hook eth0=xdp has no effect"), "no word about XDP: {}", xbr.log());
    for (index, one) in scene.guests.iter().enumerate() {
        for other in &scene.guests[index + 1..] {
            warm(&xbr, plain(one), plain(other))?;
            let answers = ping(one, other.ip, 20, Duration::from_secs(5) * slowness())?;
            ensure!(answers >= 19, "{answers} of 20 pings were answered");
            for (from, to) in [(one, other), (other, one)] {
                let rest = scene.others(&[from, to]);
                traffic::flow(from, to, &rest, 300, 2000)?.exact()?;
                tcp(from, to, (8 << 20) / u64::from(slowness()))?;
            }
        }
    }
    all_agree(&xbr, 4000)?;
    for guest in &scene.guests {
        let port = xbr.port(&guest.port)?;
        ensure!(count(&port["fast"]["packets"]) == 0, "{} frames were forwarded: {port}", port["fast"]);
        ensure!(port["accelerated"] == false && port["shadow"]["ready"] == true, "{port}");
        let hook = port["hook"].as_str().unwrap_or_default();
        ensure!(["tc", "tcx"].contains(&hook), "{hook}");
        let (would, agreed) = (&port["shadow"]["would_forward"]["packets"], &port["shadow"]["agreed"]);
        ensure!(*would == port["reasons"]["would_forward"] && count(would) >= 900, "{port}");
        ensure!(count(agreed) > 0 && count(agreed) <= count(would), "{port}");
    }
    xbr.stop()
}

/// Tag pushed, popped, replaced and kept; super-frames through a trunk.
fn tags_agree() -> Result<()> {
    let scene = Scene::with("vlan_filtering 1 vlan_default_pvid 0", &[Kind::Veth, Kind::Tap, Kind::Wire])?;
    let [access, access_tap, trunk] = scene.first();
    for (guest, words) in [(access, "10 pvid untagged"), (access_tap, "10 pvid untagged"), (trunk, "10")] {
        scene.host(&format!("bridge vlan add dev {} vid {words}", guest.port))?;
    }
    let xbr = scene.xbr(&["--shadow", "--sample", "1"])?;
    let (ten, priority) = ([Tag::q(10)], [Tag::q(0).pcp(5)]);
    let none: [Tag; 0] = [];
    warm(&xbr, (access, &none), (trunk, &ten))?;
    warm(&xbr, (access_tap, &none), (trunk, &ten))?;
    let inner = [Tag::q(10), Tag::q(20)];
    let cases: [(&Guest, &[Tag], &Guest); 7] = [
        (access, &none, trunk),
        (access, &priority, trunk),
        (access, &priority, access_tap),
        (access_tap, &ten, access),
        (trunk, &ten, access),
        (trunk, &ten, access_tap),
        (trunk, &inner, access),
    ];
    for (from, tags, to) in cases {
        for length in [46, 400] {
            let before = xbr.reason(&from.port, "would_forward")?;
            let mut one = Frame::new(from.mac, to.mac).payload_len(length);
            one.tags = tags.to_vec();
            let rest = scene.others(&[from, to]);
            traffic::Flow::start(from, &[to], &rest, one, 1000 / slowness(), 50)?.finish()?.exact()?;
            let would = xbr.reason(&from.port, "would_forward")? - before;
            ensure!(would >= 45, "{} to {} with {tags:x?}: only {would} of 50 decided", from.name, to.name);
        }
    }
    if Need::VlanDevice.met() {
        let outside = scene.net.vlan_host("out10", trunk, 10)?;
        tcp(access, &outside, (4 << 20) / u64::from(slowness()))?;
        tcp(&outside, access, (4 << 20) / u64::from(slowness()))?;
    }
    all_agree(&xbr, 600)?;
    xbr.stop()
}

/// What the other modes show is still there: policy is found, and the daemon's hang is noticed.
fn the_fast_path_is_off() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&["--shadow"])?;
    warm(&xbr, plain(one), plain(two))?;
    let status = xbr.status()?;
    ensure!(status["active"] == false && status["shadow"]["active"] == true, "{status}");
    ensure!(status["shadow"]["sample"] == 16, "{status}");
    let check = xbr.ask(&["status", "--check"])?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    scene.net.host.output(&format!("tc qdisc add dev {} clsact", one.port))?;
    scene.host(&format!("tc filter add dev {} ingress protocol all prio 7 u32 match u32 0 0 flowid 1:1", one.port))?;
    xbr.wait_slow(&one.port, "tc_filter")?;
    let text = xbr.ask(&["status"])?;
    let text = String::from_utf8_lossy(&text.stdout);
    ensure!(
        text.contains("shadow mode: nothing is forwarded") && text.contains("NOT ACCELERATED: tc_filter"),
        "{text}"
    );
    let top = xbr.ask(&["top", "-b", "-n", "1", "-d", "0.2"])?;
    let top = String::from_utf8_lossy(&top.stdout);
    ensure!(top.contains("shadow mode, 3 ports, 2 would be accelerated") && top.contains(" disagree"), "{top}");
    xbr.stop()
}

/// With `--port`, frames still leave by the others.
fn a_port_that_is_not_named() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr =
        scene.xbr(&["--shadow", "--sample", "1", "--port", &one.port, "--hook", &format!("{}=off", three.port)])?;
    let flow = flow_number();
    for to in [two, three] {
        traffic::flow(to, one, &[], 3, 100)?.exact()?;
        let sender = one.sender()?;
        for number in 0..50 {
            sender.send(&Frame::new(one.mac, to.mac).numbered(flow, number).bytes())?;
        }
    }
    all_agree(&xbr, 45)?;
    let (one, two, three) = (xbr.port(&one.port)?, xbr.port(&two.port)?, xbr.port(&three.port)?);
    ensure!(count(&one["shadow"]["agreed"]) <= 50, "frames to a port that is off were expected there: {one}");
    ensure!(one["shadow"]["ready"] == true && two["shadow"]["ready"] == false, "{one} {two}");
    ensure!(two["slow_reason"] == "not_selected" && three["slow_reason"] == "turned_off", "{two} {three}");
    xbr.stop()
}

/// The records are finite: what finds none is counted, and nothing is called agreement that was not compared.
fn more_frames_than_records() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let [one, two] = scene.first();
    let xbr = scene.xbr(&["--shadow", "--sample", "1"])?;
    warm(&xbr, plain(one), plain(two))?;
    traffic::flow(one, two, &[], 12_000, 60_000 / slowness())?;
    compared(&xbr, 4000)?;
    sleep(Duration::from_secs(1) * slowness());
    let status = xbr.status()?;
    let total = &status["shadow"]["total"];
    let (would, no_room) = (count(&total["would_forward"]["packets"]), count(&status["shadow"]["no_room"]));
    let judged = count(&total["agreed"]) + count(&total["disagreed"]) + count(&total["unknown"]);
    ensure!(would == judged + no_room, "{would} frames, {judged} judged and {no_room} without a record");
    ensure!(count(&total["disagreed"]) == 0, "{total}");
    ensure!(no_room > 0, "all of {would} frames found a record");
    xbr.stop()
}

fn ports_are_left_as_they_were_found() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    // Somebody's clsact, which must stay, and devices without.
    scene.host(&format!("tc qdisc add dev {} clsact", one.port))?;
    let before = leak::attachments(&scene.net.host)?;
    for kill in [false, true] {
        let mut xbr = scene.xbr(&["--shadow", "--sample", "1"])?;
        warm(&xbr, plain(one), plain(two))?;
        ensure!(leak::attachments(&scene.net.host)? != before, "nothing is attached while xbr runs");
        // A port leaves and joins again: its programs go and come.
        scene.host(&format!("ip link set {} nomaster", three.port))?;
        scene.net.join(three, "br0")?;
        scene.greet()?;
        warm(&xbr, plain(three), plain(two))?;
        let account = compared(&xbr, 4)?;
        ensure!(count(&account["disagreed"]) == 0, "{account}: {}", xbr.status()?["shadow"]["examples"]);
        if kill {
            xbr.kill9()?;
        } else {
            xbr.stop()?;
        }
        let mut after = String::new();
        let same = wait::until("ports as they were", Duration::from_secs(3), || {
            after = leak::attachments(&scene.net.host)?;
            Ok(after == before)
        });
        ensure!(same.is_ok(), "left on the ports: before:\n{before}\nafter:\n{after}");
    }
    Ok(())
}
