//! Sending and catching raw frames on a device (`AF_PACKET`).

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    frame::{Mark, describe},
    netns::Netns,
};

/// Room for frames that wait to be read, in bytes: some 50,000 small frames.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;
/// Largest frame that is caught whole; a GSO frame has at most 64 KiB and its headers.
const LONGEST: usize = 80 << 10;
/// Frames that one system call hands to the kernel.
const BURST: usize = 256;

/// A frame as a device's taps saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// All bytes, a tag from metadata put back in its place.
    pub bytes: Vec<u8>,
    /// Whether the outer tag was in metadata.
    pub tag_in_metadata: bool,
}

impl Caught {
    /// Flow and number.
    pub fn mark(&self) -> Option<Mark> {
        Mark::find(&self.bytes)
    }
}

/// One line for failures.
pub fn describe_all(frames: &[Caught]) -> String {
    let lines: Vec<String> = frames.iter().map(|frame| format!("\n    {}", describe(&frame.bytes))).collect();
    lines.concat()
}

/// A packet socket on one device.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// `protocol` 0 catches nothing.
    fn open(space: &Netns, dev: &str, protocol: u16) -> Result<Self> {
        space
            .enter(|| Self::open_here(dev, protocol))?
            .with_context(|| format!("packet socket on {dev} in {}", space.name()))
    }

    fn open_here(dev: &str, protocol: u16) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(dev)?;
        // SAFETY: plain system call without pointers; a descriptor that it returns is owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                bail!(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = Self { fd };
        // Options first: bind starts the flow of frames.
        if protocol != 0 {
            socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
            socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
            socket.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        }
        // SAFETY: sockaddr_ll is plain old data, for which zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(index)?;
        let length = libc::socklen_t::try_from(size_of_val(&address))?;
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        check(unsafe { libc::bind(socket.fd.as_raw_fd(), ptr::from_ref(&address).cast(), length) })?;
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
        // SAFETY: the pointer and the length describe `value`, which outlives the call.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), length) })
    }
}

/// What a socket asks a device for.
#[derive(Clone, Copy, Debug)]
pub enum Membership {
    /// Every frame.
    Promiscuous,
    /// Frames to this unicast address as well.
    Address([u8; 6]),
}

/// A device receives more than usual for as long as this lives.
#[derive(Debug)]
pub struct Member {
    _socket: Socket,
}

impl Member {
    /// Asks `dev` of `space`.
    pub fn join(space: &Netns, dev: &str, membership: Membership) -> Result<Self> {
        let socket = Socket::open(space, dev, 0)?;
        let index = space.enter(|| nix::net::if_::if_nametoindex(dev))??;
        let (kind, address) = match membership {
            Membership::Promiscuous => (libc::PACKET_MR_PROMISC, [0; 6]),
            Membership::Address(address) => (libc::PACKET_MR_UNICAST, address),
        };
        let mut wanted = libc::packet_mreq {
            mr_ifindex: i32::try_from(index)?,
            mr_type: u16::try_from(kind)?,
            mr_alen: 6,
            mr_address: [0; 8],
        };
        wanted.mr_address[..6].copy_from_slice(&address);
        let length = libc::socklen_t::try_from(size_of_val(&wanted))?;
        let (descriptor, from) = (socket.fd.as_raw_fd(), ptr::from_ref(&wanted).cast());
        // SAFETY: the pointer and the length describe `wanted`, which outlives the call.
        check(unsafe { libc::setsockopt(descriptor, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, from, length) })
            .with_context(|| format!("{membership:?} on {dev}"))?;
        Ok(Self { _socket: socket })
    }
}

/// Sends whole frames out of a device.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
}

impl Sender {
    /// A sender on `dev` of `space`.
    pub fn open(space: &Netns, dev: &str) -> Result<Self> {
        Ok(Self { socket: Socket::open(space, dev, 0)? })
    }

    /// Sends one frame. Waits while the device's queue is full.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            // SAFETY: the pointer and the length describe `bytes`.
            let sent = unsafe { libc::send(self.socket.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            match check(i32::try_from(sent.min(1))?) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error).with_context(|| format!("send {}", describe(bytes))),
            }
        }
    }

    /// Sends many frames with few system calls; how many the kernel took.
    pub fn send_all(&self, frames: &[Vec<u8>]) -> Result<usize> {
        let mut sent = 0;
        for burst in frames.chunks(BURST) {
            let mut parts: Vec<libc::iovec> = burst
                .iter()
                .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
                .collect();
            let mut headers: Vec<libc::mmsghdr> = parts
                .iter_mut()
                .map(|part| {
                    // SAFETY: mmsghdr is plain old data, for which zeros are valid.
                    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                    header.msg_hdr.msg_iov = part;
                    header.msg_hdr.msg_iovlen = 1;
                    header
                })
                .collect();
            let count = u32::try_from(headers.len())?;
            // SAFETY: `headers` holds `count` headers, whose parts and frames outlive the call; sending only reads them.
            let taken = unsafe { libc::sendmmsg(self.socket.fd.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
            match check(taken) {
                Ok(()) => sent += usize::try_from(taken)?,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error).context("sendmmsg"),
            }
        }
        Ok(sent)
    }
}

