//! Datagrams of rtnetlink as the kernel, or nobody, would send them: what must hold of whatever is read from them.

use std::collections::HashSet;

use super::{
    events::{self, Event},
    fdb, link, read_link, read_neighbour, read_vlans,
    uapi::{
        IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO, IFLA_XDP,
        RTM_DELNEIGH, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWVLAN,
    },
    vlandb,
    wire::{Message, messages, refusal, string_of},
};
use crate::model::{Link, Model};

/// Reads a datagram as the answer to every request and as a notification. The model is what a resync would have read.
pub fn read(datagram: &[u8]) -> Model {
    let mut model = Model::default();
    for message in messages(datagram) {
        let Ok(message) = message else { break };
        check_status(&message);
        if let Some(link) = read_link(&message) {
            check_link(&message, &link);
            model.links.insert(link.ifindex, link);
        }
        if message.kind == RTM_NEWVLAN {
            check_vlans(&message);
        }
        read_vlans(&mut model.vlans, &message);
        model.fdb.extend(read_neighbour(&message));
    }
    check_events(datagram);
    model
}

/// An answer is success only if it says so.
fn check_status(message: &Message<'_>) {
    let word = message.payload.first_chunk().map(|word| i32::from_ne_bytes(*word));
    for repeats_request in [true, false] {
        match (refusal(message, repeats_request), word) {
            (Ok(None), word) => assert_eq!(word, Some(0)),
            (Ok(Some(refusal)), word) => assert_eq!(word.map(i32::saturating_neg), Some(refusal.errno)),
            (Err(_), word) => assert_eq!(word, None),
        }
    }
}

/// A link with anything in it that cannot be read takes no fast path, neither as a port nor as a bridge.
fn check_link(message: &Message<'_>, link: &Link) {
    assert_eq!(message.kind, RTM_NEWLINK);
    assert_eq!(link::device(message.payload), Ok(link.ifindex));
    if !is_sound(link::body(message.payload)) {
        assert!(link.port.as_ref().is_none_or(|port| port.state.is_none()), "{link:?}");
        assert!(link.bridge.as_ref().is_none_or(|bridge| bridge.unknown_options == u32::MAX), "{link:?}");
    }
    assert!(link.bridge.is_none() || link.kind.as_deref() == Some("bridge"));
    assert!(!(link.physical && link.kind.is_some()), "hardware of a virtual kind");
    assert!(!link.xdp.contains(&0) && link.xdp.is_sorted());
}

/// Whether the attributes fill the bytes, and those of the nests that are read fill theirs.
fn is_sound(body: &[u8]) -> bool {
    let nests = |kind: u16, value: &[u8]| match kind {
        IFLA_XDP => walk(value).is_some(),
        IFLA_LINKINFO => walk(value).is_some_and(|info| {
            let last = |kind: u16| info.iter().rev().find(|(other, _)| *other == kind).map(|(_, value)| *value);
            let is_bridge = |kind: u16| last(kind).is_some_and(|name| string_of(name) == "bridge");
            let sound = |kind: u16| walk(last(kind).unwrap_or_default()).is_some();
            (!is_bridge(IFLA_INFO_KIND) || sound(IFLA_INFO_DATA))
                && (!is_bridge(IFLA_INFO_SLAVE_KIND) || sound(IFLA_INFO_SLAVE_DATA))
        }),
        _ => true,
    };
    walk(body).is_some_and(|attributes| attributes.iter().all(|(kind, value)| nests(*kind, value)))
}

/// The attributes in `bytes`, `None` where one does not fit. Written apart from the reader on purpose.
fn walk(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        attributes.push((u16::from_ne_bytes([c, d]) & 0x3fff, bytes.get(4..length)?));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(attributes)
}

/// Only VLANs that a bridge can have, and nothing at all of a message that cannot be read to its end.
fn check_vlans(message: &Message<'_>) {
    for range in vlandb::ranges(message.payload).into_iter().flatten() {
        assert!(0 < range.first && range.first <= range.last && range.last < 4095, "{range:?}");
    }
}

/// Each event comes once, and every change is told: by an event, or by saying that some are missing.
fn check_events(datagram: &[u8]) {
    let (found, overrun) = events::read(datagram);
    let told: HashSet<Event> = found.iter().copied().collect();
    assert_eq!(told.len(), found.len(), "{found:?}");
    for message in messages(datagram) {
        let Ok(message) = message else {
            assert!(overrun, "a message that cannot be read");
            break;
        };
        let event = match message.kind {
            RTM_NEWVLAN => vlandb::device(message.payload).map(Event::Vlan).ok(),
            RTM_NEWNEIGH | RTM_DELNEIGH => match fdb::decode(message.payload) {
                Ok(None) => continue,
                Ok(Some((key, _))) if message.kind == RTM_DELNEIGH => Some(Event::FdbGone(key)),
                Ok(Some((key, _))) => Some(Event::Fdb(key)),
                Err(_) => None,
            },
            _ => continue,
        };
        assert!(event.map_or(overrun, |event| told.contains(&event)), "{event:?} is not in {found:?}");
    }
}
