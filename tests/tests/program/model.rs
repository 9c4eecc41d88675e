//! What each program should make of a frame: the decision as the host takes it, and what the programs add to it.
//! Written from the documentation of the programs, not from their source.

use std::io;

use bridge_common::{
    decide::{Decision, Edit, Verdict, decide},
    frame::{ETH_P_IP, ETH_P_IPV6, Frame, encapsulates, is_tunnel_port},
    maps::port_flags,
    reason::{Class, Reason},
};

use crate::{
    bench::{Cell, Counts, Outcome, TC_PASS, TC_REDIRECT, XDP_DROP, XDP_PASS, XDP_REDIRECT, untag, with_tag},
    world::{GONE, World, vlan_cell},
};

/// What happens to the frame, before it is translated to a program's verdict and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Left to the bridge.
    Slow(Reason),
    /// Sent on.
    Fast(Edit),
    /// Dropped, as the device is gone and the tag has been changed.
    Lost(Edit),
}

/// The lease holds.
fn leased(world: &World) -> bool {
    // Tests use moments that are far from now.
    world.lease == crate::world::NEVER
}

/// The decision of the host on a frame that comes in at `slot`.
fn decision(world: &World, slot: u16, wire: &[u8], gso: bool) -> Option<Decision> {
    let frame = Frame::parse(wire)?;
    Some(decide(world, slot, &Frame { gso, ..frame }))
}

/// What the tc program should make of the frame, where it came from `slot`, or from an unknown device.
pub(crate) fn tc(world: &World, slot: Option<u16>, wire: &[u8], gso: bool) -> Outcome {
    let len = untag(wire).1.len();
    let Some(slot) = slot else { return tc_outcome(0, None, wire, len, End::Slow(Reason::UnknownPort)) };
    if !leased(world) {
        return tc_outcome(slot, None, wire, len, End::Slow(Reason::Suspended));
    }
    let Some(decision) = decision(world, slot, wire, gso) else {
        // Its tag is still in its bytes.
        return tc_outcome(slot, None, wire, len, End::Slow(Reason::TagPlacement));
    };
    let end = match decision.verdict {
        Verdict::Forward { leaves, .. } => End::Fast(Edit::between(untag(wire).0, leaves)),
        Verdict::Pass(reason) => End::Slow(reason),
    };
    tc_outcome(slot, decision.fid.get(), wire, len, end)
}

/// An outcome of the tc program.
pub(crate) fn tc_outcome(slot: u16, fid: Option<u16>, wire: &[u8], len: usize, end: End) -> Outcome {
    match end {
        End::Slow(reason) => Outcome { verdict: TC_PASS, wire: wire.to_vec(), counts: counts(slot, fid, reason, len) },
        End::Fast(edit) | End::Lost(edit) => Outcome {
            verdict: TC_REDIRECT,
            wire: edited(wire, edit),
            counts: counts(slot, fid, Reason::ForwardedTc, len),
        },
    }
}

/// What the XDP program should make of the frame.
pub(crate) fn xdp(world: &World, slot: Option<u16>, wire: &[u8]) -> Outcome {
    xdp_end(world, slot, wire).unwrap_or_else(|| xdp_pass(wire))
}

fn xdp_end(world: &World, slot: Option<u16>, wire: &[u8]) -> Option<Outcome> {
    let slot = slot.filter(|_| leased(world))?;
    let decision = decision(world, slot, wire, false)?;
    let Verdict::Forward { slot: out, flags, leaves, .. } = decision.verdict else { return None };
    let is_virtual = world.ports[&slot].flags & port_flags::VIRTUAL_XDP != 0;
    let edit = Edit::between(untag(wire).0, leaves);
    let edited = edited(wire, edit);
    let max_len = usize::try_from(world.ports[&out].max_len).ok()?;
    if flags & port_flags::EGRESS_XDP == 0 || edited.len() > max_len || !gains(wire, is_virtual) {
        return None;
    }
    let end = match (out, edit) {
        (GONE, Edit::Keep) => return None,
        (GONE, edit) => End::Lost(edit),
        (_, edit) => End::Fast(edit),
    };
    Some(xdp_outcome(slot, decision.fid.get(), wire, end))
}

