//! Asking the kernel for what is out of date, planning anew, and writing what differs.

use std::collections::BTreeMap;

use log::warn;

use super::{Error, Links, World, devices};
use crate::{
    daemon::{gone, lock::Lock},
    datapath::{Programs, sync},
    model::{FdbKey, IfIndex, Link},
    plan,
};

/// Fewer changed FDB entries than this at once are never a reason to ask for all.
const MANY: usize = 2000;

impl World {
    pub(super) fn refresh_all(&mut self) -> Result<(), Error> {
        self.dirty.fdb.clear();
        self.dirty.fdb_gone.clear();
        self.refresh_links()?;
        self.dump_fdb()
    }

    /// Asks for the whole FDB and writes what differs. Generations first, then the dump: what is cancelled in between
    /// stays cancelled.
    fn dump_fdb(&mut self) -> Result<(), Error> {
        let generations = self.tables.generations();
        let Programs { census, ebpf, .. } = &mut self.programs;
        let bridges = self.model.links.values().filter(|link| link.bridge.is_some()).map(|link| link.ifindex);
        let dump = match census.take(ebpf, &bridges.collect::<Vec<_>>()) {
            Some(dump) => dump,
            None => self.requests.fdb()?,
        };
        self.sync.fdb.replace(&mut self.tables, dump, &generations);
        self.sync.apply(&mut self.tables, &self.plan)?;
        self.announce_full_table();
        Ok(())
    }

    pub(super) fn refresh_fdb(&mut self) -> Result<(), Error> {
        self.dirty.fdb.extend(self.dirty.fdb_gone.drain());
        let keys: Vec<FdbKey> = self.dirty.fdb.drain().collect();
        // Asking for one costs as much as four of netlink's dump, which goes through the list over and over (`br_fdb_dump`), or
        // eight of a census.
        let known = self.sync.fdb.known();
        let dear = if self.programs.census.is_ready() { known / 8 } else { known / 4 + known * (known / 100_000) };
        if std::mem::take(&mut self.dirty.fdb_dump) || keys.len() > MANY.max(dear) {
            return self.dump_fdb();
        }
        let generations: Vec<u32> =
            keys.iter().map(|key| self.tables.generation(sync::fdb_cell(&self.tables, key))).collect();
        let entries = self.requests.fdb_entries(&keys)?;
        for ((key, entry), generation) in keys.into_iter().zip(entries).zip(generations) {
            self.sync.fdb.confirm(&mut self.tables, &self.plan, key, entry, generation);
        }
        self.announce_full_table();
        Ok(())
    }

    /// All devices, without xbr's own XDP programs.
    pub(super) fn ask_links(&mut self) -> Result<BTreeMap<IfIndex, Link>, Error> {
        let mut links = self.requests.links()?;
        for link in links.values_mut() {
            link.xdp.retain(|id| !self.own_programs.contains(id));
        }
        Ok(links)
    }

    pub(super) fn refresh_links(&mut self) -> Result<(), Error> {
        // What is new is not heard by the kernel side before it is in the tables, so the kernel is asked once more.
        for _ in 0..2 {
            self.dirty.links = Links::Nothing;
            self.dirty.devices.clear();
            let announced = self.sync.watch.announced(&self.tables);
            let policy = self.tables.policy_announced();
            self.model.vlans = self.requests.vlans()?;
            self.model.links = self.ask_links()?;
            // A device that left and is back looks as it did before, but the kernel has emptied its place in the device map. It
            // was announced under the lock that the answers have waited for.
            self.hear_more();
            self.refresh_policy(Some(policy))?;
            if !self.sync.watch.confirm(&mut self.tables, &announced) {
                break;
            }
        }
        Ok(())
    }

    /// As [`Self::refresh_links`], but for VLANs, of which every change is announced: there may be millions of them. Nor does it
    /// confirm what is in doubt.
    pub(super) fn refresh_silent(&mut self) -> Result<(), Error> {
        self.dirty.links = Links::Nothing;
        let policy = self.tables.policy_announced();
        let links = self.ask_links()?;
        let known = &self.model.links;
        let is_known = |link: &Link| known.get(&link.ifindex).is_some_and(|known| devices::is_same(known, link));
        if links.len() != known.len() || !links.values().all(is_known) {
            return self.refresh_links();
        }
        self.model.links = links;
        self.refresh_policy(Some(policy))
    }

    /// `announced` is what had been announced before the devices were asked for, if they were.
    pub(super) fn refresh_policy(&mut self, announced: Option<u64>) -> Result<(), Error> {
        self.dirty.policy = false;
        self.dirty.uppers = false;
        self.serve();
        let devices = self.inspected(|_| true);
        let announced = announced.unwrap_or_else(|| self.tables.policy_announced());
        self.model.bypass = self.inventory.collect(&devices, &self.own_programs)?;
        self.replan()?;
        if self.sync.watch.has_fresh_parents() {
            // As with ports that were not heard yet: the kernel is to be asked once more first.
            self.dirty.links = Links::All;
        } else {
            self.tables.confirm_policy(announced);
        }
        Ok(())
    }

    pub(super) fn replan(&mut self) -> Result<(), Error> {
        // A refusal while attaching changes the plan once more.
        for _ in 0..2 {
            let refused = self.attachments.refused();
            let plan = plan::plan(&self.model, &self.config, &self.served, &mut self.numbers, refused);
            self.attachments.detach_outdated(&plan);
            if plan != self.plan || self.sync.is_stale() {
                self.sync.apply(&mut self.tables, &plan)?;
                gone::collect(&mut self.gone, &self.tables, &self.plan, &plan);
                self.plan = plan;
            }
            if !self.plan.bridges.is_empty() {
                let Programs { tracing, ebpf, census, .. } = &mut self.programs;
                tracing.attach(ebpf, census, self.config.coherence);
            }
            if !self.attachments.attach_missing(&mut self.programs, &self.plan) {
                break;
            }
        }
        self.announce();
        Ok(())
    }

    /// Notes which bridges this instance may serve now; locks those that `--all` has found.
    fn serve(&mut self) {
        if self.config.all {
            let bridges: Vec<String> =
                self.model.links.values().filter(|link| link.bridge.is_some()).map(|link| link.name.clone()).collect();
            self.locks.retain(|name, _| bridges.contains(name));
            for name in bridges {
                if self.locks.contains_key(&name) {
                    continue;
                }
                match Lock::take(&name) {
                    Ok(lock) => {
                        self.elsewhere.remove(&name);
                        self.locks.insert(name, lock);
                    }
                    Err(failure) => {
                        if self.elsewhere.insert(name) {
                            warn!("{failure}");
                        }
                    }
                }
            }
        }
        if !self.locks.keys().eq(&self.served) {
            self.served = self.locks.keys().cloned().collect();
        }
    }
}
