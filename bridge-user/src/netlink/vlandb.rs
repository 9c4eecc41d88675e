//! The bridge's VLAN database: `RTM_GETVLAN` dumps (`br_vlan_rtm_dump`) and `RTM_NEWVLAN`/`RTM_DELVLAN` notifications.
//!
//! A message is a `struct br_vlan_msg` (family, padding, ifindex: 8 bytes) and one `BRIDGE_VLANDB_ENTRY` for each run of
//! VLANs with equal settings (`br_vlan_fill_vids`). Dumps give the state and tunnel of each run on all kernels that xbr
//! supports (`br_vlan_opts_fill`, alike in 6.1 and 6.12); a device with many runs may need more than one message.

use super::{
    uapi::{
        AF_BRIDGE, BRIDGE_VLAN_INFO_KNOWN, BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_UNTAGGED, BRIDGE_VLANDB_ENTRY,
        BRIDGE_VLANDB_ENTRY_INFO, BRIDGE_VLANDB_ENTRY_LAST_KNOWN, BRIDGE_VLANDB_ENTRY_RANGE, BRIDGE_VLANDB_ENTRY_STATE,
        BRIDGE_VLANDB_ENTRY_TUNNEL_INFO,
    },
    wire::{Malformed, attributes, bytes, u8_of, u16_of, u32_at},
};
use crate::model::{IfIndex, VlanRange};

/// Length of `struct br_vlan_msg`.
const HEADER: usize = 8;
/// Highest VLAN id that a bridge takes: below `VLAN_VID_MASK` (`br_vlan_valid_id`).
const LAST_VID: u16 = 4094;

/// The `struct br_vlan_msg` of a request: all devices (`None`) or one.
pub(super) fn header(device: Option<IfIndex>) -> [u8; HEADER] {
    let [a, b, c, d] = device.unwrap_or(0).to_ne_bytes();
    [AF_BRIDGE, 0, 0, 0, a, b, c, d]
}

/// The device that a message is about.
pub(super) fn device(payload: &[u8]) -> Result<IfIndex, Malformed> {
    u32_at(payload, 4)
}

/// The VLANs of a message. Attributes that are not about a port's VLANs, global options among them, are skipped.
pub(super) fn ranges(payload: &[u8]) -> Result<Vec<VlanRange>, Malformed> {
    let body = payload.get(HEADER..).ok_or(Malformed("a VLAN message's header"))?;
    let mut ranges = Vec::new();
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        if kind == BRIDGE_VLANDB_ENTRY {
            ranges.push(entry(value)?);
        }
    }
    Ok(ranges)
}

