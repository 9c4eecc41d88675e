//! VLAN devices as bridge ports, one bridge per tenant, served by the programs on the device below them.
//!
//! The host has an uplink eth0 whose far end is `g1`, a second one (the veth `g2`) whose sender leaves tags in metadata,
//! and two tenants: br0 with eth0.10, g2.30, a container and a virtual machine, br1 with eth0.20 and a container.

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::{BROADCAST, Frame, Tag},
    measure::Reading,
    net::{Guest, Kind, Net},
    probe::Need,
    traffic::{Flow, tcp},
    wait::slowness,
    xbr::Xbr,
};

use super::{
    Test,
    observe::{Probe, compare},
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("stacked::matrix_by_tc", || matrix("", "802.1Q", "eth0=tc"), NEEDS),
    test("stacked::matrix_by_xdp", || matrix("", "802.1Q", "eth0=xdp"), NEEDS),
    test("stacked::matrix_802_1ad", || matrix("", "802.1ad", "eth0=xdp"), NEEDS),
    test("stacked::matrix_vlan_aware_by_tc", || matrix(AWARE, "802.1Q", "eth0=tc"), NEEDS_FILTERING),
    test("stacked::matrix_vlan_aware_by_xdp", || matrix(AWARE, "802.1ad", "eth0=xdp"), NEEDS_FILTERING),
    test("stacked::both_ways_are_fast_by_tc", || both_ways_are_fast("eth0=tc"), NEEDS),
    test("stacked::both_ways_are_fast_by_xdp", || both_ways_are_fast("eth0=xdp"), NEEDS),
    test("stacked::tcp_by_tc", || tcp_goes_through("eth0=tc"), NEEDS),
    test("stacked::tcp_by_xdp", || tcp_goes_through("eth0=xdp"), NEEDS),
    test("stacked::on_a_bond", on_a_bond, NEEDS_BOND),
    test("stacked::a_tenant_is_never_mixed_up", change::a_tenant_is_never_mixed_up, NEEDS),
    test("stacked::the_device_below_is_renamed", change::the_device_below_is_renamed, NEEDS),
    test("stacked::a_filter_below_holds_while_the_daemon_is_stopped", change::a_filter_below_at_once, NEEDS),
    test("stacked::policy_on_either_device", change::policy_on_either_device, NEEDS),
    test("stacked::other_frames_of_the_device_below", change::other_frames, NEEDS),
    test("stacked::devices_are_left_as_they_were_found", change::left_as_found, NEEDS),
];

const NEEDS: &[Need] = &[Need::VlanDevice, Need::Tun];
const NEEDS_BOND: &[Need] = &[Need::VlanDevice, Need::Tun, Need::Bond];
const NEEDS_FILTERING: &[Need] = &[Need::VlanDevice, Need::Tun, Need::VlanFiltering];

#[path = "stacked/change.rs"]
mod change;

/// Inner tags are VLANs of the bridge: VLAN 1 untagged everywhere, see [`stacked`] for VLAN 5.
const AWARE: &str = "vlan_filtering 1";

/// The lab. Guests: the far ends of both uplinks, a container and a virtual machine of tenant 10, a container of tenant 20.
fn stacked(options: &str, protocol: &str) -> Result<Scene> {
    let net = Net::new()?;
    net.bridge("br0", options)?;
    net.bridge("br1", options)?;
    let mut guests = Vec::new();
    let kinds = [Kind::Wire, Kind::Veth, Kind::Veth, Kind::Tap, Kind::Veth];
    for (kind, name) in kinds.into_iter().zip(["g1", "g2", "g3", "g4", "g5"]) {
        guests.push(net.guest(name, kind)?);
    }
    for (below, vid, bridge) in [("eth0", 10, "br0"), ("g2", 30, "br0"), ("eth0", 20, "br1")] {
        net.host.cmd(&format!("ip link add link {below} name {below}.{vid} type vlan protocol {protocol} id {vid}"))?;
        port(&net, &format!("{below}.{vid}"), bridge)?;
    }
    for (guest, bridge) in guests[2..].iter().zip(["br0", "br0", "br1"]) {
        net.join(guest, bridge)?;
    }
    if !options.is_empty() {
        for port in ["eth0.10", "g2.30", "g3"] {
            net.host.cmd(&format!("bridge vlan add dev {port} vid 5"))?;
        }
        net.host.cmd("bridge vlan add dev g4 vid 5 pvid untagged")?;
    }
    Ok(Scene { net, guests })
}

