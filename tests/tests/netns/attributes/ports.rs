//! Options of ports.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use xbr_tests::{bpf, frame::Frame, setting, traffic::flow, wait, xbr::RunDir};

use super::{
    super::{
        scene::warm,
        settings::{Change, NOBODY, Setting, everybody, follow, host, probe},
    },
    STATION, probes, scene,
};

pub(super) fn isolated() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let isolated = Setting::new(
        "isolated",
        host(&["bridge link set dev g1 isolated on", "bridge link set dev g2 isolated on"]),
        host(&["bridge link set dev g1 isolated off", "bridge link set dev g2 isolated off"]),
        &[("g1", "isolated"), ("g2", "isolated"), ("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
    );
    // Another way to set it; the notification is the same.
    let by_sysfs = |on: bool| -> Change {
        Box::new(move |scene| {
            let folder = RunDir::new()?;
            let value = folder.path().join("value");
            fs::write(&value, u8::from(on).to_string())?;
            let host = scene.net.host.name();
            ["g1", "g3"].into_iter().try_for_each(|port| {
                let file = format!("/sys/class/net/{port}/brport/isolated");
                scene.host(&format!("ip netns exec {host} cp {} {file}", value.display())).map(drop)
            })
        })
    };
    let counted = &[("g1", "isolated"), ("g3", "isolated"), ("g1", "forwarded_tc"), ("g2", "forwarded_tc")];
    let written = Setting::new("isolated, by sysfs", by_sysfs(true), by_sysfs(false), counted).only_under_way();
    follow(&scene, &[], &probes, &[isolated, written])
}

/// A frame to somebody behind the port that it came from goes back, or nowhere.
pub(super) fn hairpin() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene, |[one, ..]| vec![(0, Frame::new(STATION, one)), (0, Frame::new(one, STATION))]);
    let hairpin = Setting::new(
        "hairpin",
        host(&["bridge link set dev g1 hairpin on"]),
        host(&["bridge link set dev g1 hairpin off"]),
        &[("g1", "same_port"), ("g1", "forwarded_tc")],
    );
    follow(&scene, &[], &probes, &[hairpin])
}

/// Where nothing is learnt, nobody is known: frames from there are fast all the same, frames to there are flooded.
pub(super) fn learning() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene, |[one, ..]| vec![(1, Frame::new(STATION, one)), (0, Frame::new(one, STATION))]);
    let learning = Setting::new(
        "learning off",
        host(&["bridge link set dev g2 learning off", "ip link set dev g2 type bridge_slave fdb_flush"]),
        host(&["bridge link set dev g2 learning on"]),
        &[("g2", "forwarded_tc"), ("g1", "destination_unknown"), ("g1", "forwarded_tc")],
    );
    follow(&scene, &[], &probes, &[learning])
}

