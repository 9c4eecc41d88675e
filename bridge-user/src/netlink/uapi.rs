//! Numbers of the kernel's rtnetlink interface (include/uapi/linux) that libc does not have on every target.
//!
//! Only what xbr reads or asks for; the names are the kernel's.

// Message types: rtnetlink.h.
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
pub(super) const RTM_GETNEIGH: u16 = 30;
pub(super) const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_DELQDISC: u16 = 37;
pub(super) const RTM_NEWTCLASS: u16 = 40;
pub(super) const RTM_DELTCLASS: u16 = 41;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_DELTFILTER: u16 = 45;
pub(super) const RTM_NEWCHAIN: u16 = 100;
pub(super) const RTM_DELCHAIN: u16 = 101;
pub(super) const RTM_NEWVLAN: u16 = 112;
pub(super) const RTM_DELVLAN: u16 = 113;
pub(super) const RTM_GETVLAN: u16 = 114;

// Multicast groups: rtnetlink.h.
pub(super) const RTNLGRP_LINK: u32 = 1;
pub(super) const RTNLGRP_NEIGH: u32 = 3;
pub(super) const RTNLGRP_TC: u32 = 4;
pub(super) const RTNLGRP_BRVLAN: u32 = 33;

/// `AF_BRIDGE` as the families of `ifinfomsg`, `ndmsg` and `br_vlan_msg` are stored.
pub(super) const AF_BRIDGE: u8 = 7;
/// `tcm_ifindex` of a filter on a shared block (include/uapi/linux/rtnetlink.h): the message does not say which devices use the block.
pub(super) const TCM_IFINDEX_MAGIC_BLOCK: u32 = u32::MAX;
/// Text of an extended acknowledgement: netlink.h.
pub(super) const NLMSGERR_ATTR_MSG: u16 = 1;

// Interface flags: if.h.
pub(super) const IFF_UP: u32 = 1;
pub(super) const IFF_PROMISC: u32 = 0x100;

// Link attributes: if_link.h.
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINK: u16 = 5;
pub(super) const IFLA_QDISC: u16 = 6;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_WIRELESS: u16 = 11;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_STATS64: u16 = 23;
pub(super) const IFLA_PROMISCUITY: u16 = 30;
pub(super) const IFLA_CARRIER: u16 = 33;
pub(super) const IFLA_PHYS_SWITCH_ID: u16 = 36;
pub(super) const IFLA_LINK_NETNSID: u16 = 37;
pub(super) const IFLA_XDP: u16 = 43;
pub(super) const IFLA_PARENT_DEV_NAME: u16 = 56;

pub(super) const IFLA_XDP_PROG_ID: u16 = 4;
pub(super) const IFLA_XDP_DRV_PROG_ID: u16 = 5;
pub(super) const IFLA_XDP_SKB_PROG_ID: u16 = 6;
pub(super) const IFLA_XDP_HW_PROG_ID: u16 = 7;

pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(super) const IFLA_INFO_SLAVE_DATA: u16 = 5;

pub(super) const IFLA_VLAN_ID: u16 = 1;
pub(super) const IFLA_VLAN_FLAGS: u16 = 2;
pub(super) const IFLA_VLAN_EGRESS_QOS: u16 = 3;
pub(super) const IFLA_VLAN_INGRESS_QOS: u16 = 4;
pub(super) const IFLA_VLAN_PROTOCOL: u16 = 5;
/// `VLAN_FLAG_REORDER_HDR`.
pub(super) const VLAN_FLAG_REORDER_HDR: u32 = 1 << 0;

pub(super) const IFLA_BR_FORWARD_DELAY: u16 = 1;
pub(super) const IFLA_BR_AGEING_TIME: u16 = 4;
pub(super) const IFLA_BR_STP_STATE: u16 = 5;
pub(super) const IFLA_BR_VLAN_FILTERING: u16 = 7;
pub(super) const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
pub(super) const IFLA_BR_TOPOLOGY_CHANGE: u16 = 14;
pub(super) const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
pub(super) const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
pub(super) const IFLA_BR_NF_CALL_ARPTABLES: u16 = 38;
pub(super) const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
pub(super) const IFLA_BR_MULTI_BOOLOPT: u16 = 46;
/// `IFLA_BR_FDB_MAX_LEARNED`: none above has to do with unicast, but for those named here.
pub(super) const IFLA_BR_LAST_KNOWN: u16 = 49;