/// Brings a VLAN device up as a port.
fn port(net: &Net, name: &str, bridge: &str) -> Result<()> {
    net.host.cmd(&format!("ip link set {name} master {bridge} up"))?;
    net.forwarding(name)
}

/// Hosts behind the uplinks: in VLAN 10 and 20 of eth0 and in VLAN 30 of g2, each known by the port that it is behind.
fn outside(scene: &Scene) -> Result<[Guest; 3]> {
    let [wire, second, ..] = scene.first::<2>();
    let host = |name: &str, below: &Guest, vid: u16| -> Result<Guest> {
        let mut guest = scene.net.vlan_host(name, below, vid)?;
        guest.port = format!("{}.{vid}", below.port);
        Ok(guest)
    };
    Ok([host("out10", wire, 10)?, host("out20", wire, 20)?, host("out30", second, 30)?])
}

/// Starts the daemon on both bridges.
fn start(scene: &Scene, args: &[&str]) -> Result<Xbr> {
    scene.xbr(&[&["br1"], args].concat())
}

/// As [`Scene::steady`]; the far ends of the uplinks see what passes there and are no bystanders.
fn steady(scene: &Scene, xbr: &Xbr, from: &Guest, to: &Guest, frames: u32) -> Result<()> {
    let reading = Reading::take(xbr)?;
    let others: Vec<&Guest> =
        scene.guests[2..].iter().filter(|guest| guest.name != from.name && guest.name != to.name).collect();
    let frame = Frame::new(from.mac, to.mac);
    let context = || format!("{} to {}: {}", from.name, to.name, xbr.summary());
    let flow = Flow::start(from, &[to], &others, frame, 4000 / slowness(), frames)?;
    flow.finish()?.exact().with_context(context)?;
    let deltas = reading.since(xbr)?;
    let delta = deltas.get(&from.port).with_context(|| format!("no port {} in the status", from.port))?;
    delta.steady(u64::from(frames) * 99 / 100).with_context(context)
}

/// Everybody to everybody: those outside with a VLAN device's tag and up to two behind it, those inside with up to two.
fn matrix(options: &str, protocol: &str, hook: &str) -> Result<()> {
    let scene = stacked(options, protocol)?;
    let outer = |vid| if protocol == "802.1ad" { Tag::ad(vid) } else { Tag::q(vid) };
    let inside: [&[Tag]; 9] = [
        &[],
        &[Tag::q(0).pcp(5)],
        &[Tag::q(1)],
        &[Tag::q(5).pcp(3)],
        &[Tag::q(10)],
        &[Tag::ad(5)],
        &[Tag::q(5), Tag::q(7)],
        &[Tag::q(0), Tag::q(5)],
        &[Tag::ad(0), Tag::ad(9)],
    ];
    let mut probes = Vec::new();
    for (from, sender) in scene.guests.iter().enumerate() {
        let fronts: Vec<Vec<Tag>> = match from {
            0 => vec![
                vec![outer(10)],
                vec![outer(10).pcp(6)],
                vec![outer(20)],
                vec![outer(11)],
                vec![Tag::q(0), outer(10)],
            ],
            1 => vec![vec![outer(30)], vec![outer(10)]],
            _ => vec![vec![]],
        };
        for to in scene.guests.iter().map(|guest| guest.mac).chain([BROADCAST]) {
            for front in &fronts {
                for inside in inside {
                    for length in [46, 200].into_iter().take(inside.len().max(1)) {
                        let mut frame = Frame::new(sender.mac, to).payload_len(length);
                        frame.tags = [front, inside].concat();
                        probes.push(Probe { from, frame });
                    }
                }
            }
        }
    }
    compare(&scene, &["br1", "--hook", hook], &probes, u64::try_from(probes.len())? / 20)
}

