//! Ports, devices and counter cells.

use std::collections::{BTreeMap, VecDeque};

use aya::maps::{MapError, PerCpuValues};
use aya::util::nr_cpus;
use bridge_common::{
    maps::{Counter, MAX_VLAN_CELLS, PARENT, Port, PortCounters, VlanCounters, logical_key, port_flags},
    reason::REASONS,
};

use crate::{
    datapath::Tables,
    model::IfIndex,
    plan::{Change, Plan, VlanSet},
};

/// Flags that let frames through; a narrowed port has those that both states have.
const PERMIT: u32 = port_flags::INGRESS | port_flags::EGRESS | port_flags::EGRESS_XDP;
/// Flags that hold frames back; a narrowed port has those that either state has.
const RESTRICT: u32 = port_flags::LEARNING
    | port_flags::LOCKED
    | port_flags::ISOLATED
    | port_flags::VIRTUAL_XDP
    | port_flags::CHECK_IPV4
    | port_flags::CHECK_IPV6
    | port_flags::EGRESS_POLICY;

pub(super) struct PortSync {
    /// What stands in the port table, by slot.
    written: BTreeMap<u16, Port>,
    /// What stands in the slot table: slots, and [`PARENT`].
    devices: BTreeMap<IfIndex, u32>,
    /// What stands in the table of logical ports.
    logical: BTreeMap<u64, u16>,
    /// What was put in the device map, by slot, and whether it stands there.
    egress: BTreeMap<u16, (IfIndex, bool)>,
    /// Counter cells by fid.
    cells: BTreeMap<u16, u32>,
    /// Those that no fid has.
    free_cells: VecDeque<u32>,
    /// The VLANs whose fids are to have one, by where a bridge's fids begin.
    counted: BTreeMap<u16, VlanSet>,
}

impl Default for PortSync {
    fn default() -> Self {
        Self {
            written: BTreeMap::new(),
            devices: BTreeMap::new(),
            logical: BTreeMap::new(),
            egress: BTreeMap::new(),
            cells: BTreeMap::new(),
            free_cells: (1..MAX_VLAN_CELLS).collect(),
            counted: BTreeMap::new(),
        }
    }
}

impl PortSync {
    /// Lets every port that changes do no more than the old and the new state both allow.
    pub(super) fn narrow(&mut self, tables: &mut Tables, plan: &Plan) -> Result<(), MapError> {
        let wanted = by_slot(plan);
        for (slot, old) in &mut self.written {
            narrow_one(tables, *slot, old, wanted.get(slot).copied())?;
        }
        Ok(())
    }

    /// As [`Self::narrow`] and [`Self::settle`], where nothing else is to be another.
    pub(super) fn narrow_some(&mut self, tables: &mut Tables, change: &Change) -> Result<(), MapError> {
        for (slot, port) in entries(change) {
            if let Some(old) = self.written.get_mut(&slot) {
                narrow_one(tables, slot, old, Some(port))?;
            }
        }
        Ok(())
    }

    /// Writes the new state of some ports, and of the VLANs of bridges.
    pub(super) fn settle_some(&mut self, tables: &mut Tables, plan: &Plan, change: &Change) -> Result<(), MapError> {
        let mut counted = self.counted.clone();
        for (bridge, vlans) in &change.vlans {
            if let Some(base) = plan.bridges.get(bridge).and_then(|bridge| bridge.fid_base) {
                counted.insert(base, *vlans);
            }
        }
        self.settle_cells(tables, counted)?;
        for (slot, port) in entries(change) {
            self.settle_one(tables, slot, port)?;
        }
        Ok(())
    }

