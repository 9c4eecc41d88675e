//! The FDB out of the kernel's own list, beside what netlink says of it.

use std::collections::HashMap;

use bridge_user::{
    config::Coherence,
    datapath::Programs,
    model::{FdbEntry, FdbKey, IfIndex},
    netlink::Requests,
};

use crate::lab::{bridge, entries_of_every_kind, in_namespace, index, run, vlan_bridge};

/// The entries of these bridges, with a table of `size` entries.
fn census(size: u32, bridges: &[IfIndex]) -> Option<HashMap<FdbKey, FdbEntry>> {
    let mut programs = Programs::load(size).unwrap();
    let Programs { tracing, ebpf, census, .. } = &mut programs;
    assert!(!census.is_ready());
    assert!(census.take(ebpf, bridges).is_none(), "it does not know the kernel's types yet");
    tracing.attach(ebpf, census, Coherence::Kernel);
    assert!(census.is_ready());
    census.take(ebpf, bridges).map(|entries| entries.into_iter().collect())
}

fn by_netlink(bridges: &[IfIndex]) -> HashMap<FdbKey, FdbEntry> {
    Requests::new().unwrap().fdb().unwrap().into_iter().filter(|(key, _)| bridges.contains(&key.bridge)).collect()
}

#[test]
fn every_kind_of_entry() {
    in_namespace(|| {
        bridge("");
        entries_of_every_kind();
        run("ip link add br1 type bridge
             ip link add v0 type veth peer name v1
             ip link set v0 master br1
             ip link set br1 up
             ip link set v1 up
             ip link set v0 up
             bridge fdb add 02:00:00:00:01:01 dev v0 master dynamic
             bridge fdb add 02:00:00:00:01:06 dev v0 master extern_learn");
        let bridges = [index("br0"), index("br1")];
        let found = census(64, &bridges).unwrap();
        assert!(found.len() > 7, "{found:?}");
        assert_eq!(found, by_netlink(&bridges));
        assert_eq!(census(64, &bridges[1..]).unwrap(), by_netlink(&bridges[1..]));
    });
}

#[test]
fn what_is_no_bridge_and_what_finds_no_room() {
    in_namespace(|| {
        bridge("");
        assert_eq!(census(64, &[index("p0")]), None);
        assert_eq!(census(64, &[4_000_000]), None);
        for number in 0..20 {
            run(&format!("bridge fdb add 02:00:00:00:02:{number:02x} dev p0 master static"));
        }
        assert_eq!(census(16, &[index("br0")]), None, "netlink is asked where the table is too small");
        assert_eq!(census(64, &[index("br0")]).unwrap(), by_netlink(&[index("br0")]));
    });
}

#[test]
fn entries_of_vlans() {
    in_namespace(|| {
        if !vlan_bridge("vlan_default_pvid 1") {
            return;
        }
        run("bridge vlan add dev p0 vid 10
             bridge fdb add 02:00:00:00:01:01 dev p0 master static vlan 10
             bridge fdb add 02:00:00:00:01:01 dev p1 master dynamic vlan 1
             bridge fdb add 02:00:00:00:01:02 dev p0 master static");
        let found = census(64, &[index("br0")]).unwrap();
        assert!(found.keys().any(|key| key.vlan == 10), "{found:?}");
        assert_eq!(found, by_netlink(&[index("br0")]));
    });
}
