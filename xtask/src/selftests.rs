//! `cargo xtask selftests`: the kernel's own tests of the bridge, without and with xbr.
//!
//! Every test that makes a bridge runs twice in a virtual machine, once as it is and once with `xbr run --all` in the
//! network namespaces that it uses. The cases and their verdicts have to be the same, and frames have to take the fast
//! path, or it is written down why not (`selftests/known.txt`).

mod catalogue;
mod frames;
mod known;
mod report;
mod results;
mod verdicts;
mod vms;

use std::{collections::BTreeMap, fs, io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use self::{catalogue::Test, results::Outcome, vms::Bench};
use crate::{
    cache::Scratch,
    proc,
    setup::{
        self,
        kernel::Kernel,
        suite::{self, Iproute, Suite},
    },
    test::{binaries, tally::Tally},
};

const AFTER_HELP: &str = "\
Examples:
  cargo xtask selftests --list                       the tests that there are
  cargo xtask selftests bridge_vlan                  those with bridge_vlan in their path
  cargo xtask selftests --kernel 6.1 forwarding/     those below forwarding, on kernel 6.1
  cargo xtask selftests --stored --markdown FILE     a page of the last results, without running anything

Logs and frame counts of every run stay in target/selftests/vKERNEL. The exit code is 0 if every test that ran said the
same without and with xbr and had frames on the fast path, apart from what xtask/src/selftests/known.txt explains.";

/// Arguments of `cargo xtask selftests`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Only tests with this in their path; several: any of them
    filter: Vec<String>,
    /// Series of the kernel and of its tests
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Only show which tests there are
    #[arg(long)]
    list: bool,
    /// Run nothing: show the last results
    #[arg(long)]
    stored: bool,
    /// Virtual machines at a time, of one processor each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    machines: u8,
    /// How often a test that differs is repeated; the last time counts, earlier ones are mentioned
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Write JSON to stdout instead of the table
    #[arg(short, long)]
    json: bool,
    /// Also write the results of all tests as a page to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Runs `cargo xtask selftests`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let suite = suite::ensure(args.kernel)?;
    let all = catalogue::all(&suite.dir)?;
    let tests = select(&all, &args.filter)?;
    if args.list {
        for test in &tests {
            println!("{}{}", test.path, test.left_out.map(|why| format!("  (left out: {why})")).unwrap_or_default());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let tests: Vec<Test> = tests.into_iter().filter(|test| test.left_out.is_none()).collect();
    let dir = results::dir(args.kernel)?;
    let (mut complaints, mut before) = (Vec::new(), BTreeMap::new());
    if !args.stored {
        if tests.is_empty() {
            bail!("all tests that match are left out: `cargo xtask selftests --list` says why");
        }
        setup::ebpf()?;
        let programs = binaries::programs()?;
        suite::tools();
        let own = copies(&programs)?;
        let bench = Bench {
            kernel: args.kernel,
            suite: &suite,
            iproute: &suite::iproute()?,
            dir: &dir,
            own: own.path(),
            machines: args.machines.into(),
            limit: None,
        };
        (complaints, before) = run(&bench, tests.clone(), args.repeat)?;
    }
    let mut outcomes = Vec::new();
    for test in &tests {
        match results::read(&dir, &test.path)? {
            Some(outcome) => {
                let before = before.remove(&test.path).unwrap_or_default();
                outcomes.push(Outcome { before, ..outcome });
            }
            None if args.stored => {}
            None => bail!("{} has no result: its virtual machine ended early, see {}", test.path, dir.display()),
        }
    }
    if outcomes.is_empty() {
        bail!("no results in {}: run `cargo xtask selftests --kernel {}` first", dir.display(), args.kernel);
    }
    if let Some(path) = &args.markdown {
        let page = page(args.kernel, &all, &dir)?;
        fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = if args.json {
        let list: Vec<_> = outcomes.iter().map(Outcome::json).collect();
        format!("{:#}\n", json!({"kernel": args.kernel.to_string(), "tests": list, "kernel_log": complaints}))
    } else {
        report::text(&outcomes)
    };
    // A reader that has seen enough, such as head(1), is no failure of the tests.
    let _ = std::io::stdout().write_all(text.as_bytes());
    for line in &complaints {
        eprintln!("selftests: kernel log: {line}");
    }
    let bad = outcomes.iter().filter(|outcome| !outcome.judge().good()).count();
    if bad > 0 {
        eprintln!("selftests: {bad} of {} tests differ; logs: {}", outcomes.len(), dir.display());
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tests whose path has one of the words in it; all without words.
fn select(all: &[Test], filter: &[String]) -> Result<Vec<Test>> {
    for word in filter {
        if !all.iter().any(|test| test.path.contains(word.as_str())) {
            bail!("no test that makes a bridge has \"{word}\" in its path: `cargo xtask selftests --list` shows all");
        }
    }
    let wanted = |test: &&Test| filter.is_empty() || filter.iter().any(|word| test.path.contains(word.as_str()));
    Ok(all.iter().filter(wanted).cloned().collect())
}

/// Copies of what is run in the virtual machines, which see the files of the host as they change.
fn copies(programs: &[(String, String)]) -> Result<Scratch> {
    let (_, xbr) = programs.iter().find(|(name, _)| name == "XBR_BIN").context("the build left no xbr")?;
    let own = Scratch::new("selftests")?;
    fs::copy(xbr, own.path().join("xbr")).with_context(|| format!("cannot copy {xbr}"))?;
    let guest = proc::repo().join("xtask/src/selftests/guest");
    proc::run_quiet(proc::command("cp").arg("-r").arg(guest).arg(own.path()))?;
    Ok(own)
}

/// What the kernel logs complained about, and by test the cases that differed before it was repeated.
type Ran = (Vec<String>, BTreeMap<String, Vec<String>>);

/// Runs the tests, and those that differ once more.
fn run(bench: &Bench<'_>, mut tests: Vec<Test>, repeat: u32) -> Result<Ran> {
    let about = about(bench)?;
    let (mut complaints, mut before) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
    for round in 0..=repeat {
        for test in &tests {
            results::forget(bench.dir, &test.path)?;
            results::note(bench.dir, &test.path, &about)?;
        }
        complaints.extend(bench.run(&tests)?);
        if round == repeat {
            break;
        }
        let mut again = Vec::new();
        for test in tests {
            // Without a result there is nothing to repeat: the machine ended early.
            let Some(outcome) = results::read(bench.dir, &test.path)? else { continue };
            let differs: Vec<String> = outcome.judge().differences.iter().map(ToString::to_string).collect();
            if !differs.is_empty() {
                eprintln!("selftests: {} differs, once more: {}", test.path, differs.join("; "));
                before.entry(test.path.clone()).or_default().extend(differs);
                again.push(test);
            }
        }
        if again.is_empty() {
            break;
        }
        tests = again;
    }
    Ok((complaints, before))
}

/// What is run: goes with every result.
fn about(bench: &Bench<'_>) -> Result<serde_json::Value> {
    let release = setup::vm(bench.kernel)?.release;
    let mut git = proc::command("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(proc::repo());
    let revision = proc::run_quiet(&mut git).map_or_else(|_no_git| "unknown".to_owned(), |out| out.trim().to_owned());
    let date = proc::run_quiet(proc::command("date").args(["-u", "+%Y-%m-%d"]))?;
    Ok(json!({
        "kernel": release,
        "suite": bench.suite.version,
        "iproute2": bench.iproute.version,
        "xbr": revision,
        "date": date.trim(),
    }))
}

/// The documentation's page of all stored results.
fn page(kernel: Kernel, all: &[Test], dir: &std::path::Path) -> Result<String> {
    let (mut outcomes, mut missing) = (Vec::new(), Vec::new());
    for test in all {
        match (test.left_out, results::read(dir, &test.path)?) {
            (None, Some(outcome)) => outcomes.push(outcome),
            (why, _) => missing.push((test.clone(), why.unwrap_or("not run yet").to_owned())),
        }
    }
    Ok(report::markdown(&kernel.to_string(), &outcomes, &missing))
}

/// How long the short tests may take in all; on a quiet machine it is five minutes.
const QUICK_LIMIT: Duration = Duration::from_mins(8);

/// Runs the short tests for `cargo xtask test`. `programs`: the variables that name the programs under test.
pub(crate) fn quick(programs: &[(String, String)]) -> Tally {
    let mut tally = Tally::default();
    let kernel = Kernel::V6_12;
    let (suite, iproute) = match suite::ensure(kernel).and_then(|suite| Ok((suite, suite::iproute()?))) {
        Ok(both) => both,
        Err(error) => {
            tally.skip("the kernel's own tests", &format!("{error:#}"));
            return tally;
        }
    };
    suite::tools();
    if let Err(error) = quick_run(&mut tally, kernel, &suite, &iproute, programs) {
        tally.fail(&format!("{error:#}"));
    }
    tally
}

fn quick_run(
    tally: &mut Tally,
    kernel: Kernel,
    suite: &Suite,
    iproute: &Iproute,
    programs: &[(String, String)],
) -> Result<()> {
    let dir = results::dir(kernel)?;
    let tests: Vec<Test> =
        catalogue::all(&suite.dir)?.into_iter().filter(|test| catalogue::QUICK.contains(&test.path.as_str())).collect();
    let own = copies(programs)?;
    let bench = Bench { kernel, suite, iproute, dir: &dir, own: own.path(), machines: 1, limit: Some(QUICK_LIMIT) };
    let (complaints, _) = run(&bench, tests.clone(), 0)?;
    for line in complaints {
        tally.fail(&format!("kernel log: {line}"));
    }
    for test in tests {
        match results::read(&dir, &test.path)? {
            None => tally.fail(&format!("{}: no result within {} s", test.path, QUICK_LIMIT.as_secs())),
            Some(outcome) => {
                let judgement = outcome.judge();
                let differences = judgement.differences.iter().map(ToString::to_string);
                let faults: Vec<String> = differences.chain(judgement.faults.iter().cloned()).collect();
                if faults.is_empty() {
                    tally.passed += 1;
                } else {
                    tally.fail(&format!("{}: {}", test.path, faults.join("; ")));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{catalogue::Test, select};

    #[test]
    fn a_word_that_matches_nothing_is_named() {
        let test = |path: &str| Test { path: path.to_owned(), limit: 1, left_out: None };
        let all = [test("forwarding/a.sh"), test("b.sh"), test("forwarding/c.sh")];
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(select(&all, &[]).map(|tests| tests.len()).ok(), Some(3));
        assert_eq!(select(&all, &words(&["ding/a", "b.sh"])).map(|tests| tests.len()).ok(), Some(2));
        let error = select(&all, &words(&["forwarding", "nothing"])).unwrap_err().to_string();
        assert!(error.contains("\"nothing\"") && error.contains("--list"), "{error}");
    }
}
