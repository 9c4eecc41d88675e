//! What the decision needs to know of a frame, and how it is read from bytes.

use core::{fmt, num::NonZeroU32};

use crate::{ip, mac::Mac};

/// Length of the Ethernet header without a tag, in bytes.
pub const ETH_HLEN: u32 = 14;
/// Length of one VLAN tag, in bytes.
pub const VLAN_HLEN: u32 = 4;
/// The shortest tagged frame that `skb_vlan_untag` takes, in bytes: it drops what is shorter.
pub const MIN_TAGGED: usize = 20;
/// EtherType and tag protocol of 802.1Q.
pub const ETH_P_8021Q: u16 = 0x8100;
/// EtherType and tag protocol of 802.1ad.
pub const ETH_P_8021AD: u16 = 0x88a8;
/// EtherType of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;

/// EtherType of PPPoE sessions.
pub const ETH_P_PPP_SES: u16 = 0x8864;
/// Length of the header of a PPPoE session with the protocol behind it, in bytes.
pub const PPPOE_SES_HLEN: u32 = 8;

/// `eth_type_vlan`: whether `ethertype` announces a VLAN tag.
#[inline(always)]
pub const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD
}

/// Whether an unfinished checksum may hide behind `ethertype`: inner tags, MPLS (unicast and multicast), PPPoE sessions.
#[inline(always)]
pub const fn encapsulates(ethertype: u16) -> bool {
    is_tag(ethertype) || matches!(ethertype, 0x8847 | 0x8848 | 0x8864)
}

/// The highest of [`is_tunnel_port`].
pub const LAST_TUNNEL_PORT: u16 = 8472;

/// Whether UDP to `port` usually carries frames or packets of its own, whose checksum may be unfinished while the outer
/// one is whole: L2TP, GTP-U, GRE, VXLAN (also Linux' old port), FOU and GUE, GENEVE, MPLS.
#[inline(always)]
pub const fn is_tunnel_port(port: u16) -> bool {
    // Most are outside, and one look tells.
    port.wrapping_sub(1701) <= LAST_TUNNEL_PORT - 1701
        && matches!(port, 1701 | 2152 | 4754 | 4789 | 5555 | 6080 | 6081 | 6635 | 8472)
}

/// Whether `next_header` and `icmp_type` are those of IPv6 neighbour discovery (RFC 4861, types 133 to 137).
#[inline(always)]
pub const fn is_neighbour_discovery(next_header: u8, icmp_type: u8) -> bool {
    next_header == 58 && icmp_type >= 133 && icmp_type <= 137
}

/// The outer VLAN tag: its protocol in the upper half, its control information in the lower.
///
/// In one word that is never 0, so that an `Option<Tag>` is one word as well, and all of it has a value when there is no tag:
/// the compiler copies such words before it asks whether there is one, and the verifier refuses copies of what was never set.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(NonZeroU32);

impl Tag {
    /// A tag of protocol `tpid` ([`ETH_P_8021Q`] or [`ETH_P_8021AD`]) with the control information `tci`: PCP (3 bits), DEI
    /// (1), VLAN id (12). Both in host order.
    #[inline(always)]
    pub const fn new(tpid: u16, tci: u16) -> Self {
        match NonZeroU32::new((tpid as u32) << 16 | tci as u32) {
            Some(both) => Self(both),
            // There is no protocol 0.
            None => Self(NonZeroU32::MIN),
        }
    }

    /// Tag protocol, host order: [`ETH_P_8021Q`] or [`ETH_P_8021AD`].
    #[inline(always)]
    pub const fn tpid(self) -> u16 {
        (self.0.get() >> 16) as u16
    }

    /// Tag control information, host order.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub const fn tci(self) -> u16 {
        self.0.get() as u16
    }

    /// The four bytes of it in a frame, as they lie in memory.
    #[inline(always)]
    pub const fn on_the_wire(self) -> u32 {
        self.0.get().to_be()
    }

    /// The VLAN id.
    #[inline(always)]
    pub const fn vid(self) -> u16 {
        self.tci() & 0x0fff
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:04x} {:04x})", self.tpid(), self.tci())
    }
}

