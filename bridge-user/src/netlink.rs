//! Reads the kernel's state over rtnetlink: [`Requests`] asks for it, [`Events`] says what has changed.
//!
//! The two have sockets of their own, so that a notification never stands between a request and its answer. Both belong
//! to the network namespace of the thread that made them.

use std::{collections::BTreeMap, io};

use log::warn;
use netlink_packet_core::NLM_F_DUMP;

mod channel;
mod events;
mod fdb;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod link;
pub(crate) mod uapi;
mod vlandb;
mod wire;

use channel::{Channel, refused};
pub use events::{Event, Events};
use uapi::{RTM_GETLINK, RTM_GETVLAN, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWVLAN};
use wire::{Message, Request};

use crate::model::{FdbEntry, FdbKey, IfIndex, Link, VlanRange};

/// How many single requests are under way at once: as many as fit into the socket's buffer as answers.
const PIPELINE: usize = 32;

/// What went wrong between xbr and rtnetlink.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket cannot be set up.
    #[error("cannot {what} a netlink socket: {error}; rtnetlink of Linux 6.1 or later is needed")]
    Socket {
        /// The step that failed.
        what: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// Sending or receiving failed.
    #[error("netlink: {request}: {error}; a new attempt uses a new socket")]
    Transfer {
        /// What was asked for.
        request: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// The kernel refused the request.
    #[error("netlink: the kernel refuses {request}: {error}{text}")]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// The kernel's error number.
        error: io::Error,
        /// ": " and the kernel's own explanation, or nothing.
        text: String,
    },
    /// No answer within two seconds.
    #[error("netlink: no answer to {request} within 2 s; something holds the kernel's rtnl lock, try again")]
    Timeout {
        /// What was asked for.
        request: &'static str,
    },
    /// The objects changed during each of several dumps.
    #[error("netlink: {request} kept changing while it was read; try again when the configuration is at rest")]
    Interrupted {
        /// What was asked for.
        request: &'static str,
    },
    /// The answer is not netlink as xbr knows it.
    #[error("netlink: the answer to {request} is unreadable: {what}")]
    Malformed {
        /// What was asked for.
        request: &'static str,
        /// Which part.
        what: String,
    },
}

/// The module's results.
pub type Result<T> = std::result::Result<T, NetlinkError>;

/// Asks the kernel for the state of links, VLANs and FDB entries. Blocks, for two seconds at most per answer.
///
/// After an error the next call starts afresh, in the namespace of the thread that makes it.
pub struct Requests {
    channel: Channel,
}

impl Requests {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn new() -> Result<Self> {
        Ok(Self { channel: Channel::open()? })
    }

    /// Every link of the namespace (`rtnl_dump_ifinfo`).
    ///
    /// A device that cannot be read in full is there nevertheless, as one that takes no fast path.
    pub fn links(&mut self) -> Result<BTreeMap<IfIndex, Link>> {
        let request = Request::new(RTM_GETLINK, NLM_F_DUMP, &link::header(None));
        self.channel.dump("the list of links", &request, |links: &mut BTreeMap<_, _>, message| {
            if let Some(link) = read_link(message) {
                links.insert(link.ifindex, link);
            }
        })
    }

    /// One link (`rtnl_getlink`); `None` where there is none with this index.
    pub fn link(&mut self, ifindex: IfIndex) -> Result<Option<Link>> {
        const NAME: &str = "a link";
        let mut answer = Ok(None);
        // Strict checking refuses index 0 as malformed; no link has it.
        if ifindex != 0 {
            let request = Request::new(RTM_GETLINK, 0, &link::header(Some(ifindex)));
            self.channel.ask(NAME, &[request], |_, reply| answer = reply.map(read_link))?;
        }
        match answer {
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Err(refusal) => Err(refused(NAME, refusal)),
            Ok(link) => Ok(link),
        }
    }

    /// VLAN memberships of all bridges and ports, with their state (`br_vlan_rtm_dump`), by device and in rising order.
    ///
    /// Bridges that do not filter have them as well. A device without VLANs has an empty list, one that is neither bridge
    /// nor port is missing. Empty where the kernel has no VLAN filtering or no bridge has ever been made.
    pub fn vlans(&mut self) -> Result<BTreeMap<IfIndex, Vec<VlanRange>>> {
        self.dump_vlans(None)
    }

