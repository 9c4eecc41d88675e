//! Links: `RTM_NEWLINK` messages of `AF_UNSPEC` (`rtnl_fill_ifinfo`, `br_fill_info`, `br_port_fill_attrs`).

use log::warn;

use super::{
    uapi::{
        BR_BOOLOPT_FDB_LOCAL_VLAN_0, BR_BOOLOPT_MCAST_VLAN_SNOOPING, BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION,
        BR_BOOLOPT_MST_ENABLE, BR_BOOLOPT_NO_LL_LEARN, IFF_PROMISC, IFF_UP, IFLA_ADDRESS, IFLA_BR_AGEING_TIME,
        IFLA_BR_FORWARD_DELAY, IFLA_BR_LAST_KNOWN, IFLA_BR_MULTI_BOOLOPT, IFLA_BR_NF_CALL_ARPTABLES,
        IFLA_BR_NF_CALL_IP6TABLES, IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_STP_STATE, IFLA_BR_TOPOLOGY_CHANGE,
        IFLA_BR_VLAN_DEFAULT_PVID, IFLA_BR_VLAN_FILTERING, IFLA_BR_VLAN_PROTOCOL, IFLA_BRPORT_BACKUP_NHID,
        IFLA_BRPORT_BACKUP_PORT, IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LAST_KNOWN, IFLA_BRPORT_LEARNING,
        IFLA_BRPORT_LOCKED, IFLA_BRPORT_MAB, IFLA_BRPORT_MODE, IFLA_BRPORT_NEIGH_SUPPRESS,
        IFLA_BRPORT_NEIGH_VLAN_SUPPRESS, IFLA_BRPORT_PROXYARP, IFLA_BRPORT_PROXYARP_WIFI, IFLA_BRPORT_STATE,
        IFLA_BRPORT_VLAN_TUNNEL, IFLA_CARRIER, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA,
        IFLA_INFO_SLAVE_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, IFLA_PARENT_DEV_NAME,
        IFLA_PHYS_SWITCH_ID, IFLA_PROMISCUITY, IFLA_QDISC, IFLA_STATS64, IFLA_VLAN_EGRESS_QOS, IFLA_VLAN_FLAGS,
        IFLA_VLAN_ID, IFLA_VLAN_INGRESS_QOS, IFLA_VLAN_PROTOCOL, IFLA_XDP, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_HW_PROG_ID,
        IFLA_XDP_PROG_ID, IFLA_XDP_SKB_PROG_ID, VLAN_FLAG_REORDER_HDR,
    },
    wire::{Malformed, attributes, be16_of, bool_of, bytes, string_of, u8_of, u16_of, u32_at, u32_of},
};
use crate::model::{BridgeAttrs, IfIndex, Link, LinkStats, PortAttrs};

/// Length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// Boolean options of a bridge that change nothing for unicast frames, or that the model names.
const KNOWN_OPTIONS: u32 = BR_BOOLOPT_NO_LL_LEARN
    | BR_BOOLOPT_MCAST_VLAN_SNOOPING
    | BR_BOOLOPT_MST_ENABLE
    | BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION
    | BR_BOOLOPT_FDB_LOCAL_VLAN_0;

/// The `struct ifinfomsg` of a request: all devices (`None`) or one, of any family.
pub(super) fn header(device: Option<IfIndex>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&device.unwrap_or(0).to_ne_bytes());
    header
}

/// The device that a message is about.
pub(super) fn device(payload: &[u8]) -> Result<IfIndex, Malformed> {
    let header = payload.first_chunk::<HEADER>().ok_or(Malformed("a link message's header"))?;
    u32_at(header, 4)
}

/// The attributes of a link message.
pub(super) fn body(payload: &[u8]) -> &[u8] {
    payload.get(HEADER..).unwrap_or_default()
}

/// Reads a link. Fails only where the message does not even say which device it is about.
///
/// A device with an attribute that cannot be read is kept, but so that nothing takes the fast path over it: see [`distrust`].
pub(super) fn decode(payload: &[u8]) -> Result<Link, Malformed> {
    let ifindex = device(payload)?;
    let flags = u32_at(payload, 8)?;
    let mut link = Link { ifindex, up: flags & IFF_UP != 0, promisc_flag: flags & IFF_PROMISC != 0, ..Link::default() };
    let mut outcome = Ok(());
    for attribute in attributes(body(payload)) {
        let read = attribute.and_then(|(kind, value)| top_level(&mut link, kind, value));
        outcome = outcome.and(read);
    }
    // A virtual device may have a parent as well (SET_NETDEV_DEV of a VLAN's lower device), but it has a kind.
    link.physical &= link.kind.is_none();
    if link.kind.as_deref() == Some("bridge") && link.bridge.is_none() {
        outcome = outcome.and(Err(Malformed("IFLA_INFO_DATA of a bridge")));
    }
    if let Err(malformed) = outcome {
        warn!("netlink: device {} (index {ifindex}): {malformed}; it stays on the slow path", link.name);
        distrust(&mut link);
    }
    Ok(link)
}

