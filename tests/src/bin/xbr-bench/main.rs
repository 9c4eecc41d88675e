//! `xbr-bench`: measurements that need a bridge of their own and many changes. `cargo xtask bench` builds and runs it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod coherence;

/// Measurements on bridges in network namespaces.
#[derive(Parser)]
#[command(name = "xbr-bench", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// How long after a change of the bridge frames still follow what was true before
    Coherence(coherence::Args),
}

fn main() -> ExitCode {
    let Verb::Coherence(args) = Arguments::parse().verb;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("xbr-bench: network namespaces need root: run it with sudo");
        return ExitCode::FAILURE;
    }
    match coherence::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xbr-bench: {error:#}");
            for log in xbr_tests::xbr::take_logs() {
                eprintln!("{log}");
            }
            ExitCode::FAILURE
        }
    }
}
