//! `xbr-bench`: measurements that need a bridge of their own. `cargo xtask bench` builds and runs it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod coherence;
mod forward;
mod instructions;
mod scale;

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
    /// What a frame costs, by contender: bridge, bare redirects, macvlan, xbr
    Forward(forward::Args),
    /// Instructions per frame, in a virtual machine whose clock counts them
    Instructions(instructions::Args),
    /// What a large bridge costs the daemon: start, memory, a storm of events, a change among thousands of VLANs
    Scale(scale::Args),
}

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("xbr-bench: network namespaces need root: run it with sudo");
        return ExitCode::FAILURE;
    }
    let result = match &verb {
        Verb::Coherence(args) => coherence::run(args).map(|()| ExitCode::SUCCESS),
        Verb::Forward(args) => forward::run(args),
        Verb::Instructions(args) => instructions::run(args),
        Verb::Scale(args) => scale::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xbr-bench: {error:#}");
            for log in xbr_tests::xbr::take_logs() {
                eprintln!("{log}");
            }
            ExitCode::FAILURE
        }
    }
}
