//! Netlink requests and attributes, as far as the inventory needs them: blocking, one request at a time.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
    NetlinkBuffer, NlasIterator,
};
use netlink_sys::Socket;

/// The size of a netlink header in bytes, and of the alignment of messages and attributes.
const HEADER: usize = 16;
const ALIGN: usize = 4;

/// The largest datagram that `netlink_dump` builds is 32 KiB (`SKB_WITH_OVERHEAD(32768)`).
const DATAGRAM: usize = 64 << 10;

/// How often a dump that the kernel marks as interrupted is repeated.
const ATTEMPTS: usize = 8;

/// A netlink socket of the namespace in which it was opened.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What one answer looks like: the message type and the bytes after the netlink header.
pub(super) type Answer<'a> = (u16, &'a [u8]);

impl Netlink {
    /// Opens and binds a socket of a `NETLINK_*` protocol.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Sends a dump request and decodes each answer. A dump that was interrupted by a change starts again; after
    /// [`ATTEMPTS`] times it fails with [`io::ErrorKind::Interrupted`]. An error number from the kernel comes back as such.
    pub(super) fn dump<T>(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut decode: impl FnMut(Answer<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let interrupted = self.exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, payload, |answer| {
                found.extend(decode(answer)?);
                Ok(())
            })?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "it changed each time while it was read"))
    }

    /// Sends a single request and decodes its answers.
    pub(super) fn request<T>(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut decode: impl FnMut(Answer<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        self.exchange(kind, NLM_F_REQUEST | NLM_F_ACK, payload, |answer| {
            found.extend(decode(answer)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Sends a request that the kernel answers with one message or an error number, and decodes the message.
    pub(super) fn one<T>(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut decode: impl FnMut(Answer<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let mut found = None;
        self.exchange(kind, NLM_F_REQUEST, payload, |answer| {
            found = decode(answer)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Sends and receives until the kernel says that it is done. Returns whether the kernel marked the dump as interrupted.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut each: impl FnMut(Answer<'_>) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message(kind, flags, self.sequence, payload), 0)?;
        let mut interrupted = false;
        // The kernel only says so at the end of a dump, or if it is asked to.
        let single = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
        let mut answered = false;
        // An answer that cannot be decoded must not leave the rest of its dump in the socket.
        let mut outcome = Ok(());
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let datagram = self.buffer.get(..length).ok_or_else(|| malformed("a datagram is too large"))?;
            let progress = scan(datagram, self.sequence, |answer| {
                answered = true;
                if outcome.is_ok() {
                    outcome = each(answer);
                }
            })?;
            match progress {
                Progress { interrupted: true, done: false } => interrupted = true,
                Progress { interrupted: now, done: true } => return outcome.map(|()| interrupted || now),
                Progress { .. } if single && answered => return outcome.map(|()| interrupted),
                Progress { .. } => {}
            }
        }
    }
}

/// What a datagram said about the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) interrupted: bool,
    pub(super) done: bool,
}

/// Walks the messages of a datagram that answer the request `sequence`.
pub(super) fn scan(mut datagram: &[u8], sequence: u32, mut each: impl FnMut(Answer<'_>)) -> io::Result<Progress> {
    let mut progress = Progress { interrupted: false, done: false };
    while !datagram.is_empty() {
        let message =
            NetlinkBuffer::new_checked(datagram).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let payload = datagram.get(HEADER..length).ok_or_else(|| malformed("a message is too short"))?;
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        // The rest of an exchange that ended with an error.
        if message.sequence_number() != sequence {
            continue;
        }
        progress.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            NLMSG_NOOP => {}
            NLMSG_OVERRUN => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            // Both end an exchange; both begin with 0 or a negative error number (netlink_dump_done, netlink_ack).
            // Without a status, half a dump would pass for a whole one.
            NLMSG_DONE | NLMSG_ERROR => match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                Some(0..) => progress.done = true,
                Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
                None => return Err(malformed("an answer without a status")),
            },
            kind => each((kind, payload)),
        }
    }
    Ok(progress)
}

/// A netlink message.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

/// Appends an attribute, padded.
pub(super) fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ALIGN + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// An answer that is not what the kernel's headers promise.
pub(super) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The attributes of a message or of a nest.
pub(super) struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    /// Splits a run of attributes. Fails where a length does not fit.
    pub(super) fn parse(bytes: &'a [u8]) -> io::Result<Self> {
        NlasIterator::new(bytes)
            .map(|attribute| {
                let attribute = attribute.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
                let value = attribute.into_inner().get(ALIGN..length).ok_or_else(|| malformed("a short attribute"))?;
                Ok((kind, value))
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Splits the attributes that follow a fixed header of `skip` bytes.
    pub(super) fn after(skip: usize, bytes: &'a [u8]) -> io::Result<Self> {
        Self::parse(bytes.get(skip..).ok_or_else(|| malformed("a short message"))?)
    }

    /// All attributes in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.0.iter().copied()
    }

    /// The value of an attribute.
    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|attribute| attribute.0 == kind).map(|attribute| attribute.1)
    }

    /// The attributes of a nest; none where the nest is absent.
    pub(super) fn nest(&self, kind: u16) -> io::Result<Self> {
        Self::parse(self.get(kind).unwrap_or_default())
    }

    /// A string, up to its terminator.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    /// A number in network order, as nfnetlink sends it.
    pub(super) fn be32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A number in host order.
    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A short number in host order.
    pub(super) fn u16(&self, kind: u16) -> Option<u16> {
        self.get(kind)?.try_into().ok().map(u16::from_ne_bytes)
    }

    /// A long number in host order.
    pub(super) fn u64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_ne_bytes)
    }
}

/// A C string in a buffer, up to its terminator or the end.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_kind() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 1, b"bpf\0");
        push_attribute(&mut bytes, 2, &7_u32.to_be_bytes());
        push_attribute(&mut bytes, 3, b"x");
        push_attribute(&mut bytes, 4 | 0x8000, &9_u16.to_ne_bytes());
        let attributes = Attributes::parse(&bytes).unwrap();
        assert_eq!(attributes.text(1).as_deref(), Some("bpf"));
        assert_eq!(attributes.be32(2), Some(7));
        assert_eq!(attributes.text(3).as_deref(), Some("x"));
        assert_eq!(attributes.u16(4), Some(9));
        assert_eq!(attributes.u32(3), None);
        assert_eq!(attributes.get(5), None);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_prefix_but_no_panic() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 1, b"a longer name\0");
        push_attribute(&mut bytes, 2, &7_u32.to_be_bytes());
        for end in 0..bytes.len() {
            let _ = Attributes::parse(&bytes[..end]);
            let _ = Attributes::after(4, &bytes[..end]);
        }
        assert!(Attributes::parse(&bytes[..bytes.len() - 1]).is_err());
        assert!(Attributes::parse(&[2, 0, 1, 0]).is_err());
        assert!(Attributes::after(4, &[0]).is_err());
    }

    #[test]
    fn a_datagram_ends_with_done_or_an_error() {
        let mut datagram = message(5, 0, 1, b"mine");
        datagram.extend(message(5, 0, 2, b"late"));
        datagram.extend(message(NLMSG_DONE, NLM_F_DUMP_INTR, 1, &0_i32.to_ne_bytes()));
        let mut seen = Vec::new();
        let progress = scan(&datagram, 1, |(kind, payload)| seen.push((kind, payload.to_vec()))).unwrap();
        assert_eq!(progress, Progress { interrupted: true, done: true });
        assert_eq!(seen, [(5, b"mine".to_vec())]);

        let refusal = message(NLMSG_ERROR, 0, 1, &(-libc::EPERM).to_ne_bytes());
        let error = scan(&refusal, 1, |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        for end in 1..datagram.len() {
            let cut = scan(&datagram[..end], 1, |_| {});
            assert!(!cut.is_ok_and(|progress| progress.done), "{end} bytes pass for the whole");
        }
        for (payload, done) in
            [(&[0; 4][..], true), (&[0; 7], true), (&[1, 0, 0, 0], true), (&[0; 3], false), (&[], false)]
        {
            for kind in [NLMSG_DONE, NLMSG_ERROR] {
                let ended = scan(&message(kind, 0, 1, payload), 1, |_| {});
                assert_eq!(ended.is_ok_and(|progress| progress.done), done, "{kind} with {payload:?}");
            }
        }
        let worst = message(NLMSG_ERROR, 0, 1, &i32::MIN.to_ne_bytes());
        assert!(scan(&worst, 1, |_| {}).is_err());
    }
}
