//! `cargo xtask mutants`: breaks one rule of the decision or the plan at a time, and sees that some test notices.

mod list;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::list::List;
use crate::{cache, proc, tool::Tool};

const CARGO_MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0" };

/// What is mutated, and by the tests of which package it has to be noticed.
const PARTS: [Part; 2] = [
    Part {
        package: "bridge-common",
        files: "bridge-common/src/{decide,frame,mac,maps}.rs",
        // The property tests take longer than the build.
        profile: "dev",
        arguments: &[],
        about: "the decision",
    },
    Part {
        package: "bridge-user",
        files: "bridge-user/src/{plan.rs,plan/*.rs}",
        profile: "mutants",
        arguments: &["--lib", "plan::"],
        about: "the plan",
    },
];

/// One package's share.
struct Part {
    package: &'static str,
    /// A glob.
    files: &'static str,
    /// Profile of the build.
    profile: &'static str,
    /// More arguments for `cargo test`.
    arguments: &'static [&'static str],
    about: &'static str,
}

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only mutants whose description matches this regular expression, e.g. plan/port
    filter: Option<String>,
}

/// Runs `cargo xtask mutants`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let list = List::read(&proc::repo().join("tests/mutants.toml"))?;
    let cargo_mutants = CARGO_MUTANTS.ensure()?;
    let mut missed = Vec::new();
    let (mut caught, mut unviable) = (0, 0);
    for part in &PARTS {
        eprintln!("mutants: {} …", part.about);
        let scratch = cache::Scratch::new("mutants")?;
        let mut command = proc::command(&cargo_mutants);
        command.args(["mutants", "--package", part.package, "--file", part.files, "--timeout", "300", "--no-times"]);
        command.args(["--colors", "never", "--no-shuffle", "--profile", part.profile]).arg("--output");
        command.arg(scratch.path());
        command.args(args.filter.iter().flat_map(|filter| ["--re", filter]));
        command.arg("--").args(part.arguments).env("AYA_BUILD_SKIP", "1").current_dir(proc::repo());
        let status = command.status().with_context(|| format!("cannot run {}", proc::show(&command)))?;
        // 0: all caught; 2: some missed; 3: some ran out of time, which counts as caught: they would loop for ever.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("{} failed: {status}", proc::show(&command));
        }
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = scratch.path().join("mutants.out").join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
                // Nothing matched the filter.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
            }
        };
        missed.extend(lines("missed.txt")?);
        caught += lines("caught.txt")?.len() + lines("timeout.txt")?.len();
        unviable += lines("unviable.txt")?.len();
    }
    let (listed, unlisted) = list.part(&missed);
    for mutant in &unlisted {
        println!("survives: {mutant}");
    }
    if args.filter.is_none() {
        for stale in list.stale(&missed) {
            println!("listed, but noticed by a test or gone: {stale}");
        }
    }
    println!(
        "mutants: {caught} caught, {} equivalent (tests/mutants.toml), {} survive, {unviable} do not compile",
        listed.len(),
        unlisted.len()
    );
    if caught + listed.len() + unlisted.len() == 0 {
        bail!("no mutant matches");
    }
    Ok(if unlisted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
