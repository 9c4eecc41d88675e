//! Properties of VLAN-aware bridges, one by one. What frames of every combination of tags become is in [`super::vlan`].

use anyhow::Result;
use xbr_tests::{
    frame::{Frame, Mac, TPID_Q, Tag},
    net::Kind,
    probe::Need,
    setting,
};

use super::{
    Test,
    observe::Probe,
    scene::Scene,
    settings::{Change, Setting, everybody, follow, host, probe},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("semantics::bridge_options", bridge_options, NEEDS),
    test("semantics::vlan_options", vlan_options, NEEDS),
    test("semantics::port_options", port_options, NEEDS),
    test("semantics::spanning_trees_by_vlan", spanning_trees_by_vlan, NEEDS),
];

const NEEDS: &[Need] = &[Need::VlanFiltering];

/// A station behind g2 in VLAN 10.
const STATION: Mac = [2, 0x0b, 0, 0, 0, 0x70];

/// The VLANs of [`scene`].
const VLANS: &[&str] = &[
    "bridge vlan add dev g1 vid 10 pvid untagged",
    "bridge vlan add dev g2 vid 10 pvid untagged",
    "bridge vlan add dev g3 vid 10",
    "bridge vlan add dev g3 vid 20",
    "bridge vlan add dev g4 vid 20 pvid untagged",
    "bridge vlan add dev g1 vid 4094",
    "bridge vlan add dev g3 vid 4094",
];

/// Access ports g1 and g2 in VLAN 10 and g4 in 20, a trunk g3.
fn scene() -> Result<Scene> {
    let scene = Scene::with("vlan_filtering 1 vlan_default_pvid 0", &[Kind::Veth, Kind::Veth, Kind::Veth, Kind::Veth])?;
    host(VLANS)(&scene)?;
    Ok(scene)
}

/// Everybody to everybody, with the tags between which a bridge distinguishes.
fn probes(scene: &Scene) -> Vec<Probe> {
    let stacks: [&[Tag]; 9] = [
        &[],
        &[Tag::q(10)],
        &[Tag { tpid: TPID_Q, tci: 0x700a }],
        &[Tag::q(20)],
        &[Tag::q(4094)],
        &[Tag::q(4095)],
        &[Tag::q(0).pcp(5)],
        &[Tag::ad(10).pcp(2)],
        &[Tag::q(10), Tag::ad(20), Tag::q(7)],
    ];
    let mut probes = everybody(scene, &stacks);
    let [one, two, _three, four] = scene.first();
    probes.push(probe(0, Frame::new(one.mac, STATION)));
    probes.push(probe(1, Frame::new(STATION, one.mac)));
    probes.push(probe(3, Frame::new(four.mac, STATION)));
    probes.push(probe(1, Frame::new(two.mac, STATION)));
    probes
}

