//! One port: its entry in the port table, its hook, and why it is slow if it is.

use std::collections::BTreeMap;

use bridge_common::{
    mac::Mac,
    maps::{Port, port_flags, set_bits},
    reason::Reason,
};

use super::{
    BridgePlan, Exit, Hook, Parent, PortPlan, Refusals, Slow, hook_choice,
    logical::{self, Question},
};
use crate::{
    config::{HookChoice, RunConfig},
    model::{BridgeAttrs, IfIndex, Link, Model, PortAttrs},
};

/// `BR_STATE_FORWARDING`.
const FORWARDING: u8 = 3;
/// `BR_KERNEL_STP`.
const KERNEL_STP: u32 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const XDP_NDO_XMIT: u64 = 4;
/// Root qdiscs that the kernel sets up by itself and that limit nothing: an XDP redirect may go around them.
const PLAIN_QDISCS: [&str; 5] = ["noqueue", "mq", "pfifo_fast", "fq_codel", "fq"];
/// A source's entry gets a frame of its own every ageing time divided by this: the entry of a host that falls silent
/// goes that fraction early at most.
const REFRESHES_PER_AGEING: u64 = 32;

/// What a port's plan depends on besides the port.
pub(super) struct Context<'a> {
    pub(super) model: &'a Model,
    pub(super) config: &'a RunConfig,
    pub(super) bridge: &'a BridgePlan,
    /// [`uppers`].
    pub(super) uppers: &'a BTreeMap<IfIndex, &'a str>,
    pub(super) refusals: &'a Refusals,
}

