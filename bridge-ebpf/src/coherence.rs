//! Hears what the kernel is about to change, and takes away what was believed of it, before the next frame.

use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::map, maps::Array, programs::RawTracePointContext};
use aya_log_ebpf::debug;
use bridge_common::{mac::Mac, maps::KernelLayout};

use crate::tables::{cancel, policy_announced};

/// User space sets it from the kernel's BTF before it attaches the programs: a map and no constant, as the bridge may be a
/// module that is loaded later.
#[map(name = "xbr_layout")]
static LAYOUT: Array<KernelLayout> = Array::with_max_entries(1, 0);

/// Reads kernel memory; the helper survives bad pointers.
#[inline(always)]
fn read<T>(address: usize) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// `fdb_delete(br, f)`.
#[inline(always)]
pub(crate) fn entry_deleted(ctx: &RawTracePointContext) -> Option<()> {
    let layout = LAYOUT.get(0)?;
    let entry = ctx.arg::<*const u8>(1) as usize;
    cancel_in(
        ctx,
        layout,
        read(ctx.arg::<*const u8>(0) as usize + layout.bridge_dev as usize)?,
        read(entry + layout.entry_addr as usize)?,
        read(entry + layout.entry_vlan as usize)?,
    )
}

/// `br_fdb_update(br, source, addr, vid, flags)` and `br_fdb_external_learn_add(br, p, addr, vid)`.
#[inline(always)]
pub(crate) fn bridge_changed(ctx: &RawTracePointContext) -> Option<()> {
    let layout = LAYOUT.get(0)?;
    let device = read(ctx.arg::<*const u8>(0) as usize + layout.bridge_dev as usize)?;
    cancel_in(ctx, layout, device, read(ctx.arg::<*const u8>(2) as usize)?, ctx.arg::<u16>(3))
}

/// `br_fdb_add(ndm, dev, addr, vid, nlh_flags)`.
#[inline(always)]
pub(crate) fn device_changed(ctx: &RawTracePointContext) -> Option<()> {
    let device = ctx.arg::<*const u8>(1) as usize;
    cancel_in(ctx, LAYOUT.get(0)?, device, read(ctx.arg::<*const u8>(2) as usize)?, ctx.arg::<u16>(3))
}

/// Cancels the address if the device is of our namespace.
#[inline(always)]
fn cancel_in(ctx: &RawTracePointContext, layout: &KernelLayout, device: usize, addr: [u8; 6], vid: u16) -> Option<()> {
    if is_ours(layout, device + layout.device_net as usize)? {
        cancel(vid, Mac::new(addr));
        debug!(ctx, "the bridge changes {:mac} in VLAN {}", addr, vid);
    }
    Some(())
}

/// `nf_setsockopt(sk, pf, val, opt, len)`, by which ebtables and the older iptables replace their tables.
#[inline(always)]
pub(crate) fn tables_replaced(sock: usize) -> Option<()> {
    let layout = LAYOUT.get(0)?;
    if is_ours(layout, sock + layout.sock_net as usize)? {
        policy_announced();
    }
    Some(())
}

/// Whether the pointer to a namespace at this address is to ours.
#[inline(always)]
fn is_ours(layout: &KernelLayout, pointer: usize) -> Option<bool> {
    let net: usize = read(pointer)?;
    let inum: u32 = read(net + layout.net_inum as usize)?;
    Some(inum == layout.netns)
}
