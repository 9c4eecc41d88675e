//! `xbr-bench coherence`: a flow of numbered frames with the time of sending noted for each, while the bridge is changed
//! over and over so that the flow should no longer arrive (or should be flooded). A frame whose sending began after the
//! kernel had answered the change, and that went the old way, is late; how late is the time since that answer.
//!
//! The clock is the sender's: a frame that was under way when the change was made is not late.

use anyhow::{Result, bail};
use xbr_tests::probe;

mod flow;
mod kind;
mod report;
mod round;
mod stage;

use self::{kind::Kind, report::Report, stage::Stage};

/// What keeps the tables true while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// xbr as it runs by default
    Kernel,
    /// xbr with --coherence netlink
    Netlink,
    /// The bridge alone: what the method itself finds
    Bridge,
}

/// Options of `xbr-bench coherence`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Changes of each kind
    #[arg(long, default_value_t = 10_000)]
    changes: u32,
    /// Only this kind (repeatable)
    #[arg(long = "kind", value_enum)]
    kinds: Vec<Kind>,
    /// Only this mode (repeatable)
    #[arg(long = "mode", value_enum)]
    modes: Vec<Mode>,
    /// Microseconds between two frames [default: 20; 200 on an emulated processor]
    #[arg(long)]
    gap: Option<u64>,
    /// One JSON object per line in place of the table
    #[arg(long)]
    json: bool,
}

/// Runs `xbr-bench coherence`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let modes =
        if args.modes.is_empty() { vec![Mode::Kernel, Mode::Netlink, Mode::Bridge] } else { args.modes.clone() };
    let kinds = if args.kinds.is_empty() { Kind::ALL.to_vec() } else { args.kinds.clone() };
    if args.changes == 0 {
        bail!("--changes 0: there is nothing to measure; use at least 1");
    }
    if !args.json {
        println!("{}", report::heading());
    }
    let gap = args.gap.unwrap_or(if xbr_tests::wait::emulated() { 200 } else { 20 });
    let vlans = probe::vlan_filtering();
    for mode in modes {
        for kind in &kinds {
            if kind.needs_vlans() && !vlans {
                eprintln!("skipped: {}: the kernel has no bridge VLAN filtering", kind.name());
                continue;
            }
            let report = measure(*kind, mode, args.changes, gap)?;
            println!("{}", if args.json { report.json() } else { report.row() });
        }
    }
    Ok(())
}

fn measure(kind: Kind, mode: Mode, changes: u32, gap: u64) -> Result<Report> {
    let mut stage = Stage::new(kind, mode, gap)?;
    let mut report = Report::new(kind, mode);
    for _ in 0..changes {
        let round = stage.round(kind)?;
        report.add(&round);
    }
    report.gaps = stage.flow.stop()?;
    stage.end()?;
    Ok(report)
}
