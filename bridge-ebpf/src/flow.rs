//! The flow cache ([`bridge_common::flow`]): looking at a cell, filling it, and counting for it.

use core::{mem, ptr};

use aya_ebpf::{
    Global, bindings::bpf_func_id::BPF_FUNC_get_smp_processor_id, helpers::generated::bpf_jiffies64, macros::map,
    maps::PerCpuArray,
};
use bridge_common::{
    decide::{Fid, Origin},
    flow::{
        self, CELLS, CHURN_CELLS, FLOW_TICKS, FLOWS, Flow, FlowKey, Hook, churn_cell, flow_flags, is_due,
        packets_and_bytes,
    },
    frame::{ETH_P_IP, ETH_P_IPV6, Tag},
    holes,
    maps::{Port, port_flags},
    tags::{Arrived, Rewrite, rewrite},
};

use crate::{
    count::{Amount, add_sent, add_to},
    holes::{address, constant, number},
    tables::changed,
};

/// Whether decisions are remembered; user space sets it to 0 where programs of one CPU may interrupt each other.
#[unsafe(no_mangle)]
static XBR_CACHE: Global<u32> = Global::new(1);

/// Cell 0: the frame at hand.
#[map(name = "xbr_key")]
static AT_HAND: PerCpuArray<AtHand> = PerCpuArray::with_max_entries(1, 0);

/// What one program, or part of one, hands on to the next about a frame. Not on the stack, where there is no room for it in
/// kernels that count 32 bytes at a time (6.1). Where programs of one CPU may interrupt each other, it is not looked at.
#[repr(C)]
struct AtHand {
    key: FlowKey,
    stamp: Stamp,
    found: Found,
}

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
    /// Where it is forwarded: what is the same whatever the destination.
    pub(crate) origin: Origin,
    /// As above: the tags that it came with.
    pub(crate) arrived: Arrived,
}

/// Where and when: asked for at once, as everything that is known before has to be put aside over a call.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    cells: *mut Flow,
    tick: u64,
}

impl Here {
    /// `None`: user space knows of no CPU with this number, as where numbers are left out. Nothing is remembered there.
    #[inline(always)]
    pub(crate) fn now() -> Option<Self> {
        let cpu = this_cpu();
        if cpu >= number::<{ holes::CPUS }>() {
            return None;
        }
        let cells = address::<Flow, { holes::FLOWS }>().wrapping_add(cpu as usize * CELLS as usize);
        Some(Self { cells, tick: tick() })
    }

    /// This CPU's cell with this number, of which there are [`CELLS`].
    #[inline(always)]
    fn cell(self, number: usize) -> *mut Flow {
        self.cells.wrapping_add(number)
    }

    /// The cell of this key if the decision in it still stands.
    #[inline(always)]
    pub(crate) fn current(self, key: &FlowKey) -> Option<&'static mut Flow> {
        self.standing(key, self.cell(key.cell()))
    }

    /// The cell of the origin of such frames, if what is in it still stands and nobody else is to decide about this one.
    #[inline(always)]
    pub(crate) fn current_origin(self, key: &FlowKey) -> Option<&'static mut Flow> {
        if key.is_to_many() {
            return None;
        }
        let key = key.origin();
        let first = self.cells.wrapping_byte_add(constant::<{ FLOWS as usize * size_of::<Flow>() }>());
        let cell = first.wrapping_add(key.origin_cell() - FLOWS as usize);
        self.standing(&key, cell).filter(|flow| !is_due(flow.served))
    }

    #[inline(always)]
    fn standing(self, key: &FlowKey, cell: *mut Flow) -> Option<&'static mut Flow> {
        // Where nothing is remembered, no cell has a key.
        // SAFETY: one of the cells, and programs of one CPU do not interrupt each
        // other: they run in its softirq (see XBR_CACHE). User space only reads, but for the counts of cells that serve no
        // port.
        let flow = unsafe { &mut *cell };
        if flow.key.head != key.head
            || flow.key.middle != key.middle
            || flow.key.rest != key.rest
            || self.tick.wrapping_sub(flow.tick) >= FLOW_TICKS
            || churn_at(flow.churn_at) != flow.churn
        {
            return None;
        }
        Some(flow)
    }
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
    Stamp { changed, churn: churn_at(churn_cell(vid)), vid }
}

/// Hands the key on to the program behind: made there once more, it would be too much for the verifier.
#[inline(always)]
pub(crate) fn hand_on(key: &FlowKey) {
    if let Some(frame) = AT_HAND.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU.
        unsafe { (*frame).key = if key.decides() { *key } else { FlowKey::NONE } }
    }
}

/// Hands no key on: frames like this one are to be looked at one by one, or this one is not quite like those of its cell,
/// which stays as it is.
#[cold]
#[inline(always)]
pub(crate) fn hand_nothing_on() {
    if let Some(frame) = AT_HAND.get_ptr_mut(0) {
        // SAFETY: the value belongs to this CPU. FlowKey::NONE is known by this part.
        unsafe { (*frame).key.rest = 0 }
    }
}

/// Remembers what was decided about the frame whose key was handed on.
#[inline(always)]
pub(crate) fn fill(stamp: Stamp, found: Found) {
    let Some(frame) = AT_HAND.get_ptr_mut(0) else { return };
    // SAFETY: the value belongs to this CPU.
    unsafe {
        (*frame).stamp = stamp;
        (*frame).found = found;
    }
    xbr_remember();
}

