//! Logical ports: VLAN devices that are bridge ports and whose frames are taken on the device below them.
//!
//! `vlan_do_receive` finds the VLAN device by device, protocol and VLAN id of the outer tag, before any `rx_handler` of
//! the device below is called (`__netif_receive_skb_core`), and `vlan_dev_hard_start_xmit` does nothing but push its tag
//! where header reordering is on and no egress map is set. So the program on the device below can do both. Where one of
//! these is not certain, the port is served on the VLAN device itself, as any other port is.

use bridge_common::{frame::Tag, maps::Port, reason::Reason};

use super::{Hook, Refusals, hook_choice};
use crate::{
    config::{HookChoice, RunConfig},
    model::{BridgeAttrs, IfIndex, Link, Model, PortAttrs},
};

/// The device that a logical port is served on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its interface index.
    pub ifindex: IfIndex,
    /// Its name.
    pub name: String,
    /// The tag that the port's frames have there, without priority.
    pub tag: Tag,
    /// Frames leave by it as well; otherwise by the VLAN device, since something of its own is to see them there.
    pub leaves: bool,
}

/// Kinds of devices whose way from the driver to `vlan_do_receive` is known, besides hardware.
const KINDS: [&str; 4] = ["veth", "tun", "bond", "team"];

/// What the answer depends on.
pub(super) struct Question<'a> {
    pub(super) model: &'a Model,
    pub(super) config: &'a RunConfig,
    pub(super) bridge: &'a BridgeAttrs,
    pub(super) refusals: &'a Refusals,
}

/// The device that a VLAN device has below it in this namespace.
pub(super) fn below<'a>(model: &'a Model, link: &Link) -> Option<&'a Link> {
    link.vlan?;
    link.lower.filter(|_| !link.lower_elsewhere).and_then(|lower| model.links.get(&lower))
}

/// Where the port `link` is served, if it is a VLAN device: on the device below, or on itself for the reason given. `None`:
/// it is no VLAN device.
pub(super) fn parent(question: &Question<'_>, link: &Link, attrs: &PortAttrs) -> Option<Result<Parent, String>> {
    let (vid, tpid) = link.vlan?;
    let Some(below) = below(question.model, link) else {
        return Some(Err("the device below is in another network namespace".to_owned()));
    };
    Some(match obstacle(question, link, attrs, below) {
        Some(why) => Err(format!("not served on {}: {why}", below.name)),
        None => Ok(Parent {
            ifindex: below.ifindex,
            name: below.name.clone(),
            tag: Tag::new(tpid, vid),
            leaves: leaves_by_parent(question.model, link),
        }),
    })
}

fn obstacle(question: &Question<'_>, link: &Link, attrs: &PortAttrs, below: &Link) -> Option<String> {
    let Question { model, config, bridge, refusals } = question;
    let (vid, tpid) = link.vlan?;
    let bypass = &model.bypass;
    let name = &below.name;
    let overruled = |reason: Reason| config.overrule.contains(&reason);
    if config.shadow.is_some() {
        return Some("shadow mode compares what comes and goes at the port itself".to_owned());
    }
    if hook_choice(config, &link.name) == HookChoice::Tc {
        return Some("tc on the VLAN device is chosen by --hook".to_owned());
    }
    if hook_choice(config, name) == HookChoice::Off {
        return Some(format!("{name} is turned off by --hook"));
    }
    if Port::pack_outer(tpid, vid) == 0 {
        return Some(format!("VLAN id {vid} of protocol {tpid:#x} has a meaning of its own"));
    }
    let kind = below.kind.as_deref();
    if below.master.is_some() || !kind.map_or(below.physical, |kind| KINDS.contains(&kind)) {
        return Some(match (below.master, kind) {
            (Some(_), _) => format!("{name} is a port of another device"),
            (None, kind) => format!("{name} is a {}", kind.unwrap_or("device of unknown kind")),
        });
    }
    let hardware_switch = |other: &&Link| other.lower == Some(below.ifindex) && other.kind.as_deref() == Some("dsa");
    if let Some(user) = model.links.values().find(hardware_switch) {
        return Some(format!("{name} carries the switch port {}", user.name));
    }
    if !below.up || !below.carrier {
        return Some(format!("{name} is down or has no carrier"));
    }
    if !link.vlan_attrs.reorder_hdr {
        return Some("reorder_hdr is off".to_owned());
    }
    if link.vlan_attrs.ingress_map || link.vlan_attrs.egress_map {
        return Some("a map of priorities is set (ingress-qos-map, egress-qos-map)".to_owned());
    }
    // A device that is deleted and made again for another bridge has the same key in the table until netlink is read. Its
    // FDB entries die with the port, so where the source is looked up, no frame can follow the old table.
    if !(attrs.locked || attrs.learning && bridge.ageing_time != 0) {
        return Some("the port does not learn".to_owned());
    }
    if let Some(id) = below.xdp.first().filter(|_| !overruled(Reason::ForeignXdp)) {
        return Some(format!("XDP program {id} is attached to it"));
    }
    if let Some(found) = bypass.ingress_filters.get(&below.ifindex).filter(|_| !overruled(Reason::TcFilter)) {
        return Some(format!("it has a {found}"));
    }
    refusals.get(&below.ifindex).map(|slow| slow.detail.clone())
}

/// Nothing on the VLAN device's own egress would be passed over.
fn leaves_by_parent(model: &Model, link: &Link) -> bool {
    link.qdisc == "noqueue" && !model.bypass.egress_filters.contains_key(&link.ifindex)
}

/// The hook of a device that logical ports are served on: the same for all of them.
pub(super) fn hook(model: &Model, config: &RunConfig, below: &Link) -> Hook {
    let is_virtual = !below.physical;
    let by_port = || {
        let xdp = |other: &&Link| {
            other.vlan.is_some()
                && other.lower == Some(below.ifindex)
                && !other.lower_elsewhere
                && hook_choice(config, &other.name) == HookChoice::Xdp
        };
        model.links.values().find(xdp)
    };
    let name = &below.name;
    let (xdp, by_name, why) = match hook_choice(config, name) {
        HookChoice::Tc | HookChoice::Off => (false, true, format!("served on {name}: tc chosen by --hook {name}")),
        HookChoice::Xdp => (true, true, format!("served on {name}: XDP chosen by --hook {name}")),
        HookChoice::Auto => match by_port() {
            Some(port) => (true, true, format!("served on {name}: XDP chosen by --hook {}", port.name)),
            None if is_virtual => {
                let kind = below.kind.as_deref().unwrap_or("device");
                (false, false, format!("served on {name}, a {kind}: tc keeps super-frames, checksums and tags whole"))
            }
            None => (true, false, format!("served on {name}, a physical NIC: XDP first, tc for the rest")),
        },
    };
    Hook { tc: true, xdp, by_name, is_virtual, why }
}
