//! Ethernet frames made byte by byte, with a mark that says which flow they belong to and which number they have.

use std::net::Ipv4Addr;

/// A hardware address.
pub type Mac = [u8; 6];

/// Broadcast.
pub const BROADCAST: Mac = [0xff; 6];
/// TPID of 802.1Q.
pub const TPID_Q: u16 = 0x8100;
/// TPID of 802.1ad.
pub const TPID_AD: u16 = 0x88a8;
/// `EtherType` "local experimental 1" (IEEE 802): no kernel speaks it, so every such frame is ours.
pub const ETHERTYPE_LAB: u16 = 0x88b5;
/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `EtherType` of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Begins the payload of every frame of the lab.
const MAGIC: [u8; 8] = *b"XBRframe";
/// [`MAGIC`], flow and number.
const MARK_LEN: usize = MAGIC.len() + 8;

/// One VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Tag protocol, host order.
    pub tpid: u16,
    /// PCP (3 bits), DEI (1 bit), VLAN id (12 bits), host order.
    pub tci: u16,
}

impl Tag {
    /// An 802.1Q tag with priority 0.
    pub const fn q(vid: u16) -> Self {
        Self { tpid: TPID_Q, tci: vid }
    }

    /// An 802.1ad tag with priority 0.
    pub const fn ad(vid: u16) -> Self {
        Self { tpid: TPID_AD, tci: vid }
    }

    /// The same tag with this priority.
    #[must_use]
    pub const fn pcp(self, pcp: u16) -> Self {
        Self { tpid: self.tpid, tci: (self.tci & 0x1fff) | (pcp << 13) }
    }

    /// The VLAN id.
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// Flow and number of a frame of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// Which flow.
    pub flow: u32,
    /// The frame's number in the flow, from 0.
    pub seq: u32,
}

impl Mark {
    /// The mark in a received frame, wherever its payload begins; `None` for frames that are not of the lab.
    pub fn find(frame: &[u8]) -> Option<Self> {
        let at = frame.windows(MAGIC.len()).take(128).position(|window| window == MAGIC)? + MAGIC.len();
        Some(Self { flow: be32(frame.get(at..at + 4)?)?, seq: be32(frame.get(at + 4..at + 8)?)? })
    }

    fn write(self, payload: &mut [u8]) {
        payload[..8].copy_from_slice(&MAGIC);
        payload[8..12].copy_from_slice(&self.flow.to_be_bytes());
        payload[12..16].copy_from_slice(&self.seq.to_be_bytes());
    }
}

/// A frame, from the destination address to the end of the payload (no FCS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// Tags, outermost first.
    pub tags: Vec<Tag>,
    /// What follows the tags, host order.
    pub ethertype: u16,
    /// The rest.
    pub payload: Vec<u8>,
}

impl Frame {
    /// An untagged frame of the lab's own `EtherType`, 60 bytes long, flow 0, number 0.
    pub fn new(src: Mac, dst: Mac) -> Self {
        let mut frame = Self { dst, src, tags: Vec::new(), ethertype: ETHERTYPE_LAB, payload: vec![0; 46] };
        frame.mark(Mark { flow: 0, seq: 0 });
        frame
    }

    /// An IPv4 UDP frame with valid checksums and `len` bytes of UDP payload (at least 16).
    pub fn udp(src: Mac, dst: Mac, from: Ipv4Addr, to: Ipv4Addr, port: u16, len: usize) -> Self {
        let len = len.max(MARK_LEN);
        let total = u16::try_from(28 + len).unwrap_or(u16::MAX);
        let mut payload = vec![0_u8; 28 + len];
        payload[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        payload[2..4].copy_from_slice(&total.to_be_bytes());
        payload[12..16].copy_from_slice(&from.octets());
        payload[16..20].copy_from_slice(&to.octets());
        let sum = checksum(&payload[..20]);
        payload[10..12].copy_from_slice(&sum.to_be_bytes());
        payload[20..22].copy_from_slice(&port.to_be_bytes());
        payload[22..24].copy_from_slice(&port.to_be_bytes());
        payload[24..26].copy_from_slice(&(total - 20).to_be_bytes());
        // A UDP checksum of 0 means "none", so that the mark can change without summing again.
        let mut frame = Self { dst, src, tags: Vec::new(), ethertype: ETHERTYPE_IPV4, payload };
        frame.mark(Mark { flow: 0, seq: 0 });
        frame
    }

    /// An ARP request of `from` for `to`.
    pub fn arp_request(src: Mac, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
        payload.extend_from_slice(&src);
        payload.extend_from_slice(&from.octets());
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&to.octets());
        payload.resize(46, 0);
        Self { dst: BROADCAST, src, tags: Vec::new(), ethertype: ETHERTYPE_ARP, payload }
    }