/// A frame as the bridge's decision sees it: the outer tag beside the frame, as the kernel keeps it after
/// `skb_vlan_untag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// The outer tag, wherever it was (bytes or metadata).
    pub tag: Option<Tag>,
    /// The EtherType behind the outer tag, host order; below 0x600 an 802.3 length.
    pub ethertype: u16,
    /// Length in bytes from the destination address on, without the outer tag: `skb->len` where the bridge checks the MTU.
    pub len: u32,
    /// A GSO super-frame: exempt from the MTU check.
    pub gso: bool,
    /// IPv6 neighbour discovery behind at most the outer tag.
    pub neighbour_discovery: bool,
    /// `br_netfilter` would leave the frame as it is ([`crate::ip::is_untouched`]). Need not be found out for ports without
    /// [`crate::maps::port_flags::CHECK_IPV4`] and `CHECK_IPV6`.
    pub untouched: bool,
}

impl Frame {
    /// Nothing known yet.
    pub const EMPTY: Frame = Frame {
        dst: Mac::new([0; 6]),
        src: Mac::new([0; 6]),
        tag: None,
        ethertype: 0,
        len: 0,
        gso: false,
        neighbour_discovery: false,
        untouched: false,
    };

    /// Reads a frame whose tags are all in its bytes, as on the wire. `None` if it is too short for its own headers;
    /// `skb_vlan_untag` drops such frames.
    pub fn parse(bytes: &[u8]) -> Option<Frame> {
        let dst = Mac::new(bytes.get(0..6)?.try_into().ok()?);
        let src = Mac::new(bytes.get(6..12)?.try_into().ok()?);
        let outer = be16(bytes, 12)?;
        let (tag, ethertype, l3) = if is_tag(outer) {
            if bytes.len() < MIN_TAGGED {
                return None;
            }
            (Some(Tag::new(outer, be16(bytes, 14)?)), be16(bytes, 16)?, 18)
        } else {
            (None, outer, 14)
        };
        let neighbour_discovery = ethertype == ETH_P_IPV6
            && matches!((bytes.get(l3 + 6), bytes.get(l3 + 40)), (Some(next), Some(kind)) if is_neighbour_discovery(*next, *kind));
        let len = u32::try_from(bytes.len()).ok()? - if tag.is_some() { VLAN_HLEN } else { 0 };
        let is_ip = matches!(ethertype, ETH_P_IP | ETH_P_IPV6);
        let header = bytes.get(l3..).and_then(|packet| packet.first_chunk());
        let untouched = !is_ip || header.is_some_and(|header| ip::is_untouched(ethertype, header, len - ETH_HLEN));
        Some(Frame { dst, src, tag, ethertype, len, gso: false, neighbour_discovery, untouched })
    }
}

fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    const PLAIN: [u8; 18] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0, 0, 0];

    #[test]
    fn untagged_frame() {
        let frame = Frame::parse(&PLAIN).unwrap();
        assert_eq!(frame.dst, Mac::new([2, 0, 0, 0, 0, 1]));
        assert_eq!(frame.src, Mac::new([2, 0, 0, 0, 0, 2]));
        assert_eq!((frame.tag, frame.ethertype, frame.len), (None, ETH_P_IP, 18));
    }

    #[test]
    fn types_behind_which_an_unfinished_checksum_may_hide() {
        let hiding: [u16; 5] = [0x8100, 0x88a8, 0x8847, 0x8848, 0x8864];
        for ethertype in 0..=u16::MAX {
            assert_eq!(encapsulates(ethertype), hiding.contains(&ethertype), "{ethertype:#06x}");
        }
    }

    #[test]
    fn ports_of_tunnels() {
        let tunnels: [u16; 9] = [1701, 2152, 4754, 4789, 5555, 6080, 6081, 6635, 8472];
        for port in 0..=u16::MAX {
            assert_eq!(is_tunnel_port(port), tunnels.contains(&port), "{port}");
        }
    }

    #[test]
    fn what_br_netfilter_would_change_is_seen_behind_a_tag_as_well() {
        // A header of 20 bytes with its checksum, and nothing behind it.
        let header = [0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0x66, 0xd6, 10, 0, 0, 1, 10, 0, 0, 2];
        for tagged in [false, true] {
            let mut bytes = std::vec![2; 12];
            if tagged {
                bytes.extend([0x81, 0x00, 0x00, 0x0a]);
            }
            bytes.extend([0x08, 0x00]);
            bytes.extend(header);
            assert!(Frame::parse(&bytes).unwrap().untouched, "tagged: {tagged}");
            let padded: std::vec::Vec<u8> = bytes.iter().copied().chain([0]).collect();
            assert!(!Frame::parse(&padded).unwrap().untouched, "tagged: {tagged}");
            assert!(!Frame::parse(&bytes[..bytes.len() - 1]).unwrap().untouched, "tagged: {tagged}");
            let at = bytes.len() - 22;
            bytes[at..at + 2].copy_from_slice(&[0x08, 0x06]);
            assert!(Frame::parse(&bytes).unwrap().untouched, "no IP packet");
        }
    }

    #[test]
    fn a_tag_as_it_lies_in_a_frame() {
        let tag = Tag::new(ETH_P_8021AD, 0xe00a);
        assert_eq!(tag.on_the_wire().to_ne_bytes(), [0x88, 0xa8, 0xe0, 0x0a]);
        assert_eq!(std::format!("{tag:?}"), "Tag(88a8 e00a)");
    }

    #[test]
    fn outer_tag_is_taken_off_and_the_inner_one_is_payload() {
        let mut bytes = [0u8; 60];
        bytes[12..22].copy_from_slice(&[0x88, 0xa8, 0xe0, 0x0a, 0x81, 0x00, 0x00, 0x14, 0x08, 0x00]);
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!(frame.tag, Some(Tag::new(ETH_P_8021AD, 0xe00a)));
        assert_eq!(frame.tag.unwrap().vid(), 10);
        assert_eq!((frame.ethertype, frame.len), (ETH_P_8021Q, 56));
    }

    #[test]
    fn truncated_at_every_length() {
        let mut tagged = [0u8; MIN_TAGGED];
        tagged[12..14].copy_from_slice(&[0x81, 0x00]);
        for len in 0..MIN_TAGGED {
            assert_eq!(Frame::parse(&tagged[..len]), None, "tagged, {len} bytes");
        }
        assert!(Frame::parse(&tagged).is_some());
        for len in 0..14 {
            assert_eq!(Frame::parse(&PLAIN[..len]), None, "untagged, {len} bytes");
        }
        assert!(Frame::parse(&PLAIN[..14]).is_some());
    }

    #[test]
    fn neighbour_discovery_is_seen_behind_one_tag_only() {
        let mut bytes = [0u8; 80];
        bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
        bytes[14 + 6] = 58;
        for kind in 0..=255u8 {
            bytes[14 + 40] = kind;
            assert_eq!(Frame::parse(&bytes).unwrap().neighbour_discovery, (133..=137).contains(&kind));
        }
        let mut tagged = [0u8; 80];
        tagged[12..18].copy_from_slice(&[0x81, 0x00, 0x00, 0x0a, 0x86, 0xdd]);
        tagged[18 + 6] = 58;
        tagged[18 + 40] = 135;
        assert!(Frame::parse(&tagged).unwrap().neighbour_discovery);
        // Ends before the ICMPv6 type: the kernel does not look either.
        assert!(!Frame::parse(&tagged[..58]).unwrap().neighbour_discovery);
    }
}
