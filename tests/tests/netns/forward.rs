//! What a VLAN-unaware bridge forwards, and by which path.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf,
    frame::{BROADCAST, Frame, TPID_Q, Tag},
    measure::Reading,
    net::Kind,
    probe::Need,
    traffic::{Flow, ping, tcp},
    wait::slowness,
};

use super::{
    Test,
    observe::{Probe, compare, observe},
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("forward::known_unicast_is_fast", known_unicast_is_fast, &[]),
    test("forward::every_pair_by_tc", || every_pair("eth0=tc"), &[Need::Tun]),
    test("forward::every_pair_by_xdp", || every_pair("eth0=xdp"), &[Need::Tun]),
    test("forward::tags_are_transparent_to_tc", || tags_are_transparent("eth0=tc"), &[Need::Tun]),
    test("forward::tags_are_transparent_to_xdp", || tags_are_transparent("eth0=xdp"), &[Need::Tun]),
    test("forward::tags_in_metadata_are_transparent", tags_in_metadata_are_transparent, &[Need::Tcx]),
    test("forward::jumbo_by_tc", || jumbo("eth0=tc"), &[Need::Tun]),
    test("forward::jumbo_by_xdp", || jumbo("eth0=xdp"), &[Need::Tun]),
    test("forward::odd_buffers_by_xdp", odd_buffers, &[Need::Tun]),
    test("forward::too_large_for_the_egress_port", too_large_for_the_egress_port, &[]),
    test("forward::floods_stay_floods", floods_stay_floods, &[]),
    test("forward::local_address_reaches_the_bridge", local_address_reaches_the_bridge, &[]),
    test("forward::counters_add_up", counters_add_up, &[Need::Tun]),
];

const EVERY_KIND: [Kind; 4] = [Kind::Veth, Kind::Tap, Kind::Wire, Kind::Veth];

fn known_unicast_is_fast() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for (from, to) in [(one, two), (two, three), (three, one)] {
        warm(&xbr, from, to)?;
        scene.steady(&xbr, from, to, 2000)?;
        scene.steady(&xbr, to, from, 2000)?;
    }
    xbr.stop()
}

/// Frames and TCP between guests of every kind, both ways.
fn every_pair(hook: &str) -> Result<()> {
    let scene = Scene::new(&EVERY_KIND)?;
    let xbr = scene.xbr(&["--hook", hook])?;
    for (index, one) in scene.guests.iter().enumerate() {
        for other in &scene.guests[index + 1..] {
            warm(&xbr, one, other)?;
            for (from, to) in [(one, other), (other, one)] {
                scene.steady(&xbr, from, to, 500)?;
                let reading = Reading::take(&xbr)?;
                let context = || format!("{:?} to {:?}", from.kind, to.kind);
                tcp(from, to, (16 << 20) / u64::from(slowness())).with_context(context)?;
                // The ACKs' share is looked at as well: they come from the other port. A few frames may be ARP.
                for port in [&from.port, &to.port] {
                    let delta = reading.since(&xbr)?.remove(port).with_context(|| format!("port {port}"))?;
                    let slow = delta.known() - delta.fast;
                    ensure!(
                        slow <= 3 + delta.known() / 100,
                        "TCP {}: {slow} slow frames on {port}: {delta:?}",
                        context()
                    );
                }
            }
        }
    }
    let by_xdp = xbr.reason("eth0", "forwarded_xdp")?;
    ensure!((by_xdp > 0) == hook.ends_with("xdp"), "{by_xdp} frames by XDP with {hook}");
    xbr.stop()
}

/// Tags of all sorts, on frames between all guests.
fn tagged_probes(scene: &Scene) -> Vec<Probe> {
    let stacks: [&[Tag]; 7] = [
        &[],
        &[Tag::q(10)],
        &[Tag::q(0).pcp(5)],
        &[Tag { tpid: TPID_Q, tci: 0xf00a }],
        &[Tag::ad(10)],
        &[Tag::q(10), Tag::q(20)],
        &[Tag::ad(30).pcp(2), Tag::q(10).pcp(6), Tag::q(7)],
    ];
    let mut probes = Vec::new();
    for (from, sender) in scene.guests.iter().enumerate() {
        for to in scene.guests.iter().filter(|to| to.name != sender.name) {
            for stack in stacks {
                let mut frame = Frame::new(sender.mac, to.mac);
                frame.tags = stack.to_vec();
                probes.push(Probe { from, frame });
            }
        }
    }
    probes
}

fn tags_are_transparent(hook: &str) -> Result<()> {
    let scene = Scene::new(&EVERY_KIND)?;
    let probes = tagged_probes(&scene);
    compare(&scene, &["--hook", hook], &probes, u64::try_from(probes.len())? / 2)
}

fn tags_in_metadata_are_transparent() -> Result<()> {
    let scene = Scene::new(&EVERY_KIND)?;
    let [one, ..] = scene.first::<4>();
    let _tagger = one.space.enter(|| bpf::tag_in_metadata(&one.dev, TPID_Q, 0x600a))??;
    let probes = tagged_probes(&scene);
    compare(&scene, &[], &probes, u64::try_from(probes.len())? / 2)
}

