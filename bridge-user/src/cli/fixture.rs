//! Snapshots for the tests of `status` and `top`.

use crate::status::{BridgeStatus, Count, GoneStatus, PortStatus, Snapshot, TableFill, VERSION, VlanStatus};

fn count(packets: u64) -> Count {
    Count { packets, bytes: packets * 100 }
}

/// A port whose counters add up.
pub(crate) fn port(ifname: &str, ifindex: u32, hook: &str, reasons: &[(&str, u64)], sent: u64) -> PortStatus {
    let fast = reasons.iter().filter(|(name, _)| name.starts_with("forwarded")).map(|(_, packets)| packets).sum();
    let all: u64 = reasons.iter().map(|(_, packets)| packets).sum();
    PortStatus {
        ifname: ifname.into(),
        ifindex,
        state: "forwarding".into(),
        hook: hook.into(),
        hook_why: "no physical device".into(),
        accelerated: true,
        fast: count(fast),
        slow: count(all - fast),
        reasons: reasons.iter().map(|(name, packets)| ((*name).into(), *packets)).collect(),
        reason_bytes: reasons.iter().map(|(name, packets)| ((*name).into(), packets * 100)).collect(),
        sent: count(sent),
        ..PortStatus::default()
    }
}

/// A daemon with a VLAN-aware bridge of three ports, one of them slow, and a bridge that does not exist yet.
pub(crate) fn snapshot() -> Snapshot {
    let eth0 = PortStatus {
        hook_why: "a physical NIC".into(),
        ..port(
            "eth0",
            2,
            "xdp+tcx",
            &[("forwarded_tc", 234_567), ("forwarded_xdp", 1_000_000), ("refresh", 800), ("broadcast", 40)],
            5000,
        )
    };
    let tap3 = PortStatus {
        accelerated: false,
        slow_reason: Some("tc_filter".into()),
        slow_detail: Some("ingress qdisc, u32 police".into()),
        ..port("tap3", 9, "tcx", &[("tc_filter", 9900)], 70)
    };
    Snapshot {
        version: VERSION,
        daemon: "0.1.0".into(),
        pid: 4242,
        uptime_seconds: 3725.0,
        at_nanoseconds: 10_000_000_000,
        kernel: "6.12.0".into(),
        active: true,
        resyncs: [("start".to_owned(), 1)].into(),
        tables: vec![
            TableFill { name: "fdb".into(), used: 42, capacity: 65536, refused: 0 },
            TableFill { name: "ports".into(), used: 3, capacity: 256, refused: 2 },
        ],
        bridges: vec![
            BridgeStatus {
                ifname: "br0".into(),
                ifindex: 5,
                present: true,
                vlan_filtering: true,
                vlan_protocol: "802.1Q".into(),
                fdb_entries: 42,
                ports: vec![eth0, port("tap100i0", 8, "tcx", &[], 0), tap3],
                vlans: vec![VlanStatus { vlan: 10, fast: count(1_234_567), slow: count(840) }],
                ..BridgeStatus::default()
            },
            BridgeStatus { ifname: "br9".into(), ..BridgeStatus::default() },
        ],
        gone: GoneStatus {
            ports: 2,
            fast: count(95),
            slow: count(5),
            reasons: [("forwarded_tc".to_owned(), 95), ("refresh".to_owned(), 5)].into(),
            reason_bytes: [("forwarded_tc".to_owned(), 9500), ("refresh".to_owned(), 500)].into(),
            ..GoneStatus::default()
        },
        warnings: vec!["rx-vlan-offload of eth0 was turned off".into()],
    }
}

/// A second daemon with one more bridge.
pub(crate) fn other_daemon() -> Snapshot {
    let base = snapshot();
    Snapshot {
        pid: 4343,
        bridges: vec![BridgeStatus {
            ifname: "br1".into(),
            ifindex: 20,
            present: true,
            vlan_protocol: "802.1Q".into(),
            ports: vec![port("veth7", 21, "tcx", &[("forwarded_tc", 10)], 10)],
            ..BridgeStatus::default()
        }],
        warnings: Vec::new(),
        ..base
    }
}
