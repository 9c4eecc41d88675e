//! What a device's driver can do with XDP, by the generic netlink family `netdev` (kernel 6.3 and later).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netlink_sys::protocols::NETLINK_GENERIC;

use super::nl::{Attributes, Netlink, push_attribute};
use crate::model::IfIndex;

/// `NETDEV_XDP_ACT_NDO_XMIT`: the device takes frames from XDP programs. On a veth the kernel sets it while the peer can
/// receive them (`veth_set_xdp_features`).
pub const NDO_XMIT: u64 = 4;

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// More devices than this are cheaper as a dump.
const FEW: usize = 16;
/// `struct genlmsghdr` in bytes.
const GENLMSGHDR: usize = 4;

/// Reads the `NETDEV_XDP_ACT_*` bits of these devices, in the namespace of the calling thread. Devices that are gone are
/// left out; the map is empty where the kernel has no such family.
pub fn xdp_features(devices: &[IfIndex]) -> io::Result<BTreeMap<IfIndex, u64>> {
    Features::open()?.read(&devices.iter().copied().collect())
}

/// The family, with a socket.
pub(super) struct Features {
    netlink: Netlink,
    family: Option<u16>,
}

impl Features {
    /// Looks the family up, once: the kernel may try to load a module for an unknown family (`ctrl_getfamily`).
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let mut request = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        push_attribute(&mut request, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let family = match netlink.request(CONTROL, &request, |(_, payload)| {
            Ok(Attributes::after(GENLMSGHDR, payload)?.u16(CTRL_ATTR_FAMILY_ID))
        }) {
            Ok(found) => found.first().copied(),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { netlink, family })
    }

    /// Reads the bits of these devices.
    pub(super) fn read(&mut self, devices: &BTreeSet<IfIndex>) -> io::Result<BTreeMap<IfIndex, u64>> {
        let Some(family) = self.family else {
            return Ok(BTreeMap::new());
        };
        if devices.len() <= FEW {
            return self.read_few(family, devices);
        }
        let rows = self.netlink.dump(family, &[NETDEV_CMD_DEV_GET, 1, 0, 0], decode)?;
        Ok(rows.into_iter().filter(|(device, _)| devices.contains(device)).collect())
    }

    /// As [`Self::read`], each by itself: the dump has all devices of the namespace.
    fn read_few(&mut self, family: u16, devices: &BTreeSet<IfIndex>) -> io::Result<BTreeMap<IfIndex, u64>> {
        let mut found = BTreeMap::new();
        for device in devices {
            let mut request = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
            push_attribute(&mut request, NETDEV_A_DEV_IFINDEX, &device.to_ne_bytes());
            match self.netlink.one(family, &request, decode) {
                Ok(row) => found.extend(row),
                // netdev_nl_dev_get_doit: it is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Decodes `netdev_nl_dev_fill`.
pub(super) fn decode((_, payload): (u16, &[u8])) -> io::Result<Option<(IfIndex, u64)>> {
    let attributes = Attributes::after(GENLMSGHDR, payload)?;
    Ok(attributes.u32(NETDEV_A_DEV_IFINDEX).zip(attributes.u64(NETDEV_A_DEV_XDP_FEATURES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_needs_both_numbers() {
        let mut bytes = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
        push_attribute(&mut bytes, NETDEV_A_DEV_IFINDEX, &3_u32.to_ne_bytes());
        assert_eq!(decode((0, &bytes)).unwrap(), None);
        push_attribute(&mut bytes, NETDEV_A_DEV_XDP_FEATURES, &0x27_u64.to_ne_bytes());
        assert_eq!(decode((0, &bytes)).unwrap(), Some((3, 0x27)));
        for end in 0..bytes.len() {
            let _ = decode((0, &bytes[..end]));
        }
    }
}
