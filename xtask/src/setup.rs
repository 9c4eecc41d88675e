//! `cargo xtask setup`: what a fresh machine lacks. All is looked at before it is brought, so that a second run takes
//! a moment.

pub(crate) mod apt;
pub(crate) mod ebpf;
pub(crate) mod kernel;
mod linker;
pub(crate) mod ovs;
pub(crate) mod suite;
pub(crate) mod tools;

use std::process::ExitCode;

use anyhow::Result;

use crate::{cache, setup::kernel::Kernel};

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to bring
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
}

/// How much to set up.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Everything
    All,
    /// Only what `cargo build` needs: the eBPF toolchain
    Build,
    /// Only what the virtual machines need: qemu and the kernels
    Vm,
}

/// Runs `cargo xtask setup`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let start = std::time::Instant::now();
    if args.what != What::Vm {
        ebpf()?;
    }
    if args.what == What::All {
        tools::ensure(tools::TEST)?;
        suite::tools();
        suite::iproute()?;
        suite::ensure(Kernel::V6_12)?;
    }
    if args.what != What::Build {
        for kernel in Kernel::ALL {
            vm(kernel)?;
        }
    }
    say(&format!("ready ({:.1} s)", start.elapsed().as_secs_f32()));
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that the eBPF programs can be built.
pub(crate) fn ebpf() -> Result<()> {
    if ebpf::ready() {
        return Ok(());
    }
    let _lock = cache::lock()?;
    ebpf::ensure()
}

/// Makes sure that a virtual machine with `kernel` can be started.
pub(crate) fn vm(kernel: Kernel) -> Result<kernel::Installed> {
    tools::ensure(tools::VM)?;
    if let Some(installed) = kernel::installed(kernel)? {
        return Ok(installed);
    }
    let _lock = cache::lock()?;
    kernel::ensure(kernel)
}

/// One line of progress, on stderr: stdout belongs to what was asked for.
pub(crate) fn say(line: &str) {
    eprintln!("setup: {line}");
}
