//! Base chains and flowtables of nftables, by `NFT_MSG_GETCHAIN` and its siblings over nfnetlink.
//!
//! Rules are not dumped: a base chain's use count is its number of rules (`nf_tables_newrule` adds one for each; the jumps
//! that count as well cannot lead to a base chain), so that a large ruleset costs no more than its chains.

use std::{collections::BTreeSet, io};

use super::nl::{Attributes, Netlink, malformed, text};

/// `NFNL_SUBSYS_NFTABLES` in the upper byte of a message type.
const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM;
const NFT_MSG_GETTABLE: u16 = SUBSYSTEM | 1;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM | 3;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_NEWFLOWTABLE: u16 = SUBSYSTEM | 0x16;
const NFT_MSG_GETFLOWTABLE: u16 = SUBSYSTEM | 0x17;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
const NFTA_DEVICE_NAME: u16 = 1;
const NFTA_DEVICE_PREFIX: u16 = 2;

const NFTA_FLOWTABLE_TABLE: u16 = 1;
const NFTA_FLOWTABLE_NAME: u16 = 2;
const NFTA_FLOWTABLE_HOOK: u16 = 3;
const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;

/// `struct nfgenmsg` in bytes.
pub(super) const NFGENMSG: usize = 4;

/// `NF_ACCEPT`.
const NF_ACCEPT: u32 = 1;

/// Protocol families of netfilter (`NFPROTO_*`).
pub(super) mod family {
    pub(in super::super) const INET: u8 = 1;
    pub(in super::super) const IPV4: u8 = 2;
    pub(in super::super) const ARP: u8 = 3;
    pub(in super::super) const NETDEV: u8 = 5;
    pub(in super::super) const BRIDGE: u8 = 7;
    pub(in super::super) const IPV6: u8 = 10;
}

/// Hook numbers. Those of the bridge family (`NF_BR_*`) and of the IP families (`NF_INET_*`) agree.
pub(super) mod hook {
    pub(in super::super) const PRE_ROUTING: u32 = 0;
    pub(in super::super) const FORWARD: u32 = 2;
    pub(in super::super) const POST_ROUTING: u32 = 4;
    /// `NF_INET_INGRESS`, of the family inet only.
    pub(in super::super) const INET_INGRESS: u32 = 5;
    /// `NF_ARP_FORWARD`.
    pub(in super::super) const ARP_FORWARD: u32 = 2;
    /// `NF_NETDEV_INGRESS`.
    pub(in super::super) const NETDEV_INGRESS: u32 = 0;

    /// The hooks that a frame passes from one port to another (`br_handle_frame`, `__br_forward`, `br_forward_finish`).
    /// The input and output hooks of a bridge only see frames to and from the host itself.
    pub(in super::super) const FORWARDED: [u32; 3] = [PRE_ROUTING, FORWARD, POST_ROUTING];
}

/// Where a hook on a device sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Before the bridge receives.
    Ingress,
    /// After the bridge has sent.
    Egress,
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    family: u8,
    table: String,
    name: String,
    hook: u32,
    /// Devices of a netdev or inet ingress chain.
    devices: Vec<Device>,
    /// `None`: the kernel did not say.
    policy: Option<u32>,
    /// Number of rules. `None`: the kernel did not say.
    rules: Option<u32>,
}

/// A device name, or the beginning of one, in a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Device {
    Name(String),
    Prefix(String),
}

