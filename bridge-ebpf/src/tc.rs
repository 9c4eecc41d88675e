//! tc ingress: the tag is in skb metadata, super-frames and unfinished checksums go through as they are.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_skb_load_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push},
    programs::TcContext,
};
use aya_log_ebpf::warn;
use bridge_common::{
    decide::{Edit, Verdict, decide},
    frame::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, Frame, Tag, is_neighbour_discovery, is_tag},
    ip,
    reason::Reason,
};

use crate::{
    count::count,
    packet::Packet,
    tables::{self, KernelTables},
};

/// Handles one frame and returns the tc action.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> i32 {
    // SAFETY: the kernel hands every classifier a valid context.
    let (ifindex, len) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).len) };
    let Some(slot) = tables::slot(ifindex) else {
        count(0, Reason::UnknownPort, None, len);
        return TC_ACT_UNSPEC;
    };
    if !tables::leased() {
        count(slot, Reason::Suspended, None, len);
        return TC_ACT_UNSPEC;
    }
    let frame = match parse(ctx, len, tables::checks_ip(slot)) {
        Ok(frame) => frame,
        Err(reason) => {
            count(slot, reason, None, len);
            return TC_ACT_UNSPEC;
        }
    };
    let decision = decide(&KernelTables, slot, &frame);
    match decision.verdict {
        Verdict::Pass(reason) => {
            if reason == Reason::Refresh {
                tables::refreshed(slot, decision.fid, frame.src);
            } else if reason == Reason::SourceMoved {
                tables::cancel(decision.vid, frame.src);
            }
            count(slot, reason, decision.fid, len);
            TC_ACT_UNSPEC
        }
        Verdict::Forward { ifindex, edit, .. } => {
            if !apply(ctx, edit) {
                // The tag may be half changed: handing that to the bridge could put it into another VLAN.
                count(slot, Reason::RewriteFailed, decision.fid, len);
                warn!(ctx, "device {}: the kernel could not change the tag of a frame, which is dropped", ifindex);
                return TC_ACT_SHOT;
            }
            count(slot, Reason::ForwardedTc, decision.fid, len);
            // SAFETY: a helper with plain arguments.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
    }
}

#[inline(always)]
fn parse(ctx: &TcContext, len: u32, checks_ip: bool) -> Result<Frame, Reason> {
    let skb = ctx.skb.skb;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    // eth_type_trans pulled the Ethernet header, so it is linear.
    let (Some((dst, src)), Some(ethertype)) = (packet.macs(), packet.be16(12)) else {
        return Err(Reason::Truncated);
    };
    // SAFETY: the kernel hands every classifier a valid context. vlan_proto is in network order.
    let (present, tci, proto, gso_size) =
        unsafe { ((*skb).vlan_present, (*skb).vlan_tci, (*skb).vlan_proto, (*skb).gso_size) };
    let tag = if present != 0 {
        Some(Tag { tpid: u16::from_be(proto as u16), tci: tci as u16 })
    } else if is_tag(ethertype) {
        return Err(Reason::TagPlacement);
    } else {
        None
    };
    let neighbour_discovery = ethertype == ETH_P_IPV6 && discovers_neighbours(ctx);
    let untouched = !checks_ip || is_untouched_by_netfilter(ctx, ethertype, len);
    Ok(Frame { dst, src, tag, ethertype, len, gso: gso_size != 0, neighbour_discovery, untouched })
}

/// As [`ip::is_untouched`]; a packet that is too short for a header is not.
#[inline(always)]
fn is_untouched_by_netfilter(ctx: &TcContext, ethertype: u16, len: u32) -> bool {
    let mut header = [0u8; ip::HEADER];
    // SAFETY: the destination is as long as said.
    let read =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_HLEN, (&raw mut header).cast(), ip::HEADER as u32) == 0 };
    let is_ip = matches!(ethertype, ETH_P_IP | ETH_P_IPV6);
    !is_ip || (read && ip::is_untouched(ethertype, &header, len.wrapping_sub(ETH_HLEN)))
}

/// Reads through the helper, as the IPv6 header need not be linear.
#[inline(always)]
fn discovers_neighbours(ctx: &TcContext) -> bool {
    let mut next_header = 0u8;
    let mut kind = 0u8;
    // SAFETY: the destinations are one byte each, as said.
    unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_HLEN + 6, (&raw mut next_header).cast(), 1) == 0
            && next_header == 58
            && bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_HLEN + 40, (&raw mut kind).cast(), 1) == 0
            && is_neighbour_discovery(next_header, kind)
    }
}

/// Changes the tag. `false`: the kernel could not, and the tag is in an unknown state.
#[inline(always)]
fn apply(ctx: &TcContext, edit: Edit) -> bool {
    match edit {
        Edit::Keep => true,
        Edit::Push(tag) => push(ctx, tag),
        Edit::Pop => pop(ctx),
        Edit::Retag(tag) => pop(ctx) && push(ctx, tag),
    }
}

#[inline(always)]
fn pop(ctx: &TcContext) -> bool {
    // SAFETY: a helper on the context.
    unsafe { bpf_skb_vlan_pop(ctx.skb.skb) == 0 }
}

#[inline(always)]
fn push(ctx: &TcContext, tag: Tag) -> bool {
    // SAFETY: a helper on the context; the protocol is wanted in network order.
    unsafe { bpf_skb_vlan_push(ctx.skb.skb, tag.tpid.to_be(), tag.tci) == 0 }
}
