//! Which slot a port has and where a bridge's fids begin. Kept from plan to plan, so that a number means the same thing
//! while frames are under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bridge_common::maps::{MAX_PORTS, VLANS};

use crate::model::IfIndex;

/// The numbers in use and those that are free.
///
/// A number that was given back is the last to be given out again: a program that looked up the old meaning has long
/// ended by then.
#[derive(Clone, Debug)]
pub struct Numbers {
    slots: BTreeMap<IfIndex, u16>,
    free_slots: VecDeque<u16>,
    /// VLAN-aware bridges: blocks of 4096 fids, block 0 excluded.
    aware: BTreeMap<IfIndex, u16>,
    free_blocks: VecDeque<u16>,
    /// VLAN-unaware bridges: one fid each, out of block 0, fid 0 excluded.
    unaware: BTreeMap<IfIndex, u16>,
    free_fids: VecDeque<u16>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            free_slots: (1..MAX_PORTS).filter_map(|slot| u16::try_from(slot).ok()).collect(),
            aware: BTreeMap::new(),
            free_blocks: (1..16).collect(),
            unaware: BTreeMap::new(),
            free_fids: (1..VLANS).collect(),
        }
    }
}

impl Numbers {
    /// The slot of the port `ifindex`; `None` if all are taken.
    pub fn slot(&mut self, ifindex: IfIndex) -> Option<u16> {
        number(&mut self.slots, &mut self.free_slots, ifindex)
    }

    /// The first fid of the bridge `ifindex`; `None` if there are too many bridges.
    pub fn fid_base(&mut self, ifindex: IfIndex, vlan_aware: bool) -> Option<u16> {
        if vlan_aware {
            number(&mut self.aware, &mut self.free_blocks, ifindex).map(|block| block * VLANS)
        } else {
            number(&mut self.unaware, &mut self.free_fids, ifindex)
        }
    }

    /// Gives back the numbers of ports and bridges that are gone.
    pub fn retain(&mut self, port: impl Fn(IfIndex) -> bool, bridge: impl Fn(IfIndex) -> bool) {
        give_back(&mut self.slots, &mut self.free_slots, port);
        give_back(&mut self.aware, &mut self.free_blocks, &bridge);
        give_back(&mut self.unaware, &mut self.free_fids, &bridge);
    }

    /// Slots in use.
    pub fn used_slots(&self) -> usize {
        self.slots.len()
    }
}

fn number(used: &mut BTreeMap<IfIndex, u16>, free: &mut VecDeque<u16>, ifindex: IfIndex) -> Option<u16> {
    if let Some(number) = used.get(&ifindex) {
        return Some(*number);
    }
    let number = free.pop_front()?;
    used.insert(ifindex, number);
    Some(number)
}

fn give_back(used: &mut BTreeMap<IfIndex, u16>, free: &mut VecDeque<u16>, keep: impl Fn(IfIndex) -> bool) {
    let gone: BTreeSet<IfIndex> = used.keys().copied().filter(|ifindex| !keep(*ifindex)).collect();
    for ifindex in gone {
        if let Some(number) = used.remove(&ifindex) {
            free.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_and_is_reused_last() {
        let mut numbers = Numbers::default();
        let first = numbers.slot(10).unwrap();
        assert_eq!(numbers.slot(10), Some(first));
        numbers.retain(|_| false, |_| false);
        assert_ne!(numbers.slot(11), Some(first));
        for ifindex in 12..12 + MAX_PORTS {
            numbers.slot(ifindex);
        }
        assert_eq!(numbers.slot(99_999), None, "all slots are taken");
        assert_eq!(numbers.used_slots(), 1023);
    }

    #[test]
    fn fids_of_bridges_never_overlap() {
        let mut numbers = Numbers::default();
        let unaware = numbers.fid_base(1, false).unwrap();
        let aware = numbers.fid_base(2, true).unwrap();
        assert!(unaware < VLANS && unaware > 0);
        assert_eq!(aware % VLANS, 0);
        assert!(aware >= VLANS);
        // A bridge that changes its mode gets fids of its own for each.
        assert!(numbers.fid_base(1, true).unwrap() > aware);
        for ifindex in 3..16 {
            assert!(numbers.fid_base(ifindex, true).is_some());
        }
        assert_eq!(numbers.fid_base(100, true), None);
    }
}
