//! Test binaries on the kernel that runs.

use std::time::Instant;

use crate::{
    proc,
    test::{
        binaries::{Binary, Built},
        tally::Tally,
        vms::SLOWEST,
    },
};

/// Seconds that one binary may take.
const LIMIT: u32 = 1800;

/// Runs those binaries that `choose` picks.
pub(crate) fn run(built: &Built, choose: impl Fn(&Binary) -> bool, filter: Option<&str>, root: bool) -> Tally {
    let mut tally = Tally::default();
    for binary in built.tests.iter().filter(|binary| choose(binary)) {
        let start = Instant::now();
        let part = one(built, binary, filter, root);
        if !part.is_empty() {
            eprintln!("  {} ({:.1} s)", part.line(&binary.to_string()), start.elapsed().as_secs_f32());
        }
        tally.add(part, "");
    }
    tally
}

/// Runs one binary. What it says is shown if something in it fails.
fn one(built: &Built, binary: &Binary, filter: Option<&str>, root: bool) -> Tally {
    let name = binary.to_string();
    let mut command = if root {
        match proc::as_root("timeout", "this ring") {
            Ok(command) => command,
            Err(error) => {
                let mut tally = Tally::default();
                tally.skip(&name, &format!("{error:#}"));
                return tally;
            }
        }
    } else {
        proc::command("timeout")
    };
    // Both outputs in one pipe, so that they keep their order.
    command.args(["-k", "10", &LIMIT.to_string(), "sh", "-c", "exec \"$@\" 2>&1", "sh"]).arg(&binary.path);
    command.arg("--show-output").args(filter).current_dir(&binary.dir);
    command.env("CARGO_MANIFEST_DIR", &binary.dir).envs(built.programs.iter().map(|(name, value)| (name, value)));
    match proc::capture(&mut command) {
        Err(error) => {
            let mut tally = Tally::default();
            tally.fail(&format!("{name}: {error:#}"));
            tally
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let tally = Tally::read(&text, &name, output.status.code());
            for line in text.lines().filter(|line| line.starts_with(SLOWEST)) {
                eprintln!("  {line}");
            }
            if tally.failed > 0 {
                eprintln!("---- {name} ----\n{}\n---- end of {name} ----", text.trim_end());
            }
            tally
        }
    }
}
