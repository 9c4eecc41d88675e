//! Policy that frames of the fast path still meet, and what looks like policy but never sees bridged frames: both leave
//! the ports fast. And what `br_netfilter` does without rules: frames that it would change are left to it.

use std::{any::Any, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf::{TCX_EGRESS, TCX_INGRESS, foreign},
    frame::Frame,
    net::{Guest, Kind},
    packet::{Capture, Member, Membership, describe_all},
    probe::Need,
    traffic::Flow,
    wait,
    xbr::Xbr,
};

use super::{
    Test,
    observe::{Probe, compare},
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("kept::tcx_on_egress", || kept(tcx_egress), &[Need::Tcx]),
    test("kept::clsact_on_egress", || kept(clsact_egress), &[]),
    test("kept::native_xdp_at_the_far_end", || kept(xdp_far), &[]),
    test("kept::what_is_on_the_bridge_device_sees_no_bridged_frames", on_the_bridge_device, &[Need::NftBridge]),
    test("kept::a_listener_in_promiscuous_mode_hears_all", || promiscuous(listener), &[]),
    test("kept::a_macvlan_on_the_bridge_makes_it_promiscuous", || promiscuous(macvlan), &[Need::Macvlan]),
    test("kept::a_second_address_makes_the_bridge_promiscuous", || promiscuous(second_address), &[]),
    test("kept::br_netfilter_without_rules_is_kept", br_netfilter_without_rules, &[Need::BrNetfilter]),
];

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

type Policy = Box<dyn Any>;

/// UDP, to an address that the receiver has not: its kernel must not answer.
fn packets(from: &Guest, to: &Guest) -> Frame {
    Frame::udp(from.mac, to.mac, from.ip, Ipv4Addr::new(10, 99, 0, 1), 7, 64)
}

fn arriving(from: &Guest, to: &Guest, count: u32) -> Result<u32> {
    Ok(Flow::start(from, &[to], &[], packets(from, to), 2000 / wait::slowness(), count)?.finish()?.received)
}

/// A policy on the way to the second guest that drops everything; the fast path takes frames there as the bridge does.
fn kept(set: fn(&Scene) -> Result<Policy>) -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let _policy = set(&scene)?;
    let before = xbr.fast(&one.port)?;
    ensure!(arriving(one, two, 100)? == 0, "frames go around it");
    ensure!(xbr.fast(&one.port)? - before >= 99, "it was the bridge that took them there: {}", xbr.summary());
    warm(&xbr, one, three)?;
    xbr.stop()
}

fn tcx_egress(scene: &Scene) -> Result<Policy> {
    Ok(Box::new(scene.net.host.enter(|| foreign::tcx_drop(&scene.guests[1].port, TCX_EGRESS))??))
}

fn clsact_egress(scene: &Scene) -> Result<Policy> {
    let port = &scene.guests[1].port;
    scene.net.host.output(&format!("tc qdisc add dev {port} clsact"))?;
    scene.host("ip link add nowhere type veth peer name nobody")?;
    scene.host(&format!(
        "tc filter add dev {port} egress protocol all prio 7 u32 match u32 0 0 action mirred egress redirect dev nowhere"
    ))?;
    Ok(Box::new(()))
}

fn xdp_far(scene: &Scene) -> Result<Policy> {
    let two = &scene.guests[1];
    Ok(Box::new(two.space.enter(|| foreign::xdp_native_drop(&two.dev))??))
}

/// Everything that drops, on br0 itself: it acts on what is for the host or from it.
fn on_the_bridge_device() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let mut policies: Vec<Policy> = Vec::new();
    policies.push(Box::new(scene.net.host.enter(|| foreign::xdp_generic_drop("br0"))??));
    if Need::Tcx.met() {
        for hook in [TCX_INGRESS, TCX_EGRESS] {
            policies.push(Box::new(scene.net.host.enter(|| foreign::tcx_drop("br0", hook))??));
        }
    }
    scene.host("tc qdisc add dev br0 root handle 1: htb default 1")?;
    scene.host("tc class add dev br0 parent 1: classid 1:1 htb rate 8kbit burst 2k")?;
    scene.host("nft add table netdev t")?;
    scene.host("nft add chain netdev t i { type filter hook ingress device br0 priority 0 ; policy drop ; }")?;
    let mut listener = Capture::open(&scene.net.host, "br0")?;
    let delivered = |flow: &str| -> Result<()> {
        ensure!(arriving(one, two, 100)? == 100 && arriving(two, three, 100)? == 100, "not delivered {flow}");
        Ok(())
    };
    delivered("by the bridge alone")?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    delivered("by the fast path")?;
    scene.steady(&xbr, one, two, 100)?;
    let heard = listener.drain(Duration::from_millis(200))?;
    ensure!(heard.is_empty(), "br0 heard bridged frames: {}", describe_all(&heard));
    xbr.stop()
}

