//! Which trust cell an announcement about a device concerns, and up to which announcement the tables are true.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use bridge_common::maps::bridge_cell;

use crate::{datapath::Tables, model::IfIndex, plan::Plan};

/// One device that is heard.
struct Watched {
    cell: u32,
    /// Not heard yet when the kernel was last asked: what was announced meanwhile is unknown.
    fresh: bool,
}

/// The announcements that had been made before the kernel was asked, by cell.
#[derive(PartialEq, Eq)]
pub struct Announced(BTreeMap<u32, u64>);

/// Ports and bridges whose changes put them in doubt.
#[derive(Default)]
pub struct WatchSync {
    watched: BTreeMap<IfIndex, Watched>,
}

impl WatchSync {
    /// Listens to the plan's ports and bridges. What is new is in doubt until the kernel has been asked once more.
    pub(super) fn settle(&mut self, tables: &mut Tables, plan: &Plan) -> Result<(), MapError> {
        let wanted = wanted(plan);
        for ifindex in self.watched.keys().filter(|ifindex| !wanted.contains_key(ifindex)) {
            tables.unwatch(*ifindex)?;
        }
        self.watched.retain(|ifindex, _| wanted.contains_key(ifindex));
        for (ifindex, cell) in wanted {
            if self.watched.get(&ifindex).is_none_or(|watched| watched.cell != cell) {
                tables.distrust(cell);
                tables.watch(ifindex, cell)?;
                self.watched.insert(ifindex, Watched { cell, fresh: true });
            }
        }
        Ok(())
    }

    /// What has been announced up to now: to be read before the kernel is asked, and given to [`Self::confirm`] when
    /// the answers are in the tables.
    pub fn announced(&self, tables: &Tables) -> Announced {
        Announced(self.watched.values().map(|watched| (watched.cell, tables.announced(watched.cell))).collect())
    }

    /// As [`Self::announced`], about these devices alone.
    pub fn announced_of(&self, tables: &Tables, devices: &BTreeSet<IfIndex>) -> Announced {
        let cells = devices.iter().filter_map(|device| self.watched.get(device)).map(|watched| watched.cell);
        Announced(cells.map(|cell| (cell, tables.announced(cell))).collect())
    }

    /// The tables include all of `announced`. `true`: some ports or bridges were not heard yet when it was read, so that
    /// the kernel has to be asked again.
    pub fn confirm(&mut self, tables: &mut Tables, announced: &Announced) -> bool {
        let mut again = false;
        for watched in self.watched.values_mut() {
            match announced.0.get(&watched.cell) {
                Some(moment) if !watched.fresh => tables.confirm(watched.cell, *moment),
                _ => again = true,
            }
            watched.fresh = false;
        }
        again
    }

    /// As [`Self::confirm`], where no others than `devices` have been asked about.
    pub fn confirm_some(&mut self, tables: &mut Tables, announced: &Announced, devices: &BTreeSet<IfIndex>) -> bool {
        for device in devices {
            if let Some(watched) = self.watched.get(device)
                && let Some(moment) = announced.0.get(&watched.cell)
                && !watched.fresh
            {
                tables.confirm(watched.cell, *moment);
            }
        }
        self.watched.values().any(|watched| watched.fresh)
    }

    /// Puts a device in doubt: its frames go to the bridge until it is confirmed. Nothing happens where it is none of ours.
    pub fn distrust(&self, tables: &mut Tables, ifindex: IfIndex) {
        if let Some(watched) = self.watched.get(&ifindex) {
            tables.distrust(watched.cell);
        }
    }

    /// Whether the device is heard and the tables include all that was announced about it.
    pub fn is_confirmed(&self, tables: &Tables, ifindex: IfIndex) -> bool {
        self.watched.get(&ifindex).is_some_and(|watched| !watched.fresh && !tables.in_doubt(watched.cell))
    }

    /// The devices that are in doubt.
    pub fn doubted(&self, tables: &Tables) -> impl Iterator<Item = IfIndex> {
        self.watched.iter().filter(|(_, watched)| tables.in_doubt(watched.cell)).map(|(ifindex, _)| *ifindex)
    }
}

fn wanted(plan: &Plan) -> BTreeMap<IfIndex, u32> {
    let bridges = plan.bridges.iter().filter_map(|(ifindex, bridge)| Some((*ifindex, bridge_cell(bridge.fid_base?))));
    let ports = plan.ports.iter().filter_map(|(ifindex, port)| Some((*ifindex, u32::from(port.slot?))));
    // A bridge that is a port of another one is heard as a port; its own ports are not left without a cell, as it has no
    // ports that are fast while it is one (the kernel allows no such thing).
    bridges.chain(ports).collect()
}
