//! Policy of others: found, respected, and named.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf,
    frame::{Frame, Tag},
    net::Kind,
    netns::Netns,
    probe::Need,
    traffic::{self, Flow},
    wait,
};

use super::{
    Test,
    scene::{Scene, warm, warm_tagged},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("policy::a_foreign_xdp_program_keeps_its_port", a_foreign_xdp_program_keeps_its_port, &[]),
    test("policy::a_foreign_tcx_program_keeps_the_port_slow", a_foreign_tcx_program, &[Need::Tcx]),
    test("policy::nft_bridge_rules_still_filter", nft_bridge_rules_still_filter, &[Need::NftBridge]),
    test("policy::an_ingress_filter_keeps_the_port_slow", an_ingress_filter, &[]),
    test("policy::a_promiscuous_bridge_sees_every_frame", a_promiscuous_bridge_sees_every_frame, &[]),
    test("policy::br_netfilter_without_rules_is_no_policy", br_netfilter_without_rules, &[Need::BrNetfilter]),
    test("policy::br_netfilter_with_rules_filters", br_netfilter_with_rules_filters, &[Need::BrNetfilter]),
    test("policy::a_macvlan_and_a_bridge_exclude_each_other", a_macvlan_on_a_port, &[Need::Macvlan]),
    test("policy::a_vlan_device_on_a_port_keeps_it_slow", a_vlan_device_on_a_port, &[Need::VlanDevice]),
    test("policy::a_vlan_device_takes_its_frames_at_once", a_vlan_device_at_once, &[Need::VlanDevice]),
    test("policy::a_vlan_device_of_a_container_keeps_the_port_slow", a_vlan_device_elsewhere, &[Need::VlanDevice]),
];

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

/// The port is slow and says why, frames arrive all the same, and the other ports are fast.
fn slow_but_forwarding(scene: &Scene, xbr: &xbr_tests::xbr::Xbr, reason: &str) -> Result<()> {
    let [one, two, three] = scene.first();
    xbr.wait_slow(&one.port, reason)?;
    let before = xbr.fast(&one.port)?;
    traffic::flow(one, two, &[three], 200, 2000)?.exact()?;
    traffic::flow(two, one, &[three], 200, 2000)?.exact()?;
    ensure!(xbr.fast(&one.port)? == before, "frames of a slow port were fast: {}", xbr.summary());
    Ok(())
}

fn a_foreign_xdp_program_keeps_its_port() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let foreign = scene.net.host.enter(|| bpf::xdp_pass(&one.port))??;
    let xbr = scene.xbr(&[])?;
    slow_but_forwarding(&scene, &xbr, "foreign_xdp")?;
    warm(&xbr, two, three)?;
    drop(foreign);
    xbr.wait_accelerated(&one.port)?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn a_foreign_tcx_program() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, ..] = scene.first::<3>();
    let _foreign = scene.net.host.enter(|| bpf::tcx_pass(&one.port))??;
    let xbr = scene.xbr(&[])?;
    slow_but_forwarding(&scene, &xbr, "tc_filter")?;
    xbr.stop()
}

fn nft_bridge_rules_still_filter() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let nft = |line: &str| scene.host(&format!("nft {line}"));
    nft("add table bridge filter")?;
    nft("add chain bridge filter forward { type filter hook forward priority 0 ; }")?;
    nft(&format!("add rule bridge filter forward ether saddr {} drop", xbr_tests::frame::mac(one.mac)))?;
    xbr.wait_slow(&one.port, "netfilter").or_else(|_port| bridge_slow(&xbr, "netfilter"))?;
    let account = Flow::start(one, &[two], &[three], Frame::new(one.mac, two.mac), 2000, 200)?.finish()?;
    ensure!(account.received == 0, "{} frames went around a rule that drops them", account.received);
    traffic::flow(two, three, &[one], 200, 2000)?.exact()?;
    nft("delete table bridge filter")?;
    scene.greet()?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

/// The whole bridge says that it is slow for this reason.
fn bridge_slow(xbr: &xbr_tests::xbr::Xbr, reason: &str) -> Result<()> {
    wait::until(&format!("br0 slow with reason {reason}"), Duration::from_secs(5), || {
        Ok(xbr.status()?["bridges"][0]["slow_reason"] == reason)
    })
}

fn an_ingress_filter() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    // On kernels without tcx the qdisc is there already, and shared.
    scene.net.host.output(&format!("tc qdisc add dev {} clsact", one.port))?;
    scene.host(&format!("tc filter add dev {} ingress protocol all prio 7 u32 match u32 0 0 flowid 1:1", one.port))?;
    slow_but_forwarding(&scene, &xbr, "tc_filter")?;
    warm(&xbr, two, three)?;
    scene.host(&format!("tc filter del dev {} ingress prio 7", one.port))?;
    xbr.wait_accelerated(&one.port)?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn a_promiscuous_bridge_sees_every_frame() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.host("ip link set br0 promisc on")?;
    xbr.wait_slow(&one.port, "bridge_promisc").or_else(|_port| bridge_slow(&xbr, "bridge_promisc"))?;
    let mut listener = xbr_tests::packet::Capture::open(&scene.net.host, "br0")?;
    traffic::flow(one, two, &[], 200, 2000)?.exact()?;
    let heard = listener.drain(Duration::from_millis(200))?.len();
    ensure!(heard == 200, "br0 heard {heard} of 200 frames");
    scene.host("ip link set br0 promisc off")?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

