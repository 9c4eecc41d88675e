//! The flow cache: what was decided about frames like this one, moments ago.
//!
//! In front of the tables stands a small direct-mapped cache for each CPU. A cell holds the decision about one kind of
//! frame ([`FlowKey`]: everything in a frame that the decision looks at, but for its length), and under what it was made: the
//! churn cell of its VLAN has not changed since (it does with the FDB, and with everything else that a decision rests on), and
//! it is no older than [`FLOW_TICKS`]. So the lease and the refresh of sources need not be looked at for every frame, and a
//! change of whatever kind ends all decisions before it for the price of a few writes.
//!
//! Behind it stands a smaller one of *origins* ([`FlowKey::origin`]): what is the same whatever the destination, so that of a
//! frame to a station that the first cache does not hold only the destination is looked up ([`crate::decide::deliver`]).
//!
//! The cell also counts the frames that it served. They are added to the counters of port and VLAN when the cell is filled
//! anew; until then user space adds them itself.

use core::hint::cold_path;

use crate::{
    decide::{Fid, Origin},
    frame::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_PPP_SES, Tag, is_tag},
    mac::Mac,
    reason::Reason,
    tags::{Arrived, Rewrite},
};

/// log2 of the number of cells of one CPU that hold flows.
pub const FLOW_BITS: u32 = 10;
/// Cells of one CPU that hold flows.
pub const FLOWS: u32 = 1 << FLOW_BITS;
/// log2 of the number of cells of one CPU that hold origins.
pub const ORIGIN_BITS: u32 = 8;
/// All cells of one CPU: those of flows, then those of origins.
pub const CELLS: u32 = FLOWS + (1 << ORIGIN_BITS);
/// Of so many frames that an origin has served, the next one goes all the way, so that its flow gets a cell of its own. A
/// power of two.
pub const ORIGIN_SHARE: u64 = 1024;
/// How old a decision may become, in ticks of the kernel (1 to 10 ms each).
pub const FLOW_TICKS: u64 = 8;
/// Churn cells, of VLAN ids modulo this number; 0 is also that of VLAN-unaware bridges.
pub const CHURN_CELLS: u32 = 256;
/// How many bytes of a frame have to be there to look at, whatever it carries: two addresses, an EtherType, an IPv4 header
/// and that of UDP; or a tag in place of the last.
pub const FLOW_BYTES: usize = 42;

/// Next header of `ICMPv6`: neighbour discovery, or not.
const ICMPV6: u8 = 58;

/// The churn cell of a VLAN id.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a small number")]
pub const fn churn_cell(vid: u16) -> u16 {
    vid & (CHURN_CELLS as u16 - 1)
}

/// One frame of `len` bytes ([`crate::frame::Frame::len`]), to be added to [`Flow::served`]: bytes in the upper 40 bits, frames
/// in the lower 24. Within [`FLOW_TICKS`] neither can come to more.
#[inline(always)]
pub const fn served(len: u64) -> u64 {
    len << SERVED_BITS | 1
}

const SERVED_BITS: u32 = 24;

/// Frames and bytes of [`Flow::served`].
#[inline(always)]
pub const fn packets_and_bytes(served: u64) -> (u64, u64) {
    (served & ((1 << SERVED_BITS) - 1), served >> SERVED_BITS)
}

/// Whether the next frame is to go all the way, after what an origin has [`served`].
#[inline(always)]
pub const fn is_due(served: u64) -> bool {
    served & (ORIGIN_SHARE - 1) == ORIGIN_SHARE - 1
}

/// What is the same in all frames of a flow, in three words that take few instructions to put together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The first eight bytes of the frame, as they lie in memory.
    pub head: u64,
    /// The eight bytes behind, as they lie in memory: the rest of the source, the protocol of a tag or the EtherType, and
    /// the control information of a tag, the first byte of an IPv4 packet (and 0), or zeros.
    pub middle: u64,
    /// Bits 0 to 30: interface index of the device; 31: the hook ([`Hook`]); 32 to 39: protocol of an IP packet. At XDP, behind
    /// a tag: 40 to 55 the EtherType, as it lies in memory; 56 to 63 the first byte of an IPv4 packet. At tc, of the tag
    /// beside the frame: 40 to 55 its control information, 56 to 63 which protocol it has (0: no tag).
    pub rest: u64,
}

