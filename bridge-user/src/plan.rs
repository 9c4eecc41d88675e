//! What the tables should hold, from what the kernel said. Pure: model, configuration and numbering in, plan out.

mod change;
mod logical;
mod numbers;
pub mod port;
mod vlans;

use std::collections::{BTreeMap, BTreeSet};

use bridge_common::{
    mac::Mac,
    maps::{FdbKey, Port, VLANS, fdb_flags},
    reason::Reason,
};

pub use self::{change::Change, logical::Parent, numbers::Numbers, vlans::VlanSet};
use crate::{
    config::{HookChoice, RunConfig},
    model::{BridgeAttrs, Bypass, FdbEntry, FdbKey as KernelKey, IfIndex, Link, Model},
};

/// Everything that follows from one state of the kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The bridges that this instance serves, by interface index.
    pub bridges: BTreeMap<IfIndex, BridgePlan>,
    /// Their ports, by interface index.
    pub ports: BTreeMap<IfIndex, PortPlan>,
    /// The devices that get programs, by interface index: ports, and what logical ports are served on.
    pub devices: BTreeMap<IfIndex, DevicePlan>,
    /// Devices below ports, whether ports are served there or not: what is known of them is kept.
    pub below: BTreeSet<IfIndex>,
}

/// A device that gets programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Its name.
    pub name: String,
    /// Which programs.
    pub hook: Hook,
}

/// A reason and the finding behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    /// The published reason.
    pub reason: Reason,
    /// What was found, in words.
    pub detail: String,
}

impl Slow {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// One bridge.
#[derive(Clone, Debug, PartialEq)]
pub struct BridgePlan {
    /// Its name.
    pub name: String,
    /// Its attributes as the kernel gave them.
    pub attrs: BridgeAttrs,
    /// Where its fids begin; `None` if there was no room.
    pub fid_base: Option<u16>,
    /// Why all of it is slow.
    pub slow: Option<Slow>,
    /// VLANs of any port, for the counters (0 on a VLAN-unaware bridge).
    pub vlans: VlanSet,
}

/// One port.
#[derive(Clone, Debug, PartialEq)]
pub struct PortPlan {
    /// Name of the device.
    pub name: String,
    /// The bridge.
    pub bridge: IfIndex,
    /// Number in the tables; `None` if there was no room.
    pub slot: Option<u16>,
    /// The device that the port is served on, if not its own.
    pub parent: Option<Parent>,
    /// What stands in the port table.
    pub entry: Port,
    /// How frames get out of here.
    pub exit: Exit,
    /// Which programs to attach.
    pub hook: Hook,
    /// Why frames from here are slow.
    pub slow: Option<Slow>,
}

impl PortPlan {
    /// The device that has the programs for this port, where `ifindex` is the port's own.
    pub fn device(&self, ifindex: IfIndex) -> IfIndex {
        self.parent.as_ref().map_or(ifindex, |parent| parent.ifindex)
    }
}

/// The way of fast frames out of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Whether XDP programs may send frames out of the port themselves.
    pub by_xdp: bool,
    /// Why frames that XDP programs forward leave as they do.
    pub why: String,
    /// What an operator could do so that XDP programs may send frames out of the port themselves, where they may not.
    pub remedy: Option<String>,
}

/// The programs that a port gets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent answers about one hook")]
pub struct Hook {
    /// The tc program.
    pub tc: bool,
    /// The XDP program in front of it.
    pub xdp: bool,
    /// The operator named the device with `--hook`.
    pub by_name: bool,
    /// The device is no hardware: XDP sees neither tags nor checksums that are in skb metadata.
    pub is_virtual: bool,
    /// Why, in words.
    pub why: String,
}

impl Hook {
    /// No program at all, as the device is gone.
    fn none() -> Self {
        Self { tc: false, xdp: false, by_name: false, is_virtual: true, why: "the device is gone".to_owned() }
    }
}

/// What attaching found out, which the plan has to respect: refused hooks by device.
pub type Refusals = BTreeMap<IfIndex, Slow>;

/// Plans the bridges named in `served` and their ports. `refused` are devices whose hook could not be attached.
pub fn plan(
    model: &Model,
    config: &RunConfig,
    served: &BTreeSet<String>,
    numbers: &mut Numbers,
    refused: &Refusals,
) -> Plan {
    let mut plan = Plan::default();
    let uppers = port::uppers(model);
    for link in model.links.values() {
        if let Some(attrs) = &link.bridge
            && served.contains(&link.name)
        {
            plan.bridges.insert(link.ifindex, bridge(model, config, numbers, link, attrs));
        }
    }
    for link in model.links.values() {
        let Some(bridge) = link.master.and_then(|master| plan.bridges.get_mut(&master)) else { continue };
        let Some(index) = link.master else { continue };
        let slot = numbers.slot(link.ifindex);
        let context = port::Context { model, config, bridge, uppers: &uppers, refusals: refused };
        let port = port::port(&context, index, link, slot);
        plan.below.extend(logical::below(model, link).map(|below| below.ifindex));
        if port.hook.tc && port.slot.is_some() {
            let name = port.parent.as_ref().map_or(&port.name, |parent| &parent.name).clone();
            plan.devices.insert(port.device(link.ifindex), DevicePlan { name, hook: port.hook.clone() });
        }
        if bridge.attrs.vlan_filtering {
            bridge.vlans = bridge.vlans.or(&vlans_of(model, link.ifindex));
        }
        plan.ports.insert(link.ifindex, port);
    }
    numbers.retain(|ifindex| plan.ports.contains_key(&ifindex), |ifindex| plan.bridges.contains_key(&ifindex));
    plan
}

