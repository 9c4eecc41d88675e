//! The clsact qdisc and the filters on it, for kernels without tcx (before 6.6).
//!
//! There a filter has no link that would die with its process: what a crashed instance leaves behind stays attached until
//! somebody deletes it. Everything here speaks rtnetlink on a blocking socket of its own, in the network namespace of the
//! calling thread, and takes well under a millisecond on a host of ordinary size.

use std::io;

use log::debug;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcHeader, TcMessage},
};

use self::rtnl::{Attributes, Rtnl};
use crate::{
    model::IfIndex,
    netlink::uapi::{RTM_NEWQDISC, RTM_NEWTFILTER, TCA_BPF_ID, TCA_BPF_NAME, TCA_CHAIN, TCA_KIND, TCA_OPTIONS},
};

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod rtnl;
#[cfg(test)]
mod tests;

const CLSACT: &str = "clsact";
const INGRESS: &str = "ingress";
const BPF: &str = "bpf";

/// `TC_H_CLSACT` and `TC_H_INGRESS` are one number: a device has one of the two qdiscs at most.
const PARENT: TcHandle = TcHandle::CLSACT;
/// The parents of the filters on either side of clsact.
const INGRESS_SIDE: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
const EGRESS_SIDE: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_EGRESS };

/// The names of xbr's programs begin with this.
const OWN_NAME: &str = "xbr_";

/// Why the clsact qdisc of a device could not be handled. One line that names the device.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// The older `ingress` qdisc is where clsact has to go.
    #[error(
        "{device}: an ingress qdisc is where clsact has to go; remove it (tc qdisc del dev {device} ingress) \
         or leave the port out (--hook {device}=off)"
    )]
    Ingress {
        /// The name of the device.
        device: String,
    },
    /// The kernel was built without the qdisc, or its module cannot be loaded.
    #[error("{device}: the kernel has no clsact qdisc; load the module sch_ingress")]
    Unknown {
        /// The name of the device.
        device: String,
    },
    /// A request failed.
    #[error("{device}: cannot {doing}: {source}")]
    Request {
        /// The name of the device, or its index if it has none any more.
        device: String,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Gives the device a clsact qdisc. Returns true if it was added, false if there was one.
///
/// # Errors
/// [`ClsactError::Ingress`] if an `ingress` qdisc holds its place; else what the kernel answers.
pub fn ensure(ifindex: IfIndex) -> Result<bool, ClsactError> {
    let failed = failure(ifindex, "add a clsact qdisc");
    let mut rtnl = Rtnl::open().map_err(&failed)?;
    let mut message = tc_message(ifindex, PARENT);
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    let added = rtnl.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL);
    match added {
        Ok(()) => Ok(true),
        // tc_modify_qdisc answers so whatever the qdisc in that place is.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            match qdisc(&mut rtnl, ifindex).map_err(&failed)?.as_deref() {
                Some(CLSACT) => Ok(false),
                Some(INGRESS) => Err(ClsactError::Ingress { device: device_name(ifindex) }),
                _ => Err(failed(error)),
            }
        }
        // qdisc_create knows no qdisc of that name.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Err(ClsactError::Unknown { device: device_name(ifindex) })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Deletes the clsact qdisc of the device if neither of its sides has a filter. A device that is gone, or has none, is no
/// error.
///
/// The kernel offers no way to do both at once: a filter that somebody adds between the look and the deletion is lost.
pub fn remove_if_empty(ifindex: IfIndex) -> Result<(), ClsactError> {
    let failed = failure(ifindex, "delete the clsact qdisc");
    let mut rtnl = Rtnl::open().map_err(&failed)?;
    if qdisc(&mut rtnl, ifindex).map_err(&failed)?.as_deref() != Some(CLSACT) {
        return Ok(());
    }
    for side in [INGRESS_SIDE, EGRESS_SIDE] {
        let filters = rtnl
            .dump(&RouteNetlinkMessage::GetTrafficFilter(tc_message(ifindex, side)), |kind, _| {
                Ok((kind == RTM_NEWTFILTER).then_some(()))
            })
            .map_err(&failed)?;
        if !filters.is_empty() {
            debug!("{}: the clsact qdisc stays: somebody's filters are on it", device_name(ifindex));
            return Ok(());
        }
    }
    let mut message = tc_message(ifindex, PARENT);
    // The kernel compares the kind, so that an ingress qdisc that came meanwhile stays (tc_get_qdisc).
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    gone_is_fine(rtnl.change(RouteNetlinkMessage::DelQueueDiscipline(message), 0)).map_err(failed)
}

/// A BPF filter whose program is one of xbr's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The name that the filter was given: that of its program.
    pub name: String,
    /// The id of the program, as `bpftool prog` shows it.
    pub program: Option<u32>,
    /// Where the filter is: device, side, priority, protocol and handle.
    header: TcHeader,
    chain: u32,
}

