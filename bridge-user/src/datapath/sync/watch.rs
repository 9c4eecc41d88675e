//! Which trust cell an announcement about a device concerns, and up to which announcement the tables are true.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use bridge_common::maps::{PARENT, bridge_cell};

use crate::{datapath::Tables, model::IfIndex, plan::Plan};

/// One device that is heard.
struct Watched {
    /// [`PARENT`]: it has no cell, and what is announced about it puts the policy in doubt.
    cell: u32,
    /// Not heard yet when the kernel was last asked: what was announced meanwhile is unknown.
    fresh: bool,
}

impl Watched {
    /// The trust cell, if it has one.
    fn trust(&self) -> Option<u32> {
        Some(self.cell).filter(|cell| *cell != PARENT)
    }

    fn distrust(&self, tables: &mut Tables) {
        match self.trust() {
            Some(cell) => tables.distrust(cell),
            None => tables.doubt_policy(),
        }
    }

    fn in_doubt(&self, tables: &Tables) -> bool {
        self.trust().map_or_else(|| tables.policy_in_doubt(), |cell| tables.in_doubt(cell))
    }
}

/// The announcements that had been made before the kernel was asked, by cell.
#[derive(PartialEq, Eq)]
pub struct Announced(BTreeMap<u32, u64>);

/// Ports, bridges and what logical ports are served on: their changes put them in doubt.
#[derive(Default)]
pub struct WatchSync {
    watched: BTreeMap<IfIndex, Watched>,
}

impl WatchSync {
    /// Listens to the plan's ports and bridges and to what logical ports are served on. What is new is in doubt until the kernel has been asked once more.
    pub(super) fn settle(&mut self, tables: &mut Tables, plan: &Plan) -> Result<(), MapError> {
        let wanted = wanted(plan);
        for ifindex in self.watched.keys().filter(|ifindex| !wanted.contains_key(ifindex)) {
            tables.unwatch(*ifindex)?;
        }
        self.watched.retain(|ifindex, _| wanted.contains_key(ifindex));
        for (ifindex, cell) in wanted {
            if self.watched.get(&ifindex).is_none_or(|watched| watched.cell != cell) {
                let watched = Watched { cell, fresh: true };
                watched.distrust(tables);
                tables.watch(ifindex, cell)?;
                self.watched.insert(ifindex, watched);
            }
        }
        Ok(())
    }

    /// What has been announced up to now: to be read before the kernel is asked, and given to [`Self::confirm`] when
    /// the answers are in the tables.
    pub fn announced(&self, tables: &Tables) -> Announced {
        announced(tables, self.watched.values())
    }

    /// As [`Self::announced`], about these devices alone.
    pub fn announced_of(&self, tables: &Tables, devices: &BTreeSet<IfIndex>) -> Announced {
        announced(tables, devices.iter().filter_map(|device| self.watched.get(device)))
    }

    /// The tables include all of `announced`. `true`: some ports or bridges were not heard yet when it was read, so that
    /// the kernel has to be asked again.
    pub fn confirm(&mut self, tables: &mut Tables, announced: &Announced) -> bool {
        let mut again = false;
        for watched in self.watched.values_mut() {
            match (watched.trust(), announced.0.get(&watched.cell)) {
                (None, _) => again |= watched.fresh,
                (Some(cell), Some(moment)) if !watched.fresh => tables.confirm(cell, *moment),
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
                && let Some(cell) = watched.trust()
                && let Some(moment) = announced.0.get(&cell)
                && !watched.fresh
            {
                tables.confirm(cell, *moment);
            }
        }
        self.watched.values().any(|watched| watched.fresh)
    }

    /// Puts a device in doubt: its frames go to the bridge until it is confirmed. Nothing happens where it is none of ours.
    pub fn distrust(&self, tables: &mut Tables, ifindex: IfIndex) {
        if let Some(watched) = self.watched.get(&ifindex) {
            watched.distrust(tables);
        }
    }

    /// Whether logical ports are served on the device.
    pub fn is_parent(&self, ifindex: IfIndex) -> bool {
        self.watched.get(&ifindex).is_some_and(|watched| watched.trust().is_none())
    }

    /// Whether logical ports are served anywhere.
    pub fn has_parents(&self) -> bool {
        self.watched.values().any(|watched| watched.trust().is_none())
    }

    /// Whether a device that logical ports are served on was not heard yet when the kernel was last asked.
    pub fn has_fresh_parents(&self) -> bool {
        self.watched.values().any(|watched| watched.fresh && watched.trust().is_none())
    }

    /// Whether the device is heard and the tables include all that was announced about it.
    pub fn is_confirmed(&self, tables: &Tables, ifindex: IfIndex) -> bool {
        self.watched.get(&ifindex).is_some_and(|watched| !watched.fresh && !watched.in_doubt(tables))
    }

    /// The devices that are in doubt by themselves.
    pub fn doubted(&self, tables: &Tables) -> impl Iterator<Item = IfIndex> {
        let is_in_doubt = |watched: &Watched| watched.trust().is_some_and(|cell| tables.in_doubt(cell));
        self.watched.iter().filter(move |(_, watched)| is_in_doubt(watched)).map(|(ifindex, _)| *ifindex)
    }
}

/// What has been announced about these up to now.
fn announced<'a>(tables: &Tables, watched: impl Iterator<Item = &'a Watched>) -> Announced {
    Announced(watched.filter_map(Watched::trust).map(|cell| (cell, tables.announced(cell))).collect())
}

fn wanted(plan: &Plan) -> BTreeMap<IfIndex, u32> {
    let bridges = plan.bridges.iter().filter_map(|(ifindex, bridge)| Some((*ifindex, bridge_cell(bridge.fid_base?))));
    let ports = plan.ports.iter().filter_map(|(ifindex, port)| Some((*ifindex, u32::from(port.slot?))));
    let served = plan.ports.values().filter(|port| port.slot.is_some());
    let parents = served.filter_map(|port| Some((port.parent.as_ref()?.ifindex, PARENT)));
    // A bridge that is a port of another one is heard as a port; its own ports are not left without a cell, as it has no
    // ports that are fast while it is one (the kernel allows no such thing).
    parents.chain(bridges).chain(ports).collect()
}
