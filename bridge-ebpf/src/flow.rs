//! The flow cache ([`bridge_common::flow`]): looking at a cell, filling it, and counting for it.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_smp_processor_id, bpf_jiffies64},
    macros::map,
    maps::{Array, PerCpuArray},
};
use bridge_common::{
    decide::Fid,
    flow::{self, CHURN_CELLS, FLOW_TICKS, FLOWS, Flow, FlowKey, Hook, churn_cell, flow_flags, packets_and_bytes},
    frame::{ETH_P_IP, ETH_P_IPV6, Tag},
    maps::{Port, port_flags},
    tags::Rewrite,
};

use crate::{
    count::{Amount, add_sent, add_to},
    decision::Words,
    tables::changed,
};

/// Whether decisions are remembered; user space sets it to 0 where programs of one CPU may interrupt each other.
#[unsafe(no_mangle)]
static XBR_CACHE: Global<u32> = Global::new(1);

/// The cells, [`FLOWS`] for each CPU; user space sets the size.
#[map(name = "xbr_flows")]
static CELLS: Array<Flow> = Array::with_max_entries(FLOWS, BPF_F_MMAPABLE);

/// Cell 0: the key of the frame at hand.
#[map(name = "xbr_key")]
static KEY: PerCpuArray<FlowKey> = PerCpuArray::with_max_entries(1, 0);

/// By [`churn_cell`]: when something was last cancelled there ([`bridge_common::maps::moment`]).
#[map(name = "xbr_churn")]
static CHURN: Array<u64> = Array::with_max_entries(CHURN_CELLS, BPF_F_MMAPABLE);

/// The state of everything that a decision rests on, from before it was looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    changed: u64,
    churn: u64,
    /// [`NO_VID`]: frames like this one are to be looked at one by one. No `Option`, of which the verifier would see parts
    /// without a value.
    vid: u16,
}

/// The protocol of an IP packet.
const UDP: u8 = 17;
/// No VLAN id.
const NO_VID: u16 = u16::MAX;

/// What was decided about a frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) max_len: u32,
    pub(crate) out: u16,
    pub(crate) flags: u16,
    pub(crate) ifindex: u32,
    pub(crate) fid: Fid,
    pub(crate) slot: u16,
    pub(crate) vid: u16,
    pub(crate) rewrite: Rewrite,
}

/// What [`xbr_remember`] is told.
#[repr(C)]
struct Note {
    stamp: Stamp,
    found: Found,
}

/// Words of a [`Note`].
const WORDS: usize = size_of::<Note>() / 8;
const _: () = assert!(size_of::<Note>().is_multiple_of(8));

/// The cell of a key on this CPU.
#[inline(always)]
pub(crate) fn cell(key: &FlowKey) -> Option<*mut Flow> {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    CELLS.get_ptr_mut(cpu * FLOWS + key.cell())
}

/// The cell of this key if the decision in it still stands.
#[inline(always)]
pub(crate) fn current(key: &FlowKey) -> Option<&'static mut Flow> {
    // Where nothing is remembered, no cell has a key.
    let cell = cell(key)?;
    // SAFETY: the kernel returned the pointer for this program run, and programs of one CPU do not interrupt each other:
    // they run in its softirq (see XBR_CACHE). User space only reads, but for the counts of cells that serve no port.
    let flow = unsafe { &mut *cell };
    if flow.key.head != key.head
        || flow.key.middle != key.middle
        || flow.key.rest != key.rest
        || tick().wrapping_sub(flow.tick) >= FLOW_TICKS
        || churn(flow.churn_at) != flow.churn
    {
        return None;
    }
    Some(flow)
}

/// To be called before the FDB is looked at for a frame of this port; [`changed`] is to be read before everything. The FDB
/// changes by VLAN: `tag` says in which it will be looked at, unless the decision sees it otherwise.
#[inline(always)]
pub(crate) fn stamp(changed: u64, port: &Port, tag: Option<Tag>, is_ip: bool) -> Stamp {
    if is_ip && port.flags & (port_flags::CHECK_IPV4 | port_flags::CHECK_IPV6) != 0 {
        return Stamp { changed, churn: 0, vid: NO_VID };
    }
    let vid = match tag {
        _ if port.flags & port_flags::VLAN_AWARE == 0 => 0,
        // Payload, whose length counts.
        Some(tag) if tag.tpid() != port.tpid => return Stamp { changed, churn: 0, vid: NO_VID },
        Some(tag) if tag.vid() != 0 => tag.vid(),
        _ => port.pvid & 0x0fff,
    };
    Stamp { changed, churn: churn(churn_cell(vid)), vid }
}

/// Hands the key on to the program behind: made there once more, it would be too much for the verifier.
#[inline(always)]
pub(crate) fn hand_on(key: &FlowKey) {
    if let Some(cell) = KEY.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU.
        unsafe { *cell = if key.decides() { *key } else { FlowKey::NONE } }
    }
}

/// Hands no key on: frames like this one are to be looked at one by one, or this one is not quite like those of its cell,
/// which stays as it is.
#[cold]
#[inline(always)]
pub(crate) fn hand_nothing_on() {
    if let Some(cell) = KEY.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU. FlowKey::NONE is known by this part.
        unsafe { (*cell).rest = 0 }
    }
}

/// Remembers what was decided about the frame whose key was handed on.
#[inline(always)]
pub(crate) fn fill(stamp: Stamp, found: Found) {
    let mut words = Words::<WORDS>::new();
    // SAFETY: as large and as aligned.
    unsafe { words.pointer().cast::<Note>().write(Note { stamp, found }) }
    xbr_remember(words.pointer());
}

