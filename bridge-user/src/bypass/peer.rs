//! Generic XDP programs at the far end of a port that is one end of a pair (veth, netkit).
//!
//! A frame that a tc program redirects is marked, and the mark stays on it while it goes through the pair (`veth_xmit`,
//! `skb_scrub_packet`). The kernel runs no generic XDP program on marked frames (`skb_is_redirected` in
//! `netif_receive_generic_xdp`): a program at the far end, often in a container that filters for itself, would no longer
//! see what the bridge used to send there. Native programs run on all frames.
//!
//! The far end may be in another namespace, whose events are not heard here. The kernel answers a question about it
//! (`IFLA_TARGET_NETNSID`), since it numbers the namespaces that a device of this one leads to.

use std::io;

use super::nl::{Attributes, Netlink, push_attribute};
use crate::model::IfIndex;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg` in bytes, and the offset of the index in it.
const IFINFOMSG: usize = 16;
const INDEX: usize = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATS: u32 = 1 << 3;

/// Kinds of devices that come in pairs and whose `IFLA_LINK` is the other one.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// What a link message says.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    pair: bool,
    peer: Option<IfIndex>,
    /// The namespace of the peer, by this namespace's number for it; `None`: this one.
    namespace: Option<i32>,
    /// Id of its generic XDP program.
    program: Option<u32>,
}

/// Names the generic XDP program at the far end of a port. None where the port is no pair, or either end is gone.
pub(super) fn generic_xdp(netlink: &mut Netlink, port: IfIndex) -> io::Result<Option<String>> {
    let Some(End { pair: true, peer: Some(peer), namespace, .. }) = link(netlink, port, None)? else {
        return Ok(None);
    };
    let program = link(netlink, peer, namespace)?.and_then(|end| end.program);
    Ok(program.map(|id| format!("generic XDP program {id} at the far end")))
}

/// Asks for one device; `None` if it is gone, or its namespace.
fn link(netlink: &mut Netlink, device: IfIndex, namespace: Option<i32>) -> io::Result<Option<End>> {
    let mut request = vec![0; IFINFOMSG];
    request[INDEX..INDEX + 4].copy_from_slice(&device.to_ne_bytes());
    push_attribute(&mut request, IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    if let Some(namespace) = namespace {
        push_attribute(&mut request, IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
    }
    match netlink.request(RTM_GETLINK, &request, decode) {
        Ok(found) => Ok(found.into_iter().next()),
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
    let kind = attributes.nest(IFLA_LINKINFO)?.text(IFLA_INFO_KIND).unwrap_or_default();
    Ok(Some(End {
        pair: PAIRS.contains(&kind.as_str()),
        peer: attributes.u32(IFLA_LINK).filter(|peer| *peer != 0),
        namespace: attributes.u32(IFLA_LINK_NETNSID).map(u32::cast_signed),
        program: attributes.nest(IFLA_XDP)?.u32(IFLA_XDP_SKB_PROG_ID).filter(|id| *id != 0),
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
        push_attribute(&mut bytes, IFLA_LINK, &7_u32.to_ne_bytes());
        push_attribute(&mut bytes, IFLA_LINK_NETNSID, &3_i32.to_ne_bytes());
        push_attribute(&mut bytes, IFLA_LINKINFO, &nest(IFLA_INFO_KIND, b"veth\0"));
        push_attribute(&mut bytes, IFLA_XDP, &nest(IFLA_XDP_SKB_PROG_ID, &42_u32.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_link_tells_of_its_peer_and_of_its_program() {
        let end = decode((RTM_NEWLINK, &message())).unwrap();
        assert_eq!(end, Some(End { pair: true, peer: Some(7), namespace: Some(3), program: Some(42) }));
        assert_eq!(decode((RTM_NEWLINK, &[0; IFINFOMSG])).unwrap(), Some(End::default()));
        assert_eq!(decode((3, &message())).unwrap(), None);
    }

    #[test]
    fn truncated_messages_do_not_panic() {
        let bytes = message();
        for end in 0..bytes.len() {
            let _ = decode((RTM_NEWLINK, &bytes[..end]));
        }
    }
}