/// Something turns br0 promiscuous; the bridge hands it a copy of every frame then.
fn promiscuous(set: fn(&Scene, on: bool) -> Result<Policy>) -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let policy = set(&scene, true)?;
    let xbr = scene.xbr(&[])?;
    let all = |xbr: &Xbr, when: &str| -> Result<()> {
        wait::until("br0 promiscuous in the status", Duration::from_secs(4), || {
            Ok(xbr.status()?["bridges"][0]["slow_reason"] == "bridge_promisc")
        })
        .with_context(|| xbr.summary())?;
        let mut listener = Capture::open(&scene.net.host, "br0")?;
        ensure!(arriving(one, two, 50)? == 50, "not delivered");
        let heard = listener.drain(Duration::from_millis(200))?.len();
        ensure!(heard == 50, "{when}: br0 heard {heard} of 50 frames");
        Ok(())
    };
    all(&xbr, "there before xbr")?;
    drop(policy);
    set(&scene, false)?;
    warm(&xbr, one, two).context("it is gone")?;
    let policy = set(&scene, true)?;
    all(&xbr, "it came later")?;
    drop(policy);
    set(&scene, false)?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn listener(scene: &Scene, on: bool) -> Result<Policy> {
    member(scene, on, Membership::Promiscuous)
}

/// The bridge device cannot filter by address, so that a second one makes it promiscuous, without any event
/// (`__dev_set_rx_mode`).
fn second_address(scene: &Scene, on: bool) -> Result<Policy> {
    member(scene, on, Membership::Address([2, 0xaa, 0, 0, 0, 1]))
}

fn member(scene: &Scene, on: bool, membership: Membership) -> Result<Policy> {
    Ok(if on { Box::new(Member::join(&scene.net.host, "br0", membership)?) } else { Box::new(()) })
}

fn macvlan(scene: &Scene, on: bool) -> Result<Policy> {
    if on {
        scene.host("ip link add link br0 name mv0 type macvlan mode bridge")?;
        scene.host("ip link set mv0 up")?;
    } else {
        scene.net.host.output("ip link del mv0")?;
    }
    Ok(Box::new(()))
}

/// Packets that are whole, padded, cut short, with a wrong sum, with options, and fragments: the same with and without.
fn br_netfilter_without_rules() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    for family in ["iptables", "ip6tables"] {
        scene.net.host.sysctl(&format!("bridge/bridge-nf-call-{family}"), "1")?;
    }
    let [one, two, three] = scene.first();
    let mut probes = Vec::new();
    for (from, to) in [(0, two), (1, three), (2, one)] {
        let sender = &scene.guests[from];
        let whole = || packets(sender, to);
        let mut variants = vec![whole(); 4];
        for pad in [1, 6, 400] {
            let mut padded = whole();
            padded.payload.resize(padded.payload.len() + pad, 0xee);
            variants.push(padded);
        }
        for (at, change) in [(10, 0x55), (0, 0x01), (0, 0x20), (2, 0x01), (8, 0x03), (6, 0x20)] {
            let mut broken = whole();
            broken.payload[at] ^= change;
            variants.push(broken);
        }
        let mut short = whole();
        short.payload.truncate(60);
        variants.push(short);
        for (version, next_header) in [(0x60, 17), (0x60, 0), (0x60, 44), (0x50, 17)] {
            for pad in [0, 4] {
                let mut six = whole();
                six.ethertype = 0x86dd;
                six.payload.splice(..0, [version, 0, 0, 0, 0, 92, next_header, 64].into_iter().chain([0xfd; 32]));
                six.payload.resize(six.payload.len() + pad, 0xee);
                variants.push(six);
            }
        }
        probes.extend(variants.into_iter().map(|frame| Probe { from, frame }));
    }
    compare(&scene, &[], &probes, 12)
}
