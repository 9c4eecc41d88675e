//! What changes while xbr runs: the VLAN device, the device below it, and policy on either.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xbr_tests::{
    bpf,
    frame::{Frame, Mark, Tag},
    leak,
    packet::Capture,
    traffic::Flow,
    wait,
    xbr::Xbr,
};

use super::{super::scene::warm, outside, port, stacked, start, steady};

/// A VLAN device goes to the other tenant, away and back, with frames under way: from the moment that the command has
/// returned, nothing reaches the tenant that it belonged to.
pub(super) fn a_tenant_is_never_mixed_up() -> Result<()> {
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
        // For so long the kernel may have more to tell of new devices and of their bridge (`linkwatch_event`), and while
        // something of that has not been looked at, frames are slow.
        sleep(Duration::from_millis(1200) * wait::slowness());
        warm(&xbr, &out10, container)?;
        steady(&scene, &xbr, &out10, container, 100)?;
        let mut at_container = container.capture()?;
        let mut at_out10 = Capture::open(&out10.space, &out10.dev)?;
        for line in lines {
            scene.host(line)?;
        }
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
pub(super) fn the_device_below_is_renamed() -> Result<()> {
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

fn ours(mark: Option<Mark>, flow: u32) -> bool {
    mark.is_some_and(|mark| mark.flow == flow)
}

/// A filter on the device below acts on the very first frame after the tool that set it has returned, whatever the daemon does.
pub(super) fn a_filter_below_at_once() -> Result<()> {
    let scene = stacked("", "802.1Q")?;
    let [out10, ..] = outside(&scene)?;
    let [_wire, _second, container, ..] = scene.first::<3>();
    scene.host("ip link add nowhere type veth peer name nobody")?;
    let filter = "protocol all prio 7 u32 match u32 0 0 action mirred egress redirect dev nowhere";
    for hook in ["eth0=tc", "eth0=xdp"] {
        let xbr = start(&scene, &["--hook", hook])?;
        // On kernels without tcx it is there already, and shared.
        scene.net.host.output("tc qdisc add dev eth0 clsact")?;
        for time in 0..3 {
            wait::until("eth0.10 served on eth0", Duration::from_secs(5), || {
                Ok(xbr.port("eth0.10")?["served_on"] == "eth0")
            })?;
            warm(&xbr, &out10, container)?;
            xbr.signal(Signal::SIGSTOP)?;
            scene.host(&format!("tc filter add dev eth0 ingress {filter}"))?;
            let frame = Frame::new(out10.mac, container.mac);
            let account = Flow::start(&out10, &[container], &[], frame, 5000, 30)?.finish()?;
            xbr.signal(Signal::SIGCONT)?;
            ensure!(account.lost == account.sent, "{hook}, time {time}: frames went around a filter: {account:?}");
            scene.host("tc filter del dev eth0 ingress prio 7")?;
        }
        xbr.stop()?;
        scene.net.host.output("tc qdisc del dev eth0 clsact")?;
    }
    Ok(())
}

/// What is found on the device below sends the port back to its own device; what is found on the VLAN device keeps it slow.
pub(super) fn policy_on_either_device() -> Result<()> {
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
pub(super) fn other_frames() -> Result<()> {
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

pub(super) fn left_as_found() -> Result<()> {
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
