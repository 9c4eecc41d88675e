//! Tests on real bridges in network namespaces, on the kernel that runs.
//!
//! Each test makes its own namespaces, so tests run side by side. What the machine lacks is probed once; a test that
//! cannot run is reported as ignored, with a line `skipped: NAME: REASON`. Options are those of `cargo test`.

use std::{
    env,
    process::ExitCode,
    sync::{Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use xbr_tests::{part::Part, probe::Need, xbr};

#[path = "netns/attributes.rs"]
mod attributes;
#[path = "netns/bench.rs"]
mod bench;
#[path = "netns/bypass.rs"]
mod bypass;
#[path = "netns/cli.rs"]
mod cli;
#[path = "netns/coherence.rs"]
mod coherence;
#[path = "netns/differential.rs"]
mod differential;
#[path = "netns/fdb.rs"]
mod fdb;
#[path = "netns/forward.rs"]
mod forward;
#[path = "netns/kept.rs"]
mod kept;
#[path = "netns/life.rs"]
mod life;
#[path = "netns/observe.rs"]
mod observe;
#[path = "netns/peer.rs"]
mod peer;
#[path = "netns/policy.rs"]
mod policy;
#[path = "netns/ports.rs"]
mod ports;
#[path = "netns/scene.rs"]
mod scene;
#[path = "netns/selftest.rs"]
mod selftest;
#[path = "netns/semantics.rs"]
mod semantics;
#[path = "netns/settings.rs"]
mod settings;
#[path = "netns/shadow.rs"]
mod shadow;
#[path = "netns/shaping.rs"]
mod shaping;
#[path = "netns/stacked.rs"]
mod stacked;
#[path = "netns/topology.rs"]
mod topology;
#[path = "netns/visible.rs"]
mod visible;
#[path = "netns/vlan.rs"]
mod vlan;

/// One test.
struct Test {
    name: &'static str,
    run: fn() -> Result<()>,
    needs: &'static [Need],
    /// Runs while no other test does: it looks at the whole machine.
    alone: bool,
}

/// A test that needs root and what is named.
const fn test(name: &'static str, run: fn() -> Result<()>, needs: &'static [Need]) -> Test {
    Test { name, run, needs, alone: false }
}

/// A test that must not run beside another.
const fn alone(name: &'static str, run: fn() -> Result<()>, needs: &'static [Need]) -> Test {
    Test { name, run, needs, alone: true }
}

const GROUPS: [&[Test]; 21] = [
    bench::TESTS,
    attributes::TESTS,
    semantics::TESTS,
    visible::TESTS,
    selftest::TESTS,
    cli::TESTS,
    forward::TESTS,
    fdb::TESTS,
    coherence::TESTS,
    ports::TESTS,
    peer::TESTS,
    policy::TESTS,
    bypass::TESTS,
    kept::TESTS,
    shaping::TESTS,
    topology::TESTS,
    life::TESTS,
    shadow::TESTS,
    vlan::TESTS,
    differential::TESTS,
    stacked::TESTS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // More would only wait for each other's processors, and time limits would mean less.
    arguments.test_threads.get_or_insert(2);
    let tests = GROUPS.into_iter().flatten().filter(|test| in_scope(test.name));
    let trials: Vec<Trial> = Part::get().of(tests).map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("{}", slowest());
    conclusion.exit_code()
}

/// How long each test took.
static TOOK: Mutex<Vec<(Duration, &str)>> = Mutex::new(Vec::new());

/// Number of tests that are named as the slowest.
const SLOWEST: usize = 12;

/// A line that names the tests that took longest.
fn slowest() -> String {
    let mut took = TOOK.lock().unwrap_or_else(PoisonError::into_inner).clone();
    took.sort_unstable_by(|one, other| other.cmp(one));
    took.truncate(SLOWEST);
    let named: Vec<_> = took.iter().map(|(took, name)| format!("{name} {:.1} s", took.as_secs_f32())).collect();
    format!("slowest: {}", named.join(", "))
}

/// In a virtual machine everything takes ten times as long, so only what can differ from the running kernel is run there:
/// VLANs and what needs modules on both kernels, and on the one without tcx also all that has to do with attaching and
/// with following the bridge. `XBR_TEST_ALL=1` runs all of them.
fn in_scope(name: &str) -> bool {
    let groups: &[&str] = match env::var("XBR_VM").as_deref() {
        _ if env::var_os("XBR_TEST_ALL").is_some() => &[""],
        Ok("6.12") => &[
            "vlan::",
            "stacked::",
            "semantics::",
            "visible::statistics",
            "policy::",
            "forward::known_unicast",
            "shaping::proxmox_rate_of_a_tap",
            "topology::bond",
            "shadow::tags_agree",
            "peer::",
            "differential::",
            "bypass::ebtables_hold",
        ],
        Ok("6.1") => &[
            "vlan::",
            "stacked::",
            "semantics::",
            "policy::",
            "life::",
            "fdb::",
            "forward::known_unicast",
            "forward::every_pair_by_xdp",
            "shadow::tags_agree",
            "shadow::a_dropped_frame",
            "shadow::a_promiscuous_bridge",
            "shadow::ports_are_left",
            "differential::",
            "bypass::legacy_ebtables_policy",
            "kept::br_netfilter",
        ],
        _ => &[""],
    };
    groups.iter().any(|group| name.starts_with(group))
}

fn trial(test: &'static Test) -> Trial {
    let missing = [Need::Root].iter().chain(test.needs).find(|need| !need.met());
    if let Some(need) = missing {
        println!("skipped: {}: {need}", test.name);
    }
    Trial::test(test.name, || guarded(test)).with_ignored_flag(missing.is_some())
}

/// Runs a test, and adds the daemons' logs to its failure.
fn guarded(test: &Test) -> Result<(), Failed> {
    static TURN: RwLock<()> = RwLock::new(());
    let (_shared, _alone);
    if test.alone {
        _alone = TURN.write().unwrap_or_else(PoisonError::into_inner);
    } else {
        _shared = TURN.read().unwrap_or_else(PoisonError::into_inner);
    }
    drop(xbr::take_logs());
    let start = Instant::now();
    let result = std::panic::catch_unwind(test.run).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(anyhow::anyhow!("panicked: {}", message.unwrap_or("no message")))
    });
    let logs = xbr::take_logs();
    TOOK.lock().unwrap_or_else(PoisonError::into_inner).push((start.elapsed(), test.name));
    result.map_err(|error| Failed::from(format!("{error:#}\n{}", logs.join("\n"))))
}
