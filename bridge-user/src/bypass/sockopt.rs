//! `getsockopt` with buffers, for the legacy tables.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Opens a datagram socket of a protocol family, bound to this namespace. `None` where the kernel lacks the family.
pub(super) fn open(domain: libc::c_int) -> io::Result<Option<OwnedFd>> {
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if descriptor >= 0 {
        // SAFETY: the kernel just handed out this descriptor, and nobody else has it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(None),
        error => Err(error),
    }
}

/// Reads an option; the buffer's content is the question.
pub(super) fn get(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `buffer`, which outlives the call; `length` is a valid in-out argument.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, buffer.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A number in host order at an offset.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
}

/// A short number in host order at an offset.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|raw| u16::from_ne_bytes(*raw))
}

/// A signed number in host order at an offset.
pub(super) fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    bytes.get(offset..)?.first_chunk().map(|raw| i32::from_ne_bytes(*raw))
}