/// One `BRIDGE_VLANDB_ENTRY`.
fn entry(nest: &[u8]) -> Result<VlanRange, Malformed> {
    let mut range = VlanRange::default();
    let mut unknown = false;
    for attribute in attributes(nest) {
        let (kind, value) = attribute?;
        match kind {
            BRIDGE_VLANDB_ENTRY_INFO => {
                // struct bridge_vlan_info: flags first, then the VLAN id, both in host order.
                let [flags_low, flags_high, vid_low, vid_high] = bytes(value)?;
                let flags = u16::from_ne_bytes([flags_low, flags_high]);
                range.first = u16::from_ne_bytes([vid_low, vid_high]);
                range.pvid = flags & BRIDGE_VLAN_INFO_PVID != 0;
                range.untagged = flags & BRIDGE_VLAN_INFO_UNTAGGED != 0;
                unknown |= flags & !BRIDGE_VLAN_INFO_KNOWN != 0;
            }
            BRIDGE_VLANDB_ENTRY_RANGE => range.last = u16_of(value)?,
            BRIDGE_VLANDB_ENTRY_STATE => range.state = Some(u8_of(value)?),
            // Only there when a tunnel is set (`__vlan_tun_put`); which one does not matter.
            BRIDGE_VLANDB_ENTRY_TUNNEL_INFO => range.tunnel = true,
            // A newer kernel's option: what it does to unicast is not known here, unless it is off.
            _ => unknown |= kind > BRIDGE_VLANDB_ENTRY_LAST_KNOWN && value.iter().any(|byte| *byte != 0),
        }
    }
    if unknown {
        // Not known to forward is no membership: the VLAN's frames go by the bridge.
        range.state = None;
    }
    // Without BRIDGE_VLANDB_ENTRY_RANGE the entry is a single VLAN.
    if range.last == 0 {
        range.last = range.first;
    }
    if range.first == 0 || range.last < range.first || range.last > LAST_VID {
        return Err(Malformed("a VLAN range"));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as a little-endian kernel 6.12 dumps it for a port with PVID 1 untagged, VLANs 10-20 tagged (with
    /// `neigh_suppress` and multicast router attributes), and VLAN 30 blocking with a tunnel.
    #[rustfmt::skip]
    const DUMPED: &[u8] = &[
        7, 0, 0, 0, 5, 0, 0, 0,                        // AF_BRIDGE, ifindex 5
        32, 0, 1, 128,                                 // ENTRY, nested
            8, 0, 1, 0, 6, 0, 1, 0,                    // INFO: PVID|UNTAGGED, vid 1
            5, 0, 3, 0, 3, 0, 0, 0,                    // STATE forwarding
            5, 0, 9, 0, 0, 0, 0, 0,                    // NEIGH_SUPPRESS 0
            4, 0, 200, 0,                              // an attribute of the future
        40, 0, 1, 128,
            8, 0, 1, 0, 0, 0, 10, 0,                   // INFO: no flags, vid 10
            6, 0, 2, 0, 20, 0, 0, 0,                   // RANGE up to 20
            5, 0, 3, 0, 3, 0, 0, 0,
            5, 0, 9, 0, 1, 0, 0, 0,
            4, 0, 6, 0,                                // MCAST_ROUTER without value: not read
        8, 0, 77, 0, 1, 2, 3, 4,                       // an attribute of the future
        32, 0, 1, 0,                                   // ENTRY without the nested flag
            8, 0, 1, 0, 0, 0, 30, 0,                   // INFO: vid 30
            5, 0, 3, 0, 4, 0, 0, 0,                    // STATE blocking
            12, 0, 4, 128, 8, 0, 1, 0, 100, 0, 0, 0,   // TUNNEL_INFO id 100
    ];

    #[cfg(target_endian = "little")]
    #[test]
    fn a_dumped_message_is_read() {
        assert_eq!(device(DUMPED), Ok(5));
        let forwarding = VlanRange { state: Some(3), ..VlanRange::default() };
        assert_eq!(
            ranges(DUMPED).unwrap(),
            [
                VlanRange { first: 1, last: 1, pvid: true, untagged: true, ..forwarding },
                VlanRange { first: 10, last: 20, ..forwarding },
                VlanRange { first: 30, last: 30, state: Some(4), tunnel: true, ..VlanRange::default() },
            ]
        );
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn truncation_is_an_error_or_a_prefix() {
        let whole = ranges(DUMPED).unwrap();
        for length in 0..DUMPED.len() {
            match ranges(&DUMPED[..length]) {
                // Only a cut between two attributes looks like a shorter message.
                Ok(read) => {
                    assert!(matches!(length, 8 | 40 | 80 | 88), "length {length}");
                    assert!(whole.starts_with(&read));
                }
                Err(malformed) => assert!(malformed.to_string().contains("cut short"), "length {length}"),
            }
            assert_eq!(device(&DUMPED[..length]).is_ok(), length >= 8, "length {length}");
        }
    }

    #[test]
    fn every_single_byte_may_be_wrong() {
        for position in 0..DUMPED.len() {
            for value in 0..=u8::MAX {
                let mut bytes = DUMPED.to_vec();
                bytes[position] = value;
                if let Ok(read) = ranges(&bytes) {
                    assert!(
                        read.iter().all(|range| 0 < range.first && range.first <= range.last && range.last <= LAST_VID)
                    );
                }
            }
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn impossible_lengths_are_refused() {
        // The entries, and what is in the first.
        for at in [8, 12, 20, 28, 36, 40, 80, 88] {
            for length in [0, 1, 2, 3, 200] {
                let mut bytes = DUMPED.to_vec();
                bytes[at] = length;
                assert!(ranges(&bytes).is_err(), "length {length} at {at}");
            }
        }
    }

    #[test]
    fn what_a_newer_kernel_says_of_a_vlan_is_not_taken_for_forwarding() {
        use crate::netlink::wire::tests::attribute;
        let state = |flags: u16, more: Vec<u8>| {
            let info = [flags.to_ne_bytes(), 10_u16.to_ne_bytes()].concat();
            let nest = [attribute(BRIDGE_VLANDB_ENTRY_INFO, &info), attribute(BRIDGE_VLANDB_ENTRY_STATE, &[3]), more];
            let message = [header(Some(3)).to_vec(), attribute(BRIDGE_VLANDB_ENTRY, &nest.concat())].concat();
            ranges(&message).unwrap()[0].state
        };
        assert_eq!(state(0x7f, Vec::new()), Some(3));
        assert_eq!(state(0x80, Vec::new()), None);
        assert_eq!(state(0, attribute(BRIDGE_VLANDB_ENTRY_LAST_KNOWN, &[1])), Some(3));
        assert_eq!(state(0, attribute(BRIDGE_VLANDB_ENTRY_LAST_KNOWN + 1, &[0])), Some(3));
        assert_eq!(state(0, attribute(BRIDGE_VLANDB_ENTRY_LAST_KNOWN + 1, &[1])), None);
    }

    #[test]
    fn impossible_ranges_are_refused() {
        use crate::netlink::wire::tests::attribute;
        let message = |vid: u16, last: Option<u16>| {
            let mut info = vec![0, 0];
            info.extend(vid.to_ne_bytes());
            let mut nest = attribute(BRIDGE_VLANDB_ENTRY_INFO, &info);
            if let Some(last) = last {
                nest.extend(attribute(BRIDGE_VLANDB_ENTRY_RANGE, &last.to_ne_bytes()));
            }
            [header(Some(3)).to_vec(), attribute(BRIDGE_VLANDB_ENTRY, &nest)].concat()
        };
        assert!(ranges(&message(0, None)).is_err());
        assert!(ranges(&message(20, Some(10))).is_err());
        assert!(ranges(&message(20, Some(4095))).is_err());
        assert_eq!(ranges(&message(4094, Some(4094))).unwrap()[0].last, 4094);
        assert!(ranges(&[&header(None)[..], &attribute(BRIDGE_VLANDB_ENTRY, &[])].concat()).is_err());
        assert_eq!(ranges(&header(None)), Ok(Vec::new()));
    }
}