fn bridge(model: &Model, config: &RunConfig, numbers: &mut Numbers, link: &Link, attrs: &BridgeAttrs) -> BridgePlan {
    let fid_base = numbers.fid_base(link.ifindex, attrs.vlan_filtering);
    let vlans = if attrs.vlan_filtering { VlanSet::EMPTY } else { VlanSet::only(0) };
    let slow = bridge_slow(model, link, attrs, fid_base).filter(|slow| !config.overrule.contains(&slow.reason));
    BridgePlan { name: link.name.clone(), attrs: attrs.clone(), fid_base, slow, vlans }
}

fn bridge_slow(model: &Model, link: &Link, attrs: &BridgeAttrs, fid_base: Option<u16>) -> Option<Slow> {
    let bypass = &model.bypass;
    if fid_base.is_none() {
        return Some(Slow::new(Reason::TableFull, "more bridges than the tables have room for"));
    }
    if attrs.mst {
        return Some(Slow::new(Reason::BridgeFeature, "mst_enabled is on"));
    }
    if attrs.fdb_local_vlan_0 {
        return Some(Slow::new(Reason::BridgeFeature, "fdb_local_vlan_0 is on"));
    }
    if attrs.unknown_options != 0 {
        let bits = attrs.unknown_options;
        return Some(Slow::new(
            Reason::BridgeFeature,
            format!("a bridge option unknown to xbr is on (bits {bits:#x})"),
        ));
    }
    if let Some(kind) = attrs.unknown_attribute {
        let detail = format!("a bridge attribute unknown to xbr is set (IFLA_BR_* number {kind})");
        return Some(Slow::new(Reason::BridgeFeature, detail));
    }
    if let Some(found) = &bypass.netfilter {
        return Some(Slow::new(Reason::Netfilter, found.clone()));
    }
    if let Some(found) = &bypass.inet_rules
        && ip_or_arp_calls(bypass, attrs)
    {
        return Some(Slow::new(Reason::Netfilter, format!("br_netfilter shows bridged frames to {found}")));
    }
    if ip_or_arp_calls(bypass, attrs) && bypass.br_netfilter_encapsulated {
        return Some(Slow::new(Reason::Netfilter, "br_netfilter looks behind VLAN tags or PPPoE headers"));
    }
    if link.promiscuity > 0 || link.promisc_flag {
        return Some(Slow::new(Reason::BridgePromisc, format!("{} is promiscuous", link.name)));
    }
    None
}

/// `br_netfilter` is on for a bridge, for any protocol.
fn ip_or_arp_calls(bypass: &Bypass, attrs: &BridgeAttrs) -> bool {
    bypass.br_netfilter.is_some_and(|(ip, ip6, arp)| {
        ip || ip6 || arp || attrs.nf_call_iptables || attrs.nf_call_ip6tables || attrs.nf_call_arptables
    })
}

/// What [`fdb_entry`] looks at: where it is the same in two plans, so are all entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footing {
    bridges: BTreeMap<IfIndex, (Option<u16>, bool)>,
    ports: BTreeMap<IfIndex, (IfIndex, Option<u16>)>,
}

impl Footing {
    /// Of this plan.
    pub fn of(plan: &Plan) -> Self {
        let bridges =
            plan.bridges.iter().map(|(index, bridge)| (*index, (bridge.fid_base, bridge.attrs.vlan_filtering)));
        let ports = plan.ports.iter().map(|(index, port)| (*index, (port.bridge, port.slot)));
        Self { bridges: bridges.collect(), ports: ports.collect() }
    }
}

/// The FDB table's entry for what the kernel said, without the generation. `None`: xbr has no use for it.
pub fn fdb_entry(plan: &Plan, key: &KernelKey, entry: &FdbEntry) -> Option<(FdbKey, u16, u16)> {
    let bridge = plan.bridges.get(&key.bridge)?;
    let base = bridge.fid_base?;
    // Entries of the other filtering mode stay in the kernel's table, unused.
    let fid = match (bridge.attrs.vlan_filtering, key.vlan) {
        (true, 1..VLANS) => base + key.vlan,
        (false, 0) => base,
        _ => return None,
    };
    let mut flags = 0;
    let mut slot = 0;
    if entry.local {
        flags |= fdb_flags::LOCAL;
    } else {
        let port = plan.ports.get(&entry.port).filter(|port| port.bridge == key.bridge)?;
        slot = port.slot?;
    }
    if entry.locked || entry.offloaded || entry.unknown {
        flags |= fdb_flags::OPAQUE;
    }
    if entry.sticky {
        flags |= fdb_flags::STICKY;
    }
    // An entry that is watched does not age either, but the bridge has to hear from its host all the same.
    if (entry.is_static || entry.extern_learn) && !entry.watched {
        flags |= fdb_flags::STATIC;
    }
    Some((FdbKey::new(fid, Mac::new(key.mac)), slot, flags))
}

/// The device that a VLAN device has below it in this namespace.
pub fn below<'a>(model: &'a Model, link: &Link) -> Option<&'a Link> {
    logical::below(model, link)
}

/// The VLANs of a port of a VLAN-aware bridge.
fn vlans_of(model: &Model, port: IfIndex) -> VlanSet {
    model.vlans.get(&port).map_or(VlanSet::EMPTY, |ranges| VlanSet::of(ranges))
}

/// The hook that the operator chose for the device `name`.
fn hook_choice(config: &RunConfig, name: &str) -> HookChoice {
    config.hooks.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