/// Makes a device that was read in part unfit for the fast path: as a port its state is not known, as a bridge it has
/// options that are not known.
fn distrust(link: &mut Link) {
    if link.kind.as_deref() == Some("bridge") {
        link.bridge.get_or_insert_default().unknown_options = u32::MAX;
    }
    if let Some(port) = &mut link.port {
        port.state = None;
    }
}

/// One attribute of the message itself.
fn top_level(link: &mut Link, kind: u16, value: &[u8]) -> Result<(), Malformed> {
    match kind {
        IFLA_IFNAME => link.name = string_of(value),
        // Tunnels have addresses of other lengths here; none of them is a bridge port.
        IFLA_ADDRESS if value.len() == 6 => link.mac = bytes(value)?,
        IFLA_MTU => link.mtu = u32_of(value)?,
        IFLA_LINK => link.lower = Some(u32_of(value)?).filter(|&lower| lower != 0),
        IFLA_LINK_NETNSID => {
            link.lower_elsewhere = true;
            link.lower_namespace = Some(u32_of(value)?.cast_signed());
        }
        IFLA_QDISC => link.qdisc = string_of(value),
        IFLA_MASTER => link.master = Some(u32_of(value)?).filter(|&master| master != 0),
        IFLA_PROMISCUITY => link.promiscuity = u32_of(value)?,
        IFLA_CARRIER => link.carrier = bool_of(value)?,
        IFLA_PHYS_SWITCH_ID => link.switchdev = true,
        // There since 5.14 for every device with a parent, so that sysfs (which may show another namespace) is not asked.
        IFLA_PARENT_DEV_NAME => link.physical = true,
        IFLA_XDP => link.xdp = xdp(value)?,
        IFLA_STATS64 => link.stats = stats(value)?,
        IFLA_LINKINFO => link_info(link, value)?,
        _ => {}
    }
    Ok(())
}

/// `IFLA_XDP` (`rtnl_xdp_fill`): a program may be named twice, by its mode and on its own.
fn xdp(nest: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut programs = Vec::new();
    for attribute in attributes(nest) {
        let (kind, value) = attribute?;
        if let IFLA_XDP_PROG_ID | IFLA_XDP_DRV_PROG_ID | IFLA_XDP_SKB_PROG_ID | IFLA_XDP_HW_PROG_ID = kind {
            programs.push(u32_of(value)?);
        }
    }
    programs.sort_unstable();
    programs.dedup();
    programs.retain(|&program| program != 0);
    Ok(programs)
}

/// The head of `struct rtnl_link_stats64`.
fn stats(value: &[u8]) -> Result<LinkStats, Malformed> {
    let words: [u8; 64] = bytes(value)?;
    let word = |index: usize| words.as_chunks::<8>().0.get(index).map_or(0, |word| u64::from_ne_bytes(*word));
    Ok(LinkStats {
        rx_packets: word(0),
        tx_packets: word(1),
        rx_bytes: word(2),
        tx_bytes: word(3),
        rx_dropped: word(6),
        tx_dropped: word(7),
    })
}

/// `IFLA_LINKINFO`: the kinds are collected first, since they say how to read the data.
fn link_info(link: &mut Link, nest: &[u8]) -> Result<(), Malformed> {
    // Of two nests, the second counts as a whole: a kind must not meet the data of another.
    (link.kind, link.bridge, link.vlan, link.port) = (None, None, None, None);
    let (mut data, mut port_kind, mut port_data) = (None, None, None);
    let mut outcome = Ok(());
    for attribute in attributes(nest) {
        match attribute {
            Ok((IFLA_INFO_KIND, value)) => link.kind = Some(string_of(value)),
            Ok((IFLA_INFO_DATA, value)) => data = Some(value),
            Ok((IFLA_INFO_SLAVE_KIND, value)) => port_kind = Some(string_of(value)),
            Ok((IFLA_INFO_SLAVE_DATA, value)) => port_data = Some(value),
            Ok(_) => {}
            Err(malformed) => outcome = Err(malformed),
        }
    }
    match (link.kind.as_deref(), data) {
        (Some("bridge"), Some(data)) => {
            let bridge = link.bridge.insert(BridgeAttrs::default());
            outcome = outcome.and(each(data, |kind, value| bridge_attribute(bridge, kind, value)));
        }
        (Some("vlan"), Some(data)) => {
            let (id, protocol) = link.vlan.insert((0, 0x8100));
            let attrs = &mut link.vlan_attrs;
            outcome = outcome.and(each(data, |kind, value| {
                match kind {
                    IFLA_VLAN_ID => *id = u16_of(value)?,
                    IFLA_VLAN_PROTOCOL => *protocol = be16_of(value)?,
                    // struct ifla_vlan_flags: flags, then a mask. Missing where none is set (vlan_fill_info).
                    IFLA_VLAN_FLAGS => attrs.reorder_hdr = u32_at(value, 0)? & VLAN_FLAG_REORDER_HDR != 0,
                    IFLA_VLAN_INGRESS_QOS => attrs.ingress_map = true,
                    IFLA_VLAN_EGRESS_QOS => attrs.egress_map = true,
                    _ => {}
                }
                Ok(())
            }));
        }
        _ => {}
    }
    if port_kind.as_deref() == Some("bridge") {
        let port = link.port.insert(PortAttrs::default());
        outcome = outcome.and(each(port_data.unwrap_or_default(), |kind, value| port_attribute(port, kind, value)));
    }
    outcome
}

