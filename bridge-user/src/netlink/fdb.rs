//! FDB entries: `AF_BRIDGE` neighbour messages (`fdb_fill_info`, alike in 6.1 and 6.12 but for `NDA_FLAGS_EXT`).

use netlink_packet_core::NLM_F_DUMP;

use super::{
    uapi::{
        AF_BRIDGE, NDA_CACHEINFO, NDA_FDB_EXT_ATTRS, NDA_FLAGS_EXT, NDA_LLADDR, NDA_MASTER, NDA_PROTOCOL, NDA_VLAN,
        NFEA_ACTIVITY_NOTIFY, NTF_EXT_LEARNED, NTF_EXT_LOCKED, NTF_OFFLOADED, NTF_SELF, NTF_STICKY, NUD_NOARP,
        NUD_PERMANENT, NUD_REACHABLE, NUD_STALE, RTM_GETNEIGH,
    },
    wire::{Malformed, Request, attributes, bytes, u8_of, u16_of, u32_at, u32_of},
};
use crate::model::{FdbEntry, FdbKey};

/// Length of `struct ndmsg`.
const HEADER: usize = 12;

/// A request for every entry of every bridge (`rtnl_fdb_dump`).
pub(super) fn dump() -> Request {
    Request::new(RTM_GETNEIGH, NLM_F_DUMP, &header())
}

/// A request for the one entry with this key (`rtnl_fdb_get`).
pub(super) fn get(key: &FdbKey) -> Request {
    let request = Request::new(RTM_GETNEIGH, 0, &header())
        .attribute(NDA_LLADDR, &key.mac)
        .attribute(NDA_MASTER, &key.bridge.to_ne_bytes());
    // `fdb_vid_parse` refuses VLAN 0; no attribute means the same.
    if key.vlan == 0 { request } else { request.attribute(NDA_VLAN, &key.vlan.to_ne_bytes()) }
}

/// A `struct ndmsg` with nothing but the family: strict checking wants the rest to be zero.
fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = AF_BRIDGE;
    header
}

