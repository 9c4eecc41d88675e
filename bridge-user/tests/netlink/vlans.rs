//! VLAN filtering, where the kernel has it.

use std::{fmt::Write as _, time::Duration};

use bridge_user::{
    model::{FdbEntry, FdbKey, VlanRange},
    netlink::{Event, Events, Requests},
};

use crate::lab::{batch, block_on, bridge, in_namespace, index, mac, named, run, until, vlan_bridge, within};

#[test]
fn vlans_without_support_are_empty() {
    in_namespace(|| {
        let mut requests = Requests::new().unwrap();
        assert!(requests.vlans().unwrap().is_empty());
        assert_eq!(requests.vlans_of(1).unwrap(), None);
        bridge("");
        if requests.vlans().unwrap().is_empty() {
            assert_eq!(requests.vlans_of(index("p0")).unwrap(), None);
        } else {
            println!("skipped: this kernel has bridge VLAN filtering");
        }
    });
}

#[test]
fn vlans_ranges_and_states() {
    in_namespace(|| {
        if !vlan_bridge("vlan_default_pvid 1 vlan_protocol 802.1ad") {
            return;
        }
        run("bridge vlan add dev p0 vid 10-20
             bridge vlan add dev p0 vid 30 pvid
             bridge vlan add dev p0 vid 31 untagged
             bridge vlan set dev p0 vid 12 state blocking
             bridge vlan add dev br0 vid 10 self
             bridge vlan del dev p1 vid 1
             bridge link set dev p0 vlan_tunnel on
             bridge vlan add dev p0 vid 40
             bridge vlan add dev p0 vid 40 tunnel_info id 400");
        let mut requests = Requests::new().unwrap();
        let links = requests.links().unwrap();
        let attributes = named(&links, "br0").bridge.clone().unwrap();
        assert_eq!((attributes.vlan_filtering, attributes.vlan_protocol), (true, 0x88a8));
        assert_eq!((attributes.default_pvid, attributes.unknown_options), (1, 0));
        assert!(named(&links, "p0").port.as_ref().unwrap().vlan_tunnel);

        let range = |first, last| VlanRange { first, last, state: Some(3), ..VlanRange::default() };
        let vlans = requests.vlans().unwrap();
        let p0 = [
            // The PVID has moved to 30; 1 is still untagged.
            VlanRange { untagged: true, ..range(1, 1) },
            range(10, 11),
            VlanRange { state: Some(4), ..range(12, 12) },
            range(13, 20),
            VlanRange { pvid: true, ..range(30, 30) },
            VlanRange { untagged: true, ..range(31, 31) },
            VlanRange { tunnel: true, ..range(40, 40) },
        ];
        assert_eq!(vlans[&index("p0")], p0);
        assert_eq!(requests.vlans_of(index("p0")).unwrap().unwrap(), p0);
        assert_eq!(vlans[&index("p1")], []);
        assert_eq!(vlans[&index("br0")], [VlanRange { pvid: true, untagged: true, ..range(1, 1) }, range(10, 10)]);
        assert_eq!(vlans.len(), 3);
        assert_eq!(requests.vlans_of(index("q0")).unwrap(), None);
        assert_eq!(requests.vlans_of(9999).unwrap(), None);
    });
}

#[test]
fn a_thousand_vlan_ranges() {
    in_namespace(|| {
        if !vlan_bridge("vlan_default_pvid 0") {
            return;
        }
        let mut commands = String::new();
        for vid in (2..=4094).step_by(2) {
            writeln!(commands, "vlan add dev p0 vid {vid}").unwrap();
        }
        batch("bridge", &commands);
        // More than one message.
        let vlans = Requests::new().unwrap().vlans().unwrap();
        let ids: Vec<_> = vlans[&index("p0")].iter().map(|range| (range.first, range.last)).collect();
        assert_eq!(ids, (2..=4094).step_by(2).map(|vid| (vid, vid)).collect::<Vec<_>>());
    });
}

#[test]
fn vlan_events_and_entries() {
    in_namespace(|| {
        if !vlan_bridge("vlan_default_pvid 1") {
            return;
        }
        let (br0, p0) = (index("br0"), index("p0"));
        block_on(async {
            let mut events = Events::new().unwrap();
            within(&mut events, Duration::from_millis(1500)).await;
            for change in [
                "bridge vlan add dev p0 vid 10",
                // The one change of which only RTNLGRP_BRVLAN hears.
                "bridge vlan set dev p0 vid 10 state blocking",
                "bridge vlan add dev p0 vid 10 pvid untagged",
                "bridge vlan del dev p0 vid 10",
            ] {
                run(change);
                until(&mut events, Event::Vlan(p0)).await;
                within(&mut events, Duration::from_millis(200)).await;
            }
            run("ip link set br0 type bridge vlan_default_pvid 7");
            // p0 has lost the default PVID above.
            until(&mut events, Event::Vlan(index("p1"))).await;

            run("bridge vlan add dev p0 vid 10
                 bridge fdb add 02:00:00:00:01:01 dev p0 master static vlan 10");
            let key = FdbKey { bridge: br0, vlan: 10, mac: mac(1) };
            until(&mut events, Event::Fdb(key)).await;
            let mut requests = Requests::new().unwrap();
            let expected = Some(FdbEntry { port: p0, is_static: true, ..FdbEntry::default() });
            let other = FdbKey { vlan: 7, ..key };
            assert_eq!(requests.fdb_entries(&[key, other]).unwrap(), [expected, None]);
            let dumped = requests.fdb().unwrap();
            assert_eq!(dumped.iter().find(|(found, _)| *found == key).map(|(_, entry)| *entry), expected);
        });
    });
}
