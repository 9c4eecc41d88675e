//! The FDB table ([`bridge_common::fdb`]).

use core::ptr;

use aya_ebpf::Global;
use bridge_common::{
    fdb::{BUCKET, Bucket, coarse},
    holes,
    maps::FdbKey,
};

use crate::holes::address;

/// [`bridge_common::fdb::Placing`]; user space sets it.
#[unsafe(no_mangle)]
static XBR_FDB_FIRST: Global<u64> = Global::new(1);
/// As above.
#[unsafe(no_mangle)]
static XBR_FDB_SECOND: Global<u64> = Global::new(1);
/// As above.
#[unsafe(no_mangle)]
static XBR_FDB_BUCKETS: Global<u32> = Global::new(2);

/// Looks a key up whose generation is this one. Returns 0 if it is not there; else slot (bits 0 to 15), flags (16 to 31), and
/// refresh ([`coarse`], 32 to 63).
#[inline(always)]
pub(crate) fn find(key: u64, generation: u64) -> u64 {
    let stored = bridge_common::fdb::stored(FdbKey(key));
    for multiplier in [XBR_FDB_FIRST.load(), XBR_FDB_SECOND.load()] {
        let bucket = bucket(key, multiplier);
        let mut place = 0;
        while place < BUCKET {
            // SAFETY: one of the buckets. Volatile and in this order, as the place may be
            // given to another key meanwhile (see Bucket).
            unsafe {
                let stands = &raw const (*bucket).keys[place];
                if ptr::read_volatile(stands) == stored {
                    let data = ptr::read_volatile(&raw const (*bucket).data[place]);
                    let refresh = ptr::read_volatile(&raw const (*bucket).refresh[place]);
                    if data >> 32 != generation & 0xffff_ffff || ptr::read_volatile(stands) != stored {
                        return 0;
                    }
                    return data & 0xffff_ffff | u64::from(refresh) << 32;
                }
            }
            place += 1;
        }
    }
    0
}

/// As [`find`]: a function that the linker exports, so that the verifier looks at it once, and not on each way that leads to a
/// call.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn xbr_find(key: u64, generation: u64) -> u64 {
    find(key, generation)
}

/// Notes when the source's next frame is to go to the bridge. Returns 1 if the key is there. As [`xbr_find`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn xbr_refresh(key: u64, at: u64) -> u64 {
    let stored = bridge_common::fdb::stored(FdbKey(key));
    for multiplier in [XBR_FDB_FIRST.load(), XBR_FDB_SECOND.load()] {
        let bucket = bucket(key, multiplier);
        let mut place = 0;
        while place < BUCKET {
            // SAFETY: as above; the worst that a race can do is one more or one less frame for the bridge.
            unsafe {
                if ptr::read_volatile(&raw const (*bucket).keys[place]) == stored {
                    ptr::write_volatile(&raw mut (*bucket).refresh[place], coarse(at));
                    return 1;
                }
            }
            place += 1;
        }
    }
    0
}

#[inline(always)]
fn bucket(key: u64, multiplier: u64) -> *mut Bucket {
    let number = bridge_common::fdb::bucket(key, multiplier, XBR_FDB_BUCKETS.load());
    // The verifier knows how many there are and follows the number, but for what the compiler does not shift but mask: so
    // there is room for one more.
    address::<Bucket, { holes::FDB }>().wrapping_add(number as usize)
}