impl Device {
    fn decode(kind: u16, value: &[u8]) -> Option<Self> {
        match kind {
            // Where a kernel has wildcards but not yet the second attribute, it sends them without a terminator.
            NFTA_DEVICE_NAME if value.last() == Some(&0) => Some(Self::Name(text(value))),
            NFTA_DEVICE_NAME | NFTA_DEVICE_PREFIX => Some(Self::Prefix(text(value))),
            _ => None,
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

/// A flowtable: it takes routed flows out of the receive path of its devices, before a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flowtable {
    family: u8,
    table: String,
    name: String,
    devices: Vec<Device>,
}

/// What nftables holds that can concern a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// Base chains with rules or with a policy other than accept.
    chains: Vec<Chain>,
    flowtables: Vec<Flowtable>,
}

impl Ruleset {
    /// Dumps tables, chains and flowtables. The kernel answers a dump of a family that it lacks with nothing.
    pub(super) fn read(netlink: &mut Netlink) -> io::Result<Self> {
        let dormant: BTreeSet<_> =
            netlink.dump(NFT_MSG_GETTABLE, &[0; NFGENMSG], decode_dormant_table)?.into_iter().collect();
        let chains = netlink.dump(NFT_MSG_GETCHAIN, &[0; NFGENMSG], Chain::decode)?;
        let flowtables = netlink.dump(NFT_MSG_GETFLOWTABLE, &[0; NFGENMSG], Flowtable::decode)?;
        Ok(Self::new(&dormant, chains, flowtables))
    }

    /// Leaves out what does nothing. The hooks of a dormant table (family and name) are not registered.
    pub(super) fn new(
        dormant: &BTreeSet<(u8, String)>,
        mut chains: Vec<Chain>,
        mut flowtables: Vec<Flowtable>,
    ) -> Self {
        chains.retain(|chain| chain.is_policy() && !dormant.contains(&(chain.family, chain.table.clone())));
        flowtables.retain(|flowtable| !dormant.contains(&(flowtable.family, flowtable.table.clone())));
        Self { chains, flowtables }
    }

    /// Chains of the bridge family that see forwarded frames.
    pub(super) fn bridge(&self) -> impl Iterator<Item = String> {
        self.chains
            .iter()
            .filter(|chain| chain.family == family::BRIDGE && hook::FORWARDED.contains(&chain.hook))
            .map(Chain::describe)
    }

    /// Chains of other families that `br_netfilter` shows forwarded frames to: `br_nf_pre_routing`, `br_nf_forward_ip` and
    /// `br_nf_post_routing` run the IP hooks; `br_nf_forward_arp` runs `NF_ARP_FORWARD`.
    pub(super) fn inet(&self) -> impl Iterator<Item = String> {
        self.chains
            .iter()
            .filter(|chain| match chain.family {
                family::INET | family::IPV4 | family::IPV6 => hook::FORWARDED.contains(&chain.hook),
                family::ARP => chain.hook == hook::ARP_FORWARD,
                _ => false,
            })
            .map(Chain::describe)
    }

    /// Chains and flowtables on a device.
    pub(super) fn on_device(&self, device: &str, side: Side) -> impl Iterator<Item = String> {
        let chains = self.chains.iter().filter(move |chain| {
            chain.side() == Some(side) && chain.devices.iter().any(|pattern| pattern.matches(device))
        });
        // A flow that it knows leaves the receive path whatever the destination address (nf_flow_offload_inet_hook).
        let flowtables = self.flowtables.iter().filter(move |flowtable| {
            side == Side::Ingress && flowtable.devices.iter().any(|pattern| pattern.matches(device))
        });
        chains.map(Chain::describe).chain(flowtables.map(Flowtable::describe))
    }
}

impl Chain {
    /// Decodes `nf_tables_fill_chain_info`. `None` for a chain that is not a base chain.
    pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Self>> {
        let attributes = Attributes::after(NFGENMSG, payload)?;
        if kind != NFT_MSG_NEWCHAIN || attributes.get(NFTA_CHAIN_HOOK).is_none() {
            return Ok(None);
        }
        let place = attributes.nest(NFTA_CHAIN_HOOK)?;
        let mut devices: Vec<_> =
            place.nest(NFTA_HOOK_DEVS)?.iter().filter_map(|(kind, value)| Device::decode(kind, value)).collect();
        if devices.is_empty() {
            devices.extend(place.text(NFTA_HOOK_DEV).map(Device::Name));
        }
        Ok(Some(Self {
            family: payload[0],
            table: attributes.text(NFTA_CHAIN_TABLE).unwrap_or_default(),
            name: attributes.text(NFTA_CHAIN_NAME).unwrap_or_default(),
            hook: place.be32(NFTA_HOOK_HOOKNUM).ok_or_else(|| malformed("a base chain without a hook number"))?,
            devices,
            policy: attributes.be32(NFTA_CHAIN_POLICY),
            rules: attributes.be32(NFTA_CHAIN_USE),
        }))
    }

