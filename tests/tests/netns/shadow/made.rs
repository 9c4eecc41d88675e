//! Disagreements are made by policy of others that the operator chose to overrule: then xbr would go around it.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xbr_tests::{
    bpf,
    frame::{self, Frame},
    traffic::{self, flow_number},
    wait::{self, slowness},
    xbr::{Xbr, count},
};

use super::{Scene, THREE, compared, plain, total, warm};

/// Sends frames from the first guest to the second and waits for disagreements of this kind, each frame one; gives the
/// example.
fn disagreement(scene: &Scene, xbr: &Xbr, frame: &Frame, kind: &str) -> Result<Value> {
    let [one, ..] = scene.first::<3>();
    let before = total(xbr)?;
    let (sender, flow) = (one.sender()?, flow_number());
    for number in 0..100 {
        sender.send(&frame.clone().numbered(flow, number).bytes())?;
        sleep(Duration::from_millis(1));
    }
    let since = |now: &Value, key: &str| count(&now[key]) - count(&before[key]);
    let mut account = Value::Null;
    let found = wait::until(&format!("disagreements of kind {kind}"), Duration::from_secs(5), || {
        account = total(xbr)?;
        Ok(count(&account["disagreements"][kind]) - count(&before["disagreements"][kind]) >= 95)
    });
    let status = xbr.status()?;
    found.with_context(|| format!("{account}: {}", status["shadow"]["examples"]))?;
    ensure!(since(&account, "agreed") == 0, "some agreed: {account}");
    let examples = status["shadow"]["examples"].as_array().context("no examples")?.clone();
    let example = examples.into_iter().find(|example| example["kind"] == kind).context("no example")?;
    ensure!(example["ingress"] == one.port.as_str() && example["bridge"] == "br0", "{example}");
    let received = example["received_bytes"].as_str().unwrap_or_default();
    // Both addresses, in hexadecimal.
    let sent = format!("{}{}", frame::mac(frame.dst), frame::mac(frame.src)).replace(':', "");
    ensure!(received.starts_with(&sent), "{received} does not begin with {sent}");
    let check = xbr.ask(&["status", "--check"])?;
    ensure!(check.status.code() == Some(4), "status --check says {:?}", check.status.code());
    let text = xbr.ask(&["status", "-d"])?;
    ensure!(String::from_utf8_lossy(&text.stdout).contains(&format!("  {kind} ")), "{text:?}");
    Ok(example)
}

/// A scene of three guests that are known, in shadow mode with a policy overruled.
fn overruled(reason: &str) -> Result<(Scene, Xbr)> {
    let scene = Scene::new(&THREE)?;
    let xbr = scene.xbr(&["--shadow", "--sample", "1", "--overrule", reason])?;
    let [one, two, three] = scene.first();
    warm(&xbr, plain(one), plain(two))?;
    warm(&xbr, plain(one), plain(three))?;
    // Frames are judged when they are half a second old: those of the warming up must not be among what follows.
    sleep(Duration::from_secs(1) * slowness());
    ensure!(count(&total(&xbr)?["disagreed"]) == 0, "disagreements before any was made: {}", total(&xbr)?);
    Ok((scene, xbr))
}

/// An nft rule of the bridge family.
fn nft(scene: &Scene, hook: &str, priority: &str, rule: &str) -> Result<()> {
    scene.host("nft add table bridge made")?;
    scene.host(&format!("nft add chain bridge made rules {{ type filter hook {hook} priority {priority} ; }}"))?;
    scene.host(&format!("nft add rule bridge made rules {rule}")).map(drop)
}

fn one_to_two(scene: &Scene) -> Frame {
    let [one, two, _three] = scene.first();
    Frame::new(one.mac, two.mac).payload_len(300)
}

