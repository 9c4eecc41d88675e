//! Packet sockets with `virtio_net_hdr`, which send and catch frames with their offloads, tags and device.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use anyhow::{Context as _, Result};

use super::spec::Wire;
use crate::netns::Netns;

/// Room for frames that wait to be read, in bytes.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;
/// `virtio_net_hdr` without `num_buffers`.
pub(super) const HEADER: usize = 10;
/// Largest frame with its header.
pub(super) const LONGEST: usize = HEADER + (70 << 10);

/// A frame as a receiver got it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caught {
    /// From the destination address on, without a tag that was in metadata.
    pub bytes: Vec<u8>,
    /// TPID and TCI of a tag in metadata, host order.
    pub tag: Option<(u16, u16)>,
    /// What is left to do: `gso_type`, `gso_size`, `csum_start`, `csum_offset`; `None` if nothing is.
    pub left: Option<(u8, u16, u16, u16)>,
}

impl Caught {
    /// Splits header and bytes.
    pub(super) fn new(data: &[u8], tag: Option<(u16, u16)>) -> Self {
        let (header, bytes) = data.split_at(HEADER.min(data.len()));
        let half = |at: usize| header.get(at..at + 2).map_or(0, |two| u16::from_ne_bytes([two[0], two[1]]));
        let (flags, kind) = (header.first().copied().unwrap_or(0), header.get(1).copied().unwrap_or(0));
        // Whether a checksum was found right already (DATA_VALID) is a hint that depends on the path, not a property of
        // the frame; `hdr_len` is one as well.
        let partial = flags & 1 != 0;
        let left = (partial || kind != 0).then(|| {
            let (start, offset) = if partial { (half(6), half(8)) } else { (0, 0) };
            (kind, half(4), start, offset)
        });
        Self { bytes: bytes.to_vec(), tag, left }
    }
}

/// A packet socket of one namespace, on all of its devices or on one.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// A socket that catches nothing yet.
    pub(super) fn open(space: &Netns) -> Result<Self> {
        space.enter(Self::open_here)?.with_context(|| format!("packet socket in {}", space.name()))
    }

    fn open_here() -> io::Result<Self> {
        // SAFETY: plain system call without pointers; a descriptor that it returns is owned by nobody else.
        let fd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let fd = libc::socket(libc::AF_PACKET, kind, 0);
            check(fd)?;
            OwnedFd::from_raw_fd(fd)
        };
        let socket = Self { fd, buffer: vec![0; LONGEST] };
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        Ok(socket)
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
        // SAFETY: the pointer and the length describe `value`, which outlives the call.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), length) })
    }

    /// Catches everything that the device with this index receives from now on (0: any device).
    pub(super) fn listen(&self, index: u32) -> io::Result<()> {
        let address = address(index, u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?)?;
        let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), ptr::from_ref(&address).cast(), length) })
    }

    /// The index of the device that it is bound to; 0 for none, or one that is gone.
    pub(super) fn bound(&self) -> io::Result<u32> {
        let mut address = address(0, 0)?;
        let mut length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        let (to, room) = (ptr::from_mut(&mut address).cast(), &raw mut length);
        // SAFETY: the pointers describe `address` and its length, which outlive the call.
        check(unsafe { libc::getsockname(self.fd.as_raw_fd(), to, room) })?;
        Ok(u32::try_from(address.sll_ifindex).unwrap_or(0))
    }

    /// Sends a frame out of the device with this index, with a mark that a program there may read.
    pub(super) fn send(&self, index: u32, wire: &Wire, mark: u32) -> io::Result<()> {
        let mut address = address(index, 0)?;
        let mut parts = [
            libc::iovec { iov_base: wire.header.as_ptr().cast_mut().cast(), iov_len: HEADER },
            libc::iovec { iov_base: wire.bytes.as_ptr().cast_mut().cast(), iov_len: wire.bytes.len() },
        ];
        // SAFETY: msghdr is plain old data, for which zeros are valid.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = ptr::from_mut(&mut address).cast();
        header.msg_namelen = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = parts.len();
        self.option(libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
        // SAFETY: every pointer in `header` and its length describe a live buffer of ours, which sending only reads.
        let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame that waits, with the index of the device that received it.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Caught)>> {
        loop {
            match self.receive() {
                Ok(caught) => return Ok(Some(caught)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    // A device went down or away, or a frame has offloads that the header cannot express (that one is lost
                    // to both universes); what waits behind it is still there.
                    Some(libc::EINTR | libc::ENETDOWN | libc::ENODEV | libc::ENXIO | libc::EINVAL) => {}
                    _ => return Err(error).context("receive"),
                },
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u32, Caught)> {
        let mut from = address(0, 0)?;
        let mut part = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // Room for one control message of type tpacket_auxdata, aligned as cmsghdr wants it.
        let mut control = [0_u64; 16];
        // SAFETY: msghdr is plain old data, for which zeros are valid.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = ptr::from_mut(&mut from).cast();
        header.msg_namelen = libc::socklen_t::try_from(size_of_val(&from)).map_err(io::Error::other)?;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `header` and its length describe a live buffer of ours.
        let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, 0) };
        let length = usize::try_from(length).map_err(|_negative| io::Error::last_os_error())?;
        let caught = Caught::new(&self.buffer[..length.min(LONGEST)], metadata_tag(&header));
        Ok((u32::try_from(from.sll_ifindex).unwrap_or(0), caught))
    }
}

fn address(index: u32, protocol: u16) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: sockaddr_ll is plain old data, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    Ok(address)
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
