//! One instance per bridge: a socket with an abstract name, which the kernel keeps per network namespace, whatever folder
//! an instance uses, and frees when its process ends.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::error::{Exit, Failure};

/// The right to serve one bridge of this network namespace.
pub(super) struct Lock {
    _socket: UnixListener,
}

impl Lock {
    /// Takes the lock of `bridge`, or says who has it.
    pub(super) fn take(bridge: &str) -> Result<Self, Failure> {
        let broken = |error: &io::Error| Failure::new(Exit::Failed, format!("cannot lock bridge {bridge}: {error}"));
        let address = SocketAddr::from_abstract_name(format!("xbr/bridge/{bridge}")).map_err(|error| broken(&error))?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let holder = holder(&address).map_or_else(|| "of unknown id".to_owned(), |pid| pid.to_string());
                let message = format!("bridge {bridge}: another xbr run (pid {holder}) serves it; stop that one first");
                Err(Failure::new(Exit::Busy, message))
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

/// The process that listens, as the kernel knows it.
fn holder(address: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    getsockopt(&stream, PeerCredentials).ok().map(|credentials| credentials.pid())
}
