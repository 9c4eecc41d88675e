//! A frame to be sent, as one line of text, and as bytes.

use std::{fmt, fmt::Write as _, str::FromStr};

use anyhow::{Context as _, Error, Result, bail, ensure};

use crate::frame::{Mac, TPID_AD, TPID_Q, Tag, mac};

/// What is behind the tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This `EtherType` (below 0x600: an 802.3 length, taken as it is), and bytes without a meaning.
    Raw(u16),
    /// IPv4 and UDP.
    Udp4,
    /// IPv6 and UDP.
    Udp6,
    /// IPv4 and TCP.
    Tcp4,
    /// IPv6 and TCP.
    Tcp6,
    /// ARP with this operation.
    Arp(u16),
    /// IPv6 and `ICMPv6` with this type, with a target address.
    Icmp6(u8),
}

/// How much of the work is left to the receiver's side, as `virtio_net_hdr` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Left {
    /// Nothing: the bytes are as on a wire.
    #[default]
    Nothing,
    /// The transport checksum.
    Checksum,
    /// The checksum, and segments of so many bytes of payload each.
    Segments(u16),
}

/// A frame and where it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The port at whose far end it is sent, or the bridge device that sends it.
    pub from: String,
    /// Source address.
    pub src: Mac,
    /// Destination address.
    pub dst: Mac,
    /// Tags in the bytes, outermost first.
    pub tags: Vec<Tag>,
    /// A tag in metadata, outside of those in the bytes; needs tcx and a veth.
    pub meta: Option<Tag>,
    /// What follows.
    pub body: Body,
    /// Length of all bytes; what is longer is cut off, what is shorter filled up.
    pub len: usize,
    /// Offloads.
    pub left: Left,
}

/// Bytes and the `virtio_net_hdr` before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// `virtio_net_hdr`, without `num_buffers`.
    pub header: [u8; 10],
    /// From the destination address on.
    pub bytes: Vec<u8>,
}

/// Addresses in the packets: they have no meaning to a bridge.
const FROM4: [u8; 4] = [10, 77, 0, 1];
const TO4: [u8; 4] = [10, 77, 0, 2];

impl Spec {
    /// The `EtherType` behind the tags in the bytes.
    pub const fn ethertype(&self) -> u16 {
        match self.body {
            Body::Raw(ethertype) => ethertype,
            Body::Udp4 | Body::Tcp4 => 0x0800,
            Body::Udp6 | Body::Tcp6 | Body::Icmp6(_) => 0x86dd,
            Body::Arp(_) => 0x0806,
        }
    }