pub(super) fn flooding() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let settings = [
        Setting::new(
            "flood off",
            host(&["bridge link set dev g3 flood off"]),
            host(&["bridge link set dev g3 flood on"]),
            &[("g1", "destination_unknown"), ("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
        ),
        Setting::new(
            "mcast_flood off",
            host(&["bridge link set dev g3 mcast_flood off"]),
            host(&["bridge link set dev g3 mcast_flood on"]),
            &[("g1", "multicast"), ("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
        ),
        Setting::new(
            "bcast_flood off",
            host(&["ip link set dev g3 type bridge_slave bcast_flood off"]),
            host(&["ip link set dev g3 type bridge_slave bcast_flood on"]),
            &[("g1", "broadcast"), ("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
        ),
    ];
    follow(&scene, &[], &probes, &settings)
}

/// Only who has an entry at the locked port may send from there; neither a stranger nor one from another port.
pub(super) fn locked() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene, |[one, _, three]| {
        vec![(1, Frame::new(STATION, one)), (0, Frame::new(one, STATION)), (1, Frame::new(three, one))]
    });
    let open: Change = Box::new(|scene| {
        scene.host("bridge link set dev g2 locked off learning on")?;
        scene.host("bridge fdb del 02:0b:00:00:00:02 dev g2 master").map(drop)
    });
    let locked = Setting::new(
        "locked",
        host(&[
            "bridge link set dev g2 locked on learning off",
            "ip link set dev g2 type bridge_slave fdb_flush",
            "bridge fdb replace 02:0b:00:00:00:02 dev g2 master static",
        ]),
        open,
        &[("g2", "source_locked"), ("g2", "forwarded_tc"), ("g1", "destination_unknown"), ("g1", "forwarded_tc")],
    );
    follow(&scene, &[], &probes, &[locked])
}

/// The bridge makes locked entries of strangers: as sources they are dropped, as destinations they are known.
pub(super) fn mab() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene, |[one, ..]| vec![(1, Frame::new(STATION, one)), (0, Frame::new(one, STATION))]);
    let mab = Setting::new(
        "mab",
        Box::new(|scene| {
            scene.host("bridge link set dev g2 locked on")?;
            setting::set_port(&scene.net.host, "g2", setting::MAB, &[1])?;
            scene.host("ip link set dev g2 type bridge_slave fdb_flush")?;
            scene.host("bridge fdb replace 02:0b:00:00:00:02 dev g2 master static").map(drop)
        }),
        Box::new(|scene| {
            setting::set_port(&scene.net.host, "g2", setting::MAB, &[0])?;
            scene.host("bridge link set dev g2 locked off")?;
            scene.host("bridge fdb del 02:0b:00:00:00:02 dev g2 master").map(drop)
        }),
        &[("g2", "source_locked"), ("g2", "forwarded_tc"), ("g1", "destination_feature"), ("g1", "forwarded_tc")],
    );
    follow(&scene, &[], &probes, &[mab])
}

/// Frames to a port without carrier go to its backup, those to others are fast.
pub(super) fn backup_port() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    scene.host("bridge fdb replace 02:0b:00:00:00:70 dev g2 master static")?;
    // Nobody sends from g2: its device goes down.
    let mut probes = vec![probe(0, Frame::new(one.mac, three.mac)), probe(2, Frame::new(three.mac, one.mac))];
    for from in [0, 2] {
        probes.push(probe(from, Frame::new(scene.guests[from].mac, STATION)));
    }
    probes.push(probe(0, Frame::new(one.mac, NOBODY)));
    let carrier = |up: bool| -> Change {
        Box::new(move |scene| {
            let [_one, two, three] = scene.first();
            two.space.cmd(&format!("ip link set eth0 {}", if up { "up" } else { "down" }))?;
            wait::until("carrier of g2", Duration::from_secs(3), || {
                let links = scene.net.host.json("bridge -j link show dev g2")?;
                Ok((links[0]["state"] == "forwarding") == up)
            })?;
            let backup = if up { "nobackup_port".to_owned() } else { format!("backup_port {}", three.port) };
            scene.host(&format!("bridge link set dev g2 {backup}"))?;
            // Where a loss of carrier flushes static entries as well.
            scene.host("bridge fdb replace 02:0b:00:00:00:70 dev g2 master static").map(drop)
        })
    };
    let counted = &[("g1", "egress_port"), ("g1", "forwarded_tc"), ("g3", "egress_port")];
    follow(
        &scene,
        &[],
        &probes,
        &[Setting::new("backup_port without carrier", carrier(false), carrier(true), counted)],
    )?;
    // With carrier, too, such a port is no egress of the fast path: the loss is seen by the bridge at once, by xbr later.
    scene.host("bridge link set dev g2 backup_port g3")?;
    let xbr = scene.xbr(&[])?;
    two.sender()?.send(&Frame::new(two.mac, one.mac).bytes())?;
    let account = flow(one, two, &[three], 100, 2000)?;
    account.exact()?;
    ensure!(xbr.reason("g1", "egress_port")? >= 99, "{}", xbr.summary());
    scene.host("bridge link set dev g2 nobackup_port")?;
    warm(&xbr, one, two)?;
    xbr.stop()
}

