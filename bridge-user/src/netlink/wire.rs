//! Framing: building requests, walking messages and attributes, reading numbers. Nothing here panics on what it is given.
//!
//! Attributes are read one by one and by number, and not as whole typed messages, for two reasons: an attribute that a
//! newer kernel has changed must not cost the device (or the dump) that carries it, and an FDB dump has many entries.

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_REQUEST, NetlinkBuffer, NlasIterator,
};

use super::uapi::NLMSGERR_ATTR_MSG;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// What the kernel sent cannot be read; the text says which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is cut short or out of range")]
pub(super) struct Malformed(pub(super) &'static str);

/// A request: netlink header, family header, attributes. Length and sequence number are set by [`Request::finish`].
#[derive(Clone, Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of type `kind` with `flags` beside `NLM_F_REQUEST`; `header` is the family's fixed part.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        let mut message = NetlinkBuffer::new(&mut bytes);
        message.set_message_type(kind);
        message.set_flags(NLM_F_REQUEST | flags);
        bytes.extend_from_slice(header);
        Self { bytes }
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let start = self.bytes.len();
        self.bytes.resize(start + attribute.buffer_len(), 0);
        attribute.emit(&mut self.bytes[start..]);
        self
    }

    /// The bytes to send, with this sequence number.
    pub(super) fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut message = NetlinkBuffer::new(&mut bytes);
        message.set_length(length);
        message.set_sequence_number(sequence);
        bytes
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// Message type, `RTM_*` or `NLMSG_*`.
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    /// Sequence number of the request that it answers; 0 in a notification.
    pub(super) sequence: u32,
    /// What follows the netlink header.
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram. Ends after the first one that cannot be read.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Ok(buffer) = NetlinkBuffer::new_checked(rest) else {
            rest = &[];
            return Some(Err(Malformed("a netlink message")));
        };
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: buffer.payload(),
        }))
    })
}

/// The attributes in `bytes` as (type without flags, value). Ends after the first one that cannot be read.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    NlasIterator::new(bytes).map(|attribute| {
        let (kind, length, whole) = match attribute {
            Ok(attribute) => (attribute.kind(), usize::from(attribute.length()), attribute.into_inner()),
            Err(_) => return Err(Malformed("an attribute")),
        };
        whole.get(4..length).map(|value| (kind, value)).ok_or(Malformed("an attribute"))
    })
}

/// The first `N` bytes of a value. The kernel may append to a structure, so that a longer value is no error.
pub(super) fn bytes<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.first_chunk().copied().ok_or(Malformed("an attribute's value"))
}

/// A `u8`.
pub(super) fn u8_of(value: &[u8]) -> Result<u8, Malformed> {
    bytes::<1>(value).map(|[byte]| byte)
}

/// A `u8` that means yes or no.
pub(super) fn bool_of(value: &[u8]) -> Result<bool, Malformed> {
    u8_of(value).map(|byte| byte != 0)
}

/// A `u16` in host order.
pub(super) fn u16_of(value: &[u8]) -> Result<u16, Malformed> {
    bytes(value).map(u16::from_ne_bytes)
}

/// A `u16` in network order (`__be16`).
pub(super) fn be16_of(value: &[u8]) -> Result<u16, Malformed> {
    bytes(value).map(u16::from_be_bytes)
}

/// A `u32` in host order.
pub(super) fn u32_of(value: &[u8]) -> Result<u32, Malformed> {
    bytes(value).map(u32::from_ne_bytes)
}

/// A string that may or may not end with NUL.
pub(super) fn string_of(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// The `u32` at `offset` of a family header.
pub(super) fn u32_at(header: &[u8], offset: usize) -> Result<u32, Malformed> {
    header
        .get(offset..)
        .and_then(|tail| tail.first_chunk().copied())
        .map(u32::from_ne_bytes)
        .ok_or(Malformed("a header"))
}

/// The kernel's refusal of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// A positive errno.
    pub(super) errno: i32,
    /// The text of the extended acknowledgement.
    pub(super) text: Option<String>,
}

/// Reads the status of an `NLMSG_ERROR` (`nlmsgerr`) or `NLMSG_DONE` message: `None` is success. Without a status the
/// message is malformed: it must not pass for success, or half a dump would pass for a whole one.
///
/// Mirrors `netlink_ack` and `netlink_dump_done`: an error repeats the request, whole or (`NLM_F_CAPPED`) only its header,
/// before the extended acknowledgement; the end of a dump does not.
pub(super) fn refusal(message: &Message<'_>, repeats_request: bool) -> Result<Option<Refusal>, Malformed> {
    let errno = message.payload.first_chunk().map(|errno| i32::from_ne_bytes(*errno));
    let errno = errno.ok_or(Malformed("the status of an answer"))?;
    if errno == 0 {
        return Ok(None);
    }
    let mut text_at = 4;
    if repeats_request {
        let request_length =
            u32_at(message.payload, 4).ok().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let repeated = if message.flags & NLM_F_CAPPED == 0 { request_length } else { HEADER };
        text_at = 4_usize.saturating_add(repeated.saturating_add(3) & !3);
    }
    let mut text = None;
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let tail = message.payload.get(text_at..).unwrap_or_default();
        text =
            attributes(tail).flatten().find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| string_of(value));
    }
    Ok(Some(Refusal { errno: errno.saturating_neg(), text }))
}