pub(super) fn port(context: &Context<'_>, bridge: IfIndex, link: &Link, slot: Option<u16>) -> PortPlan {
    let attrs = link.port.clone().unwrap_or_default();
    let Context { model, config, bridge: plan, refusals, .. } = context;
    let question = Question { model, config, bridge: &plan.attrs, refusals };
    let (parent, own) = match logical::parent(&question, link, &attrs) {
        Some(Ok(parent)) => (Some(parent), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let mut hook = hook(context, link, parent.as_ref());
    if let Some(why) = own.filter(|_| hook.tc) {
        hook.why = format!("{}; {why}", hook.why);
    }
    let place = Place { parent, hook };
    let why = why_slow(context, link, &attrs, &place, slot);
    let (entry, exit) = entry(context, link, &attrs, &place, why.as_ref());
    PortPlan { name: link.name.clone(), bridge, slot, parent: place.parent, entry, exit, hook: place.hook, slow: why }
}

/// Where a port is served, and how.
struct Place {
    parent: Option<Parent>,
    hook: Hook,
}

fn hook(context: &Context<'_>, link: &Link, parent: Option<&Parent>) -> Hook {
    let Context { model, config, .. } = context;
    let is_virtual = !link.physical;
    let name = &link.name;
    // Frames of a VLAN device come in at the device below it as well.
    let below = logical::below(model, link);
    let named = config.ports.contains(name) || below.is_some_and(|below| config.ports.contains(&below.name));
    let (tc, xdp, by_name, why) = match hook_choice(config, name) {
        HookChoice::Off => (false, false, true, "turned off by --hook".to_owned()),
        _ if !config.ports.is_empty() && !named => {
            (false, false, false, "not among the ports named by --port".to_owned())
        }
        _ if parent.is_some() => {
            return below.map_or_else(Hook::none, |below| logical::hook(model, config, below));
        }
        HookChoice::Tc => (true, false, true, "chosen by --hook".to_owned()),
        HookChoice::Xdp => (true, true, true, "chosen by --hook".to_owned()),
        HookChoice::Auto if is_virtual => {
            let kind = link.kind.as_deref().unwrap_or("device");
            (true, false, false, format!("a {kind}: tc keeps super-frames, checksums and tags whole"))
        }
        HookChoice::Auto => (true, true, false, "a physical NIC: XDP first, tc for the rest".to_owned()),
    };
    if config.shadow.is_some() && xdp {
        return Hook { tc, xdp: false, by_name, is_virtual, why: format!("{why}; shadow mode: tc alone") };
    }
    Hook { tc, xdp, by_name, is_virtual, why }
}

/// Why frames that come in here are slow; the first finding in the order of what an operator would look at first.
fn why_slow(context: &Context<'_>, link: &Link, attrs: &PortAttrs, place: &Place, slot: Option<u16>) -> Option<Slow> {
    let Context { model, config, bridge, uppers, refusals } = context;
    let hook = &place.hook;
    let bypass = &model.bypass;
    let ifindex = link.ifindex;
    let policy = |reason: Reason, detail: Option<String>| {
        detail.filter(|_| !config.overrule.contains(&reason)).map(|detail| Slow::new(reason, detail))
    };
    if !hook.tc {
        let reason = if hook.by_name { Reason::TurnedOff } else { Reason::NotSelected };
        return Some(Slow::new(reason, hook.why.clone()));
    }
    if slot.is_none() {
        return Some(Slow::new(Reason::TableFull, "more ports than the tables have room for"));
    }
    if let Some(slow) = &bridge.slow {
        return Some(slow.clone());
    }
    // A device below that is refused is no parent.
    if let Some(slow) = refusals.get(&ifindex).filter(|_| place.parent.is_none()) {
        return Some(slow.clone());
    }
    if let Some(detail) = feature(link, attrs) {
        return Some(Slow::new(Reason::PortFeature, detail));
    }
    policy(Reason::ForeignXdp, foreign_xdp(link))
        .or_else(|| policy(Reason::TcFilter, bypass.ingress_filters.get(&ifindex).cloned()))
        .or_else(|| {
            let upper = uppers.get(&ifindex);
            upper.map(|name| Slow::new(Reason::VlanUpper, format!("{name} sits on the port")))
        })
        .or_else(|| {
            let device = place.parent.as_ref().map_or(ifindex, |parent| parent.ifindex);
            let stripped = hook.xdp && bypass.rx_vlan_offload.get(&device) == Some(&true);
            stripped.then(|| Slow::new(Reason::RxVlanOffload, "rx-vlan-offload is on and XDP would not see the tags"))
        })
        .or_else(|| not_forwarding(link, attrs).map(|detail| Slow::new(Reason::PortState, detail)))
}

fn feature(link: &Link, attrs: &PortAttrs) -> Option<String> {
    if link.port.is_none() {
        return Some("the kernel told no bridge port attributes".to_owned());
    }
    // Frames have tunnel metadata only where they come from a tunnel (br_handle_ingress_vlan_tunnel), and a VLAN that is
    // mapped to one is no member below; for everything else the option does nothing.
    if attrs.vlan_tunnel && !(link.physical || matches!(link.kind.as_deref(), Some("veth" | "tun"))) {
        return Some("vlan_tunnel is on".to_owned());
    }
    if attrs.unknown {
        return Some("a port option unknown to xbr is set".to_owned());
    }
    if link.switchdev {
        return Some("a switchdev port: its hardware forwards".to_owned());
    }
    None
}

/// `link.xdp` holds what is not ours (the caller has taken our own programs out).
fn foreign_xdp(link: &Link) -> Option<String> {
    link.xdp.first().map(|id| format!("XDP program {id} is attached"))
}

/// The first device on each other that takes frames out of its way to a bridge.
pub(super) fn uppers(model: &Model) -> BTreeMap<IfIndex, &str> {
    let mut uppers: BTreeMap<_, _> =
        model.bypass.uppers_elsewhere.iter().map(|(lower, upper)| (*lower, upper.as_str())).collect();
    for link in model.links.values() {
        if let Some(lower) = link.lower.filter(|_| !link.lower_elsewhere)
            && matches!(link.kind.as_deref(), Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap"))
        {
            uppers.entry(lower).or_insert(link.name.as_str());
        }
    }
    uppers
}

fn not_forwarding(link: &Link, attrs: &PortAttrs) -> Option<String> {
    if !link.up {
        return Some("the device is down".to_owned());
    }
    if !link.carrier {
        return Some("the device has no carrier".to_owned());
    }
    match attrs.state {
        Some(FORWARDING) => None,
        state => Some(format!("the port is {}", state_name(state))),
    }
}

/// The name of a bridge port state, as `bridge link` shows it.
pub fn state_name(state: Option<u8>) -> &'static str {
    match state {
        Some(0) => "disabled",
        Some(1) => "listening",
        Some(2) => "learning",
        Some(FORWARDING) => "forwarding",
        Some(4) => "blocking",
        _ => "unknown",
    }
}

fn entry(context: &Context<'_>, link: &Link, attrs: &PortAttrs, place: &Place, slow: Option<&Slow>) -> (Port, Exit) {
    let Context { model, config, bridge, .. } = context;
    // What frames leave by: the parent with the tag in front, or the port's own device, which pushes it itself.
    let by_parent = place.parent.as_ref().filter(|parent| parent.leaves);
    let egress_link = by_parent.and_then(|parent| model.links.get(&parent.ifindex)).unwrap_or(link);
    let mut entry = Port {
        ifindex: egress_link.ifindex,
        outer: by_parent.map_or(0, |parent| Port::pack_outer(parent.tag.tpid(), parent.tag.vid())),
        max_len: link.mtu.saturating_add(18),
        fid_base: bridge.fid_base.unwrap_or_default(),
        tpid: bridge.attrs.vlan_protocol,
        refresh_interval: refresh_interval(&bridge.attrs),
        ..Port::EMPTY
    };
    let mut flag = |bit: u32, on: bool| {
        if on {
            entry.flags |= bit;
        }
    };
    let alive = bridge.fid_base.is_some() && bridge.slow.is_none();
    let egress = alive
        && hook_choice(config, &link.name) != HookChoice::Off
        && feature(link, attrs).is_none()
        // br_forward turns to the backup port at the moment that the carrier is gone; netlink says so up to a second later.
        && attrs.backup_port.is_none()
        && not_forwarding(link, attrs).is_none();
    let missed = [link, egress_link].iter().find_map(|link| model.bypass.egress_missed.get(&link.ifindex));
    let missed = missed.filter(|_| !config.overrule.contains(&Reason::EgressPolicy));
    let (ip, ip6, _) = model.bypass.br_netfilter.unwrap_or_default();
    let there = model.bypass.br_netfilter.is_some();
    flag(port_flags::INGRESS, alive && slow.is_none());
    flag(port_flags::EGRESS, egress && missed.is_none());
    let mut exit = exit(model, egress_link);
    if let Some(missed) = missed {
        exit = Exit { by_xdp: false, why: format!("frames would not meet {missed}"), remedy: None };
    }
    flag(port_flags::EGRESS_XDP, egress && exit.by_xdp);
    let far_end = far_end(model, link).filter(|_| config.redirect_peer && by_parent.is_none());
    flag(port_flags::EGRESS_PEER, egress && missed.is_none() && far_end.is_some());
    flag(port_flags::EGRESS_POLICY, egress && missed.is_some());
    flag(port_flags::CHECK_IPV4, there && (ip || bridge.attrs.nf_call_iptables));
    flag(port_flags::CHECK_IPV6, there && (ip6 || bridge.attrs.nf_call_ip6tables));
    flag(port_flags::VLAN_AWARE, bridge.attrs.vlan_filtering);
    flag(port_flags::LEARNING, attrs.learning && bridge.attrs.ageing_time != 0);
    flag(port_flags::LOCKED, attrs.locked);
    flag(port_flags::ISOLATED, attrs.isolated);
    flag(port_flags::VIRTUAL_XDP, place.hook.is_virtual);
    entry.far_end = far_end.map_or(0, Mac::value);
    entry.slow_reason = slow.map_or(Reason::UnknownPort, |slow| slow.reason) as u32;
    if bridge.attrs.vlan_filtering {
        for range in model.vlans.get(&link.ifindex).into_iter().flatten() {
            if range.pvid {
                entry.pvid = range.first;
            }
            let last = range.last.min(4094);
            // A VLAN that is mapped to a tunnel, or that does not forward, is the bridge's business.
            set_bits(&mut entry.member, range.first, last, range.state == Some(FORWARDING) && !range.tunnel);
            set_bits(&mut entry.untagged, range.first, last, range.untagged);
        }
    }
    (entry, exit)
}

/// How frames that XDP programs forward leave by the device: sent by the program, where the driver takes them and nothing that
/// somebody set up on its egress would be passed over; by tc otherwise.
fn exit(model: &Model, link: &Link) -> Exit {
    let name = &link.name;
    let by_tc = |why: String, remedy: String| Exit { by_xdp: false, why, remedy: Some(remedy) };
    let kind = link.kind.as_deref();
    let takes = match model.bypass.xdp_features.get(&link.ifindex) {
        Some(features) if features & XDP_NDO_XMIT != 0 => true,
        Some(_) => false,
        // Before 6.3 the kernel does not say. A tap takes them whatever it is connected to (tun_xdp_xmit); others depend on
        // what is not to be seen from here.
        None if kind == Some("tun") => true,
        None => {
            let why = "the kernel does not say whether it takes frames from XDP".to_owned();
            return by_tc(why, "Linux 6.3 or later".to_owned());
        }
    };
    if !takes && kind == Some("veth") {
        let why = "a veth takes frames from XDP while its far end has GRO or an XDP program".to_owned();
        return by_tc(why, "`ethtool -K DEVICE gro on` at the far end".to_owned());
    }
    if !takes {
        return by_tc("its driver takes no frames from XDP".to_owned(), "another driver or device".to_owned());
    }
    if !PLAIN_QDISCS.contains(&link.qdisc.as_str()) {
        let why = format!("qdisc {} would be passed over", link.qdisc);
        return by_tc(why, format!("`tc qdisc del dev {name} root`, if nothing needs it"));
    }
    if let Some(filters) = model.bypass.egress_filters.get(&link.ifindex) {
        let why = format!("{filters} would be passed over");
        return by_tc(why, "their removal, if nothing needs them".to_owned());
    }
    Exit { by_xdp: true, why: "its driver takes frames from XDP".to_owned(), remedy: None }
}

/// The address of the far end of a pair, if frames to it may be handed to it directly (`bpf_redirect_peer`): it is in another
/// namespace, no XDP program there and no NAPI (which merges segments) would be passed by, and neither would a qdisc, a filter
/// or a listener on this end. What is passed by in any case is the queue between the two ends (`enqueue_to_backlog`), in which
/// frames that the bridge has sent may still be: they are overtaken, so that this has to be asked for.
fn far_end(model: &Model, link: &Link) -> Option<Mac> {
    let bypass = &model.bypass;
    let far = bypass.far_ends.get(&link.ifindex).filter(|far| !far.has_xdp)?;
    // Before 6.3 the kernel does not say whether the far end has NAPI.
    let has_napi = bypass.xdp_features.get(&link.ifindex).is_none_or(|features| features & XDP_NDO_XMIT != 0);
    // The bridge asked for promiscuous mode once; who else did wants to see what leaves here.
    let is_heard = link.promiscuity > 1;
    let passes_by = has_napi
        || is_heard
        || !PLAIN_QDISCS.contains(&link.qdisc.as_str())
        || bypass.egress_filters.contains_key(&link.ifindex);
    (link.kind.as_deref() == Some("veth") && link.lower_elsewhere && !passes_by).then(|| Mac::new(far.mac))
}

/// Nanoseconds; 0 where entries do not age. A topology change (`hold_time`) is not announced, so that the kernel's STP
/// may age entries by the forward delay at any time.
fn refresh_interval(attrs: &BridgeAttrs) -> u64 {
    let early = attrs.topology_change || attrs.stp_state == KERNEL_STP;
    let early = early && attrs.forward_delay != 0;
    let ageing = if early { attrs.ageing_time.min(attrs.forward_delay) } else { attrs.ageing_time };
    u64::from(ageing) * 10_000_000 / REFRESHES_PER_AGEING
}
