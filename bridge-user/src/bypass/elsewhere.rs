//! VLAN devices in other network namespaces that sit on devices of this one, as containers have them (`lxc.net.0.type = vlan`).
//!
//! Such a device takes the frames with its tag before the bridge sees them (`vlan_do_receive`), wherever it is. The lower
//! device does not tell, and nothing is announced in its namespace. But the kernel lists the devices of every namespace that
//! this one has a number for (`IFLA_TARGET_NETNSID`), and it gives a number when a device is moved there
//! (`__dev_change_net_namespace`) or a pair leads there. A device that was made directly in a namespace without a number is not
//! found.

use std::{collections::BTreeMap, io, path::Path};

use super::nl::{Attributes, Netlink, push_attribute};
use crate::{
    model::IfIndex,
    netlink::uapi::{
        IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_TARGET_NETNSID, NETNSA_NSID,
        NETNSA_PID, RTM_GETLINK, RTM_GETNSID, RTM_NEWLINK, RTM_NEWNSID,
    },
};

/// `struct ifinfomsg` and `struct rtgenmsg` (with its padding) in bytes.
const IFINFOMSG: usize = 16;
const RTGENMSG: usize = 4;
/// Where there is no such folder, the kernel has no VLAN devices (`vlan_proc_init`).
const VLANS: &str = "/proc/net/vlan";

/// A VLAN device in another namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upper {
    name: String,
    lower: IfIndex,
    /// The namespace of the lower device, by this namespace's number for it.
    namespace: i32,
}

impl Upper {
    /// What an operator reads.
    pub(super) fn text(&self) -> String {
        format!("{} of another network namespace", self.name.replace(char::is_control, "?"))
    }
}

/// The first VLAN device on each device of this namespace that is in another one.
pub(super) fn vlan_devices(netlink: &mut Netlink) -> io::Result<BTreeMap<IfIndex, String>> {
    if !Path::new(VLANS).exists() {
        return Ok(BTreeMap::new());
    }
    let mut found = Vec::new();
    for namespace in netlink.dump(RTM_GETNSID, &[0; RTGENMSG], decode_number)? {
        match netlink.dump(RTM_GETLINK, &request(namespace), decode) {
            Ok(uppers) => found.extend(uppers),
            // rtnl_get_net_ns_capable: it has just ended.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    if found.is_empty() {
        return Ok(BTreeMap::new());
    }
    // By then it has one: the kernel gives it when it tells of a device that has its lower one here.
    let here = own_number(netlink)?;
    let mut uppers = BTreeMap::new();
    for upper in found.into_iter().filter(|upper| Some(upper.namespace) == here) {
        uppers.entry(upper.lower).or_insert_with(|| upper.text());
    }
    Ok(uppers)
}

/// Asks for the VLAN devices of a namespace.
fn request(namespace: i32) -> Vec<u8> {
    let mut kind = Vec::new();
    push_attribute(&mut kind, IFLA_INFO_KIND, b"vlan");
    let mut request = vec![0; IFINFOMSG];
    push_attribute(&mut request, IFLA_TARGET_NETNSID, &namespace.to_ne_bytes());
    push_attribute(&mut request, IFLA_LINKINFO, &kind);
    request
}

/// The number that the namespace of the calling thread has in itself.
fn own_number(netlink: &mut Netlink) -> io::Result<Option<i32>> {
    let mut request = vec![0; RTGENMSG];
    push_attribute(&mut request, NETNSA_PID, &nix::unistd::gettid().as_raw().to_ne_bytes());
    Ok(netlink.request(RTM_GETNSID, &request, decode_number)?.into_iter().next())
}

/// The number in an answer, unless it is `NETNSA_NSID_NOT_ASSIGNED`.
pub(super) fn decode_number((kind, payload): (u16, &[u8])) -> io::Result<Option<i32>> {
    if kind != RTM_NEWNSID {
        return Ok(None);
    }
    let number = Attributes::after(RTGENMSG, payload)?.u32(NETNSA_NSID).map(u32::cast_signed);
    Ok(number.filter(|number| *number >= 0))
}

/// A VLAN device whose lower one is in another namespace than itself.
pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Upper>> {
    if kind != RTM_NEWLINK {
        return Ok(None);
    }
    let attributes = Attributes::after(IFINFOMSG, payload)?;
    // Also without the filter, which a kernel whose module was not loaded yet does not apply.
    let is_vlan = attributes.nest(IFLA_LINKINFO)?.text(IFLA_INFO_KIND).is_some_and(|kind| kind == "vlan");
    let (Some(lower), Some(namespace), true) = (attributes.u32(IFLA_LINK), attributes.u32(IFLA_LINK_NETNSID), is_vlan)
    else {
        return Ok(None);
    };
    let name = attributes.text(IFLA_IFNAME).unwrap_or_default();
    Ok(Some(Upper { name, lower, namespace: namespace.cast_signed() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &[u8], namespace: Option<i32>) -> Vec<u8> {
        let mut bytes = vec![0; IFINFOMSG];
        push_attribute(&mut bytes, IFLA_IFNAME, b"eth0.10\0");
        push_attribute(&mut bytes, IFLA_LINK, &7_u32.to_ne_bytes());
        if let Some(namespace) = namespace {
            push_attribute(&mut bytes, IFLA_LINK_NETNSID, &namespace.to_ne_bytes());
        }
        let mut info = Vec::new();
        push_attribute(&mut info, IFLA_INFO_KIND, kind);
        push_attribute(&mut bytes, IFLA_LINKINFO, &info);
        bytes
    }

    #[test]
    fn vlan_devices_with_a_lower_one_elsewhere_count() {
        let read = |bytes: &[u8]| decode((RTM_NEWLINK, bytes)).unwrap();
        let wanted = Upper { name: "eth0.10".into(), lower: 7, namespace: 3 };
        assert_eq!(read(&message(b"vlan\0", Some(3))), Some(wanted));
        assert_eq!(read(&message(b"veth\0", Some(3))), None);
        assert_eq!(read(&message(b"vlan\0", None)), None, "its lower device is where it is");
        assert_eq!(decode((3, &message(b"vlan\0", Some(3)))).unwrap(), None);
    }

    #[test]
    fn a_namespace_may_have_no_number() {
        let answer = |number: i32| {
            let mut bytes = vec![0; RTGENMSG];
            push_attribute(&mut bytes, NETNSA_NSID, &number.to_ne_bytes());
            decode_number((RTM_NEWNSID, &bytes)).unwrap()
        };
        assert_eq!((answer(0), answer(5), answer(-1)), (Some(0), Some(5), None));
        assert_eq!(decode_number((RTM_NEWLINK, &[0; 4])).unwrap(), None);
    }

    #[test]
    fn truncated_messages_do_not_panic() {
        let bytes = message(b"vlan\0", Some(3));
        for end in 0..bytes.len() {
            let _ = decode((RTM_NEWLINK, &bytes[..end]));
            let _ = decode_number((RTM_NEWNSID, &bytes[..end]));
        }
    }
}
