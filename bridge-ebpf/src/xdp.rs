//! XDP on uplinks: everything is in the bytes. Only what this program forwards is counted here; whatever it passes
//! meets the tc program next, which decides again and counts.

mod tags;

use core::{hint::cold_path, ptr};

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT},
    helpers::generated::bpf_redirect_map,
    macros::map,
    maps::PerCpuArray,
    programs::XdpContext,
};
use bridge_common::{
    decide::{self, Delivery, Fid, Tables as _},
    flow::{FLOW_BYTES, Flow, FlowKey, flow_flags, is_ip},
    frame::{
        ETH_HLEN, ETH_P_IP, ETH_P_IPV6, Frame, LAST_TUNNEL_PORT, MIN_TAGGED, Tag, VLAN_HLEN, encapsulates,
        is_neighbour_discovery, is_tag, is_tunnel_port,
    },
    ip,
    maps::{MAX_PORTS, PARENT, port_flags},
    reason::Reason,
    tags::{Arrived, rewrite},
};

use self::tags::{apply, pop, push};
use crate::{
    count::{count, count_here, count_sent},
    decision::{Case, Forward, Paper},
    flow::{self, Found, Here},
    holes::is_scattered,
    packet::Packet,
    tables::{self, DEVICES, KernelTables, TablesHere, UNKNOWN},
};

/// Cell 0: where the frame at hand lies.
#[map(name = "xbr_address")]
static ADDRESS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Does what was decided about frames like this one. `None`: nothing was, or it is not quite like them.
#[inline(always)]
pub(crate) fn known(ctx: &XdpContext) -> Option<u32> {
    let here = Here::now()?;
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let Some(start) = packet.start() else {
        flow::hand_nothing_on();
        return None;
    };
    let key = FlowKey::of_xdp(&start, ctx.ingress_ifindex() as u32);
    // In 64 bits, as arithmetic in 32 takes two steps more each time.
    let wire_len = packet.len();
    let Some(flow) = here.current(&key).or_else(|| deliver(here, &key, wire_len as u32)) else {
        flow::hand_on(&key);
        return None;
    };
    let flags = flow.flags;
    if wire_len > flow.max_len as usize {
        // What is left to the bridge is always too long.
        if flags & flow_flags::PASSES != 0 {
            return Some(XDP_PASS);
        }
        flow::hand_nothing_on();
        return None;
    }
    if flags & flow_flags::VIRTUAL != 0 && !is_safe_on_virtual(packet, flow, flags)
        || is_scattered(ctx.ctx, wire_len as u64)
    {
        flow::hand_nothing_on();
        return None;
    }
    let mut missing = XDP_PASS;
    if flags & flow_flags::REWRITE != 0 {
        let [tag, _] = flow.rewrite.tags;
        let done = match tag {
            Some(tag) if flags & flow_flags::PUSH != 0 => push(ctx, &start, tag),
            _ if flags & flow_flags::POP != 0 => pop(ctx, &start),
            _ => {
                let rewrite = flow.rewrite;
                apply(ctx, packet, &rewrite)
            }
        };
        if done.is_none() {
            flow::hand_nothing_on();
            return None;
        }
        missing = XDP_DROP;
    }
    // Without a branch: the bit is four times the length of a tag.
    const { assert!(flow_flags::TAGGED as u32 == 4 * VLAN_HLEN) };
    let len = wire_len as u64 - u64::from(flags & flow_flags::TAGGED) / 4;
    let action = send(flow.out, missing);
    if action == XDP_REDIRECT {
        flow::served(flow, len);
    } else if action == XDP_DROP {
        count_here(flow.slot, Reason::RewriteFailed, Fid::new(flow.fid), len as u32);
    }
    Some(action)
}

/// Looks where a frame of a known origin goes, and writes it to the cell of that origin. `None`: it is to be decided by all
/// tables.
#[inline(always)]
fn deliver(here: Here, key: &FlowKey, wire_len: u32) -> Option<&'static mut Flow> {
    let flow = here.current_origin(key)?;
    let arrived = flow.arrived;
    let tag_len = if flow.flags & flow_flags::TAGGED != 0 { VLAN_HLEN } else { 0 };
    let frame = Frame { dst: key.dst(), tag: arrived.tag, len: wire_len - tag_len, ..Frame::EMPTY };
    let Delivery { slot: out, port, leaves } = decide::deliver(&TablesHere, &flow.origin, &frame).ok()?;
    // What leaves as a logical port's is counted for each port.
    if port.flags & port_flags::EGRESS_XDP == 0 || port.outer != 0 {
        return None;
    }
    let growth = flow::leaves(flow, out, port, leaves);
    fits(wire_len, growth, port.max_len).then_some(flow)
}

