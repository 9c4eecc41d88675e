//! ICMP echo from one guest to another, answered by the other's kernel.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{net::Guest, wait};

/// Sends up to `count` echo requests from a guest to an address; how many were answered within `patience` each.
pub fn ping(from: &Guest, to: Ipv4Addr, count: u16, patience: Duration) -> Result<u16> {
    from.space
        .enter(|| ping_here(to, count, patience * wait::slowness()))?
        .with_context(|| format!("ping {to} from {}", from.name))
}

/// As [`ping`], from the namespace that the thread is in; `patience` is taken as it is.
pub fn ping_here(to: Ipv4Addr, count: u16, patience: Duration) -> Result<u16> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    let tick = TimeVal::milliseconds(i64::try_from(patience.as_millis().min(100))?);
    setsockopt(&socket, sockopt::ReceiveTimeout, &tick)?;
    let address = SockaddrIn::from(SocketAddrV4::new(to, 0));
    // The low half is enough to tell our echoes from those of other processes in this namespace.
    let identifier = u16::try_from(std::process::id() & 0xffff)?;
    let mut answered = 0;
    for number in 0..count {
        let mut request = [0_u8; 64];
        request[0] = 8;
        request[4..6].copy_from_slice(&identifier.to_be_bytes());
        request[6..8].copy_from_slice(&number.to_be_bytes());
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        match sendto(socket.as_raw_fd(), &request, &address, MsgFlags::empty()) {
            Ok(_) => {}
            // Nobody answered the ARP request.
            Err(Errno::EHOSTUNREACH) => continue,
            Err(error) => return Err(error.into()),
        }
        answered += u16::from(answer(&socket, to, identifier, number, patience)?);
    }
    Ok(answered)
}

/// Waits for the echo reply with this number.
fn answer(socket: &OwnedFd, from: Ipv4Addr, identifier: u16, number: u16, patience: Duration) -> Result<bool> {
    let start = Instant::now();
    let mut buffer = [0_u8; 2048];
    while start.elapsed() < patience {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::EHOSTUNREACH) => continue,
            Err(error) => return Err(error.into()),
        };
        // A raw socket hands out the IP header as well.
        let packet = &buffer[..length];
        let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
        let Some(echo) = packet.get(header..header + 8) else {
            continue;
        };
        if packet.get(12..16) == Some(&from.octets())
            && echo[0] == 0
            && echo[4..6] == identifier.to_be_bytes()
            && echo[6..8] == number.to_be_bytes()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The Internet checksum of a message of even length whose checksum field is zero.
fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
