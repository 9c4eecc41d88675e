//! VLAN devices as bridge ports, one bridge per tenant, served by the programs on the device below them.
//!
//! The host has an uplink eth0 whose far end is `g1`, a second one (the veth `g2`) whose sender leaves tags in metadata,
//! and two tenants: br0 with eth0.10, g2.30, a container and a virtual machine, br1 with eth0.20 and a container.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf,
    frame::{BROADCAST, Frame, Tag},
    leak,
    measure::Reading,
    net::{Guest, Kind, Net},
    packet::Capture,
    probe::Need,
    traffic::{Flow, tcp},
    wait::{self, slowness},
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
    test("stacked::a_tenant_is_never_mixed_up", a_tenant_is_never_mixed_up, NEEDS),
    test("stacked::the_device_below_is_renamed", the_device_below_is_renamed, NEEDS),
    test("stacked::policy_on_either_device", policy_on_either_device, NEEDS),
    test("stacked::other_frames_of_the_device_below", other_frames, NEEDS),
    test("stacked::devices_are_left_as_they_were_found", left_as_found, NEEDS),
];

const NEEDS: &[Need] = &[Need::VlanDevice, Need::Tun];
const NEEDS_FILTERING: &[Need] = &[Need::VlanDevice, Need::Tun, Need::VlanFiltering];

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
                    for length in [16, 46, 200].into_iter().take(inside.len() + 1) {
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

/// A VLAN device goes to the other tenant, away and back, with frames under way: from the moment that the command has
/// returned, nothing reaches the tenant that it belonged to.
fn a_tenant_is_never_mixed_up() -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [out10, _out20, _out30] = outside(&scene)?;
    let [wire, _second, container, _machine, _other] = scene.first();
    let xbr = start(&scene, &["--hook", "eth0=xdp"])?;
    let frames: Vec<Vec<u8>> =
        (0..200).map(|seq| Frame::new(out10.mac, container.mac).tag(Tag::q(10)).numbered(0x77, seq).bytes()).collect();
    let back: Vec<Vec<u8>> =
        (0..200).map(|seq| Frame::new(container.mac, out10.mac).numbered(0x78, seq).bytes()).collect();
    let (there, here) = (wire.sender()?, container.sender()?);
    let moves: [&[&str]; 4] = [
        &["ip link set eth0.10 master br1"],
        &["ip link set eth0.10 nomaster"],
        &[
            "ip link del eth0.10",
            "ip link add link eth0 name eth0.10 type vlan id 10",
            "ip link set eth0.10 master br1 up",
        ],
        &[
            "ip link del eth0.10",
            "ip link add link eth0 name eth0.10 type vlan id 11",
            "ip link set eth0.10 master br0 up",
        ],
    ];
    for lines in moves {
        warm(&xbr, &out10, container)?;
        steady(&scene, &xbr, &out10, container, 100)?;
        let mut at_container = container.capture()?;
        let mut at_out10 = Capture::open(&out10.space, &out10.dev)?;
        for line in lines {
            scene.host(line)?;
        }
        at_container.drain(Duration::from_millis(20))?;
        at_out10.drain(Duration::from_millis(20))?;
        there.send_all(&frames)?;
        here.send_all(&back)?;
        let reached = at_container.drain(Duration::from_millis(200))?.iter().filter(|f| ours(f.mark(), 0x77)).count();
        let left = at_out10.drain(Duration::from_millis(200))?.iter().filter(|f| ours(f.mark(), 0x78)).count();
        ensure!((reached, left) == (0, 0), "after {lines:?}: {reached} frames came in, {left} went out");
        // And back.
        scene.net.host.output("ip link del eth0.10")?;
        scene.host("ip link add link eth0 name eth0.10 type vlan id 10")?;
        port(&scene.net, "eth0.10", "br0")?;
    }
    // To another namespace: the device is found there, by the same frames.
    warm(&xbr, &out10, container)?;
    scene.host(&format!("ip link set eth0.10 netns {}", scene.guests[4].space.name()))?;
    let mut at_container = container.capture()?;
    there.send_all(&frames)?;
    let reached = at_container.drain(Duration::from_millis(200))?.iter().filter(|f| ours(f.mark(), 0x77)).count();
    ensure!(reached == 0, "{reached} frames of a device in another namespace came in");
    xbr.stop()
}

