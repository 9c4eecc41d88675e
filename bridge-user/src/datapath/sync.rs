//! Writes what the plan says, and only what differs from what was written before.
//!
//! The order leaves no moment in which a frame is forwarded that neither the old nor the new state would forward:
//! first every changed port is narrowed to what both states allow, then FDB entries are removed, then ports get their
//! new entry, then FDB entries are put.

mod fdb;
mod ports;
mod watch;

use std::collections::BTreeMap;

use aya::maps::MapError;

use self::ports::PortSync;
pub use self::{
    fdb::{FdbSync, cell as fdb_cell},
    watch::{Announced, WatchSync},
};
use super::Tables;
use crate::{
    model::IfIndex,
    plan::{Change, Plan},
};

/// What stands in the tables.
#[derive(Default)]
pub struct Sync {
    ports: PortSync,
    /// How often sources are refreshed, by bridge.
    intervals: BTreeMap<IfIndex, u64>,
    /// The FDB half.
    pub fdb: FdbSync,
    /// What may be believed.
    pub watch: WatchSync,
    /// The kernel has taken something away that the plan still has: all of it is to be applied once more.
    stale: bool,
}

impl Sync {
    /// Makes the tables say what `plan` says, FDB entries that are known already included.
    pub fn apply(&mut self, tables: &mut Tables, plan: &Plan) -> Result<(), MapError> {
        self.stale = false;
        self.ports.narrow(tables, plan)?;
        let settled = self.fdb.is_settled(plan);
        if !settled {
            self.fdb.remove_outdated(tables, plan);
        }
        self.watch.settle(tables, plan)?;
        self.ports.settle(tables, plan)?;
        let intervals = plan.ports.values().map(|port| (port.bridge, port.entry.refresh_interval)).collect();
        let before = std::mem::replace(&mut self.intervals, intervals);
        for (bridge, interval) in &self.intervals {
            // A deadline that was set by a longer interval may lie behind the end of the entry by now.
            if before.get(bridge).is_some_and(|before| interval < before) {
                self.fdb.refresh_soon(tables, *bridge);
            }
        }
        if !settled {
            self.fdb.put_all(tables, plan);
        }
        Ok(())
    }

    /// Makes the tables say what `plan` will say after `change`, if they say what it says now. Neither what FDB entries rest on,
    /// nor what is heard, nor an interval is another then.
    pub fn apply_change(&mut self, tables: &mut Tables, plan: &Plan, change: &Change) -> Result<(), MapError> {
        self.ports.narrow_some(tables, change)?;
        self.ports.settle_some(tables, plan, change)
    }

    /// A device went, or was moved to another network namespace.
    pub fn forget_device(&mut self, ifindex: IfIndex) {
        self.stale |= self.ports.forget_egress(ifindex);
    }

    /// Whether a plan is to be applied although it is the same.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// The counter cell of a fid, 0 if it has none of its own.
    pub fn vlan_cell(&self, fid: u16) -> u32 {
        self.ports.vlan_cell(fid)
    }

    /// VLAN counter cells in use.
    pub fn vlan_cells_used(&self) -> usize {
        self.ports.vlan_cells_used()
    }
}