    /// The frame, with `number` in its payload if there is room.
    pub fn wire(&self, number: u32) -> Wire {
        let mut bytes = Vec::with_capacity(self.len.max(80));
        bytes.extend_from_slice(&self.dst);
        bytes.extend_from_slice(&self.src);
        for tag in &self.tags {
            bytes.extend_from_slice(&tag.tpid.to_be_bytes());
            bytes.extend_from_slice(&tag.tci.to_be_bytes());
        }
        bytes.extend_from_slice(&self.ethertype().to_be_bytes());
        let network = bytes.len();
        let room = self.len.saturating_sub(network);
        let mut header = [0; 10];
        match self.body {
            Body::Raw(_) => bytes.extend_from_slice(&number.to_be_bytes()),
            Body::Arp(operation) => {
                bytes.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
                bytes.extend_from_slice(&operation.to_be_bytes());
                bytes.extend_from_slice(&self.src);
                bytes.extend_from_slice(&FROM4);
                bytes.extend_from_slice(&self.dst);
                bytes.extend_from_slice(&TO4);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
            Body::Udp4 | Body::Tcp4 => {
                let protocol = if self.body == Body::Udp4 { 17 } else { 6 };
                bytes.extend_from_slice(&ip4(protocol, room));
                self.transport(&mut bytes, network, 20, protocol, number, &mut header);
            }
            Body::Udp6 | Body::Tcp6 => {
                let protocol = if self.body == Body::Udp6 { 17 } else { 6 };
                bytes.extend_from_slice(&ip6(protocol, room));
                self.transport(&mut bytes, network, 40, protocol, number, &mut header);
            }
            Body::Icmp6(kind) => {
                bytes.extend_from_slice(&ip6(58, room));
                bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
        }
        if self.left == Left::Nothing || bytes.len() < self.len {
            bytes.resize(self.len, 0x5a);
        }
        self.finish(&mut bytes, network);
        Wire { header, bytes }
    }

    /// Appends the transport header and the number, and says in `header` what is left to do.
    fn transport(
        &self,
        bytes: &mut Vec<u8>,
        network: usize,
        ip: usize,
        protocol: u8,
        number: u32,
        header: &mut [u8; 10],
    ) {
        let start = network + ip;
        let payload = u16::try_from(self.len.saturating_sub(start)).unwrap_or(u16::MAX);
        let (length, offset) = if protocol == 17 {
            bytes.extend_from_slice(&[0x30, 0x39, 0x30, 0x39]);
            bytes.extend_from_slice(&payload.to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            (8, 6)
        } else {
            bytes.extend_from_slice(&[0x30, 0x39, 0x30, 0x39]);
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
            (20, 16)
        };
        bytes.extend_from_slice(&number.to_be_bytes());
        if self.left == Left::Nothing {
            return;
        }
        // VIRTIO_NET_HDR_F_NEEDS_CSUM, then gso_type, hdr_len, gso_size, csum_start, csum_offset in host order.
        header[0] = 1;
        if let Left::Segments(size) = self.left {
            header[1] = match (protocol, ip) {
                (17, _) => 5,
                (_, 20) => 1,
                _ => 4,
            };
            header[2..4].copy_from_slice(&u16::try_from(start + length).unwrap_or(0).to_ne_bytes());
            header[4..6].copy_from_slice(&size.to_ne_bytes());
        }
        header[6..8].copy_from_slice(&u16::try_from(start).unwrap_or(0).to_ne_bytes());
        header[8..10].copy_from_slice(&u16::try_from(offset).unwrap_or(0).to_ne_bytes());
    }

    /// Writes the transport checksum: whole, or that of the pseudo-header alone where the rest is left to others.
    fn finish(&self, bytes: &mut [u8], network: usize) {
        let (ip, protocol, offset) = match self.body {
            Body::Udp4 => (20, 17_u32, 6),
            Body::Udp6 => (40, 17, 6),
            Body::Tcp4 => (20, 6, 16),
            Body::Tcp6 => (40, 6, 16),
            Body::Icmp6(_) => (40, 58, 2),
            Body::Raw(_) | Body::Arp(_) => return,
        };
        let start = network + ip;
        if bytes.len() < start + offset + 2 {
            return;
        }
        let addresses = if ip == 20 { network + 12..network + 20 } else { network + 8..network + 40 };
        let mut sum = add(0, &bytes[addresses]);
        sum += protocol + u32::try_from(bytes.len() - start).unwrap_or(0);
        let left = self.left != Left::Nothing && protocol != 58;
        if !left {
            sum = add(sum, &bytes[start..]);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = u16::try_from(sum).unwrap_or(0);
        let field = match if left { sum } else { !sum } {
            0 if !left => 0xffff,
            other => other,
        };
        bytes[start + offset..start + offset + 2].copy_from_slice(&field.to_be_bytes());
    }
}

/// An IPv4 header before so many bytes in all, its own among them.
fn ip4(protocol: u8, room: usize) -> [u8; 20] {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&u16::try_from(room).unwrap_or(u16::MAX).to_be_bytes());
    header[12..16].copy_from_slice(&FROM4);
    header[16..20].copy_from_slice(&TO4);
    let mut sum = add(0, &header);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap_or(0)).to_be_bytes());
    header
}

/// An IPv6 header.
fn ip6(protocol: u8, room: usize) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&u16::try_from(room.saturating_sub(40)).unwrap_or(u16::MAX).to_be_bytes());
    header[6] = protocol;
    header[7] = 255;
    header[8..10].copy_from_slice(&[0xfe, 0x80]);
    header[23] = 1;
    header[24..26].copy_from_slice(&[0xfe, 0x80]);
    header[39] = 2;
    header
}

/// Adds to a sum in ones' complement that is not folded yet.
fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| sum + (u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))))
}

/// `q:VID:PCP` or `ad:VID:PCP`, with `:dei` behind it where that bit is set.
fn tag_text(tag: Tag) -> String {
    let protocol = match tag.tpid {
        TPID_Q => "q".to_owned(),
        TPID_AD => "ad".to_owned(),
        other => format!("{other:04x}"),
    };
    let dei = if tag.tci & 0x1000 == 0 { "" } else { ":dei" };
    format!("{protocol}:{}:{}{dei}", tag.vid(), tag.tci >> 13)
}