/// The device below gets another name: it goes on, and the device is put back under that name.
fn the_device_below_is_renamed() -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [out10, ..] = outside(&scene)?;
    let [_wire, _second, container, ..] = scene.first::<3>();
    let offload = |dev: &str| -> Result<String> {
        let features = scene.host(&format!("ethtool -k {dev}"))?;
        let line = features.lines().find(|line| line.starts_with("rx-vlan-offload:")).map(str::to_owned);
        line.context("ethtool names no rx-vlan-offload")
    };
    let before = offload("eth0")?;
    let xbr = start(&scene, &["--hook", "eth0.10=xdp"])?;
    warm(&xbr, &out10, container)?;
    ensure!(offload("eth0")? != before, "XDP on eth0, and {before}");
    // Kernels before 6.2 rename a device only while it is down.
    scene.host("ip link set eth0 down")?;
    scene.host("ip link set eth0 name up0")?;
    scene.host("ip link set up0 up")?;
    scene.net.forwarding("eth0.10")?;
    wait::until("the new name in the status", Duration::from_secs(5), || {
        let port = xbr.port("eth0.10")?;
        Ok(port["served_on"] == "up0" && port["accelerated"] == true)
    })?;
    warm(&xbr, &out10, container)?;
    steady(&scene, &xbr, &out10, container, 100)?;
    xbr.stop()?;
    ensure!(offload("up0")? == before, "up0 is left with {}", offload("up0")?);
    Ok(())
}

fn ours(mark: Option<xbr_tests::frame::Mark>, flow: u32) -> bool {
    mark.is_some_and(|mark| mark.flow == flow)
}

/// What is found on the device below sends the port back to its own device; what is found on the VLAN device keeps it slow.
fn policy_on_either_device() -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [out10, ..] = outside(&scene)?;
    let [_wire, _second, container, _machine, _other] = scene.first();
    let served_on = |xbr: &Xbr, device: Option<&str>| -> Result<()> {
        wait::until(&format!("eth0.10 served on {device:?}"), Duration::from_secs(5), || {
            let port = xbr.port("eth0.10")?;
            Ok(port["served_on"].as_str() == device && port["hook"] != "none")
        })
        .with_context(|| xbr.summary())
    };
    let xbr = start(&scene, &["--hook", "eth0=tc"])?;
    let filter = |dev: &str| format!("tc filter add dev {dev} ingress protocol all prio 7 matchall action ok");
    let cases: [(&[String], &[&str]); 3] = [
        (
            &["ip link set eth0.10 type vlan egress-qos-map 0:3".into()],
            &["ip link set eth0.10 type vlan egress-qos-map 0:0"],
        ),
        (&["ip link set eth0.10 type vlan reorder_hdr off".into()], &["ip link set eth0.10 type vlan reorder_hdr on"]),
        (&["tc qdisc add dev eth0 clsact".into(), filter("eth0")], &["tc filter del dev eth0 ingress prio 7"]),
    ];
    for (there, back) in cases {
        served_on(&xbr, Some("eth0"))?;
        warm(&xbr, &out10, container)?;
        for line in there {
            // On kernels without tcx the qdisc is there already, and shared.
            if line.contains("clsact") { drop(scene.net.host.output(line)?) } else { drop(scene.host(line)?) }
        }
        served_on(&xbr, None)?;
        warm(&xbr, &out10, container)?;
        steady(&scene, &xbr, &out10, container, 200)?;
        steady(&scene, &xbr, container, &out10, 200)?;
        for line in back {
            scene.host(line)?;
        }
    }
    served_on(&xbr, Some("eth0"))?;
    // On the VLAN device: an egress qdisc is passed, an ingress filter is somebody's policy.
    scene.host("tc qdisc add dev eth0.10 root pfifo limit 1000")?;
    wait::until("frames through the new qdisc", Duration::from_secs(5), || {
        warm(&xbr, &out10, container)?;
        Flow::start(container, &[&out10], &[], Frame::new(container.mac, out10.mac), 2000, 20)?.finish()?.exact()?;
        Ok(!scene.host("tc -s qdisc show dev eth0.10")?.contains("Sent 0 bytes"))
    })?;
    steady(&scene, &xbr, container, &out10, 200)?;
    scene.host("tc qdisc del dev eth0.10 root")?;
    scene.net.host.output("tc qdisc add dev eth0.10 clsact")?;
    scene.host(&filter("eth0.10"))?;
    xbr.wait_slow("eth0.10", "tc_filter")?;
    let before = xbr.fast("eth0.10")?;
    Flow::start(&out10, &[container], &[], Frame::new(out10.mac, container.mac), 2000, 100)?.finish()?.exact()?;
    ensure!(xbr.fast("eth0.10")? == before, "frames went around a filter: {}", xbr.summary());
    scene.host("tc filter del dev eth0.10 ingress prio 7")?;
    xbr.wait_accelerated("eth0.10")?;
    // XDP of somebody else below.
    let foreign = scene.net.host.enter(|| bpf::xdp_pass("eth0"))??;
    served_on(&xbr, None)?;
    drop(foreign);
    served_on(&xbr, Some("eth0"))?;
    xbr.stop()?;
    let xbr = start(&scene, &["--hook", "eth0.10=tc"])?;
    served_on(&xbr, None)?;
    ensure!(xbr.port("eth0.20")?["served_on"] == "eth0", "{}", xbr.summary());
    warm(&xbr, &out10, container)?;
    xbr.stop()
}

