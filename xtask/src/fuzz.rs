//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz`, for as long as one likes.
//!
//! Not in `cargo xtask test`: there the corpus is replayed and damaged at random, on stable Rust, in seconds; the fuzzer
//! would build all dependencies once more, with instrumentation.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{proc, tool::Tool};

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

/// The longest input, in bytes: no message that matters is longer.
const MAX_LEN: u32 = 4096;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target: a folder of `tests/fuzz/corpus`. Without it: all, one after the other
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u32,
    /// Build with the address sanitizer, which needs a nightly toolchain. Nothing that is fuzzed has unsafe code
    #[arg(long)]
    asan: bool,
    /// Put what reaches new code into the repository's corpus, as few inputs as possible, instead of fuzzing
    #[arg(long)]
    minimise: bool,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let corpus = proc::repo().join("tests/fuzz/corpus");
    let targets = targets(&corpus, args.target.as_deref())?;
    let cargo_fuzz = CARGO_FUZZ.ensure()?;
    let mut failed = Vec::new();
    for target in &targets {
        let found = proc::repo().join("target/fuzz/found").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let seeds = corpus.join(target);
        let mut command = cargo_fuzz_run(&cargo_fuzz, args.asan, target);
        if args.minimise {
            command.arg(&seeds).arg(&found).args(["--", "-merge=1"]);
        } else {
            // What is new goes to the first folder.
            command.arg(&found).arg(&seeds).arg("--");
            command.args([format!("-max_total_time={}", args.seconds), format!("-max_len={MAX_LEN}")]);
            command.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        }
        eprintln!("fuzz: {target} …");
        match proc::run(&mut command) {
            Ok(()) => println!("fuzz: {target}: passed"),
            Err(error) => {
                println!("fuzz: {target}: failed: {error:#}");
                failed.push(target.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let dir = "tests/fuzz/artifacts";
    bail!(
        "{} failed; the inputs are in {dir}: mend the cause and keep the input in {}",
        failed.join(", "),
        corpus.display()
    )
}

/// The targets asked for. Every target has a folder.
fn targets(corpus: &Path, wanted: Option<&str>) -> Result<Vec<String>> {
    let mut known = Vec::new();
    for entry in fs::read_dir(corpus).with_context(|| format!("cannot read {}", corpus.display()))? {
        known.extend(entry?.file_name().into_string().ok());
    }
    known.sort();
    match wanted {
        None => Ok(known),
        Some(name) if known.iter().any(|other| other == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("there is no fuzz target {name}: use {}", known.join(", ")),
    }
}

/// `cargo fuzz run TARGET`, with a build beside the others.
fn cargo_fuzz_run(program: &PathBuf, asan: bool, target: &str) -> Command {
    let mut command = proc::command(program);
    // As cargo would call it.
    command.args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--target-dir", "target/fuzz"]);
    if asan {
        command.env("RUSTUP_TOOLCHAIN", "nightly");
    } else {
        // Coverage alone is stable; cargo-fuzz passes no unstable flag then.
        command.args(["--sanitizer", "none"]);
    }
    // The targets load no program into the kernel.
    command.arg(target).env("AYA_BUILD_SKIP", "1").current_dir(proc::repo());
    command
}
