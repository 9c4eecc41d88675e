//! Options of the bridge.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use xbr_tests::{
    frame::{Frame, Mac},
    probe::Need,
    setting, wait,
};

use super::{
    super::{
        scene::warm,
        settings::{Change, Setting, everybody, follow, host},
    },
    STATION, probes, scene,
};

pub(super) fn down_and_promiscuous() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let up: Change = Box::new(|scene| {
        scene.host("ip link set br0 up")?;
        ["g1", "g2", "g3"].into_iter().try_for_each(|port| scene.net.forwarding(port))
    });
    let settings = [
        Setting::new("br0 down", host(&["ip link set br0 down"]), up, &[("g1", "port_state"), ("g3", "port_state")]),
        Setting::new(
            "br0 promiscuous",
            host(&["ip link set br0 promisc on"]),
            host(&["ip link set br0 promisc off"]),
            &[("g1", "bridge_promisc"), ("g3", "bridge_promisc")],
        )
        .without_effect(),
    ];
    follow(&scene, &[], &probes, &settings)
}

/// What has nothing to do with known unicast leaves it fast.
pub(super) fn idle_options() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let settings = [
        Setting::idle(
            "parameters of STP",
            &["ip link set br0 type bridge priority 4096 hello_time 500 max_age 3000"],
            &["ip link set br0 type bridge priority 32768 hello_time 200 max_age 2000"],
        ),
        Setting::idle(
            "multicast",
            &["ip link set br0 type bridge mcast_snooping 1 mcast_router 2 mcast_hash_max 512 mcast_stats_enabled 1"],
            &["ip link set br0 type bridge mcast_snooping 0 mcast_router 1 mcast_hash_max 4096 mcast_stats_enabled 0"],
        ),
        Setting::idle(
            "group_fwd_mask, group address, no_linklocal_learn",
            &["ip link set br0 type bridge group_fwd_mask 0x4000 group_address 01:80:c2:00:00:0d no_linklocal_learn 1"],
            &["ip link set br0 type bridge group_fwd_mask 0 group_address 01:80:c2:00:00:00 no_linklocal_learn 0"],
        ),
        Setting::idle(
            "ageing time",
            &["ip link set br0 type bridge ageing_time 1000000"],
            &["ip link set br0 type bridge ageing_time 2000"],
        ),
    ];
    follow(&scene, &[], &probes, &settings)?;
    if Need::BrNetfilter.met() {
        let called = Setting::idle(
            "br_netfilter without rules",
            &["ip link set br0 type bridge nf_call_iptables 1 nf_call_ip6tables 1 nf_call_arptables 1"],
            &["ip link set br0 type bridge nf_call_iptables 0 nf_call_ip6tables 0 nf_call_arptables 0"],
        );
        follow(&scene, &[], &probes, &[called])?;
    }
    Ok(())
}

/// An option that is left to the bridge as a whole.
pub(super) fn fdb_local_vlan_0() -> Result<()> {
    let scene = scene()?;
    let probes = everybody(&scene, &[&[]]);
    let option = |on: bool| -> Change {
        Box::new(move |scene| setting::set_option(&scene.net.host, "br0", setting::FDB_LOCAL_VLAN_0, on))
    };
    let counted = &[("g1", "bridge_feature"), ("g3", "bridge_feature")];
    let setting = Setting::new("fdb_local_vlan_0", option(true), option(false), counted).without_effect();
    follow(&scene, &[], &probes, &[setting])
}

/// Whether a bridge learns from frames that it does not forward.
pub(super) fn no_linklocal_learn() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene, |[_, two, _]| {
        vec![
            (0, Frame::new(STATION, [0x01, 0x80, 0xc2, 0, 0, 3])),
            (1, Frame::new(two, STATION)),
            (2, Frame::new([2, 0x0b, 0, 0, 0, 3], STATION)),
        ]
    });
    let option = |on: bool| -> Change {
        Box::new(move |scene| {
            setting::set_option(&scene.net.host, "br0", setting::NO_LL_LEARN, on)?;
            scene.host("ip link set dev g1 type bridge_slave fdb_flush").map(drop)
        })
    };
    let counted = &[("g1", "multicast"), ("g2", "destination_unknown"), ("g2", "forwarded_tc")];
    follow(&scene, &[], &probes, &[Setting::new("no_linklocal_learn", option(true), option(false), counted)])
}

/// Sources that find no room in the bridge's FDB are neither learnt nor held back.
pub(super) fn fdb_max_learned() -> Result<()> {
    let scene = scene()?;
    let station = |last: u8| -> Mac { [2, 0x0b, 0, 0, 0, 0x70 + last] };
    let probes = probes(&scene, |[one, two, _]| {
        let there = (0..6).map(|last| (1, Frame::new(station(last), one)));
        let back = (0..6).map(|last| (0, Frame::new(one, station(last))));
        there.chain(back).chain([(1, Frame::new(two, one))]).collect()
    });
    let limit = |most: u32| -> Change {
        Box::new(move |scene| {
            setting::set_bridge(&scene.net.host, "br0", setting::FDB_MAX_LEARNED, &most.to_ne_bytes())?;
            scene.host("ip link set br0 type bridge fdb_flush")?;
            // Those that are to have room come first.
            scene.greet()
        })
    };
    let counted =
        &[("g2", "source_unknown"), ("g1", "destination_unknown"), ("g1", "forwarded_tc"), ("g2", "forwarded_tc")];
    follow(&scene, &[], &probes, &[Setting::new("fdb_max_learned", limit(4), limit(0), counted)])?;
    // Raised while xbr runs: who was refused is learnt, and fast.
    limit(3)(&scene)?;
    let xbr = scene.xbr(&[])?;
    let [one, two, _three] = scene.first();
    warm(&xbr, one, two)?;
    let frame = Frame::new(STATION, one.mac);
    for number in 0..20 {
        two.sender()?.send(&frame.clone().numbered(1, number).bytes())?;
    }
    ensure!(xbr.reason("g2", "source_unknown")? >= 20, "{}", xbr.summary());
    setting::set_bridge(&scene.net.host, "br0", setting::FDB_MAX_LEARNED, &0_u32.to_ne_bytes())?;
    let fast = xbr.fast("g2")?;
    wait::until("the station fast", Duration::from_secs(2), || {
        two.sender()?.send(&frame.bytes())?;
        sleep(Duration::from_millis(20));
        Ok(xbr.fast("g2")? > fast)
    })?;
    xbr.stop()
}
