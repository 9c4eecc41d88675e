//! The decision against a plain model of the kernel's bridge: whatever is fast goes exactly where the bridge would have
//! sent it, and whatever could have been fast is, but for the reasons that xbr leaves to the bridge on purpose.

use std::collections::{BTreeMap, BTreeSet};

use bridge_common::{
    decide::{Edit, Verdict, decide},
    frame::{Frame, Tag},
    maps::{fdb_flags, port_flags},
    reason::Reason,
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, FileFailurePersistence, TestRunner},
};
use reference::{
    anything::any_tables,
    case::Case,
    scenario::scenario,
    tables::{apply, tables_of},
};

mod reference {
    pub(crate) mod anything;
    pub(crate) mod case;
    pub(crate) mod dice;
    pub(crate) mod kernel;
    pub(crate) mod scenario;
    pub(crate) mod skb;
    pub(crate) mod tables;
}

/// Frames per bridge: making a bridge costs more than asking it.
const FRAMES: usize = 4;

fn config() -> Config {
    Config {
        // PROPTEST_CASES asks for more.
        cases: Config::default().cases.max(20_000),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// What is fast the bridge delivers likewise, and what could be fast is.
    #[test]
    fn the_decision_agrees_with_the_bridge((scenario, arrivals) in scenario(FRAMES)) {
        let tables = tables_of(&scenario.bridge, scenario.numbers, &scenario.refresh_at);
        for arrival in &arrivals {
            let case = Case::new(&scenario, &tables, arrival);
            match case.decided.verdict {
                Verdict::Forward { slot, ifindex, flags, edit } => {
                    // Soundness: delivered to that port only, in those bytes, and nothing is learnt.
                    let context = || format!("{arrival:?}: {:?}, but the bridge: {:?}", case.decided, case.expected);
                    prop_assert!(case.could_be_fast(), "{}", context());
                    let delivery = &case.expected.deliveries[0];
                    prop_assert_eq!(usize::from(slot - scenario.numbers.first_slot), delivery.port, "{}", context());
                    prop_assert_eq!(apply(edit, &arrival.bytes), &delivery.bytes[..], "{}", context());
                    let out = &tables.ports[&slot];
                    prop_assert_eq!((ifindex, flags), (out.ifindex, out.flags));
                    prop_assert_eq!(case.decided.fid, Some(scenario.numbers.fid_base + case.decided.vid));
                }
                // Completeness.
                Verdict::Pass(reason) => prop_assert!(
                    !case.could_be_fast() || case.left_on_purpose(reason),
                    "{arrival:?}: {:?}, but the bridge: {:?}", case.decided, case.expected
                ),
            }
        }
    }

    /// Whatever the tables say, consistent or not: some borders are never crossed.
    #[test]
    fn no_tables_make_a_frame_cross_a_border((tables, frames) in any_tables(FRAMES)) {
        for (ingress, frame) in frames {
            let decided = decide(&tables, ingress, &frame);
            let Verdict::Forward { slot, edit, .. } = decided.verdict else { continue };
            prop_assert!(frame.dst.bytes()[0] & 1 == 0, "multicast destination");
            prop_assert!(frame.src.bytes()[0] & 1 == 0 && frame.src.bytes() != [0; 6], "invalid source");
            prop_assert_ne!(slot, ingress, "back to where it came from");
            let (inside, outside) = (&tables.ports[&ingress], &tables.ports[&slot]);
            prop_assert!(inside.flags & port_flags::INGRESS != 0, "slow ingress port");
            prop_assert!(outside.flags & port_flags::EGRESS != 0, "egress port that takes nothing");
            prop_assert!(inside.flags & outside.flags & port_flags::ISOLATED == 0, "isolated from each other");
            prop_assert!(frame.gso || frame.len <= outside.max_len, "larger than the MTU");
            prop_assert_eq!(inside.fid_base, outside.fid_base, "another bridge");
            prop_assert_eq!(inside.flags & port_flags::VLAN_AWARE, outside.flags & port_flags::VLAN_AWARE);
            let entry = tables.fdb[&(decided.fid.expect("classified"), decided.vid, frame.dst)];
            prop_assert_eq!(entry.slot, slot);
            prop_assert_eq!(entry.flags & (fdb_flags::LOCAL | fdb_flags::OPAQUE), 0);
            if inside.flags & port_flags::VLAN_AWARE == 0 {
                prop_assert_eq!((decided.vid, edit), (0, Edit::Keep));
                continue;
            }
            // The VLAN is the frame's own or the PVID, and both ports are in it.
            let own = frame.tag.map_or(0, |tag| tag.tci & 0xfff);
            prop_assert_eq!(decided.vid, if own == 0 { inside.pvid & 0xfff } else { own });
            prop_assert_ne!(decided.vid, 0);
            let bit = |words: &[u64; 64]| words[usize::from(decided.vid / 64)] >> (decided.vid % 64) & 1 == 1;
            prop_assert!(bit(&inside.member) && bit(&outside.member), "outside the VLAN");
            // It leaves with exactly the tag that the egress port wants.
            let left = match edit {
                Edit::Keep => frame.tag,
                Edit::Push(tag) | Edit::Retag(tag) => Some(tag),
                Edit::Pop => None,
            };
            let priority = frame.tag.map_or(0, |tag| tag.tci & 0xf000);
            let wanted = (!bit(&outside.untagged)).then_some(Tag { tpid: inside.tpid, tci: priority | decided.vid });
            prop_assert_eq!(left, wanted);
        }
    }

    /// Reading any bytes neither panics nor makes up a frame that is longer than the bytes.
    #[test]
    fn any_bytes_can_be_read(mut bytes in prop::collection::vec(any::<u8>(), 0..90), tpid in select(&[0x8100u16, 0x88a8, 0x86dd][..])) {
        if bytes.len() >= 14 && bytes[0] & 1 == 0 {
            bytes[12..14].copy_from_slice(&tpid.to_be_bytes());
        }
        match Frame::parse(&bytes) {
            Some(frame) => {
                let tag = if frame.tag.is_some() { 4 } else { 0 };
                prop_assert_eq!(usize::try_from(frame.len).unwrap() + tag, bytes.len());
                prop_assert!(frame.len >= 14);
                prop_assert_eq!(frame.dst.bytes(), &bytes[..6]);
                prop_assert_eq!(frame.src.bytes(), &bytes[6..12]);
                prop_assert_eq!(&frame.ethertype.to_be_bytes()[..], &bytes[12 + tag..14 + tag]);
            }
            None => prop_assert!(bytes.len() < 20),
        }
    }
}

/// The properties above are worth nothing if their bridges never forward: every edit, every change of the FDB and every
/// reason that such tables can give comes up, and the fast path often.
#[test]
fn the_scenarios_reach_every_verdict() {
    const CASES: usize = 6_000;
    let mut runner = TestRunner::deterministic();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut excused = BTreeSet::new();
    let mut edits: BTreeMap<&str, usize> = BTreeMap::new();
    let mut changes = [0; 4];
    for _ in 0..CASES {
        let (scenario, arrivals) = scenario(FRAMES).new_tree(&mut runner).expect("no filters").current();
        let tables = tables_of(&scenario.bridge, scenario.numbers, &scenario.refresh_at);
        for arrival in &arrivals {
            let case = Case::new(&scenario, &tables, arrival);
            changes[case.expected.fdb as usize] += 1;
            match case.decided.verdict {
                Verdict::Pass(reason) => {
                    *reasons.entry(reason).or_default() += 1;
                    if case.could_be_fast() {
                        excused.insert(reason);
                    }
                }
                Verdict::Forward { edit, .. } => {
                    let name = match edit {
                        Edit::Keep if scenario.bridge.vlan_filtering => "keep on an aware bridge",
                        Edit::Keep => "keep on an unaware bridge",
                        Edit::Push(_) => "push",
                        Edit::Pop => "pop",
                        Edit::Retag(_) => "retag",
                    };
                    *edits.entry(name).or_default() += 1;
                }
            }
        }
    }
    println!("{edits:?}\n{reasons:?}\n{excused:?}\n{changes:?}");
    assert_eq!(edits.len(), 5, "{edits:?}");
    assert!(edits.values().sum::<usize>() > CASES * FRAMES / 20, "{edits:?}");
    assert!(changes.iter().all(|count| *count > 0), "{changes:?}");
    for reason in [
        Reason::PortState,
        Reason::PortFeature,
        Reason::BridgeFeature,
        Reason::BridgePromisc,
        Reason::InvalidSource,
        Reason::Broadcast,
        Reason::Multicast,
        Reason::ControlProtocol,
        Reason::NeighbourDiscovery,
        Reason::Llc,
        Reason::TagProtocol,
        Reason::NoPvid,
        Reason::IngressVlan,
        Reason::SourceUnknown,
        Reason::SourceMoved,
        Reason::SourceFixed,
        Reason::SourceLocked,
        Reason::Refresh,
        Reason::DestinationUnknown,
        Reason::Local,
        Reason::DestinationFeature,
        Reason::SamePort,
        Reason::Isolated,
        Reason::EgressPort,
        Reason::EgressVlan,
        Reason::Mtu,
        Reason::ShortInnerTag,
    ] {
        assert!(reasons.contains_key(&reason), "{reason:?} never came up: {reasons:?}");
    }
}

/// Likewise for the tables that follow from no bridge.
#[test]
fn random_tables_forward_often() {
    const CASES: usize = 2_000;
    let mut runner = TestRunner::deterministic();
    let (mut aware, mut unaware) = (0, 0);
    for _ in 0..CASES {
        let (tables, frames) = any_tables(FRAMES).new_tree(&mut runner).expect("no filters").current();
        for (ingress, frame) in frames {
            if let Verdict::Forward { flags, .. } = decide(&tables, ingress, &frame).verdict {
                *if flags & port_flags::VLAN_AWARE == 0 { &mut unaware } else { &mut aware } += 1;
            }
        }
    }
    assert!(aware > CASES * FRAMES / 200 && unaware > CASES * FRAMES / 100, "{aware} and {unaware}");
}