/// Catches the frames that a device receives; its own are not among them.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Capture {
    /// Starts to catch on `dev` of `space`.
    pub fn open(space: &Netns, dev: &str) -> Result<Self> {
        let all = u16::try_from(libc::ETH_P_ALL)?;
        Ok(Self { socket: Socket::open(space, dev, all)?, buffer: vec![0; LONGEST] })
    }

    /// Starts to catch on `dev` of `space` what comes in and what goes out, as tcpdump does.
    pub fn both_ways(space: &Netns, dev: &str) -> Result<Self> {
        let capture = Self::open(space, dev)?;
        capture.socket.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 0).context("outgoing frames")?;
        Ok(capture)
    }

    /// Starts to catch what the device itself gets of one `EtherType`: not what a bridge has taken before.
    pub fn of_protocol(space: &Netns, dev: &str, ethertype: u16) -> Result<Self> {
        Ok(Self { socket: Socket::open(space, dev, ethertype)?, buffer: vec![0; LONGEST] })
    }

    /// The next frame of any kind; `None` if there is none within `wait`.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Caught>> {
        use std::os::fd::AsFd as _;
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        loop {
            let mut fds = [PollFd::new(self.socket.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(None),
                Ok(_) => match self.receive() {
                    Ok(frame) => return Ok(Some(frame)),
                    // The device went down or away; what was caught before is still there.
                    Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                    Err(error) => return Err(error).context("receive"),
                },
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
        }
    }

    /// The lab's own frames until none came for `quiet` (times the machine's slowness), or 60 s have passed.
    pub fn drain(&mut self, quiet: Duration) -> Result<Vec<Caught>> {
        let quiet = quiet * crate::wait::slowness();
        let mut frames = Vec::new();
        let mut last = Instant::now();
        let start = Instant::now();
        while start.elapsed() < Duration::from_mins(1) {
            let left = quiet.saturating_sub(last.elapsed());
            let Some(frame) = self.next(left)? else { break };
            if frame.mark().is_some() {
                frames.push(frame);
                last = Instant::now();
            } else if last.elapsed() > quiet {
                break;
            }
        }
        Ok(frames)
    }

    /// The lab's own frames that wait already.
    fn waiting(&mut self) -> Result<Vec<Caught>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next(Duration::ZERO)? {
            frames.extend(frame.mark().map(|_| frame));
        }
        Ok(frames)
    }

    fn receive(&mut self) -> io::Result<Caught> {
        let mut part = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // Room for one control message of type tpacket_auxdata, aligned as cmsghdr wants it.
        let mut control = [0_u64; 16];
        // SAFETY: msghdr is plain old data, for which zeros are valid.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `header` and its length describe a live buffer of ours.
        let length = unsafe { libc::recvmsg(self.socket.fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        let length = usize::try_from(length).map_err(|_negative| io::Error::last_os_error())?;
        let mut bytes = self.buffer[..length.min(LONGEST)].to_vec();
        let tag = metadata_tag(&header);
        if let Some((tpid, tci)) = tag {
            bytes.splice(12..12, tpid.to_be_bytes().into_iter().chain(tci.to_be_bytes()));
        }
        Ok(Caught { bytes, tag_in_metadata: tag.is_some() })
    }
}

/// [`Capture::drain`] for several captures at once: until none of them caught anything for `quiet`.
pub fn drain_all(captures: &mut [Capture], quiet: Duration) -> Result<Vec<Vec<Caught>>> {
    let quiet = quiet * crate::wait::slowness();
    let mut all = vec![Vec::new(); captures.len()];
    let (start, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() <= quiet && start.elapsed() < Duration::from_mins(1) {
        for (capture, all) in captures.iter_mut().zip(&mut all) {
            let frames = capture.waiting()?;
            if !frames.is_empty() {
                last = Instant::now();
            }
            all.extend(frames);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(all)
}

/// TPID and TCI, host order, of a tag that the kernel keeps beside the frame.
fn metadata_tag(header: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the kernel has filled the control buffer that `header` points to; the macros stay within its length.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_PACKET && (*message).cmsg_type == libc::PACKET_AUXDATA {
                let data: libc::tpacket_auxdata = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                let valid = data.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
                return valid.then_some((data.tp_vlan_tpid, data.tp_vlan_tci));
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// The result of a system call that reports errors as negative numbers.
fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
