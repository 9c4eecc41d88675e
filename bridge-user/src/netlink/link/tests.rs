//! Fixtures are built attribute by attribute, in the order in which the kernel sends them.

use super::*;
use crate::{model::VlanAttrs, netlink::wire::tests::attribute};

const NESTED: u16 = 0x8000;

fn link(flags: u32, body: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header(Some(9)).to_vec();
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes.extend(body.concat());
    bytes
}

fn stats64() -> Vec<u8> {
    (1..=24_u64).flat_map(u64::to_ne_bytes).collect()
}

fn bridge_nest(options: u32) -> Vec<u8> {
    let info = [
        attribute(IFLA_BR_FORWARD_DELAY, &1500_u32.to_ne_bytes()),
        attribute(IFLA_BR_AGEING_TIME, &30_000_u32.to_ne_bytes()),
        attribute(IFLA_BR_STP_STATE, &1_u32.to_ne_bytes()),
        attribute(IFLA_BR_VLAN_FILTERING, &[1]),
        attribute(IFLA_BR_TOPOLOGY_CHANGE, &[1]),
        attribute(IFLA_BR_MULTI_BOOLOPT, &[options.to_ne_bytes(), 7_u32.to_ne_bytes()].concat()),
        attribute(IFLA_BR_VLAN_PROTOCOL, &[0x88, 0xa8]),
        attribute(IFLA_BR_VLAN_DEFAULT_PVID, &1_u16.to_ne_bytes()),
        attribute(IFLA_BR_NF_CALL_IPTABLES, &[1]),
        attribute(99, &[1, 2, 3]),
    ]
    .concat();
    [attribute(IFLA_INFO_KIND, b"bridge\0"), attribute(IFLA_INFO_DATA | NESTED, &info)].concat()
}

fn port_nest(kind: &[u8]) -> Vec<u8> {
    let port = [
        attribute(IFLA_BRPORT_STATE, &[3]),
        attribute(IFLA_BRPORT_MODE, &[0]),
        attribute(IFLA_BRPORT_LEARNING, &[1]),
        attribute(IFLA_BRPORT_PROXYARP, &[1]),
        attribute(IFLA_BRPORT_PROXYARP_WIFI, &[0]),
        attribute(IFLA_BRPORT_VLAN_TUNNEL, &[1]),
        attribute(IFLA_BRPORT_ISOLATED, &[1]),
        attribute(IFLA_BRPORT_LOCKED, &[1]),
        attribute(IFLA_BRPORT_MAB, &[1]),
        attribute(IFLA_BRPORT_BACKUP_PORT, &6_u32.to_ne_bytes()),
        attribute(IFLA_BRPORT_BACKUP_NHID, &0_u32.to_ne_bytes()),
    ]
    .concat();
    [
        attribute(IFLA_INFO_KIND, kind),
        attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0"),
        attribute(IFLA_INFO_SLAVE_DATA, &port),
    ]
    .concat()
}

fn port_message() -> Vec<u8> {
    link(
        IFF_UP | IFF_PROMISC,
        &[
            attribute(IFLA_IFNAME, b"veth0\0"),
            attribute(IFLA_MTU, &1500_u32.to_ne_bytes()),
            attribute(IFLA_MASTER, &4_u32.to_ne_bytes()),
            attribute(IFLA_PROMISCUITY, &2_u32.to_ne_bytes()),
            attribute(IFLA_CARRIER, &[1]),
            attribute(IFLA_QDISC, b"noqueue\0"),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            attribute(IFLA_STATS64, &stats64()),
            attribute(
                IFLA_XDP,
                &[
                    attribute(2, &[1]),
                    attribute(IFLA_XDP_SKB_PROG_ID, &40_u32.to_ne_bytes()),
                    attribute(IFLA_XDP_DRV_PROG_ID, &33_u32.to_ne_bytes()),
                    attribute(IFLA_XDP_PROG_ID, &33_u32.to_ne_bytes()),
                ]
                .concat(),
            ),
            attribute(IFLA_LINKINFO, &port_nest(b"veth\0")),
            attribute(IFLA_LINK_NETNSID, &0_u32.to_ne_bytes()),
            attribute(IFLA_LINK, &2_u32.to_ne_bytes()),
        ],
    )
}

#[test]
fn a_port() {
    let expected = Link {
        ifindex: 9,
        name: "veth0".into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        carrier: true,
        promiscuity: 2,
        promisc_flag: true,
        kind: Some("veth".into()),
        master: Some(4),
        lower: Some(2),
        lower_elsewhere: true,
        lower_namespace: Some(0),
        xdp: vec![33, 40],
        qdisc: "noqueue".into(),
        port: Some(PortAttrs {
            state: Some(3),
            learning: true,
            proxy_arp: true,
            vlan_tunnel: true,
            isolated: true,
            locked: true,
            mab: true,
            backup_port: Some(6),
            ..PortAttrs::default()
        }),
        stats: LinkStats { rx_packets: 1, tx_packets: 2, rx_bytes: 3, tx_bytes: 4, rx_dropped: 7, tx_dropped: 8 },
        ..Link::default()
    };
    assert_eq!(decode(&port_message()), Ok(expected));
}

