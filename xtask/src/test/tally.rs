//! What a test binary's output says: how many passed, failed, were skipped, and why.

use std::{collections::BTreeSet, process::ExitCode};

/// Results of a ring, or of a part of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u32,
    /// Tests that failed.
    pub(crate) failed: u32,
    /// Tests that could not run.
    pub(crate) skipped: u32,
    /// Why tests were skipped, a line each.
    pub(crate) reasons: Vec<String>,
    /// What failed, a line each.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// The summary line of a ring.
    pub(crate) fn line(&self, ring: &str) -> String {
        format!("{ring}: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Counts one that could not run.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        self.reasons.push(format!("{name}: {reason}"));
    }

    /// Counts a failure that no test reported.
    pub(crate) fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Adds the results of another part; `prefix` goes before its reasons.
    pub(crate) fn add(&mut self, other: Self, prefix: &str) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.reasons.extend(other.reasons.into_iter().map(|line| format!("{prefix}{line}")));
        self.failures.extend(other.failures.into_iter().map(|line| format!("{prefix}{line}")));
    }

    /// Whether nothing ran and nothing was skipped.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }

    /// Success if something passed and nothing failed.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Reads the output of one test binary that ended with `code` (`None`: by a signal).
    ///
    /// The result lines of libtest and libtest-mimic are understood. A line `skipped: NAME: REASON` gives the reason for
    /// an ignored test; for a test that returned early and so counts as passed, it makes it a skipped one.
    pub(crate) fn read(output: &str, binary: &str, code: Option<i32>) -> Self {
        let mut tally = Self::default();
        let (mut results, mut said) = (0, BTreeSet::new());
        let (mut ok, mut ignored) = (BTreeSet::new(), BTreeSet::new());
        for line in output.lines() {
            if let Some(rest) = line.strip_prefix("test result: ") {
                results += 1;
                tally.passed += number(rest, " passed");
                tally.failed += number(rest, " failed");
                tally.skipped += number(rest, " ignored");
            } else if let Some(rest) = line.trim_start().strip_prefix("skipped: ") {
                let name = rest.split_once(": ").map_or(rest, |(name, _)| name);
                if said.insert(name.to_owned()) {
                    tally.reasons.push(rest.to_owned());
                }
            } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                let name = name.rsplit(' ').find(|word| !word.is_empty()).unwrap_or(name);
                if outcome == "ok" {
                    ok.insert(name.to_owned());
                } else if outcome == "FAILED" {
                    tally.failures.push(format!("{binary}: {name}"));
                } else if let Some(why) = outcome.strip_prefix("ignored") {
                    ignored.insert(name.to_owned());
                    if let Some(why) = why.strip_prefix(", ") {
                        tally.reasons.push(format!("{name}: {why}"));
                    }
                }
            }
        }
        let is = |set: &BTreeSet<String>, name: &str| {
            set.iter().any(|full| full == name || full.strip_suffix(name).is_some_and(|head| head.ends_with("::")))
        };
        for name in said.iter().filter(|name| !is(&ignored, name) && is(&ok, name)) {
            debug_assert!(tally.passed > 0, "{name} is among those that passed");
            tally.passed = tally.passed.saturating_sub(1);
            tally.skipped += 1;
        }
        let unexplained: Vec<&String> = ignored
            .iter()
            .filter(|name| {
                !tally.reasons.iter().any(|reason| reason.split(": ").next().is_some_and(|head| *name == head))
            })
            .collect();
        let unexplained: Vec<String> = unexplained.into_iter().map(|name| format!("{name}: ignored")).collect();
        tally.reasons.extend(unexplained);

        match code {
            Some(0) if results > 0 => {}
            Some(124) => tally.fail(&format!("{binary}: killed by its time limit")),
            Some(code) if results == 0 => tally.fail(&format!("{binary}: no result, exit code {code}")),
            Some(code) if tally.failed == 0 => tally.fail(&format!("{binary}: exit code {code}")),
            None => tally.fail(&format!("{binary}: killed by a signal")),
            Some(_) => {}
        }
        tally
    }
}

/// The number before `word` in a result line.
fn number(line: &str, word: &str) -> u32 {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn reads_libtest() {
        let output = "running 4 tests\ntest a::one ... ok\ntest a::two ... ignored, takes an hour\n\
            test three ... FAILED\ntest a::four ... ok\n\nsuccesses:\n\n---- a::four stdout ----\n\
            skipped: four: no vlan_filtering\n\n\
            test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let tally = Tally::read(output, "x", Some(101));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 2));
        assert_eq!(tally.reasons, ["a::two: takes an hour", "four: no vlan_filtering"]);
        assert_eq!(tally.failures, ["x: three"]);
        assert_eq!(tally.line("pure"), "pure: 1 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn reads_libtest_mimic() {
        let output = "skipped: vlan_push: the kernel has no bridge VLAN filtering\n\nrunning 2 tests\n\
            test [netns] vlan_push ... ignored\ntest [netns] plain     ... ok\n\n\
            test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.5s\n";
        let tally = Tally::read(output, "x", Some(0));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 0, 1));
        assert_eq!(tally.reasons, ["vlan_push: the kernel has no bridge VLAN filtering"]);
    }

    #[test]
    fn an_end_without_result_is_a_failure() {
        for code in [None, Some(0), Some(101), Some(124)] {
            assert_eq!(Tally::read("running 3 tests\n", "x", code).failed, 1, "{code:?}");
        }
        let all_passed = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Tally::read(all_passed, "x", Some(1)).failed, 1);
        assert_eq!(Tally::read(all_passed, "x", Some(0)).failed, 0);
    }
}
