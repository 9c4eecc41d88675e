//! The lab itself, on a plain bridge without xbr: a test that fails here says nothing about xbr.

use std::{slice, time::Duration};

use anyhow::{Result, ensure};
use xbr_tests::{
    bpf,
    frame::{BROADCAST, Frame, TPID_Q, Tag},
    leak,
    net::Kind,
    probe::Need,
    traffic::{self, Flow, ping, tcp},
};

use super::{Test, scene::Scene, test};

pub(crate) const TESTS: &[Test] = &[
    test("selftest::flows_are_exact", flows_are_exact, &[Need::Tun]),
    test("selftest::flood_is_seen_as_misdelivery", flood_is_seen_as_misdelivery, &[]),
    test("selftest::pings_and_tcp", pings_and_tcp, &[Need::Tun]),
    test("selftest::tags_in_metadata_and_bytes", tags_in_metadata_and_bytes, &[Need::Tcx]),
    test("selftest::attachments_are_seen", attachments_are_seen, &[Need::Tcx]),
];

fn flows_are_exact() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Tap, Kind::Wire])?;
    for from in &scene.guests {
        for to in scene.guests.iter().filter(|to| to.name != from.name) {
            let others: Vec<_> =
                scene.guests.iter().filter(|guest| guest.name != from.name && guest.name != to.name).collect();
            let account = traffic::flow(from, to, &others, 500, 5000)?;
            account.exact()?;
            ensure!(account.received == 500 && account.reordered == 0, "{account:?}");
        }
    }
    Ok(())
}

fn flood_is_seen_as_misdelivery() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth, Kind::Veth])?;
    let [a, b, c] = scene.guests.as_slice() else { unreachable!() };
    let unknown = Frame::new(a.mac, [2, 9, 9, 9, 9, 9]);
    let account = Flow::start(a, &[b], &[c], unknown, 1000, 100)?.finish()?;
    ensure!(account.received == 100 && account.misdelivered == 100, "{account:?}");
    ensure!(account.exact().is_err());
    Ok(())
}

fn pings_and_tcp() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Tap, Kind::Wire])?;
    for from in &scene.guests {
        for to in scene.guests.iter().filter(|to| to.name != from.name) {
            ensure!(ping(from, to.ip, 3, Duration::from_secs(1))? == 3, "{} to {}", from.name, to.name);
            let stream = tcp(from, to, 2 << 20)?;
            ensure!(stream.bytes == 2 << 20);
        }
    }
    ensure!(ping(&scene.guests[0], [10, 77, 0, 240].into(), 1, Duration::from_millis(300))? == 0);
    Ok(())
}

fn tags_in_metadata_and_bytes() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let [a, b] = scene.guests.as_slice() else { unreachable!() };
    let mut capture = b.capture()?;
    let plain = Frame::new(a.mac, BROADCAST).numbered(7, 1);
    let tagged = plain.clone().tag(Tag::q(10).pcp(3)).tag(Tag::q(20));
    a.sender()?.send(&tagged.bytes())?;
    let frames = capture.drain(Duration::from_millis(200))?;
    ensure!(frames.len() == 1 && frames[0].bytes == tagged.bytes(), "{frames:?}");

    let _tagger = a.space.enter(|| bpf::tag_in_metadata(&a.dev, TPID_Q, 0x600a))??;
    a.sender()?.send(&plain.bytes())?;
    let frames = capture.drain(Duration::from_millis(200))?;
    ensure!(frames.len() == 1 && frames[0].tag_in_metadata, "{frames:?}");
    let expected = plain.tag(Tag::q(10).pcp(3)).bytes();
    ensure!(slice::from_ref(&frames[0].bytes) == slice::from_ref(&expected), "{frames:?}");
    Ok(())
}

fn attachments_are_seen() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth])?;
    let a = &scene.guests[0];
    let before = leak::attachments(&scene.net.host)?;
    ensure!(before == leak::attachments(&scene.net.host)?, "unstable:\n{before}");
    let objects = leak::Objects::list()?;
    let tcx = scene.net.host.enter(|| bpf::tcx_pass(&a.port))??;
    ensure!(before != leak::attachments(&scene.net.host)?, "tcx is not seen:\n{before}");
    ensure!(leak::Objects::list()?.orphans(&objects).is_empty(), "a held program is no orphan");
    drop(tcx);
    let xdp = scene.net.host.enter(|| bpf::xdp_pass(&a.port))??;
    ensure!(before != leak::attachments(&scene.net.host)?, "XDP is not seen:\n{before}");
    drop(xdp);
    scene.host(&format!("tc qdisc add dev {} clsact", a.port))?;
    ensure!(before != leak::attachments(&scene.net.host)?, "clsact is not seen:\n{before}");
    Ok(())
}
