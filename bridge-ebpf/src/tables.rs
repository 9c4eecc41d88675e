//! The maps that user space fills, and the decision's view of them.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, DevMap, HashMap},
};
use bridge_common::{
    decide::{Entry, Fid, Tables},
    fdb::moment_of,
    flow::churn_cell,
    frame::Tag,
    holes,
    mac::Mac,
    maps::{
        FdbKey, GenerationCells, Lease, MAX_PORTS, PARENT, Port, TRUST_CELLS, TRUST_ROOM, Trust, bridge_cell,
        logical_key, moment, port_flags,
    },
};

use crate::{
    fdb, flow,
    holes::{address, masked},
};

/// ifindex → slot.
#[map(name = "xbr_slots")]
static SLOTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_PORTS, 0);

/// [`logical_key`] → slot.
#[map(name = "xbr_logical")]
static LOGICAL: HashMap<u64, u32> = HashMap::with_max_entries(MAX_PORTS, 0);

/// Ports by slot.
#[map(name = "xbr_ports")]
static PORTS: Array<Port> = Array::with_max_entries(MAX_PORTS, 0);

/// [`GenerationCells`]; user space sets it.
#[unsafe(no_mangle)]
static XBR_GENS_MULTIPLIER: Global<u64> = Global::new(1);
/// As above.
#[unsafe(no_mangle)]
static XBR_GENS_SHIFT: Global<u32> = Global::new(63);

/// Where the generation of an address stands: when an address of the cell was last cancelled, in nanoseconds; 0 never.
#[inline(always)]
fn generation_cell(mac: Mac, vid: u16) -> *mut u64 {
    let cells = GenerationCells { multiplier: XBR_GENS_MULTIPLIER.load(), shift: XBR_GENS_SHIFT.load() };
    address::<u64, { holes::GENERATIONS }>().wrapping_add(cells.of(mac, vid) as usize)
}

/// Whether a port, or the ports of a bridge, may be believed; see [`Trust`].
#[inline(always)]
fn trust(cell: u32) -> *mut Trust {
    let cell = masked::<{ TRUST_ROOM as u64 - 1 }>(u64::from(cell));
    address::<Trust, { holes::TRUST }>().wrapping_add(cell as usize)
}

/// ifindex → cell of [`trust`], for ports and bridges; [`PARENT`] for what logical ports are served on, which has none: its
/// changes are changes of the policy.
#[map(name = "xbr_watch")]
static WATCH: HashMap<u32, u32> = HashMap::with_max_entries(2 * TRUST_CELLS, 0);

/// `TCM_IFINDEX_MAGIC_BLOCK`, in place of a device: a filter of a block that devices share; which ones, it does not say.
const SHARED_BLOCK: u32 = u32::MAX;

/// Cell 0: whether the tables may be believed.
#[map(name = "xbr_lease")]
static LEASE: Array<Lease> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Egress devices of the XDP program, by slot.
#[map(name = "xbr_dev")]
pub(crate) static DEVICES: DevMap = DevMap::with_max_entries(MAX_PORTS, 0);

/// Nanoseconds of `CLOCK_MONOTONIC`, as of the last tick: the lease and the refresh need no better, and it is cheap.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Whether the daemon has renewed the lease in time, and knows of the last change of policy.
#[inline(always)]
pub(crate) fn leased() -> bool {
    let Some(lease) = LEASE.get_ptr(0) else { return false };
    // SAFETY: the kernel returned the pointer for this program run; volatile, as others write meanwhile.
    let (until, announced, confirmed) = unsafe {
        (
            ptr::read_volatile(&raw const (*lease).until),
            ptr::read_volatile(&raw const (*lease).policy.announced),
            ptr::read_volatile(&raw const (*lease).policy.confirmed),
        )
    };
    now() < until && announced == confirmed
}

/// Somebody changes the policy on the bridges: every frame goes to the bridge until user space has looked at it.
#[inline(always)]
pub(crate) fn policy_announced() {
    if let Some(lease) = LEASE.get_ptr_mut(0) {
        // SAFETY: as above, and a helper without arguments. A moment and not a count, as in `cancel`.
        unsafe { ptr::write_volatile(&raw mut (*lease).policy.announced, bpf_ktime_get_ns()) }
    }
    end_decisions();
}

/// When something last changed that decisions rest on, but for the FDB.
#[inline(always)]
pub(crate) fn changed() -> u64 {
    // SAFETY: as in `leased`. Without a lease nothing is ever decided.
    LEASE.get_ptr(0).map_or(0, |lease| unsafe { ptr::read_volatile(&raw const (*lease).changed) })
}

/// Ends every decision that was made before. To be called after the change itself was written.
#[inline(always)]
fn end_decisions() {
    let moment = moment_here();
    if let Some(lease) = LEASE.get_ptr_mut(0) {
        // SAFETY: as in `leased`.
        unsafe { ptr::write_volatile(&raw mut (*lease).changed, moment) }
    }
    // After that word: see `flow::fill`.
    flow::all_churned(moment);
}

/// A number that no other CPU writes.
#[inline(always)]
fn moment_here() -> u64 {
    // SAFETY: helpers without arguments.
    unsafe { moment(bpf_ktime_get_ns(), bpf_get_smp_processor_id()) }
}

/// No device or port of ours; see [`device`].
pub(crate) const UNKNOWN: u32 = PARENT - 1;

/// What xbr knows of the device with this interface index, where a frame came in: the slot of the port that it is, or
/// [`PARENT`] if its frames belong to logical ports by their outer tag, or [`UNKNOWN`]. A number, as an `Option` or an `enum`
/// has parts that are not always set.
#[inline(always)]
pub(crate) fn device(ifindex: u32) -> u32 {
    match SLOTS.get_ptr(ifindex) {
        // SAFETY: as above.
        Some(found) => unsafe { ptr::read_volatile(found) },
        None => UNKNOWN,
    }
}