/// Frames of eth0 that belong to no port pass untouched, and are not counted.
fn other_frames() -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [wire, ..] = scene.first::<1>();
    scene.host("ip link add link eth0 name eth0.77 type vlan id 77")?;
    scene.host("ip link set eth0.77 up")?;
    let xbr = start(&scene, &["--hook", "eth0=xdp"])?;
    let mut at_device = Capture::open(&scene.net.host, "eth0")?;
    let mut at_vlan = Capture::open(&scene.net.host, "eth0.77")?;
    let counted = |xbr: &Xbr| -> Result<u64> {
        let ports = ["eth0.10", "eth0.20"];
        ports.iter().try_fold(0, |sum, port| Ok(sum + xbr.fast(port)? + xbr.slow(port)?))
    };
    sleep(Duration::from_millis(200));
    at_device.drain(Duration::from_millis(100))?;
    at_vlan.drain(Duration::from_millis(100))?;
    let before = counted(&xbr)?;
    let sender = wire.sender()?;
    let stacks: [&[Tag]; 4] = [&[], &[Tag::q(0).pcp(2)], &[Tag::q(77)], &[Tag::ad(10)]];
    let mut wanted = Vec::new();
    for (number, tags) in (0_u32..).zip(stacks) {
        let mut frame = Frame::new(wire.mac, [2, 0, 0, 0, 0, 99]).numbered(0x79, number);
        frame.tags = tags.to_vec();
        sender.send(&frame.bytes())?;
        wanted.push(frame.bytes());
    }
    let seen = |capture: &mut Capture| -> Result<Vec<Vec<u8>>> {
        let frames = capture.drain(Duration::from_millis(300))?;
        Ok(frames.into_iter().filter(|frame| ours(frame.mark(), 0x79)).map(|frame| frame.bytes).collect())
    };
    ensure!(seen(&mut at_device)? == wanted, "not the same at eth0");
    let untagged = Frame::new(wire.mac, [2, 0, 0, 0, 0, 99]).numbered(0x79, 2).bytes();
    ensure!(seen(&mut at_vlan)? == [untagged], "not the frame of VLAN 77 at eth0.77");
    ensure!(counted(&xbr)? == before, "frames of no port are counted: {}", xbr.summary());
    xbr.stop()
}

fn left_as_found() -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let before = leak::attachments(&scene.net.host)?;
    let same = |when: &str| {
        let mut after = String::new();
        let found = wait::until("devices as they were", Duration::from_secs(5), || {
            after = leak::attachments(&scene.net.host)?;
            Ok(after == before)
        });
        found.with_context(|| format!("{when}: before:\n{before}\nafter:\n{after}"))
    };
    for hook in ["eth0=tc", "eth0=xdp", "eth0.10=xdp", "eth0.10=tc"] {
        let xbr = start(&scene, &["--hook", hook])?;
        ensure!(leak::attachments(&scene.net.host)? != before, "{hook}: nothing is attached");
        xbr.stop()?;
        same(hook)?;
        let mut xbr = start(&scene, &["--hook", hook])?;
        xbr.kill9()?;
        same(&format!("{hook}, killed"))?;
    }
    Ok(())
}
