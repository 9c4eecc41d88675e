//! `cargo xtask test`: all rings of tests, and one summary line for each.

pub(crate) mod binaries;
mod host;
pub(crate) mod tally;
mod vms;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    bench, lint, selftests, setup,
    test::{
        binaries::{Binary, Built},
        tally::Tally,
    },
};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this ring. Without it: the lints, then all rings
    #[arg(value_enum)]
    ring: Option<Ring>,
    /// Only tests with this in their name
    #[arg(requires = "ring")]
    filter: Option<String>,
    /// Start no virtual machine
    #[arg(long)]
    no_vm: bool,
}

/// What a test needs decides its ring.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Ring {
    /// Nothing: unit and property tests, the command line
    Pure,
    /// Root: frames through the eBPF programs, on the running kernel and (alone in this ring) in the virtual machines
    Program,
    /// Root: bridges in network namespaces, on the running kernel
    Netns,
    /// qemu: the tests of the rings program and netns in virtual machines with kernels 6.1 and 6.12, and a few of the
    /// kernel's own
    Vm,
}

impl Ring {
    const ALL: [Self; 4] = [Self::Pure, Self::Program, Self::Netns, Self::Vm];

    /// Its name in the summary.
    fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Program => "program",
            Self::Netns => "netns",
            Self::Vm => "vm",
        }
    }
}

/// Runs `cargo xtask test`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    setup::ebpf()?;
    if args.ring != Some(Ring::Pure) {
        // Tests that miss a tool say so themselves.
        if let Err(error) = setup::tools::ensure(setup::tools::TEST) {
            setup::say(&format!("warning: {error:#}"));
        }
    }
    let mut results = Vec::new();
    if args.ring.is_none() {
        results.push(("lint", lint::run()));
    }
    let built = binaries::build()?;
    for ring in args.ring.map_or_else(|| Ring::ALL.to_vec(), |ring| vec![ring]) {
        eprintln!("ring {} …", ring.name());
        let mut beside = Vec::new();
        results.push((ring.name(), run(ring, args, &built, &mut beside)));
        results.extend(beside);
    }

    let minutes = start.elapsed().as_secs_f32() / 60.0;
    eprintln!("all results after {minutes:.1} minutes:");
    for (name, tally) in &mut results {
        if tally.is_empty() {
            tally.fail("nothing ran");
        }
        for reason in &tally.reasons {
            println!("  {name} skipped: {reason}");
        }
        for failure in &tally.failures {
            println!("  {name} failed: {failure}");
        }
    }
    let mut total = Tally::default();
    for (name, tally) in results {
        println!("{}", tally.line(name));
        total.add(tally, "");
    }
    Ok(total.exit_code())
}

/// Runs one ring. The kernel's own tests and the instructions per frame belong to that of the virtual machines, and have
/// results of their own.
fn run(ring: Ring, args: &Args, built: &Built, beside: &mut Vec<(&'static str, Tally)>) -> Tally {
    let filter = args.filter.as_deref();
    let vms = |choose: fn(&Binary) -> bool, then: &mut (dyn FnMut() + Send)| {
        if args.no_vm {
            let mut tally = Tally::default();
            tally.skip("virtual machines", "--no-vm");
            return tally;
        }
        vms::run(built, choose, filter, then)
    };
    match ring {
        Ring::Pure => host::run(built, Binary::is_pure, filter, false),
        Ring::Netns => host::run(built, Binary::is_netns, filter, true),
        Ring::Vm => vms(|binary| !binary.is_pure(), &mut || {
            if filter.is_none() {
                eprintln!("instructions per frame …");
                beside.push(("instructions", bench::instructions::check(&built.programs)));
                eprintln!("the kernel's own tests …");
                beside.push(("selftests", selftests::quick(&built.programs)));
            }
        }),
        Ring::Program => {
            let mut tally = host::run(built, Binary::is_program, filter, true);
            if args.ring.is_some() {
                tally.add(vms(Binary::is_program, &mut || {}), "");
            }
            tally
        }
    }
}
