//! Events of nftables.

use std::{
    future, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use bytes::BytesMut;
use netlink_sys::{AsyncSocket as _, TokioSocket, protocols::NETLINK_NETFILTER};
use tokio::time::{self, Interval};

use super::kernel::Kernel;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// How often to look whether nftables has come.
const PERIOD: Duration = Duration::from_secs(1);

/// Says that the ruleset of nftables has changed, in the namespace in which it was made.
pub struct Watch {
    /// `None`: there is nothing to listen to.
    socket: Option<TokioSocket>,
    /// What the kernel has, while the group is not joined yet: joining makes the kernel load `nf_tables`
    /// (`nfnetlink_bind`).
    waiting: Option<(Kernel, Interval)>,
}

impl Watch {
    /// Subscribes. Must be called within a tokio runtime. Where that is impossible, [`Self::changed`] never resolves.
    pub fn new() -> Self {
        match Self::subscribe() {
            Ok(watch) => watch,
            Err(error) => {
                log::info!("no events of nftables ({error}): changes are found by looking once a second");
                Self { socket: None, waiting: None }
            }
        }
    }

    /// The socket that the news comes to, from the start, whether or not there is anything to listen to yet.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the descriptor is the socket's own, and borrowed for as long as that.
        self.socket.as_ref().map(|socket| unsafe { BorrowedFd::borrow_raw(socket.socket_ref().as_raw_fd()) })
    }

    fn subscribe() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        let mut watch = Self { socket: Some(socket), waiting: Some((Kernel::read()?, time::interval(PERIOD))) };
        watch.join()?;
        Ok(watch)
    }

    /// Joins the group if nftables is there. Returns whether it is joined.
    fn join(&mut self) -> io::Result<bool> {
        if let (Some((kernel, _)), Some(socket)) = (&self.waiting, &self.socket)
            && kernel.has_nftables()
        {
            socket.socket_ref().add_membership(GROUP)?;
            self.waiting = None;
        }
        Ok(self.waiting.is_none())
    }

    /// Resolves when something has changed since the last call; an overrun of the socket counts. Cancel safe.
    pub async fn changed(&mut self) {
        while let Some((kernel, interval)) = &mut self.waiting {
            interval.tick().await;
            if kernel.refresh().and_then(|()| self.join()).unwrap_or(false) {
                return;
            }
        }
        let Some(socket) = &self.socket else {
            return future::pending().await;
        };
        loop {
            let mut outcome = future::poll_fn(|context| socket.poll_recv(context, &mut scratch())).await;
            let mut news = false;
            // Drained: one call answers for all that has come.
            let failure = loop {
                match outcome {
                    Ok(()) => news = true,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news = true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                    Err(error) => break Some(error),
                }
                outcome = socket.socket_ref().recv(&mut scratch(), 0).map(|_| ());
            };
            if let Some(error) = failure {
                log::warn!("no more events of nftables ({error}): changes are found by looking once a second");
                self.socket = None;
                return future::pending().await;
            }
            if news {
                return;
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

/// A place for the beginning of a datagram: what it says does not matter.
fn scratch() -> BytesMut {
    BytesMut::with_capacity(16)
}
