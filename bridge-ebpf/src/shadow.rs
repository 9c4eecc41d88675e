//! Shadow mode: decides as the fast path does, lets the bridge forward the frame, and looks where it leaves.
//!
//! The bridge takes a frame from ingress to egress in one go on one CPU, so what is looked for on a CPU is the last frame
//! that came in there. It is known again by the address of its bytes, which the bridge neither copies nor moves and which
//! a clone (a flood, a mirror) shares; and by the address of its `sk_buff`, which stays when somebody else on the way has
//! its bytes copied.

use core::hint::black_box;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, TC_ACT_UNSPEC},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_skb_load_bytes},
    macros::map,
    maps::{Array, PerCpuArray, Queue},
    programs::TcContext,
};
use bridge_common::{
    decide::Edit,
    reason::Reason,
    shadow::{Flight, HEAD, Recent, Sight, WINDOW, edit_kind, flight_state},
};

use crate::{
    count::count,
    tc::{self, Way},
};

/// One of this many frames is compared; user space sets it.
#[unsafe(no_mangle)]
static XBR_SAMPLE: Global<u32> = Global::new(1);

/// The flights; user space sets the size, and makes it 1 where there is no shadow mode.
#[map(name = "xbr_flights")]
static FLIGHTS: Array<Flight> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Numbers of the flights that are free. User space fills it.
#[map(name = "xbr_free")]
static FREE: Queue<u32> = Queue::with_max_entries(1, 0);

/// The frame that is under way on each CPU.
#[map(name = "xbr_recent")]
static RECENTS: PerCpuArray<Recent> = PerCpuArray::with_max_entries(1, 0);

/// tc ingress of a port.
#[inline(always)]
pub(crate) fn arrives(ctx: &TcContext) -> i32 {
    // Whatever was followed has gone its way.
    if let Some(recent) = recent() {
        recent.key = 0;
    }
    tc::run(ctx, |ctx, way| {
        count(way.slot, Reason::WouldForward, way.fid, way.len);
        // SAFETY: a helper without arguments.
        let random = unsafe { bpf_get_prandom_u32() } as u32;
        if random.is_multiple_of(sample()) {
            follow(ctx, way);
        }
        TC_ACT_UNSPEC
    })
}

/// tc egress of a port.
#[inline(always)]
pub(crate) fn leaves(ctx: &TcContext) -> i32 {
    find(ctx, |flight| {
        // SAFETY: the kernel hands every classifier a valid context.
        let (ifindex, came_from) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).ingress_ifindex) };
        if came_from != flight.arrived.ifindex {
            // A frame of the host's own, in memory that has been freed and used again.
            return;
        }
        if ifindex == flight.expected {
            flight.right += 1;
            if flight.right == 1 {
                look(ctx, flight.window_at, &mut flight.left);
            }
        } else {
            flight.wrong += 1;
            if flight.wrong + flight.up == 1 {
                look(ctx, flight.window_at, &mut flight.strayed);
            }
        }
    })
}

/// tc ingress of a bridge device.
#[inline(always)]
pub(crate) fn goes_up(ctx: &TcContext) -> i32 {
    find(ctx, |flight| {
        flight.up += 1;
        if flight.wrong + flight.up == 1 {
            look(ctx, flight.window_at, &mut flight.strayed);
        }
    })
}

/// Begins a flight.
#[inline(always)]
fn follow(ctx: &TcContext, way: Way) {
    let Some(recent) = recent() else { return };
    let Ok(Some(number)) = FREE.pop() else {
        recent.no_room += 1;
        return;
    };
    let Some(flight) = FLIGHTS.get_ptr_mut(number) else { return };
    // SAFETY: the number came out of the queue, so nobody else writes to this flight, and user space reads it only once
    // it is open and some time has gone by.
    let flight = unsafe { &mut *flight };
    flight.key = address(ctx);
    // SAFETY: a helper without arguments.
    flight.at = unsafe { bpf_ktime_get_ns() };
    flight.slot = u32::from(way.slot);
    flight.expected = way.ifindex;
    flight.edit = match Edit::between(way.arrived.tag, way.leaves) {
        Edit::Keep => edit_kind::KEEP,
        Edit::Push(_) => edit_kind::PUSH,
        Edit::Pop => edit_kind::POP,
        Edit::Retag(_) => edit_kind::RETAG,
    };
    (flight.tpid, flight.tci) = way.leaves.map_or((0, 0), |tag| (tag.tpid(), tag.tci()));
    flight.window_at = window_at(way.len);
    flight.right = 0;
    flight.wrong = 0;
    flight.up = 0;
    flight.left.ifindex = 0;
    flight.strayed.ifindex = 0;
    look(ctx, flight.window_at, &mut flight.arrived);
    flight.state = flight_state::OPEN;
    recent.skb = ctx.skb.skb as u64;
    recent.flight = number;
    recent.key = flight.key;
}