/// Where the frame is seen. The hooks count by different reasons and send by different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tc ingress.
    Tc = 0,
    /// XDP.
    Xdp = 1,
}

/// Of [`FlowKey::middle`]: all but what is behind the EtherType.
const ADDRESSES: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
/// Of [`FlowKey::middle`]: the first byte of the packet as well.
const ADDRESSES_AND_BYTE: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);

/// The first bytes of a frame. Numbers are in network order, as they lie in memory.
pub trait Bytes {
    /// The eight bytes at `offset`.
    fn eight(&self, offset: usize) -> u64;
    /// The two bytes at `offset`.
    fn two(&self, offset: usize) -> u16;
    /// The byte at `offset`.
    fn one(&self, offset: usize) -> u8;
}

impl FlowKey {
    /// The key of no frame: no device has the index 0.
    pub const NONE: FlowKey = FlowKey { head: 0, middle: 0, rest: 0 };

    /// The key of a frame that came in at `device`, seen by XDP. `bytes` are at least [`FLOW_BYTES`].
    #[inline(always)]
    pub fn of_xdp(bytes: &impl Bytes, device: u32) -> Self {
        const IP: u16 = ETH_P_IP.to_be();
        const IPV6: u16 = ETH_P_IPV6.to_be();
        const Q: u16 = ETH_P_8021Q.to_be();
        const AD: u16 = ETH_P_8021AD.to_be();
        let next = bytes.eight(8);
        let (middle, behind) = match bytes.two(12) {
            IP => (next & ADDRESSES_AND_BYTE, u64::from(bytes.one(23))),
            outer => {
                // The most frequent is to be asked for first.
                cold_path();
                match outer {
                    Q | AD => (
                        next,
                        match bytes.two(16) {
                            IP => u64::from(bytes.one(27)) | u64::from(IP) << 8 | u64::from(bytes.one(18)) << 24,
                            IPV6 => u64::from(bytes.one(24)) | u64::from(IPV6) << 8,
                            ethertype => u64::from(ethertype) << 8,
                        },
                    ),
                    IPV6 => (next & ADDRESSES, u64::from(bytes.one(20))),
                    _ => (next & ADDRESSES, 0),
                }
            }
        };
        Self { head: bytes.eight(0), middle, rest: u64::from(device) | XDP | behind << 32 }
    }

    /// The key of a frame that came in at `device` with `tag` beside it, seen by tc. `bytes` are at least [`FLOW_BYTES`].
    /// A tag in the bytes is the frame's EtherType.
    #[inline(always)]
    pub fn of_tc(bytes: &impl Bytes, device: u32, tag: Option<Tag>) -> Self {
        const IP: u16 = ETH_P_IP.to_be();
        const IPV6: u16 = ETH_P_IPV6.to_be();
        let next = bytes.eight(8);
        let (middle, protocol) = match bytes.two(12) {
            IP => (next & ADDRESSES_AND_BYTE, bytes.one(23)),
            IPV6 => (next & ADDRESSES, bytes.one(20)),
            _ => (next & ADDRESSES, 0),
        };
        let beside = match tag {
            None => 0,
            Some(tag) => u64::from(tag.tci()) << 40 | (if tag.tpid() == ETH_P_8021AD { 2 } else { 1 }) << 56,
        };
        Self { head: bytes.eight(0), middle, rest: u64::from(device) | u64::from(protocol) << 32 | beside }
    }

    /// Whether the tag is in the bytes.
    #[inline(always)]
    pub fn has_tag(&self) -> bool {
        matches!(self.hook(), Hook::Xdp) && is_tag(self.first_ethertype())
    }

    /// The EtherType behind the outer tag, host order.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "one of the parts of the word")]
    pub fn ethertype(&self) -> u16 {
        if self.has_tag() { u16::from_be((self.rest >> 40) as u16) } else { self.first_ethertype() }
    }

