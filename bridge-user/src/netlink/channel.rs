//! One blocking socket for requests: sequence numbers, dumps that are made again when they were interrupted, pipelines.

use std::{io, time::Duration};

use log::debug;
use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use super::{
    NetlinkError, Result,
    wire::{Malformed, Message, Refusal, Request, messages, refusal},
};

/// How long the kernel may take to answer; it waits for the rtnl lock meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How often a dump is made before the answer "it keeps changing" is given.
const ATTEMPTS: u32 = 5;
/// Receive buffer of the socket, in bytes: answers to a whole pipeline have to fit, `NLMSG_GOODSIZE` each.
const SOCKET_BUFFER: usize = 1 << 20;
/// Room for one datagram. A dump's datagrams grow with it, up to 32 KiB (`netlink_recvmsg`); single answers are smaller.
pub(super) const DATAGRAM: usize = 64 << 10;

/// Opens a `NETLINK_ROUTE` socket in the namespace of the calling thread, with a receive buffer of `buffer` bytes
/// (or what `net.core.rmem_max` grants without `CAP_NET_ADMIN`).
pub(super) fn open(buffer: usize) -> Result<Socket> {
    let failed = |what| move |error: io::Error| NetlinkError::Socket { what, error };
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &buffer))
        .map_err(|errno| failed("set the receive buffer of")(errno.into()))?;
    socket.bind_auto().map_err(failed("bind"))?;
    Ok(socket)
}

/// Receives one datagram into `buffer`. `Ok(None)`: another process sent it, it is to be ignored.
///
/// Errors are those of recvfrom(2), and `EMSGSIZE` where the datagram did not fit.
pub(super) fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let mut room = &mut *buffer;
    let (length, sender) = socket.recv_from(&mut room, libc::MSG_TRUNC)?;
    if sender.port_number() != 0 {
        return Ok(None);
    }
    buffer.get(..length).map(Some).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))
}

/// What the kernel made of one request of a pipeline.
pub(super) type Answer<T> = std::result::Result<T, Refusal>;

/// The socket and its state.
pub(super) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// The socket may still have answers, or a dump under way (the kernel runs one at a time): not to be used again.
    spent: bool,
}

