//! What the runs of a test left in the results folder, put together.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    frames::Frames,
    known::Known,
    verdicts::{Difference, Run, Verdict, differences},
};
use crate::{proc, setup::kernel::Kernel};

/// How a run went on: without xbr, and with it.
pub(super) const MODES: [&str; 2] = ["plain", "xbr"];

/// Both runs of a test.
pub(super) struct Outcome {
    /// Path of the test.
    pub(super) test: String,
    /// Without xbr.
    pub(super) plain: Run,
    /// With xbr.
    pub(super) xbr: Run,
    /// Frames of the run with xbr.
    pub(super) frames: Frames,
    /// What was run: versions and date.
    pub(super) about: Value,
    /// Cases that differed in an earlier run, which was repeated.
    pub(super) before: Vec<String>,
}

/// What is to be said of an outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Differences for which there is no known reason.
    pub(super) differences: Vec<Difference>,
    /// Differences with their known reason.
    pub(super) known: Vec<(Difference, String)>,
    /// Other things that make the run a failure, a line each.
    pub(super) faults: Vec<String>,
    /// Why no frame took the fast path, if none did and that is known.
    pub(super) slow: Option<String>,
}

impl Judgement {
    /// Whether there is nothing to complain about.
    pub(super) fn good(&self) -> bool {
        self.differences.is_empty() && self.faults.is_empty()
    }
}

/// The folder of the results for one kernel, created if need be.
pub(super) fn dir(kernel: Kernel) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| proc::repo().join("target"), PathBuf::from);
    let dir = target.join("selftests").join(format!("v{kernel}"));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))
}

/// The start of the names of a test's files.
pub(super) fn stem(test: &str) -> String {
    test.trim_end_matches(".sh").replace('/', "-")
}

