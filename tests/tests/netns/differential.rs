//! Two universes, one with xbr: a few random scenarios of fixed seeds, and those that once went wrong. `cargo xtask
//! differential` plays many more.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    differential::{
        campaign::{self, Plan},
        scenario::Scenario,
    },
    probe::Need,
    wait::emulated,
};

use super::{Test, test};

pub(crate) const TESTS: &[Test] = &[
    test("differential::random_scenarios", random_scenarios, &[Need::Tun]),
    test("differential::regressions", regressions, &[Need::Tun]),
];

/// Scenarios of each run; under emulation each takes several times as long.
const SCENARIOS: u64 = 40;
const SCENARIOS_EMULATED: u64 = 24;
/// No more scenarios are begun after this time: a slow machine plays fewer.
const LIMIT: Duration = Duration::from_secs(40);
/// The least share of eligible frames that are fast, in percent: fewer, and nothing much was tested. Of the hundred frames
/// that a slow machine gets to, one scenario that keeps a port slow may take a tenth.
const SHARE: f64 = 75.0;

fn random_scenarios() -> Result<()> {
    let plan = Plan {
        scenarios: if emulated() { SCENARIOS_EMULATED } else { SCENARIOS },
        seed: 1,
        jobs: 2,
        stop_after: 1,
        keep: None,
        as_is: false,
        limit: Some(LIMIT),
    };
    println!("{}", campaign::describe(&plan));
    let account = campaign::run(&plan, &|line| println!("{line}"))?;
    println!("{}", account.text());
    ensure!(account.clean(), "{}", account.reports.join("\n"));
    ensure!(account.share() >= SHARE, "{}", account.text());
    Ok(())
}

/// Every file in `tests/regressions` is played; the kernel may lack what some need.
fn regressions() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    let mut failures = Vec::new();
    for file in &files {
        let scenario = Scenario::load(file)?;
        if let Some(need) = scenario.needs().into_iter().find(|need| !need.met()) {
            println!("skipped: {}: {need}", file.display());
            continue;
        }
        let (divergences, _) = campaign::replay(&scenario).with_context(|| file.display().to_string())?;
        failures.extend(divergences.iter().map(|divergence| format!("{}: {divergence}", file.display())));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
