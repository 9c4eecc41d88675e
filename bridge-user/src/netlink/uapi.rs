//! Numbers of the kernel's rtnetlink interface (include/uapi/linux) that libc does not have on every target.
//!
//! Only what xbr reads or asks for; the names are the kernel's.

// Message types: rtnetlink.h.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_NEWQDISC: u16 = 36;
pub(crate) const RTM_DELQDISC: u16 = 37;
pub(crate) const RTM_GETQDISC: u16 = 38;
pub(crate) const RTM_NEWTCLASS: u16 = 40;
pub(crate) const RTM_DELTCLASS: u16 = 41;
pub(crate) const RTM_NEWTFILTER: u16 = 44;
pub(crate) const RTM_DELTFILTER: u16 = 45;
pub(crate) const RTM_GETTFILTER: u16 = 46;
pub(crate) const RTM_NEWNSID: u16 = 88;
pub(crate) const RTM_GETNSID: u16 = 90;
pub(crate) const RTM_NEWCHAIN: u16 = 100;
pub(crate) const RTM_DELCHAIN: u16 = 101;
pub(crate) const RTM_NEWVLAN: u16 = 112;
pub(crate) const RTM_DELVLAN: u16 = 113;
pub(crate) const RTM_GETVLAN: u16 = 114;

// Multicast groups: rtnetlink.h.
pub(crate) const RTNLGRP_LINK: u32 = 1;
pub(crate) const RTNLGRP_NEIGH: u32 = 3;
pub(crate) const RTNLGRP_TC: u32 = 4;
pub(crate) const RTNLGRP_BRVLAN: u32 = 33;

/// `AF_BRIDGE` as the families of `ifinfomsg`, `ndmsg` and `br_vlan_msg` are stored.
pub(crate) const AF_BRIDGE: u8 = 7;
/// `tcm_ifindex` of a filter on a shared block (include/uapi/linux/rtnetlink.h): the message does not say which devices use the block.
pub(crate) const TCM_IFINDEX_MAGIC_BLOCK: u32 = u32::MAX;
/// Text of an extended acknowledgement: netlink.h.
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

// Of traffic control: rtnetlink.h, pkt_cls.h, pkt_sched.h.
pub(crate) const TCA_KIND: u16 = 1;
pub(crate) const TCA_OPTIONS: u16 = 2;
pub(crate) const TCA_CHAIN: u16 = 11;
pub(crate) const TCA_BPF_NAME: u16 = 7;
pub(crate) const TCA_BPF_ID: u16 = 11;
pub(crate) const TCA_ACT_KIND: u16 = 1;

// Numbers of namespaces: net_namespace.h.
pub(crate) const NETNSA_NSID: u16 = 1;
pub(crate) const NETNSA_PID: u16 = 2;

// Interface flags: if.h.
pub(crate) const IFF_UP: u32 = 1;
pub(crate) const IFF_PROMISC: u32 = 0x100;

// Link attributes: if_link.h.
pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_QDISC: u16 = 6;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_WIRELESS: u16 = 11;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_STATS64: u16 = 23;
pub(crate) const IFLA_EXT_MASK: u16 = 29;
pub(crate) const IFLA_PROMISCUITY: u16 = 30;
pub(crate) const IFLA_CARRIER: u16 = 33;
pub(crate) const IFLA_PHYS_SWITCH_ID: u16 = 36;
pub(crate) const IFLA_LINK_NETNSID: u16 = 37;
pub(crate) const IFLA_XDP: u16 = 43;
pub(crate) const IFLA_TARGET_NETNSID: u16 = 46;
pub(crate) const IFLA_PARENT_DEV_NAME: u16 = 56;

pub(crate) const IFLA_XDP_ATTACHED: u16 = 2;
pub(crate) const IFLA_XDP_PROG_ID: u16 = 4;
pub(crate) const IFLA_XDP_DRV_PROG_ID: u16 = 5;
pub(crate) const IFLA_XDP_SKB_PROG_ID: u16 = 6;
pub(crate) const IFLA_XDP_HW_PROG_ID: u16 = 7;

pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(crate) const IFLA_INFO_SLAVE_DATA: u16 = 5;

pub(crate) const IFLA_VLAN_ID: u16 = 1;
pub(crate) const IFLA_VLAN_FLAGS: u16 = 2;
pub(crate) const IFLA_VLAN_EGRESS_QOS: u16 = 3;
pub(crate) const IFLA_VLAN_INGRESS_QOS: u16 = 4;
pub(crate) const IFLA_VLAN_PROTOCOL: u16 = 5;
/// `VLAN_FLAG_REORDER_HDR`.
pub(crate) const VLAN_FLAG_REORDER_HDR: u32 = 1 << 0;