/// The slot of the logical port that frames with this outer tag belong to (`vlan_find_dev`), or [`UNKNOWN`].
#[inline(always)]
pub(crate) fn logical(ifindex: u32, tag: Tag) -> u32 {
    match LOGICAL.get_ptr(logical_key(ifindex, tag)) {
        // SAFETY: as above.
        Some(found) => unsafe { ptr::read_volatile(found) },
        None => UNKNOWN,
    }
}

/// Whether `br_netfilter` looks at IP packets that come in at the port.
#[inline(always)]
pub(crate) fn checks_ip(port: &Port) -> bool {
    port.flags & (port_flags::CHECK_IPV4 | port_flags::CHECK_IPV6) != 0
}

/// The kernel side of [`Tables`].
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn port(&self, slot: u16) -> Option<&Port> {
        port(slot)
    }

    #[inline(always)]
    fn fdb(&self, fid: u16, vid: u16, mac: Mac) -> Option<Entry> {
        entry(fid, vid, mac, |key, generation| fdb::xbr_find(key, generation))
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }
}

/// As [`KernelTables`], with the look-up in the FDB in the program itself: where there are tail calls, a call of a function
/// makes every entry dearer.
pub(crate) struct TablesHere;

impl Tables for TablesHere {
    #[inline(always)]
    fn port(&self, slot: u16) -> Option<&Port> {
        port(slot)
    }

    #[inline(always)]
    fn fdb(&self, fid: u16, vid: u16, mac: Mac) -> Option<Entry> {
        entry(fid, vid, mac, fdb::find)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }
}

/// A port in doubt is the one in slot 0, through which nothing goes (user space writes its reason there).
///
/// The cells are read before what they vouch for: user space writes the port first and the cell after it, so an old
/// port is never found with a new cell.
#[inline(always)]
fn port<'a>(slot: u16) -> Option<&'a Port> {
    let slot = u32::from(slot);
    // Beyond the ports, the trust cells are those of bridges.
    let port = PORTS.get(if slot >= MAX_PORTS || trusted(slot) { slot } else { 0 })?;
    if trusted(bridge_cell(port.fid_base)) { Some(port) } else { PORTS.get(0) }
}

#[inline(always)]
fn entry(fid: u16, vid: u16, mac: Mac, look_up: impl FnOnce(u64, u64) -> u64) -> Option<Entry> {
    let cell = generation_cell(mac, vid);
    // SAFETY: one of the cells; volatile, as others write meanwhile.
    let generation = unsafe { ptr::read_volatile(cell) };
    let found = look_up(FdbKey::new(fid, mac).0, generation);
    if found == 0 {
        return None;
    }
    Some(Entry { slot: found as u16, flags: (found >> 16) as u16, refresh_at: moment_of((found >> 32) as u32) })
}

/// Whether the kernel has announced nothing about the port or bridge of this cell that is not in the tables.
#[inline(always)]
fn trusted(cell: u32) -> bool {
    let trust = trust(cell);
    // SAFETY: one of the cells; volatile, as others write meanwhile.
    unsafe { ptr::read_volatile(&raw const (*trust).announced) == ptr::read_volatile(&raw const (*trust).confirmed) }
}

/// The kernel has announced a change of this device: if it is a port or a bridge of ours, its frames go to the bridge
/// until user space has asked what the change is.
#[inline(always)]
pub(crate) fn announced(ifindex: u32) -> Option<()> {
    let cell = if ifindex == SHARED_BLOCK {
        PARENT
    } else {
        // SAFETY: the kernel returned the pointer for this program run.
        unsafe { ptr::read_volatile(WATCH.get_ptr(ifindex)?) }
    };
    let trust = if cell == PARENT {
        // SAFETY: the field of a value that the pointer is valid for.
        LEASE.get_ptr_mut(0).map(|lease| unsafe { &raw mut (*lease).policy })?
    } else {
        trust(cell)
    };
    // SAFETY: as above, and a helper without arguments. A moment and not a count, as in `cancel`.
    unsafe { ptr::write_volatile(&raw mut (*trust).announced, bpf_ktime_get_ns()) }
    end_decisions();
    Some(())
}

/// Notes that a frame of this source, which came in at the port in `slot`, goes to the bridge.
#[inline(always)]
pub(crate) fn refreshed(slot: u16, fid: Fid, mac: Mac) {
    let (Some(port), Some(fid)) = (KernelTables.port(slot), fid.get()) else { return };
    fdb::xbr_refresh(FdbKey::new(fid, mac).0, now() + port.refresh_interval);
}

/// Cancels whatever is cached of the address, before the next look-up on any CPU, and every insert that was prepared
/// before this moment.
///
/// The generation is the moment itself, not a count: two CPUs that cancel at once cannot lose one of the two, and the
/// BPF target's core library has no atomic addition.
#[inline(always)]
pub(crate) fn cancel(vid: u16, mac: Mac) {
    // SAFETY: a helper without arguments; the cells are aligned to eight bytes, and only touched by single volatile
    // accesses.
    unsafe { ptr::write_volatile(generation_cell(mac, vid), bpf_ktime_get_ns()) }
    let moment = moment_here();
    if let Some(lease) = LEASE.get_ptr_mut(0) {
        // SAFETY: as in `leased`.
        unsafe { ptr::write_volatile(&raw mut (*lease).cancelled, moment) }
    }
    flow::churned(churn_cell(vid), moment);
}
