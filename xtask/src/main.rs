//! `cargo xtask VERB`: the chores of xbr.
//!
//! It is the first thing that is compiled on a fresh machine, so it has few dependencies and does its work with the
//! machine's own programs.

mod bench;
mod cache;
mod differential;
mod fuzz;
mod lab;
mod lint;
mod mutants;
mod proc;
mod selftests;
mod setup;
mod test;
mod tool;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets a machine up for xbr, runs its tests and shows it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring what this machine lacks: the eBPF toolchain, test tools, qemu, kernels
    Setup(setup::Args),
    /// Run the tests, ring by ring, with one summary line for each
    Test(test::Args),
    /// Show xbr at work in a lab of network namespaces: who reaches whom, and how fast
    Demo(lab::Args),
    /// The lab of the demo, with a shell in it
    Lab(lab::Args),
    /// Measure: what a frame costs, in time and in instructions; how long frames follow what the bridge has changed
    Bench(bench::Args),
    /// Compare a bridge with and without xbr over random scenarios, byte by byte and port by port
    Differential(differential::Args),
    /// Check the formatting and run clippy, warnings counted as errors
    Lint,
    /// Feed the parsers and the decision with inputs that reach new code, until one breaks a rule
    Fuzz(fuzz::Args),
    /// Break the rules of the decision and of the plan one at a time, and see that some test notices each
    Mutants(mutants::Args),
    /// Run a command in a virtual machine with another kernel, on this machine's files
    Vm(vm::Args),
    /// Run the kernel's own tests of the bridge without and with xbr, and compare what they say
    Selftests(selftests::Args),
    /// Remove everything that `setup` has put into the cache
    CleanCache,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => setup::main(&args),
        Verb::Test(args) => test::main(&args),
        Verb::Demo(args) => lab::main("demo", false, &args),
        Verb::Lab(args) => lab::main("lab", true, &args),
        Verb::Bench(args) => bench::main(&args),
        Verb::Differential(args) => differential::main(&args),
        Verb::Lint => Ok(lint::main()),
        Verb::Fuzz(args) => fuzz::main(&args),
        Verb::Mutants(args) => mutants::main(&args),
        Verb::Vm(args) => vm::main(&args),
        Verb::Selftests(args) => selftests::main(&args),
        Verb::CleanCache => cache::clean(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