/// As [`fill`], of what is at hand. Exported as [`crate::decision::xbr_decide`] is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xbr_remember() -> u64 {
    if let Some(frame) = AT_HAND.get_ptr(0) {
        // SAFETY: the value belongs to this CPU.
        remember(unsafe { &*frame });
    }
    0
}

#[inline(always)]
fn remember(AtHand { key, stamp, found }: &AtHand) {
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
    xbr_put(0);
    if found.flags & flow_flags::PASSES == 0 {
        xbr_put(1);
    }
}

/// Fills the cell of the flow (0) or of the origin (1) of what is at hand. As [`xbr_remember`]: the verifier would look at the
/// second on every way through the first.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xbr_put(which: u32) -> u64 {
    let Some(frame) = AT_HAND.get_ptr(0) else { return 0 };
    // SAFETY: the value belongs to this CPU.
    let AtHand { key, stamp, found } = unsafe { &*frame };
    if which == 0 {
        put(key.cell(), key, stamp, found, found.max_len, found.flags);
    } else {
        // What differs from destination to destination is written for each frame.
        let flags = found.flags & (flow_flags::VIRTUAL | flow_flags::FROM_PARENT);
        let origin = key.origin();
        put(origin.origin_cell(), &origin, stamp, found, u32::MAX, flags);
    }
    0
}

/// Fills a cell.
#[inline(always)]
fn put(number: usize, key: &FlowKey, stamp: &Stamp, found: &Found, max_len: u32, flags: u16) {
    let Some(here) = Here::now() else { return };
    let cell = here.cell(number);
    flush(here, cell);
    let max_len = if max_len > 0xffff { 0xffff } else { max_len as u16 };
    // SAFETY: as in `Here::standing`. The key is written last: whoever reads meanwhile finds no key that the rest is not about.
    unsafe {
        ptr::write_volatile(&raw mut (*cell).key.rest, 0);
        (*cell).churn = stamp.churn;
        (*cell).tick = here.tick;
        (*cell).max_len = max_len;
        (*cell).churn_at = churn_cell(found.vid);
        (*cell).out = found.out;
        (*cell).flags = flags | kind(key) | flag(flow_flags::UNCLASSIFIED, found.fid.get().is_none());
        (*cell).ifindex = found.ifindex;
        (*cell).slot = found.slot;
        (*cell).fid = found.fid.index() as u16;
        (*cell).rewrite = found.rewrite;
        (*cell).origin = found.origin;
        (*cell).arrived = found.arrived;
        (*cell).key.head = key.head;
        (*cell).key.middle = key.middle;
        ptr::write_volatile(&raw mut (*cell).key.rest, key.rest);
    }
}

/// Writes to the cell of an origin where the frame at hand goes: out of `port` in slot `out`, with the tag `leaves`. Returns
/// how many bytes longer it becomes.
#[inline(always)]
pub(crate) fn leaves(flow: &mut Flow, out: u16, port: &Port, leaves: Option<Tag>) -> i32 {
    flow.out = out;
    flow.ifindex = port.ifindex;
    flow.flags &= !flow_flags::TAGS;
    // Most leave as they came, and one look tells.
    if flow.arrived.outer.is_none() && flow.arrived.tag == leaves {
        return 0;
    }
    let rewrite = rewrite(flow.arrived, leaves, None);
    flow.rewrite = rewrite;
    flow.flags |= flow_flags::of(&rewrite);
    rewrite.growth()
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
        origin: Origin::NONE,
        arrived: Arrived { outer: None, tag: None },
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
fn flush(here: Here, cell: *mut Flow) {
    // SAFETY: as in `Here::standing`.
    let (flow, first) = unsafe { (&mut *cell, &raw mut (*here.cells).flushes) };
    if flow.served == 0 {
        return;
    }
    // SAFETY: one of the cells, and only this CPU writes there.
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

/// The number of this CPU.
#[inline(always)]
fn this_cpu() -> u64 {
    // Declared with the 64 bits that every helper returns: of fewer, the compiler would clear the rest.
    // SAFETY: a helper without arguments, called by its number as helpers are.
    unsafe {
        let helper: unsafe extern "C" fn() -> u64 = mem::transmute(BPF_FUNC_get_smp_processor_id as usize);
        helper()
    }
}

/// The kernel's ticks.
#[inline(always)]
fn tick() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() }
}

/// Where a churn cell is: when something was last cancelled there ([`bridge_common::maps::moment`]), by [`churn_cell`].
#[inline(always)]
fn churn(cell: u16) -> *mut u64 {
    // Masked for the verifier.
    address::<u64, { holes::CHURN }>().wrapping_add(usize::from(churn_cell(cell)))
}

/// What is in the churn cell with this number.
#[inline(always)]
fn churn_at(cell: u16) -> u64 {
    // SAFETY: one of the cells; volatile, as others write meanwhile.
    unsafe { ptr::read_volatile(churn(cell)) }
}

/// Ends every decision that rests on the FDB of the VLANs of this cell.
#[inline(always)]
pub(crate) fn churned(cell: u16, moment: u64) {
    // SAFETY: as above.
    unsafe { ptr::write_volatile(churn(cell), moment) }
}

/// Ends every decision.
#[inline(always)]
pub(crate) fn all_churned(moment: u64) {
    let mut cell = 0;
    while cell < CHURN_CELLS as u16 {
        churned(cell, moment);
        cell += 1;
    }
}