/// States set by hand with STP off: they last until the kernel thinks of another (a timer, carrier), and the state that
/// it reports is followed.
pub(super) fn port_states() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let state = |what, set: &'static [&'static str]| {
        let forwarding: Change = Box::new(|scene| {
            scene.host("bridge link set dev g2 state 3")?;
            scene.net.forwarding("g2")
        });
        Setting::new(what, host(set), forwarding, &[("g2", "port_state"), ("g3", "forwarded_tc")])
    };
    let settings = [
        state("disabled", &["bridge link set dev g2 state 0"]),
        state("listening", &["bridge link set dev g2 state 1"]).only_under_way(),
        state("learning", &["bridge link set dev g2 state 2"]),
        // With STP off a blocking port is made to forward at once (br_port_state_selection).
        Setting::idle("blocking", &["bridge link set dev g2 state 4"], &["bridge link set dev g2 state 3"]),
    ];
    follow(&scene, &[], &probes, &settings)
}

/// What has nothing to do with known unicast leaves it fast.
pub(super) fn idle_options() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let settings = [
        Setting::idle(
            "options of spanning trees",
            &["bridge link set dev g1 guard on root_block on cost 7 priority 3"],
            &["bridge link set dev g1 guard off root_block off cost 2 priority 32"],
        ),
        Setting::idle(
            "options of multicast",
            &["ip link set dev g1 type bridge_slave mcast_to_unicast on mcast_fast_leave on mcast_router 2"],
            &["ip link set dev g1 type bridge_slave mcast_to_unicast off mcast_fast_leave off mcast_router 1"],
        ),
        Setting::idle(
            "options of neighbours",
            &["ip link set dev g1 type bridge_slave neigh_suppress on proxy_arp_wifi on"],
            &["ip link set dev g1 type bridge_slave neigh_suppress off proxy_arp_wifi off"],
        ),
        Setting::idle(
            "group_fwd_mask",
            &["ip link set dev g1 type bridge_slave group_fwd_mask 0x4008"],
            &["ip link set dev g1 type bridge_slave group_fwd_mask 0"],
        ),
    ];
    follow(&scene, &[], &probes, &settings)
}

/// A port that leaves and joins again has lost its options and its entries.
pub(super) fn joins_again() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    let xbr = scene.xbr(&[])?;
    for options in ["isolated on", "locked on", "learning off", "neigh_suppress on vlan_tunnel on", "hairpin on"] {
        for guest in [one, two] {
            scene.host(&format!("bridge link set dev {} {options}", guest.port))?;
        }
        for guest in [one, two] {
            scene.host(&format!("ip link set {} nomaster", guest.port))?;
            scene.net.join(guest, "br0")?;
        }
        scene.greet()?;
        warm(&xbr, one, two)?;
        scene.steady(&xbr, one, two, 100)?;
        scene.steady(&xbr, three, one, 100)?;
    }
    xbr.stop()
}

/// A device takes 63 programs (`bpf_mprog_max`) and no more: the port stays on the bridge, says so, and is served as soon as it can be.
pub(super) fn no_room_for_a_hook() -> Result<()> {
    const MOST: usize = 63;
    let scene = scene()?;
    let [one, two, three] = scene.first();
    let attach = || (0..MOST).map(|_| bpf::tcx_pass("g1")).collect::<Result<Vec<_>>>();
    let foreign = scene.net.host.enter(attach)??;
    let xbr = scene.xbr(&[])?;
    xbr.wait_slow("g1", "no_hook")?;
    flow(one, two, &[three], 100, 2000)?.exact()?;
    ensure!(xbr.fast("g1")? == 0, "{}", xbr.summary());
    warm(&xbr, two, three)?;
    // Nobody says that they are gone: tried again every five seconds.
    drop(foreign);
    wait::until("g1 accelerated", Duration::from_secs(10), || Ok(xbr.port("g1")?["accelerated"] == true))?;
    warm(&xbr, one, two)?;
    xbr.stop()
}