    #[inline(always)]
    fn first_ethertype(&self) -> u16 {
        let bytes = self.middle.to_ne_bytes();
        u16::from_be_bytes([bytes[4], bytes[5]])
    }

    /// The protocol of an IP packet.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "one of the parts of the word")]
    pub const fn protocol(&self) -> u8 {
        (self.rest >> 32) as u8
    }

    /// Where such frames are seen.
    #[inline(always)]
    pub const fn hook(&self) -> Hook {
        if self.rest & XDP == 0 { Hook::Tc } else { Hook::Xdp }
    }

    /// Whether frames of this kind are decided by their key and length alone. Not those with an inner tag or a `PPPoE`
    /// session (some are too short), and not those that may be neighbour discovery.
    #[inline(always)]
    pub fn decides(&self) -> bool {
        let ethertype = self.ethertype();
        !is_tag(ethertype) && ethertype != ETH_P_PPP_SES && !(ethertype == ETH_P_IPV6 && self.protocol() == ICMPV6)
    }

    /// The key without the destination: of all frames that come from one station alike.
    #[inline(always)]
    #[must_use]
    pub const fn origin(&self) -> Self {
        Self { head: self.head & SOURCE, ..*self }
    }

    /// Whether the destination is a group's or everybody's.
    #[inline(always)]
    pub const fn is_to_many(&self) -> bool {
        self.head & MANY != 0
    }

    /// The destination.
    #[inline(always)]
    pub const fn dst(&self) -> Mac {
        let [m0, m1, m2, m3, m4, m5, ..] = self.head.to_ne_bytes();
        Mac::new([m0, m1, m2, m3, m4, m5])
    }

    /// The cell of an origin, from [`FLOWS`] on and below [`CELLS`].
    #[inline(always)]
    pub const fn origin_cell(&self) -> usize {
        FLOWS as usize + (self.mixed() >> (64 - ORIGIN_BITS)) as usize
    }

    /// The cell of a flow, below [`FLOWS`].
    #[inline(always)]
    pub const fn cell(&self) -> usize {
        (self.mixed() >> (64 - FLOW_BITS)) as usize
    }

    #[inline(always)]
    const fn mixed(&self) -> u64 {
        // The last two bytes of the destination, what of the source is not the same at all stations of a maker, a tag, and the
        // protocol: they come to lie beside each other.
        // Multiplication carries differences upwards, where the number of the cell is taken from.
        let mixed = (self.head >> 32) ^ self.middle ^ (self.rest >> 8);
        mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

/// Of [`FlowKey::head`]: what is of the source.
const SOURCE: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0xff, 0xff]);
/// Of [`FlowKey::head`]: the bit of the destination that makes it one of many.
const MANY: u64 = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);

/// Bit of [`FlowKey::rest`]: the hook is XDP.
const XDP: u64 = 1 << 31;

/// Whether this is the EtherType of an IP packet.
#[inline(always)]
pub const fn is_ip(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_IP | ETH_P_IPV6)
}

/// Flags of [`Flow`].
pub mod flow_flags {
    use crate::tags::Rewrite;

    /// Tags change.
    pub const REWRITE: u16 = 1 << 0;
    /// What is sent is counted here: it leaves as a logical port's, or by the far end of a pair.
    pub const COUNTS_SENT: u16 = 1 << 1;
    /// It came as a logical port's.
    pub const FROM_PARENT: u16 = 1 << 2;
    /// XDP on a virtual device: the address must not be odd, and no checksum may be unfinished.
    pub const VIRTUAL: u16 = 1 << 3;
    /// It comes with a tag in its bytes.
    pub const TAGGED: u16 = 1 << 4;
    /// UDP over IPv4, seen by XDP.
    pub const UDP4: u16 = 1 << 5;
    /// UDP over IPv6, seen by XDP.
    pub const UDP6: u16 = 1 << 6;
    /// Such frames are left to the bridge, for the [`Reason`](crate::reason::Reason) whose number stands in place of the
    /// egress port.
    pub const PASSES: u16 = 1 << 7;
    /// They were not classified: there is no forwarding id.
    pub const UNCLASSIFIED: u16 = 1 << 8;
    /// It is handed to the far end of the pair, and the near end counts nothing.
    pub const PEER: u16 = 1 << 9;
    /// With `REWRITE`: one tag is put in front, and nothing else changes.
    pub const PUSH: u16 = 1 << 10;
    /// With `REWRITE`: one tag is taken off, and nothing else changes.
    pub const POP: u16 = 1 << 11;

