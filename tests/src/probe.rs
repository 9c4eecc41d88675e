//! What the running kernel can do, tried in a throw-away namespace.

use std::{fmt, fs, sync::OnceLock};

use anyhow::Result;

use crate::netns::Netns;

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
    /// bonding devices.
    Bond,
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
}

impl Need {
    const ALL: [Need; 10] = [
        Need::Root,
        Need::Tun,
        Need::VlanFiltering,
        Need::VlanDevice,
        Need::Bond,
        Need::Macvlan,
        Need::Tcx,
        Need::NoTcx,
        Need::NftBridge,
        Need::BrNetfilter,
    ];

    /// Whether the machine has it; probed once per process.
    pub fn met(self) -> bool {
        static MET: OnceLock<Vec<bool>> = OnceLock::new();
        let met = MET.get_or_init(|| probe_all().unwrap_or_else(|_error| vec![false; Need::ALL.len()]));
        Need::ALL.iter().position(|need| *need == self).is_some_and(|index| met[index])
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Need::Root => "needs root",
            Need::Tun => "needs /dev/net/tun",
            Need::VlanFiltering => "the kernel has no bridge VLAN filtering",
            Need::VlanDevice => "the kernel has no 802.1Q devices",
            Need::Bond => "the kernel has no bonding",
            Need::Macvlan => "the kernel has no macvlan",
            Need::Tcx => "the kernel has no tcx",
            Need::NoTcx => "the kernel has tcx",
            Need::NftBridge => "no nft bridge family",
            Need::BrNetfilter => "br_netfilter is not there",
        })
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
            Need::Bond => can("ip link add bond9 type bond mode active-backup"),
            Need::Macvlan => can("ip link add link v0 name m0 type macvlan mode bridge"),
            Need::Tcx => tcx,
            Need::NoTcx => !tcx,
            Need::NftBridge => can("nft add table bridge probe"),
            Need::BrNetfilter => fs::exists("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or(false),
        })
        .collect())
}