/// Where the window of a frame of this length begins: at random behind the head; 0 if the head holds all of it.
#[inline(always)]
fn window_at(len: u32) -> u32 {
    const BEHIND: u32 = (HEAD + WINDOW) as u32;
    if len <= HEAD as u32 {
        0
    } else if len <= BEHIND {
        len - WINDOW as u32
    } else {
        // SAFETY: a helper without arguments.
        HEAD as u32 + unsafe { bpf_get_prandom_u32() } as u32 % (len - BEHIND + 1)
    }
}

/// Calls `note` with the flight of the frame, if it is one that is followed.
#[inline(always)]
fn find(ctx: &TcContext, note: impl Fn(&mut Flight)) -> i32 {
    let Some(recent) = recent() else { return TC_ACT_UNSPEC };
    let key = recent.key;
    if key == 0 || (key != address(ctx) && recent.skb != ctx.skb.skb as u64) {
        return TC_ACT_UNSPEC;
    }
    let Some(flight) = FLIGHTS.get_ptr_mut(recent.flight) else { return TC_ACT_UNSPEC };
    // SAFETY: only this CPU looks for the key, and user space reads the flight only when some time has gone by.
    let flight = unsafe { &mut *flight };
    if flight.key == key && flight.state == flight_state::OPEN {
        note(flight);
    }
    TC_ACT_UNSPEC
}

/// Writes down what the frame looks like at this hook.
#[inline(always)]
fn look(ctx: &TcContext, window_at: u32, sight: &mut Sight) {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands every classifier a valid context. vlan_proto is in network order.
    unsafe {
        sight.ifindex = (*skb).ifindex;
        sight.len = (*skb).len;
        let tagged = (*skb).vlan_present != 0;
        sight.tpid = if tagged { u16::from_be((*skb).vlan_proto as u16) } else { 0 };
        sight.tci = if tagged { (*skb).vlan_tci as u16 } else { 0 };
        sight.gso_size = (*skb).gso_size;
        sight.gso_segs = (*skb).gso_segs;
    }
    sight.complete = 0;
    // At least 1 and at most HEAD, in steps that the verifier of 6.1 follows (a comparison with 0 teaches it nothing). The
    // compiler would drop the mask.
    let length = (black_box(sight.len.min(HEAD as u32).wrapping_sub(1)) & (HEAD as u32 - 1)) + 1;
    // SAFETY: the destinations have the length that is said.
    let read = unsafe {
        bpf_skb_load_bytes(skb.cast(), 0, sight.head.as_mut_ptr().cast(), length) == 0
            && (window_at == 0
                || bpf_skb_load_bytes(skb.cast(), window_at, sight.window.as_mut_ptr().cast(), WINDOW as u32) == 0)
    };
    sight.complete = u32::from(read);
}

/// Where the frame's bytes lie.
#[inline(always)]
fn address(ctx: &TcContext) -> u64 {
    ctx.data() as u64
}

#[inline(always)]
fn recent() -> Option<&'static mut Recent> {
    // SAFETY: the value belongs to this CPU, and programs of tc do not interrupt each other on it.
    RECENTS.get_ptr_mut(0).map(|recent| unsafe { &mut *recent })
}

/// Never 0.
#[inline(always)]
fn sample() -> u32 {
    match XBR_SAMPLE.load() {
        0 => 1,
        some => some,
    }
}
