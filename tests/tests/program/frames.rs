//! Frames, byte by byte.

use bridge_common::{
    frame::{ETH_P_IP, ETH_P_IPV6},
    mac::Mac,
};
use xbr_tests::frame::{ETHERTYPE_LAB, Frame, Tag};

use crate::{
    model::pseudo_header_sum,
    world::{SENDER, TARGET},
};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// What a UDP sender left in the checksum field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Checksum {
    /// Some sum over the whole datagram.
    Whole,
    /// The sum over the pseudo-header: the hardware is to do the rest.
    Unfinished,
}

/// A frame from the sender to the target.
pub(crate) fn frame(tags: &[Tag], ethertype: u16, payload: Vec<u8>) -> Vec<u8> {
    between(SENDER, TARGET, tags, ethertype, payload)
}

/// A frame between two stations.
pub(crate) fn between(src: Mac, dst: Mac, tags: &[Tag], ethertype: u16, payload: Vec<u8>) -> Vec<u8> {
    Frame { dst: dst.bytes(), src: src.bytes(), tags: tags.to_vec(), ethertype, payload }.bytes()
}

/// A frame of a type that no kernel speaks, with these tags and a payload of 50 different bytes.
pub(crate) fn plain(tags: &[Tag]) -> Vec<u8> {
    frame(tags, ETHERTYPE_LAB, payload(50))
}

/// A plain frame, so long that it has `len` bytes without its first tag.
pub(crate) fn sized(tags: &[Tag], len: usize) -> Vec<u8> {
    let inner_tags = 4 * tags.len().saturating_sub(1);
    frame(tags, ETHERTYPE_LAB, payload(len - 14 - inner_tags))
}

/// Bytes that all differ from their neighbours.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (1..=251).cycle().take(len).collect()
}

/// An IPv4 packet with 60 bytes behind the header of `words` 32-bit words.
pub(crate) fn ipv4(tags: &[Tag], protocol: u8, words: u8) -> Vec<u8> {
    frame(tags, ETH_P_IP, ipv4_packet(protocol, words))
}

fn ipv4_packet(protocol: u8, words: u8) -> Vec<u8> {
    let header = usize::from(words) * 4;
    let mut packet = payload(header + 60);
    packet[..10].copy_from_slice(&[0x40 | words, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol]);
    packet[3] = u8::try_from(packet.len()).expect("a short packet");
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

/// An IPv6 packet with 60 bytes behind the header, the first of which is `first`.
pub(crate) fn ipv6(tags: &[Tag], next_header: u8, first: u8) -> Vec<u8> {
    frame(tags, ETH_P_IPV6, ipv6_packet(next_header, first))
}

fn ipv6_packet(next_header: u8, first: u8) -> Vec<u8> {
    let mut packet = payload(100);
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 60, next_header, 255]);
    packet[40] = first;
    packet
}

/// A UDP datagram over IPv4 or IPv6.
pub(crate) fn udp(tags: &[Tag], ethertype: u16, checksum: Checksum) -> Vec<u8> {
    let (mut packet, header, addresses) =
        if ethertype == ETH_P_IP { (ipv4_packet(UDP, 5), 20, 12..20) } else { (ipv6_packet(UDP, 1), 40, 8..40) };
    packet[header + 4..header + 6].copy_from_slice(&60_u16.to_be_bytes());
    let partial = pseudo_header_sum(&packet[addresses], &[0, 60]);
    let check = match checksum {
        Checksum::Unfinished => partial,
        Checksum::Whole => [partial[0] ^ 0x5a, partial[1]],
    };
    packet[header + 6..header + 8].copy_from_slice(&check);
    frame(tags, ethertype, packet)
}
