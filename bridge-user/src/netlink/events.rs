//! Notifications: which link, VLAN list, FDB entry or filter is no longer what it was.
//!
//! An event carries no state: by the time that it is read, a newer one may be true. Whoever reads it asks again
//! ([`super::Requests`]).

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use log::debug;
use netlink_packet_core::NLMSG_OVERRUN;
use netlink_sys::Socket;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    NetlinkError, Result,
    channel::{DATAGRAM, open, receive},
    fdb, link,
    uapi::{
        AF_BRIDGE, IFLA_WIRELESS, RTM_DELCHAIN, RTM_DELLINK, RTM_DELNEIGH, RTM_DELQDISC, RTM_DELTCLASS, RTM_DELTFILTER,
        RTM_DELVLAN, RTM_NEWCHAIN, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWQDISC, RTM_NEWTCLASS, RTM_NEWTFILTER, RTM_NEWVLAN,
        RTNLGRP_BRVLAN, RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC, TCM_IFINDEX_MAGIC_BLOCK,
    },
    vlandb,
    wire::{Malformed, Message, attributes, messages, u32_at},
};
use crate::model::{FdbKey, IfIndex};

/// Receive buffer in bytes, of which the kernel makes twice as many. A notification of an FDB entry takes about 1 KiB of it:
/// enough for a flush of 65,000 entries. It is memory of the kernel's, and only while notifications wait.
const SOCKET_BUFFER: usize = 32 << 20;
/// Most messages that one batch is made of, so that a storm does not starve whoever handles the events.
const BATCH: usize = 4096;
/// So many errors in one batch are no longer a sign of lost messages but a broken socket.
const ERRORS: usize = 16;

/// Something is no longer what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A device: changed or made, or another device now stands on it or no longer does.
    Link(IfIndex),
    /// A device that went, or was moved to another network namespace.
    LinkGone(IfIndex),
    /// What a device is as a bridge or port.
    Port(IfIndex),
    /// The VLANs of a bridge or port, or their options.
    Vlan(IfIndex),
    /// An FDB entry: new, moved or changed.
    Fdb(FdbKey),
    /// An FDB entry that went.
    FdbGone(FdbKey),
    /// A qdisc, class, chain or filter of a device.
    Tc(IfIndex),
    /// Notifications were lost or could not be read: everything may have changed.
    Overrun,
}

/// A subscription to all that may change a forwarding decision.
pub struct Events {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    /// The kernel has dropped notifications, and the queue has not been empty since.
    congested: bool,
}

impl Events {
    /// Subscribes, in the network namespace of the calling thread. Has to be called inside a tokio runtime.
    pub fn new() -> Result<Self> {
        Self::new_with_rcvbuf(SOCKET_BUFFER)
    }

    /// As [`Events::new`] with a receive buffer of `bytes` (the kernel doubles it): a small one makes overruns.
    pub fn new_with_rcvbuf(bytes: usize) -> Result<Self> {
        let failed = |what| move |error: io::Error| NetlinkError::Socket { what, error };
        let socket = open(bytes)?;
        socket.set_non_blocking(true).map_err(failed("set to non-blocking"))?;
        for group in [RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC, RTNLGRP_BRVLAN] {
            socket.add_membership(group).map_err(failed("subscribe with"))?;
        }
        // An error without a message (`netlink_set_err`) makes the socket ready for nothing but errors.
        // SAFETY: the socket owns its descriptor: open until it is dropped, and always the same.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::ERROR) }
            .map_err(|error| failed("poll")(error.into()))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM], congested: false })
    }

    /// The socket that the notifications come to.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// Waits for events and returns those that are there, each once, in the order in which they came first.
    ///
    /// [`Event::Overrun`] comes alone. May be cancelled at any time (`tokio::select!`): it waits before it reads, and does
    /// not wait between reading and returning.
    ///
    /// Fails only if the socket is unusable.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        loop {
            let mut guard = self
                .socket
                .ready(Interest::READABLE | Interest::ERROR)
                .await
                .map_err(|error| NetlinkError::Transfer { request: "notifications", error })?;
            let mut batch = Batch::default();
            let drained = drain(guard.get_inner(), &mut self.buffer, &mut batch)?;
            if drained {
                guard.clear_ready();
            }
            let events = batch.end(drained, &mut self.congested);
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// As [`Events::next`], without waiting: empty if nothing is there.
    pub fn there(&mut self) -> Result<Vec<Event>> {
        let mut batch = Batch::default();
        let drained = drain(self.socket.get_ref(), &mut self.buffer, &mut batch)?;
        Ok(batch.end(drained, &mut self.congested))
    }
}