#[test]
fn a_bridge() {
    let read = |options| {
        let message = link(IFF_UP, &[attribute(IFLA_LINKINFO | NESTED, &bridge_nest(options))]);
        decode(&message).unwrap().bridge.unwrap()
    };
    let expected = || BridgeAttrs {
        vlan_filtering: true,
        vlan_protocol: 0x88a8,
        default_pvid: 1,
        ageing_time: 30_000,
        forward_delay: 1500,
        topology_change: true,
        stp_state: 1,
        nf_call_iptables: true,
        unknown_attribute: Some(99),
        ..BridgeAttrs::default()
    };
    assert_eq!(read(0b01011), expected());
    assert_eq!(read(0b00100), BridgeAttrs { mst: true, ..expected() });
    assert_eq!(read(0b10000), BridgeAttrs { fdb_local_vlan_0: true, ..expected() });
    assert_eq!(read(0b110_0000), BridgeAttrs { unknown_options: 0b110_0000, ..expected() });
}

#[test]
fn attributes_of_newer_kernels_are_noticed_unless_they_are_off() {
    let bridge = |kind, value: &[u8]| {
        let data = attribute(IFLA_INFO_DATA, &attribute(kind, value));
        let info = [attribute(IFLA_INFO_KIND, b"bridge\0"), data].concat();
        decode(&link(0, &[attribute(IFLA_LINKINFO, &info)])).unwrap().bridge.unwrap().unknown_attribute
    };
    assert_eq!(bridge(IFLA_BR_LAST_KNOWN, &[1, 0, 0, 0]), None);
    assert_eq!(bridge(IFLA_BR_LAST_KNOWN + 1, &[0, 0, 0, 0]), None);
    assert_eq!(bridge(IFLA_BR_LAST_KNOWN + 1, &[0, 0, 1, 0]), Some(IFLA_BR_LAST_KNOWN + 1));
    let port = |kind, value: &[u8]| {
        let data = attribute(IFLA_INFO_SLAVE_DATA, &attribute(kind, value));
        let info = [attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0"), data].concat();
        decode(&link(0, &[attribute(IFLA_LINKINFO, &info)])).unwrap().port.unwrap().unknown
    };
    assert!(!port(IFLA_BRPORT_LAST_KNOWN, &[1]));
    assert!(!port(IFLA_BRPORT_LAST_KNOWN + 1, &[0]));
    assert!(port(IFLA_BRPORT_LAST_KNOWN + 1, &[1]));
}

#[test]
fn a_vlan_device() {
    let data = [attribute(IFLA_VLAN_PROTOCOL, &[0x81, 0]), attribute(IFLA_VLAN_ID, &10_u16.to_ne_bytes())].concat();
    let read = |more: &[u8]| {
        let data = [&data, more].concat();
        let info = [attribute(IFLA_INFO_KIND, b"vlan\0"), attribute(IFLA_INFO_DATA, &data)].concat();
        decode(&link(0, &[attribute(IFLA_LINK, &2_u32.to_ne_bytes()), attribute(IFLA_LINKINFO, &info)])).unwrap()
    };
    let bare = read(&[]);
    assert_eq!((bare.vlan, bare.lower, bare.lower_elsewhere), (Some((10, 0x8100)), Some(2), false));
    // Without flags none is set.
    assert_eq!(bare.vlan_attrs, VlanAttrs::default());
    let flags = |flags: u32| attribute(IFLA_VLAN_FLAGS, &[flags.to_ne_bytes(), [0xff; 4]].concat());
    let with = |more: &[u8]| read(more).vlan_attrs;
    assert_eq!(with(&flags(1)), VlanAttrs { reorder_hdr: true, ..VlanAttrs::default() });
    assert_eq!(with(&flags(0b1111)), VlanAttrs { reorder_hdr: true, ..VlanAttrs::default() });
    assert_eq!(with(&flags(0b1110)), VlanAttrs::default());
    let map = |kind| attribute(kind, &attribute(1, &[0; 8]));
    assert_eq!(with(&map(IFLA_VLAN_INGRESS_QOS)), VlanAttrs { ingress_map: true, ..VlanAttrs::default() });
    assert_eq!(with(&map(IFLA_VLAN_EGRESS_QOS)), VlanAttrs { egress_map: true, ..VlanAttrs::default() });
}

#[test]
fn only_a_device_without_kind_is_physical() {
    let parent = attribute(IFLA_PARENT_DEV_NAME, b"0000:01:00.0\0");
    let kind = attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"vlan\0"));
    assert!(decode(&link(0, std::slice::from_ref(&parent))).unwrap().physical);
    assert!(!decode(&link(0, &[kind, parent])).unwrap().physical);
    assert!(!decode(&link(0, &[])).unwrap().physical);
}

