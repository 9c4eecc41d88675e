//! Cancels cached FDB entries from the bridge's own tracepoints, before the next frame.

use core::ptr;

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use bridge_common::mac::Mac;

use crate::tables::cancel;

/// Offset of `key.addr` in `struct net_bridge_fdb_entry`, in bytes; user space sets it from the kernel's BTF.
#[unsafe(no_mangle)]
static FDB_ADDR_OFFSET: u32 = 16;
/// Offset of `key.vlan_id`.
#[unsafe(no_mangle)]
static FDB_VLAN_OFFSET: u32 = 22;

/// Second argument: the entry.
#[inline(always)]
pub(crate) fn entry_deleted(ctx: &RawTracePointContext) {
    let entry = ctx.arg::<*const u8>(1) as usize;
    // SAFETY: volatile, as user space sets them before the program is loaded.
    let (addr, vlan) =
        unsafe { (ptr::read_volatile(&raw const FDB_ADDR_OFFSET), ptr::read_volatile(&raw const FDB_VLAN_OFFSET)) };
    cancel_at((entry + addr as usize) as *const [u8; 6], (entry + vlan as usize) as *const u16);
}

/// Third argument: the address; fourth: the VLAN id.
#[inline(always)]
pub(crate) fn address_changed(ctx: &RawTracePointContext) {
    let addr = ctx.arg::<*const [u8; 6]>(2);
    let vid = ctx.arg::<u16>(3);
    // SAFETY: reads kernel memory through the helper, which survives bad pointers.
    if let Ok(mac) = unsafe { bpf_probe_read_kernel(addr) } {
        cancel(vid, Mac::new(mac));
    }
}

#[inline(always)]
fn cancel_at(addr: *const [u8; 6], vlan: *const u16) {
    // SAFETY: reads kernel memory through the helper, which survives bad pointers.
    if let (Ok(mac), Ok(vid)) = unsafe { (bpf_probe_read_kernel(addr), bpf_probe_read_kernel(vlan)) } {
        cancel(vid, Mac::new(mac));
    }
}