    /// Writes the new state.
    pub(super) fn settle(&mut self, tables: &mut Tables, plan: &Plan) -> Result<(), MapError> {
        let wanted = by_slot(plan);
        let (devices, logical) = arrivals(plan);
        for (ifindex, slot) in &self.devices {
            if devices.get(ifindex) != Some(slot) {
                tables.remove_device(*ifindex)?;
            }
        }
        for (key, slot) in &self.logical {
            if logical.get(key) != Some(slot) {
                tables.remove_logical(*key)?;
            }
        }
        self.written.retain(|slot, _| wanted.contains_key(slot));
        let counted = plan.bridges.values().filter_map(|bridge| Some((bridge.fid_base?, bridge.vlans)));
        self.settle_cells(tables, counted.collect())?;
        for (slot, port) in wanted {
            if !self.written.contains_key(&slot) {
                zero_port(tables, slot)?;
            }
            self.settle_one(tables, slot, port)?;
        }
        self.egress.retain(|slot, _| self.written.contains_key(slot));
        for (key, slot) in &logical {
            if self.logical.get(key) != Some(slot) {
                tables.put_logical(*key, *slot)?;
            }
        }
        for (ifindex, slot) in &devices {
            if self.devices.get(ifindex) != Some(slot) {
                tables.put_device(*ifindex, *slot)?;
            }
        }
        (self.devices, self.logical) = (devices, logical);
        Ok(())
    }

    fn settle_one(&mut self, tables: &mut Tables, slot: u16, port: &Port) -> Result<(), MapError> {
        // Before the entry that offers it; a port whose device changes is closed since it was narrowed.
        let stands = match self.egress.get(&slot) {
            Some((ifindex, stands)) if *ifindex == port.ifindex => *stands,
            _ => tables.put_egress(slot, port.ifindex),
        };
        self.egress.insert(slot, (port.ifindex, stands));
        let mut port = *port;
        if !stands {
            port.flags &= !port_flags::EGRESS_XDP;
        }
        if self.written.get(&slot) != Some(&port) {
            tables.put_port(slot, &port)?;
            self.written.insert(slot, port);
        }
        Ok(())
    }

    /// A device went: the kernel has emptied its cells of the device map (`dev_map_notification`), also where it comes back with
    /// the same number. `true`: it had one.
    pub(super) fn forget_egress(&mut self, ifindex: IfIndex) -> bool {
        let before = self.egress.len();
        self.egress.retain(|_, (device, _)| *device != ifindex);
        self.egress.len() != before
    }

    /// Every fid of these VLANs gets a counter cell while there are any; others give theirs back.
    fn settle_cells(&mut self, tables: &mut Tables, wanted: BTreeMap<u16, VlanSet>) -> Result<(), MapError> {
        if wanted == self.counted {
            return Ok(());
        }
        let had_run_out = self.free_cells.is_empty();
        for fid in beyond(&self.counted, &wanted) {
            if let Some(cell) = self.cells.get(&fid).copied() {
                tables.put_vlan_cell(fid, 0)?;
                self.cells.remove(&fid);
                self.free_cells.push_back(cell);
            }
        }
        // Fids of before may have none then.
        let settled = if had_run_out { &BTreeMap::new() } else { &self.counted };
        for fid in beyond(&wanted, settled) {
            if self.cells.contains_key(&fid) {
                continue;
            }
            let Some(cell) = self.free_cells.front().copied() else { break };
            let zero = vec![VlanCounters::default(); nr_cpus().unwrap_or(1)];
            if let Ok(values) = PerCpuValues::try_from(zero) {
                tables.vlan_counters.set(cell, values, 0)?;
            }
            tables.put_vlan_cell(fid, cell)?;
            self.free_cells.pop_front();
            self.cells.insert(fid, cell);
        }
        self.counted = wanted;
        Ok(())
    }

    pub(super) fn vlan_cell(&self, fid: u16) -> u32 {
        self.cells.get(&fid).copied().unwrap_or_default()
    }

    pub(super) fn vlan_cells_used(&self) -> usize {
        self.cells.len()
    }
}

/// How frames find their port: devices by interface index, and logical ports by their key.
fn arrivals(plan: &Plan) -> (BTreeMap<IfIndex, u32>, BTreeMap<u64, u16>) {
    let (mut devices, mut logical) = (BTreeMap::new(), BTreeMap::new());
    for (ifindex, port) in &plan.ports {
        let Some(slot) = port.slot else { continue };
        match &port.parent {
            None => {
                devices.insert(*ifindex, u32::from(slot));
            }
            Some(parent) => {
                devices.insert(parent.ifindex, PARENT);
                logical.insert(logical_key(parent.ifindex, parent.tag), slot);
            }
        }
    }
    (devices, logical)
}

