//! `cargo xtask demo` and `cargo xtask lab`: xbr at work, in a lab of network namespaces.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    proc,
    setup::{self, kernel::Kernel},
    test::binaries,
    vm::Vm,
};

/// Exit code of `xbr-lab probe` on a kernel whose bridge has no VLAN filtering.
const NO_VLAN_FILTERING: i32 = 4;

/// The kernel that is used where the running one will not do.
const KERNEL: Kernel = Kernel::V6_12;

/// Arguments of `cargo xtask demo` and `cargo xtask lab`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run it in a virtual machine with this kernel, whatever the running one can do
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Arguments for the lab
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the lab's verb `verb`. `tty`: it is for a person at a terminal.
pub(crate) fn main(verb: &str, tty: bool, args: &Args) -> Result<ExitCode> {
    setup::ebpf()?;
    if let Err(error) = setup::tools::ensure(setup::tools::TEST) {
        setup::say(&format!("warning: {error:#}"));
    }
    let programs = binaries::release()?;
    let lab = programs.iter().find(|(name, _)| name == "XBR_LAB").context("the build left no xbr-lab")?.1.as_str();
    let kernel = match args.kernel {
        Some(kernel) => Some(kernel),
        None => probe(lab)?.then_some(KERNEL),
    };
    let Some(kernel) = kernel else {
        let mut command = proc::as_root(lab, "the lab")?;
        let status = command.arg(verb).args(&args.rest).envs(programs.clone()).status();
        return Ok(code(status.with_context(|| format!("cannot run {lab}"))?.code().unwrap_or(1)));
    };
    let tty = tty && std::io::stdin().is_terminal();
    let vm = Vm {
        kernel,
        cpus: 2,
        memory: "2G".to_owned(),
        timeout: (!tty).then_some(std::time::Duration::from_mins(15)),
        tty,
        counted: false,
        out: None,
        env: programs.clone(),
    };
    let words: Vec<String> = [lab, verb].into_iter().map(str::to_owned).chain(args.rest.iter().cloned()).collect();
    let ended = vm.run(&proc::repo(), &words, std::io::stdout(), std::io::stderr())?;
    ended.report();
    Ok(code(ended.code))
}

/// Asks the lab whether the running kernel will not do, and says so.
fn probe(lab: &str) -> Result<bool> {
    let status = proc::as_root(lab, "the lab")?.arg("probe").status();
    match status.with_context(|| format!("cannot run {lab}"))?.code() {
        Some(0) => Ok(false),
        Some(NO_VLAN_FILTERING) => {
            println!(
                "The running kernel has no bridge VLAN filtering: the lab runs in a virtual machine with kernel {KERNEL}."
            );
            Ok(true)
        }
        other => bail!("`xbr-lab probe` ended with {}", other.map_or("a signal".to_owned(), |code| code.to_string())),
    }
}

/// The exit code of a program as ours.
pub(crate) fn code(code: i32) -> ExitCode {
    // There is none above 255.
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
