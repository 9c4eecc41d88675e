//! The decision against a plain model of the kernel's bridge: whatever is fast goes exactly where the bridge would have
//! sent it, and whatever could have been fast is, but for the reasons that xbr leaves to the bridge on purpose.

use std::collections::{BTreeMap, BTreeSet};

use bridge_common::{
    decide::{Edit, Verdict, decide},
    maps::port_flags,
    reason::Reason,
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner},
};
use reference::{
    anything::any_tables,
    case::Case,
    property::{agrees, keeps_borders, origin_holds, reads},
    scenario::scenario,
    tables::tables_of,
};

mod reference {
    pub(crate) mod anything;
    pub(crate) mod case;
    pub(crate) mod dice;
    pub(crate) mod fuzz;
    pub(crate) mod kernel;
    pub(crate) mod property;
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
            agrees(&scenario, &tables, arrival).map_err(TestCaseError::fail)?;
        }
    }

    /// Whatever the tables say, consistent or not: some borders are never crossed.
    #[test]
    fn no_tables_make_a_frame_cross_a_border((tables, frames) in any_tables(FRAMES)) {
        for (ingress, frame) in frames {
            keeps_borders(&tables, ingress, &frame).map_err(TestCaseError::fail)?;
        }
    }

    /// What is known of a fast frame's origin decides about frames to all other stations as well.
    #[test]
    fn an_origin_decides_as_the_whole_does((tables, frames) in any_tables(FRAMES)) {
        for (ingress, frame) in frames {
            origin_holds(&tables, ingress, &frame).map_err(TestCaseError::fail)?;
        }
    }

    /// Reading any bytes neither panics nor makes up a frame that is longer than the bytes.
    #[test]
    fn any_bytes_can_be_read(mut bytes in prop::collection::vec(any::<u8>(), 0..90), tpid in select(&[0x8100u16, 0x88a8, 0x86dd][..])) {
        if bytes.len() >= 14 && bytes[0] & 1 == 0 {
            bytes[12..14].copy_from_slice(&tpid.to_be_bytes());
        }
        reads(&bytes).map_err(TestCaseError::fail)?;
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
                Verdict::Forward { leaves, .. } => {
                    let name = match Edit::between(case.frame.tag, leaves) {
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

/// The fuzzer's corpus, on stable Rust and without the fuzzer.
#[test]
fn no_input_of_the_fuzzers_corpus_breaks_a_property() {
    for (name, target) in reference::fuzz::TARGETS {
        let folder: std::path::PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fuzz", "corpus", name].iter().collect();
        let mut inputs = 0;
        for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = file.expect("a file").path();
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("a readable file"));
            inputs += 1;
        }
        assert!(inputs >= 3, "{name}: {inputs} inputs");
    }
}
