//! The FDB table: an array of buckets of one cache line each, so that a look-up costs one miss of the cache, or two.
//!
//! An address may stand in either of two buckets. User space alone puts and removes entries; the programs look them up, and
//! move the refresh of a source on. Which buckets these are follows from random numbers that are drawn at each start:
//! otherwise a tenant could choose addresses that crowd in the buckets of another's.

use crate::maps::FdbKey;

/// Entries of a bucket.
pub const BUCKET: usize = 3;

/// Up to [`BUCKET`] entries, field by field.
///
/// Whoever puts an entry in writes its key last; whoever takes one out clears the key first. So a program that reads the
/// key once before the other fields and once after them knows that they belong to it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// [`stored`] keys; 0 where there is no entry.
    pub keys: [u64; BUCKET],
    /// [`pack`]ed: one word, so that it is never torn.
    pub data: [u64; BUCKET],
    /// When the source's next frame is to go to the bridge ([`coarse`]). The programs move it on.
    pub refresh: [u32; BUCKET],
    /// So that the size is a cache line.
    pub unused: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Slot (bits 0 to 15), [`crate::maps::fdb_flags`] (16 to 31), generation (32 to 63). Never 0, as slot 0 is no port's.
#[inline(always)]
pub const fn pack(slot: u16, flags: u16, generation: u32) -> u64 {
    slot as u64 | (flags as u64) << 16 | (generation as u64) << 32
}

/// A key as it stands in a bucket. An array begins as zeros, and the one key that would be 0 is that of the broadcast address,
/// which is never looked up.
#[inline(always)]
pub const fn stored(key: FdbKey) -> u64 {
    !key.0
}

/// log2 of the nanoseconds in which refreshes are counted.
const COARSE_BITS: u32 = 26;

/// A moment of `CLOCK_MONOTONIC` in nanoseconds, in units of 67 ms; what is too far away is never.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it is looked at")]
pub const fn coarse(moment: u64) -> u32 {
    // Upwards: an interval that is short already must not become shorter.
    let units = (moment >> COARSE_BITS) + (moment & ((1 << COARSE_BITS) - 1) != 0) as u64;
    if units < u32::MAX as u64 { units as u32 } else { u32::MAX }
}

/// The moment, at most 67 ms later.
#[inline(always)]
pub const fn moment_of(coarse: u32) -> u64 {
    if coarse == u32::MAX { u64::MAX } else { (coarse as u64) << COARSE_BITS }
}

/// Where the two buckets of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    /// Odd numbers at random.
    pub multipliers: [u64; 2],
    /// How many buckets there are.
    pub buckets: u32,
}

impl Placing {
    /// For this number of buckets, from 2 on.
    pub const fn new(random: [u64; 2], buckets: u32) -> Self {
        Self { multipliers: [random[0] | 1, random[1] | 1], buckets }
    }

    /// The first (0) or second (1) bucket of a key.
    #[inline(always)]
    pub const fn bucket(&self, which: usize, key: FdbKey) -> u32 {
        bucket(key.0, self.multipliers[which], self.buckets)
    }
}

/// The bucket of a key: the upper half of a product, a fraction of 2^32, of all buckets. As many as there have to be, and
/// not the next power of two: a table that is larger has more pages, and a look-up is what it takes to find the page.
///
/// Twice, as addresses often follow one another: with one product, those of a whole machine crowd in few buckets for some
/// multipliers (one in 30 refused some of 60,000 addresses that had room, one in 1,500 half of 100,000).
#[inline(always)]
pub const fn bucket(key: u64, multiplier: u64, buckets: u32) -> u32 {
    let once = key.wrapping_mul(multiplier);
    let twice = (once ^ once >> 32).wrapping_mul(multiplier);
    (((twice >> 32) * buckets as u64) >> 32) as u32
}

/// How many buckets a table of `entries` has: at most half of the room is used, or there would be addresses both of whose
/// buckets are full.
#[expect(clippy::cast_possible_truncation, reason = "less than the number of entries, but for the smallest tables")]
pub const fn buckets(entries: u32) -> u32 {
    let wanted = (entries as u64 * 2).div_ceil(BUCKET as u64);
    if wanted < 2 { 2 } else { wanted as u32 }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: integers in repr(C) without padding: any bytes are a value.
    unsafe impl aya::Pod for super::Bucket {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    #[test]
    fn the_word_of_an_entry_keeps_its_parts_apart() {
        assert_eq!(pack(0x0123, 0x4567, 0x89ab_cdef), 0x89ab_cdef_4567_0123);
        assert_eq!(pack(u16::MAX, 0, 0), 0xffff);
        assert_eq!(pack(0, u16::MAX, 0), 0xffff_0000);
        assert_eq!(pack(0, 0, u32::MAX), 0xffff_ffff_0000_0000);
    }

    #[test]
    fn no_key_is_taken_for_a_free_place() {
        assert_ne!(stored(FdbKey::new(0, Mac::new([0; 6]))), 0);
        assert_ne!(stored(FdbKey::new(u16::MAX, Mac::new([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]))), 0);
        assert_eq!(stored(FdbKey::new(u16::MAX, Mac::new([0xff; 6]))), 0);
    }

    #[test]
    fn moments_are_kept_to_a_fifteenth_of_a_second() {
        for moment in [0, 1, 66_999_999, 1 << 40, 200_000_000_000_000_000] {
            let kept = moment_of(coarse(moment));
            assert!(kept >= moment && kept - moment < 1 << 26, "{moment}: {kept}");
        }
        assert_eq!(moment_of(coarse(u64::MAX)), u64::MAX);
        assert_eq!(moment_of(coarse(1 << 60)), u64::MAX);
    }

    #[test]
    fn half_of_the_room_is_enough() {
        for entries in [1, 2, 3, 4, 100, 65_536, 98_304, 1_000_000, u32::MAX / 4] {
            let buckets = buckets(entries);
            assert!(u64::from(buckets) * 3 >= 2 * u64::from(entries), "{entries}: {buckets}");
        }
        assert_eq!((buckets(0), buckets(1), buckets(3), buckets(4)), (2, 2, 2, 3));
        assert_eq!((buckets(65_536), buckets(98_304), buckets(u32::MAX)), (43_691, 65_536, 2_863_311_530));
    }

    #[test]
    fn buckets_are_in_the_table() {
        for buckets in [2, 3, 4, 65_536, 1 << 31, u32::MAX] {
            let placing = Placing::new([0x9e37_79b9_7f4a_7c15, u64::MAX], buckets);
            for key in [FdbKey(0), FdbKey(u64::MAX), FdbKey(0x0200_0000_0001_0001)] {
                assert!(placing.bucket(0, key) < buckets && placing.bucket(1, key) < buckets);
            }
        }
    }

    #[test]
    fn the_bucket_is_where_the_products_lie_between_zero_and_all() {
        let placing = Placing::new([2, 4], 1 << 16);
        assert_eq!(placing.multipliers, [3, 5]);
        let key = FdbKey(0x1234_0000_0000_0000);
        assert_eq!((placing.bucket(0, key), placing.bucket(1, key)), (0xa3d4, 0xc714));
        let placing = Placing::new([1, 1], 1000);
        let at = |key| placing.bucket(0, FdbKey(key));
        assert_eq!([at(0), at(1 << 62), at(1 << 63), at(3 << 62), at(u64::MAX)], [0, 250, 500, 750, 999]);
    }
}
