//! Reads the counters, summed over CPUs.

use std::collections::{BTreeMap, HashMap};

use aya::maps::MapError;
use bridge_common::{
    flow::{flow_flags, packets_and_bytes},
    reason::{Class, Reason},
};

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

/// What the flow cache has served and not yet added to the counters.
#[derive(Clone, Debug, Default)]
pub struct Served {
    ports: HashMap<(u16, Reason), Count>,
    vlans: HashMap<u16, (Count, Count)>,
    sent: HashMap<u16, Count>,
    /// How often each CPU had emptied cells before they were read.
    flushes: Vec<u64>,
}

impl Served {
    /// Reads the cells. To be read before the counters, and asked afterwards whether it [`Self::stands`].
    pub fn read(tables: &Tables) -> Self {
        let mut served = Self { flushes: tables.flushes(), ..Self::default() };
        for flow in tables.served() {
            let Some(reason) = u8::try_from(flow.reason()).ok().and_then(Reason::from_u8) else { continue };
            let (packets, bytes) = packets_and_bytes(flow.served);
            let count = Count { packets, bytes };
            *served.ports.entry((flow.slot, reason)).or_default() += count;
            if let Some(fid) = flow.fid().get() {
                let (fast, slow) = served.vlans.entry(fid).or_default();
                *if reason.class() == Class::Fast { fast } else { slow } += count;
            }
            if flow.flags & flow_flags::COUNTS_SENT != 0 {
                *served.sent.entry(flow.out).or_default() += count;
            }
        }
        served
    }

    /// Fast and slow frames by fid.
    pub fn vlans(&self) -> &HashMap<u16, (Count, Count)> {
        &self.vlans
    }

    /// Whether no cell has been emptied since: otherwise the same frames may have been counted twice.
    pub fn stands(&self, tables: &Tables) -> bool {
        self.flushes.iter().all(|count| count.is_multiple_of(2)) && self.flushes == tables.flushes()
    }
}

/// Reads the counters of the port in `slot`.
pub fn port(tables: &Tables, served: &Served, slot: u16) -> Result<PortTotals, MapError> {
    let mut totals = PortTotals::default();
    let values = tables.port_counters.get(&u32::from(slot), 0)?;
    for reason in Reason::ALL {
        let mut count = served.ports.get(&(slot, *reason)).copied().unwrap_or_default();
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

/// Reads a VLAN counter cell: fast and slow. What the flow cache has served is not in it, see [`Served::vlans`].
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
pub fn sent(tables: &Tables, served: &Served, slot: u16) -> Result<Count, MapError> {
    let mut sent = served.sent.get(&slot).copied().unwrap_or_default();
    for cpu in tables.sent.get(&u32::from(slot), 0)?.iter() {
        sent.packets += cpu.packets;
        sent.bytes += cpu.bytes;
    }
    Ok(sent)
}
