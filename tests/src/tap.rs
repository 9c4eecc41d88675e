//! Guests behind a tap, with a kernel's network stack of their own.
//!
//! A virtual machine's NIC is a queue between the guest's stack and the host's tap, with a `virtio_net_hdr` before each
//! frame that says what is left to do (checksum, segmentation). Here the guest's side is a second tap, in the guest's
//! namespace, and a thread carries frames between the two with their headers: what QEMU and vhost do, without a machine.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, poll};

use crate::netns::Netns;

/// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`: the reader copes with unfinished checksums and large segments.
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04;
/// Header, Ethernet header, and the largest segment.
const LONGEST: usize = 12 + 18 + (64 << 10);

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF`.
    tunsetiff,
    libc::TUNSETIFF,
    libc::ifreq
);
nix::ioctl_write_int_bad!(
    /// `TUNSETOFFLOAD`.
    tunsetoffload,
    libc::TUNSETOFFLOAD
);

/// Opens a tap with `virtio_net_hdr`, as QEMU does; the device exists as long as the file is open.
pub fn open(space: &Netns, dev: &str) -> Result<File> {
    space.enter(|| open_here(dev))?.with_context(|| format!("tap {dev} in {}", space.name()))
}

fn open_here(dev: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain old data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    // SAFETY: the request is a valid ifreq, and the descriptor one of /dev/net/tun.
    unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }?;
    // SAFETY: the argument is a number.
    unsafe { tunsetoffload(file.as_raw_fd(), libc::c_int::try_from(OFFLOADS)?) }?;
    Ok(file)
}

/// Carries frames between two taps until dropped.
#[derive(Debug)]
pub struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts to carry frames both ways.
    pub fn start(left: File, right: File) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; LONGEST];
            while !seen.load(Ordering::Relaxed) {
                let mut fds =
                    [PollFd::new(left.as_fd(), PollFlags::POLLIN), PollFd::new(right.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, 50_u16).is_err() {
                    continue;
                }
                // Bounded turns, so that one busy direction does not starve the other.
                carry(&left, &right, &mut buffer);
                carry(&right, &left, &mut buffer);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the pump shows as lost frames in the test.
            drop(thread.join());
        }
    }
}

/// Moves up to 64 frames. A frame that the other side refuses is lost, as on a NIC whose ring is full.
fn carry(mut from: &File, mut to: &File, buffer: &mut [u8]) {
    for _ in 0..64 {
        let length = match from.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if let Err(error) = to.write_all(&buffer[..length])
            && error.raw_os_error() != Some(libc::EIO)
        {
            // EIO: the device is down. Anything else is worth a line, and the frame counts as lost.
            eprintln!("tap: a frame of {length} bytes was refused: {error}");
        }
    }
}
