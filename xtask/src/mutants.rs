//! `cargo xtask mutants`: breaks one rule of the decision or the plan at a time, and sees that some test notices.

mod list;
mod pure;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::list::List;
use crate::{cache, proc, tool::Tool};

const CARGO_MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0" };

/// What is mutated: the files (a glob, from the folder of the package) that have to be noticed by the package's tests.
const PARTS: [Part; 2] = [
    Part { package: "bridge-common", files: "src/{decide,fdb,flow,frame,ip,mac,maps,tags}.rs", about: "the decision" },
    Part { package: "bridge-user", files: "src/{plan.rs,plan/*.rs}", about: "the plan" },
];

/// One package's share.
struct Part {
    package: &'static str,
    files: &'static str,
    about: &'static str,
}

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only mutants whose description matches this regular expression, e.g. plan/port
    filter: Option<String>,
}

/// What became of the mutants, a line each.
#[derive(Debug, Default)]
struct Outcome {
    missed: Vec<String>,
    caught: usize,
    unviable: usize,
}

/// Runs `cargo xtask mutants`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let list = List::read(&proc::repo().join("tests/mutants.toml"))?;
    let cargo_mutants = CARGO_MUTANTS.ensure()?;
    let mut outcome = Outcome::default();
    for part in &PARTS {
        run(part, &cargo_mutants, args.filter.as_deref(), &mut outcome)?;
    }
    let (listed, unlisted) = list.part(&outcome.missed);
    for mutant in &unlisted {
        println!("survives: {mutant}");
    }
    if args.filter.is_none() {
        for stale in list.stale(&outcome.missed) {
            println!("listed, but noticed by a test or gone: {stale}");
        }
    }
    println!(
        "mutants: {} caught, {} equivalent (tests/mutants.toml), {} survive, {} do not compile",
        outcome.caught,
        listed.len(),
        unlisted.len(),
        outcome.unviable
    );
    if outcome.caught + outcome.missed.len() == 0 {
        bail!("no mutant matches");
    }
    Ok(if unlisted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the mutants of one part, and the tests with each.
fn run(part: &Part, cargo_mutants: &Path, filter: Option<&str>, outcome: &mut Outcome) -> Result<()> {
    let Part { package, files, about } = part;
    eprintln!("mutants: {about} …");
    let scratch = cache::Scratch::new("mutants")?;
    let mut command = proc::command(cargo_mutants);
    command.args(["mutants", "--timeout", "300", "--no-times", "--colors", "never", "--no-shuffle"]);
    command.args(filter.iter().flat_map(|filter| ["--re", filter]));
    command.arg("--output").arg(scratch.path());
    if *package == "bridge-user" {
        // The whole package takes most of a minute to build, each time.
        command.args(["--file", files]).current_dir(pure::package(&scratch.path().join(package))?);
    } else {
        command.args(["--package", package, "--file", &format!("{package}/{files}")]).current_dir(proc::repo());
    }
    let status = command.status().with_context(|| format!("cannot run {}", proc::show(&command)))?;
    // 0: all caught; 2: some missed; 3: some ran out of time.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("{} failed: {status}", proc::show(&command));
    }
    let lines = |name: &str| read(&scratch.path().join("mutants.out").join(name));
    let name = |mutant: String| if mutant.starts_with("src/") { format!("{package}/{mutant}") } else { mutant };
    outcome.missed.extend(lines("missed.txt")?.into_iter().map(name));
    // Who runs out of time loops for ever, which a test notices.
    outcome.caught += lines("caught.txt")?.len() + lines("timeout.txt")?.len();
    outcome.unviable += lines("unviable.txt")?.len();
    Ok(())
}

/// The lines of a file of cargo-mutants; none if there is no such file, as where nothing matched the filter.
fn read(path: &Path) -> Result<Vec<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