/// The BPF filters on either side of the device's clsact qdisc whose name begins with `xbr_`. Whether they still
/// belong to a living instance is for the caller to know. None if the device, or its qdisc, is gone.
pub fn leftovers(ifindex: IfIndex) -> Result<Vec<Leftover>, ClsactError> {
    let failed = failure(ifindex, "list the filters of the clsact qdisc");
    let mut rtnl = Rtnl::open().map_err(&failed)?;
    own_filters(&mut rtnl, ifindex).map_err(failed)
}

/// Deletes what [`leftovers`] finds.
pub fn remove_leftovers(ifindex: IfIndex) -> Result<(), ClsactError> {
    let failed = failure(ifindex, "delete a filter that an earlier instance left on the clsact qdisc");
    let mut rtnl = Rtnl::open().map_err(&failed)?;
    for Leftover { name, program, header, chain } in own_filters(&mut rtnl, ifindex).map_err(&failed)? {
        let attributes = vec![TcAttribute::Kind(BPF.to_owned()), TcAttribute::Chain(chain)];
        let message = TcMessage::from_parts(header, attributes);
        gone_is_fine(rtnl.change(RouteNetlinkMessage::DelTrafficFilter(message), 0)).map_err(&failed)?;
        debug!("{}: deleted the filter {name} (program {})", device_name(ifindex), program.unwrap_or_default());
    }
    Ok(())
}

fn own_filters(rtnl: &mut Rtnl, ifindex: IfIndex) -> io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for side in [INGRESS_SIDE, EGRESS_SIDE] {
        let request = RouteNetlinkMessage::GetTrafficFilter(tc_message(ifindex, side));
        let own = |kind, payload: &[u8]| if kind == RTM_NEWTFILTER { own_filter(ifindex, payload) } else { Ok(None) };
        found.extend(rtnl.dump(&request, own)?);
    }
    Ok(found)
}

/// Reads one row of a filter dump; `None` if it is not a filter of xbr's.
fn own_filter(ifindex: IfIndex, payload: &[u8]) -> io::Result<Option<Leftover>> {
    let (header, attributes) = split(payload)?;
    // A row without a handle stands for all filters of one priority, and would delete them all. A block that several
    // devices share is shown without the device (tcf_fill_node): none of ours, and not ours to touch.
    if header.handle == TcHandle::UNSPEC || header.index != ifindex.cast_signed() {
        return Ok(None);
    }
    if attributes.text(TCA_KIND).as_deref() != Some(BPF) {
        return Ok(None);
    }
    let options = Attributes::parse(attributes.get(TCA_OPTIONS).unwrap_or_default())?;
    let Some(name) = options.text(TCA_BPF_NAME).filter(|name| name.starts_with(OWN_NAME)) else {
        return Ok(None);
    };
    let chain = attributes.number(TCA_CHAIN).unwrap_or_default();
    Ok(Some(Leftover { name, program: options.number(TCA_BPF_ID), header, chain }))
}

/// The kind of qdisc on the device's ingress: clsact, ingress, or none.
///
/// By a dump of all devices: the request for a single qdisc is answered on the multicast group as well
/// (`tc_get_qdisc` of 6.1), as if there had been a change.
fn qdisc(rtnl: &mut Rtnl, ifindex: IfIndex) -> io::Result<Option<String>> {
    let kinds = rtnl.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), |kind, payload| {
        let (header, attributes) = split(payload)?;
        let wanted = kind == RTM_NEWQDISC && header.index == ifindex.cast_signed() && header.parent == PARENT;
        Ok(attributes.text(TCA_KIND).filter(|_| wanted))
    })?;
    Ok(kinds.into_iter().next())
}

/// A request about one device.
fn tc_message(ifindex: IfIndex, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = parent;
    message
}

/// `struct tcmsg` and the attributes behind it. The attributes are not parsed by kind: a filter of a kind that nobody
/// asked about must not be able to spoil the dump.
fn split(payload: &[u8]) -> io::Result<(TcHeader, Attributes<'_>)> {
    const TCMSG: usize = 20;
    let header = TcHeader::parse(payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((header, Attributes::parse(payload.get(TCMSG..).unwrap_or_default())?))
}

/// A deletion of what is gone already has succeeded: the device (`ENODEV`), the qdisc, or the filter (`ENOENT`).
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

fn failure(ifindex: IfIndex, doing: &'static str) -> impl Fn(io::Error) -> ClsactError {
    move |source| ClsactError::Request { device: device_name(ifindex), doing, source }
}

fn device_name(ifindex: IfIndex) -> String {
    nix::net::if_::if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("device {ifindex}"))
}