/// Removes what earlier runs of the test left.
pub(super) fn forget(dir: &Path, test: &str) -> Result<()> {
    for mode in MODES {
        for extension in ["log", "code", "seconds", "daemons"] {
            let path = dir.join(format!("{}.{mode}.{extension}", stem(test)));
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
    }
    Ok(())
}

/// Writes what the runs that are about to begin are about.
pub(super) fn note(dir: &Path, test: &str, about: &Value) -> Result<()> {
    let path = dir.join(format!("{}.about", stem(test)));
    fs::write(&path, about.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// Both runs of the test; `None` if it was not run, or not to the end.
pub(super) fn read(dir: &Path, test: &str) -> Result<Option<Outcome>> {
    let file = |mode: &str, extension: &str| dir.join(format!("{}.{mode}.{extension}", stem(test)));
    let content = |path: PathBuf| fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).ok();
    let run = |mode: &str| {
        let code = content(file(mode, "code"))?.trim().parse().ok()?;
        let seconds = content(file(mode, "seconds"))?.trim().parse().ok()?;
        Some(Run::read(&content(file(mode, "log"))?, code, seconds))
    };
    let (Some(plain), Some(xbr)) = (run(MODES[0]), run(MODES[1])) else { return Ok(None) };
    let about = content(dir.join(format!("{}.about", stem(test)))).and_then(|text| serde_json::from_str(&text).ok());
    Ok(Some(Outcome {
        test: test.to_owned(),
        plain,
        xbr,
        frames: Frames::read(&file(MODES[1], "daemons"))?,
        about: about.unwrap_or_default(),
        before: Vec::new(),
    }))
}

impl Outcome {
    /// Weighs it against what is known of the test.
    pub(super) fn judge(&self) -> Judgement {
        self.judge_by(&Known::of(&self.test))
    }

    fn judge_by(&self, known: &Known<'_>) -> Judgement {
        let mut judgement = Judgement::default();
        let found = differences(&self.plain, &self.xbr);
        for case in known.cases().filter(|case| !found.iter().any(|difference| difference.case == *case)) {
            judgement.faults.push(format!("\"{case}\" is said to differ and does not: take the line out of known.txt"));
        }
        for difference in found {
            match known.case(&difference.case) {
                Some(why) => judgement.known.push((difference, why.to_owned())),
                None => judgement.differences.push(difference),
            }
        }
        for (run, mode) in [(&self.plain, "without"), (&self.xbr, "with")] {
            if run.killed {
                judgement.faults.push(format!("killed by its time limit after {:.0} s {mode} xbr", run.seconds));
            }
        }
        if self.frames.silent > 0 {
            judgement.faults.push(format!("{} of {} daemons left no status", self.frames.silent, self.frames.daemons));
        }
        if self.frames.dropped > 0 {
            judgement.faults.push(format!("xbr dropped {} frames", self.frames.dropped));
        }
        // A test that is skipped as a whole sends nothing.
        let ran = self.xbr.count(Verdict::Pass) > 0;
        match (self.frames.fast, known.slow().or_else(|| known.few())) {
            (0, Some(why)) => judgement.slow = Some(why.to_owned()),
            (0, None) if ran => judgement.faults.push("no frame took the fast path".to_owned()),
            (1.., Some(_)) if known.slow().is_some() => judgement
                .faults
                .push("frames take the fast path although none is said to: take the line out of known.txt".to_owned()),
            _ => {}
        }
        judgement
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let judgement = self.judge();
        let cases = |run: &Run| -> Vec<Value> {
            run.cases.iter().map(|(name, verdict)| json!({"case": name, "verdict": verdict.to_string()})).collect()
        };
        json!({
            "test": self.test,
            "good": judgement.good(),
            "plain": {"seconds": self.plain.seconds, "cases": cases(&self.plain)},
            "xbr": {"seconds": self.xbr.seconds, "cases": cases(&self.xbr)},
            "differences": judgement.differences.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "known_differences": judgement.known.iter()
                .map(|(difference, why)| json!({"difference": difference.to_string(), "why": why}))
                .collect::<Vec<_>>(),
            "differed_before_repetition": self.before,
            "faults": judgement.faults,
            "frames": {
                "daemons": self.frames.daemons,
                "ports": self.frames.ports,
                "fast": self.frames.fast,
                "slow": self.frames.slow,
                "dropped": self.frames.dropped,
                "fast_percent": self.frames.share(),
                "reasons": self.frames.reasons,
                "why_none_is_fast": judgement.slow,
            },
            "about": self.about,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(plain: &str, xbr: &str, fast: u64) -> Outcome {
        Outcome {
            test: "a.sh".to_owned(),
            plain: Run::read(plain, 0, 1.0),
            xbr: Run::read(xbr, 0, 1.0),
            frames: Frames { daemons: 1, fast, ..Frames::default() },
            about: Value::Null,
            before: Vec::new(),
        }
    }

    const PASS: &str = "TEST: ping [ OK ]\n";
    const FAIL: &str = "TEST: ping [FAIL]\n";

    #[test]
    fn the_same_verdicts_and_fast_frames_are_good() {
        let nothing = Known::parse("", "a.sh");
        assert!(outcome(PASS, PASS, 1).judge_by(&nothing).good());
        assert!(outcome(FAIL, FAIL, 1).judge_by(&nothing).good(), "the kernel's own failure is none of xbr's");
        assert!(!outcome(PASS, FAIL, 1).judge_by(&nothing).good());
        assert!(!outcome(PASS, PASS, 0).judge_by(&nothing).good());
        assert!(outcome("", "", 0).judge_by(&nothing).good(), "what is skipped as a whole sends nothing");
    }

    #[test]
    fn what_is_known_excuses_and_must_be_true() {
        let known = Known::parse("a.sh | slow | floods\na.sh | ping | a counter\n", "a.sh");
        let judgement = outcome(PASS, FAIL, 0).judge_by(&known);
        assert!(judgement.good() && judgement.known.len() == 1, "{judgement:?}");
        assert_eq!(judgement.slow.as_deref(), Some("floods"));
        assert_eq!(outcome(PASS, PASS, 5).judge_by(&known).faults.len(), 2, "neither line is true");
    }

    #[test]
    fn few_frames_may_be_none() {
        let known = Known::parse("a.sh | few | two pings\n", "a.sh");
        assert!(outcome(PASS, PASS, 0).judge_by(&known).good());
        assert!(outcome(PASS, PASS, 1).judge_by(&known).good());
    }

    #[test]
    fn a_daemon_that_left_nothing_is_a_fault() {
        let mut silent = outcome(PASS, PASS, 5);
        silent.frames.silent = 1;
        assert!(!silent.judge_by(&Known::parse("", "a.sh")).good());
    }

    #[test]
    fn names_of_files_tell_folders_apart() {
        assert_eq!(stem("netfilter/a_b.sh"), "netfilter-a_b");
        assert_eq!(stem("a.sh"), "a");
    }
}
