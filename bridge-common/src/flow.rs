//! The flow cache: what was decided about frames like this one, moments ago.
//!
//! In front of the tables stands a small direct-mapped cache for each CPU. A cell holds the decision about one kind of
//! frame ([`FlowKey`]: everything in a frame that the decision looks at, but for its length), and under what it was made:
//! nothing that a decision rests on has changed since ([`crate::maps::Lease::changed`], and the churn cell of the VLAN for
//! what the FDB says), and it is no older than [`FLOW_TICKS`]. So the lease and the refresh of sources need not be looked at
//! for every frame, and a change of whatever kind ends all decisions before it for the price of one write.
//!
//! The cell also counts the frames that it served. They are added to the counters of port and VLAN when the cell is filled
//! anew; until then user space adds them itself.

use crate::{
    frame::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, ETH_P_PPP_SES, Tag, is_tag},
    tags::Rewrite,
};

/// log2 of the number of cells of one CPU.
pub const FLOW_BITS: u32 = 10;
/// Cells of one CPU.
pub const FLOWS: u32 = 1 << FLOW_BITS;
/// How old a decision may become, in ticks of the kernel (1 to 10 ms each).
pub const FLOW_TICKS: u32 = 8;
/// Churn cells: one for each VLAN id; 0 is that of VLAN-unaware bridges.
pub const CHURN_CELLS: u32 = 4096;
/// How many bytes of a frame have to be there to look at, whatever it carries: two addresses, a tag, an EtherType, and an
/// IPv4 header.
pub const FLOW_BYTES: usize = 38;

/// Next header of `ICMPv6`: neighbour discovery, or not.
const ICMPV6: u8 = 58;

/// What is the same in all frames of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The first eight bytes of the frame, as they lie in memory.
    pub head: u64,
    /// Bits 0 to 31: the four bytes behind, as they lie in memory; 32 to 47: the EtherType behind the outer tag; 48 to 63:
    /// control information of the outer tag.
    pub middle: u64,
    /// Bits 0 to 31: interface index of the device; 32 to 39: protocol of an IP packet; 40 to 47: first byte of an IPv4
    /// packet; 48 to 49: protocol of the tag (0: no tag); 50: the hook ([`Hook`]).
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

impl FlowKey {
    /// The key of no frame: no device has the index 0.
    pub const NONE: FlowKey = FlowKey { head: 0, middle: 0, rest: 0 };

    /// The key of a frame that came in at `device`. `packet` is the first byte and the protocol of an IPv4 packet, 0 and the
    /// next header of an IPv6 packet, otherwise zeros.
    #[inline(always)]
    pub const fn new(
        hook: Hook,
        device: u32,
        addresses: (u64, u32),
        tag: Option<Tag>,
        ethertype: u16,
        packet: (u8, u8),
    ) -> Self {
        let (tci, kind) = match tag {
            None => (0, 0),
            Some(tag) => (
                tag.tci(),
                match tag.tpid() {
                    ETH_P_8021Q => 1,
                    ETH_P_8021AD => 2,
                    _ => 3,
                },
            ),
        };
        Self {
            head: addresses.0,
            middle: addresses.1 as u64 | (ethertype as u64) << 32 | (tci as u64) << 48,
            rest: device as u64 | (packet.1 as u64) << 32 | (packet.0 as u64) << 40 | kind << 48 | (hook as u64) << 50,
        }
    }

    /// The EtherType behind the outer tag, host order.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "one of the parts of the word")]
    pub const fn ethertype(&self) -> u16 {
        (self.middle >> 32) as u16
    }

    /// The protocol of an IP packet.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "one of the parts of the word")]
    pub const fn protocol(&self) -> u8 {
        (self.rest >> 32) as u8
    }

    /// Whether the frame has a tag, in its bytes or beside them.
    #[inline(always)]
    pub const fn has_tag(&self) -> bool {
        self.rest >> 48 & 3 != 0
    }

    /// Where such frames are seen.
    #[inline(always)]
    pub const fn hook(&self) -> Hook {
        if self.rest >> 50 & 1 == 0 { Hook::Tc } else { Hook::Xdp }
    }