/// Reads an `RTM_NEWNEIGH` or `RTM_DELNEIGH` message. `None`: it is no entry of a bridge.
///
/// A bridge's entries name it in `NDA_MASTER`, those of its own address included. Whatever a device keeps for itself
/// (vxlan's table, the unicast filter of a NIC: `NTF_SELF`) and other families are no bridge's.
pub(super) fn decode(payload: &[u8]) -> Result<Option<(FdbKey, FdbEntry)>, Malformed> {
    let header = payload.first_chunk::<HEADER>().ok_or(Malformed("a neighbour message's header"))?;
    let (state, flags) = (u16::from_ne_bytes([header[8], header[9]]), header[10]);
    if header[0] != AF_BRIDGE || flags & NTF_SELF != 0 {
        return Ok(None);
    }
    let mut entry = FdbEntry {
        port: u32_at(header, 4)?,
        local: state & NUD_PERMANENT != 0,
        is_static: state & (NUD_NOARP | NUD_PERMANENT) != 0,
        sticky: flags & NTF_STICKY != 0,
        extern_learn: flags & NTF_EXT_LEARNED != 0,
        locked: false,
        offloaded: flags & NTF_OFFLOADED != 0,
        watched: false,
        unknown: state & !(NUD_PERMANENT | NUD_NOARP | NUD_STALE | NUD_REACHABLE) != 0
            || flags & !(NTF_STICKY | NTF_EXT_LEARNED | NTF_OFFLOADED) != 0,
    };
    let (mut bridge, mut mac, mut vlan) = (None, None, 0);
    for attribute in attributes(&payload[HEADER..]) {
        let (kind, value) = attribute?;
        match kind {
            NDA_MASTER => bridge = Some(u32_of(value)?),
            NDA_LLADDR => mac = Some(value),
            NDA_VLAN => vlan = u16_of(value)?,
            NDA_FLAGS_EXT => {
                let flags = u32_of(value)?;
                entry.locked = flags & NTF_EXT_LOCKED != 0;
                entry.unknown |= flags & !NTF_EXT_LOCKED != 0;
            }
            // Ages and who made it: nothing that decides where a frame goes.
            NDA_CACHEINFO | NDA_PROTOCOL => {}
            NDA_FDB_EXT_ATTRS => {
                for attribute in attributes(value) {
                    match attribute? {
                        (NFEA_ACTIVITY_NOTIFY, value) => entry.watched = u8_of(value)? != 0,
                        _ => entry.unknown = true,
                    }
                }
            }
            _ => entry.unknown = true,
        }
    }
    let Some(bridge) = bridge else { return Ok(None) };
    let mac = bytes(mac.filter(|mac| mac.len() == 6).ok_or(Malformed("an FDB entry's address"))?)?;
    Ok(Some((FdbKey { bridge, vlan, mac }, entry)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wire::{messages, tests::attribute};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn neighbour(family: u8, port: u32, state: u16, flags: u8, body: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        bytes.extend(port.to_ne_bytes());
        bytes.extend(state.to_ne_bytes());
        bytes.extend([flags, 0]);
        bytes.extend(body.concat());
        bytes
    }

    fn body() -> Vec<Vec<u8>> {
        vec![
            attribute(NDA_LLADDR, &MAC),
            attribute(NDA_MASTER, &4_u32.to_ne_bytes()),
            attribute(NDA_FLAGS_EXT, &0_u32.to_ne_bytes()),
            attribute(NDA_CACHEINFO, &[0; 16]),
            attribute(NDA_VLAN, &10_u16.to_ne_bytes()),
        ]
    }

    fn read(state: u16, flags: u8, body: &[Vec<u8>]) -> FdbEntry {
        let (key, entry) = decode(&neighbour(AF_BRIDGE, 5, state, flags, body)).unwrap().unwrap();
        assert_eq!(key, FdbKey { bridge: 4, vlan: 10, mac: MAC });
        assert_eq!(entry.port, 5);
        FdbEntry { port: 0, ..entry }
    }

    #[test]
    fn states_and_flags() {
        let none = FdbEntry::default();
        assert_eq!(read(NUD_REACHABLE, 0, &body()), none);
        assert_eq!(read(NUD_STALE, 0, &body()), none);
        assert_eq!(read(NUD_NOARP, 0, &body()), FdbEntry { is_static: true, ..none });
        assert_eq!(read(NUD_PERMANENT, 0, &body()), FdbEntry { local: true, is_static: true, ..none });
        assert_eq!(read(NUD_REACHABLE, NTF_STICKY, &body()), FdbEntry { sticky: true, ..none });
        assert_eq!(read(NUD_REACHABLE, NTF_EXT_LEARNED, &body()), FdbEntry { extern_learn: true, ..none });
        assert_eq!(read(NUD_REACHABLE, NTF_OFFLOADED, &body()), FdbEntry { offloaded: true, ..none });
        assert_eq!(read(NUD_REACHABLE, 0x80, &body()), FdbEntry { unknown: true, ..none });
        assert_eq!(read(NUD_REACHABLE, 1, &body()), FdbEntry { unknown: true, ..none });
        assert_eq!(read(0x10, 0, &body()), FdbEntry { unknown: true, ..none });
    }

    #[test]
    fn extended_flags_and_unknown_attributes() {
        let none = FdbEntry::default();
        let mut flagged = body();
        flagged[2] = attribute(NDA_FLAGS_EXT, &NTF_EXT_LOCKED.to_ne_bytes());
        assert_eq!(read(NUD_REACHABLE, 0, &flagged), FdbEntry { locked: true, ..none });
        flagged[2] = attribute(NDA_FLAGS_EXT, &4_u32.to_ne_bytes());
        assert_eq!(read(NUD_REACHABLE, 0, &flagged), FdbEntry { unknown: true, ..none });
        flagged[2] = attribute(99, &[]);
        assert_eq!(read(NUD_REACHABLE, 0, &flagged), FdbEntry { unknown: true, ..none });
        flagged[2] = attribute(NDA_FDB_EXT_ATTRS | 0x8000, &attribute(NFEA_ACTIVITY_NOTIFY, &[1]));
        assert_eq!(read(NUD_REACHABLE, 0, &flagged), FdbEntry { watched: true, ..none });
        flagged[2] = attribute(NDA_FDB_EXT_ATTRS, &attribute(9, &[1]));
        assert_eq!(read(NUD_REACHABLE, 0, &flagged), FdbEntry { unknown: true, ..none });
    }

    #[test]
    fn only_entries_of_bridges() {
        assert_eq!(decode(&neighbour(2, 5, NUD_REACHABLE, 0, &body())), Ok(None));
        assert_eq!(decode(&neighbour(AF_BRIDGE, 5, NUD_PERMANENT, NTF_SELF, &body())), Ok(None));
        assert_eq!(decode(&neighbour(AF_BRIDGE, 5, NUD_PERMANENT, 0, &body()[..1])), Ok(None));
        assert!(decode(&neighbour(AF_BRIDGE, 5, NUD_PERMANENT, 0, &body()[1..])).is_err());
        let untagged = decode(&neighbour(AF_BRIDGE, 4, NUD_PERMANENT, 0, &body()[..4])).unwrap().unwrap();
        assert_eq!((untagged.0.vlan, untagged.1.port, untagged.1.local), (0, 4, true));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let whole = neighbour(AF_BRIDGE, 5, NUD_REACHABLE, 0, &body());
        for at in [12, 24, 32, 40, 60] {
            for length in [0, 1, 2, 3, u16::MAX] {
                let mut bytes = whole.clone();
                bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
                assert!(decode(&bytes).is_err(), "length {length} at {at}");
            }
        }
        // An address of another length is none.
        for length in [0, 1, 5, 7, 20] {
            let mut parts = body();
            parts[0] = attribute(NDA_LLADDR, &vec![2; length]);
            assert!(decode(&neighbour(AF_BRIDGE, 5, NUD_REACHABLE, 0, &parts)).is_err(), "{length} bytes of address");
        }
    }

    #[test]
    fn truncation_never_panics() {
        let whole = neighbour(AF_BRIDGE, 5, NUD_REACHABLE, 0, &body());
        // The last two bytes are padding.
        for length in 0..whole.len() - 2 {
            let read = decode(&whole[..length]);
            assert!(read.is_err() || [12, 24, 32, 40, 60, 22, 23].contains(&length), "length {length}: {read:?}");
        }
        for position in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut bytes = whole.clone();
                bytes[position] = value;
                let _ = decode(&bytes);
            }
        }
    }

    #[test]
    fn a_request_names_the_vlan_only_if_there_is_one() {
        for (vlan, expected) in [(0, 2), (10, 3)] {
            let bytes = get(&FdbKey { bridge: 4, vlan, mac: MAC }).finish(1);
            let request = messages(&bytes).next().unwrap().unwrap();
            assert_eq!(attributes(&request.payload[HEADER..]).count(), expected);
        }
    }
}
