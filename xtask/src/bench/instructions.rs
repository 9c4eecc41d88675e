//! `cargo xtask bench instructions`: instructions per frame, counted by an emulated processor.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use super::program;
use crate::{
    lab::code,
    proc,
    setup::{self, kernel::Kernel},
    test::{binaries, tally::Tally},
    vm::Vm,
};

/// Arguments of `cargo xtask bench instructions`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Series of the kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Minutes until the virtual machine is killed
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Options of the counting program; `-- --help` shows them
    #[arg(last = true)]
    words: Vec<String>,
}

/// Runs `cargo xtask bench instructions`.
pub(super) fn main(args: &Args) -> Result<ExitCode> {
    let mut programs = binaries::release()?;
    programs.extend(setup::ovs::variable());
    let vm = machine(args.kernel, &programs, Duration::from_mins(args.minutes));
    let words: Vec<String> = [program(&programs)?, "instructions"]
        .map(str::to_owned)
        .into_iter()
        .chain(args.words.iter().cloned())
        .collect();
    let ended = vm.run(&proc::repo(), &words, std::io::stdout(), std::io::stderr())?;
    ended.report();
    Ok(code(ended.code))
}

/// Compares xbr's figures on kernel 6.12 with the committed ones: one test for each case.
pub(crate) fn check(programs: &[(String, String)]) -> Tally {
    const KERNEL: Kernel = Kernel::V6_12;
    let mut tally = Tally::default();
    if let Err(error) = setup::vm(KERNEL) {
        tally.skip(&format!("kernel {KERNEL}"), &format!("{error:#}"));
        return tally;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = program(programs).and_then(|bench| {
        let words = [bench, "instructions", "--check"].map(str::to_owned);
        machine(KERNEL, programs, Duration::from_mins(10)).run(&proc::repo(), &words, &mut out, &mut err)
    });
    let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    let rows = out.lines().filter(|line| line.contains("| xbr |")).count();
    let faults: Vec<&str> = err.lines().filter_map(|line| line.strip_prefix("xbr-bench: ")).collect();
    for fault in &faults {
        tally.fail(fault);
    }
    tally.passed = u32::try_from(rows.saturating_sub(faults.len())).unwrap_or(0);
    match ended {
        Err(error) => tally.fail(&format!("{error:#}")),
        Ok(ended) if ended.code != 0 && faults.is_empty() => {
            tally.fail(&format!("it ended with code {}: {err}", ended.code));
        }
        Ok(_) => {}
    }
    tally
}

/// A virtual machine whose clock counts instructions.
fn machine(kernel: Kernel, programs: &[(String, String)], limit: Duration) -> Vm {
    // Its clock runs ahead while it waits for files of the host: time limits mean nothing there.
    let patience = ("XBR_TEST_SLOWNESS".to_owned(), "1000".to_owned());
    Vm {
        kernel,
        cpus: 1,
        memory: "2G".to_owned(),
        timeout: Some(limit),
        tty: false,
        counted: true,
        out: None,
        env: programs.iter().cloned().chain([patience]).collect(),
    }
}