    /// The cell, below [`FLOWS`].
    #[inline(always)]
    pub const fn cell(&self) -> u32 {
        // Multilinear hashing: any odd numbers will do.
        let mixed = self
            .head
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(self.middle.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
            .wrapping_add(self.rest.wrapping_mul(0x1656_67b1_9e37_79f9));
        (mixed >> (64 - FLOW_BITS)) as u32
    }
}

/// Whether frames of this kind are decided by their key and length alone. Not those with an inner tag or a PPPoE session
/// (some are too short), and not those that may be neighbour discovery.
#[inline(always)]
pub const fn is_decided_by_key(ethertype: u16, protocol: u8) -> bool {
    !is_tag(ethertype) && ethertype != ETH_P_PPP_SES && !(ethertype == ETH_P_IPV6 && protocol == ICMPV6)
}

/// Whether the packet behind this EtherType has a protocol that belongs to the key.
#[inline(always)]
pub const fn is_ip(ethertype: u16) -> bool {
    matches!(ethertype, ETH_P_IP | ETH_P_IPV6)
}

/// Flags of [`Flow`].
pub mod flow_flags {
    /// Tags change.
    pub const REWRITE: u16 = 1 << 0;
    /// It leaves as a logical port's, which counts what is sent.
    pub const BY_PARENT: u16 = 1 << 1;
    /// It came as a logical port's.
    pub const FROM_PARENT: u16 = 1 << 2;
    /// XDP on a virtual device: the address must not be odd, and no checksum may be unfinished.
    pub const VIRTUAL: u16 = 1 << 3;
}

/// One cell. What every frame looks at fills the first 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Which frames this is about; [`FlowKey::NONE`] for none.
    pub key: FlowKey,
    /// [`crate::maps::Lease::changed`] before the tables were looked at.
    pub changed: u64,
    /// The churn cell of `vid` before the tables were looked at.
    pub churn: u64,
    /// Bytes served since the cell was filled, as in [`crate::frame::Frame::len`].
    pub bytes: u64,
    /// Frames served since.
    pub packets: u32,
    /// The kernel's ticks when it was filled, the lower half.
    pub tick: u32,
    /// The longest frame that may go, in bytes as they lie before the hook; super-frames of tc are exempt.
    pub max_len: u16,
    /// The kernel's VLAN id, 0 on a VLAN-unaware bridge.
    pub vid: u16,
    /// Slot of the egress port.
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
    /// So that the size is a multiple of the alignment.
    pub unused: [u64; 3],
}

impl Flow {
    /// A cell about nothing.
    pub const NONE: Flow = Flow {
        key: FlowKey::NONE,
        changed: 0,
        churn: 0,
        bytes: 0,
        packets: 0,
        tick: 0,
        max_len: 0,
        vid: 0,
        out: 0,
        flags: 0,
        ifindex: 0,
        slot: 0,
        fid: 0,
        rewrite: Rewrite::NOTHING,
        address: 0,
        flushes: 0,
        unused: [0; 3],
    };
}

const _: () = assert!(core::mem::offset_of!(Flow, ifindex) == 64);
const _: () = assert!(size_of::<Flow>() == 128);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: integers in repr(C) without padding: any bytes are a value.
    unsafe impl aya::Pod for super::Flow {}
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (Hook, u32, (u64, u32), Option<Tag>, u16, (u8, u8));

    fn key((hook, device, addresses, tag, ethertype, packet): Parts) -> FlowKey {
        FlowKey::new(hook, device, addresses, tag, ethertype, packet)
    }

    #[test]
    fn whatever_differs_makes_another_key() {
        let tag = |tpid, tci| Some(Tag::new(tpid, tci));
        let base: Parts = (Hook::Tc, 7, (1, 2), tag(ETH_P_8021Q, 10), ETH_P_IP, (0x45, 17));
        let mut others = [base; 10];
        others[1].0 = Hook::Xdp;
        others[2].1 = 8;
        others[3].2 = (2, 2);
        others[4].2 = (1, 3);
        others[5].3 = tag(ETH_P_8021AD, 10);
        // The priority is kept, so it matters.
        others[6].3 = tag(ETH_P_8021Q, 0x200a);
        others[7].3 = None;
        others[8].4 = ETH_P_IPV6;
        others[9].5 = (0x46, 17);
        for (place, one) in others.iter().enumerate() {
            assert_ne!(key(*one), FlowKey::NONE);
            assert!(key(*one).cell() < FLOWS);
            for other in &others[place + 1..] {
                assert_ne!(key(*one), key(*other), "{one:?} {other:?}");
            }
        }
        assert_ne!(key(base), key((base.0, base.1, base.2, base.3, base.4, (0x45, 6))));
        // Untagged is not the same as a tag of zeros.
        assert_ne!(key((Hook::Tc, 1, (1, 1), None, 0, (0, 0))), key((Hook::Tc, 1, (1, 1), tag(0, 0), 0, (0, 0))));
    }

    #[test]
    fn frames_whose_contents_matter_are_not_decided_by_their_key() {
        assert!(is_decided_by_key(ETH_P_IP, 17));
        assert!(is_decided_by_key(ETH_P_IP, ICMPV6), "a protocol of IPv4");
        assert!(is_decided_by_key(ETH_P_IPV6, 6));
        assert!(is_decided_by_key(0x88b5, 0));
        for (ethertype, protocol) in [(ETH_P_IPV6, ICMPV6), (ETH_P_8021Q, 0), (ETH_P_8021AD, 0), (ETH_P_PPP_SES, 0)] {
            assert!(!is_decided_by_key(ethertype, protocol));
        }
    }

    /// Neighbours in address space, as a hypervisor gives them out, do not crowd in a few cells.
    #[test]
    fn cells_are_used_evenly() {
        let mut used = [0u32; FLOWS as usize];
        for last in 0..FLOWS {
            let addresses = (0x0200_0000_5452_0002 ^ u64::from(last.swap_bytes()) << 16, last);
            used[key((Hook::Tc, 7, addresses, None, ETH_P_IP, (0x45, 17))).cell() as usize] += 1;
        }
        assert!(used.iter().filter(|count| **count > 0).count() > FLOWS as usize / 2);
        assert!(used.iter().all(|count| *count < 10));
    }
}