/// Whether this frame on a virtual device may go, as those before it did.
#[inline(always)]
fn is_safe_on_virtual(packet: Packet, flow: &mut Flow, flags: u16) -> bool {
    // SAFETY: a cell of this CPU; see `at_odd_address` for the way through the map.
    let odd = unsafe {
        ptr::write_volatile(&raw mut flow.address, packet.address() as u64);
        ptr::read_volatile(&raw const flow.address) & 1 != 0
    };
    if odd {
        return false;
    }
    match flags & (flow_flags::UDP4 | flow_flags::UDP6 | flow_flags::TAGGED) {
        // All of it is among the first bytes.
        flow_flags::UDP4 => udp_is_whole(packet, 26, 2),
        kind => {
            // The most frequent is to be asked for first.
            cold_path();
            match kind {
                UDP4_TAGGED => udp4_is_whole(packet, 18),
                flow_flags::UDP6 => udp6_is_whole(packet, 14),
                UDP6_TAGGED => udp6_is_whole(packet, 18),
                _ => true,
            }
        }
    }
}

const UDP4_TAGGED: u16 = flow_flags::UDP4 | flow_flags::TAGGED;
const UDP6_TAGGED: u16 = flow_flags::UDP6 | flow_flags::TAGGED;
const _: () = assert!(FLOW_BYTES >= 26 + 8 + 8);

/// Decides by the tables, for frames like this one to come as well. `None`: leave it to the tc program.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Option<u32> {
    let changed = tables::changed();
    let ifindex = ctx.ingress_ifindex() as u32;
    let mut slot = tables::device(ifindex);
    let packet = Packet::new(ctx.data(), ctx.data_end());
    let wire_len = packet.len();
    // Not every device takes more than one buffer.
    if slot == UNKNOWN || !tables::leased() || is_scattered(ctx.ctx, wire_len as u64) {
        return None;
    }
    let wire_len = wire_len as u32;
    let mut outer = None;
    if slot == PARENT {
        outer = tag_at(packet, 0, wire_len);
        slot = outer.map_or(UNKNOWN, |tag| tables::logical(ifindex, tag));
    }
    if slot >= MAX_PORTS {
        return None;
    }
    let slot = slot as u16;
    let skip = if outer.is_some() { VLAN_HLEN } else { 0 };
    let came_in = KernelTables.port(slot)?;
    let mut paper = Paper::new();
    let case = paper.case();
    case.slot = slot;
    let l3 = parse(packet, skip as usize, wire_len - skip, tables::checks_ip(came_in), &mut case.frame)?;
    let is_virtual = came_in.flags & port_flags::VIRTUAL_XDP != 0;
    let stamp = flow::stamp(changed, came_in, case.frame.tag, is_ip(case.frame.ethertype));
    match gains(packet, l3, &case.frame, is_virtual) {
        Gain::Yes if is_virtual && at_odd_address(packet) => return None,
        Gain::Yes => {}
        Gain::NotThis => return None,
        Gain::No => {
            flow::pass(stamp, slot, 0, Fid::NONE);
            return None;
        }
    }
    let verdict = paper.decide();
    let Case { frame, fid, vid, way, origin, .. } = paper.case();
    let (fid, vid, Forward { slot: out, ifindex, flags, leaves }) = (*fid, *vid, *way);
    let passes = match verdict {
        Some(reason) if !reason.lasts() => return None,
        Some(_) => true,
        None => flags & port_flags::EGRESS_XDP == 0,
    };
    if passes {
        flow::pass(stamp, slot, 0, Fid::NONE);
        return None;
    }
    let out = out as u16;
    // The port may have come into doubt since the decision: then it is not found, and what it leaves with is unknown.
    let port = KernelTables.port(out).filter(|port| port.ifindex == ifindex)?;
    let leaves_with = port.outer_tag();
    let arrived = Arrived { outer, tag: frame.tag };
    let rewrite = rewrite(arrived, leaves, leaves_with);
    if !fits(wire_len, rewrite.growth(), port.max_len) {
        return None;
    }
    apply(ctx, packet, &rewrite)?;
    // A device that has just left: an edited frame must not reach the bridge.
    let missing = if rewrite.is_nothing() { XDP_PASS } else { XDP_DROP };
    let action = send(out, missing);
    if fid.get().is_some() {
        let tag_len = if outer.is_some() || frame.tag.is_some() { VLAN_HLEN } else { 0 };
        let longest = port.max_len.wrapping_add_signed(-rewrite.growth());
        let found = Found {
            max_len: if longest < port.max_len + tag_len { longest } else { port.max_len + tag_len },
            out,
            flags: flow_flags::of(&rewrite)
                | flow::flag(flow_flags::COUNTS_SENT, leaves_with.is_some())
                | flow::flag(flow_flags::VIRTUAL, is_virtual),
            ifindex,
            slot,
            fid,
            vid,
            rewrite,
            origin: *origin,
            arrived,
        };
        flow::fill(stamp, found);
    }
    match action {
        XDP_REDIRECT => {
            count(slot, Reason::ForwardedXdp, fid, frame.len);
            if leaves_with.is_some() {
                count_sent(out, frame.len);
            }
        }
        XDP_DROP => count(slot, Reason::RewriteFailed, fid, frame.len),
        _ => {}
    }
    Some(action)
}