pub(super) const IFLA_BRPORT_STATE: u16 = 1;
pub(super) const IFLA_BRPORT_MODE: u16 = 4;
pub(super) const IFLA_BRPORT_LEARNING: u16 = 8;
pub(super) const IFLA_BRPORT_PROXYARP: u16 = 10;
pub(super) const IFLA_BRPORT_PROXYARP_WIFI: u16 = 12;
pub(super) const IFLA_BRPORT_VLAN_TUNNEL: u16 = 29;
pub(super) const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
pub(super) const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(super) const IFLA_BRPORT_BACKUP_PORT: u16 = 34;
pub(super) const IFLA_BRPORT_LOCKED: u16 = 39;
pub(super) const IFLA_BRPORT_MAB: u16 = 40;
pub(super) const IFLA_BRPORT_NEIGH_VLAN_SUPPRESS: u16 = 43;
pub(super) const IFLA_BRPORT_BACKUP_NHID: u16 = 44;
/// `IFLA_BRPORT_NEIGH_FORWARD_GRAT`: none above has to do with unicast, but for those named here.
pub(super) const IFLA_BRPORT_LAST_KNOWN: u16 = 45;

// Bridge boolean options, as bits of `struct br_boolopt_multi`: enum br_boolopt_id in if_bridge.h.
pub(super) const BR_BOOLOPT_NO_LL_LEARN: u32 = 1 << 0;
pub(super) const BR_BOOLOPT_MCAST_VLAN_SNOOPING: u32 = 1 << 1;
pub(super) const BR_BOOLOPT_MST_ENABLE: u32 = 1 << 2;
pub(super) const BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION: u32 = 1 << 3;
pub(super) const BR_BOOLOPT_FDB_LOCAL_VLAN_0: u32 = 1 << 4;

// VLAN database: if_bridge.h.
pub(super) const BRIDGE_VLANDB_ENTRY: u16 = 1;
pub(super) const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
pub(super) const BRIDGE_VLANDB_ENTRY_RANGE: u16 = 2;
pub(super) const BRIDGE_VLANDB_ENTRY_STATE: u16 = 3;
pub(super) const BRIDGE_VLANDB_ENTRY_TUNNEL_INFO: u16 = 4;
/// `BRIDGE_VLANDB_ENTRY_NEIGH_SUPPRESS`: none above has to do with unicast, but for those named here.
pub(super) const BRIDGE_VLANDB_ENTRY_LAST_KNOWN: u16 = 9;
pub(super) const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
pub(super) const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
/// `BRIDGE_VLAN_INFO_MASTER` to `BRIDGE_VLAN_INFO_ONLY_OPTS`.
pub(super) const BRIDGE_VLAN_INFO_KNOWN: u16 = 0x7f;

// Neighbours: neighbour.h.
pub(super) const NDA_LLADDR: u16 = 2;
pub(super) const NDA_CACHEINFO: u16 = 3;
pub(super) const NDA_VLAN: u16 = 5;
pub(super) const NDA_MASTER: u16 = 9;
pub(super) const NDA_PROTOCOL: u16 = 12;
pub(super) const NDA_FDB_EXT_ATTRS: u16 = 14;
pub(super) const NDA_FLAGS_EXT: u16 = 15;
pub(super) const NFEA_ACTIVITY_NOTIFY: u16 = 1;
pub(super) const NTF_SELF: u8 = 1 << 1;
pub(super) const NTF_EXT_LEARNED: u8 = 1 << 4;
pub(super) const NTF_OFFLOADED: u8 = 1 << 5;
pub(super) const NTF_STICKY: u8 = 1 << 6;
pub(super) const NTF_EXT_LOCKED: u32 = 1 << 1;
pub(super) const NUD_REACHABLE: u16 = 0x02;
pub(super) const NUD_STALE: u16 = 0x04;
pub(super) const NUD_NOARP: u16 = 0x40;
pub(super) const NUD_PERMANENT: u16 = 0x80;
