//! Tags in the bytes of a frame that XDP sees.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use bridge_common::{
    flow::Bytes as _,
    frame::{Tag, VLAN_HLEN},
    tags::Rewrite,
};

use crate::packet::{Packet, Start};

/// Changes the tags in the bytes. `None`: nothing was changed.
#[inline(always)]
pub(crate) fn apply(ctx: &XdpContext, packet: Packet, rewrite: &Rewrite) -> Option<()> {
    if rewrite.is_nothing() {
        return Some(());
    }
    // The EtherType behind what is taken off: the frame stays a whole one.
    let head = match rewrite.pop {
        0 => packet.at::<[u8; 14]>(0).map(|_| ()),
        1 => packet.at::<[u8; 18]>(0).map(|_| ()),
        _ => packet.at::<[u8; 22]>(0).map(|_| ()),
    };
    head?;
    // SAFETY: in bounds.
    let addresses = unsafe { (packet.load::<u64>(0), packet.load::<u32>(8)) };
    let growth = rewrite.growth();
    // SAFETY: a helper on the context; pointers into the packet are fetched anew below.
    if growth != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, -growth) } != 0 {
        return None;
    }
    let packet = Packet::new(ctx.data(), ctx.data_end());
    if growth != 0 {
        packet.at::<[u8; 12]>(0)?;
        // SAFETY: in bounds.
        unsafe {
            packet.store(0, addresses.0);
            packet.store(8, addresses.1);
        }
    }
    let [first, second] = rewrite.tags;
    if rewrite.push > 0 {
        put(packet, 12, first?)?;
    }
    if rewrite.push > 1 {
        put(packet, 16, second?)?;
    }
    Some(())
}

/// As [`apply`], where one tag is put in front of a frame that begins so.
#[inline(always)]
pub(crate) fn push(ctx: &XdpContext, start: &Start, tag: Tag) -> Option<()> {
    let addresses = (start.eight(0), start.four(8));
    // SAFETY: a helper on the context; pointers into the packet are fetched anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -VLAN_HLEN.cast_signed()) } != 0 {
        return None;
    }
    let packet = Packet::new(ctx.data(), ctx.data_end());
    packet.at::<[u8; 16]>(0)?;
    // SAFETY: in bounds.
    unsafe {
        packet.store(0, addresses.0);
        packet.store(8, addresses.1);
        packet.store(12, tag.on_the_wire());
    }
    Some(())
}

/// As [`apply`], where one tag is taken off a frame that begins so.
#[inline(always)]
pub(crate) fn pop(ctx: &XdpContext, start: &Start) -> Option<()> {
    let addresses = (start.eight(0), start.four(8));
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, VLAN_HLEN.cast_signed()) } != 0 {
        return None;
    }
    let packet = Packet::new(ctx.data(), ctx.data_end());
    packet.at::<[u8; 12]>(0)?;
    // SAFETY: in bounds.
    unsafe {
        packet.store(0, addresses.0);
        packet.store(8, addresses.1);
    }
    Some(())
}

/// Writes a tag at `offset`.
#[inline(always)]
fn put(packet: Packet, offset: usize, tag: Tag) -> Option<()> {
    packet.at::<[u8; 4]>(offset)?;
    // SAFETY: in bounds.
    unsafe { packet.store(offset, tag.on_the_wire()) };
    Some(())
}