/// Sends the frame out of the port in slot `out`; `missing` is what to do if it has just left.
#[inline(always)]
fn send(out: u16, missing: u32) -> u32 {
    // SAFETY: the map is a device map and lives as long as the program.
    let action =
        unsafe { bpf_redirect_map((&raw const DEVICES).cast_mut().cast(), u64::from(out), u64::from(missing)) };
    action as u32
}

/// The tag behind the addresses and `skip` bytes, in a frame of `len` bytes without those.
#[inline(always)]
fn tag_at(packet: Packet, skip: usize, len: u32) -> Option<Tag> {
    let tpid = packet.be16(12 + skip)?;
    if !is_tag(tpid) || (len as usize) < MIN_TAGGED {
        return None;
    }
    Some(Tag::new(tpid, packet.be16(14 + skip)?))
}

/// The frame and the offset of what follows its outer tag, where `skip` bytes of a logical port's tag stand between the
/// addresses and the rest: `len` is the length without those.
#[inline(always)]
fn parse(packet: Packet, skip: usize, len: u32, checks_ip: bool, frame: &mut Frame) -> Option<usize> {
    packet.ethernet(&mut frame.dst, &mut frame.src)?;
    let outer = packet.be16(12 + skip)?;
    let (ethertype, l3, len) = if is_tag(outer) {
        frame.tag = tag_at(packet, skip, len);
        frame.tag?;
        (packet.be16(16 + skip)?, 18 + skip, len - VLAN_HLEN)
    } else {
        frame.tag = None;
        (outer, 14 + skip, len)
    };
    frame.ethertype = ethertype;
    frame.len = len;
    frame.gso = false;
    frame.neighbour_discovery = ethertype == ETH_P_IPV6
        && packet.at::<[u8; 41]>(l3).is_some()
        // SAFETY: in bounds.
        && unsafe { is_neighbour_discovery(packet.load(l3 + 6), packet.load(l3 + 40)) };
    frame.untouched = !checks_ip || is_untouched_by_netfilter(packet, l3, ethertype, len);
    Some(l3)
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

/// Whether the buffer begins at an odd address.
///
/// Kernels from 6.7 on copy what arrives on a veth into buffers one behind the other (`skb_pp_cow_data`), and until
/// 6.12.117 they forgot to align them after a frame of several buffers and odd length. Taps and veths mark redirected
/// frames by the lowest bit of their address (`TUN_XDP_FLAG`, `VETH_XDP_FLAG`), so such a frame would crash the kernel.
#[inline(always)]
fn at_odd_address(packet: Packet) -> bool {
    // The verifier lets a pointer become a number only on the way through a map.
    let Some(cell) = ADDRESS.get_ptr_mut(0) else { return true };
    // SAFETY: the value belongs to this CPU.
    unsafe {
        ptr::write_volatile(cell, packet.address() as u64);
        ptr::read_volatile(cell) & 1 != 0
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Whether frames are better off here.
enum Gain {
    Yes,
    /// Others with the same key may be.
    NotThis,
    No,
}

impl Gain {
    #[inline(always)]
    const fn always(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Whether the frame is better off here. TCP is not: the kernel merges its segments before the tc program sees them.
/// On a virtual device, a checksum that the sender left to the hardware would be lost with the skb's metadata.
#[inline(always)]
fn gains(packet: Packet, l3: usize, frame: &Frame, is_virtual: bool) -> Gain {
    let protocol = match frame.ethertype {
        ETH_P_IP => {
            if packet.at::<[u8; 10]>(l3).is_none() {
                return Gain::NotThis;
            }
            // SAFETY: in bounds.
            let (version, protocol) = unsafe { (packet.load::<u8>(l3), packet.load::<u8>(l3 + 9)) };
            if version != 0x45 {
                // Options: where the next header starts is not worth finding out.
                return Gain::No;
            }
            protocol
        }
        ETH_P_IPV6 => match packet.byte(l3 + 6) {
            Some(protocol) => protocol,
            None => return Gain::NotThis,
        },
        ethertype => return Gain::always(!is_virtual || !encapsulates(ethertype)),
    };
    if protocol == TCP {
        return Gain::No;
    }
    if !is_virtual {
        return Gain::Yes;
    }
    match protocol {
        ICMP | ICMPV6 => Gain::Yes,
        UDP if frame.ethertype == ETH_P_IP && udp4_is_whole(packet, l3) => Gain::Yes,
        UDP if frame.ethertype == ETH_P_IPV6 && udp6_is_whole(packet, l3) => Gain::Yes,
        UDP => Gain::NotThis,
        _ => Gain::No,
    }
}

/// Whether no checksum of the UDP packet in IPv4 without options is left to the hardware, neither its own nor one inside a
/// tunnel.
#[inline(always)]
fn udp4_is_whole(packet: Packet, l3: usize) -> bool {
    packet.at::<[u8; 28]>(l3).is_some() && udp_is_whole(packet, l3 + 12, 2)
}

/// As [`udp4_is_whole`], of a packet in IPv6.
#[inline(always)]
fn udp6_is_whole(packet: Packet, l3: usize) -> bool {
    packet.at::<[u8; 48]>(l3).is_some() && udp_is_whole(packet, l3 + 8, 8)
}

/// Whether the UDP checksum is more than the sum over the pseudo-header, which is what `CHECKSUM_PARTIAL` leaves in it. The
/// two addresses are `words` words of four bytes from `first` on, and the UDP header, behind them, is there.
#[inline(always)]
fn udp_is_whole(packet: Packet, first: usize, words: usize) -> bool {
    let l4 = first + 4 * words;
    // SAFETY: as the callers saw to.
    let (upper, len, check) =
        unsafe { (packet.load::<u8>(l4 + 2), packet.load::<u16>(l4 + 4), packet.load::<u16>(l4 + 6)) };
    // Most are above, which costs less to see in half of the number.
    // SAFETY: as above.
    if upper <= (LAST_TUNNEL_PORT >> 8) as u8 && is_tunnel_port(u16::from_be(unsafe { packet.load(l4 + 2) })) {
        return false;
    }
    // The sum is never 0: there is no checksum at all.
    if check == 0 {
        return true;
    }
    // The sum of numbers in network order is that of the numbers, in network order. It does not matter how it is folded, nor
    // that what was added to it is a multiple of what folding takes away.
    let mut sum = u64::from(u16::from(UDP).to_be()) + u64::from(len) + 0xffff - u64::from(check);
    let mut word = 0;
    while word < words {
        // SAFETY: as above.
        sum += u64::from(unsafe { packet.load::<u32>(first + 4 * word) });
        word += 1;
    }
    !ip::folds_to_zero(sum)
}

/// The device map counts the tags in the bytes, the bridge does not: what lies between the two goes the other way. A
/// parent's limit is not below its VLAN devices' (`vlan_device_event`).
#[inline(always)]
fn fits(wire_len: u32, growth: i32, max_len: u32) -> bool {
    wire_len.wrapping_add_signed(growth) <= max_len
}
