//! tc ingress: the tag is in skb metadata, super-frames and unfinished checksums go through as they are.

use core::ptr;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{
        bpf_redirect, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use aya_log_ebpf::warn;
use bridge_common::{
    decide::{self, Delivery, Fid, Origin, Tables as _},
    flow::{Flow, FlowKey, flow_flags, is_ip},
    frame::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, Frame, MIN_TAGGED, Tag, VLAN_HLEN, is_neighbour_discovery, is_tag},
    ip,
    maps::{MAX_PORTS, PARENT, port_flags},
    reason::Reason,
    tags::{Arrived, Rewrite, rewrite},
};

use crate::{
    count::{count, count_here, count_sent},
    decision::{Case, Forward, Paper},
    flow::{self, Found, Here, Stamp},
    packet::Packet,
    tables::{self, KernelTables, TablesHere, UNKNOWN},
};

/// Where a frame goes that takes the fast path.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// Slot of the ingress port.
    pub(crate) slot: u16,
    /// The forwarding id.
    pub(crate) fid: Fid,
    /// The kernel's VLAN id.
    pub(crate) vid: u16,
    /// From before the tables were looked at.
    pub(crate) stamp: Stamp,
    /// Length, as counted.
    pub(crate) len: u32,
    /// The destination.
    pub(crate) dst: u64,
    /// Slot of the egress port.
    pub(crate) out: u16,
    /// Interface index of the device that it leaves by.
    pub(crate) ifindex: u32,
    /// The tag that the bridge leaves it with.
    pub(crate) leaves: Option<Tag>,
    /// The tags that it came with.
    pub(crate) arrived: Arrived,
    /// What is the same whatever the destination.
    pub(crate) origin: Origin,
}

/// Handles one frame and returns the tc action. `send` does what is to be done with a frame that is forwarded.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext, send: impl FnOnce(&TcContext, Way) -> i32) -> i32 {
    let changed = tables::changed();
    // SAFETY: the kernel hands every classifier a valid context.
    let (ifindex, len) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).len) };
    let mut slot = tables::device(ifindex);
    let mut outer = None;
    if slot == PARENT {
        outer = tag_in_metadata(ctx);
        slot = outer.map_or(UNKNOWN, |tag| tables::logical(ifindex, tag));
        if slot >= MAX_PORTS {
            // None of the bridges' business, and not counted as theirs.
            return TC_ACT_UNSPEC;
        }
    }
    if slot >= MAX_PORTS {
        count(0, Reason::UnknownPort, Fid::NONE, len);
        return TC_ACT_UNSPEC;
    }
    let slot = slot as u16;
    if !tables::leased() {
        count(slot, Reason::Suspended, Fid::NONE, len);
        return TC_ACT_UNSPEC;
    }
    let Some(came_in) = KernelTables.port(slot) else { return TC_ACT_UNSPEC };
    let mut paper = Paper::new();
    let case = paper.case();
    case.slot = slot;
    if let Err(reason) = parse(ctx, len, outer.is_some(), tables::checks_ip(came_in), &mut case.frame) {
        count(slot, reason, Fid::NONE, len);
        return TC_ACT_UNSPEC;
    }
    let stamp = flow::stamp(changed, came_in, case.frame.tag, is_ip(case.frame.ethertype));
    let verdict = paper.decide();
    let Case { frame, fid, vid, way, origin, .. } = paper.case();
    let (fid, vid, len) = (*fid, *vid, frame.len);
    if let Some(reason) = verdict {
        if reason == Reason::Refresh {
            tables::refreshed(slot, fid, frame.src);
        } else if reason == Reason::SourceMoved {
            tables::cancel(vid, frame.src);
        } else if reason.lasts() {
            // In whatever VLAN it is looked for, the churn of this one ends it.
            flow::pass(stamp, slot, reason as u16, fid);
        }
        count(slot, reason, fid, len);
        return TC_ACT_UNSPEC;
    }
    let arrived = Arrived { outer, tag: frame.tag };
    let Forward { slot: out, ifindex, leaves, .. } = *way;
    let dst = frame.dst.value();
    send(ctx, Way { slot, fid, vid, stamp, len, dst, out: out as u16, ifindex, leaves, arrived, origin: *origin })
}

