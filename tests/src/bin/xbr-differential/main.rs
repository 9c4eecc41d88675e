//! `xbr-differential`: random scenarios with and without xbr, everything that is delivered compared.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use xbr_tests::{
    differential::{
        campaign::{self, Plan},
        scenario::Scenario,
    },
    probe::Need,
};

/// Something was delivered in another way than by the plain bridge.
const EXIT_DIFFERS: u8 = 1;
/// The test itself could not be carried out.
const EXIT_BROKEN: u8 = 2;

/// Plays random scenarios with and without xbr and compares what is delivered, byte by byte and port by port.
///
/// Exit code 0: nothing differs; 1: something does; 2: the test could not be carried out.
#[derive(Parser)]
#[command(name = "xbr-differential", version)]
struct Arguments {
    /// How many scenarios
    #[arg(long, default_value_t = 200)]
    scenarios: u64,
    /// Seed of the first scenario; the others follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worlds side by side
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Stop after so many scenarios that differ
    #[arg(long, default_value_t = 10)]
    stop_after: u64,
    /// Say at once what differs, and neither repeat the scenario nor make it small
    #[arg(long)]
    as_is: bool,
    /// Seconds after which no more scenarios are begun
    #[arg(long)]
    limit: Option<u64>,
    /// Folder for scenarios that differ, made small
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Play this scenario file instead (repeatable)
    #[arg(long)]
    replay: Vec<PathBuf>,
    /// Show the scenario of the seed and play nothing
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xbr-differential: {error:#}");
            ExitCode::from(EXIT_BROKEN)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    for need in [Need::Root, Need::Tun] {
        if !need.met() {
            bail!("{need}");
        }
    }
    if !arguments.replay.is_empty() {
        return replay(&arguments.replay);
    }
    if arguments.show {
        let can = xbr_tests::differential::generate::Abilities::probe();
        print!("{}", xbr_tests::differential::generate::generate(arguments.seed, can).text()?);
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan {
        scenarios: arguments.scenarios,
        seed: arguments.seed,
        jobs: arguments.jobs,
        stop_after: arguments.stop_after,
        keep: arguments.keep.clone(),
        as_is: arguments.as_is,
        limit: arguments.limit.map(Duration::from_secs),
    };
    println!("{}", campaign::describe(&plan));
    let account = campaign::run(&plan, &|line| println!("{line}"))?;
    print!("{}", account.text());
    for (what, count) in &account.score.refused {
        println!("refused by both kernels, {count} times: {what}");
    }
    Ok(if account.differing > 0 {
        ExitCode::from(EXIT_DIFFERS)
    } else if account.clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_BROKEN)
    })
}

fn replay(files: &[PathBuf]) -> Result<ExitCode> {
    let mut differs = false;
    for file in files {
        let scenario = Scenario::load(file)?;
        if let Some(need) = scenario.needs().into_iter().find(|need| !need.met()) {
            println!("skipped: {}: {need}", file.display());
            continue;
        }
        let (divergences, score) = campaign::replay(&scenario)?;
        println!(
            "{}: {} frames, {} of {} eligible ones fast, {} divergences",
            file.display(),
            score.frames,
            score.fast_eligible,
            score.eligible,
            divergences.len()
        );
        for divergence in &divergences {
            println!("  {divergence}");
        }
        differs |= !divergences.is_empty();
    }
    Ok(if differs { ExitCode::from(EXIT_DIFFERS) } else { ExitCode::SUCCESS })
}
