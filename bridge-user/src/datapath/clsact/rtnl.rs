//! Blocking rtnetlink, one request at a time.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// The sizes in bytes of a netlink header, of an attribute's, and the alignment of both.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
const ALIGN: usize = 4;

/// No datagram of a dump is larger than 32 KiB (`netlink_dump`), no acknowledgement larger than its request.
const DATAGRAM: usize = 64 << 10;

/// How often a dump that a change interrupted is begun again.
const ATTEMPTS: usize = 8;

/// A socket in the namespace of the thread that opened it.
pub(super) struct Rtnl {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Rtnl {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Sends a request and waits until the kernel has carried it out or refused it; an error number comes back as such.
    pub(super) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK | flags, |_, _| Ok(())).map(drop)
    }

    /// Asks for a dump and decodes each row, given its message type and what follows the netlink header.
    pub(super) fn dump<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        decode: impl Fn(u16, &[u8]) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            let mut rows = Vec::new();
            let interrupted = self.exchange(request.clone(), NLM_F_REQUEST | NLM_F_DUMP, |kind, payload| {
                rows.extend(decode(kind, payload)?);
                Ok(())
            })?;
            if !interrupted {
                return Ok(rows);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "it changed each time while it was read"))
    }

    /// Returns whether the kernel marked the answer as interrupted by a change.
    fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut interrupted = false;
        // A row that cannot be read must not leave the rest of its dump in the socket.
        let mut outcome = Ok(());
        loop {
            self.buffer.clear();
            let length = match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if length > self.buffer.len() {
                return Err(invalid("a datagram is too large"));
            }
            let done = scan(&self.buffer, self.sequence, &mut interrupted, |kind, payload| {
                if outcome.is_ok() {
                    outcome = each(kind, payload);
                }
            })?;
            if done {
                return outcome.map(|()| interrupted);
            }
        }
    }
}

/// Walks the messages of a datagram that belong to the exchange `sequence`. Returns whether it has ended.
pub(super) fn scan(
    mut datagram: &[u8],
    sequence: u32,
    interrupted: &mut bool,
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message =
            NetlinkBuffer::new_checked(datagram).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let payload = datagram.get(HEADER..length).ok_or_else(|| invalid("a message is cut off"))?;
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        if message.sequence_number() != sequence {
            continue;
        }
        *interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            NLMSG_NOOP => {}
            NLMSG_OVERRUN => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            // Both end an exchange, and begin with 0 or a negative error number (netlink_dump_done, netlink_ack).
            // Without a status, half a dump would pass for a whole one.
            NLMSG_DONE | NLMSG_ERROR => match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                Some(0..) => return Ok(true),
                Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
                None => return Err(invalid("an answer without a status")),
            },
            kind => each(kind, payload),
        }
    }
    Ok(false)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The attributes of a message, or of a nest.
pub(super) struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> io::Result<Self> {
        NlasIterator::new(bytes)
            .map(|attribute| {
                let attribute = attribute.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
                let value =
                    attribute.into_inner().get(ATTRIBUTE..length).ok_or_else(|| invalid("a short attribute"))?;
                Ok((kind, value))
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|attribute| attribute.0 == kind).map(|attribute| attribute.1)
    }

    /// A string, up to its terminator.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        let text = self.get(kind)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// A number in host byte order.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    #[test]
    fn an_exchange_ends_with_done_or_an_error() {
        let mut datagram = message(44, 0, 7, b"row");
        datagram.extend(message(44, 0, 6, b"of an earlier exchange"));
        assert!(!scan(&datagram, 7, &mut false, |_, _| {}).unwrap());
        datagram.extend(message(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &0_i32.to_ne_bytes()));
        let (mut rows, mut interrupted) = (Vec::new(), false);
        let done = scan(&datagram, 7, &mut interrupted, |kind, payload| {
            rows.push((kind, payload.to_vec()));
        })
        .unwrap();
        assert!(done && interrupted);
        assert_eq!(rows, [(44, b"row".to_vec())]);
        let refusal = message(NLMSG_ERROR, 0, 7, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(scan(&refusal, 7, &mut false, |_, _| {}).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let worst = message(NLMSG_ERROR, 0, 7, &i32::MIN.to_ne_bytes());
        assert!(scan(&worst, 7, &mut false, |_, _| {}).is_err());
        for end in 1..datagram.len() {
            let cut = scan(&datagram[..end], 7, &mut false, |_, _| {});
            assert!(!cut.is_ok_and(|done| done), "{end} bytes pass for the whole");
        }
        assert!(scan(&message(NLMSG_DONE, 0, 7, &[0; 3]), 7, &mut false, |_, _| {}).is_err(), "no status");
    }

    #[test]
    fn cut_off_attributes_are_errors() {
        let bytes = [9, 0, 1, 0, b'b', b'p', b'f', 0, 1, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0];
        let attributes = Attributes::parse(&bytes).unwrap();
        assert_eq!(attributes.text(1).as_deref(), Some("bpf"));
        assert_eq!(attributes.number(2), Some(u32::from_ne_bytes([1, 0, 0, 0])));
        assert_eq!((attributes.number(1), attributes.get(3)), (None, None));
        for end in 0..bytes.len() {
            let _ = Attributes::parse(&bytes[..end]);
        }
        assert!(Attributes::parse(&bytes[..bytes.len() - 1]).is_err());
        assert!(Attributes::parse(&[3, 0, 1, 0]).is_err());
    }
}
