//! XDP on uplinks: everything is in the bytes. Only what this program forwards is counted here; whatever it passes
//! meets the tc program next, which decides again and counts.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT},
    helpers::generated::{bpf_redirect_map, bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use bridge_common::{
    decide::{Edit, Tables as _, Verdict, decide},
    frame::{
        ETH_HLEN, ETH_P_IP, ETH_P_IPV6, Frame, MIN_TAGGED, Tag, VLAN_HLEN, encapsulates, is_neighbour_discovery,
        is_tag, is_tunnel_port,
    },
    ip,
    maps::port_flags,
    reason::Reason,
};

use crate::{
    count::count,
    packet::Packet,
    tables::{self, DEVICES, KernelTables},
};

/// Handles one frame. `None`: leave it to the tc program.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Option<u32> {
    let slot = tables::slot(ctx.ingress_ifindex() as u32)?;
    if !tables::leased() {
        return None;
    }
    let packet = Packet::new(ctx.data(), ctx.data_end());
    // SAFETY: a helper on the context.
    let wire_len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    if wire_len as usize != ctx.data_end() - ctx.data() {
        // In several buffers: not every device takes that.
        return None;
    }
    let (frame, l3) = parse(packet, wire_len, tables::checks_ip(slot))?;
    if !gains(packet, l3, &frame, KernelTables.port(slot)?.flags & port_flags::VIRTUAL_XDP != 0) {
        return None;
    }
    let decision = decide(&KernelTables, slot, &frame);
    let Verdict::Forward { slot: out, flags, edit, .. } = decision.verdict else { return None };
    if flags & port_flags::EGRESS_XDP == 0 || !fits(&frame, edit, KernelTables.port(out)?.max_len) {
        return None;
    }
    apply(ctx, packet, edit)?;
    // A device that has just left: an edited frame must not reach the bridge.
    let missing = if edit == Edit::Keep { XDP_PASS } else { XDP_DROP };
    // SAFETY: the map is a device map and lives as long as the program.
    let action =
        unsafe { bpf_redirect_map((&raw const DEVICES).cast_mut().cast(), u64::from(out), u64::from(missing)) } as u32;
    match action {
        XDP_REDIRECT => count(slot, Reason::ForwardedXdp, decision.fid, frame.len),
        XDP_DROP => count(slot, Reason::RewriteFailed, decision.fid, frame.len),
        _ => {}
    }
    Some(action)
}

/// The frame and the offset of what follows its outer tag.
#[inline(always)]
fn parse(packet: Packet, wire_len: u32, checks_ip: bool) -> Option<(Frame, usize)> {
    let (dst, src) = packet.macs()?;
    let outer = packet.be16(12)?;
    let (tag, ethertype, l3, len) = if is_tag(outer) {
        if (wire_len as usize) < MIN_TAGGED {
            return None;
        }
        let tag = Tag { tpid: outer, tci: packet.be16(14)? };
        (Some(tag), packet.be16(16)?, 18, wire_len - VLAN_HLEN)
    } else {
        (None, outer, 14, wire_len)
    };
    let neighbour_discovery = ethertype == ETH_P_IPV6
        && match (packet.byte(l3 + 6), packet.byte(l3 + 40)) {
            (Some(next_header), Some(kind)) => is_neighbour_discovery(next_header, kind),
            _ => false,
        };
    let untouched = !checks_ip || is_untouched_by_netfilter(packet, l3, ethertype, len);
    Some((Frame { dst, src, tag, ethertype, len, gso: false, neighbour_discovery, untouched }, l3))
}

