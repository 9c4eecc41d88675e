//! What the kernel said about links, bridge ports, VLANs and FDB entries, in types.
//!
//! Filled by [`crate::netlink`] and [`crate::bypass`], read by [`crate::plan`]. Nothing here decides anything; a value
//! that the kernel did not send is `None`, never a guess.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A kernel interface index.
pub type IfIndex = u32;

/// The mirror of one network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Every link of the namespace.
    pub links: BTreeMap<IfIndex, Link>,
    /// VLAN memberships of bridges and bridge ports, by device.
    pub vlans: BTreeMap<IfIndex, Vec<VlanRange>>,
    /// FDB entries of all bridges.
    pub fdb: HashMap<FdbKey, FdbEntry>,
    /// Policy and listeners that a fast path would go around.
    pub bypass: Bypass,
}

/// One network device.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "mirrors the kernel's device attributes one to one")]
pub struct Link {
    /// Interface index.
    pub ifindex: IfIndex,
    /// Name, as `ip link` shows it.
    pub name: String,
    /// Hardware address; zero where the device has none.
    pub mac: [u8; 6],
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// `IFF_UP` is set.
    pub up: bool,
    /// `IFLA_CARRIER`.
    pub carrier: bool,
    /// `IFLA_PROMISCUITY`: how many users asked for promiscuous mode, the bridge itself included.
    pub promiscuity: u32,
    /// `IFF_PROMISC` in the flags: set by an operator.
    pub promisc_flag: bool,
    /// `IFLA_INFO_KIND`: "bridge", "veth", "vlan", "tun", …; `None` for a physical device.
    pub kind: Option<String>,
    /// `IFLA_MASTER`.
    pub master: Option<IfIndex>,
    /// `IFLA_LINK`: the lower device, or a veth's peer.
    pub lower: Option<IfIndex>,
    /// `IFLA_LINK_NETNSID` is present: `lower` counts in another namespace.
    pub lower_elsewhere: bool,
    /// `IFLA_LINK_NETNSID`: this namespace's number for that one.
    pub lower_namespace: Option<i32>,
    /// `IFLA_XDP`: ids of the XDP programs attached, in any mode.
    pub xdp: Vec<u32>,
    /// `IFLA_QDISC`: the root qdisc, e.g. `noqueue`, `fq_codel`, `htb`.
    pub qdisc: String,
    /// `IFLA_PHYS_SWITCH_ID` is present: a switchdev port.
    pub switchdev: bool,
    /// The device has a parent bus device (`IFLA_PARENT_DEV_NAME`) or a sysfs `device` link: it is hardware.
    pub physical: bool,
    /// The VLAN id and protocol (0x8100 or 0x88a8) of a device of kind "vlan".
    pub vlan: Option<(u16, u16)>,
    /// Settings of a device of kind "vlan".
    pub vlan_attrs: VlanAttrs,
    /// Attributes of a device of kind "bridge".
    pub bridge: Option<BridgeAttrs>,
    /// Attributes of a device whose master is a bridge.
    pub port: Option<PortAttrs>,
    /// `IFLA_STATS64`.
    pub stats: LinkStats,
}

/// `IFLA_INFO_DATA` of a VLAN device, but for its VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanAttrs {
    /// `VLAN_FLAG_REORDER_HDR`: what leaves gets the device's tag, whatever it carries already.
    pub reorder_hdr: bool,
    /// `ingress-qos-map` has entries.
    pub ingress_map: bool,
    /// `egress-qos-map` has entries.
    pub egress_map: bool,
}

/// Kernel counters of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Received frames that were dropped.
    pub rx_dropped: u64,
    /// Frames to be sent that were dropped.
    pub tx_dropped: u64,
}

