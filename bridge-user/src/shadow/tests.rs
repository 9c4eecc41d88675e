use bridge_common::shadow::{HEAD, Sight, WINDOW, edit_kind, flight_state};

use super::{
    judge::{Kind, Wire},
    *,
};

const IN: u32 = 3;
const OUT: u32 = 4;
const OTHER: u32 = 5;
const BRIDGE: u32 = 9;

struct Lab {
    watched: bool,
}

impl Scenery for Lab {
    fn name(&self, ifindex: IfIndex) -> Option<(String, String)> {
        let name = match ifindex {
            IN => "tap1",
            OUT => "eth0",
            OTHER => "tap2",
            BRIDGE => "br0",
            _ => return None,
        };
        Some((name.to_owned(), "br0".to_owned()))
    }

    fn watched(&self, _: IfIndex, _: u64) -> bool {
        self.watched
    }
}

fn sight(ifindex: u32, len: u32, tag: Option<(u16, u16)>) -> Sight {
    let mut head = [0; HEAD];
    for (at, byte) in head.iter_mut().enumerate() {
        *byte = u8::try_from(at).unwrap();
    }
    let (tpid, tci) = tag.unwrap_or_default();
    Sight { ifindex, len, tpid, tci, gso_size: 0, gso_segs: 0, complete: 1, head, window: [7; WINDOW] }
}

/// A frame without a tag that left as it came.
fn flight(len: u32) -> Flight {
    Flight {
        state: flight_state::OPEN,
        slot: 1,
        key: 0xffff,
        at: 1_000_000_000,
        expected: OUT,
        edit: edit_kind::KEEP,
        tpid: 0,
        tci: 0,
        window_at: if len > 192 { 130 } else { 0 },
        right: 1,
        wrong: 0,
        up: 0,
        reserved: 0,
        arrived: sight(IN, len, None),
        left: sight(OUT, len, None),
        strayed: sight(0, 0, None),
    }
}

fn kind(flight: &Flight) -> Option<(Kind, String)> {
    match judge(flight, true) {
        Judgement::Agreed => None,
        Judgement::Disagreed(difference) => {
            let actual = difference.seen.map(|seen| name(&Lab { watched: true }, seen.ifindex));
            Some((difference.kind, difference.describe(flight, "eth0", actual.as_deref())))
        }
        Judgement::Unknown => panic!("unknown"),
    }
}

#[test]
fn what_left_as_expected_agrees() {
    for len in [14, 15, 60, 128, 129, 192, 193, 1514, 65000] {
        assert_eq!(kind(&flight(len)), None, "{len}");
    }
}

#[test]
fn tags_are_compared_wherever_they_are() {
    let tag = (0x8100, 0xa00a);
    let edits = [
        (edit_kind::PUSH, None, Some(tag)),
        (edit_kind::POP, Some(tag), None),
        (edit_kind::RETAG, Some((0x8100, 0xa000)), Some(tag)),
        (edit_kind::KEEP, Some(tag), Some(tag)),
    ];
    for (edit, before, after) in edits {
        for len in [60, 128, 1000] {
            let mut good = flight(len);
            good.edit = edit;
            (good.tpid, good.tci) = tag;
            good.arrived = sight(IN, len, before);
            good.left = sight(OUT, len, after);
            assert_eq!(kind(&good), None, "edit {edit}, {len} bytes");
            // The bridge may put the tag into the bytes.
            if let Some((tpid, tci)) = after {
                let mut written = good;
                written.left = sight(OUT, len + 4, None);
                let wire = Wire::of(&good.left);
                written.left.head[..wire.head.len()].copy_from_slice(&wire.head);
                assert_eq!(kind(&written), None, "tag {tpid:x} {tci:x} in the bytes, {len} bytes");
            }
            let mut other = good;
            (other.left.tpid, other.left.tci) = (0x8100, 0xa014);
            assert_eq!(kind(&other).map(|(kind, _)| kind), Some(Kind::OtherBytes), "edit {edit}, {len} bytes");
        }
    }
}

