//! VLAN-aware bridges: every combination of membership, PVID, tags and hooks, compared with the kernel byte by byte.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf,
    frame::{BROADCAST, Frame, TPID_Q, Tag},
    net::{Guest, Kind},
    probe::Need,
    traffic::{Flow, tcp},
    wait::{self, slowness},
};

use super::{
    Test,
    observe::{Probe, compare},
    scene::{Scene, warm_tagged},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("vlan::matrix_802_1q_by_tc", || matrix("802.1Q", "eth0=tc", false), NEEDS),
    test("vlan::matrix_802_1q_by_xdp", || matrix("802.1Q", "eth0=xdp", false), NEEDS),
    test("vlan::matrix_802_1ad_by_tc", || matrix("802.1ad", "eth0=tc", false), NEEDS),
    test("vlan::matrix_802_1ad_by_xdp", || matrix("802.1ad", "eth0=xdp", false), NEEDS),
    test("vlan::matrix_with_tags_in_metadata", || matrix("802.1Q", "eth0=tc", true), NEEDS_TCX),
    test("vlan::push_and_pop_are_fast_by_tc", || push_and_pop_are_fast("eth0=tc"), NEEDS),
    test("vlan::push_and_pop_are_fast_by_xdp", || push_and_pop_are_fast("eth0=xdp"), NEEDS),
    test("vlan::priority_survives", priority_survives, NEEDS),
    test("vlan::tcp_through_a_trunk_by_tc", || tcp_through_a_trunk("eth0=tc"), NEEDS_VLAN_DEVICE),
    test("vlan::tcp_through_a_trunk_by_xdp", || tcp_through_a_trunk("eth0=xdp"), NEEDS_VLAN_DEVICE),
    test("vlan::a_member_leaves_its_vlan", a_member_leaves_its_vlan, NEEDS),
    test("vlan::a_pvid_moves", a_pvid_moves, NEEDS),
    test("vlan::filtering_is_toggled", filtering_is_toggled, NEEDS),
    test("vlan::a_vlan_is_blocked", a_vlan_is_blocked, NEEDS),
    test("vlan::counters_by_vlan", counters_by_vlan, NEEDS),
];

const NEEDS: &[Need] = &[Need::VlanFiltering, Need::Tun];
const NEEDS_TCX: &[Need] = &[Need::VlanFiltering, Need::Tun, Need::Tcx];
const NEEDS_VLAN_DEVICE: &[Need] = &[Need::VlanFiltering, Need::Tun, Need::VlanDevice];

/// Gives a guest's port a VLAN, in the words of `bridge vlan add`.
fn vlan(scene: &Scene, guest: &Guest, words: &str) -> Result<()> {
    scene.host(&format!("bridge vlan add dev {} vid {words}", guest.port)).map(drop)
}

/// A bridge with ports of every sort: access, trunk, hybrid, PVID that stays tagged, asymmetric, and no PVID at all.
fn scene(protocol: &str) -> Result<Scene> {
    let options = format!("vlan_filtering 1 vlan_default_pvid 0 vlan_protocol {protocol}");
    let scene = Scene::with(&options, &[Kind::Veth, Kind::Tap, Kind::Wire, Kind::Veth, Kind::Tap, Kind::Veth])?;
    let [access, access_tap, trunk, hybrid, other_tenant, asymmetric] = scene.first();
    vlan(&scene, access, "10 pvid untagged")?;
    vlan(&scene, access_tap, "10 pvid untagged")?;
    vlan(&scene, trunk, "10")?;
    vlan(&scene, trunk, "20")?;
    vlan(&scene, hybrid, "10 pvid")?;
    vlan(&scene, hybrid, "20 untagged")?;
    vlan(&scene, other_tenant, "20 pvid untagged")?;
    vlan(&scene, asymmetric, "20 pvid")?;
    vlan(&scene, asymmetric, "10 untagged")?;
    Ok(scene)
}

