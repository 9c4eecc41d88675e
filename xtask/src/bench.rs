//! `cargo xtask bench`: measurements on bridges of their own, here or in a virtual machine.

mod coherence;
pub(crate) mod instructions;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::{lab::code, proc, setup, test::binaries};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What a frame costs on the running kernel, by contender: bridge, bare redirects, macvlan, xbr, commands of yours
    #[command(disable_help_flag = true)]
    Forward {
        /// Options; --help shows them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Instructions per frame, counted in a virtual machine: the same on every machine, whatever else it does
    Instructions(instructions::Args),
    /// How long after a change of the bridge frames still follow what was true before
    Coherence(coherence::Coherence),
}

/// Runs `cargo xtask bench`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::ebpf()?;
    match &args.what {
        What::Forward { words } => forward(words),
        What::Instructions(args) => instructions::main(args),
        What::Coherence(args) => coherence::main(args),
    }
}

/// The program that measures, among those that were built.
fn program(programs: &[(String, String)]) -> Result<&str> {
    let found = programs.iter().find(|(name, _)| name == "XBR_BENCH");
    Ok(found.context("the build left no xbr-bench")?.1.as_str())
}

fn forward(words: &[String]) -> Result<ExitCode> {
    if let Err(error) = setup::tools::ensure(setup::tools::TEST) {
        setup::say(&format!("warning: {error:#}"));
    }
    let programs = binaries::release()?;
    let bench = program(&programs)?;
    let quoted: Vec<String> = words.iter().map(|word| proc::quote(word)).collect();
    let mut command = proc::as_root(bench, "the measurement")?;
    command.arg("forward").args(words).envs(programs.clone());
    command.env("XBR_BENCH_COMMAND", format!("cargo xtask bench forward {}", quoted.join(" ")).trim_end());
    let status = command.status().with_context(|| format!("cannot run {bench}"))?;
    Ok(code(status.code().unwrap_or(1)))
}
