//! The FDB table, as user space writes it ([`bridge_common::fdb`]).

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{Ordering, fence},
};

use bridge_common::{
    fdb::{BUCKET, Bucket, Placing, buckets, coarse, stored},
    maps::{FdbKey, GenerationCells},
};

use super::cells::Cells;

/// How large a table is, and where its entries stand.
#[derive(Clone, Copy, Debug)]
pub struct FdbShape {
    /// How many entries it takes.
    pub entries: u32,
    /// Its buckets.
    pub buckets: u32,
    /// Drawn anew for each table.
    pub placing: Placing,
    /// As above.
    pub generations: GenerationCells,
}

impl FdbShape {
    /// For this number of entries, in places that nobody knows beforehand.
    pub fn new(entries: u32) -> Self {
        // The standard library's keys for hashing are random.
        Self::with(entries, [0, 1, 2].map(|number: u8| RandomState::new().hash_one(number)))
    }

    /// For this number of entries, in places that follow from these numbers.
    pub const fn with(entries: u32, [first, second, third]: [u64; 3]) -> Self {
        let buckets = buckets(entries);
        let placing = Placing::new([first, second], buckets);
        Self { entries, buckets, placing, generations: GenerationCells::new(third, entries) }
    }
}

/// The table.
pub(super) struct FdbTable {
    cells: Cells<Bucket>,
    shape: FdbShape,
    used: u32,
}

/// At most so many entries are moved for a new one. With one, one in 2,000 tables of 65,536 had no room for its last entries.
const MOVES: u32 = 3;

/// A place in a bucket.
type Place = (u32, usize);

impl FdbTable {
    pub(super) fn new(cells: Cells<Bucket>, shape: FdbShape) -> Self {
        Self { cells, shape, used: 0 }
    }

    /// How many entries it takes.
    pub(super) fn size(&self) -> usize {
        self.shape.entries as usize
    }

    /// Puts an entry, or replaces the one under this key. `false`: the table is full.
    pub(super) fn put(&mut self, key: FdbKey, data: u64, refresh_at: u64) -> bool {
        if let Some(place) = self.place_of(key) {
            // Programs see the old entry or the new one.
            self.write_refresh(place, coarse(refresh_at));
            self.write_data(place, data);
            return true;
        }
        if self.used >= self.shape.entries {
            return false;
        }
        let Some(place) = self.free_place(key).or_else(|| self.make_room(key, MOVES)) else { return false };
        self.fill(place, stored(key), data, coarse(refresh_at));
        self.used += 1;
        true
    }

    /// Removes an entry; one that is not there is fine.
    pub(super) fn remove(&mut self, key: FdbKey) {
        if let Some(place) = self.place_of(key) {
            self.clear(place);
            self.used -= 1;
        }
    }

    fn places(&self, key: FdbKey) -> impl Iterator<Item = Place> + use<> {
        let placing = self.shape.placing;
        (0..2).flat_map(move |which| (0..BUCKET).map(move |place| (placing.bucket(which, key), place)))
    }

    fn key_at(&self, (bucket, place): Place) -> u64 {
        // SAFETY: the field of a value that the pointer is valid for.
        self.cells.part(bucket, |bucket| unsafe { &raw const (*bucket).keys[place] })
    }

    fn place_of(&self, key: FdbKey) -> Option<Place> {
        self.places(key).find(|place| self.key_at(*place) == stored(key))
    }

    /// A place in the first of the key's buckets, which programs look at first; where that is almost full, in the emptier one.
    fn free_place(&self, key: FdbKey) -> Option<Place> {
        let free = |which: usize| {
            let bucket = self.shape.placing.bucket(which, key);
            let mut free = (0..BUCKET).map(|place| (bucket, place)).filter(|place| self.key_at(*place) == 0);
            (free.next(), free.count())
        };
        let (first, second) = (free(0), free(1));
        if first.1 > 0 {
            return first.0;
        }
        if second.0.is_some() && (first.0.is_none() || second.1 > first.1) { second.0 } else { first.0 }
    }

    /// Moves an entry of one of the key's buckets to its other one, and returns the place that it had. Where that is full too,
    /// room is made there first, up to `moves` moves in a row.
    fn make_room(&mut self, key: FdbKey, moves: u32) -> Option<Place> {
        let moves = moves.checked_sub(1)?;
        let at_once = self.places(key).find_map(|place| {
            let resident = self.resident(place);
            Some((place, resident, self.free_place(resident)?))
        });
        let later = || {
            self.places(key).find_map(|place| {
                let resident = self.resident(place);
                if resident == key {
                    return None;
                }
                let to = self.make_room(resident, moves)?;
                // It may have been one of those that were moved.
                (self.resident(place) == resident).then_some((place, resident, to))
            })
        };
        let (place, resident, to) = at_once.or_else(later)?;
        let old = self.cells.read(place.0);
        // It stands in both places for a moment, never in none.
        self.fill(to, stored(resident), old.data[place.1], old.refresh[place.1]);
        self.clear(place);
        Some(place)
    }

    /// The key of the entry in a place that has one.
    fn resident(&self, place: Place) -> FdbKey {
        FdbKey(!self.key_at(place))
    }

    fn fill(&mut self, place: Place, key: u64, data: u64, refresh: u32) {
        self.write_refresh(place, refresh);
        self.write_data(place, data);
        fence(Ordering::SeqCst);
        self.write_key(place, key);
    }

    fn clear(&mut self, place: Place) {
        self.write_key(place, 0);
        fence(Ordering::SeqCst);
    }

    fn write_key(&mut self, (bucket, place): Place, key: u64) {
        // SAFETY: the field of a value that the pointer is valid for.
        self.cells.write(bucket, |bucket| unsafe { &raw mut (*bucket).keys[place] }, key);
    }

    fn write_data(&mut self, (bucket, place): Place, data: u64) {
        // SAFETY: as above.
        self.cells.write(bucket, |bucket| unsafe { &raw mut (*bucket).data[place] }, data);
    }

    fn write_refresh(&mut self, (bucket, place): Place, refresh: u32) {
        // SAFETY: as above.
        self.cells.write_half(bucket, |bucket| unsafe { &raw mut (*bucket).refresh[place] }, refresh);
    }
}
