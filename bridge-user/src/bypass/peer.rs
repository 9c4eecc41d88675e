//! The far end of a port that is one end of a pair (veth, netkit): generic XDP programs there, its address, and whether it can
//! be handed frames directly.
//!
//! A frame that a tc program redirects is marked, and the mark stays on it while it goes through the pair (`veth_xmit`,
//! `skb_scrub_packet`). The kernel runs no generic XDP program on marked frames (`skb_is_redirected` in
//! `netif_receive_generic_xdp`): a program at the far end, often in a container that filters for itself, would no longer
//! see what the bridge used to send there. Native programs run on all frames.
//!
//! Frames that `bpf_redirect_peer` hands to the far end would pass by its native programs, too. When one is attached or taken off,
//! the near end's features change (`veth_xdp_set`), which is announced.
//!
//! The far end may be in another namespace, whose events are not heard here. The kernel answers a question about it
//! (`IFLA_TARGET_NETNSID`), since it numbers the namespaces that a device of this one leads to.

use std::io;

use super::nl::{Attributes, Netlink, push_attribute};
use crate::{
    model::{FarEnd, IfIndex, Link},
    netlink::uapi::{
        IFLA_ADDRESS, IFLA_EXT_MASK, IFLA_TARGET_NETNSID, IFLA_XDP, IFLA_XDP_ATTACHED, IFLA_XDP_SKB_PROG_ID,
        RTM_GETLINK, RTM_NEWLINK,
    },
};

/// `struct ifinfomsg` in bytes, and the offset of the index in it.
const IFINFOMSG: usize = 16;
const INDEX: usize = 4;
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATS: u32 = 1 << 3;

/// Kinds of devices that come in pairs and whose `IFLA_LINK` is the other one.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// What a link message says of the far end.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    /// Id of its generic XDP program.
    program: Option<u32>,
    /// `IFLA_XDP_ATTACHED` is not 0: some program is attached, in whatever mode.
    has_xdp: bool,
    address: Option<[u8; 6]>,
}

/// What there is at the far end of a port.
#[derive(Debug, Default)]
pub(super) struct Far {
    /// The generic XDP program there.
    pub(super) generic_xdp: Option<String>,
    /// The far end, if it is in another namespace.
    pub(super) elsewhere: Option<FarEnd>,
}

/// Where the far end of a pair is: its interface index, and this namespace's number for its namespace; `None`: this one.
pub(super) type Peer = (IfIndex, Option<i32>);

/// Where the far end of a device is, if it is one end of a pair.
pub(super) fn peer(link: &Link) -> Option<Peer> {
    let is_pair = link.kind.as_deref().is_some_and(|kind| PAIRS.contains(&kind));
    link.lower.filter(|_| is_pair).map(|peer| (peer, link.lower_namespace))
}

/// Looks at the far end of a port. There is nothing where it is gone.
pub(super) fn far_end(netlink: &mut Netlink, (peer, namespace): Peer) -> io::Result<Far> {
    let Some(end) = link(netlink, peer, namespace)? else { return Ok(Far::default()) };
    Ok(Far {
        generic_xdp: end.program.map(|id| format!("generic XDP program {id} at the far end")),
        elsewhere: end.address.filter(|_| namespace.is_some()).map(|mac| FarEnd { mac, has_xdp: end.has_xdp }),
    })
}

/// Asks for one device; `None` if it is gone, or its namespace.
fn link(netlink: &mut Netlink, device: IfIndex, namespace: Option<i32>) -> io::Result<Option<End>> {
    let mut request = vec![0; IFINFOMSG];
    request[INDEX..INDEX + 4].copy_from_slice(&device.to_ne_bytes());
    push_attribute(&mut request, IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    if let Some(namespace) = namespace {
        push_attribute(&mut request, IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
    }
    match netlink.one(RTM_GETLINK, &request, decode) {
        Ok(found) => Ok(found),
        // rtnl_getlink; rtnl_get_net_ns_capable where the namespace has just ended.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<End>> {
    if kind != RTM_NEWLINK {
        return Ok(None);
    }
    let attributes = Attributes::after(IFINFOMSG, payload)?;
    let xdp = attributes.nest(IFLA_XDP)?;
    Ok(Some(End {
        program: xdp.u32(IFLA_XDP_SKB_PROG_ID).filter(|id| *id != 0),
        has_xdp: xdp.get(IFLA_XDP_ATTACHED).is_some_and(|mode| mode != [0]),
        address: attributes.get(IFLA_ADDRESS).and_then(|address| address.try_into().ok()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nest(kind: u16, inner: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, kind, inner);
        bytes
    }

    fn message() -> Vec<u8> {
        let mut bytes = vec![0; IFINFOMSG];
        push_attribute(&mut bytes, IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]);
        let attached = [nest(IFLA_XDP_ATTACHED, &[2]), nest(IFLA_XDP_SKB_PROG_ID, &42_u32.to_ne_bytes())].concat();
        push_attribute(&mut bytes, IFLA_XDP, &attached);
        bytes
    }

    #[test]
    fn a_link_tells_of_its_program() {
        let end = decode((RTM_NEWLINK, &message())).unwrap();
        let address = Some([2, 0, 0, 0, 0, 1]);
        let wanted = End { program: Some(42), has_xdp: true, address };
        assert_eq!(end, Some(wanted));
        assert_eq!(decode((RTM_NEWLINK, &[0; IFINFOMSG])).unwrap(), Some(End::default()));
        assert_eq!(decode((3, &message())).unwrap(), None);
    }

    #[test]
    fn only_pairs_have_a_far_end() {
        let link = |kind: &str| Link { kind: Some(kind.into()), lower: Some(7), ..Link::default() };
        assert_eq!(peer(&link("veth")), Some((7, None)));
        assert_eq!(peer(&Link { lower_namespace: Some(3), ..link("netkit") }), Some((7, Some(3))));
        assert_eq!(peer(&link("vlan")), None);
        assert_eq!(peer(&Link { lower: None, ..link("veth") }), None);
    }

    #[test]
    fn truncated_messages_do_not_panic() {
        let bytes = message();
        for end in 0..bytes.len() {
            let _ = decode((RTM_NEWLINK, &bytes[..end]));
        }
    }
}