/// The events of one round.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    seen: HashSet<Event>,
    overrun: bool,
    messages: usize,
}

impl Batch {
    /// What to tell of it. The kernel stays silent about further losses until the queue has been empty (`netlink_overrun`,
    /// `netlink_rcv_wake`): a resync before that would miss what is lost after it, so that another one is asked for.
    fn end(self, drained: bool, congested: &mut bool) -> Vec<Event> {
        let overrun = self.overrun || *congested;
        *congested = overrun && !drained;
        if overrun { vec![Event::Overrun] } else { self.events }
    }

    fn push(&mut self, event: Event) {
        if self.seen.insert(event) {
            self.events.push(event);
        }
    }

    /// Takes the messages of a datagram.
    fn datagram(&mut self, datagram: &[u8]) {
        for message in messages(datagram) {
            self.messages += 1;
            let read = message.and_then(|message| self.message(&message));
            if let Err(malformed) = read {
                debug!("netlink: notification: {malformed}");
                self.overrun = true;
            }
        }
    }

    fn message(&mut self, message: &Message<'_>) -> std::result::Result<(), Malformed> {
        match message.kind {
            RTM_NEWLINK | RTM_DELLINK => self.link(message)?,
            RTM_NEWVLAN | RTM_DELVLAN => self.push(Event::Vlan(vlandb::device(message.payload)?)),
            RTM_NEWNEIGH | RTM_DELNEIGH => {
                if let Some((key, _)) = fdb::decode(message.payload)? {
                    self.push(if message.kind == RTM_DELNEIGH { Event::FdbGone(key) } else { Event::Fdb(key) });
                }
            }
            RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTCLASS | RTM_DELTCLASS | RTM_NEWTFILTER | RTM_DELTFILTER
            | RTM_NEWCHAIN | RTM_DELCHAIN => match u32_at(message.payload, 4)? {
                // A filter of a block that devices share: which ones, it does not say.
                TCM_IFINDEX_MAGIC_BLOCK => self.overrun = true,
                device => self.push(Event::Tc(device)),
            },
            NLMSG_OVERRUN => self.overrun = true,
            // The groups have other messages as well (actions of RTNLGRP_TC); nothing that the model has.
            _ => {}
        }
        Ok(())
    }

    fn link(&mut self, message: &Message<'_>) -> std::result::Result<(), Malformed> {
        let payload = message.payload;
        let device = link::device(payload)?;
        for attribute in attributes(link::body(payload)) {
            // Scan results and the like, by the thousand (`wireless_nlevent_flush`).
            if attribute?.0 == IFLA_WIRELESS {
                return Ok(());
            }
        }
        self.push(match (payload.first(), message.kind) {
            // `br_ifinfo_notify`: also the one message for some changes of VLANs (MST states, for instance).
            (Some(&AF_BRIDGE), _) => Event::Port(device),
            (_, RTM_DELLINK) => Event::LinkGone(device),
            _ => Event::Link(device),
        });
        Ok(())
    }
}

/// The events of one datagram, and whether it says that some are missing.
#[cfg(any(test, fuzzing))]
pub(super) fn read(datagram: &[u8]) -> (Vec<Event>, bool) {
    let mut batch = Batch::default();
    batch.datagram(datagram);
    (batch.events, batch.overrun)
}