/// Does what was decided about frames like this one. `None`: nothing was, or it is not quite like them.
#[inline(always)]
pub(crate) fn known(ctx: &TcContext) -> Option<i32> {
    let here = Here::now()?;
    let Some(start) = Packet::new(ctx.data(), ctx.data_end()).start() else {
        flow::hand_nothing_on();
        return None;
    };
    // SAFETY: the kernel hands every classifier a valid context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    let key = FlowKey::of_tc(&start, device, tag_in_metadata(ctx));
    // SAFETY: the kernel hands every classifier a valid context.
    let len = unsafe { (*ctx.skb.skb).len };
    let Some(flow) = here.current(&key).or_else(|| deliver(here, ctx, &key, len)) else {
        flow::hand_on(&key);
        return None;
    };
    // What is left to the bridge is always too long.
    if len > u32::from(flow.max_len) {
        if flow.flags & flow_flags::PASSES != 0 {
            flow::served(flow, u64::from(len));
            return Some(TC_ACT_UNSPEC);
        }
        if !is_super_frame(ctx) {
            flow::hand_nothing_on();
            return None;
        }
    }
    if flow.flags & (flow_flags::REWRITE | flow_flags::FROM_PARENT | flow_flags::PEER) == 0 {
        flow::served(flow, u64::from(len));
        return Some(leave(ctx, flow.ifindex, false));
    }
    if flow.flags & flow_flags::REWRITE != 0 {
        let rewrite = flow.rewrite;
        if !apply(ctx, &rewrite) {
            count_here(flow.slot, Reason::RewriteFailed, Fid::new(flow.fid), len);
            return Some(rewrite_failed(ctx, flow.ifindex));
        }
    }
    if flow.flags & flow_flags::FROM_PARENT != 0 {
        forget_priority(ctx);
    }
    flow::served(flow, u64::from(len));
    Some(leave(ctx, flow.ifindex, flow.flags & flow_flags::PEER != 0))
}

/// Looks where a frame of a known origin goes, and writes it to the cell of that origin. `None`: it is to be decided by all
/// tables.
#[inline(always)]
fn deliver(here: Here, ctx: &TcContext, key: &FlowKey, len: u32) -> Option<&'static mut Flow> {
    let flow = here.current_origin(key)?;
    // A tag is beside the frame, whether it is a logical port's or the bridge's.
    let frame = Frame { dst: key.dst(), tag: flow.arrived.tag, len, gso: is_super_frame(ctx), ..Frame::EMPTY };
    let Delivery { slot: out, port, leaves } = decide::deliver(&TablesHere, &flow.origin, &frame).ok()?;
    // What leaves as a logical port's is counted for each port, as is what a far end takes.
    if port.flags & port_flags::EGRESS_PEER != 0 || port.outer != 0 {
        return None;
    }
    flow::leaves(flow, out, port, leaves);
    Some(flow)
}

