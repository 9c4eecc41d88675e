//! Snapshots for the tests of `status` and `top`.

use crate::status::{
    BridgeStatus, Count, Disagreement, GoneStatus, PortShadow, PortStatus, ShadowStatus, Snapshot, TableFill, VERSION,
    VlanStatus,
};

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
        shadow: None,
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

/// The daemon of [`snapshot`] in shadow mode.
pub(crate) fn shadow() -> Snapshot {
    let mut base = snapshot();
    base.active = false;
    for port in &mut base.bridges[0].ports {
        port.fast = Count::default();
        port.shadow = Some(PortShadow { ready: port.accelerated, ..PortShadow::default() });
        port.accelerated = false;
    }
    let account = PortShadow {
        ready: true,
        would_forward: count(16_000),
        agreed: 900,
        disagreed: 3,
        unknown: 1,
        disagreements: [("never_left".to_owned(), 1), ("other_port".to_owned(), 2)].into(),
    };
    let reasons = [("would_forward", 16_000), ("refresh", 800), ("broadcast", 40)];
    let hook_why = base.bridges[0].ports[0].hook_why.clone();
    base.bridges[0].ports[0] = PortStatus {
        accelerated: false,
        hook_why,
        shadow: Some(account.clone()),
        ..port("eth0", 2, "xdp+tcx", &reasons, 5000)
    };
    let received = "020000000001020000000002".to_owned();
    let lost = Disagreement {
        kind: "never_left".into(),
        detail: "left by no port instead of tap3".into(),
        unix_seconds: 1_700_000_000.0,
        bridge: "br0".into(),
        ingress: "eth0".into(),
        received_length: 16,
        received_bytes: received.clone() + "88b5dead",
        tag_change: "keep".into(),
        expected_port: "tap3".into(),
        expected_length: 16,
        expected_bytes: received.clone() + "88b5dead",
        ..Disagreement::default()
    };
    let strayed = Disagreement {
        kind: "other_port".into(),
        detail: "left by tap3 instead of tap100i0".into(),
        unix_seconds: 1_700_000_000.25,
        received_length: 20,
        received_bytes: received + "8100000a88b5dead",
        tag_change: "pop".into(),
        expected_port: "tap100i0".into(),
        actual_port: Some("tap3".into()),
        actual_length: Some(16),
        actual_bytes: Some(lost.expected_bytes.clone()),
        copies_elsewhere: 1,
        ..lost.clone()
    };
    let examples = vec![lost, strayed];
    base.shadow = Some(ShadowStatus { active: true, sample: 16, total: account, no_room: 7, examples });
    base
}
