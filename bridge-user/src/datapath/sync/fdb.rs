//! FDB entries: what the kernel last said of each, with the generation read before it was asked.

use std::collections::HashMap;

use bridge_common::{fdb::pack, mac::Mac, maps::FdbKey};

use crate::{
    datapath::Tables,
    model::{FdbEntry, FdbKey as KernelKey, IfIndex},
    plan::{self, Footing, Plan},
};

/// What the kernel said of an entry. There may be a million of them: kept small.
struct Known {
    entry: FdbEntry,
    /// The generation of its cell before the kernel was asked: what has been cancelled since stays cancelled.
    generation: u32,
    /// How it stands in the table, lower and upper half of [`pack`]; 0 where it does not.
    data: [u32; 2],
    /// Where: its forwarding id.
    fid: u16,
    /// Which dump it was last in, modulo 2.
    dump: bool,
}

impl Known {
    fn new(entry: FdbEntry, generation: u32, dump: bool) -> Self {
        Self { entry, generation, data: [0; 2], fid: 0, dump }
    }

    /// Where and how the entry stands in the table, if it does.
    fn written(&self, key: &KernelKey) -> Option<(FdbKey, u64)> {
        let [low, high] = self.data.map(u64::from);
        (self.data != [0; 2]).then(|| (FdbKey::new(self.fid, Mac::new(key.mac)), low | high << 32))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn note(&mut self, written: Option<(FdbKey, u64)>) {
        let (at, data) = written.unwrap_or((FdbKey(0), 0));
        self.data = [data as u32, (data >> 32) as u32];
        self.fid = at.0 as u16;
    }
}

/// How many entries are in the table, and how many found no room.
#[derive(Default)]
struct Tally {
    used: u64,
    refused: u64,
}

/// The FDB as the kernel told it, and as the table has it.
#[derive(Default)]
pub struct FdbSync {
    known: HashMap<KernelKey, Known>,
    tally: Tally,
    /// [`Known::dump`] of the last one.
    dump: bool,
    /// What the entries in the table rest on; `None` after a dump, of which nothing is in the table yet.
    footing: Option<Footing>,
    /// What [`Tables::cancelled`] was when stale entries were last looked for.
    looked_at: u64,
}

impl FdbSync {
    /// Takes over a whole dump; `generations` were read before it was asked for. Entries are written by
    /// [`super::Sync::apply`].
    pub fn replace(&mut self, tables: &mut Tables, mut dump: Vec<(KernelKey, FdbEntry)>, generations: &[u32]) {
        self.footing = None;
        // A bridge has an entry of its own for each port in each of its VLANs: they are the first that there is no room for, as
        // frames to an address that is not in the table go to the bridge as well.
        if dump.len() > tables.fdb_size() / 4 * 3 {
            dump.retain(|(_, entry)| !entry.local);
        }
        self.dump = !self.dump;
        self.known.reserve(dump.len().saturating_sub(self.known.len()));
        for (key, entry) in dump {
            let generation = generations.get(cell(tables, &key) as usize).copied().unwrap_or_default();
            let known = self.known.entry(key).or_insert_with(|| Known::new(entry, generation, self.dump));
            (known.entry, known.generation, known.dump) = (entry, generation, self.dump);
        }
        self.known.retain(|key, known| {
            let stays = known.dump == self.dump;
            if !stays {
                self.tally.remove(tables, key, known);
            }
            stays
        });
        // No event said so, or this is the first that is heard of it.
        tables.end_decisions();
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
            if let Some(mut known) = self.known.remove(&key) {
                self.tally.remove(tables, &key, &mut known);
            }
            return;
        };
        let known = self.known.entry(key).or_insert_with(|| Known::new(entry, generation, self.dump));
        known.entry = entry;
        known.generation = generation;
        if let Some((at, data)) = wanted(plan, &key, known) {
            self.tally.put(tables, &key, known, at, data);
            return;
        }
        self.tally.remove(tables, &key, known);
        tables.end_decisions_in(key.vlan);
    }