fn both_ways_are_fast(hook: &str) -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [out10, out20, out30] = outside(&scene)?;
    let [_wire, _second, container, machine, other] = scene.first();
    let xbr = start(&scene, &["--hook", hook])?;
    for name in ["eth0.10", "eth0.20", "g2.30"] {
        let port = xbr.port(name)?;
        let below = name.split('.').next().context("a name")?;
        ensure!(port["served_on"] == below && port["accelerated"] == true, "{name} is not served on {below}: {port}");
    }
    for (one, two) in [(&out10, container), (&out10, machine), (&out30, container), (&out10, &out30), (&out20, other)] {
        warm(&xbr, one, two)?;
        let sent = |port: &str| -> Result<u64> { Ok(xbr.port(port)?["sent"]["packets"].as_u64().unwrap_or(0)) };
        for (from, to) in [(one, two), (two, one)] {
            let before = sent(&to.port)?;
            steady(&scene, &xbr, from, to, 300).with_context(|| xbr.summary())?;
            ensure!(sent(&to.port)? >= before + 300, "{} does not count what it sends", to.port);
        }
    }
    // The same frames from one tenant to the other arrive nowhere.
    for (from, to) in [(container, other), (&out10, other), (&out20, container)] {
        let account = Flow::start(from, &[to], &[], Frame::new(from.mac, to.mac), 2000 / slowness(), 100)?.finish()?;
        ensure!(account.received == 0, "{} of {} reaches {}", account.received, from.name, to.name);
    }
    xbr.stop()
}

fn tcp_goes_through(hook: &str) -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [out10, _out20, out30] = outside(&scene)?;
    let [_wire, _second, container, machine, _other] = scene.first();
    // Another tag inside: the container's and the outside host's own VLAN 5.
    let mut inner_out = scene.net.vlan_host("in5", &out30, 5)?;
    let mut inner_container = scene.net.vlan_host("in5c", container, 5)?;
    inner_out.port.clone_from(&out30.port);
    inner_container.port.clone_from(&container.port);
    let xbr = start(&scene, &["--hook", hook])?;
    let bytes = (8 << 20) / u64::from(slowness());
    let pairs =
        [(&out10, container), (&out10, machine), (&out30, machine), (&out10, &out30), (&inner_out, &inner_container)];
    for (one, two) in pairs {
        for (from, to) in [(one, two), (two, one), (one, two)] {
            let before = xbr.fast(&from.port)?;
            tcp(from, to, bytes).with_context(|| format!("{} to {}: {}", from.name, to.name, xbr.summary()))?;
            ensure!(xbr.fast(&from.port)? > before + 20, "{} to {}: {}", from.name, to.name, xbr.summary());
        }
    }
    xbr.stop()
}

/// The device below is a bond: its slaves hand it their frames before it looks for VLAN devices (`bond_handle_frame`).
fn on_a_bond() -> Result<()> {
    let net = Net::new()?;
    net.bridge("br0", "")?;
    let guests = ["g1", "g2", "g3"].into_iter().map(|name| net.guest(name, Kind::Veth)).collect::<Result<Vec<_>>>()?;
    net.host.cmd("ip link add bond0 type bond mode active-backup miimon 100")?;
    for slave in ["g1", "g2"] {
        net.host.cmd(&format!("ip link set {slave} down"))?;
        net.host.cmd(&format!("ip link set {slave} master bond0"))?;
    }
    net.host.cmd("ip link set bond0 up")?;
    net.host.cmd("ip link add link bond0 name bond0.10 type vlan id 10")?;
    port(&net, "bond0.10", "br0")?;
    net.join(&guests[2], "br0")?;
    let mut out10 = net.vlan_host("out10", &guests[0], 10)?;
    "bond0.10".clone_into(&mut out10.port);
    let scene = Scene { net, guests };
    let container = &scene.guests[2];
    scene.host("ip link set bond0 type bond active_slave g1")?;
    let xbr = scene.xbr(&[])?;
    ensure!(xbr.port("bond0.10")?["served_on"] == "bond0", "{}", xbr.summary());
    warm(&xbr, &out10, container)?;
    for (from, to) in [(&out10, container), (container, &out10)] {
        steady(&scene, &xbr, from, to, 300)?;
        tcp(from, to, (4 << 20) / u64::from(slowness()))?;
    }
    // The other slave takes over: frames of the first one are for nobody.
    scene.host("ip link set bond0 type bond active_slave g2")?;
    let account = Flow::start(&out10, &[container], &[], Frame::new(out10.mac, container.mac), 2000 / slowness(), 100)?
        .finish()?;
    ensure!(account.received == 0, "{} frames of a slave that is not active arrive", account.received);
    xbr.stop()
}
