//! Frames through the eBPF programs themselves, by `BPF_PROG_TEST_RUN`: verdict, packet and counters, on the kernel that
//! runs.
//!
//! The programs are those of the binary, loaded as the daemon loads them. Each test has a namespace of its own, and
//! devices in it that exist only to have an interface index; no frame ever leaves. A test that cannot run is reported as
//! ignored, with a line `skipped: NAME: REASON`. Options are those of `cargo test`; `XBR_SEED` repeats the random frames.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use xbr_tests::{netns, part::Part, probe::Need};

#[path = "program/bench.rs"]
mod bench;
#[path = "program/bpf.rs"]
mod bpf;
#[path = "program/check.rs"]
mod check;
#[path = "program/destination.rs"]
mod destination;
#[path = "program/doubt.rs"]
mod doubt;
#[path = "program/flow.rs"]
mod flow;
#[path = "program/frames.rs"]
mod frames;
#[path = "program/load.rs"]
mod load;
#[path = "program/logical.rs"]
mod logical;
#[path = "program/model.rs"]
mod model;
#[path = "program/ports.rs"]
mod ports;
#[path = "program/protocols.rs"]
mod protocols;
#[path = "program/random.rs"]
mod random;
#[path = "program/shadow.rs"]
mod shadow;
#[path = "program/source.rs"]
mod source;
#[path = "program/truncated.rs"]
mod truncated;
#[path = "program/vlan.rs"]
mod vlan;
#[path = "program/world.rs"]
mod world;
#[path = "program/xdp.rs"]
mod xdp;

/// Name and body of a test.
type Test = (&'static str, fn(&mut bench::Bench) -> Result<()>);

const GROUPS: [&[Test]; 13] = [
    load::TESTS,
    ports::TESTS,
    doubt::TESTS,
    flow::TESTS,
    protocols::TESTS,
    vlan::TESTS,
    logical::TESTS,
    source::TESTS,
    destination::TESTS,
    xdp::TESTS,
    shadow::TESTS,
    truncated::TESTS,
    random::TESTS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // More would only wait for each other's processors.
    arguments.test_threads.get_or_insert(2);
    let root = Need::Root.met();
    if root {
        netns::remove_stale();
    }
    let trials = Part::get().of(GROUPS.into_iter().flatten()).map(|(name, test)| {
        if !root {
            println!("skipped: {name}: {}", Need::Root);
        }
        Trial::test(*name, || bench::Bench::run(*test).map_err(|error| Failed::from(format!("{error:#}"))))
            .with_ignored_flag(!root)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