/// Sends the frame out of the device, or hands it to the far end of the pair that the device is an end of.
#[inline(always)]
fn leave(ctx: &TcContext, ifindex: u32, to_peer: bool) -> i32 {
    if !to_peer {
        // SAFETY: a helper with plain arguments.
        return unsafe { bpf_redirect(ifindex, 0) as i32 };
    }
    // What __dev_forward_skb does on the way through a pair, and bpf_redirect_peer does not.
    // SAFETY: the kernel hands every classifier a valid context, and lets it write these fields; a helper on the context.
    unsafe {
        (*ctx.skb.skb).mark = 0;
        (*ctx.skb.skb).priority = 0;
        if (*ctx.skb.skb).pkt_type != PACKET_HOST && bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) != 0 {
            return bpf_redirect(ifindex, 0) as i32;
        }
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

/// `PACKET_HOST`: `eth_type_trans` says so of what is addressed to the device that receives it.
const PACKET_HOST: u32 = 0;

/// The tag may be half changed: handing that to the bridge could put it into another VLAN.
#[inline(always)]
fn rewrite_failed(ctx: &TcContext, ifindex: u32) -> i32 {
    warn!(ctx, "device {}: the kernel could not change the tag of a frame, which is dropped", ifindex);
    TC_ACT_SHOT
}

/// `vlan_do_receive`, without an ingress map.
#[inline(always)]
fn forget_priority(ctx: &TcContext) {
    // SAFETY: the kernel hands every classifier a valid context, and lets it write this field.
    unsafe { (*ctx.skb.skb).priority = 0 };
}

/// The fast path: changes the tags and redirects, and so for frames like this one to come.
#[inline(always)]
pub(crate) fn forward(ctx: &TcContext, way: Way) -> i32 {
    let Way { slot, fid, vid, stamp, len, dst, out, ifindex, leaves, arrived, origin } = way;
    // The port may have come into doubt since the decision: then it is not found, and what it leaves with is unknown.
    let Some(port) = KernelTables.port(out).filter(|port| port.ifindex == ifindex) else {
        count(slot, Reason::Unconfirmed, fid, len);
        return TC_ACT_UNSPEC;
    };
    let leaves_with = port.outer_tag();
    let rewrite = rewrite(arrived, leaves, leaves_with);
    // A frame whose tags have changed has not all its offsets where the far end's receive path wants them.
    let to_peer = port.flags & port_flags::EGRESS_PEER != 0 && port.far_end == dst && rewrite.is_nothing();
    if !apply(ctx, &rewrite) {
        count(slot, Reason::RewriteFailed, fid, len);
        return rewrite_failed(ctx, ifindex);
    }
    if arrived.outer.is_some() {
        forget_priority(ctx);
    }
    if fid.get().is_some() {
        let flags = flow_flags::of(&rewrite)
            | flow::flag(flow_flags::COUNTS_SENT, leaves_with.is_some() || to_peer)
            | flow::flag(flow_flags::PEER, to_peer)
            | flow::flag(flow_flags::FROM_PARENT, arrived.outer.is_some());
        let max_len = port.max_len;
        flow::fill(stamp, Found { max_len, out, flags, ifindex, fid, slot, vid, rewrite, origin, arrived });
    }
    count(slot, Reason::ForwardedTc, fid, len);
    if leaves_with.is_some() || to_peer {
        count_sent(out, len);
    }
    leave(ctx, ifindex, to_peer)
}

/// The outermost tag, where the kernel keeps it after `skb_vlan_untag`.
#[inline(always)]
fn tag_in_metadata(ctx: &TcContext) -> Option<Tag> {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands every classifier a valid context. vlan_proto is in network order. Volatile, as all of it shall
    // be read whether or not there is a tag: the verifier refuses even a copy of what was not.
    let (present, tci, proto) = unsafe {
        (
            ptr::read_volatile(&raw const (*skb).vlan_present),
            ptr::read_volatile(&raw const (*skb).vlan_tci),
            ptr::read_volatile(&raw const (*skb).vlan_proto),
        )
    };
    if present != 0 { Some(Tag::new(u16::from_be(proto as u16), tci as u16)) } else { None }
}

/// The frame as the bridge sees it. At a logical port (`inside`) that is the frame behind the VLAN device: without the
/// tag in metadata, and with the next one, if there is one, taken out of the bytes (`vlan_do_receive`, then
/// `skb_vlan_untag` in another round of `__netif_receive_skb_core`).
#[inline(always)]
fn parse(ctx: &TcContext, len: u32, inside: bool, checks_ip: bool, frame: &mut Frame) -> Result<(), Reason> {
    let packet = Packet::new(ctx.data(), ctx.data_end());
    // eth_type_trans pulled the Ethernet header, so it is linear.
    let Some(first) = packet.ethernet(&mut frame.dst, &mut frame.src) else {
        return Err(Reason::Truncated);
    };
    frame.gso = is_super_frame(ctx);
    let (ethertype, behind) = if !inside {
        frame.tag = tag_in_metadata(ctx);
        if frame.tag.is_none() && is_tag(first) {
            return Err(Reason::TagPlacement);
        }
        (first, 0)
    } else if is_tag(first) {
        if (len as usize) < MIN_TAGGED {
            return Err(Reason::Truncated);
        }
        let mut next = [0u16; 2];
        // The tag need not be linear. SAFETY: the destination has the four bytes that are said.
        if unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_HLEN, (&raw mut next).cast(), VLAN_HLEN) } != 0 {
            return Err(Reason::Truncated);
        }
        let [tci, ethertype] = next.map(u16::from_be);
        frame.tag = Some(Tag::new(first, tci));
        (ethertype, VLAN_HLEN)
    } else {
        frame.tag = None;
        (first, 0)
    };
    frame.ethertype = ethertype;
    frame.neighbour_discovery = ethertype == ETH_P_IPV6 && discovers_neighbours(ctx, ETH_HLEN + behind);
    frame.len = len - behind;
    frame.untouched = !checks_ip || is_untouched_by_netfilter(ctx, ethertype, ETH_HLEN + behind, frame.len);
    Ok(())
}