/// Reads until there is nothing more (`true`) or the batch is full (`false`).
fn drain(socket: &Socket, buffer: &mut [u8], batch: &mut Batch) -> Result<bool> {
    let mut errors = 0;
    while batch.messages < BATCH {
        match receive(socket, buffer) {
            Ok(Some(datagram)) => batch.datagram(datagram),
            Ok(None) => batch.messages += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // ENOBUFS is the usual one; the kernel also reports that it could not even build a message
            // (`rtnl_set_sk_err`). Either way something is missing.
            Err(error) => {
                debug!("netlink: notifications: {error}");
                batch.overrun = true;
                errors += 1;
                if errors > ERRORS {
                    return Err(NetlinkError::Transfer { request: "notifications", error });
                }
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{
        uapi::{IFLA_IFNAME, NDA_LLADDR, NDA_MASTER, NDA_VLAN},
        wire::tests::{attribute, message},
    };

    fn link(family: u8, device: u32, kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = link::header(Some(device)).to_vec();
        bytes[0] = family;
        bytes.extend(attribute(kind, value));
        bytes
    }

    fn neighbour(family: u8) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0];
        bytes.extend(attribute(NDA_LLADDR, &[2, 0, 0, 0, 0, 1]));
        bytes.extend(attribute(NDA_MASTER, &4_u32.to_ne_bytes()));
        bytes.extend(attribute(NDA_VLAN, &10_u16.to_ne_bytes()));
        bytes
    }

    fn tc(device: u32) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[4..8].copy_from_slice(&device.to_ne_bytes());
        bytes
    }

    #[test]
    fn each_kind_names_what_changed() {
        let key = FdbKey { bridge: 4, vlan: 10, mac: [2, 0, 0, 0, 0, 1] };
        for (kind, payload, expected) in [
            (RTM_NEWLINK, link(0, 3, IFLA_IFNAME, b"a\0"), vec![Event::Link(3)]),
            (RTM_DELLINK, link(0, 3, IFLA_IFNAME, b"a\0"), vec![Event::LinkGone(3)]),
            (RTM_NEWLINK, link(AF_BRIDGE, 3, IFLA_IFNAME, b"a\0"), vec![Event::Port(3)]),
            (RTM_DELLINK, link(AF_BRIDGE, 3, IFLA_IFNAME, b"a\0"), vec![Event::Port(3)]),
            (RTM_NEWLINK, link(0, 3, IFLA_WIRELESS, &[0; 8]), vec![]),
            (RTM_NEWVLAN, vlandb::header(Some(6)).to_vec(), vec![Event::Vlan(6)]),
            (RTM_DELVLAN, vlandb::header(Some(6)).to_vec(), vec![Event::Vlan(6)]),
            (RTM_NEWNEIGH, neighbour(AF_BRIDGE), vec![Event::Fdb(key)]),
            (RTM_DELNEIGH, neighbour(AF_BRIDGE), vec![Event::FdbGone(key)]),
            (RTM_NEWNEIGH, neighbour(2), vec![]),
            (RTM_NEWQDISC, tc(8), vec![Event::Tc(8)]),
            (RTM_DELTFILTER, tc(8), vec![Event::Tc(8)]),
            (netlink_packet_core::NLMSG_NOOP, vec![], vec![]),
            (48, tc(8), vec![]),
        ] {
            assert_eq!(read(&message(kind, 0, &payload)), (expected, false), "type {kind}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_overrun() {
        assert_eq!(read(&message(RTM_NEWTFILTER, 0, &tc(TCM_IFINDEX_MAGIC_BLOCK))), (vec![], true));
        assert_eq!(read(&message(NLMSG_OVERRUN, 0, &[])), (vec![], true));
        assert_eq!(read(&[1, 2, 3]), (vec![], true));
        assert_eq!(read(&message(RTM_NEWVLAN, 0, &[7, 0, 0, 0])), (vec![], true));
        assert_eq!(read(&message(RTM_NEWLINK, 0, &[0; 12])), (vec![], true));
        assert_eq!(read(&message(RTM_NEWNEIGH, 0, &neighbour(AF_BRIDGE)[..20])), (vec![], true));
        assert_eq!(read(&message(RTM_NEWQDISC, 0, &[0; 7])), (vec![], true));
    }

    #[test]
    fn an_event_comes_once() {
        let twice =
            [message(RTM_NEWQDISC, 0, &tc(8)), message(RTM_DELQDISC, 0, &tc(9)), message(RTM_NEWQDISC, 0, &tc(8))];
        assert_eq!(read(&twice.concat()), (vec![Event::Tc(8), Event::Tc(9)], false));
    }
}
