//! Kinds of FDB entries.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use xbr_tests::{frame::Frame, setting, traffic::Flow, wait::slowness};

use super::{
    super::{
        scene::warm,
        settings::{Change, Setting, follow, host},
    },
    STATION, probes, scene,
};

/// A station that is said to be behind g2, and then sends behind g3: some entries move, some do not, some are no station.
pub(super) fn kinds() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene, |[one, two, _]| {
        vec![(0, Frame::new(one, STATION)), (2, Frame::new(STATION, one)), (1, Frame::new(two, STATION))]
    });
    let gone = || -> Change {
        Box::new(|scene| {
            for port in ["g2", "g3"] {
                scene.net.host.output(&format!("bridge fdb del 02:0b:00:00:00:70 dev {port} master"))?;
            }
            Ok(())
        })
    };
    let settings = [
        Setting::new(
            "sticky",
            host(&["bridge fdb replace 02:0b:00:00:00:70 dev g2 master static sticky"]),
            gone(),
            &[("g3", "source_fixed"), ("g1", "forwarded_tc"), ("g2", "same_port")],
        ),
        Setting::new(
            "local",
            host(&["bridge fdb replace 02:0b:00:00:00:70 dev g2 master local"]),
            gone(),
            &[("g1", "local"), ("g3", "source_fixed"), ("g2", "local"), ("g1", "forwarded_tc")],
        ),
        // These move to g3 as a learnt entry does, so that in the end nothing is different; but they stay of their kind.
        Setting::new(
            "static",
            host(&["bridge fdb replace 02:0b:00:00:00:70 dev g2 master static"]),
            gone(),
            &[("g3", "forwarded_tc"), ("g1", "forwarded_tc")],
        )
        .without_effect(),
        Setting::new(
            "extern_learn",
            host(&["bridge fdb replace 02:0b:00:00:00:70 dev g2 master extern_learn"]),
            gone(),
            &[("g3", "forwarded_tc"), ("g1", "forwarded_tc")],
        )
        .without_effect(),
    ];
    follow(&scene, &[], &probes, &settings)
}

/// User space has asked to hear when a static entry falls silent: it must not, while its host is busy on the fast path.
pub(super) fn a_watched_entry_stays_active() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    let ageing = 3 * slowness();
    scene.host(&format!("ip link set br0 type bridge ageing_time {}", ageing * 100))?;
    setting::watch_entry(&scene.net.host, &one.port, one.mac)?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let flow = Flow::start(one, &[two], &[], Frame::new(one.mac, two.mac), 200, u32::MAX)?;
    let back = Flow::start(two, &[one], &[], Frame::new(two.mac, one.mac), 50, u32::MAX)?;
    sleep(Duration::from_secs(u64::from(ageing) * 2));
    let active = setting::watched_entry_is_active(&scene.net.host, "br0", one.mac)?;
    back.stop()?.exact()?;
    flow.stop()?.exact()?;
    ensure!(active, "the bridge thinks that a busy host is silent: {}", xbr.summary());
    ensure!(xbr.fast(&one.port)? > 200, "{}", xbr.summary());
    // Silent it is found, and a frame brings it back.
    sleep(Duration::from_secs(u64::from(ageing) + 2));
    ensure!(!setting::watched_entry_is_active(&scene.net.host, "br0", one.mac)?, "a silent host is active");
    one.sender()?.send(&Frame::new(one.mac, three.mac).bytes())?;
    sleep(Duration::from_millis(100) * slowness());
    ensure!(setting::watched_entry_is_active(&scene.net.host, "br0", one.mac)?, "a host that sends again is silent");
    xbr.stop()
}
