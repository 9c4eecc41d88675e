//! Where outside input comes in, for the fuzzer (`tests/fuzz`) and for the replay of what it has found.
//!
//! Each target takes any bytes, reads them as xbr would, and panics where what was read breaks a rule. None does I/O.

use std::collections::BTreeSet;

use bridge_common::maps::{VLANS, fdb_flags, port_flags};

use crate::{
    bypass,
    config::RunConfig,
    datapath::{btf, clsact, undo},
    ipc,
    model::Model,
    netlink,
    plan::{Numbers, Plan, Refusals, fdb_entry, plan},
};

/// A target: its name, which is that of its folder in `tests/fuzz/corpus`, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("rtnetlink", rtnetlink),
    ("bypass", bypass::fuzz::read),
    ("clsact", clsact::fuzz::read),
    ("undo", undo::fuzz::read),
    ("btf", btf::fuzz::read),
    ("ipc", ipc::fuzz::read),
];

/// Runs the target of this name.
///
/// # Panics
/// There is no such target, or the bytes break a rule.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("the name of a target").1(bytes);
}

/// A datagram of rtnetlink, read as a resync reads it, and the tables that would follow.
fn rtnetlink(datagram: &[u8]) {
    let model = netlink::fuzz::read(datagram);
    let config = RunConfig {
        bridges: Vec::new(),
        all: true,
        ports: BTreeSet::new(),
        hooks: std::collections::BTreeMap::new(),
        run_dir: "/nonexistent".into(),
        fdb_size: 16,
        overrule: BTreeSet::new(),
        redirect_peer: false,
        last_status: None,
        coherence: crate::config::Coherence::default(),
        shadow: None,
    };
    let served = model.links.values().map(|link| link.name.clone()).collect();
    let plan = plan(&model, &config, &served, &mut Numbers::default(), &Refusals::new());
    check_plan(&model, &plan);
}

/// What no plan may do, whatever the kernel said.
fn check_plan(model: &Model, plan: &Plan) {
    let slots: BTreeSet<_> = plan.ports.values().filter_map(|port| port.slot).collect();
    assert_eq!(slots.len(), plan.ports.len(), "two ports in one slot");
    let fids: BTreeSet<_> = plan.bridges.values().filter_map(|bridge| bridge.fid_base).collect();
    assert_eq!(fids.len(), plan.bridges.values().filter(|bridge| bridge.fid_base.is_some()).count());
    for (ifindex, port) in &plan.ports {
        let (link, bridge) = (&model.links[ifindex], &plan.bridges[&port.bridge]);
        let flags = port.entry.flags;
        assert_eq!(port.slow.is_none(), flags & port_flags::INGRESS != 0);
        assert_eq!(link.master, Some(port.bridge));
        if flags & (port_flags::INGRESS | port_flags::EGRESS) != 0 {
            let state = link.port.as_ref().and_then(|attrs| attrs.state);
            assert!(link.up && link.carrier && state == Some(3), "{link:?}");
            assert!(bridge.slow.is_none() && bridge.attrs.unknown_options == 0 && !bridge.attrs.mst);
        }
        assert_eq!(flags & port_flags::VLAN_AWARE != 0, bridge.attrs.vlan_filtering);
        let ranges = model.vlans.get(ifindex).map(Vec::as_slice).unwrap_or_default();
        for vid in 0..VLANS {
            let said = ranges
                .iter()
                .any(|range| (range.first..=range.last).contains(&vid) && range.state == Some(3) && !range.tunnel);
            let is_member = port.entry.is_member(vid);
            assert!(!is_member || (said && bridge.attrs.vlan_filtering && (1..4095).contains(&vid)), "VLAN {vid}");
        }
    }
    for (key, entry) in &model.fdb {
        let Some((_, slot, flags)) = fdb_entry(plan, key, entry) else { continue };
        let port = plan.ports.get(&entry.port);
        if flags & fdb_flags::LOCAL == 0 {
            assert!(
                port.is_some_and(|port| port.bridge == key.bridge && port.slot == Some(slot)),
                "{key:?}: {entry:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests;
