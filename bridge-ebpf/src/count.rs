//! Counters: one cell per port and reason, and one per VLAN, on each CPU.

use core::hint::black_box;

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use bridge_common::{
    decide::Fid,
    maps::{Counter, MAX_FIDS, MAX_PORTS, MAX_VLAN_CELLS, PortCounters, VlanCounters},
    reason::{Class, REASONS, Reason},
};

/// Counters by slot. Slot 0 counts frames of devices that have none.
#[map(name = "xbr_count")]
static PORT_COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(MAX_PORTS, 0);

/// Frames sent by slot, of logical ports that are left by their parent: the VLAN device counts none of them.
#[map(name = "xbr_sent")]
static SENT: PerCpuArray<Counter> = PerCpuArray::with_max_entries(MAX_PORTS, 0);

/// fid → cell of [`VLAN_COUNTERS`].
#[map(name = "xbr_vcell")]
static VLAN_CELLS: Array<u32> = Array::with_max_entries(MAX_FIDS, 0);

/// Counters by VLAN cell.
#[map(name = "xbr_vcount")]
static VLAN_COUNTERS: PerCpuArray<VlanCounters> = PerCpuArray::with_max_entries(MAX_VLAN_CELLS, 0);

/// A number of frames and their bytes.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    /// One frame of `len` bytes.
    #[inline(always)]
    const fn one(len: u32) -> Self {
        Self { packets: 1, bytes: len as u64 }
    }
}

/// Counts one frame of `len` bytes that came in at the port in `slot`.
#[inline(always)]
pub(crate) fn count(slot: u16, reason: Reason, fid: Fid, len: u32) {
    let fast = matches!(reason.class(), Class::Fast);
    xbr_add(u32::from(slot), reason as u32 | u32::from(fast) << 8, fid.index(), len);
}

/// As [`count`], in the program itself: where there are tail calls, a call of a function makes every entry dearer.
#[inline(always)]
pub(crate) fn count_here(slot: u16, reason: Reason, fid: Fid, len: u32) {
    let fast = matches!(reason.class(), Class::Fast);
    add_to(slot, reason as usize, fast, fid.index(), Amount::one(len));
}

/// As [`count`], with [`Class::Fast`] in bit 8 of the reason's number. Exported as [`crate::decision::xbr_decide`] is.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn xbr_add(slot: u32, reason: u32, fid: u32, len: u32) -> u64 {
    add_to(slot as u16, reason as usize & 0xff, reason & 0x100 != 0, fid, Amount::one(len));
    0
}

/// Counts frames that came in at the port in `slot`, with the number of their reason, whether they were fast, and the place
/// of their [`Fid`].
#[inline(always)]
pub(crate) fn add_to(slot: u16, reason: usize, fast: bool, fid: u32, amount: Amount) {
    if let Some(counters) = PORT_COUNTERS.get_ptr_mut(u32::from(slot)) {
        // The compiler knows that no reason is so large and would drop the mask, which the verifier wants to see.
        let index = black_box(reason) & (REASONS - 1);
        // SAFETY: the value belongs to this CPU and the index is masked to its length.
        add(unsafe { &mut (*counters).reasons[index] }, amount);
    }
    let Some(cell) = VLAN_CELLS.get(fid) else { return };
    if let Some(counters) = VLAN_COUNTERS.get_ptr_mut(*cell) {
        // SAFETY: the value belongs to this CPU.
        let counters = unsafe { &mut *counters };
        add(if fast { &mut counters.fast } else { &mut counters.slow }, amount);
    }
}

/// Counts one frame of `len` bytes that leaves the logical port in `slot` by its parent.
#[inline(always)]
pub(crate) fn count_sent(slot: u16, len: u32) {
    add_sent(slot, Amount::one(len));
}

/// Counts frames that leave the logical port in `slot` by its parent.
#[inline(always)]
pub(crate) fn add_sent(slot: u16, amount: Amount) {
    if let Some(counter) = SENT.get_ptr_mut(u32::from(slot)) {
        // SAFETY: the value belongs to this CPU.
        add(unsafe { &mut *counter }, amount);
    }
}

#[inline(always)]
fn add(counter: &mut Counter, amount: Amount) {
    counter.packets += amount.packets;
    counter.bytes += amount.bytes;
}