/// The fids of these VLANs that are not among the others.
fn beyond(these: &BTreeMap<u16, VlanSet>, others: &BTreeMap<u16, VlanSet>) -> Vec<u16> {
    let mut fids = Vec::new();
    for (base, vlans) in these {
        let more = vlans.without(others.get(base).unwrap_or(&VlanSet::EMPTY));
        fids.extend(more.iter().map(|vid| base + vid));
    }
    fids
}

/// The entries of a change, by slot.
fn entries(change: &Change) -> impl Iterator<Item = (u16, &Port)> {
    change.ports.values().filter_map(|port| Some((port.slot?, &port.entry)))
}

fn by_slot(plan: &Plan) -> BTreeMap<u16, &Port> {
    plan.ports.values().filter_map(|port| Some((port.slot?, &port.entry))).collect()
}

/// A slot that is given to another port begins at zero.
fn zero_port(tables: &mut Tables, slot: u16) -> Result<(), MapError> {
    tables.forget_served(slot);
    if let Ok(values) = PerCpuValues::try_from(vec![Counter::default(); nr_cpus().unwrap_or(1)]) {
        tables.sent.set(u32::from(slot), values, 0)?;
    }
    let zero = PortCounters { reasons: [Counter::default(); REASONS] };
    match PerCpuValues::try_from(vec![zero; nr_cpus().unwrap_or(1)]) {
        Ok(values) => tables.port_counters.set(u32::from(slot), values, 0),
        Err(_) => Ok(()),
    }
}

/// Lets the port in `slot` do no more than what stands there, `old`, and `new` both allow.
fn narrow_one(tables: &mut Tables, slot: u16, old: &mut Port, new: Option<&Port>) -> Result<(), MapError> {
    let narrowed = match new {
        Some(new) if new == old => return Ok(()),
        Some(new) => narrow(old, new),
        None => Port::EMPTY,
    };
    if narrowed != *old {
        tables.put_port(slot, &narrowed)?;
        *old = narrowed;
    }
    Ok(())
}

/// What both `old` and `new` allow.
fn narrow(old: &Port, new: &Port) -> Port {
    let mut port = *old;
    let mut permit = old.flags & new.flags & PERMIT;
    // Where the meaning of frames changes, nothing is common to both.
    let same_meaning = (old.ifindex, old.outer, old.fid_base, old.pvid, old.tpid)
        == (new.ifindex, new.outer, new.fid_base, new.pvid, new.tpid)
        && (old.flags ^ new.flags) & port_flags::VLAN_AWARE == 0
        && old.untagged == new.untagged;
    if !same_meaning {
        permit = 0;
    }
    port.flags = permit | (old.flags | new.flags) & RESTRICT | old.flags & port_flags::VLAN_AWARE;
    port.max_len = old.max_len.min(new.max_len);
    port.slow_reason = new.slow_reason;
    for (word, wanted) in port.member.iter_mut().zip(&new.member) {
        *word &= wanted;
    }
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(flags: u32, members: u64) -> Port {
        let mut port = Port { ifindex: 7, flags, max_len: 1518, ..Port::EMPTY };
        port.member[0] = members;
        port
    }

    #[test]
    fn a_narrowed_port_allows_no_more_than_both() {
        let old = port(port_flags::INGRESS | port_flags::EGRESS, 0b0110);
        let new = port(port_flags::EGRESS | port_flags::ISOLATED, 0b1100);
        let narrowed = narrow(&old, &new);
        assert_eq!(narrowed.flags, port_flags::EGRESS | port_flags::ISOLATED);
        assert_eq!(narrowed.member[0], 0b0100);
    }

    #[test]
    fn another_pvid_or_untagged_set_closes_the_port_meanwhile() {
        let old = port(port_flags::INGRESS | port_flags::EGRESS, 1);
        for change in [
            |port: &mut Port| port.pvid = 9,
            |port: &mut Port| port.fid_base = 9,
            |port: &mut Port| port.tpid = 9,
            |port: &mut Port| port.ifindex = 9,
            |port: &mut Port| port.outer = 9,
            |port: &mut Port| port.untagged[3] = 9,
            |port: &mut Port| port.flags |= port_flags::VLAN_AWARE,
        ] {
            let mut new = old;
            change(&mut new);
            assert_eq!(narrow(&old, &new).flags & PERMIT, 0);
        }
    }
}
