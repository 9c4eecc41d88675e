//! `cargo xtask bench coherence`: how long frames follow what the bridge has changed.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};

use super::program;
use crate::{lab::code, proc, setup::kernel::Kernel, test::binaries, vm::Vm};

/// Where it is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    /// The running kernel
    Running,
    /// A virtual machine with kernel 6.1
    #[value(name = "6.1")]
    V6_1,
    /// A virtual machine with kernel 6.12
    #[value(name = "6.12")]
    V6_12,
}

/// Arguments of `cargo xtask bench coherence`. Kinds and modes are checked by the program that measures.
#[derive(clap::Args)]
pub(super) struct Coherence {
    /// Changes of each kind
    #[arg(long, default_value_t = 10_000)]
    changes: u32,
    /// Only this kind of change (repeatable), such as fdb-move, vlan-egress; a wrong one is answered with the list
    #[arg(long = "kind")]
    kinds: Vec<String>,
    /// Only this mode (repeatable): kernel, netlink or bridge
    #[arg(long = "mode")]
    modes: Vec<String>,
    /// Kernel; changes of VLANs need one with VLAN filtering
    #[arg(long, value_enum, default_value = "running")]
    kernel: Where,
    /// Microseconds between two frames [default: 20; 200 in a virtual machine]
    #[arg(long)]
    gap: Option<u64>,
    /// One JSON object per line in place of the table
    #[arg(long)]
    json: bool,
    /// Minutes until a virtual machine is killed
    #[arg(long, default_value_t = 120)]
    minutes: u64,
}

/// Runs `cargo xtask bench coherence`.
pub(super) fn main(args: &Coherence) -> Result<ExitCode> {
    let programs = binaries::release()?;
    let bench = program(&programs)?;
    let words = args.words();
    let kernel = match args.kernel {
        Where::Running => None,
        Where::V6_1 => Some(Kernel::V6_1),
        Where::V6_12 => Some(Kernel::V6_12),
    };
    let Some(kernel) = kernel else {
        let mut command = proc::as_root(bench, "the measurement")?;
        let status = command.args(&words).envs(programs.clone()).status();
        return Ok(code(status.with_context(|| format!("cannot run {bench}"))?.code().unwrap_or(1)));
    };
    let vm = Vm {
        kernel,
        // The sender has one for itself.
        cpus: 2,
        memory: "2G".to_owned(),
        timeout: Some(Duration::from_mins(args.minutes)),
        tty: false,
        counted: false,
        out: None,
        env: programs.clone(),
    };
    let words: Vec<String> = std::iter::once(bench.to_owned()).chain(words).collect();
    let ended = vm.run(&proc::repo(), &words, std::io::stdout(), std::io::stderr())?;
    ended.report();
    Ok(code(ended.code))
}

impl Coherence {
    /// The words for `xbr-bench`.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["coherence".to_owned(), "--changes".to_owned(), self.changes.to_string()];
        let options = [("--kind", &self.kinds), ("--mode", &self.modes)];
        for (option, values) in options {
            words.extend(values.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        words.extend(self.gap.into_iter().flat_map(|gap| ["--gap".to_owned(), gap.to_string()]));
        words.extend(self.json.then(|| "--json".to_owned()));
        words
    }
}
