//! What the running kernel can do, tried in a throw-away namespace.

use std::{fmt, fs, sync::OnceLock};

use anyhow::Result;

use crate::{bpf::foreign, netns::Netns, ovs};

/// Something that a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The process may create namespaces and load programs.
    Root,
    /// `/dev/net/tun`.
    Tun,
    /// `bridge vlan_filtering`.
    VlanFiltering,
    /// 802.1Q devices.
    VlanDevice,
    /// macvlan devices.
    Macvlan,
    /// tcx, kernel 6.6 and later.
    Tcx,
    /// Kernels before 6.6: clsact filters in place of tcx.
    NoTcx,
    /// nft's bridge family.
    NftBridge,
    /// `br_netfilter`, with its sysctls.
    BrNetfilter,
    /// Netfilter programs of BPF (kernel 6.4 and later).
    NetfilterBpf,
    /// Chains of nftables on the egress of a device (kernel 5.16 and later).
    NftEgress,
    /// The legacy ebtables, tool and modules.
    Ebtables,
    /// tc's police action.
    Police,
    /// bond devices.
    Bond,
    /// vxlan devices.
    Vxlan,
    /// The module and tool of the Open vSwitch kernel datapath.
    OpenVswitch,
    /// A kernel of this version or later.
    Kernel(u32, u32),
}

impl Need {
    const ALL: [Need; 15] = [
        Need::Root,
        Need::Tun,
        Need::VlanFiltering,
        Need::VlanDevice,
        Need::Macvlan,
        Need::Tcx,
        Need::NoTcx,
        Need::NftBridge,
        Need::BrNetfilter,
        Need::NetfilterBpf,
        Need::NftEgress,
        Need::Ebtables,
        Need::Police,
        Need::Bond,
        Need::Vxlan,
    ];

    /// Whether the machine has it; probed once per process.
    pub fn met(self) -> bool {
        static MET: OnceLock<Vec<bool>> = OnceLock::new();
        if let Need::Kernel(major, minor) = self {
            return kernel().is_some_and(|version| version >= (major, minor));
        }
        if self == Need::OpenVswitch {
            return ovs::there();
        }
        let met = MET.get_or_init(|| probe_all().unwrap_or_else(|_error| vec![false; Need::ALL.len()]));
        Need::ALL.iter().position(|need| *need == self).is_some_and(|index| met[index])
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Need::Kernel(major, minor) => return write!(formatter, "the kernel is older than {major}.{minor}"),
            Need::Root => "needs root",
            Need::Tun => "needs /dev/net/tun",
            Need::VlanFiltering => "the kernel has no bridge VLAN filtering",
            Need::VlanDevice => "the kernel has no 802.1Q devices",
            Need::Macvlan => "the kernel has no macvlan",
            Need::Tcx => "the kernel has no tcx",
            Need::NoTcx => "the kernel has tcx",
            Need::NftBridge => "no nft bridge family",
            Need::BrNetfilter => "br_netfilter is not there",
            Need::NetfilterBpf => "the kernel has no netfilter programs of BPF",
            Need::NftEgress => "no egress hook of nftables",
            Need::Ebtables => "no legacy ebtables",
            Need::Police => "the kernel has no police action",
            Need::Bond => "the kernel has no bond devices",
            Need::Vxlan => "the kernel has no vxlan devices",
            Need::OpenVswitch => "no module openvswitch, or no ovs-dpctl",
        };
        formatter.write_str(text)
    }
}

/// Whether bridges of this kernel can filter VLANs.
pub fn vlan_filtering() -> bool {
    Need::VlanFiltering.met()
}

/// Major and minor number of the running kernel.
pub fn kernel() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.trim().split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn probe_all() -> Result<Vec<bool>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(vec![false; Need::ALL.len()]);
    }
    let space = Netns::create(&format!("xbr-t-{}-probe", std::process::id()))?;
    let can = |line: &str| space.output(line).is_ok_and(|output| output.status.success());
    let tcx = kernel().is_some_and(|version| version >= (6, 6));
    space.cmd("ip link add v0 type veth peer name v1")?;
    Ok(Need::ALL
        .iter()
        .map(|need| match need {
            Need::Root => true,
            Need::Tun => fs::exists("/dev/net/tun").unwrap_or(false),
            Need::VlanFiltering => can("ip link add br9 type bridge vlan_filtering 1"),
            Need::VlanDevice => can("ip link add link v0 name v0.9 type vlan id 9"),
            Need::Macvlan => can("ip link add link v0 name m0 type macvlan mode bridge"),
            Need::Tcx => tcx,
            Need::NoTcx => !tcx,
            Need::NftBridge => can("nft add table bridge probe"),
            Need::BrNetfilter => {
                // Not on somebody's own machine: it would look at the frames of all bridges from then on.
                let loads = std::env::var_os("XBR_VM").is_some() && can("modprobe br_netfilter");
                loads || fs::exists("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or(false)
            }
            Need::NetfilterBpf => space.enter(|| foreign::netfilter_drop(2)).is_ok_and(|attached| attached.is_ok()),
            Need::NftEgress => {
                can("nft add table netdev probe")
                    && can("nft add chain netdev probe e { type filter hook egress device v0 priority 0 ; }")
            }
            Need::Ebtables => can("modprobe --dry-run --quiet ebtable_filter") && can("ebtables-legacy --version"),
            Need::Police => {
                can("tc qdisc add dev v0 ingress")
                    && can("tc filter add dev v0 parent ffff: protocol all u32 match u32 0 0 police rate 1mbit burst 10k drop")
            }
            Need::Bond => can("ip link add bond9 type bond"),
            Need::Vxlan => can("ip link add vxlan9 type vxlan id 9 dstport 4789 local 127.0.0.1"),
            // Asked for without a probe.
            Need::Kernel(..) | Need::OpenVswitch => false,
        })
        .collect())
}
