//! Notifications.

use std::{fmt::Write as _, process::Command, time::Duration};

use bridge_user::{
    model::FdbKey,
    netlink::{Event, Events},
};

use crate::lab::{batch, block_on, bridge, in_namespace, index, mac, run, until, within};

#[test]
fn events_name_what_changed() {
    in_namespace(|| {
        // A port with VLANs gets a static entry for each of them.
        bridge("vlan_default_pvid 0");
        let (br0, p0, p1, q0) = (index("br0"), index("p0"), index("p1"), index("q0"));
        let key = FdbKey { bridge: br0, vlan: 0, mac: mac(1) };
        block_on(async {
            let mut events = Events::new().unwrap();
            // Carrier and IPv6 of the new devices.
            within(&mut events, Duration::from_millis(1500)).await;

            run("bridge fdb add 02:00:00:00:01:01 dev p0 master static");
            assert_eq!(until(&mut events, Event::Fdb(key)).await, [Event::Fdb(key)]);
            run("bridge fdb replace 02:00:00:00:01:01 dev p1 master static");
            assert_eq!(until(&mut events, Event::Fdb(key)).await, [Event::Fdb(key)]);
            run("bridge fdb del 02:00:00:00:01:01 dev p1 master");
            assert_eq!(until(&mut events, Event::FdbGone(key)).await, [Event::FdbGone(key)]);

            run("bridge link set dev p0 isolated on");
            until(&mut events, Event::Port(p0)).await;
            run("ip link set br0 type bridge ageing_time 500");
            until(&mut events, Event::Link(br0)).await;
            run("ip link set p1 nomaster");
            until(&mut events, Event::Link(p1)).await;
            within(&mut events, Duration::from_millis(300)).await;

            run("tc qdisc add dev p0 clsact");
            until(&mut events, Event::Tc(p0)).await;
            // A classifier that every kernel with BPF has: one instruction, "return 0".
            let filter = ["filter", "add", "dev", "p0", "ingress", "bpf", "bytecode", "1,6 0 0 0"];
            assert!(Command::new("tc").args(filter).status().unwrap().success());
            until(&mut events, Event::Tc(p0)).await;
            within(&mut events, Duration::from_millis(300)).await;

            // Neighbours of IP, and a device's own entries, are nobody's business.
            run("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev q0
                 bridge fdb add 02:00:00:00:01:08 dev q0 self permanent");
            let other = within(&mut events, Duration::from_millis(300)).await;
            assert!(
                other.iter().all(|event| !matches!(event, Event::Fdb(_) | Event::FdbGone(_) | Event::Overrun)),
                "{other:?}"
            );

            run("ip link del q0");
            assert!(until(&mut events, Event::LinkGone(q0)).await.contains(&Event::Link(p0)));
            run("ip link del br0");
            until(&mut events, Event::LinkGone(br0)).await;
        });
    });
}

#[test]
fn lost_events_are_an_overrun() {
    in_namespace(|| {
        // A port with VLANs gets a static entry for each of them.
        bridge("vlan_default_pvid 0");
        let br0 = index("br0");
        let mut commands = String::new();
        for n in 0..2000 {
            writeln!(commands, "fdb add 02:00:00:02:{:02x}:{:02x} dev p0 master static", n / 256, n % 256).unwrap();
        }
        block_on(async {
            let mut events = Events::new_with_rcvbuf(16 << 10).unwrap();
            let mut roomy = Events::new().unwrap();
            within(&mut events, Duration::from_millis(1500)).await;
            within(&mut roomy, Duration::from_millis(100)).await;
            batch("bridge", &commands);
            assert_eq!(events.next().await.unwrap(), [Event::Overrun]);
            // It goes on afterwards: the next change is an event again.
            assert!(within(&mut events, Duration::from_millis(200)).await.is_empty());
            run("bridge fdb add 02:00:00:00:01:01 dev p0 master static");
            let key = FdbKey { bridge: br0, vlan: 0, mac: mac(1) };
            assert_eq!(until(&mut events, Event::Fdb(key)).await, [Event::Fdb(key)]);
            // The usual buffer takes all of them.
            let all = until(&mut roomy, Event::Fdb(key)).await;
            assert_eq!(all.len(), 2001);
            assert!(!all.contains(&Event::Overrun));
        });
    });
}