/// An outcome of the XDP program, which counts only what it takes.
pub(crate) fn xdp_outcome(slot: u16, fid: Option<u16>, wire: &[u8], end: End) -> Outcome {
    let (verdict, reason, edit) = match end {
        End::Slow(_) => return xdp_pass(wire),
        End::Fast(edit) => (XDP_REDIRECT, Reason::ForwardedXdp, edit),
        End::Lost(edit) => (XDP_DROP, Reason::RewriteFailed, edit),
    };
    let len = untag(wire).1.len();
    Outcome { verdict, wire: edited(wire, edit), counts: counts(slot, fid, reason, len) }
}

/// The XDP program leaves the frame to the tc program.
pub(crate) fn xdp_pass(wire: &[u8]) -> Outcome {
    Outcome { verdict: XDP_PASS, wire: wire.to_vec(), counts: Counts::new() }
}

/// The one frame that is counted.
fn counts(slot: u16, fid: Option<u16>, reason: Reason, len: usize) -> Counts {
    let count = (1, u64::try_from(len).expect("a short frame"));
    let mut counts = Counts::from([(Cell::Port(slot, reason), count)]);
    if let Some(fid) = fid {
        let cell = vlan_cell(fid);
        counts.insert(if reason.class() == Class::Fast { Cell::Fast(cell) } else { Cell::Slow(cell) }, count);
    }
    counts
}

/// The frame after the edit.
pub(crate) fn edited(wire: &[u8], edit: Edit) -> Vec<u8> {
    match edit {
        Edit::Keep => wire.to_vec(),
        Edit::Push(tag) => with_tag(wire, Some(tag)),
        Edit::Pop => untag(wire).1,
        Edit::Retag(tag) => with_tag(&untag(wire).1, Some(tag)),
    }
}

/// Whether XDP takes this kind of frame: no TCP, and on a virtual device nothing whose checksum may be unfinished.
fn gains(wire: &[u8], is_virtual: bool) -> bool {
    let bytes = untag(wire).1;
    let ethertype = u16::from_be_bytes([bytes[12], bytes[13]]);
    let l3 = &bytes[14..];
    let (protocol, header, addresses) = match ethertype {
        ETH_P_IP => match (l3.first(), l3.get(9)) {
            (Some(0x45), Some(protocol)) => (*protocol, 20, 12..20),
            _ => return false,
        },
        ETH_P_IPV6 => match l3.get(6) {
            Some(protocol) => (*protocol, 40, 8..40),
            None => return false,
        },
        other => return !(is_virtual && encapsulates(other)),
    };
    match protocol {
        6 => false,
        _ if !is_virtual => true,
        1 | 58 => true,
        17 => match (l3.get(addresses), l3.get(header..header + 8)) {
            (Some(addresses), Some(udp)) => {
                let port = u16::from_be_bytes([udp[2], udp[3]]);
                !is_tunnel_port(port) && pseudo_header_sum(addresses, &udp[4..6]) != udp[6..8]
            }
            _ => false,
        },
        _ => false,
    }
}

/// What the kernel leaves in the checksum field of a UDP datagram that the hardware is to finish.
pub(crate) fn pseudo_header_sum(addresses: &[u8], udp_len: &[u8]) -> [u8; 2] {
    let words = addresses.chunks(2).chain([&[0, 17][..], udp_len]);
    let mut sum: u32 = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded").to_be_bytes()
}

/// What `BPF_PROG_TEST_RUN` itself says to this frame: for tc, it wants whole IP headers behind a whole Ethernet header.
pub(crate) fn refused_by_tc_test_run(wire: &[u8], untouched: bool) -> bool {
    let bytes = if untouched { wire.to_vec() } else { untag(wire).1 };
    let needed = match bytes.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14,
    };
    bytes.len() < needed
}

/// Whether a system call said `EINVAL`.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
