//! `cargo xtask bench`: measurements on bridges of their own, here or in a virtual machine.

mod coherence;
pub(crate) mod instructions;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use crate::{lab::code, proc, setup, setup::kernel::Where, test::binaries, vm::Vm};

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
    /// What a large bridge costs the daemon: start, memory, a storm of events, a change among thousands of VLANs
    #[command(disable_help_flag = true)]
    Scale {
        /// Kernel; VLANs need one with VLAN filtering
        #[arg(long, value_enum, default_value = "running")]
        kernel: Where,
        /// Let the clock of the virtual machine count instructions, one for each nanosecond: the same on every machine,
        /// whatever else it does
        #[arg(long)]
        counted: bool,
        /// Options; --help shows them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Runs `cargo xtask bench`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::ebpf()?;
    match &args.what {
        What::Forward { words } => forward(words),
        What::Instructions(args) => instructions::main(args),
        What::Coherence(args) => coherence::main(args),
        What::Scale { kernel, counted, words } => {
            let words: Vec<String> = std::iter::once("scale".to_owned()).chain(words.iter().cloned()).collect();
            // A bridge VLAN takes some 400 bytes of the kernel's.
            measure(*kernel, *counted, "6G", 120, &words)
        }
    }
}

/// The program that measures, among those that were built.
fn program(programs: &[(String, String)]) -> Result<&str> {
    let found = programs.iter().find(|(name, _)| name == "XBR_BENCH");
    Ok(found.context("the build left no xbr-bench")?.1.as_str())
}

/// Runs `xbr-bench` with these words, here or in a virtual machine with so much memory and time (minutes).
fn measure(kernel: Where, counted: bool, memory: &str, minutes: u64, words: &[String]) -> Result<ExitCode> {
    let programs = binaries::release()?;
    let bench = program(&programs)?;
    let Some(kernel) = kernel.machine() else {
        ensure!(!counted, "--counted: name the kernel of a virtual machine with --kernel");
        let mut command = proc::as_root(bench, "the measurement")?;
        let status = command.args(words).envs(programs.clone()).status();
        return Ok(code(status.with_context(|| format!("cannot run {bench}"))?.code().unwrap_or(1)));
    };
    let vm = Vm {
        kernel,
        // Whoever sends has one for himself.
        cpus: if counted { 1 } else { 2 },
        memory: memory.to_owned(),
        timeout: Some(Duration::from_mins(minutes)),
        tty: false,
        counted,
        out: None,
        env: programs.clone(),
    };
    let command: Vec<String> =
        std::iter::once(bench).chain(words.iter().map(String::as_str)).map(str::to_owned).collect();
    let ended = vm.run(&proc::repo(), &command, std::io::stdout(), std::io::stderr())?;
    ended.report();
    Ok(code(ended.code))
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