/// As [`ip::is_untouched`]; a packet that is too short for a header is not.
#[inline(always)]
fn is_untouched_by_netfilter(packet: Packet, l3: usize, ethertype: u16, len: u32) -> bool {
    if !matches!(ethertype, ETH_P_IP | ETH_P_IPV6) {
        return true;
    }
    match packet.at::<[u8; ip::HEADER]>(l3) {
        // SAFETY: in bounds.
        Some(header) => ip::is_untouched(ethertype, unsafe { &*header }, len - ETH_HLEN),
        None => false,
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Whether the frame is better off here. TCP is not: the kernel merges its segments before the tc program sees them.
/// On a virtual device, a checksum that the sender left to the hardware would be lost with the skb's metadata.
#[inline(always)]
fn gains(packet: Packet, l3: usize, frame: &Frame, is_virtual: bool) -> bool {
    let (protocol, l4) = match frame.ethertype {
        ETH_P_IP => match (packet.byte(l3), packet.byte(l3 + 9)) {
            (Some(0x45), Some(protocol)) => (protocol, l3 + 20),
            // Options: where the next header starts is not worth finding out.
            _ => return false,
        },
        ETH_P_IPV6 => match packet.byte(l3 + 6) {
            Some(protocol) => (protocol, l3 + 40),
            None => return false,
        },
        ethertype => return !is_virtual || !encapsulates(ethertype),
    };
    if protocol == TCP {
        return false;
    }
    if !is_virtual {
        return true;
    }
    match protocol {
        ICMP | ICMPV6 => true,
        UDP => {
            packet.be16(l4 + 2).is_some_and(|port| !is_tunnel_port(port))
                && udp_checksum_is_whole(packet, l3, l4, frame.ethertype)
        }
        _ => false,
    }
}

/// Whether the UDP checksum is more than the sum over the pseudo-header, which is what `CHECKSUM_PARTIAL` leaves in it.
#[inline(always)]
fn udp_checksum_is_whole(packet: Packet, l3: usize, l4: usize, ethertype: u16) -> bool {
    let (first, words) = if ethertype == ETH_P_IP { (l3 + 12, 4) } else { (l3 + 8, 16) };
    let mut sum = u32::from(UDP);
    let mut word = 0;
    while word < 16 {
        if word < words {
            match packet.be16(first + 2 * word) {
                Some(value) => sum += u32::from(value),
                None => return false,
            }
        }
        word += 1;
    }
    let (Some(len), Some(check)) = (packet.be16(l4 + 4), packet.be16(l4 + 6)) else { return false };
    sum += u32::from(len);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    u32::from(check) != sum
}

/// The device map counts a tag in the bytes, the bridge does not: what lies between the two goes the other way.
#[inline(always)]
fn fits(frame: &Frame, edit: Edit, max_len: u32) -> bool {
    let tagged = match edit {
        Edit::Keep => frame.tag.is_some(),
        Edit::Push(_) | Edit::Retag(_) => true,
        Edit::Pop => false,
    };
    frame.len + if tagged { VLAN_HLEN } else { 0 } <= max_len
}

/// Changes the tag in the bytes. `None`: nothing was changed.
#[inline(always)]
fn apply(ctx: &XdpContext, packet: Packet, edit: Edit) -> Option<()> {
    match edit {
        Edit::Keep => {}
        Edit::Retag(tag) => {
            let tci = packet.at::<u16>(14)?;
            // SAFETY: in bounds and even.
            unsafe { *tci = tag.tci.to_be() };
        }
        Edit::Pop => {
            // The ethertype behind the tag is at 16: the frame stays a whole one.
            packet.be16(16)?;
            let macs = packet.words()?;
            // SAFETY: a helper on the context; pointers into the packet are fetched anew below.
            if unsafe { bpf_xdp_adjust_head(ctx.ctx, VLAN_HLEN.cast_signed()) } != 0 {
                return None;
            }
            let header = Packet::new(ctx.data(), ctx.data_end()).at::<[u16; 6]>(0)?;
            // SAFETY: in bounds and even.
            unsafe { *header = macs };
        }
        Edit::Push(tag) => {
            let macs = packet.words()?;
            // SAFETY: as above.
            if unsafe { bpf_xdp_adjust_head(ctx.ctx, -VLAN_HLEN.cast_signed()) } != 0 {
                return None;
            }
            let header = Packet::new(ctx.data(), ctx.data_end()).at::<[u16; 8]>(0)?;
            let [d0, d1, d2, s0, s1, s2] = macs;
            // SAFETY: in bounds and even.
            unsafe { *header = [d0, d1, d2, s0, s1, s2, tag.tpid.to_be(), tag.tci.to_be()] };
        }
    }
    Some(())
}