/// The sysctl reads 1 in every new namespace of some kernels: hooks without rules are no policy.
fn br_netfilter_without_rules() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    for family in ["iptables", "ip6tables", "arptables"] {
        scene.net.host.sysctl(&format!("bridge/bridge-nf-call-{family}"), "1")?;
    }
    let [one, two, _three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 200)?;
    xbr.stop()
}

fn br_netfilter_with_rules_filters() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    scene.net.host.sysctl("bridge/bridge-nf-call-iptables", "1")?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let nft = |line: &str| scene.host(&format!("nft {line}"));
    nft("add table ip filter")?;
    nft("add chain ip filter forward { type filter hook forward priority 0 ; }")?;
    nft(&format!("add rule ip filter forward ip saddr {} drop", one.ip))?;
    xbr.wait_slow(&one.port, "netfilter").or_else(|_port| bridge_slow(&xbr, "netfilter"))?;
    let frame = Frame::udp(one.mac, two.mac, one.ip, two.ip, 7, 64);
    let account = Flow::start(one, &[two], &[three], frame, 2000, 200)?.finish()?;
    ensure!(account.received == 0, "{} frames went around a rule that drops them", account.received);
    nft("delete table ip filter")?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

/// macvlan, ipvlan, macsec and the like take a device's frames by the same handler as a bridge (`netdev_rx_handler_register`):
/// the kernel lets a device have one of them. Whichever comes first stays, and frames go where they went.
fn a_macvlan_on_a_port() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let refused = |line: &str| -> Result<()> {
        ensure!(!scene.net.host.output(line)?.status.success(), "this kernel takes both: `{line}`");
        Ok(())
    };
    let add = format!("ip link add link {} name mv0 type macvlan mode passthru", one.port);
    refused(&add)?;
    for kind in ["ipvlan mode l2", "macsec", "macvtap mode bridge"] {
        // Where the kernel lacks the kind, it refuses as well.
        refused(&format!("ip link add link {} name up0 type {kind}", one.port))?;
    }
    scene.steady(&xbr, one, two, 100)?;

    scene.host(&format!("ip link set {} nomaster", one.port))?;
    scene.host(&add)?;
    scene.host("ip link set mv0 up")?;
    refused(&format!("ip link set {} master br0", one.port))?;
    warm(&xbr, two, three)?;
    let account = traffic::flow(two, one, &[], 100, 2000)?;
    ensure!(account.received == 0, "frames reach a device that left the bridge: {account:?}");

    scene.host("ip link del mv0")?;
    scene.net.join(one, "br0")?;
    scene.greet()?;
    warm(&xbr, one, two)?;
    scene.steady(&xbr, one, two, 100)?;
    xbr.stop()
}

/// As containers have them: made on the port, and moved away. The frames with its tag are its own from there, too.
/// The device takes what has its tag from the moment on at which it is there: it is announced later than that its lower one has
/// changed.
fn a_vlan_device_at_once() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _] = scene.first();
    let tags = [Tag::q(10)];
    let mut frame = Frame::new(one.mac, two.mac);
    frame.tags = tags.to_vec();
    let xbr = scene.xbr(&[])?;
    for time in 0..8 {
        scene.greet()?;
        xbr.wait_accelerated(&one.port)?;
        warm_tagged(&xbr, (one, &tags), (two, &tags)).with_context(|| format!("before time {time}"))?;
        scene.host(&format!("ip link add link {0} name {0}.10 type vlan id 10", one.port))?;
        let account = Flow::start(one, &[two], &[], frame.clone(), 5000, 30)?.finish()?;
        ensure!(account.lost == account.sent, "time {time}: frames went around a VLAN device: {account:?}");
        scene.host(&format!("ip link del {}.10", one.port))?;
    }
    xbr.stop()
}

fn a_vlan_device_elsewhere() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, _three] = scene.first();
    let container = Netns::create(&format!("xbr-t-{}-vlan", std::process::id()))?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.host(&format!("ip link add link {} name up10 type vlan id 10", one.port))?;
    scene.host(&format!("ip link set up10 netns {}", container.name()))?;
    container.cmd("ip link set up10 up")?;
    // Longer than anything that remembers the device from when it was here.
    std::thread::sleep(Duration::from_millis(2500) * wait::slowness());
    slow_but_forwarding(&scene, &xbr, "vlan_upper")?;
    let why = xbr.port(&one.port)?["slow_detail"].to_string();
    ensure!(why.contains("up10 of another network namespace"), "{why}");
    xbr.stop()?;

    // Nobody tells a daemon that starts later.
    let xbr = scene.xbr(&[])?;
    slow_but_forwarding(&scene, &xbr, "vlan_upper")?;
    container.cmd("ip link del up10")?;
    xbr.wait_accelerated(&one.port)?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

fn a_vlan_device_on_a_port() -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    scene.host(&format!("ip link add link {0} name {0}.10 type vlan id 10", one.port))?;
    scene.host(&format!("ip link set {}.10 up", one.port))?;
    slow_but_forwarding(&scene, &xbr, "vlan_upper")?;
    warm(&xbr, two, three)?;
    scene.host(&format!("ip link del {}.10", one.port))?;
    xbr.wait_accelerated(&one.port)?;
    warm(&xbr, one, two)?;
    xbr.stop()
}
