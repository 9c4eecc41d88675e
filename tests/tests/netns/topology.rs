//! Stacked devices, as hypervisors build them: bonds, tunnels, and bridges behind bridges. Everything is delivered as by
//! the bridges alone, each bridge is fast by itself, and none is gone around.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::{Frame, Tag},
    measure::Reading,
    net::{Guest, Kind, Net},
    probe::Need,
    traffic::{Flow, flow, tcp},
    wait,
    xbr::Xbr,
};

use super::{
    Test,
    scene::{Scene, warm, warm_tagged},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("topology::a_firewall_bridge_before_the_main_bridge", a_firewall_bridge, &[Need::Tun]),
    test(
        "topology::rules_on_the_firewall_bridge_alone",
        rules_on_the_firewall_bridge,
        &[Need::Tun, Need::BrNetfilter, Need::NftBridge],
    ),
    test("topology::a_veth_joins_an_accelerated_bridge_and_another", a_veth_joins_two_bridges, &[]),
    test("topology::a_bridge_takes_no_bridge_as_port", a_bridge_takes_no_bridge, &[]),
    test("topology::vxlan_as_a_port", || vxlan("remote 10.66.0.2"), &[Need::Vxlan]),
    test("topology::vxlan_with_an_fdb_of_its_own", || vxlan("nolearning"), &[Need::Vxlan]),
    test("topology::bond_active_backup_below_a_vlan_aware_bridge", || bond("active-backup miimon 50"), BOND),
    test("topology::bond_802_3ad_below_a_vlan_aware_bridge", || bond("802.3ad miimon 50 lacp_rate fast"), BOND),
];

const BOND: &[Need] = &[Need::Bond, Need::VlanFiltering];

/// `frames` between two guests, exact; and the ports among them that counted at least that many fast ones.
fn fast_ports(scene: &Scene, xbr: &Xbr, from: &Guest, to: &Guest, frames: u32) -> Result<Vec<String>> {
    let reading = Reading::take(xbr)?;
    flow(from, to, &scene.others(&[from, to]), frames, 2000 / wait::slowness())?.exact()?;
    let deltas = reading.since(xbr)?;
    let fast = deltas.into_iter().filter(|(_, delta)| delta.fast >= u64::from(frames) * 95 / 100);
    Ok(fast.map(|(port, _)| port).collect())
}

/// A virtual machine's tap on a bridge of its own, which leads to the main bridge by a pair of veth devices.
fn firewalled() -> Result<Scene> {
    let net = Net::new()?;
    net.bridge("vmbr0", "")?;
    net.bridge("fwbr1", "")?;
    let guests = vec![net.guest("tap1", Kind::Tap)?, net.guest("g2", Kind::Veth)?, net.guest("g3", Kind::Wire)?];
    net.host.cmd("ip link add name fwln1 type veth peer name fwpr1")?;
    for (port, bridge) in [("fwln1", "fwbr1"), ("fwpr1", "vmbr0")] {
        net.host.cmd(&format!("ip link set {port} up master {bridge}"))?;
    }
    for (guest, bridge) in guests.iter().zip(["fwbr1", "vmbr0", "vmbr0"]) {
        net.join(guest, bridge)?;
    }
    for port in ["fwln1", "fwpr1"] {
        net.forwarding(port)?;
    }
    let scene = Scene { net, guests };
    scene.greet()?;
    Ok(scene)
}

fn a_firewall_bridge() -> Result<()> {
    let scene = firewalled()?;
    let [guest, near, far] = scene.first();
    let xbr = Xbr::start(&scene.net.host, &["--all"])?;
    for other in [near, far] {
        warm(&xbr, guest, other)?;
        warm(&xbr, guest, other)?;
        // One hop after the other, each counted by the bridge that it belongs to.
        ensure!(fast_ports(&scene, &xbr, guest, other, 200)? == ["fwpr1", "tap1"], "{}", xbr.summary());
        let back = [other.port.as_str(), "fwln1"];
        let fast = fast_ports(&scene, &xbr, other, guest, 200)?;
        ensure!(fast.len() == 2 && back.iter().all(|port| fast.iter().any(|name| name == port)), "{fast:?}");
        tcp(guest, other, (4 << 20) / u64::from(wait::slowness()))?;
        tcp(other, guest, (4 << 20) / u64::from(wait::slowness()))?;
    }
    xbr.stop()
}