pub(super) fn a_dropped_frame_never_left() -> Result<()> {
    let (scene, xbr) = overruled("netfilter")?;
    let [one, two, _three] = scene.first();
    nft(&scene, "forward", "0", &format!("ether saddr {} drop", frame::mac(one.mac)))?;
    let example = disagreement(&scene, &xbr, &one_to_two(&scene), "never_left")?;
    ensure!(example["expected_port"] == two.port.as_str() && example["actual_port"].is_null(), "{example}");
    // Without the rule, all is well again.
    scene.host("nft delete table bridge made")?;
    let before = total(&xbr)?;
    traffic::flow(one, two, &[], 100, 1000)?.exact()?;
    let account = compared(&xbr, count(&before["agreed"]) + count(&before["disagreed"]) + 90)?;
    ensure!(account["disagreed"] == before["disagreed"], "{before} then {account}");
    xbr.stop()
}

pub(super) fn a_redirected_frame() -> Result<()> {
    let (scene, xbr) = overruled("netfilter")?;
    let [one, two, three] = scene.first();
    let (from, to) = (frame::mac(one.mac), frame::mac(three.mac));
    nft(&scene, "prerouting", "dstnat", &format!("ether saddr {from} ether daddr set {to}"))?;
    let example = disagreement(&scene, &xbr, &one_to_two(&scene), "other_port")?;
    ensure!(
        example["expected_port"] == two.port.as_str() && example["actual_port"] == three.port.as_str(),
        "{example}"
    );
    let (expected, actual) = (&example["expected_bytes"], &example["actual_bytes"]);
    ensure!(expected != actual && example["expected_length"] == example["actual_length"], "{example}");
    xbr.stop()
}

pub(super) fn a_frame_turned_to_the_bridge() -> Result<()> {
    let (scene, xbr) = overruled("netfilter")?;
    let [one, ..] = scene.first::<3>();
    let links = scene.net.host.json("ip -j link show dev br0")?;
    let own = links[0]["address"].as_str().context("no address")?;
    let rule = format!("ether saddr {} ether daddr set {own}", frame::mac(one.mac));
    nft(&scene, "prerouting", "dstnat", &rule)?;
    let example = disagreement(&scene, &xbr, &one_to_two(&scene), "went_up")?;
    ensure!(example["actual_port"] == "br0" && example["copies_up"] == 1, "{example}");
    xbr.stop()
}

pub(super) fn a_promiscuous_bridge() -> Result<()> {
    let (scene, xbr) = overruled("bridge_promisc")?;
    scene.host("ip link set br0 promisc on")?;
    let example = disagreement(&scene, &xbr, &one_to_two(&scene), "extra_copy")?;
    ensure!(example["actual_port"] == "br0" && example["copies_up"] == 1, "{example}");
    ensure!(example["copies_expected"] == 1, "{example}");
    xbr.stop()
}

pub(super) fn a_mirrored_frame() -> Result<()> {
    let (scene, xbr) = overruled("tc_filter")?;
    let [one, _two, three] = scene.first();
    let _mirror = scene.net.host.enter(|| bpf::mirror(&one.port, &three.port))??;
    let example = disagreement(&scene, &xbr, &one_to_two(&scene), "extra_copy")?;
    ensure!(example["actual_port"] == three.port.as_str() && example["copies_elsewhere"] == 1, "{example}");
    xbr.stop()
}

pub(super) fn a_rewritten_byte() -> Result<()> {
    let (scene, xbr) = overruled("tc_filter")?;
    let [one, two, _three] = scene.first();
    let _writer = scene.net.host.enter(|| bpf::write_byte(&one.port, 100, 0xee))??;
    let example = disagreement(&scene, &xbr, &one_to_two(&scene), "other_bytes")?;
    ensure!(example["actual_port"] == two.port.as_str(), "{example}");
    ensure!(example["detail"].as_str().unwrap_or_default().contains("byte 100 is ee instead of"), "{example}");
    xbr.stop()
}

/// Behind the head only a window at random is compared; in a frame that ends with the window, all of it.
pub(super) fn a_rewritten_byte_far_behind() -> Result<()> {
    let (scene, xbr) = overruled("tc_filter")?;
    let [one, two, _three] = scene.first();
    let _writer = scene.net.host.enter(|| bpf::write_byte(&one.port, 180, 0xee))??;
    let frame = Frame::new(one.mac, two.mac).payload_len(190 - 14);
    let example = disagreement(&scene, &xbr, &frame, "other_bytes")?;
    ensure!(example["detail"].as_str().unwrap_or_default().contains("byte 180"), "{example}");
    xbr.stop()
}