#[cfg(test)]
pub(super) mod tests {
    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};

    use super::*;

    /// An attribute as the kernel lays it out.
    pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A message with this payload.
    pub(crate) fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Request::new(kind, flags, payload).finish(7);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_found_one_by_one() {
        let datagram = [message(16, 0, &[1, 2, 3]), message(3, 0, &[0; 4])].concat();
        let found: Vec<_> =
            messages(&datagram).map(|found| found.unwrap()).map(|found| (found.kind, found.payload.len())).collect();
        assert_eq!(found, [(16, 3), (3, 4)]);
        assert!(messages(&datagram).flatten().all(|found| found.sequence == 7));
    }

    #[test]
    fn truncated_messages_are_malformed() {
        let datagram = message(16, 0, &[1, 2, 3, 4]);
        for length in 1..datagram.len() {
            assert!(messages(&datagram[..length]).any(|found| found.is_err()), "length {length}");
        }
        // A length field smaller than the header must not make the walk loop.
        let short = [8, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(messages(&short).count(), 1);
    }

    #[test]
    fn truncated_attributes_are_malformed() {
        let two = [attribute(1, &[9]), attribute(2, &[1, 2, 3, 4])].concat();
        for length in 0..two.len() {
            let all_read = attributes(&two[..length]).all(|found| found.is_ok());
            // Padding may be missing, a value may not.
            assert_eq!(all_read, matches!(length, 0 | 5..=8), "length {length}");
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 1);
        assert!(attributes(&[3, 0, 1, 0]).all(|found| found.is_err()));
        assert_eq!(attributes(&attribute(0x8003, &[1])).next(), Some(Ok((3, &[1][..]))));
    }

    #[test]
    fn a_refusal_carries_the_kernels_text() {
        let request = Request::new(30, 0, &[0; 12]).attribute(2, &[1; 6]).finish(9);
        let text = attribute(NLMSGERR_ATTR_MSG, b"Invalid master ifindex\0");
        let status = (-libc::EINVAL).to_ne_bytes();
        let expected = Some(Refusal { errno: libc::EINVAL, text: Some("Invalid master ifindex".into()) });
        for (kind, flags, parts) in [
            (NLMSG_ERROR, NLM_F_ACK_TLVS, [&status[..], &request, &text].concat()),
            (NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, [&status[..], &request[..HEADER], &text].concat()),
            (NLMSG_DONE, NLM_F_ACK_TLVS, [&status[..], &text].concat()),
        ] {
            let bytes = message(kind, flags, &parts);
            let found = messages(&bytes).next().unwrap().unwrap();
            assert_eq!(refusal(&found, kind == NLMSG_ERROR), Ok(expected.clone()));
            for length in 0..=found.payload.len() {
                let mut cut = found;
                cut.payload = &found.payload[..length];
                // The text may be lost, the number not.
                let read = refusal(&cut, kind == NLMSG_ERROR).map(|read| read.map(|refusal| refusal.errno));
                let whole = if length < 4 { Err(Malformed("the status of an answer")) } else { Ok(Some(libc::EINVAL)) };
                assert_eq!(read, whole, "length {length}");
            }
        }
        let done = message(NLMSG_DONE, 0, &[0; 4]);
        assert_eq!(refusal(&messages(&done).next().unwrap().unwrap(), false), Ok(None));
        // Odd payloads: longer than a status is one, shorter is none; numbers of any sign are refusals.
        for (payload, expected) in [
            (&[0; 9][..], Some(None)),
            (&[], None),
            (&[0, 0, 0], None),
            (&i32::MIN.to_ne_bytes(), Some(Some(i32::MAX))),
            (&5_i32.to_ne_bytes(), Some(Some(-5))),
        ] {
            for kind in [NLMSG_DONE, NLMSG_ERROR] {
                let bytes = message(kind, NLM_F_ACK_TLVS, payload);
                let read = refusal(&messages(&bytes).next().unwrap().unwrap(), kind == NLMSG_ERROR);
                assert_eq!(read.ok().map(|read| read.map(|refusal| refusal.errno)), expected, "{payload:?}");
            }
        }
    }

    #[test]
    fn requests_have_length_and_sequence() {
        let bytes = Request::new(114, 0x300, &[7, 0, 0, 0, 0, 0, 0, 0]).attribute(1, &[1, 0]).finish(0x0102_0304);
        assert_eq!(bytes.len(), 16 + 8 + 8);
        let found = messages(&bytes).next().unwrap().unwrap();
        assert_eq!((found.kind, found.flags, found.sequence), (114, 0x301, 0x0102_0304));
        assert_eq!(attributes(&found.payload[8..]).next(), Some(Ok((1, &[1, 0][..]))));
    }

    #[test]
    fn strings_end_at_nul_or_at_the_end() {
        assert_eq!(string_of(b"br0\0"), "br0");
        assert_eq!(string_of(b"br0"), "br0");
        assert_eq!(string_of(&[0xff, 0]), "\u{fffd}");
    }
}
