//! One look at everything, for `xbr status` and `xbr top`.

use std::collections::BTreeMap;

use bridge_common::maps::{MAX_PORTS, MAX_VLAN_CELLS, port_flags};
use log::warn;

use super::world::{World, full_table, now};
use crate::{
    datapath::counters::{self, Served},
    model::{IfIndex, Link},
    plan::{BridgePlan, PortPlan, Slow, port::state_name},
    status::{BridgeStatus, Count, PortShadow, PortStatus, Snapshot, TableFill, VERSION, VlanStatus},
};

/// How often the counters are read again because frames moved from the flow cache to the counters meanwhile. With very
/// many flows they always do; then some frames are shown twice until the next look.
const ATTEMPTS: usize = 4;

pub(super) fn snapshot(world: &World, links: &BTreeMap<IfIndex, Link>) -> Snapshot {
    let mut attempt = 1;
    loop {
        let served = Served::read(&world.tables);
        let snapshot = snapshot_with(world, links, &served);
        if attempt == ATTEMPTS || served.stands(&world.tables) {
            return snapshot;
        }
        attempt += 1;
    }
}

fn snapshot_with(world: &World, links: &BTreeMap<IfIndex, Link>, served: &Served) -> Snapshot {
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut bridges: Vec<BridgeStatus> = world
        .plan
        .bridges
        .iter()
        .map(|(ifindex, bridge)| bridge_status(world, links, served, *ifindex, bridge))
        .collect();
    for name in &world.config.bridges {
        if !bridges.iter().any(|bridge| bridge.ifname == *name) {
            bridges.push(BridgeStatus { ifname: name.clone(), ..BridgeStatus::default() });
        }
    }
    bridges.sort_by(|a, b| a.ifname.cmp(&b.ifname));
    let shadow = world.shadow.as_ref().map(|shadow| shadow.status(world.in_step, would_forward(&bridges)));
    Snapshot {
        version: VERSION,
        daemon: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: world.started.elapsed().as_secs_f64(),
        at_nanoseconds: now(),
        kernel: kernel.unwrap_or_default(),
        active: world.in_step && shadow.is_none(),
        shadow,
        resyncs: world.resyncs.clone(),
        tables: tables(world),
        bridges,
        gone: world.gone.clone(),
        warnings: warnings(world),
    }
}

fn would_forward(bridges: &[BridgeStatus]) -> Count {
    let mut total = PortShadow::default();
    bridges
        .iter()
        .flat_map(|bridge| &bridge.ports)
        .filter_map(|port| port.shadow.as_ref())
        .for_each(|port| total.add(port));
    total.would_forward
}

fn tables(world: &World) -> Vec<TableFill> {
    let fill = |name: &str, used: u64, capacity: u32, refused: u64| TableFill {
        name: name.to_owned(),
        used,
        capacity: u64::from(capacity),
        refused,
    };
    let (entries, refused) = world.sync.fdb.fill();
    let without_slot = world.plan.ports.values().filter(|port| port.slot.is_none()).count() as u64;
    vec![
        fill("fdb", entries, world.config.fdb_size, refused),
        fill("ports", world.numbers.used_slots() as u64, MAX_PORTS - 1, without_slot),
        fill("vlans", world.sync.vlan_cells_used() as u64, MAX_VLAN_CELLS - 1, 0),
    ]
}

fn warnings(world: &World) -> Vec<String> {
    let mut warnings = Vec::new();
    let (_, refused) = world.sync.fdb.fill();
    if refused > 0 {
        warnings.push(full_table(refused));
    }
    let tracing = &world.programs.tracing;
    if !world.plan.bridges.is_empty() && !tracing.fdb {
        warnings
            .push("the bridge's tracepoints are not attached: FDB changes are followed by netlink alone".to_owned());
    }
    if !world.plan.bridges.is_empty() && !tracing.announcements {
        warnings.push(
            "the kernel's announcements are not heard: port and VLAN changes are followed by netlink alone".to_owned(),
        );
    }
    for (ifindex, device) in &world.plan.devices {
        if let Some(why) = world.attachments.get(*ifindex).and_then(|hooked| hooked.xdp_refused()) {
            warnings.push(format!("{}: no XDP, tc alone: {why}", device.name));
        }
    }
    warnings
}

