//! `cargo xtask differential`: random scenarios with and without xbr, on the running kernel or in a virtual machine.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    lab, proc,
    setup::{self, kernel::Where},
    test::binaries,
    vm::Vm,
};

/// Seconds for booting a virtual machine and for the last scenarios, which may be made small.
const SLACK: u64 = 600;

/// Arguments of `cargo xtask differential`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: 0 nothing differs, 1 something does, 2 the test could not be carried out.
A scenario that differs is made small and written to the folder of --keep; --replay plays such a file again.
What the kernel lacks (VLAN filtering, VLAN devices, tcx) is left out of the scenarios, and the first line says so.")]
pub(crate) struct Args {
    /// How many scenarios
    #[arg(long, default_value_t = 200)]
    scenarios: u64,
    /// Kernel
    #[arg(long, value_enum, default_value = "running")]
    kernel: Where,
    /// Seed of the first scenario; the others follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worlds side by side
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Stop after so many scenarios that differ
    #[arg(long, default_value_t = 10)]
    stop_after: u64,
    /// Seconds after which no more scenarios are begun
    #[arg(long, default_value_t = 7200)]
    limit: u64,
    /// Folder for scenarios that differ [default: target/differential]
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Play this scenario file instead (repeatable)
    #[arg(long, value_name = "FILE")]
    replay: Vec<PathBuf>,
}

/// Runs `cargo xtask differential`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::ebpf()?;
    if let Err(error) = setup::tools::ensure(setup::tools::TEST) {
        setup::say(&format!("warning: {error:#}"));
    }
    let mut programs = binaries::programs()?;
    let program = programs.iter().find(|(name, _)| name == "XBR_DIFFERENTIAL");
    let program = program.context("the build left no xbr-differential")?.1.clone();
    // The distribution's may not know all that the kernel does.
    let iproute = setup::suite::iproute()?;
    programs.push(("XBR_IPROUTE2".to_owned(), iproute.dir.to_string_lossy().into_owned()));
    let keep = args.keep.clone().unwrap_or_else(|| proc::repo().join("target/differential"));
    fs::create_dir_all(&keep).with_context(|| format!("cannot create {}", keep.display()))?;
    let Some(kernel) = args.kernel.machine() else {
        let words = words(args, &keep.to_string_lossy())?;
        let mut command = proc::as_root(&program, "the differential test")?;
        let status = command.args(words).envs(programs).status();
        return Ok(lab::code(status.with_context(|| format!("cannot run {program}"))?.code().unwrap_or(2)));
    };
    let vm = Vm {
        kernel,
        // Where two emulated processors run, code that the kernel patches may trap on one of them when the other has finished.
        cpus: 1,
        memory: "2G".to_owned(),
        timeout: Some(Duration::from_secs(args.limit.saturating_add(SLACK))),
        tty: false,
        counted: false,
        out: Some(keep),
        env: programs,
    };
    let command: Vec<String> = [program].into_iter().chain(words(args, "/out")?).collect();
    let ended = vm.run(&proc::repo(), &command, std::io::stdout(), std::io::stderr())?;
    ended.report();
    Ok(lab::code(ended.code))
}

/// The program's arguments.
fn words(args: &Args, keep: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for file in &args.replay {
        let file = file.canonicalize().with_context(|| format!("no scenario {}", file.display()))?;
        words.extend(["--replay".to_owned(), file.to_string_lossy().into_owned()]);
    }
    for (name, value) in [
        ("--scenarios", args.scenarios),
        ("--seed", args.seed),
        ("--jobs", args.jobs),
        ("--stop-after", args.stop_after),
        ("--limit", args.limit),
    ] {
        words.extend([name.to_owned(), value.to_string()]);
    }
    words.extend(["--keep".to_owned(), keep.to_owned()]);
    Ok(words)
}