    /// VLAN memberships of one device; `None` where it is gone or is neither bridge nor port.
    pub fn vlans_of(&mut self, ifindex: IfIndex) -> Result<Option<Vec<VlanRange>>> {
        match self.dump_vlans(Some(ifindex)) {
            Ok(mut vlans) => Ok(vlans.remove(&ifindex)),
            // br_vlan_dump_dev: EINVAL is "neither bridge nor port".
            Err(NetlinkError::Refused { error, .. })
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn dump_vlans(&mut self, device: Option<IfIndex>) -> Result<BTreeMap<IfIndex, Vec<VlanRange>>> {
        let request = Request::new(RTM_GETVLAN, NLM_F_DUMP, &vlandb::header(device));
        let dumped = self.channel.dump("the VLANs of bridge ports", &request, read_vlans);
        match dumped {
            // No handler: the kernel was built without CONFIG_BRIDGE_VLAN_FILTERING, or the bridge module is not loaded.
            Err(NetlinkError::Refused { error, .. }) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(BTreeMap::new())
            }
            other => other,
        }
    }

    /// The FDB entries of all bridges (`rtnl_fdb_dump`).
    ///
    /// The kernel counts entries to know where to go on, so that one that is deleted during the dump may hide another.
    /// What is missing only takes the slow path.
    pub fn fdb(&mut self) -> Result<Vec<(FdbKey, FdbEntry)>> {
        self.channel.dump("the FDB", &fdb::dump(), |entries: &mut Vec<_>, message| {
            entries.extend(read_neighbour(message));
        })
    }

    /// What each of these entries is now (`rtnl_fdb_get`, `br_fdb_get`), in the order of `keys`; `None`: it is no more.
    pub fn fdb_entries(&mut self, keys: &[FdbKey]) -> Result<Vec<Option<FdbEntry>>> {
        const NAME: &str = "an FDB entry";
        let mut entries = vec![None; keys.len()];
        for (keys, entries) in keys.chunks(PIPELINE).zip(entries.chunks_mut(PIPELINE)) {
            let requests: Vec<_> = keys.iter().map(fdb::get).collect();
            let mut failure = None;
            self.channel.ask(NAME, &requests, |index, reply| match reply {
                Ok(message) => {
                    // A bridge's index may have gone to a device that answers out of a table of its own: compare.
                    entries[index] =
                        read_neighbour(message).filter(|(key, _)| *key == keys[index]).map(|(_, entry)| entry);
                }
                // No such entry; no such device (EINVAL "Invalid master ifindex", older ENODEV); a device without a table.
                Err(refusal)
                    if matches!(refusal.errno, libc::ENOENT | libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP) => {}
                Err(refusal) => failure = Some(refusal),
            })?;
            if let Some(refusal) = failure {
                return Err(refused(NAME, refusal));
            }
        }
        Ok(entries)
    }
}

/// The link of a message, if it is one.
fn read_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    link::decode(message.payload).inspect_err(|malformed| warn!("netlink: {malformed}; a link is ignored")).ok()
}

/// Adds the VLANs of a message, if it has any, to those of its device.
fn read_vlans(vlans: &mut BTreeMap<IfIndex, Vec<VlanRange>>, message: &Message<'_>) {
    if message.kind != RTM_NEWVLAN {
        return;
    }
    let Ok(device) = vlandb::device(message.payload) else {
        warn!("netlink: a VLAN message without header is ignored");
        return;
    };
    let ranges = vlandb::ranges(message.payload).unwrap_or_else(|malformed| {
        // Without a membership nothing is forwarded: the bridge does it.
        warn!("netlink: VLANs of device {device}: {malformed}; they stay on the slow path");
        Vec::new()
    });
    vlans.entry(device).or_default().extend(ranges);
}

/// The bridge's FDB entry of a message, if it is one.
fn read_neighbour(message: &Message<'_>) -> Option<(FdbKey, FdbEntry)> {
    if message.kind != RTM_NEWNEIGH {
        return None;
    }
    // A missing entry is slow, not wrong.
    fdb::decode(message.payload)
        .inspect_err(|malformed| warn!("netlink: {malformed}; an FDB entry is ignored"))
        .ok()
        .flatten()
}