    /// Whether nothing that the table's entries rest on is another in this plan: then none of them has to be looked at.
    pub(super) fn is_settled(&self, plan: &Plan) -> bool {
        self.tally.refused == 0 && self.footing.as_ref() == Some(&Footing::of(plan))
    }

    /// Removes what the plan no longer wants as it stands.
    pub(super) fn remove_outdated(&mut self, tables: &mut Tables, plan: &Plan) {
        let mut any = false;
        for (key, known) in &mut self.known {
            let written = known.written(key);
            if written.is_some() && written != wanted(plan, key, known) {
                self.tally.remove(tables, key, known);
                any = true;
            }
        }
        if any {
            tables.end_decisions();
        }
    }

    /// Lets the next frame of each source of a bridge go to the bridge.
    pub(super) fn refresh_soon(&self, tables: &mut Tables, bridge: IfIndex) {
        for (at, data) in
            self.known.iter().filter(|(key, _)| key.bridge == bridge).filter_map(|(key, known)| known.written(key))
        {
            // Replaces a value under the same key, so there is room.
            tables.put_fdb(at, data, 0);
        }
    }

    /// Puts what is not in the table yet.
    pub(super) fn put_all(&mut self, tables: &mut Tables, plan: &Plan) {
        self.tally.refused = 0;
        self.footing = Some(Footing::of(plan));
        for (key, known) in &mut self.known {
            if known.written(key).is_none()
                && let Some((at, data)) = wanted(plan, key, known)
            {
                self.tally.put(tables, key, known, at, data);
            }
        }
    }

    /// The entries whose cell has another generation than when the kernel was last asked about them.
    pub fn stale(&mut self, tables: &Tables) -> Vec<KernelKey> {
        // An entry's generation is read before the kernel is asked about it: it was current at the last look, or became stale
        // by a change since.
        // Whatever cancels writes the generation first, and this behind it.
        let cancelled = tables.cancelled();
        if self.looked_at == cancelled {
            return Vec::new();
        }
        self.looked_at = cancelled;
        self.known
            .iter()
            .filter(|(key, known)| tables.generation(cell(tables, key)) != known.generation)
            .map(|(key, _)| *key)
            .collect()
    }

    /// Entries of one bridge in the table.
    pub fn entries_of(&self, bridge: IfIndex) -> u64 {
        self.known.iter().filter(|(key, known)| key.bridge == bridge && known.written(key).is_some()).count() as u64
    }

    /// Entries that the kernel has told of.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Entries in the table, and entries that found no room.
    pub fn fill(&self) -> (u64, u64) {
        (self.tally.used, self.tally.refused)
    }
}

impl Tally {
    fn put(&mut self, tables: &mut Tables, key: &KernelKey, known: &mut Known, at: FdbKey, data: u64) {
        let written = known.written(key);
        if written == Some((at, data)) {
            return;
        }
        if let Some((old, _)) = written {
            self.used -= 1;
            if old != at {
                tables.remove_fdb(old);
            }
        }
        // The next frame of the source goes to the bridge: how old the kernel's entry is, is not known here.
        let put = tables.put_fdb(at, data, 0);
        // Also if it is new: that it was unknown may be remembered.
        tables.end_decisions_in(key.vlan);
        known.note(put.then_some((at, data)));
        if put {
            self.used += 1;
        } else {
            self.refused += 1;
            // An old value under the same key would be wrong now.
            tables.remove_fdb(at);
        }
    }

    fn remove(&mut self, tables: &mut Tables, key: &KernelKey, known: &mut Known) {
        if let Some((at, _)) = known.written(key) {
            known.note(None);
            self.used -= 1;
            tables.remove_fdb(at);
        }
    }
}

/// The generation cell of a kernel entry.
pub fn cell(tables: &Tables, key: &KernelKey) -> u32 {
    tables.generation_cell(Mac::new(key.mac), key.vlan)
}

fn wanted(plan: &Plan, key: &KernelKey, known: &Known) -> Option<(FdbKey, u64)> {
    let (at, slot, flags) = plan::fdb_entry(plan, key, &known.entry)?;
    Some((at, pack(slot, flags, known.generation)))
}
