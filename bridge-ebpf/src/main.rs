//! The programs of xbr. Each entry only parses, looks up and acts; what happens to a frame is decided by
//! `bridge_common::decide`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For instructions that the compiler has no words for, see holes.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "helpers widen what they return to 64 bits, and contexts keep 16-bit fields in 32"
)]
#![expect(clippy::needless_pass_by_value, reason = "the macros of aya hand every entry its context by value")]

mod announce;
mod census;
mod coherence;
mod count;
mod decision;
mod fdb;
mod flow;
mod holes;
mod packet;
mod shadow;
mod tables;
mod tc;
mod xdp;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, fentry, fexit, map, raw_tracepoint, socket_filter, xdp},
    maps::ProgramArray,
    programs::{FEntryContext, FExitContext, RawTracePointContext, SkBuffContext, TcContext, XdpContext},
};

/// The tc programs behind [`xbr_stub`] (cell 0) and its like. The kernel empties this map when the last process that
/// holds it is gone.
#[map(name = "xbr_tail")]
static TAIL: ProgramArray = ProgramArray::with_max_entries(3, 0);

/// What a socket filter returns to keep all of a message, however long.
const WHOLE: i64 = 0xffff_ffff;

/// Cell 0: [`xbr_tc_full`].
#[map(name = "xbr_tc_next")]
static TC_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Cell 0: [`xbr_xdp_full`].
#[map(name = "xbr_xdp_next")]
static XDP_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// XDP on uplinks: what gains by having no skb is redirected here, the rest goes on to the tc program. This one knows only
/// what was decided about frames like the one at hand.
#[xdp(frags)]
fn xbr_xdp(ctx: XdpContext) -> u32 {
    if let Some(action) = xdp::known(&ctx) {
        return action;
    }
    // SAFETY: as in `xbr_stub`.
    unsafe { XDP_NEXT.tail_call(&ctx, 0) };
    XDP_PASS
}

/// Behind [`xbr_xdp`]: decides.
#[xdp(frags)]
fn xbr_xdp_full(ctx: XdpContext) -> u32 {
    xdp::run(&ctx).unwrap_or(XDP_PASS)
}

/// tc ingress of every port. This one knows only what was decided about frames like the one at hand.
#[classifier]
fn xbr_tc(ctx: TcContext) -> i32 {
    if let Some(action) = tc::known(&ctx) {
        return action;
    }
    // SAFETY: as in `xbr_stub`.
    unsafe { TC_NEXT.tail_call(&ctx, 0) };
    TC_ACT_UNSPEC
}

/// Behind [`xbr_tc`]: decides.
#[classifier]
fn xbr_tc_full(ctx: TcContext) -> i32 {
    tc::run(&ctx, tc::forward)
}

/// What is attached where the kernel has no links for tc (before 6.6): a filter there outlives its process, so it calls
/// the real program through a map that the kernel empties when the process dies, and passes from that moment on.
#[classifier]
fn xbr_stub(ctx: TcContext) -> i32 {
    // SAFETY: a tail call does not return when it succeeds, and nothing is held across it.
    unsafe { TAIL.tail_call(&ctx, 0) };
    TC_ACT_UNSPEC
}

/// Shadow mode, in the place of [`xbr_tc`]: decides and counts alike, and passes every frame.
#[classifier]
fn xbr_shadow_in(ctx: TcContext) -> i32 {
    shadow::arrives(&ctx)
}

/// Shadow mode, tc egress of every port: looks what the bridge sends out.
#[classifier]
fn xbr_shadow_out(ctx: TcContext) -> i32 {
    shadow::leaves(&ctx)
}

/// Shadow mode, tc ingress of the bridge device: looks what the bridge delivers to the host.
#[classifier]
fn xbr_shadow_up(ctx: TcContext) -> i32 {
    shadow::goes_up(&ctx)
}

/// [`xbr_stub`] in front of [`xbr_shadow_out`].
#[classifier]
fn xbr_stub_out(ctx: TcContext) -> i32 {
    // SAFETY: as in `xbr_stub`.
    unsafe { TAIL.tail_call(&ctx, 1) };
    TC_ACT_UNSPEC
}

/// [`xbr_stub`] in front of [`xbr_shadow_up`].
#[classifier]
fn xbr_stub_up(ctx: TcContext) -> i32 {
    // SAFETY: as in `xbr_stub`.
    unsafe { TAIL.tail_call(&ctx, 2) };
    TC_ACT_UNSPEC
}

/// `trace_fdb_delete(br, f)`: an entry is about to go.
#[raw_tracepoint(tracepoint = "fdb_delete")]
fn xbr_fdb_delete(ctx: RawTracePointContext) -> i32 {
    coherence::entry_deleted(&ctx).map_or(0, |()| 0)
}

/// `trace_br_fdb_update(br, source, addr, vid, flags)`: an entry was made or has moved.
#[raw_tracepoint(tracepoint = "br_fdb_update")]
fn xbr_fdb_update(ctx: RawTracePointContext) -> i32 {
    coherence::bridge_changed(&ctx).map_or(0, |()| 0)
}

/// `trace_br_fdb_add(ndm, dev, addr, vid, nlh_flags)`: user space asks for an entry.
#[raw_tracepoint(tracepoint = "br_fdb_add")]
fn xbr_fdb_add(ctx: RawTracePointContext) -> i32 {
    coherence::device_changed(&ctx).map_or(0, |()| 0)
}

/// `trace_br_fdb_external_learn_add(br, p, addr, vid)`: a driver or routing daemon adds or moves an entry.
#[raw_tracepoint(tracepoint = "br_fdb_external_learn_add")]
fn xbr_fdb_extern(ctx: RawTracePointContext) -> i32 {
    coherence::bridge_changed(&ctx).map_or(0, |()| 0)
}

/// Attached nowhere: user space runs it to have the whole FDB of a bridge.
#[raw_tracepoint]
fn xbr_fdb_all(ctx: RawTracePointContext) -> i32 {
    census::take(&ctx);
    0
}

/// `nf_setsockopt` begins: legacy tables are about to be replaced, and from now on every frame goes to the bridge.
#[fentry(function = "nf_setsockopt")]
fn xbr_rules_in(ctx: FEntryContext) -> i32 {
    coherence::tables_replaced(ctx.arg(0)).map_or(0, |()| 0)
}

/// `nf_setsockopt` is done: whatever user space has read in between may be what was there before.
#[fexit(function = "nf_setsockopt")]
fn xbr_rules_out(ctx: FExitContext) -> i32 {
    coherence::tables_replaced(ctx.arg(0)).map_or(0, |()| 0)
}

/// Filter of the socket on which the daemon hears rtnetlink's notifications: it lets all of them through, but runs inside
/// the kernel's own change, before whoever asked for it has his answer, and before the daemon can read about it.
#[socket_filter]
fn xbr_announced(ctx: SkBuffContext) -> i64 {
    // Whether or not it could be read: the daemon gets it whole.
    announce::heard(&ctx).map_or(WHOLE, |()| WHOLE)
}

/// As [`xbr_announced`], of the socket on which the daemon hears that rules of nftables have changed.
#[socket_filter]
fn xbr_rules(ctx: SkBuffContext) -> i64 {
    announce::rules_changed(&ctx);
    WHOLE
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