/// `IFLA_INFO_DATA` of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "mirrors the kernel's bridge attributes one to one")]
pub struct BridgeAttrs {
    /// `IFLA_BR_VLAN_FILTERING`.
    pub vlan_filtering: bool,
    /// `IFLA_BR_VLAN_PROTOCOL`: 0x8100 or 0x88a8, host order.
    pub vlan_protocol: u16,
    /// `IFLA_BR_VLAN_DEFAULT_PVID`.
    pub default_pvid: u16,
    /// `IFLA_BR_AGEING_TIME`, in hundredths of a second (`USER_HZ`).
    pub ageing_time: u32,
    /// `IFLA_BR_FORWARD_DELAY`, in hundredths of a second.
    pub forward_delay: u32,
    /// `IFLA_BR_TOPOLOGY_CHANGE`: entries age after `forward_delay` meanwhile.
    pub topology_change: bool,
    /// `IFLA_BR_STP_STATE`: 0 off, 1 kernel, 2 user space.
    pub stp_state: u32,
    /// `IFLA_BR_NF_CALL_IPTABLES`.
    pub nf_call_iptables: bool,
    /// `IFLA_BR_NF_CALL_IP6TABLES`.
    pub nf_call_ip6tables: bool,
    /// `IFLA_BR_NF_CALL_ARPTABLES`.
    pub nf_call_arptables: bool,
    /// Boolean option `BR_BOOLOPT_MST_ENABLE`.
    pub mst: bool,
    /// Boolean option `BR_BOOLOPT_FDB_LOCAL_VLAN_0`.
    pub fdb_local_vlan_0: bool,
    /// Boolean options that this version of xbr does not know and that are on (bits as in `struct br_boolopt_multi`).
    pub unknown_options: u32,
    /// An attribute (`IFLA_BR_*`) that this version of xbr does not know and that is not zero.
    pub unknown_attribute: Option<u16>,
}

/// `IFLA_INFO_SLAVE_DATA` of a bridge port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "mirrors the kernel's boolean port attributes one to one")]
pub struct PortAttrs {
    /// `IFLA_BRPORT_STATE`: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking. `None`: the kernel did not say.
    pub state: Option<u8>,
    /// `IFLA_BRPORT_LEARNING`.
    pub learning: bool,
    /// `IFLA_BRPORT_MODE`: hairpin.
    pub hairpin: bool,
    /// `IFLA_BRPORT_ISOLATED`.
    pub isolated: bool,
    /// `IFLA_BRPORT_LOCKED`.
    pub locked: bool,
    /// `IFLA_BRPORT_MAB`.
    pub mab: bool,
    /// `IFLA_BRPORT_VLAN_TUNNEL`.
    pub vlan_tunnel: bool,
    /// `IFLA_BRPORT_NEIGH_SUPPRESS`.
    pub neigh_suppress: bool,
    /// `IFLA_BRPORT_NEIGH_VLAN_SUPPRESS`.
    pub neigh_vlan_suppress: bool,
    /// `IFLA_BRPORT_PROXYARP` or `IFLA_BRPORT_PROXYARP_WIFI`.
    pub proxy_arp: bool,
    /// `IFLA_BRPORT_BACKUP_PORT`.
    pub backup_port: Option<IfIndex>,
    /// `IFLA_BRPORT_BACKUP_NHID`.
    pub backup_nhid: Option<u32>,
    /// An attribute that this version of xbr does not know is set.
    pub unknown: bool,
}

/// A run of VLANs with the same settings on one device (`RTM_GETVLAN`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanRange {
    /// First VLAN id.
    pub first: u16,
    /// Last VLAN id, itself included.
    pub last: u16,
    /// `BRIDGE_VLAN_INFO_PVID`.
    pub pvid: bool,
    /// `BRIDGE_VLAN_INFO_UNTAGGED`.
    pub untagged: bool,
    /// `BRIDGE_VLANDB_ENTRY_STATE`, numbered as the port state. `None`: the kernel did not say.
    pub state: Option<u8>,
    /// The VLAN is mapped to a tunnel.
    pub tunnel: bool,
}

