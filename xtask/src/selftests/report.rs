//! Tables of the outcomes: for a terminal, and for the documentation.

use std::fmt::Write as _;

use super::{
    catalogue::Test,
    results::{Judgement, Outcome},
    verdicts::{Run, Verdict},
};

/// "12 PASS, 1 SKIP", most wanted first, zeros left out.
fn tally(run: &Run) -> String {
    let counts = [Verdict::Pass, Verdict::Fail, Verdict::Skip, Verdict::Xfail]
        .map(|verdict| (run.count(verdict), verdict))
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, verdict)| format!("{count} {verdict}"))
        .collect::<Vec<_>>();
    if counts.is_empty() {
        // No case at all: the exit code has the only verdict.
        return run.cases.last().map_or_else(String::new, |(_, verdict)| format!("exit {verdict}"));
    }
    counts.join(", ")
}

/// The cells of one row.
fn cells(outcome: &Outcome, judgement: &Judgement) -> [String; 7] {
    let verdict = if !judgement.good() {
        "DIFFERS"
    } else if !judgement.known.is_empty() {
        "known"
    } else {
        "same"
    };
    let (plain, xbr) = (tally(&outcome.plain), tally(&outcome.xbr));
    let share = outcome.frames.share().map_or_else(|| "-".to_owned(), |share| format!("{share:.0} %"));
    [
        outcome.test.clone(),
        plain.clone(),
        if plain == xbr { "the same".to_owned() } else { xbr },
        verdict.to_owned(),
        outcome.frames.fast.to_string(),
        outcome.frames.slow.to_string(),
        share,
    ]
}

/// Heads of the columns.
const HEADS: [&str; 7] = ["TEST", "PLAIN", "WITH XBR", "CASES", "FAST", "SLOW", "SHARE"];

/// The table for a terminal, and under it what there is to say.
pub(super) fn text(outcomes: &[Outcome]) -> String {
    let judged: Vec<(&Outcome, Judgement)> = outcomes.iter().map(|outcome| (outcome, outcome.judge())).collect();
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(judged.iter().map(|(outcome, judgement)| cells(outcome, judgement)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            // Numbers to the right.
            let padded = if column >= 4 { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            line.push_str(&padded);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for (outcome, judgement) in &judged {
        for line in remarks(outcome, judgement) {
            let _ = writeln!(text, "{}: {line}", outcome.test);
        }
    }
    text
}

/// What there is to say about one outcome, a line each.
fn remarks(outcome: &Outcome, judgement: &Judgement) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for difference in &judgement.differences {
        let said = outcome.xbr.remarks.iter().find(|(case, _)| *case == difference.case);
        let said = said.map(|(_, line)| format!(" ({line})")).unwrap_or_default();
        lines.push(format!("DIFFERS: {difference}{said}"));
    }
    lines.extend(judgement.faults.iter().map(|fault| format!("FAULT: {fault}")));
    lines.extend(judgement.known.iter().map(|(difference, why)| format!("known: {difference}: {why}")));
    lines.extend(judgement.slow.iter().map(|why| format!("nothing is fast: {why}")));
    lines.extend(outcome.before.iter().map(|case| format!("differed, and did not when repeated: {case}")));
    lines
}

/// The page for the documentation. `left_out`: tests that make a bridge and have no results, with the reason.
pub(super) fn markdown(kernel: &str, outcomes: &[Outcome], left_out: &[(Test, String)]) -> String {
    let mut text = format!(
        "# The kernel's own tests\n\n\
         Written by `cargo xtask selftests --kernel {kernel} --stored --markdown docs/selftests.md`, from the last run of \
         each test by\n`cargo xtask selftests --kernel {kernel}`. [CONTRIBUTING.md](../CONTRIBUTING.md) says how it works.\n\n\
         The network tests of the kernel's source that make a bridge, in a virtual machine with that kernel, once plain and \
         once with\n`xbr run --all` in every network namespace of the test. The cases and their verdicts must be the same. \
         Frames are those that\nxbr's programs saw on bridge ports, from the first moment of a port to its end. Most tests send \
         a few frames of each kind\nand much that the bridge floods, so the share says only that the fast path took part.\n\n"
    );
    let mut versions: Vec<String> = outcomes
        .iter()
        .map(|outcome| {
            let about = |key: &str| outcome.about[key].as_str().unwrap_or("unknown").to_owned();
            format!(
                "kernel {}, tests of linux-source {}, iproute2 {}, xbr {}, {}",
                about("kernel"),
                about("suite"),
                about("iproute2"),
                about("xbr"),
                about("date")
            )
        })
        .collect();
    versions.sort();
    versions.dedup();
    for version in versions {
        let _ = writeln!(text, "- {version}");
    }
    text.push_str("\n| test | cases without xbr | with xbr | verdicts | fast | slow | share | slow by reason |\n");
    text.push_str("| --- | --- | --- | --- | ---: | ---: | ---: | --- |\n");
    for outcome in outcomes {
        let judgement = outcome.judge();
        let reasons = outcome.frames.slow_reasons();
        let reasons: Vec<String> =
            reasons.iter().take(4).map(|(reason, count)| format!("`{reason}` {count}")).collect();
        let _ = writeln!(text, "| {} | {} |", cells(outcome, &judgement).join(" | "), reasons.join(", "));
    }
    let remarks: Vec<String> = outcomes
        .iter()
        .flat_map(|outcome| {
            let lines = remarks(outcome, &outcome.judge());
            lines.into_iter().map(|line| format!("- {}: {line}\n", outcome.test))
        })
        .collect();
    if !remarks.is_empty() {
        let _ = write!(text, "\n## Remarks\n\n{}", remarks.concat());
    }
    let failing: Vec<String> = outcomes
        .iter()
        .flat_map(|outcome| {
            let bad = outcome.plain.remarks.iter();
            bad.map(|(case, line)| format!("- {}: {case}: {line}\n", outcome.test))
        })
        .collect();
    if !failing.is_empty() {
        let _ = write!(text, "\n## What does not pass without xbr either\n\n{}", failing.concat());
    }
    if !left_out.is_empty() {
        text.push_str("\n## Tests with a bridge that have no results here\n\n");
        for (test, why) in left_out {
            let _ = writeln!(text, "- {}: {why}", test.path);
        }
    }
    text
}