    /// An IPv6 packet with this next header and 40 bytes behind its header, which begin with `first` (the type of an
    /// `ICMPv6` message). Checksums are not set: bridges do not look at them.
    pub fn ipv6(src: Mac, dst: Mac, next_header: u8, first: u8) -> Self {
        let mut payload = vec![0_u8; 80];
        payload[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 40, next_header, 255]);
        for (at, mac) in [(8, src), (24, dst)] {
            payload[at..at + 2].copy_from_slice(&[0xfd, 0]);
            payload[at + 10..at + 16].copy_from_slice(&mac);
        }
        payload[40] = first;
        let mut frame = Self { dst, src, tags: Vec::new(), ethertype: ETHERTYPE_IPV6, payload };
        frame.mark(Mark { flow: 0, seq: 0 });
        frame
    }

    /// Adds a tag inside of those that are there.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// Makes the payload this long (at least as long as the mark).
    #[must_use]
    pub fn payload_len(mut self, len: usize) -> Self {
        self.payload.resize(len.max(MARK_LEN), 0x5a);
        self
    }

    /// Gives flow and number.
    #[must_use]
    pub fn numbered(mut self, flow: u32, seq: u32) -> Self {
        self.mark(Mark { flow, seq });
        self
    }

    /// Sets flow and number in place.
    pub fn mark(&mut self, mark: Mark) {
        // Behind the headers that a kernel may look at, where there is room.
        let at = match self.ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_ARP => 28,
            ETHERTYPE_IPV6 if self.payload.len() >= 64 + MARK_LEN => 64,
            ETHERTYPE_IPV6 if self.payload.len() >= 48 + MARK_LEN => 48,
            _ => 0,
        };
        mark.write(&mut self.payload[at..]);
    }

    /// The frame as it lies on the wire, with every tag in the bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(14 + 4 * self.tags.len() + self.payload.len());
        bytes.extend_from_slice(&self.dst);
        bytes.extend_from_slice(&self.src);
        for tag in &self.tags {
            bytes.extend_from_slice(&tag.tpid.to_be_bytes());
            bytes.extend_from_slice(&tag.tci.to_be_bytes());
        }
        bytes.extend_from_slice(&self.ethertype.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Reads a frame; every 802.1Q and 802.1ad tag counts as a tag. `None` where the bytes end inside of the header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (dst, rest) = bytes.split_first_chunk::<6>()?;
        let (src, mut rest) = rest.split_first_chunk::<6>()?;
        let mut tags = Vec::new();
        loop {
            let (ethertype, payload) = rest.split_first_chunk::<2>()?;
            let ethertype = u16::from_be_bytes(*ethertype);
            if ethertype != TPID_Q && ethertype != TPID_AD {
                return Some(Self { dst: *dst, src: *src, tags, ethertype, payload: payload.to_vec() });
            }
            let (tci, inner) = payload.split_first_chunk::<2>()?;
            tags.push(Tag { tpid: ethertype, tci: u16::from_be_bytes(*tci) });
            rest = inner;
        }
    }
}

/// One line: addresses, tags, type, mark and length.
pub fn describe(bytes: &[u8]) -> String {
    let Some(frame) = Frame::parse(bytes) else {
        return format!("{} bytes", bytes.len());
    };
    let tags: Vec<String> =
        frame.tags.iter().map(|tag| format!(" [{:04x} vid {} tci {:04x}]", tag.tpid, tag.vid(), tag.tci)).collect();
    let tags = tags.concat();
    let mark = Mark::find(bytes).map_or(String::new(), |mark| format!(" flow {} number {}", mark.flow, mark.seq));
    format!("{} > {}{tags} type {:04x}{mark} {} bytes", mac(frame.src), mac(frame.dst), frame.ethertype, bytes.len())
}

/// An address in the usual notation.
pub fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The Internet checksum of a header whose checksum field is zero.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|chunk| u32::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn tags_survive_a_round_trip() {
        let frame = Frame::new(A, B).tag(Tag::ad(7).pcp(5)).tag(Tag::q(10)).numbered(3, 9);
        let bytes = frame.bytes();
        assert_eq!(Frame::parse(&bytes), Some(frame));
        assert_eq!(Mark::find(&bytes), Some(Mark { flow: 3, seq: 9 }));
        assert_eq!(Frame::parse(&bytes[..15]), None);
    }

    #[test]
    fn an_ip_header_sums_to_zero() {
        let frame = Frame::udp(A, B, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), 9, 100).numbered(1, 2);
        assert_eq!(checksum(&frame.payload[..20]), 0);
        assert_eq!(Mark::find(&frame.bytes()), Some(Mark { flow: 1, seq: 2 }));
        assert_eq!(frame.bytes().len(), 14 + 28 + 100);
    }
}