impl Channel {
    /// Opens the socket in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { socket: Self::socket()?, sequence: 0, buffer: vec![0; DATAGRAM], spent: false })
    }

    fn socket() -> Result<Socket> {
        let socket = open(SOCKET_BUFFER)?;
        let failed = |what| move |error: io::Error| NetlinkError::Socket { what, error };
        let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)
            .map_err(|errno| failed("set the timeout of")(errno.into()))?;
        // Strict checking gives filters that a kernel does not know an error instead of a full dump, and it makes errors of
        // a dump visible. Extended acknowledgements bring the kernel's own words; capping keeps our request out of them.
        socket.set_netlink_get_strict_chk(true).map_err(failed("set strict checking of"))?;
        socket.set_ext_ack(true).map_err(failed("set extended acknowledgements of"))?;
        socket.set_cap_ack(true).map_err(failed("set short acknowledgements of"))?;
        Ok(socket)
    }

    /// Makes a dump and folds its messages into a `T`. `request` names it in errors.
    ///
    /// Where the kernel says that the objects changed meanwhile (`NLM_F_DUMP_INTR`), it is made again from the start.
    /// Not every dump says so: those of VLANs and FDB entries do not, there the events tell.
    pub(super) fn dump<T: Default>(
        &mut self,
        name: &'static str,
        request: &Request,
        mut add: impl FnMut(&mut T, &Message<'_>),
    ) -> Result<T> {
        until_consistent(name, || {
            let mut result = T::default();
            let consistent = self.dump_once(name, request, |message| add(&mut result, message))?;
            Ok(consistent.then_some(result))
        })
    }

    /// One attempt. `Ok(false)`: the dump is inconsistent.
    fn dump_once(&mut self, name: &'static str, request: &Request, mut add: impl FnMut(&Message<'_>)) -> Result<bool> {
        let sequence = self.next_sequences(1);
        self.send(name, &request.finish(sequence))?;
        let mut progress = Progress::new(sequence);
        while progress.end.is_none() {
            self.each_message(name, |message| progress.take(message, &mut add))?;
        }
        match progress.end {
            Some(Err(refusal)) => Err(refused(name, refusal)),
            _ => Ok(progress.consistent),
        }
    }

    /// Sends all `requests` at once and hands the answer to each, by its index, to `add`: a message or a refusal.
    ///
    /// Each has to be one that the kernel answers with exactly one message.
    pub(super) fn ask(
        &mut self,
        name: &'static str,
        requests: &[Request],
        mut add: impl FnMut(usize, Answer<&Message<'_>>),
    ) -> Result<()> {
        let first = self.next_sequences(requests.len());
        let sequences = (0..requests.len()).scan(first, |next, _| {
            let sequence = *next;
            *next = next.wrapping_add(1);
            Some(sequence)
        });
        let datagram: Vec<u8> =
            requests.iter().zip(sequences).flat_map(|(request, sequence)| request.finish(sequence)).collect();
        self.send(name, &datagram)?;
        let mut open = vec![true; requests.len()];
        let mut left = requests.len();
        while left > 0 {
            self.each_message(name, |message| {
                let index = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let Some(open) = open.get_mut(index).filter(|open| **open) else {
                    return Ok(());
                };
                if message.kind == NLMSG_ERROR {
                    // Success without an answer: there is nothing to tell.
                    let none = Refusal { errno: libc::ENOENT, text: None };
                    add(index, Err(refusal(message, true)?.unwrap_or(none)));
                } else {
                    add(index, Ok(message));
                }
                *open = false;
                left -= 1;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Reserves `count` sequence numbers and returns the first.
    fn next_sequences(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        first
    }

    fn send(&mut self, name: &'static str, bytes: &[u8]) -> Result<()> {
        if self.spent {
            self.socket = Self::socket()?;
            self.spent = false;
        }
        let kernel = SocketAddr::new(0, 0);
        match self.socket.send_to(bytes, &kernel, 0) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.spent = true;
                Err(NetlinkError::Transfer { request: name, error })
            }
        }
    }

    /// Waits for one datagram and hands its messages to `read`. After an error the socket is not used again.
    fn each_message(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&Message<'_>) -> std::result::Result<(), Malformed>,
    ) -> Result<()> {
        let failure = loop {
            match receive(&self.socket, &mut self.buffer) {
                Ok(None) => {}
                Ok(Some(datagram)) => match messages(datagram).try_for_each(|message| read(&message?)) {
                    Ok(()) => return Ok(()),
                    Err(what) => {
                        break NetlinkError::Malformed { request: name, what: what.to_string() };
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    break NetlinkError::Timeout { request: name };
                }
                Err(error) => break NetlinkError::Transfer { request: name, error },
            }
        };
        self.spent = true;
        Err(failure)
    }
}

/// How far a dump is.
struct Progress {
    sequence: u32,
    /// The kernel has not said that the objects changed.
    consistent: bool,
    /// The kernel has said that this was all, or that it gave up.
    end: Option<Answer<()>>,
}

impl Progress {
    fn new(sequence: u32) -> Self {
        Self { sequence, consistent: true, end: None }
    }

    /// Takes one message; those that belong to the dump and carry an object go to `add`.
    fn take(&mut self, message: &Message<'_>, mut add: impl FnMut(&Message<'_>)) -> std::result::Result<(), Malformed> {
        if message.sequence != self.sequence || self.end.is_some() {
            return Ok(());
        }
        self.consistent &= message.flags & NLM_F_DUMP_INTR == 0;
        match message.kind {
            NLMSG_DONE | NLMSG_ERROR => {
                self.end = Some(refusal(message, message.kind == NLMSG_ERROR)?.map_or(Ok(()), Err));
            }
            NLMSG_OVERRUN => self.consistent = false,
            NLMSG_NOOP => {}
            _ => add(message),
        }
        Ok(())
    }
}

/// Repeats what gives `None` when it was interrupted by a change.
fn until_consistent<T>(name: &'static str, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for number in 1..=ATTEMPTS {
        if let Some(result) = attempt()? {
            return Ok(result);
        }
        debug!("netlink: {name}: interrupted by a change, attempt {number}");
    }
    Err(NetlinkError::Interrupted { request: name })
}

/// The error for a request that the kernel refused.
pub(super) fn refused(request: &'static str, refusal: Refusal) -> NetlinkError {
    NetlinkError::Refused {
        request,
        error: io::Error::from_raw_os_error(refusal.errno),
        text: refusal.text.map(|text| format!(": {text}")).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
