//! `xbr top`: the rates of every port, live or in plain batches.

mod app;
mod batch;
mod columns;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod keys;
mod live;
mod rates;
mod sampler;
mod terminal;
mod view;

use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};

use clap::Args;

use self::columns::Column;
use crate::{
    cli::{RunDir, interface_name},
    error::Failure,
};

const AFTER_HELP: &str = "\
Examples:
  xbr top br0                    live; h shows the keys
  xbr top -s fast                the port with the smallest fast share first
  xbr top -b -n 3 -d 5 | less    three batches, five seconds apart

FAST% is the share of the frames received in the interval that took the fast path. In and out are as the port sees them:
IN comes from the wire or the guest, OUT goes there. Where stdout is no terminal, one batch is printed.
NO_COLOR turns colours off.";

/// Options of `xbr top`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct TopArgs {
    /// Only this bridge
    #[arg(value_name = "BRIDGE", value_parser = interface_name)]
    bridge: Option<String>,
    /// Print plain text, one batch per interval
    #[arg(short, long)]
    batch: bool,
    /// End after this many intervals
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seconds per interval, 0.1 to 3600
    #[arg(short, long, value_name = "S", default_value = "1", value_parser = delay)]
    delay: Duration,
    /// Column to sort by
    #[arg(short, long, value_name = "COLUMN", value_enum, default_value_t = Column::InPackets)]
    sort: Column,
    #[command(flatten)]
    run_dir: RunDir,
}

/// Runs `xbr top` until it is quit, its count is reached, or its reader goes away.
///
/// # Errors
/// In batches: no daemon answers, or none serves the bridge that was named. Live, it waits for a daemon instead, and only
/// missing privileges or a broken terminal end it.
pub fn execute(args: &TopArgs) -> Result<(), Failure> {
    if args.batch || !io::stdout().is_terminal() || !capable_terminal() { batch::run(args) } else { live::run(args) }
}

/// How many intervals a batch run has; `None`: no end.
fn batches(args: &TopArgs, terminal: bool) -> Option<u64> {
    args.count.or(if terminal { None } else { Some(1) })
}

/// Whether the terminal can move its cursor.
fn capable_terminal() -> bool {
    env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb")
}

/// Whether colours are welcome (<https://no-color.org>).
fn colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn delay(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("seconds from 0.1 to 3600 are needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_bounded() {
        assert_eq!(delay("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "inf", "1s", "", "3601"] {
            assert!(delay(text).is_err(), "{text}");
        }
    }
}
