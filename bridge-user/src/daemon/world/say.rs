//! What an operator is told, once for each time that it becomes true.

use std::collections::BTreeMap;

use log::{info, warn};

use super::World;
use crate::model::IfIndex;

/// What was announced and is still so.
#[derive(Default)]
pub(super) struct Said {
    pub(super) ready: bool,
    pub(super) waiting: bool,
    pub(super) table_full: bool,
    /// What frames out of a port would not meet.
    pub(super) egress_missed: BTreeMap<IfIndex, String>,
    pub(super) trouble: String,
}

impl World {
    /// Warns, but not over and over about the same.
    pub(super) fn complain(&mut self, trouble: &str) {
        if self.said.trouble != trouble {
            warn!("{trouble}");
            trouble.clone_into(&mut self.said.trouble);
        }
    }

    /// Says once what an operator should know: bridges that are not there yet, a table that is full.
    pub(super) fn announce(&mut self) {
        let absent: Vec<&str> = self
            .served
            .iter()
            .map(String::as_str)
            .filter(|name| !self.plan.bridges.values().any(|bridge| bridge.name == **name))
            .collect();
        let waiting = self.plan.bridges.is_empty() || !absent.is_empty();
        if waiting && !self.said.waiting {
            let names =
                if absent.is_empty() { "any bridge".to_owned() } else { format!("bridge {}", absent.join(", ")) };
            info!("waiting for {names}");
        }
        self.said.waiting = waiting;
        for (ifindex, found) in &self.model.bypass.egress_missed {
            if self.said.egress_missed.get(ifindex) != Some(found)
                && let Some(port) = self.plan.ports.get(ifindex)
            {
                info!("{}: frames to it go by the bridge (egress_policy): {found}", port.name);
            }
        }
        self.said.egress_missed.clone_from(&self.model.bypass.egress_missed);
        self.announce_full_table();
    }

    pub(super) fn announce_full_table(&mut self) {
        let (_, refused) = self.sync.fdb.fill();
        if refused > 0 && !self.said.table_full {
            warn!("{}", full_table(refused));
        }
        self.said.table_full = refused > 0;
    }
}

/// The line about a full FDB table.
pub(in crate::daemon) fn full_table(refused: u64) -> String {
    format!("the FDB table is full: {refused} addresses go by the bridge; start xbr with a larger --fdb-size")
}