/// As [`ip::is_untouched`], with the packet at `l3` of a frame of `len` bytes without its tag; a packet that is too short
/// for a header is not.
#[inline(always)]
fn is_untouched_by_netfilter(ctx: &TcContext, ethertype: u16, l3: u32, len: u32) -> bool {
    let mut header = [0u8; ip::HEADER];
    // SAFETY: the destination is as long as said.
    let read = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), l3, (&raw mut header).cast(), ip::HEADER as u32) == 0 };
    let is_ip = matches!(ethertype, ETH_P_IP | ETH_P_IPV6);
    !is_ip || (read && ip::is_untouched(ethertype, &header, len.wrapping_sub(ETH_HLEN)))
}

#[inline(always)]
fn is_super_frame(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands every classifier a valid context.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// Reads the IPv6 header at `l3` through the helper, as it need not be linear.
#[inline(always)]
fn discovers_neighbours(ctx: &TcContext, l3: u32) -> bool {
    let mut next_header = 0u8;
    let mut kind = 0u8;
    // SAFETY: the destinations are one byte each, as said.
    unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), l3 + 6, (&raw mut next_header).cast(), 1) == 0
            && next_header == 58
            && bpf_skb_load_bytes(ctx.skb.skb.cast(), l3 + 40, (&raw mut kind).cast(), 1) == 0
            && is_neighbour_discovery(next_header, kind)
    }
}

/// Changes the tags. `false`: the kernel could not, and they are in an unknown state.
#[inline(always)]
fn apply(ctx: &TcContext, rewrite: &Rewrite) -> bool {
    let [first, second] = rewrite.tags;
    (rewrite.pop < 1 || pop(ctx))
        && (rewrite.pop < 2 || pop(ctx))
        && (rewrite.push < 2 || second.is_some_and(|tag| push(ctx, tag)))
        && (rewrite.push < 1 || first.is_some_and(|tag| push(ctx, tag)))
}

#[inline(always)]
fn pop(ctx: &TcContext) -> bool {
    // SAFETY: a helper on the context.
    unsafe { bpf_skb_vlan_pop(ctx.skb.skb) == 0 }
}

#[inline(always)]
fn push(ctx: &TcContext, tag: Tag) -> bool {
    // SAFETY: a helper on the context; the protocol is wanted in network order.
    unsafe { bpf_skb_vlan_push(ctx.skb.skb, tag.tpid().to_be(), tag.tci()) == 0 }
}