#[test]
fn another_masters_port_is_no_bridge_port() {
    let info =
        [attribute(IFLA_INFO_SLAVE_KIND, b"bond\0"), attribute(IFLA_INFO_SLAVE_DATA, &attribute(1, &[3]))].concat();
    assert_eq!(decode(&link(0, &[attribute(IFLA_LINKINFO, &info)])).unwrap().port, None);
}

#[test]
fn of_two_nests_the_second_counts_as_a_whole() {
    let nests = [attribute(IFLA_LINKINFO, &bridge_nest(0)), attribute(IFLA_LINKINFO, &port_nest(b"veth\0"))];
    let read = decode(&link(0, &nests)).unwrap();
    assert_eq!((read.kind.as_deref(), read.bridge), (Some("veth"), None));
    assert_eq!(read.port.unwrap().state, Some(3));
    let [first, second] = nests;
    let read = decode(&link(0, &[second, first])).unwrap();
    assert_eq!((read.kind.as_deref(), read.port), (Some("bridge"), None));
    assert_eq!(read.bridge.unwrap().ageing_time, 30_000);
}

#[test]
fn what_cannot_be_read_stays_slow() {
    // A value too short, in the message itself and in a nest.
    let port = link(0, &[attribute(IFLA_LINKINFO, &port_nest(b"veth\0")), attribute(IFLA_MTU, &[1])]);
    assert_eq!(decode(&port).unwrap().port.unwrap().state, None);
    let nest = [bridge_nest(0), attribute(IFLA_INFO_DATA, &attribute(IFLA_BR_AGEING_TIME, &[1]))].concat();
    let bridge = decode(&link(0, &[attribute(IFLA_LINKINFO, &nest)])).unwrap().bridge.unwrap();
    assert_eq!(bridge.unknown_options, u32::MAX);
    // A bridge that says nothing about itself.
    let bare = decode(&link(0, &[attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"bridge\0"))])).unwrap();
    assert_eq!(bare.bridge.unwrap().unknown_options, u32::MAX);
}

/// Where the attributes in `bytes` begin, from `start` on.
fn headers(bytes: &[u8], start: usize) -> Vec<usize> {
    let lengths = attributes(&bytes[start..]).map(|attribute| (4 + attribute.unwrap().1.len()).next_multiple_of(4));
    let ends = lengths.scan(start, |at, length| {
        *at += length;
        Some(*at - length)
    });
    ends.collect()
}

#[test]
fn impossible_lengths_keep_the_port_slow() {
    let whole = port_message();
    let top = headers(&whole, HEADER);
    let info = *top.iter().find(|at| whole[**at + 2] == u8::try_from(IFLA_LINKINFO).unwrap()).unwrap();
    let nest = headers(&whole[..info + usize::from(whole[info])], info + 4);
    let data = *nest.last().unwrap();
    let inner = headers(&whole[..data + usize::from(whole[data])], data + 4);
    assert!(top.len() > 10 && nest.len() == 3 && inner.len() > 9);
    for at in top.into_iter().chain(nest).chain(inner) {
        // Shorter than an attribute's header, and longer than what is left.
        for length in [0, 1, 2, 3, u16::MAX] {
            let mut bytes = whole.clone();
            bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
            let read = decode(&bytes).unwrap();
            assert_eq!(read.port.and_then(|port| port.state), None, "length {length} at {at}");
        }
    }
}

#[test]
fn nests_in_nests_are_not_followed() {
    let mut nest = attribute(IFLA_INFO_KIND, b"bridge\0");
    for _ in 0..2_000 {
        nest = attribute(IFLA_LINKINFO | NESTED, &nest);
    }
    let read = decode(&link(IFF_UP, &[nest])).unwrap();
    assert_eq!((read.kind, read.bridge, read.port), (None, None, None));
}

#[test]
fn truncation_never_panics_and_never_forwards() {
    let whole = port_message();
    let complete = decode(&whole).unwrap();
    let mut boundaries = vec![HEADER];
    for (_, value) in attributes(body(&whole)).flatten() {
        boundaries.push(boundaries.last().unwrap() + (4 + value.len()).next_multiple_of(4));
    }
    for length in 0..whole.len() {
        let Ok(read) = decode(&whole[..length]) else {
            assert!(length < HEADER, "length {length}");
            continue;
        };
        let padded = boundaries.iter().any(|&end| length <= end && end - length < 4 && end != HEADER);
        if !padded && !boundaries.contains(&length) {
            assert_eq!(read.port.and_then(|port| port.state), None, "length {length}");
        }
        assert_eq!(read.ifindex, complete.ifindex);
    }
    for position in 0..whole.len() {
        for value in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[position] = value;
            let _ = decode(&bytes);
        }
    }
}