    /// What [`Flow::rewrite`](super::Flow) asks for.
    pub const TAGS: u16 = REWRITE | PUSH | POP;

    /// Those of [`TAGS`] that stand for this, of which there are up to two to take off and to put in front. Without a branch:
    /// the verifier would look at all that follows once for each side.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "single bits")]
    pub const fn of(rewrite: &Rewrite) -> u16 {
        let Rewrite { pop, push, .. } = *rewrite;
        let (pops, pushes) = ((pop | pop >> 1) & 1, (push | push >> 1) & 1);
        let only_push = push & 1 & (pops ^ 1);
        let only_pop = pop & 1 & (pushes ^ 1);
        ((pops | pushes) as u16 * REWRITE) | (only_push as u16 * PUSH) | (only_pop as u16 * POP)
    }
}

/// One cell. What every frame looks at fills the first 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Which frames this is about; [`FlowKey::NONE`] for none.
    pub key: FlowKey,
    /// What was in the churn cell `churn_at` before the tables were looked at.
    pub churn: u64,
    /// What was served since the cell was filled ([`served`]).
    pub served: u64,
    /// The kernel's ticks when it was filled.
    pub tick: u64,
    /// The longest frame that may go, in bytes as they lie before the hook; super-frames of tc are exempt. 0 where such frames are
    /// left to the bridge.
    pub max_len: u16,
    /// [`churn_cell`] of the VLAN.
    pub churn_at: u16,
    /// Slot of the egress port, or the reason why there is none.
    pub out: u16,
    /// [`flow_flags`].
    pub flags: u16,
    /// Interface index of the device that it leaves by.
    pub ifindex: u32,
    /// Slot of the ingress port.
    pub slot: u16,
    /// The forwarding id.
    pub fid: u16,
    /// What happens to the tags.
    pub rewrite: Rewrite,
    /// Where the frame at hand lies.
    pub address: u64,
    /// In the first cell of each CPU: how often cells were emptied there, twice for each time.
    pub flushes: u64,
    /// Of an origin: what was found out before the destination was looked at. Its `out`, `max_len`, `ifindex` and `rewrite`
    /// are those of the frame at hand.
    pub origin: Origin,
    /// Of an origin: the tags that such frames come with.
    pub arrived: Arrived,
    /// So that the size is a multiple of the alignment.
    pub unused: u64,
}

impl Flow {
    /// The number of the reason by which its frames are counted.
    #[inline(always)]
    pub const fn reason(&self) -> usize {
        if self.flags & flow_flags::PASSES != 0 {
            self.out as usize
        } else {
            match self.key.hook() {
                Hook::Tc => Reason::ForwardedTc as usize,
                Hook::Xdp => Reason::ForwardedXdp as usize,
            }
        }
    }

    /// The forwarding id of its frames.
    #[inline(always)]
    pub const fn fid(&self) -> Fid {
        if self.flags & flow_flags::UNCLASSIFIED == 0 { Fid::new(self.fid) } else { Fid::NONE }
    }

    /// A cell about nothing.
    pub const NONE: Flow = Flow {
        key: FlowKey::NONE,
        churn: 0,
        served: 0,
        tick: 0,
        max_len: 0,
        churn_at: 0,
        out: 0,
        flags: 0,
        ifindex: 0,
        slot: 0,
        fid: 0,
        rewrite: Rewrite::NOTHING,
        address: 0,
        flushes: 0,
        origin: Origin::NONE,
        arrived: Arrived { outer: None, tag: None },
        unused: 0,
    };
}

const _: () = assert!(core::mem::offset_of!(Flow, rewrite) == 64);
const _: () = assert!(size_of::<Flow>() == 128);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: integers in repr(C) without padding: any bytes are a value.
    unsafe impl aya::Pod for super::Flow {}
}

#[cfg(test)]
mod tests;
