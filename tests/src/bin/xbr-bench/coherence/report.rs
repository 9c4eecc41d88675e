//! Distributions, as a table's row and as JSON.

use serde_json::json;

use super::{Mode, kind::Kind, round::Round};

/// What all changes of a kind brought.
pub(super) struct Report {
    kind: Kind,
    mode: Mode,
    windows: Vec<u64>,
    recoveries: Vec<u64>,
    judged: u64,
    late: u64,
    /// Times between two frames, in nanoseconds.
    pub(super) gaps: Vec<u64>,
}

/// Nanoseconds as microseconds.
#[expect(clippy::cast_precision_loss, reason = "times of less than an hour")]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// The value below which `share` per mille of the others are.
fn quantile(sorted: &[u64], share: usize) -> u64 {
    let rank = (sorted.len() * share).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

impl Report {
    pub(super) fn new(kind: Kind, mode: Mode) -> Self {
        Self { kind, mode, windows: Vec::new(), recoveries: Vec::new(), judged: 0, late: 0, gaps: Vec::new() }
    }

    pub(super) fn add(&mut self, round: &Round) {
        self.windows.push(round.window);
        self.recoveries.push(round.recovery);
        self.judged += round.judged;
        self.late += round.late;
    }

    fn mode(&self) -> &'static str {
        match self.mode {
            Mode::Kernel => "kernel",
            Mode::Netlink => "netlink",
            Mode::Bridge => "bridge",
        }
    }

    /// Sorted: windows, recoveries, gaps.
    fn sorted(&self) -> [Vec<u64>; 3] {
        let mut all = [self.windows.clone(), self.recoveries.clone(), self.gaps.clone()];
        for values in &mut all {
            values.sort_unstable();
        }
        all
    }

    /// A row under [`heading`].
    pub(super) fn row(&self) -> String {
        let [windows, recoveries, gaps] = self.sorted();
        let with = windows.iter().filter(|window| **window > 0).count();
        format!(
            "| {} | {} | {} | {} | {with} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            self.mode(),
            self.kind.name(),
            self.windows.len(),
            self.judged,
            self.late,
            micros(quantile(&windows, 500)),
            micros(quantile(&windows, 990)),
            micros(quantile(&windows, 1000)),
            micros(quantile(&gaps, 500)),
            micros(quantile(&recoveries, 500)),
            micros(quantile(&recoveries, 990)),
        )
    }

    /// One JSON object; times are in microseconds.
    pub(super) fn json(&self) -> String {
        let [windows, recoveries, gaps] = self.sorted();
        json!({
            "mode": self.mode(),
            "kind": self.kind.name(),
            "changes": self.windows.len(),
            "frames_judged": self.judged,
            "changes_with_late_frames": windows.iter().filter(|window| **window > 0).count(),
            "late_frames": self.late,
            "window_us": { "p50": micros(quantile(&windows, 500)), "p99": micros(quantile(&windows, 990)),
                "p999": micros(quantile(&windows, 999)), "max": micros(quantile(&windows, 1000)) },
            "gap_us": { "p50": micros(quantile(&gaps, 500)), "p99": micros(quantile(&gaps, 990)) },
            "recovery_us": { "p50": micros(quantile(&recoveries, 500)), "p99": micros(quantile(&recoveries, 990)) },
        })
        .to_string()
    }
}

/// The head of the table. All times are in microseconds.
pub(super) fn heading() -> String {
    "| mode | change | changes | frames judged | changes with late frames | late frames | window p50 µs | p99 | max | \
     gap p50 µs | fast again p50 µs | p99 |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
        .to_owned()
}