fn jumbo(hook: &str) -> Result<()> {
    let scene = Scene::new(&EVERY_KIND)?;
    for guest in &scene.guests {
        guest.space.cmd(&format!("ip link set {} mtu 9000", guest.dev))?;
        scene.host(&format!("ip link set {} mtu 9000", guest.port))?;
    }
    let xbr = scene.xbr(&["--hook", hook])?;
    for (index, one) in scene.guests.iter().enumerate() {
        for other in &scene.guests[index + 1..] {
            warm(&xbr, one, other)?;
            for (from, to) in [(one, other), (other, one)] {
                scene.steady_frame(&xbr, from, to, &Frame::new(from.mac, to.mac).payload_len(9000), 200)?;
                tcp(from, to, 4 << 20)?;
            }
        }
    }
    xbr.stop()
}

/// Jumbo frames of odd length make some kernels put the frames behind them at odd addresses, which taps and veths take
/// for a mark: redirected by XDP, they would crash the kernel.
fn odd_buffers() -> Result<()> {
    let scene = Scene::new(&[Kind::Wire, Kind::Tap, Kind::Veth])?;
    for guest in &scene.guests {
        guest.space.cmd(&format!("ip link set {} mtu 9000", guest.dev))?;
        scene.host(&format!("ip link set {} mtu 9000", guest.port))?;
    }
    let (from, sender) = (0, &scene.guests[0]);
    let mut probes = Vec::new();
    for round in 0..40 {
        for to in &scene.guests[1..] {
            let frame = Frame::new(sender.mac, to.mac);
            probes.push(Probe { from, frame: frame.clone().payload_len(8001 + 2 * round) });
            probes.extend((0..4).map(|_| Probe { from, frame: frame.clone() }));
        }
    }
    let fast = u64::try_from(probes.len())? / 2;
    compare(&scene, &["--hook", "eth0=xdp"], &probes, fast)
}

/// The bridge drops what does not fit the egress port; a frame of exactly the MTU, and one with a tag, fit.
fn too_large_for_the_egress_port() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let [one, two] = scene.first();
    scene.host(&format!("ip link set {} mtu 9000", one.port))?;
    one.space.cmd("ip link set eth0 mtu 9000")?;
    let mut probes = Vec::new();
    for length in [1000, 1499, 1500, 1501, 1504, 1505, 4000] {
        for tags in [vec![], vec![Tag::q(10)]] {
            let mut frame = Frame::new(one.mac, two.mac).payload_len(length);
            frame.tags = tags;
            probes.push(Probe { from: 0, frame });
        }
    }
    probes.push(Probe { from: 1, frame: Frame::new(two.mac, one.mac) });
    compare(&scene, &[], &probes, 5)
}

fn floods_stay_floods() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    for dst in [BROADCAST, [0x01, 0, 0x5e, 1, 2, 3], [0x33, 0x33, 0, 0, 0, 9], [2, 9, 9, 9, 9, 9]] {
        let reading = Reading::take(&xbr)?;
        let account =
            Flow::start(one, &[two, three], &[], Frame::new(one.mac, dst), 2000 / slowness(), 200)?.finish()?;
        ensure!(account.received == 400 && account.duplicated == 0, "to {dst:02x?}: {account:?}");
        let delta = reading.since(&xbr)?.remove(&one.port).context("port")?;
        ensure!(delta.fast == 0 && delta.slow >= 200, "to {dst:02x?}: {delta:?}");
    }
    xbr.stop()
}

fn local_address_reaches_the_bridge() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let [one, two] = scene.first();
    scene.host("ip addr add 10.77.0.254/24 dev br0")?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    for guest in [one, two] {
        let answered = ping(guest, [10, 77, 0, 254].into(), 5, Duration::from_secs(1))?;
        ensure!(answered == 5, "{answered} of 5 pings to the bridge were answered");
    }
    ensure!(xbr.reason(&one.port, "local")? >= 5, "{}", xbr.summary());
    xbr.stop()
}

/// Fast, slow and dropped add up to what the kernel says that the port received, and so do the reasons.
fn counters_add_up() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Tap, Kind::Veth])?;
    let xbr = scene.xbr(&[])?;
    let [one, two, _three] = scene.first();
    warm(&xbr, one, two)?;
    let received = |port: &str| scene.net.host.link_counter(port, "rx", "packets");
    let before = (Reading::take(&xbr)?, received(&one.port)?, received(&two.port)?);
    let mut probes = tagged_probes(&scene);
    probes.push(Probe { from: 0, frame: Frame::new(one.mac, BROADCAST) });
    for _ in 0..20 {
        observe(&scene, &probes)?;
    }
    let deltas = before.0.since(&xbr)?;
    for (guest, before) in [(one, before.1), (two, before.2)] {
        let kernel = received(&guest.port)? - before;
        let delta = deltas.get(&guest.port).context("port")?;
        let sum = delta.fast + delta.slow + delta.dropped;
        let reasons: u64 = delta.reasons.values().sum();
        ensure!(
            sum == kernel && reasons == sum,
            "{}: kernel {kernel}, sum {sum}, reasons {reasons}: {delta:?}",
            guest.port
        );
    }
    xbr.stop()
}
