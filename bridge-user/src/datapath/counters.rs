//! Reads the counters, summed over CPUs.

use std::collections::BTreeMap;

use aya::maps::MapError;
use bridge_common::reason::{Class, Reason};

use super::Tables;
use crate::status::Count;

/// The counters of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// Frames that took the fast path.
    pub fast: Count,
    /// Frames that went to the bridge.
    pub slow: Count,
    /// Frames that neither path could deliver.
    pub dropped: Count,
    /// By reason, without zeros.
    pub reasons: BTreeMap<Reason, Count>,
}

/// Reads the counters of the port in `slot`.
pub fn port(tables: &Tables, slot: u16) -> Result<PortTotals, MapError> {
    let mut totals = PortTotals::default();
    let values = tables.port_counters.get(&u32::from(slot), 0)?;
    for reason in Reason::ALL {
        let mut count = Count::default();
        for cpu in values.iter() {
            let cell = cpu.reasons[*reason as usize];
            count.packets += cell.packets;
            count.bytes += cell.bytes;
        }
        if count.packets == 0 {
            continue;
        }
        let sum = match reason.class() {
            Class::Fast => &mut totals.fast,
            Class::Slow => &mut totals.slow,
            Class::Dropped => &mut totals.dropped,
        };
        sum.packets += count.packets;
        sum.bytes += count.bytes;
        totals.reasons.insert(*reason, count);
    }
    Ok(totals)
}

/// Reads a VLAN counter cell: fast and slow.
pub fn vlan(tables: &Tables, cell: u32) -> Result<(Count, Count), MapError> {
    let (mut fast, mut slow) = (Count::default(), Count::default());
    for cpu in tables.vlan_counters.get(&cell, 0)?.iter() {
        fast.packets += cpu.fast.packets;
        fast.bytes += cpu.fast.bytes;
        slow.packets += cpu.slow.packets;
        slow.bytes += cpu.slow.bytes;
    }
    Ok((fast, slow))
}

/// Reads what left the logical port in `slot` by its parent.
pub fn sent(tables: &Tables, slot: u16) -> Result<Count, MapError> {
    let mut sent = Count::default();
    for cpu in tables.sent.get(&u32::from(slot), 0)?.iter() {
        sent.packets += cpu.packets;
        sent.bytes += cpu.bytes;
    }
    Ok(sent)
}