/// Every guest to every other and to itself, with every stack of tags that a bridge treats differently.
fn probes(scene: &Scene) -> Vec<Probe> {
    let stacks: Vec<Vec<Tag>> = vec![
        vec![],
        vec![Tag::q(0)],
        vec![Tag::q(0).pcp(5)],
        vec![Tag::q(10)],
        vec![Tag::q(10).pcp(3)],
        vec![Tag { tpid: TPID_Q, tci: 0x1014 }],
        vec![Tag::q(20)],
        vec![Tag::q(30)],
        vec![Tag::q(4095)],
        vec![Tag::q(10), Tag::q(20)],
        vec![Tag::q(0), Tag::q(20)],
        vec![Tag::q(20), Tag::q(10).pcp(1)],
        vec![Tag::ad(10)],
        vec![Tag::ad(0).pcp(4)],
        vec![Tag::ad(20).pcp(7), Tag::q(10)],
        vec![Tag::ad(10), Tag::ad(20)],
        vec![Tag::q(10), Tag::ad(20)],
    ];
    let mut probes = Vec::new();
    for (from, sender) in scene.guests.iter().enumerate() {
        for to in scene.guests.iter().map(|guest| guest.mac).chain([BROADCAST]) {
            for stack in &stacks {
                // What becomes of an inner tag depends on the frame's length as well.
                for length in [46, 200].into_iter().take(stack.len().max(1)) {
                    let mut frame = Frame::new(sender.mac, to).payload_len(length);
                    frame.tags.clone_from(stack);
                    probes.push(Probe { from, frame });
                }
            }
        }
    }
    probes
}

fn matrix(protocol: &str, hook: &str, in_metadata: bool) -> Result<()> {
    let scene = scene(protocol)?;
    let trunk = &scene.guests[3];
    let _tagger = in_metadata
        .then(|| trunk.space.enter(|| bpf::tag_in_metadata(&trunk.dev, TPID_Q, 0x600a)))
        .transpose()?
        .transpose()?;
    let probes = probes(&scene);
    compare(&scene, &["--hook", hook], &probes, u64::try_from(probes.len())? / 20)
}

fn push_and_pop_are_fast(hook: &str) -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, access_tap, trunk, hybrid, other_tenant, _asymmetric] = scene.first();
    let xbr = scene.xbr(&["--hook", hook])?;
    let (ten, twenty) = ([Tag::q(10)], [Tag::q(20)]);
    let none: [Tag; 0] = [];
    let pairs: [(&Guest, &[Tag], &Guest, &[Tag]); 5] = [
        (access, &none, trunk, &ten),
        (access_tap, &none, trunk, &ten),
        (access, &none, access_tap, &none),
        (access, &none, hybrid, &none),
        (other_tenant, &none, trunk, &twenty),
    ];
    for (one, mine, other, theirs) in pairs {
        warm_tagged(&xbr, (one, mine), (other, theirs))?;
        for (from, tags, to) in [(one, mine, other), (other, theirs, one)] {
            let mut frame = Frame::new(from.mac, to.mac);
            frame.tags = tags.to_vec();
            scene.steady_frame(&xbr, from, to, &frame, 300)?;
        }
    }
    xbr.stop()
}

/// What the kernel does by its source, said once more in so many words: PCP of a priority tag is kept at the push, PCP
/// of a tag is kept through the trunk.
fn priority_survives() -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, _access_tap, trunk, ..] = scene.first::<6>();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    warm_tagged(&xbr, (access, &[]), (trunk, &[Tag::q(10)]))?;
    let mut capture = trunk.capture()?;
    let priority = Frame::new(access.mac, trunk.mac).tag(Tag::q(0).pcp(5)).numbered(9, 1);
    access.sender()?.send(&priority.bytes())?;
    let frames = capture.drain(Duration::from_millis(200))?;
    let wanted = Frame::new(access.mac, trunk.mac).tag(Tag::q(10).pcp(5)).numbered(9, 1).bytes();
    ensure!(frames.len() == 1 && frames[0].bytes == wanted, "{}", xbr_tests::packet::describe_all(&frames));
    xbr.stop()
}

fn tcp_through_a_trunk(hook: &str) -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, access_tap, trunk, ..] = scene.first::<6>();
    let outside = scene.net.vlan_host("out10", trunk, 10)?;
    let xbr = scene.xbr(&["--hook", hook])?;
    for guest in [access, access_tap] {
        tcp(guest, &outside, (8 << 20) / u64::from(slowness()))?;
        tcp(&outside, guest, (8 << 20) / u64::from(slowness()))?;
        tcp(&outside, guest, (8 << 20) / u64::from(slowness()))?;
        ensure!(xbr.fast(&guest.port)? > 0, "{}", xbr.summary());
    }
    ensure!(xbr.fast("eth0")? > 0, "{}", xbr.summary());
    xbr.stop()
}

/// Frames out of 100 that arrive, sent with these tags.
fn arriving(from: &Guest, tags: &[Tag], to: &Guest) -> Result<u32> {
    let mut frame = Frame::new(from.mac, to.mac);
    frame.tags = tags.to_vec();
    Ok(Flow::start(from, &[to], &[], frame, 2000 / slowness(), 100)?.finish()?.received)
}

