//! Figures of all rounds, as tables and as JSON.

use std::{fs, time::SystemTime};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::case::{Case, Unit};

/// Contenders that the others are compared with.
const YARDSTICKS: [&str; 4] = ["bridge", "bare tc", "redirect_peer", "bare XDP"];

/// What was measured, and where.
pub(crate) struct Origin {
    /// The command line.
    pub(crate) command: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Processors.
    pub(crate) machine: String,
    /// UTC.
    pub(crate) date: String,
}

impl Origin {
    /// This machine, now.
    pub(crate) fn here() -> Result<Self> {
        let own = || std::env::args().collect::<Vec<_>>().join(" ");
        let info = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let models: Vec<&str> = info
            .lines()
            .filter(|line| line.starts_with("model name"))
            .filter_map(|line| Some(line.split_once(':')?.1.trim()))
            .collect();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("release of the kernel")?;
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        Ok(Self {
            command: std::env::var("XBR_BENCH_COMMAND").unwrap_or_else(|_| own()),
            kernel: release.trim().to_owned(),
            machine: format!("{} × {}", models.len(), models.first().unwrap_or(&"processor")),
            date: date(seconds),
        })
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        format!("`{}`, kernel {}, {}, {}", self.command, self.kernel, self.machine, self.date)
    }
}

/// Seconds since 1970 as date and time, UTC.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the leap day is the last one.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest / 60 % 60)
}

/// The figures of one contender in one case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// Who.
    pub(crate) contender: String,
    /// Nanoseconds per unit, one for each round.
    pub(crate) costs: Vec<f64>,
    /// Rounds that were hit from outside and taken again.
    pub(crate) retaken: usize,
    /// Rounds that were hit from outside each time.
    pub(crate) disturbed: usize,
    /// Median and 99th percentile of each round's transactions, in nanoseconds.
    pub(crate) times: Vec<[u32; 2]>,
    /// Why there is no figure.
    pub(crate) refused: Option<String>,
}

/// The value in the middle.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

impl Row {
    /// Median cost.
    pub(crate) fn cost(&self) -> Option<f64> {
        median(&self.costs)
    }

    fn range(&self) -> (f64, f64) {
        (self.costs.iter().copied().fold(f64::MAX, f64::min), self.costs.iter().copied().fold(0.0, f64::max))
    }

    /// Medians over the rounds of p50 and p99, in microseconds.
    fn latency(&self) -> Option<[f64; 2]> {
        let each = |at: usize| median(&self.times.iter().map(|times| times[at]).collect::<Vec<_>>());
        Some([f64::from(each(0)?) / 1e3, f64::from(each(1)?) / 1e3])
    }
}

/// All contenders of one case.
pub(crate) struct Table {
    /// The case.
    pub(crate) case: Case,
    /// Its contenders.
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// How often the rate of `yardstick` a contender has.
    pub(crate) fn ratio(&self, row: &Row, yardstick: &str) -> Option<f64> {
        let other = self.rows.iter().find(|row| row.contender == yardstick)?;
        Some(other.cost()? / row.cost()?)
    }

    /// As Markdown.
    pub(crate) fn text(&self) -> String {
        let unit = self.case.unit();
        let with_times = self.rows.iter().any(|row| !row.times.is_empty());
        let yardsticks: Vec<&str> =
            YARDSTICKS.into_iter().filter(|name| self.rows.iter().any(|row| row.contender == *name)).collect();
        let mut head = vec![format!("{}", self.case.name), format!("ns per {unit}"), "min–max".to_owned()];
        head.push(unit.rate(1.0).1.to_owned());
        head.extend(yardsticks.iter().map(|name| format!("× {name}")));
        if with_times {
            head.extend(["p50 µs", "p99 µs"].map(str::to_owned));
        }
        let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
        for row in &self.rows {
            let mut cells = vec![row.contender.clone()];
            if let Some(cost) = row.cost() {
                let (min, max) = row.range();
                let digits = if unit == Unit::Byte { 3 } else { usize::from(cost < 100.0) };
                cells.push(format!("{cost:.digits$}"));
                cells.push(format!("{min:.digits$}–{max:.digits$}"));
                cells.push(format!("{:.2}", unit.rate(cost).0));
                for name in &yardsticks {
                    cells.push(self.ratio(row, name).map_or("–".to_owned(), |ratio| format!("{ratio:.2}")));
                }
                if let Some(latency) = row.latency() {
                    cells.extend(latency.map(|time| format!("{time:.1}")));
                }
            } else {
                cells.push(format!("no figure: {}", row.refused.as_deref().unwrap_or("nothing was measured")));
            }
            text += &["| ", &cells.join(" | "), " |\n"].concat();
        }
        let hit = self.rows.iter().filter(|row| row.retaken + row.disturbed > 0).map(|row| {
            let (who, retaken, stayed) = (&row.contender, row.retaken, row.disturbed);
            format!("\n{who}: {retaken} turns were hit from outside and taken again, {stayed} stayed so.\n")
        });
        text.extend(hit);
        text
    }

    fn json(&self) -> Value {
        let unit = self.case.unit();
        let rows = self.rows.iter().map(|row| {
            let cost = row.cost();
            let (min, max) = row.range();
            let ratios = YARDSTICKS.iter().filter_map(|name| Some(((*name).to_owned(), json!(self.ratio(row, name)?))));
            json!({
                "name": row.contender,
                "cost_ns": cost.map(|cost| json!({ "median": cost, "min": min, "max": max, "rounds": row.costs })),
                "rate": cost.map(|cost| unit.rate(cost).0),
                "ratio": ratios.collect::<serde_json::Map<_, _>>(),
                "latency_us": row.latency().map(|[p50, p99]| json!({ "p50": p50, "p99": p99 })),
                "rounds_retaken": row.retaken,
                "rounds_disturbed": row.disturbed,
                "refused": row.refused,
            })
        });
        json!({
            "name": self.case.name,
            "unit": unit.to_string(),
            "rate_unit": unit.rate(1.0).1,
            "contenders": rows.collect::<Vec<_>>(),
        })
    }
}

/// Everything, for programs. Keys, once published, stay.
pub(crate) fn json(origin: &Origin, tables: &[Table], skipped: &[String]) -> Value {
    json!({
        "command": origin.command,
        "kernel": origin.kernel,
        "machine": origin.machine,
        "date": origin.date,
        "cases": tables.iter().map(Table::json).collect::<Vec<_>>(),
        "skipped": skipped,
    })
}
