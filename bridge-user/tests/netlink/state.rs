//! Dumps and single requests.

use std::{collections::HashMap, fmt::Write as _, thread, time::Instant};

use bridge_user::{
    model::{FdbEntry, FdbKey, PortAttrs},
    netlink::{NetlinkError, Requests},
};

use crate::lab::{Elsewhere, batch, bridge, entries_of_every_kind, eventually, in_namespace, index, mac, named, run};

#[test]
fn links_bridges_and_ports() {
    in_namespace(|| {
        bridge("ageing_time 1234 forward_delay 300 stp_state 1 no_linklocal_learn 1");
        run("ip link set p0 mtu 1400 address 02:00:00:00:00:10
             ip link set q0 promisc on
             ip link set q1 down
             bridge link set dev p0 learning off hairpin on isolated on
             ip link set p1 type bridge_slave neigh_suppress on proxy_arp_wifi on backup_port p0
             ip link add mv0 link q0 type macvlan
             ip tuntap add tap0 mode tap");
        let mut requests = Requests::new().unwrap();
        eventually("carrier", || !named(&requests.links().unwrap(), "p1").carrier);
        let links = requests.links().unwrap();

        let br0 = named(&links, "br0");
        assert_eq!((br0.kind.as_deref(), br0.up, br0.ifindex), (Some("bridge"), true, index("br0")));
        let attributes = br0.bridge.clone().unwrap();
        assert_eq!((attributes.ageing_time, attributes.forward_delay, attributes.stp_state), (1234, 300, 1));
        assert_eq!((attributes.vlan_filtering, attributes.mst, attributes.unknown_options), (false, false, 0));

        let p0 = named(&links, "p0");
        assert_eq!((p0.kind.as_deref(), p0.mac, p0.mtu), (Some("veth"), [2, 0, 0, 0, 0, 0x10], 1400));
        assert_eq!((p0.master, p0.lower, p0.lower_elsewhere), (Some(index("br0")), Some(index("q0")), false));
        assert_eq!((p0.carrier, p0.qdisc.as_str(), p0.physical, p0.switchdev), (true, "noqueue", false, false));
        // A port is promiscuous because of the bridge, not by its flag.
        assert_eq!((p0.promiscuity, p0.promisc_flag), (1, false));
        let port = p0.port.clone().unwrap();
        // STP is on: listening or learning for six seconds.
        assert!(matches!(port.state, Some(1 | 2)), "{:?}", port.state);
        assert_eq!(
            PortAttrs { state: None, ..port },
            PortAttrs { hairpin: true, isolated: true, ..PortAttrs::default() }
        );
        assert_eq!(
            named(&links, "p1").port,
            Some(PortAttrs {
                state: Some(0),
                learning: true,
                neigh_suppress: true,
                proxy_arp: true,
                backup_port: Some(p0.ifindex),
                ..PortAttrs::default()
            })
        );

        let q0 = named(&links, "q0");
        assert_eq!((q0.promisc_flag, q0.master, q0.port.as_ref()), (true, None, None));
        assert!(q0.promiscuity >= 1);
        assert_eq!(named(&links, "mv0").lower, Some(q0.ifindex));
        assert_eq!(named(&links, "tap0").kind.as_deref(), Some("tun"));
        assert!(links.values().all(|link| !link.physical && link.xdp.is_empty()));
        assert!(!named(&links, "lo").up);

        assert_eq!(requests.link(p0.ifindex).unwrap().unwrap().port, p0.port);
        assert_eq!(requests.link(9999).unwrap(), None);
        assert_eq!(requests.link(0).unwrap(), None);
    });
}

#[test]
fn counters_and_a_peer_elsewhere() {
    in_namespace(|| {
        let elsewhere = Elsewhere::new("peer");
        let other = &elsewhere.0;
        run(&format!(
            "ip link add p0 type veth peer name q0 netns {other}
             ip link set p0 up
             ip -n {other} link set q0 up"
        ));
        let mut requests = Requests::new().unwrap();
        // Both ends send IPv6 router solicitations or multicast reports as soon as they are up.
        eventually("traffic", || {
            let stats = requests.link(index("p0")).unwrap().unwrap().stats;
            stats.tx_packets > 0 && stats.tx_bytes >= 60 * stats.tx_packets
        });
        let p0 = requests.link(index("p0")).unwrap().unwrap();
        assert!(p0.lower_elsewhere && p0.lower.is_some());
    });
}

#[test]
fn fdb_entries_of_bridges_only() {
    in_namespace(|| {
        bridge("");
        entries_of_every_kind();
        run("bridge fdb add 02:00:00:00:01:06 dev p0 self permanent
             ip link add vx0 type vxlan id 7 dstport 4789 dev q0 nolearning
             bridge fdb add 02:00:00:00:01:07 dev vx0 dst 192.0.2.1");
        let (br0, p0, p1) = (index("br0"), index("p0"), index("p1"));
        let entry = |port| FdbEntry { port, ..FdbEntry::default() };
        let expected = [
            Some(FdbEntry { is_static: true, ..entry(p0) }),
            Some(entry(p0)),
            Some(FdbEntry { is_static: true, sticky: true, ..entry(p1) }),
            Some(FdbEntry { extern_learn: true, ..entry(p1) }),
            Some(FdbEntry { is_static: true, local: true, ..entry(br0) }),
            None,
            None,
        ];
        let keys: Vec<_> = (1..=7).map(|last| FdbKey { bridge: br0, vlan: 0, mac: mac(last) }).collect();
        let mut requests = Requests::new().unwrap();
        let dumped: HashMap<_, _> = requests.fdb().unwrap().into_iter().collect();
        let from_dump: Vec<_> = keys.iter().map(|key| dumped.get(key).copied()).collect();
        assert_eq!(from_dump, expected);
        assert_eq!(requests.fdb_entries(&keys).unwrap(), expected);
        // The ports' own addresses are local entries, and nothing else is of another bridge.
        let own = requests.link(p0).unwrap().unwrap().mac;
        let local = FdbKey { bridge: br0, vlan: 0, mac: own };
        assert_eq!(dumped[&local], FdbEntry { local: true, is_static: true, ..entry(p0) });
        assert!(dumped.keys().all(|key| key.bridge == br0));

        // What cannot be: no such device, no bridge, a device with a table of its own, a VLAN that the kernel refuses.
        let odd = |bridge, vlan, last| FdbKey { bridge, vlan, mac: mac(last) };
        let keys =
            [odd(9999, 0, 1), odd(p0, 0, 1), odd(index("vx0"), 0, 7), odd(br0, 4095, 1), odd(br0, 9, 1), keys[0]];
        assert_eq!(requests.fdb_entries(&keys).unwrap(), [None, None, None, None, None, expected[0]]);
        assert!(requests.fdb_entries(&[]).unwrap().is_empty());
    });
}

#[test]
fn many_fdb_entries_in_order() {
    in_namespace(|| {
        bridge("");
        let (br0, p0, p1) = (index("br0"), index("p0"), index("p1"));
        let key = |n: u16| FdbKey { bridge: br0, vlan: 0, mac: [2, 0, 0, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]] };
        let mut commands = String::new();
        for n in 0..5000_u16 {
            let [.., high, low] = key(n).mac;
            writeln!(commands, "fdb add 02:00:00:01:{high:02x}:{low:02x} dev p{} master static", n % 2).unwrap();
        }
        batch("bridge", &commands);
        let mut requests = Requests::new().unwrap();
        let started = Instant::now();
        let dumped: HashMap<_, _> = requests.fdb().unwrap().into_iter().collect();
        let dump_time = started.elapsed();
        let keys: Vec<_> = (0..6000).map(key).collect();
        let started = Instant::now();
        let found = requests.fdb_entries(&keys).unwrap();
        println!("5000 entries: dumped in {dump_time:?}; 6000 asked for in {:?}", started.elapsed());
        for (n, found) in found.iter().enumerate() {
            let port = if n % 2 == 0 { p0 } else { p1 };
            let expected = (n < 5000).then_some(FdbEntry { port, is_static: true, ..FdbEntry::default() });
            assert_eq!((*found, dumped.get(&keys[n]).copied()), (expected, expected), "entry {n}");
        }
    });
}

#[test]
fn dumps_survive_changes() {
    in_namespace(|| {
        bridge("");
        let mut commands = String::new();
        for _ in 0..60 {
            commands.push_str("link add t0 type veth peer name t1\nlink set t0 master br0\nlink del t0\n");
        }
        let mut requests = Requests::new().unwrap();
        thread::scope(|scope| {
            let churn = scope.spawn(|| batch("ip", &commands));
            let (mut complete, mut interrupted) = (0, 0);
            while !churn.is_finished() {
                match requests.links() {
                    Ok(links) => {
                        complete += 1;
                        assert!(
                            ["lo", "br0", "p0", "p1", "q0", "q1"]
                                .iter()
                                .all(|name| { links.values().any(|link| link.name == *name) })
                        );
                    }
                    Err(NetlinkError::Interrupted { .. }) => interrupted += 1,
                    Err(error) => panic!("{error}"),
                }
                requests.fdb().unwrap();
                requests.vlans().unwrap();
            }
            println!("{complete} complete dumps, {interrupted} given up");
            assert!(complete > 0);
        });
    });
}