    /// The chain can do something to a frame.
    fn is_policy(&self) -> bool {
        self.rules != Some(0) || self.policy != Some(NF_ACCEPT)
    }

    fn side(&self) -> Option<Side> {
        match (self.family, self.hook) {
            (family::INET, hook::INET_INGRESS) | (family::NETDEV, hook::NETDEV_INGRESS) => Some(Side::Ingress),
            (family::NETDEV, _) => Some(Side::Egress),
            _ => None,
        }
    }

    fn hook_name(&self) -> &'static str {
        match (self.side(), self.family, self.hook) {
            (Some(Side::Ingress), ..) => "ingress",
            (Some(Side::Egress), ..) => "egress",
            (None, family::ARP, 0) => "input",
            (None, family::ARP, 1) => "output",
            (None, _, hook::PRE_ROUTING) => "prerouting",
            (None, _, 1) => "input",
            (None, _, hook::FORWARD) => "forward",
            (None, _, 3) => "output",
            (None, _, hook::POST_ROUTING) => "postrouting",
            (None, ..) => "unknown",
        }
    }

    fn describe(&self) -> String {
        let Self { family, table, name, .. } = self;
        let policy = if self.policy == Some(NF_ACCEPT) { "" } else { ", policy drop" };
        format!("nft table {} {table}, chain {name} (hook {}{policy})", family_name(*family), self.hook_name())
    }
}

impl Flowtable {
    /// Decodes `nf_tables_fill_flowtable_info`.
    pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Self>> {
        let attributes = Attributes::after(NFGENMSG, payload)?;
        if kind != NFT_MSG_NEWFLOWTABLE {
            return Ok(None);
        }
        let devices = attributes.nest(NFTA_FLOWTABLE_HOOK)?.nest(NFTA_FLOWTABLE_HOOK_DEVS)?;
        Ok(Some(Self {
            family: payload[0],
            table: attributes.text(NFTA_FLOWTABLE_TABLE).unwrap_or_default(),
            name: attributes.text(NFTA_FLOWTABLE_NAME).unwrap_or_default(),
            devices: devices.iter().filter_map(|(kind, value)| Device::decode(kind, value)).collect(),
        }))
    }

    fn describe(&self) -> String {
        format!("nft table {} {}, flowtable {}", family_name(self.family), self.table, self.name)
    }
}

/// The family and name of a table whose chains are not registered.
pub(super) fn decode_dormant_table((kind, payload): (u16, &[u8])) -> io::Result<Option<(u8, String)>> {
    let attributes = Attributes::after(NFGENMSG, payload)?;
    let dormant = attributes.be32(NFTA_TABLE_FLAGS).is_some_and(|flags| flags & NFT_TABLE_F_DORMANT != 0);
    Ok((kind == NFT_MSG_NEWTABLE && dormant)
        .then(|| (payload[0], attributes.text(NFTA_TABLE_NAME).unwrap_or_default())))
}

/// The name of a family as `nft` prints it.
fn family_name(number: u8) -> &'static str {
    match number {
        family::INET => "inet",
        family::IPV4 => "ip",
        family::ARP => "arp",
        family::NETDEV => "netdev",
        family::BRIDGE => "bridge",
        family::IPV6 => "ip6",
        _ => "unknown",
    }
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