fn a_member_leaves_its_vlan() -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, access_tap, trunk, ..] = scene.first::<6>();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    warm_tagged(&xbr, (access, &[]), (trunk, &[Tag::q(10)]))?;
    warm_tagged(&xbr, (access, &[]), (access_tap, &[]))?;
    scene.host(&format!("bridge vlan del dev {} vid 10", access.port))?;
    wait::until("no frames to a port that left the VLAN", Duration::from_secs(1), || {
        Ok(arriving(trunk, &[Tag::q(10)], access)? == 0)
    })?;
    ensure!(arriving(access, &[], trunk)? == 0, "frames of a port that left the VLAN are forwarded");
    vlan(&scene, access, "10 pvid untagged")?;
    warm_tagged(&xbr, (access, &[]), (trunk, &[Tag::q(10)]))?;
    xbr.stop()
}

fn a_pvid_moves() -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, access_tap, trunk, _hybrid, other_tenant, _asymmetric] = scene.first();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    warm_tagged(&xbr, (access, &[]), (access_tap, &[]))?;
    scene.host(&format!("bridge vlan del dev {} vid 10", access.port))?;
    vlan(&scene, access, "20 pvid untagged")?;
    warm_tagged(&xbr, (access, &[]), (other_tenant, &[]))?;
    warm_tagged(&xbr, (access, &[]), (trunk, &[Tag::q(20)]))?;
    ensure!(arriving(access, &[], access_tap)? == 0, "frames reach the VLAN that the port left");
    ensure!(arriving(access_tap, &[], access)? == 0, "frames come from the VLAN that the port left");
    xbr.stop()
}

fn filtering_is_toggled() -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, access_tap, _trunk, _hybrid, other_tenant, _asymmetric] = scene.first();
    let xbr = scene.xbr(&[])?;
    for _ in 0..3 {
        warm_tagged(&xbr, (access, &[]), (access_tap, &[]))?;
        ensure!(arriving(access, &[], other_tenant)? == 0, "tenants are apart while filtering is on");
        scene.host("ip link set br0 type bridge vlan_filtering 0")?;
        scene.greet()?;
        warm_tagged(&xbr, (access, &[]), (other_tenant, &[]))?;
        ensure!(arriving(access, &[Tag::q(30)], other_tenant)? == 100, "tags are transparent while filtering is off");
        scene.host("ip link set br0 type bridge vlan_filtering 1")?;
        wait::until("tenants apart again", Duration::from_secs(1), || Ok(arriving(access, &[], other_tenant)? == 0))?;
    }
    xbr.stop()
}

/// `bridge vlan set … state`: announced on its own netlink group only.
fn a_vlan_is_blocked() -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, _access_tap, trunk, ..] = scene.first::<6>();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    warm_tagged(&xbr, (access, &[]), (trunk, &[Tag::q(10)]))?;
    scene.host(&format!("bridge vlan set dev {} vid 10 state blocking", access.port))?;
    wait::until("no frames in a blocking VLAN", Duration::from_secs(1), || {
        Ok(arriving(trunk, &[Tag::q(10)], access)? == 0)
    })?;
    ensure!(arriving(access, &[], trunk)? == 0, "frames of a blocking VLAN are forwarded");
    scene.host(&format!("bridge vlan set dev {} vid 10 state forwarding", access.port))?;
    warm_tagged(&xbr, (access, &[]), (trunk, &[Tag::q(10)]))?;
    xbr.stop()
}

fn counters_by_vlan() -> Result<()> {
    let scene = scene("802.1Q")?;
    let [access, access_tap, trunk, _hybrid, other_tenant, _asymmetric] = scene.first();
    let xbr = scene.xbr(&["--hook", "eth0=xdp"])?;
    warm_tagged(&xbr, (access, &[]), (access_tap, &[]))?;
    warm_tagged(&xbr, (other_tenant, &[]), (trunk, &[Tag::q(20)]))?;
    let fast = |vid: u16| -> Result<u64> {
        let status = xbr.status()?;
        let mut vlans = status["bridges"][0]["vlans"].as_array().into_iter().flatten();
        let entry =
            vlans.find(|entry| entry["vlan"] == vid).with_context(|| format!("VLAN {vid} is not in the status"))?;
        Ok(xbr_tests::xbr::count(&entry["fast"]["packets"]))
    };
    let before = (fast(10)?, fast(20)?);
    scene.steady(&xbr, access, access_tap, 300)?;
    scene.steady_frame(&xbr, trunk, other_tenant, &Frame::new(trunk.mac, other_tenant.mac).tag(Tag::q(20)), 100)?;
    let after = (fast(10)? - before.0, fast(20)? - before.1);
    ensure!(
        (297..=300).contains(&after.0) && (99..=100).contains(&after.1),
        "VLAN 10: {}, VLAN 20: {}",
        after.0,
        after.1
    );
    xbr.stop()
}