/// As [`fill`]. Exported as [`crate::decision::xbr_decide`] is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xbr_remember(note: *mut [u64; WORDS]) -> u64 {
    // SAFETY: only `fill` calls this.
    if let Some(Note { stamp, found }) = unsafe { note.cast::<Note>().as_ref() } {
        remember(*stamp, found);
    }
    0
}

#[inline(always)]
fn remember(stamp: Stamp, found: &Found) {
    let Some(key) = KEY.get_ptr(0) else { return };
    // SAFETY: the value belongs to this CPU.
    let key = unsafe { &*key };
    // Whoever changes more than the FDB writes `changed` first and the churn cells behind it: if a cell was seen that was
    // written so after the tables had been looked at, this is.
    if XBR_CACHE.load() == 0
        || stamp.vid == NO_VID
        || stamp.vid != found.vid
        || key.rest == 0
        || changed() != stamp.changed
    {
        return;
    }
    let Some(cell) = cell(key) else { return };
    flush(cell);
    let max_len = if found.max_len > 0xffff { 0xffff } else { found.max_len as u16 };
    // SAFETY: as in `current`. The key is written last: whoever reads meanwhile finds no key that the rest is not about.
    unsafe {
        ptr::write_volatile(&raw mut (*cell).key.rest, 0);
        (*cell).churn = stamp.churn;
        (*cell).tick = tick();
        (*cell).max_len = max_len;
        (*cell).churn_at = churn_cell(found.vid);
        (*cell).out = found.out;
        (*cell).flags = found.flags | kind(key) | flag(flow_flags::UNCLASSIFIED, found.fid.get().is_none());
        (*cell).ifindex = found.ifindex;
        (*cell).slot = found.slot;
        (*cell).fid = found.fid.index() as u16;
        (*cell).rewrite = found.rewrite;
        (*cell).key.head = key.head;
        (*cell).key.middle = key.middle;
        ptr::write_volatile(&raw mut (*cell).key.rest, key.rest);
    }
}

/// Remembers that frames like this one are left to the bridge, by the number of the reason.
#[inline(always)]
pub(crate) fn pass(stamp: Stamp, slot: u16, reason: u16, fid: Fid) {
    let found = Found {
        max_len: 0,
        out: reason,
        flags: flow_flags::PASSES,
        ifindex: 0,
        slot,
        fid,
        vid: stamp.vid,
        rewrite: Rewrite::NOTHING,
    };
    fill(stamp, found);
}

/// Counts one frame of `len` bytes that a cell has served.
#[inline(always)]
pub(crate) fn served(flow: &mut Flow, len: u64) {
    flow.served = flow.served.wrapping_add(flow::served(len));
}

/// Adds what the cell has served to the counters. User space looks at `flushes` of the first cell of each CPU before and
/// after it adds up counters and cells: if it is odd or has changed, it has seen the same frames twice or not at all.
#[inline(always)]
fn flush(cell: *mut Flow) {
    // SAFETY: as in `current`.
    let (flow, first) = unsafe {
        let Some(first) = CELLS.get_ptr_mut(bpf_get_smp_processor_id() * FLOWS) else { return };
        (&mut *cell, &raw mut (*first).flushes)
    };
    if flow.served == 0 {
        return;
    }
    // SAFETY: the kernel returned the pointer for this program run, and only this CPU writes there.
    unsafe { ptr::write_volatile(first, ptr::read_volatile(first) + 1) };
    let (packets, bytes) = packets_and_bytes(flow.served);
    let amount = Amount { packets, bytes };
    let fast = flow.flags & flow_flags::PASSES == 0;
    add_to(flow.slot, flow.reason(), fast, flow.fid().index(), amount);
    if flow.flags & flow_flags::COUNTS_SENT != 0 {
        add_sent(flow.out, amount);
    }
    flow.served = 0;
    // SAFETY: as above.
    unsafe { ptr::write_volatile(first, ptr::read_volatile(first) + 1) };
}

/// Flags that follow from the key alone.
#[inline(always)]
fn kind(key: &FlowKey) -> u16 {
    let udp = matches!(key.hook(), Hook::Xdp) && key.protocol() == UDP;
    flag(flow_flags::TAGGED, key.has_tag())
        | flag(flow_flags::UDP4, udp && key.ethertype() == ETH_P_IP)
        | flag(flow_flags::UDP6, udp && key.ethertype() == ETH_P_IPV6)
}

/// The flag, if it is `on`; without a branch, of which the verifier would look at both sides.
#[inline(always)]
pub(crate) fn flag(flag: u16, on: bool) -> u16 {
    flag * u16::from(on)
}

/// The kernel's ticks.
#[inline(always)]
fn tick() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() }
}

/// What is in a churn cell.
#[inline(always)]
fn churn(cell: u16) -> u64 {
    // SAFETY: the kernel returned the pointer for this program run; volatile, as others write meanwhile.
    CHURN.get_ptr(u32::from(cell)).map_or(0, |cell| unsafe { ptr::read_volatile(cell) })
}

/// Ends every decision that rests on the FDB of the VLANs of this cell.
#[inline(always)]
pub(crate) fn churned(cell: u16, moment: u64) {
    if let Some(cell) = CHURN.get_ptr_mut(u32::from(cell)) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(cell, moment) }
    }
}

/// Ends every decision.
#[inline(always)]
pub(crate) fn all_churned(moment: u64) {
    let mut cell = 0;
    while cell < CHURN_CELLS {
        churned(cell as u16, moment);
        cell += 1;
    }
}
