//! The whole FDB of a bridge, from the kernel's own list.
//!
//! The kernel's dump of an FDB (`br_fdb_dump`) goes through the list from its head for every 32 KiB of answers, and for every port:
//! of a million entries it takes most of a minute. This program goes through it once. The list is one of RCU's
//! (`hlist_add_head_rcu`, `kfree_rcu`), and the kernel runs the program on the reading side (`__bpf_prog_test_run_raw_tp`), as
//! its own dump does.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::{bpf_get_current_task, bpf_loop, bpf_probe_read_kernel},
    macros::map,
    maps::Array,
    programs::RawTracePointContext,
};
use bridge_common::census::{Counted, FdbLayout, MOST, NO_BRIDGE, TOO_MANY, UNREADABLE};

/// User space sets it from the kernel's BTF.
#[map(name = "xbr_fdb_layout")]
static LAYOUT: Array<FdbLayout> = Array::with_max_entries(1, 0);

/// Cell 0: how many were found, in `flags`. Behind it, what was found; user space sets the size.
#[map(name = "xbr_census")]
static FOUND: Array<Counted> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Devices of a namespace that are looked at for the bridge.
const DEVICES: u32 = 1 << 20;

/// Reads kernel memory; the helper survives bad pointers.
#[inline(always)]
fn read<T>(address: usize) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// Where the search for a device is.
#[repr(C)]
struct Search {
    /// The next `dev_list`.
    at: usize,
    head: usize,
    ifindex: u32,
    failed: u32,
    /// The device, once it is found.
    device: usize,
}

/// Where the walk is.
#[repr(C)]
struct Walk {
    /// The next `fdb_node`; 0 at the end.
    at: usize,
    /// The port of the last entry, and its device: neighbours in the list often share it.
    port: usize,
    ifindex: u32,
    count: u32,
    /// One of the numbers that are no count; 0: all is well.
    failed: u32,
    /// Entries with one of these flags are left out.
    without: u32,
}

/// Writes the entries of the bridge with the index in the first argument, but for those with a flag in the second, to
/// [`FOUND`].
#[inline(always)]
pub(crate) fn take(ctx: &RawTracePointContext) {
    let count = count(ctx);
    if let Some(cell) = FOUND.get_ptr_mut(0) {
        // SAFETY: the kernel returned the pointer for this program run, and user space reads when it is over.
        unsafe { (*cell).flags = count }
    }
}

/// As [`take`]: their number, or why there is none.
#[inline(always)]
fn count(ctx: &RawTracePointContext) -> u32 {
    let Some(layout) = LAYOUT.get(0) else { return UNREADABLE };
    let Some(bridge) = bridge(layout, ctx.arg::<u64>(0) as u32) else { return NO_BRIDGE };
    let Some(first) = read(bridge + layout.bridge_entries as usize) else { return UNREADABLE };
    let mut walk = Walk { at: first, port: 0, ifindex: 0, count: 0, failed: 0, without: ctx.arg::<u64>(1) as u32 };
    // SAFETY: the function is one for this helper, and the memory that it is handed is what it expects.
    unsafe { bpf_loop(MOST, next_entry as *mut c_void, (&raw mut walk).cast(), 0) };
    match walk.failed {
        0 if walk.at == 0 => walk.count,
        0 => TOO_MANY,
        failed => failed,
    }
}

/// The `struct net_bridge` with this index in our namespace.
#[inline(always)]
fn bridge(layout: &FdbLayout, ifindex: u32) -> Option<usize> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() } as usize;
    let spaces: usize = read(task + layout.task_spaces as usize)?;
    let net: usize = read(spaces + layout.spaces_net as usize)?;
    let head = net + layout.net_devices as usize;
    let mut search = Search { at: read(head)?, head, ifindex, failed: 0, device: 0 };
    // SAFETY: as above.
    unsafe { bpf_loop(DEVICES, next_device as *mut c_void, (&raw mut search).cast(), 0) };
    let device = search.device;
    let bridge = device + layout.device_private as usize;
    // Of another kind of device, nothing is where a bridge names its device.
    let named: usize = read(bridge + layout.bridge_device as usize)?;
    (device != 0 && named == device).then_some(bridge)
}

/// One step of the search: goes on while it returns 0.
#[inline(never)]
unsafe extern "C" fn next_device(_index: u32, search: *mut Search) -> i64 {
    // SAFETY: `bridge` hands it a reference to its own.
    let search = unsafe { &mut *search };
    let Some(layout) = LAYOUT.get(0) else { return 1 };
    if search.at == search.head {
        return 1;
    }
    let device = search.at.wrapping_sub(layout.device_list as usize);
    if read(device + layout.device_ifindex as usize) == Some(search.ifindex) {
        search.device = device;
        return 1;
    }
    match read(search.at) {
        Some(next) => search.at = next,
        None => return 1,
    }
    0
}

/// One step of the walk: goes on while it returns 0.
#[inline(never)]
unsafe extern "C" fn next_entry(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `take` hands it a reference to its own.
    let walk = unsafe { &mut *walk };
    if walk.at == 0 {
        return 1;
    }
    let Some(next) = note(walk) else {
        if walk.failed == 0 {
            walk.failed = UNREADABLE;
        }
        return 1;
    };
    walk.at = next;
    0
}

/// Notes the entry at hand and returns where the next one is.
#[inline(always)]
fn note(walk: &mut Walk) -> Option<usize> {
    let layout = LAYOUT.get(0)?;
    let entry = walk.at.wrapping_sub(layout.entry_node as usize);
    let flags: u64 = read(entry + layout.entry_flags as usize)?;
    if flags as u32 & walk.without != 0 {
        return read(walk.at);
    }
    let Some(cell) = FOUND.get_ptr_mut(walk.count + 1) else {
        walk.failed = TOO_MANY;
        return None;
    };
    let port: usize = read(entry + layout.entry_port as usize)?;
    if port != 0 && port != walk.port {
        let device: usize = read(port + layout.port_device as usize)?;
        walk.ifindex = read(device + layout.device_ifindex as usize)?;
        walk.port = port;
    }
    let counted = Counted {
        mac: read(entry + layout.entry_addr as usize)?,
        vlan: read(entry + layout.entry_vlan as usize)?,
        // An entry without a port belongs to the bridge itself.
        port: if port == 0 { 0 } else { walk.ifindex },
        flags: if flags >> 32 == 0 { flags as u32 } else { u32::MAX },
    };
    // SAFETY: as in `take`.
    unsafe { *cell = counted }
    walk.count += 1;
    read(walk.at)
}