/// The option of one bridge turns `br_netfilter` on for it; the other one stays fast.
fn rules_on_the_firewall_bridge() -> Result<()> {
    let scene = firewalled()?;
    let [guest, near, far] = scene.first();
    for family in ["ip", "ip6", "arp"] {
        scene.net.host.sysctl(&format!("bridge/bridge-nf-call-{family}tables"), "0")?;
    }
    scene.host("ip link set fwbr1 type bridge nf_call_iptables 1")?;
    let xbr = Xbr::start(&scene.net.host, &["--all"])?;
    warm(&xbr, guest, near)?;
    for rule in [
        "add table ip fw",
        "add chain ip fw forward { type filter hook forward priority 0 ; }",
        "add rule ip fw forward udp dport 7 drop",
    ] {
        scene.host(&format!("nft {rule}"))?;
    }
    xbr.wait_slow("tap1", "netfilter")?;
    let status = xbr.status()?;
    let slow = |name: &str| {
        let bridges = status["bridges"].as_array().into_iter().flatten();
        bridges.into_iter().find(|bridge| bridge["name"] == name || bridge["ifname"] == name).cloned()
    };
    ensure!(slow("vmbr0").is_none_or(|bridge| bridge["slow_reason"].is_null()), "{status}");
    for (port, arrive) in [(7, 0), (8, 100)] {
        let frame = Frame::udp(guest.mac, near.mac, guest.ip, near.ip, port, 64);
        let account = Flow::start(guest, &[near], &[far], frame, 2000 / wait::slowness(), 100)?.finish()?;
        ensure!(account.received == arrive && account.misdelivered == 0, "UDP to port {port}: {account:?}");
    }
    let fast = fast_ports(&scene, &xbr, near, far, 200)?;
    ensure!(fast == ["g2"], "the main bridge is slow, too: {fast:?}, {}", xbr.summary());
    // Frames for the firewalled guest are fast on the main bridge, up to the pair that leads to it.
    let fast = fast_ports(&scene, &xbr, near, guest, 200)?;
    ensure!(fast == ["g2"], "{fast:?}, {}", xbr.summary());
    scene.host("nft flush ruleset")?;
    warm(&xbr, guest, near)?;
    xbr.stop()
}

fn a_veth_joins_two_bridges() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, there] = scene.first();
    scene.net.bridge("br1", "")?;
    scene.host("ip link add name j0 type veth peer name j1")?;
    scene.host("ip link set j0 up master br0")?;
    scene.host("ip link set j1 up master br1")?;
    scene.host(&format!("ip link set {} nomaster", there.port))?;
    scene.net.join(there, "br1")?;
    scene.net.forwarding("j0")?;
    scene.net.forwarding("j1")?;
    scene.greet()?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    // Frames of `there` refresh and warm the port j0 without being counted at a port of its own.
    wait::until("fast to and from the other bridge", Duration::from_secs(5), || {
        scene.greet()?;
        let to = fast_ports(&scene, &xbr, one, there, 50)?;
        let from = fast_ports(&scene, &xbr, there, one, 50)?;
        Ok(to == [one.port.as_str()] && from == ["j0"])
    })
    .with_context(|| xbr.summary())?;
    tcp(one, there, (4 << 20) / u64::from(wait::slowness()))?;
    tcp(there, one, (4 << 20) / u64::from(wait::slowness()))?;
    xbr.stop()
}

fn a_bridge_takes_no_bridge() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    scene.net.bridge("br1", "")?;
    ensure!(!scene.net.host.output("ip link set br1 master br0")?.status.success(), "this kernel stacks bridges");
    Ok(())
}

/// A port that is a tunnel; the far end is a host of the overlay. `options` say how the tunnel finds it.
fn vxlan(options: &str) -> Result<()> {
    let mut scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let mut far = scene.net.guest("far", Kind::Veth)?;
    let host = &scene.net.host;
    host.cmd("ip addr add 10.66.0.1/24 dev far")?;
    far.space.cmd("ip addr flush dev eth0")?;
    far.space.cmd("ip link set eth0 address 02:66:00:00:00:02")?;
    far.space.cmd("ip addr add 10.66.0.2/24 dev eth0")?;
    host.cmd(&format!("ip link add vx0 type vxlan id 9 dstport 4789 local 10.66.0.1 {options}"))?;
    far.space.cmd("ip link add vx0 type vxlan id 9 dstport 4789 local 10.66.0.2 remote 10.66.0.1")?;
    let address = xbr_tests::frame::mac(far.mac);
    if options == "nolearning" {
        host.cmd(&format!("bridge fdb append {address} dev vx0 dst 10.66.0.2 self"))?;
        host.cmd("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.66.0.2 self")?;
    }
    far.space.cmd(&format!("ip link set vx0 address {address} up"))?;
    far.space.cmd(&format!("ip addr add {}/24 dev vx0", far.ip))?;
    host.cmd("ip link set vx0 up master br0")?;
    scene.net.forwarding("vx0")?;
    ("vx0", "vx0").clone_into_ports(&mut far);
    scene.guests.push(far);
    scene.greet()?;
    let [one, two, far] = scene.first();
    for (from, to) in [(one, far), (far, one)] {
        flow(from, to, &[two], 100, 2000)?.exact().context("by the bridge alone")?;
    }
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, far)?;
    for (from, to) in [(one, far), (far, one), (one, two)] {
        scene.steady(&xbr, from, to, 300)?;
    }
    tcp(one, far, (4 << 20) / u64::from(wait::slowness()))?;
    tcp(far, one, (4 << 20) / u64::from(wait::slowness()))?;
    xbr.stop()
}

/// The names of a guest's devices at both ends.
trait Rename {
    fn clone_into_ports(self, guest: &mut Guest);
}