pub(crate) const IFLA_BR_FORWARD_DELAY: u16 = 1;
pub(crate) const IFLA_BR_AGEING_TIME: u16 = 4;
pub(crate) const IFLA_BR_STP_STATE: u16 = 5;
pub(crate) const IFLA_BR_VLAN_FILTERING: u16 = 7;
pub(crate) const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
pub(crate) const IFLA_BR_TOPOLOGY_CHANGE: u16 = 14;
pub(crate) const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
pub(crate) const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
pub(crate) const IFLA_BR_NF_CALL_ARPTABLES: u16 = 38;
pub(crate) const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
pub(crate) const IFLA_BR_MULTI_BOOLOPT: u16 = 46;
/// `IFLA_BR_FDB_MAX_LEARNED`: none above has to do with unicast, but for those named here.
pub(crate) const IFLA_BR_LAST_KNOWN: u16 = 49;

pub(crate) const IFLA_BRPORT_STATE: u16 = 1;
pub(crate) const IFLA_BRPORT_MODE: u16 = 4;
pub(crate) const IFLA_BRPORT_LEARNING: u16 = 8;
pub(crate) const IFLA_BRPORT_PROXYARP: u16 = 10;
pub(crate) const IFLA_BRPORT_PROXYARP_WIFI: u16 = 12;
pub(crate) const IFLA_BRPORT_VLAN_TUNNEL: u16 = 29;
pub(crate) const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
pub(crate) const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(crate) const IFLA_BRPORT_BACKUP_PORT: u16 = 34;
pub(crate) const IFLA_BRPORT_LOCKED: u16 = 39;
pub(crate) const IFLA_BRPORT_MAB: u16 = 40;
pub(crate) const IFLA_BRPORT_NEIGH_VLAN_SUPPRESS: u16 = 43;
pub(crate) const IFLA_BRPORT_BACKUP_NHID: u16 = 44;
/// `IFLA_BRPORT_NEIGH_FORWARD_GRAT`: none above has to do with unicast, but for those named here.
pub(crate) const IFLA_BRPORT_LAST_KNOWN: u16 = 45;

// Bridge boolean options, as bits of `struct br_boolopt_multi`: enum br_boolopt_id in if_bridge.h.
pub(crate) const BR_BOOLOPT_NO_LL_LEARN: u32 = 1 << 0;
pub(crate) const BR_BOOLOPT_MCAST_VLAN_SNOOPING: u32 = 1 << 1;
pub(crate) const BR_BOOLOPT_MST_ENABLE: u32 = 1 << 2;
pub(crate) const BR_BOOLOPT_MDB_OFFLOAD_FAIL_NOTIFICATION: u32 = 1 << 3;
pub(crate) const BR_BOOLOPT_FDB_LOCAL_VLAN_0: u32 = 1 << 4;

// VLAN database: if_bridge.h.
pub(crate) const BRIDGE_VLANDB_ENTRY: u16 = 1;
pub(crate) const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
pub(crate) const BRIDGE_VLANDB_ENTRY_RANGE: u16 = 2;
pub(crate) const BRIDGE_VLANDB_ENTRY_STATE: u16 = 3;
pub(crate) const BRIDGE_VLANDB_ENTRY_TUNNEL_INFO: u16 = 4;
/// `BRIDGE_VLANDB_ENTRY_NEIGH_SUPPRESS`: none above has to do with unicast, but for those named here.
pub(crate) const BRIDGE_VLANDB_ENTRY_LAST_KNOWN: u16 = 9;
pub(crate) const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
pub(crate) const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
/// `BRIDGE_VLAN_INFO_MASTER` to `BRIDGE_VLAN_INFO_ONLY_OPTS`.
pub(crate) const BRIDGE_VLAN_INFO_KNOWN: u16 = 0x7f;

// Neighbours: neighbour.h.
pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NDA_CACHEINFO: u16 = 3;
pub(crate) const NDA_VLAN: u16 = 5;
pub(crate) const NDA_MASTER: u16 = 9;
pub(crate) const NDA_PROTOCOL: u16 = 12;
pub(crate) const NDA_FDB_EXT_ATTRS: u16 = 14;
pub(crate) const NDA_FLAGS_EXT: u16 = 15;
pub(crate) const NFEA_ACTIVITY_NOTIFY: u16 = 1;
pub(crate) const NTF_SELF: u8 = 1 << 1;
pub(crate) const NTF_EXT_LEARNED: u8 = 1 << 4;
pub(crate) const NTF_OFFLOADED: u8 = 1 << 5;
pub(crate) const NTF_STICKY: u8 = 1 << 6;
pub(crate) const NTF_EXT_LOCKED: u32 = 1 << 1;
pub(crate) const NUD_REACHABLE: u16 = 0x02;
pub(crate) const NUD_STALE: u16 = 0x04;
pub(crate) const NUD_NOARP: u16 = 0x40;
pub(crate) const NUD_PERMANENT: u16 = 0x80;