/// Hands every attribute of a nest to `read`; the first failure is the outcome.
fn each(nest: &[u8], mut read: impl FnMut(u16, &[u8]) -> Result<(), Malformed>) -> Result<(), Malformed> {
    let mut outcome = Ok(());
    for attribute in attributes(nest) {
        outcome = outcome.and(attribute.and_then(|(kind, value)| read(kind, value)));
    }
    outcome
}

/// One attribute of `br_fill_info`.
fn bridge_attribute(bridge: &mut BridgeAttrs, kind: u16, value: &[u8]) -> Result<(), Malformed> {
    match kind {
        IFLA_BR_VLAN_FILTERING => bridge.vlan_filtering = bool_of(value)?,
        IFLA_BR_VLAN_PROTOCOL => bridge.vlan_protocol = be16_of(value)?,
        IFLA_BR_VLAN_DEFAULT_PVID => bridge.default_pvid = u16_of(value)?,
        IFLA_BR_AGEING_TIME => bridge.ageing_time = u32_of(value)?,
        IFLA_BR_FORWARD_DELAY => bridge.forward_delay = u32_of(value)?,
        IFLA_BR_TOPOLOGY_CHANGE => bridge.topology_change = bool_of(value)?,
        IFLA_BR_STP_STATE => bridge.stp_state = u32_of(value)?,
        IFLA_BR_NF_CALL_IPTABLES => bridge.nf_call_iptables = bool_of(value)?,
        IFLA_BR_NF_CALL_IP6TABLES => bridge.nf_call_ip6tables = bool_of(value)?,
        IFLA_BR_NF_CALL_ARPTABLES => bridge.nf_call_arptables = bool_of(value)?,
        IFLA_BR_MULTI_BOOLOPT => {
            // struct br_boolopt_multi: values, then a mask of the options that the kernel has.
            let options = u32_of(value)?;
            bridge.mst = options & BR_BOOLOPT_MST_ENABLE != 0;
            bridge.fdb_local_vlan_0 = options & BR_BOOLOPT_FDB_LOCAL_VLAN_0 != 0;
            bridge.unknown_options = options & !KNOWN_OPTIONS;
        }
        // As with a port's: what a newer kernel's attribute does to unicast is not known here, unless it is off.
        _ if kind > IFLA_BR_LAST_KNOWN && value.iter().any(|byte| *byte != 0) => bridge.unknown_attribute = Some(kind),
        _ => {}
    }
    Ok(())
}

/// One attribute of `br_port_fill_attrs`.
fn port_attribute(port: &mut PortAttrs, kind: u16, value: &[u8]) -> Result<(), Malformed> {
    match kind {
        IFLA_BRPORT_STATE => port.state = Some(u8_of(value)?),
        IFLA_BRPORT_LEARNING => port.learning = bool_of(value)?,
        IFLA_BRPORT_MODE => port.hairpin = bool_of(value)?,
        IFLA_BRPORT_ISOLATED => port.isolated = bool_of(value)?,
        IFLA_BRPORT_LOCKED => port.locked = bool_of(value)?,
        IFLA_BRPORT_MAB => port.mab = bool_of(value)?,
        IFLA_BRPORT_VLAN_TUNNEL => port.vlan_tunnel = bool_of(value)?,
        IFLA_BRPORT_NEIGH_SUPPRESS => port.neigh_suppress = bool_of(value)?,
        IFLA_BRPORT_NEIGH_VLAN_SUPPRESS => port.neigh_vlan_suppress = bool_of(value)?,
        IFLA_BRPORT_PROXYARP | IFLA_BRPORT_PROXYARP_WIFI => port.proxy_arp |= bool_of(value)?,
        IFLA_BRPORT_BACKUP_PORT => port.backup_port = Some(u32_of(value)?).filter(|&backup| backup != 0),
        IFLA_BRPORT_BACKUP_NHID => port.backup_nhid = Some(u32_of(value)?).filter(|&backup| backup != 0),
        // A newer kernel's option: what it does to unicast is not known here, unless it is off.
        _ if kind > IFLA_BRPORT_LAST_KNOWN => port.unknown |= value.iter().any(|byte| *byte != 0),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