impl Rename for (&str, &str) {
    fn clone_into_ports(self, guest: &mut Guest) {
        self.0.clone_into(&mut guest.port);
        self.1.clone_into(&mut guest.dev);
    }
}

/// Two tenants behind a VLAN-aware bridge whose uplink is a bond of two cables, one of which fails.
fn bond(mode: &str) -> Result<()> {
    let options = "vlan_filtering 1 vlan_default_pvid 1";
    let mut scene = Scene::with(options, &[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let mut far = scene.net.guest("far", Kind::Veth)?;
    let host = &scene.net.host;
    let lacp = mode.starts_with("802.3ad");
    for (guest, vid) in scene.guests.iter().zip([10, 10, 20]) {
        host.cmd(&format!("bridge vlan del dev {} vid 1", guest.port))?;
        host.cmd(&format!("bridge vlan add dev {} vid {vid} pvid untagged", guest.port))?;
    }
    host.cmd(&format!("ip link add bond0 type bond mode {mode}"))?;
    // The other side: a bond as well, or a switch that knows nothing of it.
    let other = if lacp { format!("bond mode {mode}") } else { "bridge forward_delay 0 mcast_snooping 0".to_owned() };
    far.space.cmd(&format!("ip link add up0 type {other}"))?;
    far.space.cmd(&format!("ip link set up0 address {}", xbr_tests::frame::mac(far.mac)))?;
    far.space.cmd("ip link set eth0 address 02:66:00:00:00:02")?;
    for cable in ["c1", "c2"] {
        host.cmd(&format!("ip link add name {cable} type veth peer name {cable} netns {}", far.space.name()))?;
        host.cmd(&format!("ip link set {cable} master bond0"))?;
        host.cmd(&format!("ip link set {cable} up"))?;
        far.space.cmd(&format!("ip link set {cable} master up0"))?;
        far.space.cmd(&format!("ip link set {cable} up"))?;
    }
    far.space.cmd("ip link set up0 up")?;
    host.cmd("ip link set bond0 up master br0")?;
    for vid in [10, 20] {
        host.cmd(&format!("bridge vlan add dev bond0 vid {vid}"))?;
    }
    ("bond0", "up0").clone_into_ports(&mut far);
    scene.guests.push(far);
    let xbr = scene.xbr(&[])?;
    scene.net.forwarding("bond0")?;
    let [one, two, other_tenant, far] = scene.first();
    if lacp {
        wait::until("both cables in one aggregator", Duration::from_secs(20), || {
            let state = scene.host("cat /proc/self/net/bonding/bond0")?;
            Ok(state.contains("Number of ports: 2"))
        })?;
    }
    let (ten, twenty) = ([Tag::q(10)], [Tag::q(20)]);
    let work = |when: &str| -> Result<()> {
        scene.greet_tagged(&ten)?;
        scene.greet()?;
        warm_tagged(&xbr, (one, &[]), (far, &ten)).with_context(|| when.to_owned())?;
        warm_tagged(&xbr, (other_tenant, &[]), (far, &twenty)).with_context(|| when.to_owned())?;
        scene.steady(&xbr, one, two, 100)?;
        scene.steady(&xbr, one, far, 100)?;
        scene.steady_frame(&xbr, far, one, &Frame::new(far.mac, one.mac).tag(Tag::q(10)), 100)?;
        scene.steady_frame(&xbr, far, other_tenant, &Frame::new(far.mac, other_tenant.mac).tag(Tag::q(20)), 100)?;
        for (from, tags, to) in [(one, vec![], other_tenant), (far, vec![Tag::q(20)], one)] {
            let mut frame = Frame::new(from.mac, to.mac);
            frame.tags = tags;
            let account = Flow::start(from, &[], &[to], frame, 1000 / wait::slowness(), 50)?.finish()?;
            ensure!(account.misdelivered == 0, "{when}: {} frames cross tenants", account.misdelivered);
        }
        Ok(())
    };
    work("with both cables")?;
    host_cable(&scene, "c1", "down")?;
    work("after a cable failed")?;
    host_cable(&scene, "c1", "up")?;
    host_cable(&scene, "c2", "down")?;
    work("after the other one failed")?;
    ensure!(xbr.log().lines().all(|line| !line.contains("WARN")), "{}", xbr.log());
    xbr.stop()
}

/// Fails or mends a cable, and waits until the bond has an active one.
fn host_cable(scene: &Scene, cable: &str, state: &str) -> Result<()> {
    scene.host(&format!("ip link set {cable} {state}"))?;
    scene.net.forwarding("bond0")?;
    // An aggregator with a new cable is negotiated in about two seconds.
    wait::until("an active cable", Duration::from_secs(10), || {
        let state = scene.host("cat /proc/self/net/bonding/bond0")?;
        let down = state.split("Slave Interface: ").skip(1).filter(|slave| !slave.contains("MII Status: up")).count();
        Ok(if cable == "c1" && state.contains("802.3ad") { state.contains("Number of ports: ") } else { down <= 1 })
    })
}