fn parse_tag(text: &str) -> Result<Tag> {
    let mut words = text.split(':');
    let tpid = match words.next().unwrap_or_default() {
        "q" => TPID_Q,
        "ad" => TPID_AD,
        other => u16::from_str_radix(other, 16).with_context(|| format!("tag protocol {other}"))?,
    };
    let vid: u16 = words.next().context("a tag has a VLAN id")?.parse()?;
    let pcp: u16 = words.next().unwrap_or("0").parse()?;
    let dei = match words.next() {
        None => 0,
        Some("dei") => 0x1000,
        Some(other) => bail!("{other} in a tag: use dei or nothing"),
    };
    ensure!(vid < 4096 && pcp < 8, "tag {text} is out of range");
    Ok(Tag { tpid, tci: pcp << 13 | dei | vid })
}

fn parse_mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().context("address")?;
    Mac::try_from(bytes).ok().with_context(|| format!("address {text}"))
}

impl fmt::Display for Spec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{} {} > {}", self.from, mac(self.src), mac(self.dst));
        if let Some(tag) = self.meta {
            write!(text, " meta={}", tag_text(tag))?;
        }
        for tag in &self.tags {
            write!(text, " tag={}", tag_text(*tag))?;
        }
        match self.body {
            Body::Raw(ethertype) => write!(text, " raw={ethertype:04x}")?,
            Body::Udp4 => text.push_str(" udp4"),
            Body::Udp6 => text.push_str(" udp6"),
            Body::Tcp4 => text.push_str(" tcp4"),
            Body::Tcp6 => text.push_str(" tcp6"),
            Body::Arp(operation) => write!(text, " arp={operation}")?,
            Body::Icmp6(kind) => write!(text, " icmp6={kind}")?,
        }
        write!(text, " len={}", self.len)?;
        match self.left {
            Left::Nothing => {}
            Left::Checksum => text.push_str(" partial"),
            Left::Segments(size) => write!(text, " gso={size}")?,
        }
        formatter.write_str(&text)
    }
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [from, src, ">", dst, rest @ ..] = words.as_slice() else {
            bail!("`{text}`: a frame is PORT SOURCE > DESTINATION …");
        };
        let mut spec = Self {
            from: (*from).to_owned(),
            src: parse_mac(src)?,
            dst: parse_mac(dst)?,
            tags: Vec::new(),
            meta: None,
            body: Body::Raw(0x88b5),
            len: 60,
            left: Left::Nothing,
        };
        for word in rest {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "meta" => spec.meta = Some(parse_tag(value)?),
                "tag" => spec.tags.push(parse_tag(value)?),
                "raw" => spec.body = Body::Raw(u16::from_str_radix(value, 16)?),
                "udp4" => spec.body = Body::Udp4,
                "udp6" => spec.body = Body::Udp6,
                "tcp4" => spec.body = Body::Tcp4,
                "tcp6" => spec.body = Body::Tcp6,
                "arp" => spec.body = Body::Arp(value.parse()?),
                "icmp6" => spec.body = Body::Icmp6(value.parse()?),
                "len" => spec.len = value.parse()?,
                "partial" => spec.left = Left::Checksum,
                "gso" => spec.left = Left::Segments(value.parse()?),
                other => bail!("`{text}`: unknown word {other}"),
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_is_the_whole_frame() {
        for line in [
            "p0 02:00:00:00:00:01 > 02:00:00:00:00:02 raw=88b5 len=60",
            "p1 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff meta=ad:7:0 tag=q:10:5:dei tag=ad:20:0 udp6 len=90 partial",
            "p1 02:00:00:00:00:01 > 02:00:00:00:00:02 tcp4 len=4000 gso=1000",
            "br0 02:00:00:00:00:01 > 02:00:00:00:00:02 arp=1 len=60",
        ] {
            assert_eq!(line.parse::<Spec>().unwrap().to_string(), line);
        }
        for wrong in ["p0", "p0 02:00 > 02:00:00:00:00:02", "p0 02:00:00:00:00:01 > 02:00:00:00:00:02 tag=q:4096:0"] {
            assert!(wrong.parse::<Spec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn checksums_are_right() {
        let line = "p0 02:00:00:00:00:01 > 02:00:00:00:00:02 tag=q:10:0 udp4 len=101";
        let wire = line.parse::<Spec>().unwrap().wire(9);
        assert_eq!(wire.bytes.len(), 101);
        let fold = |mut sum: u32| {
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            sum
        };
        assert_eq!(fold(add(0, &wire.bytes[18..38])), 0xffff);
        assert_eq!(fold(add(17 + 63, &wire.bytes[30..])), 0xffff);
    }

    #[test]
    fn every_length_can_be_made() {
        let mut spec: Spec =
            "p0 02:00:00:00:00:01 > 02:00:00:00:00:02 tag=q:1:0 tag=q:2:0 udp6 len=14".parse().unwrap();
        for len in 14..200 {
            spec.len = len;
            assert_eq!(spec.wire(1).bytes.len(), len);
        }
    }
}
