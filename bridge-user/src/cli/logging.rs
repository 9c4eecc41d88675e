//! Log messages on stderr: for a terminal, for a file, or for the journal.

use std::{env, fs, io::Write as _, os::unix::fs::MetadataExt as _};

use env_logger::Builder;
use log::{Level, LevelFilter};

use super::args::Verbosity;

/// The crates whose messages the options are about; everything else speaks up only when something is wrong.
const OURS: &[&str] = &["bridge_user", "xbr", "bridge_ebpf", "xbr_bpf"];

/// Sets the logger up. `RUST_LOG` overrides the options.
pub(super) fn init(verbosity: &Verbosity, daemon: bool) {
    let level = level(verbosity, daemon);
    let mut builder = Builder::new();
    builder.filter_level(level.min(LevelFilter::Warn));
    for module in OURS {
        builder.filter_module(module, level);
    }
    builder.parse_default_env();
    if to_journal() {
        // The journal stamps the time itself and takes the level from the prefix (sd-daemon(3)).
        builder.format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()));
    } else if daemon {
        builder
            .format(|out, record| writeln!(out, "{} {:5} {}", out.timestamp_seconds(), record.level(), record.args()));
    } else {
        builder.format(|out, record| {
            writeln!(out, "xbr: {}: {}", record.level().as_str().to_ascii_lowercase(), record.args())
        });
    }
    // A test may have set a logger before.
    drop(builder.try_init());
}

fn level(verbosity: &Verbosity, daemon: bool) -> LevelFilter {
    match (verbosity.quiet, verbosity.verbose, daemon) {
        (true, _, true) | (false, 0, false) => LevelFilter::Warn,
        (true, _, false) => LevelFilter::Error,
        (false, 0, true) => LevelFilter::Info,
        (false, 1, _) => LevelFilter::Debug,
        (false, _, _) => LevelFilter::Trace,
    }
}

/// Whether stderr is the journal's stream and not merely that of a parent (systemd.exec(5), `JOURNAL_STREAM`).
fn to_journal() -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// The syslog priority.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_options() {
        let of = |verbose, quiet, daemon| level(&Verbosity { verbose, quiet }, daemon);
        assert_eq!(of(0, false, true), LevelFilter::Info);
        assert_eq!(of(0, false, false), LevelFilter::Warn);
        assert_eq!(of(1, false, true), LevelFilter::Debug);
        assert_eq!(of(2, false, true), LevelFilter::Trace);
        assert_eq!(of(0, true, true), LevelFilter::Warn);
        assert_eq!(of(0, true, false), LevelFilter::Error);
    }
}