#[test]
fn every_kind_of_disagreement_is_named() {
    let mut one = flight(300);
    one.left.head[20] = 0xff;
    assert_eq!(kind(&one), Some((Kind::OtherBytes, "left by eth0 with byte 20 is ff instead of 14".to_owned())));
    let mut one = flight(300);
    one.left.window[3] = 0;
    let text = "left by eth0 with byte 133 (without the tag) is 00 instead of 07";
    assert_eq!(kind(&one), Some((Kind::OtherBytes, text.to_owned())));
    let mut one = flight(300);
    one.left.len = 296;
    assert_eq!(kind(&one), Some((Kind::OtherBytes, "left by eth0 with 296 bytes instead of 300".to_owned())));
    let mut one = flight(3000);
    (one.left.gso_size, one.left.gso_segs) = (1448, 2);
    assert_eq!(kind(&one).map(|(kind, _)| kind), Some(Kind::OtherBytes));
    let mut one = flight(60);
    one.right = 2;
    assert_eq!(kind(&one), Some((Kind::ExtraCopy, "left by eth0 2 times".to_owned())));
    let mut one = flight(60);
    (one.wrong, one.strayed.ifindex) = (1, OTHER);
    assert_eq!(kind(&one), Some((Kind::ExtraCopy, "left by eth0, and by tap2 as well".to_owned())));
    let mut one = flight(60);
    (one.up, one.strayed.ifindex) = (1, BRIDGE);
    assert_eq!(kind(&one), Some((Kind::ExtraCopy, "left by eth0, and went up to br0 as well".to_owned())));
    one.right = 0;
    assert_eq!(kind(&one), Some((Kind::WentUp, "went up to br0 instead of leaving by eth0".to_owned())));
    (one.wrong, one.strayed.ifindex) = (1, 77);
    assert_eq!(kind(&one), Some((Kind::OtherPort, "left by device 77 instead of eth0".to_owned())));
    (one.wrong, one.up) = (0, 0);
    assert_eq!(kind(&one), Some((Kind::NeverLeft, "left by no port instead of eth0".to_owned())));
}

#[test]
fn what_nobody_watched_is_unknown() {
    let mut gone = flight(60);
    gone.right = 0;
    assert_eq!(judge(&gone, false), Judgement::Unknown);
    gone.wrong = 1;
    assert_eq!(judge(&gone, false), Judgement::Unknown);
    // What was seen was seen, even if the program has gone since.
    assert_eq!(judge(&flight(60), false), Judgement::Agreed);
    let mut unread = flight(60);
    unread.left.complete = 0;
    assert_eq!(judge(&unread, true), Judgement::Unknown);
}

#[test]
fn the_ledger_adds_up_and_keeps_the_latest_example() {
    let mut ledger = Ledger::default();
    let mut bad = flight(60);
    bad.right = 0;
    let mut later = bad;
    later.at = 2_000_000_000;
    ledger.enter(&[flight(60), bad, flight(60), later], &Lab { watched: true }, 3_000_000_000, 100.0);
    ledger.enter(&[bad], &Lab { watched: false }, 3_000_000_000, 100.0);
    let port = ledger.port("tap1");
    assert_eq!((port.agreed, port.disagreed, port.unknown), (2, 2, 1));
    assert_eq!(port.disagreements, [("never_left".to_owned(), 2)].into());
    assert_eq!(ledger.total(), port);
    let examples = ledger.examples();
    assert_eq!(examples.len(), 1);
    let example = &examples[0];
    assert!((example.unix_seconds - 99.0).abs() < 1e-6);
    assert_eq!(
        (example.ingress.as_str(), example.expected_port.as_str(), example.bridge.as_str()),
        ("tap1", "eth0", "br0")
    );
    assert_eq!((example.actual_port.as_deref(), example.actual_bytes.as_deref()), (None, None));
    assert_eq!(example.expected_bytes.len(), 120);
    assert!(example.expected_bytes.starts_with("000102030405"));
    assert_eq!(ledger.port("eth0"), PortShadow::default());
}

#[test]
fn kinds_have_names_of_their_own() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}
