//! `cargo xtask lint`: formatting and clippy, warnings counted as errors.

use std::process::{Command, ExitCode};

use crate::{proc, test::tally::Tally};

/// Runs `cargo xtask lint`.
pub(crate) fn main() -> ExitCode {
    let tally = run();
    println!("{}", tally.line("lint"));
    tally.exit_code()
}

/// Runs all checks, and shows what a failing one says.
pub(crate) fn run() -> Tally {
    let mut tally = Tally::default();
    check(&mut tally, "fmt", &["fmt", "--all", "--check"]);
    check(&mut tally, "clippy", &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]);
    // For the host, with the stable compiler: the nightly that may build the object has other lints every week.
    check(&mut tally, "clippy", &["clippy", "--quiet", "--package", "bridge-ebpf", "--", "-D", "warnings"]);
    tally
}

/// Runs one check; `tool` is its subcommand of cargo.
fn check(tally: &mut Tally, tool: &str, args: &[&str]) {
    let shown = format!("cargo {}", args.join(" "));
    if !proc::cargo().args([tool, "--version"]).output().is_ok_and(|output| output.status.success()) {
        tally.skip(&shown, &format!("there is no cargo-{tool}: `rustup component add {tool}`"));
        return;
    }
    eprintln!("lint: {shown} …");
    // Clippy looks at the embedded object only as a file that is there.
    let ended = proc::run(command(args).env("AYA_BUILD_SKIP", "1"));
    match ended {
        Ok(()) => tally.passed += 1,
        Err(error) => tally.fail(&format!("{error:#}")),
    }
}

/// A cargo with these arguments.
fn command(args: &[&str]) -> Command {
    let mut cargo = proc::cargo();
    cargo.args(args);
    cargo
}