/// Where an FDB entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdbKey {
    /// The bridge.
    pub bridge: IfIndex,
    /// VLAN id; 0 where the bridge keeps none (VLAN-unaware, or a local entry without VLAN).
    pub vlan: u16,
    /// The address.
    pub mac: [u8; 6],
}

/// What an FDB entry says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "mirrors the kernel's entry flags one to one")]
pub struct FdbEntry {
    /// The port (or the bridge itself, for its own address).
    pub port: IfIndex,
    /// `NUD_PERMANENT`: a local entry, never forwarded out.
    pub local: bool,
    /// `NUD_NOARP` or `NUD_PERMANENT`: does not age.
    pub is_static: bool,
    /// `NTF_STICKY`: does not move.
    pub sticky: bool,
    /// `NTF_EXT_LEARNED`.
    pub extern_learn: bool,
    /// `NTF_EXT_LOCKED`.
    pub locked: bool,
    /// `NTF_OFFLOADED`.
    pub offloaded: bool,
    /// `NFEA_ACTIVITY_NOTIFY`: user space hears when the address falls silent, so its frames have to reach the bridge now and
    /// then, though the entry does not age.
    pub watched: bool,
    /// A flag, state or attribute that this version of xbr does not know.
    pub unknown: bool,
}

/// What else looks at, changes or limits bridged frames (design rule 3). The texts name the finding for `xbr status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// Netfilter rules that see the frames of any bridge of the namespace, e.g. "nft table bridge filter, chain forward".
    pub netfilter: Option<String>,
    /// Rules in ip, ip6, inet or arp that `br_netfilter` would show bridged frames to. They matter to a bridge when
    /// `br_netfilter` is on for it.
    pub inet_rules: Option<String>,
    /// The sysctls of `br_netfilter`: (`bridge-nf-call-iptables`, `-ip6tables`, `-arptables`). `None`: it is not there.
    pub br_netfilter: Option<(bool, bool, bool)>,
    /// `br_netfilter` looks into VLAN tags or PPPoE sessions (`bridge-nf-filter-vlan-tagged`, `-pppoe-tagged`).
    pub br_netfilter_encapsulated: bool,
    /// Foreign tc, tcx or nft-netdev filters on a device's ingress, by device: what was found.
    pub ingress_filters: BTreeMap<IfIndex, String>,
    /// Foreign filters on a device's egress (clsact or tcx): a tc redirect runs them, an XDP redirect does not.
    pub egress_filters: BTreeMap<IfIndex, String>,
    /// What frames that tc redirects out of a device would not meet, by device: nftables chains on its egress, a generic XDP
    /// program at the far end of a pair.
    pub egress_missed: BTreeMap<IfIndex, String>,
    /// Devices whose NIC strips VLAN tags on receive (`rx-vlan-offload` on), of those that were asked about.
    pub rx_vlan_offload: BTreeMap<IfIndex, bool>,
    /// VLAN devices of other network namespaces, by the device of this one that they sit on: the first on each.
    pub uppers_elsewhere: BTreeMap<IfIndex, String>,
    /// The far ends of devices that are one end of a pair whose other end is in another namespace.
    pub far_ends: BTreeMap<IfIndex, FarEnd>,
    /// `NETDEV_XDP_ACT_*` bits by device. A device that is missing has not said anything.
    pub xdp_features: BTreeMap<IfIndex, u64>,
}

/// The far end of a veth or netkit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FarEnd {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// An XDP program is attached there, in whatever mode.
    pub has_xdp: bool,
}

impl Bypass {
    /// Forgets what is said of these devices.
    pub fn forget(&mut self, devices: &BTreeSet<IfIndex>) {
        self.ingress_filters.retain(|device, _| !devices.contains(device));
        self.egress_filters.retain(|device, _| !devices.contains(device));
        self.egress_missed.retain(|device, _| !devices.contains(device));
        self.rx_vlan_offload.retain(|device, _| !devices.contains(device));
        self.far_ends.retain(|device, _| !devices.contains(device));
        self.xdp_features.retain(|device, _| !devices.contains(device));
    }
}
