//! What one run of a test said: its cases and their verdicts.

use std::{collections::BTreeMap, fmt};

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As it should.
    Pass,
    /// Not as it should.
    Fail,
    /// It could not run.
    Skip,
    /// A failure that the test says is known, for instance on slow machines.
    Xfail,
}

impl Verdict {
    /// As the kernel's tests write it in a result line.
    fn parse(word: &str) -> Option<Self> {
        match word.trim() {
            "OK" | "PASS" => Some(Self::Pass),
            "FAIL" | "ERROR" => Some(Self::Fail),
            "SKIP" => Some(Self::Skip),
            "XFAIL" => Some(Self::Xfail),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Xfail => "XFAIL",
        })
    }
}

/// One case: its name, made unique by a number where the test uses it again, and its verdict.
pub(crate) type Case = (String, Verdict);

/// One run of a test.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// Its cases in order. The last is the exit code.
    pub(crate) cases: Vec<Case>,
    /// What the test said about cases that did not pass: name and line.
    pub(crate) remarks: Vec<(String, String)>,
    /// Seconds that it took in the virtual machine.
    pub(crate) seconds: f64,
    /// Whether its time limit ended it.
    pub(crate) killed: bool,
}

/// Name of the case that stands for the exit code.
pub(crate) const EXIT: &str = "(exit code)";

/// Exit codes of timeout(1) for a command that it killed.
const KILLED: [i32; 2] = [124, 137];

impl Run {
    /// Reads the output of a test that ended with `code`.
    ///
    /// Two forms are in use: `TEST: name    [ OK ]` and `PASS: name`.
    pub(crate) fn read(log: &str, code: i32, seconds: f64) -> Self {
        let mut run = Self { seconds, ..Self::default() };
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let mut explains: Option<String> = None;
        for line in log.lines() {
            let Some((name, verdict)) = case(line) else {
                if let Some(name) = explains.take()
                    && line.starts_with(['\t', ' '])
                {
                    run.remarks.push((name, line.trim().to_owned()));
                }
                continue;
            };
            let count = names.entry(name.clone()).or_default();
            *count += 1;
            let name = if *count == 1 { name } else { format!("{name} #{count}") };
            explains = (verdict != Verdict::Pass).then(|| name.clone());
            run.cases.push((name, verdict));
        }
        let verdict = match code {
            0 => Verdict::Pass,
            2 => Verdict::Xfail,
            4 => Verdict::Skip,
            _ => Verdict::Fail,
        };
        if KILLED.contains(&code) {
            run.killed = true;
            run.remarks.push((EXIT.to_owned(), "killed by its time limit".to_owned()));
        }
        run.cases.push((EXIT.to_owned(), verdict));
        run
    }

    /// How many cases ended so, the exit code left out.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|(name, is)| name != EXIT && *is == verdict).count()
    }

    /// Verdict of a case.
    fn of(&self, name: &str) -> Option<Verdict> {
        self.cases.iter().find(|(known, _)| known == name).map(|(_, verdict)| *verdict)
    }
}

/// A case that ended differently without and with xbr; `None`: there was no such case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Name of the case.
    pub(crate) case: String,
    /// Without xbr.
    pub(crate) plain: Option<Verdict>,
    /// With xbr.
    pub(crate) xbr: Option<Verdict>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |verdict: Option<Verdict>| verdict.map_or("absent".to_owned(), |verdict| verdict.to_string());
        write!(f, "{}: {} without xbr, {} with it", self.case, word(self.plain), word(self.xbr))
    }
}

/// All differences between the two runs, in the order of the cases.
pub(crate) fn differences(plain: &Run, xbr: &Run) -> Vec<Difference> {
    let only_xbr = xbr.cases.iter().filter(|(name, _)| plain.of(name).is_none());
    let names = plain.cases.iter().chain(only_xbr).map(|(name, _)| name);
    names
        .map(|name| Difference { case: name.clone(), plain: plain.of(name), xbr: xbr.of(name) })
        .filter(|difference| difference.plain != difference.xbr)
        .collect()
}

/// The case that a line of output reports.
fn case(line: &str) -> Option<Case> {
    let line = line.trim_end();
    if let Some(rest) = line.trim_start().strip_prefix("TEST: ") {
        let (name, word) = rest.strip_suffix(']')?.rsplit_once('[')?;
        return Some((squeeze(name), Verdict::parse(word)?));
    }
    let (word, name) = line.split_once(':')?;
    (word == word.trim()).then_some(())?;
    Some((squeeze(name), Verdict::parse(word)?))
}

/// One space between words: names are padded to columns.
fn squeeze(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let log = "INFO: Running\nTEST: ping        [ OK ]\nTEST: ping        [FAIL]\n\tPing failed\n\
            TEST: vlan (100)   [SKIP]\n\tToo old\nTEST: slow  [XFAIL]\nPASS: ping via broute\nFAIL: no: ping\nTEST: x\n";
        let run = Run::read(log, 1, 2.5);
        let cases: Vec<(&str, Verdict)> = run.cases.iter().map(|(name, verdict)| (name.as_str(), *verdict)).collect();
        assert_eq!(
            cases,
            [
                ("ping", Verdict::Pass),
                ("ping #2", Verdict::Fail),
                ("vlan (100)", Verdict::Skip),
                ("slow", Verdict::Xfail),
                ("ping via broute", Verdict::Pass),
                ("no: ping", Verdict::Fail),
                (EXIT, Verdict::Fail),
            ]
        );
        assert_eq!(run.remarks[0], ("ping #2".to_owned(), "Ping failed".to_owned()));
        assert_eq!(run.remarks.len(), 2);
        assert_eq!(run.count(Verdict::Fail), 2, "the exit code is no case");
    }

    #[test]
    fn a_case_that_is_missing_is_a_difference() {
        let plain = Run::read("TEST: a [ OK ]\nTEST: b [ OK ]\n", 0, 1.0);
        let same = Run::read("TEST: a  [ OK ]\nTEST: b [ OK ]\n", 0, 9.0);
        assert_eq!(differences(&plain, &same), []);
        let cut = Run::read("TEST: a [FAIL]\n", 124, 1.0);
        let found: Vec<String> = differences(&plain, &cut).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a: PASS without xbr, FAIL with it",
                "b: PASS without xbr, absent with it",
                "(exit code): PASS without xbr, FAIL with it"
            ]
        );
        assert_eq!(differences(&cut, &plain).len(), 3);
        assert!(cut.killed && !plain.killed);
    }
}