fn bridge_options() -> Result<()> {
    let scene = scene()?;
    // By default it is that of a port, which is local in the VLANs of the port.
    let address = [2, 0x0b, 0, 0, 0, 0xfe];
    scene.host("ip link set br0 address 02:0b:00:00:00:fe")?;
    let mut probes = probes(&scene);
    let [one, ..] = scene.first::<4>();
    probes.push(probe(0, Frame::new(one.mac, address)));
    let settings = [
        Setting::new(
            "vlan_filtering off",
            host(&["ip link set br0 type bridge vlan_filtering 0"]),
            host(&["ip link set br0 type bridge vlan_filtering 1"]),
            &[("g1", "forwarded_tc"), ("g3", "forwarded_tc"), ("g4", "forwarded_tc")],
        )
        .only_under_way(),
        // What is tagged as before is payload.
        Setting::new(
            "vlan_protocol 802.1ad",
            host(&["ip link set br0 type bridge vlan_protocol 802.1ad"]),
            host(&["ip link set br0 type bridge vlan_protocol 802.1Q"]),
            &[("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
        )
        .only_under_way(),
        // Ports get it that have another PVID, too, and lose that.
        Setting::new(
            "vlan_default_pvid",
            host(&["ip link set br0 type bridge vlan_default_pvid 30"]),
            Box::new(|scene| {
                scene.host("ip link set br0 type bridge vlan_default_pvid 0")?;
                host(VLANS)(scene)
            }),
            &[("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
        )
        .only_under_way(),
        Setting::new(
            "the bridge is a member",
            host(&["bridge vlan add dev br0 vid 10 self"]),
            host(&["bridge vlan del dev br0 vid 10 self"]),
            &[("g1", "local"), ("g1", "forwarded_tc")],
        )
        .only_under_way(),
        Setting::idle(
            "statistics",
            &["ip link set br0 type bridge vlan_stats_enabled 1"],
            &["ip link set br0 type bridge vlan_stats_enabled 0"],
        ),
    ];
    follow(&scene, &[], &probes, &settings)
}

fn vlan_options() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene);
    let restored = || host(&["bridge vlan add dev g2 vid 10 pvid untagged"]);
    let state = |what, set: &'static [&'static str]| {
        let counted = &[("g2", "ingress_vlan"), ("g1", "egress_vlan"), ("g1", "forwarded_tc")];
        let forwarding = host(&["bridge vlan set dev g2 vid 10 state forwarding"]);
        Setting::new(what, host(set), forwarding, counted).only_under_way()
    };
    let mut settings = vec![
        state("blocking in the VLAN", &["bridge vlan set dev g2 vid 10 state blocking"]),
        state("learning in the VLAN", &["bridge vlan set dev g2 vid 10 state learning"]),
        Setting::new(
            "no PVID",
            host(&["bridge vlan add dev g2 vid 10 untagged"]),
            restored(),
            &[("g2", "no_pvid"), ("g2", "forwarded_tc"), ("g1", "forwarded_tc")],
        )
        .only_under_way(),
        Setting::new(
            "a PVID that is not untagged",
            host(&["bridge vlan add dev g2 vid 10 pvid"]),
            restored(),
            &[("g2", "forwarded_tc"), ("g1", "forwarded_tc")],
        )
        .only_under_way(),
        Setting::new(
            "an untagged trunk",
            host(&["bridge vlan add dev g3 vid 10 untagged", "bridge vlan add dev g3 vid 20 untagged"]),
            host(&["bridge vlan add dev g3 vid 10", "bridge vlan add dev g3 vid 20"]),
            &[("g3", "forwarded_tc"), ("g1", "forwarded_tc"), ("g4", "forwarded_tc")],
        )
        .only_under_way(),
    ];
    if Need::Kernel(6, 4).met() {
        let suppress = |on: u8| -> Change {
            Box::new(move |scene| {
                let host = &scene.net.host;
                setting::set_port(host, "g2", setting::NEIGH_VLAN_SUPPRESS, &[on])?;
                setting::set_vlan(host, "g2", 10, setting::VLAN_NEIGH_SUPPRESS, &[on])
            })
        };
        let counted = &[("g1", "forwarded_tc"), ("g2", "forwarded_tc")];
        let setting = Setting::new("neigh_suppress of a VLAN", suppress(1), suppress(0), counted);
        settings.push(setting.without_effect().only_under_way());
    }
    follow(&scene, &[], &probes, &settings)
}

/// Options of ports, and entries of one VLAN that are none of another.
fn port_options() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene);
    let settings = [
        Setting::new(
            "isolated",
            host(&["bridge link set dev g1 isolated on", "bridge link set dev g2 isolated on"]),
            host(&["bridge link set dev g1 isolated off", "bridge link set dev g2 isolated off"]),
            &[("g1", "isolated"), ("g1", "forwarded_tc"), ("g3", "forwarded_tc")],
        )
        .only_under_way(),
        Setting::new(
            "locked",
            host(&[
                "bridge link set dev g2 locked on learning off",
                "ip link set dev g2 type bridge_slave fdb_flush",
                "bridge fdb replace 02:0b:00:00:00:02 dev g2 vlan 10 master static",
            ]),
            host(&[
                "bridge link set dev g2 locked off learning on",
                "bridge fdb del 02:0b:00:00:00:02 dev g2 vlan 10 master",
            ]),
            &[("g2", "source_locked"), ("g2", "forwarded_tc"), ("g1", "forwarded_tc")],
        )
        .only_under_way(),
        // Egress takes the tag off and would put the frame into the tunnel.
        Setting::new(
            "vlan_tunnel",
            host(&["bridge link set dev g3 vlan_tunnel on", "bridge vlan add dev g3 vid 10 tunnel_info id 1000"]),
            host(&["bridge vlan del dev g3 vid 10 tunnel_info id 1000", "bridge link set dev g3 vlan_tunnel off"]),
            &[("g3", "ingress_vlan"), ("g1", "egress_vlan"), ("g1", "forwarded_tc")],
        ),
        Setting::new(
            "sticky elsewhere",
            host(&["bridge fdb replace 02:0b:00:00:00:70 dev g3 vlan 10 master static sticky"]),
            host(&["bridge fdb del 02:0b:00:00:00:70 dev g3 vlan 10 master"]),
            &[("g2", "source_fixed"), ("g1", "forwarded_tc")],
        )
        .only_under_way(),
        Setting::new(
            "an entry in another VLAN",
            host(&["bridge fdb replace 02:0b:00:00:00:70 dev g3 vlan 20 master static"]),
            host(&["bridge fdb del 02:0b:00:00:00:70 dev g3 vlan 20 master"]),
            &[("g4", "forwarded_tc"), ("g1", "forwarded_tc")],
        )
        .without_effect()
        .only_under_way(),
    ];
    follow(&scene, &[], &probes, &settings)
}

/// With MST, a port's own state is of no importance; that of the instance decides.
fn spanning_trees_by_vlan() -> Result<()> {
    let scene = scene()?;
    let probes = probes(&scene);
    let trees = |on: bool| -> Change {
        Box::new(move |scene| {
            // The bridge takes the option only without VLANs on its ports.
            for (port, vids) in [("g1", [10, 4094].as_slice()), ("g2", &[10]), ("g3", &[10, 20, 4094]), ("g4", &[20])] {
                for vid in vids {
                    scene.host(&format!("bridge vlan del dev {port} vid {vid}"))?;
                }
            }
            setting::set_option(&scene.net.host, "br0", setting::MST_ENABLE, on)?;
            host(VLANS)(scene)?;
            if on {
                setting::set_mst_instance(&scene.net.host, "br0", 10, 1)?;
                setting::set_mst_state(&scene.net.host, "g2", 1, 4)?;
            }
            Ok(())
        })
    };
    let settings = [
        Setting::new("mst_enabled", trees(true), trees(false), &[("g1", "bridge_feature"), ("g3", "bridge_feature")]),
        Setting::idle(
            "snooping by VLAN",
            &["ip link set br0 type bridge mcast_snooping 1 mcast_vlan_snooping 1"],
            &["ip link set br0 type bridge mcast_snooping 0 mcast_vlan_snooping 0"],
        ),
    ];
    follow(&scene, &[], &probes, &settings)
}
