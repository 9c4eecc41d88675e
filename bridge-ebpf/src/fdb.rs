//! The FDB table ([`bridge_common::fdb`]).

use core::ptr;

use aya_ebpf::{Global, bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use bridge_common::{
    fdb::{BUCKET, Bucket, coarse},
    maps::FdbKey,
};

/// The buckets; user space sets how many.
#[map(name = "xbr_fdb")]
static FDB: Array<Bucket> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// [`bridge_common::fdb::Placing`]; user space sets it.
#[unsafe(no_mangle)]
static XBR_FDB_FIRST: Global<u64> = Global::new(1);
/// As above.
#[unsafe(no_mangle)]
static XBR_FDB_SECOND: Global<u64> = Global::new(1);
/// As above.
#[unsafe(no_mangle)]
static XBR_FDB_SHIFT: Global<u32> = Global::new(63);

/// An entry.
pub(crate) struct Found {
    /// [`bridge_common::fdb::pack`]ed.
    pub(crate) data: u64,
    /// [`coarse`].
    pub(crate) refresh: u32,
}

/// Looks a key up, and says whether it is there.
///
/// A function of its own: to the verifier, all the ways through it end alike.
#[inline(never)]
pub(crate) fn find(key: u64, found: &mut Found) -> bool {
    let stored = bridge_common::fdb::stored(FdbKey(key));
    for multiplier in [XBR_FDB_FIRST.load(), XBR_FDB_SECOND.load()] {
        let Some(bucket) = bucket(key, multiplier) else { return false };
        let mut place = 0;
        while place < BUCKET {
            // SAFETY: the kernel returned the pointer for this program run. Volatile and in this order, as the place may be
            // given to another key meanwhile (see Bucket).
            unsafe {
                let stands = &raw const (*bucket).keys[place];
                if ptr::read_volatile(stands) == stored {
                    found.data = ptr::read_volatile(&raw const (*bucket).data[place]);
                    found.refresh = ptr::read_volatile(&raw const (*bucket).refresh[place]);
                    return ptr::read_volatile(stands) == stored;
                }
            }
            place += 1;
        }
    }
    false
}

/// Notes when the source's next frame is to go to the bridge.
#[inline(never)]
pub(crate) fn refresh(key: u64, at: u64) -> bool {
    let stored = bridge_common::fdb::stored(FdbKey(key));
    for multiplier in [XBR_FDB_FIRST.load(), XBR_FDB_SECOND.load()] {
        let Some(bucket) = bucket(key, multiplier) else { return false };
        let mut place = 0;
        while place < BUCKET {
            // SAFETY: as above; the worst that a race can do is one more or one less frame for the bridge.
            unsafe {
                if ptr::read_volatile(&raw const (*bucket).keys[place]) == stored {
                    ptr::write_volatile(&raw mut (*bucket).refresh[place], coarse(at));
                    return true;
                }
            }
            place += 1;
        }
    }
    false
}

#[inline(always)]
fn bucket(key: u64, multiplier: u64) -> Option<*mut Bucket> {
    FDB.get_ptr_mut((key.wrapping_mul(multiplier) >> XBR_FDB_SHIFT.load()) as u32)
}