fn bridge_status(
    world: &World,
    links: &BTreeMap<IfIndex, Link>,
    served: &Served,
    ifindex: IfIndex,
    bridge: &BridgePlan,
) -> BridgeStatus {
    let (slow_reason, slow_detail) = words(bridge.slow.as_ref());
    let mut ports: Vec<PortStatus> = world
        .plan
        .ports
        .iter()
        .filter(|(_, port)| port.bridge == ifindex)
        .map(|(ifindex, port)| port_status(world, links.get(ifindex), served, *ifindex, port))
        .collect();
    ports.sort_by(|a, b| a.ifname.cmp(&b.ifname));
    BridgeStatus {
        ifname: bridge.name.clone(),
        ifindex,
        present: true,
        vlan_filtering: bridge.attrs.vlan_filtering,
        vlan_protocol: if bridge.attrs.vlan_protocol == 0x88a8 { "802.1ad" } else { "802.1Q" }.to_owned(),
        fdb_entries: world.sync.fdb.entries_of(ifindex),
        slow_reason,
        slow_detail,
        ports,
        vlans: vlans(world, served, bridge),
    }
}

fn vlans(world: &World, served: &Served, bridge: &BridgePlan) -> Vec<VlanStatus> {
    let Some(base) = bridge.fid_base else { return Vec::new() };
    let mut vlans = Vec::new();
    for vlan in bridge.vlans.iter() {
        let fid = base + vlan;
        let cell = world.sync.vlan_cell(fid);
        if cell == 0 {
            continue;
        }
        let counted = counters::vlan(&world.tables, cell).map(|(mut fast, mut slow)| {
            let (fast_since, slow_since) = served.vlans().get(&fid).copied().unwrap_or_default();
            fast += fast_since;
            slow += slow_since;
            (fast, slow)
        });
        match counted {
            Ok((fast, slow)) if fast.packets + slow.packets > 0 => vlans.push(VlanStatus { vlan, fast, slow }),
            Ok(_) => {}
            Err(error) => warn!("cannot read the counters of VLAN {vlan}: {error}"),
        }
    }
    vlans
}

fn port_status(world: &World, link: Option<&Link>, served: &Served, ifindex: IfIndex, port: &PortPlan) -> PortStatus {
    let totals = port.slot.map(|slot| counters::port(&world.tables, served, slot)).transpose();
    let totals = totals.unwrap_or_else(|error| {
        warn!("cannot read the counters of {}: {error}", port.name);
        None
    });
    let totals = totals.unwrap_or_default();
    let hooked = world.attachments.get(port.device(ifindex));
    let (slow_reason, slow_detail) = words(port.slow.as_ref());
    let hook_why = match hooked.and_then(|hooked| hooked.xdp_refused()) {
        Some(refused) => format!("{}; XDP refused: {refused}", port.hook.why),
        None => port.hook.why.clone(),
    };
    let ready = world.in_step && port.slow.is_none() && hooked.is_some();
    let shadow = world.shadow.as_ref().map(|shadow| shadow.port(&port.name, ready, &totals));
    let stats = link.map(|link| link.stats).unwrap_or_default();
    let by_parent =
        port.slot.map(|slot| counters::sent(&world.tables, served, slot)).transpose().unwrap_or_else(|error| {
            warn!("cannot read the counters of {}: {error}", port.name);
            None
        });
    let by_parent = by_parent.unwrap_or_default();
    let flags = port.entry.flags;
    let has = |flag: u32| flags & flag != 0;
    let egress = if !has(port_flags::EGRESS) {
        "none"
    } else if has(port_flags::EGRESS_XDP) {
        "xdp"
    } else if has(port_flags::EGRESS_PEER) {
        "peer"
    } else {
        "tc"
    };
    // Frames that come in through tc leave by tc, whatever else the device takes.
    let matters =
        world.plan.ports.values().any(|other| other.bridge == port.bridge && other.slot != port.slot && other.hook.xdp);
    PortStatus {
        ifname: port.name.clone(),
        ifindex,
        egress: egress.to_owned(),
        egress_why: port.exit.why.clone(),
        faster: port.exit.remedy.clone().filter(|_| matters),
        state: state_name(link.and_then(|link| link.port.as_ref()).and_then(|attrs| attrs.state)).to_owned(),
        hook: hooked.map_or("none", |hooked| hooked.describe()).to_owned(),
        hook_why,
        accelerated: ready && shadow.is_none(),
        slow_reason,
        slow_detail,
        shadow,
        fast: totals.fast,
        slow: totals.slow,
        dropped: totals.dropped,
        reasons: totals.reasons.iter().map(|(reason, count)| (reason.name().to_owned(), count.packets)).collect(),
        reason_bytes: totals.reasons.iter().map(|(reason, count)| (reason.name().to_owned(), count.bytes)).collect(),
        sent: Count { packets: stats.tx_packets + by_parent.packets, bytes: stats.tx_bytes + by_parent.bytes },
        served_on: port.parent.as_ref().map(|parent| parent.name.clone()),
    }
}

fn words(slow: Option<&Slow>) -> (Option<String>, Option<String>) {
    slow.map(|slow| (slow.reason.name().to_owned(), slow.detail.clone())).unzip()
}
