//! FDB entries: what the kernel last said of each, with the generation read before it was asked.

use std::collections::HashMap;

use bridge_common::{
    fdb::pack,
    mac::Mac,
    maps::{FdbKey, generation_cell},
};

use crate::{
    datapath::Tables,
    model::{FdbEntry, FdbKey as KernelKey, IfIndex},
    plan::{self, Plan},
};

/// What the kernel said of an entry.
struct Known {
    entry: FdbEntry,
    /// The generation of its cell before the kernel was asked: what has been cancelled since stays cancelled.
    generation: u32,
    /// Where and how it stands in the table, if it does.
    written: Option<(FdbKey, u64)>,
}

/// The FDB as the kernel told it, and as the table has it.
#[derive(Default)]
pub struct FdbSync {
    known: HashMap<KernelKey, Known>,
    /// Entries that found no room in the table.
    refused: u64,
    used: u64,
}

impl FdbSync {
    /// Takes over a whole dump; `generations` were read before it was asked for. Entries are written by
    /// [`super::Sync::apply`].
    pub fn replace(&mut self, tables: &mut Tables, dump: HashMap<KernelKey, FdbEntry>, generations: &[u32]) {
        let mut gone = Vec::new();
        self.known.retain(|key, known| {
            let stays = dump.contains_key(key);
            if let (false, Some((at, _))) = (stays, known.written) {
                gone.push(at);
            }
            stays
        });
        for at in gone {
            self.used -= 1;
            tables.remove_fdb(at);
        }
        // No event said so, or this is the first that is heard of it.
        tables.end_decisions();
        for (key, entry) in dump {
            let generation = generations.get(cell(&key) as usize).copied().unwrap_or_default();
            let written = self.known.get(&key).and_then(|known| known.written);
            self.known.insert(key, Known { entry, generation, written });
        }
    }

    /// Takes over what the kernel says of one entry now; `generation` was read before it was asked.
    pub fn confirm(
        &mut self,
        tables: &mut Tables,
        plan: &Plan,
        key: KernelKey,
        entry: Option<FdbEntry>,
        generation: u32,
    ) {
        let Some(entry) = entry else {
            if let Some(Known { written: Some((at, _)), .. }) = self.known.remove(&key) {
                self.used -= 1;
                tables.remove_fdb(at);
            }
            return;
        };
        let known = self.known.entry(key).or_insert(Known { entry, generation, written: None });
        known.entry = entry;
        known.generation = generation;
        if let Some((at, data)) = wanted(plan, &key, known) {
            self.put(tables, key, at, data);
            return;
        }
        self.remove(tables, key);
        tables.end_decisions_in(key.vlan);
    }

    /// Removes what the plan no longer wants as it stands.
    pub(super) fn remove_outdated(&mut self, tables: &mut Tables, plan: &Plan) {
        let outdated: Vec<KernelKey> = self
            .known
            .iter()
            .filter(|(key, known)| known.written.is_some() && known.written != wanted(plan, key, known))
            .map(|(key, _)| *key)
            .collect();
        if outdated.is_empty() {
            return;
        }
        for key in outdated {
            self.remove(tables, key);
        }
        tables.end_decisions();
    }

    /// Lets the next frame of each source of a bridge go to the bridge.
    pub(super) fn refresh_soon(&self, tables: &mut Tables, bridge: IfIndex) {
        for (at, data) in
            self.known.iter().filter(|(key, _)| key.bridge == bridge).filter_map(|(_, known)| known.written)
        {
            // Replaces a value under the same key, so there is room.
            tables.put_fdb(at, data, 0);
        }
    }

    /// Puts what is not in the table yet.
    pub(super) fn put_all(&mut self, tables: &mut Tables, plan: &Plan) {
        self.refused = 0;
        let missing: Vec<(KernelKey, FdbKey, u64)> = self
            .known
            .iter()
            .filter(|(_, known)| known.written.is_none())
            .filter_map(|(key, known)| wanted(plan, key, known).map(|(at, data)| (*key, at, data)))
            .collect();
        for (key, at, data) in missing {
            self.put(tables, key, at, data);
        }
    }

    /// The entries whose cell has another generation than when the kernel was last asked about them.
    pub fn stale(&self, tables: &Tables) -> Vec<KernelKey> {
        self.known
            .iter()
            .filter(|(key, known)| tables.generation(cell(key)) != known.generation)
            .map(|(key, _)| *key)
            .collect()
    }

    /// Entries of one bridge in the table.
    pub fn entries_of(&self, bridge: IfIndex) -> u64 {
        self.known.iter().filter(|(key, known)| key.bridge == bridge && known.written.is_some()).count() as u64
    }

    /// Entries in the table, and entries that found no room.
    pub fn fill(&self) -> (u64, u64) {
        (self.used, self.refused)
    }

    fn put(&mut self, tables: &mut Tables, key: KernelKey, at: FdbKey, data: u64) {
        let Some(known) = self.known.get_mut(&key) else { return };
        if known.written == Some((at, data)) {
            return;
        }
        if let Some((old, _)) = known.written.take() {
            self.used -= 1;
            if old != at {
                tables.remove_fdb(old);
            }
        }
        // The next frame of the source goes to the bridge: how old the kernel's entry is, is not known here.
        let put = tables.put_fdb(at, data, 0);
        // Also if it is new: that it was unknown may be remembered.
        tables.end_decisions_in(key.vlan);
        if put {
            known.written = Some((at, data));
            self.used += 1;
        } else {
            self.refused += 1;
            // An old value under the same key would be wrong now.
            tables.remove_fdb(at);
        }
    }

    fn remove(&mut self, tables: &mut Tables, key: KernelKey) {
        if let Some((at, _)) = self.known.get_mut(&key).and_then(|known| known.written.take()) {
            self.used -= 1;
            tables.remove_fdb(at);
        }
    }
}

/// The generation cell of a kernel entry.
pub fn cell(key: &KernelKey) -> u32 {
    generation_cell(Mac::new(key.mac), key.vlan)
}

fn wanted(plan: &Plan, key: &KernelKey, known: &Known) -> Option<(FdbKey, u64)> {
    let (at, slot, flags) = plan::fdb_entry(plan, key, &known.entry)?;
    Some((at, pack(slot, flags, known.generation)))
}
