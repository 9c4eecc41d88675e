//! Many scenarios in a row: worlds are made and renewed, differences made small and kept, the account is drawn up.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use super::{
    compare::{Divergence, Kind},
    generate::{Abilities, generate, xdp_ports},
    minimise::minimise,
    scenario::Scenario,
    world::{Score, World},
};

/// A scenario that differs is played so often again, to see whether it always does.
const REPEATS: usize = 3;

/// So many scenarios in a row go to the same world.
const BLOCK: u64 = 16;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of scenarios.
    pub scenarios: u64,
    /// Seed of the first; each following one has the next number.
    pub seed: u64,
    /// Worlds side by side.
    pub jobs: u64,
    /// Stop after so many scenarios that differ.
    pub stop_after: u64,
    /// Folder for scenarios that differ, made small.
    pub keep: Option<PathBuf>,
    /// Scenarios that differ are kept as they are, at once.
    pub as_is: bool,
    /// No more scenarios are begun after this time.
    pub limit: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Scenarios that were played.
    pub scenarios: u64,
    /// Scenarios that differed.
    pub differing: u64,
    /// Scenarios in which the machinery failed: nothing is known of them.
    pub broken: u64,
    /// Differences by kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// One text for each scenario that differed or broke.
    pub reports: Vec<String>,
    /// The numbers of all.
    pub score: Score,
    /// How long it took.
    pub took: Duration,
}

impl Account {
    /// The share of eligible frames that were fast, in percent.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub fn share(&self) -> f64 {
        if self.score.eligible == 0 {
            return 0.0;
        }
        100.0 * self.score.fast_eligible as f64 / self.score.eligible as f64
    }

    /// Frames that arrived where the plain bridge did not deliver them.
    pub fn leaks(&self) -> u64 {
        self.kinds.get(&Kind::Leak).copied().unwrap_or(0)
    }

    /// Whether nothing differed and nothing broke.
    pub fn clean(&self) -> bool {
        self.scenarios > 0 && self.differing == 0 && self.broken == 0
    }

    fn add(&mut self, other: Self) {
        self.scenarios += other.scenarios;
        self.differing += other.differing;
        self.broken += other.broken;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.reports.extend(other.reports);
        self.score.add(&other.score);
    }

    /// The account in lines.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let score = &self.score;
        let divergences: u64 = self.kinds.values().sum();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} scenarios in {:.0} s: {} differ ({divergences} divergences, {} leaks among them), {} broke",
            self.scenarios,
            self.took.as_secs_f32(),
            self.differing,
            self.leaks(),
            self.broken
        );
        let _ = writeln!(
            text,
            "{} frames, {} deliveries; {} eligible for the fast path, {} of them fast ({:.2} %); {} fast in all",
            score.frames,
            score.deliveries,
            score.eligible,
            score.fast_eligible,
            self.share(),
            score.fast
        );
        let list = |map: &BTreeMap<String, u64>| {
            map.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        if !score.missed.is_empty() {
            let _ = writeln!(text, "reasons on ports with eligible frames that were not fast: {}", list(&score.missed));
        }
        text
    }
}

/// Plays all scenarios of a plan; `progress` hears of each that differs, and now and then how far it is.
pub fn run(plan: &Plan, progress: &(dyn Fn(&str) + Sync)) -> Result<Account> {
    let start = Instant::now();
    let can = Abilities::probe();
    let (next, differing) = (AtomicU64::new(0), AtomicU64::new(0));
    let worker = || -> Result<Account> {
        let mut player = Player { can, plan, world: None, progress, account: Account::default() };
        loop {
            let first = next.fetch_add(BLOCK, Ordering::Relaxed);
            for number in first..(first + BLOCK).min(plan.scenarios) {
                let late = plan.limit.is_some_and(|limit| start.elapsed() > limit);
                if late || differing.load(Ordering::Relaxed) >= plan.stop_after {
                    return Ok(player.account);
                }
                if !player.one(plan.seed + number)? {
                    differing.fetch_add(1, Ordering::Relaxed);
                }
                if (number + 1).is_multiple_of(100) {
                    progress(&format!(
                        "scenario {} of {}, {:.0} s, {} differ or broke",
                        number + 1,
                        plan.scenarios,
                        start.elapsed().as_secs_f32(),
                        differing.load(Ordering::Relaxed)
                    ));
                }
            }
            if first >= plan.scenarios {
                return Ok(player.account);
            }
        }
    };
    let accounts = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_panic| anyhow!("a thread panicked")).and_then(|result| result))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut account = Account::default();
    for part in accounts {
        account.add(part);
    }
    account.took = start.elapsed();
    Ok(account)
}

/// Plays one scenario in a world of its own; its differences.
pub fn replay(scenario: &Scenario) -> Result<(Vec<Divergence>, Score)> {
    let mut world = World::new(&scenario.xdp)?;
    let outcome = world.play(scenario)?;
    Ok((outcome.divergences, outcome.score))
}

struct Player<'a> {
    can: Abilities,
    plan: &'a Plan,
    world: Option<World>,
    progress: &'a (dyn Fn(&str) + Sync),
    account: Account,
}

impl Player<'_> {
    /// Plays the scenario of a seed; false if it differs or breaks.
    fn one(&mut self, seed: u64) -> Result<bool> {
        let scenario = generate(seed, self.can);
        self.account.scenarios += 1;
        match self.play(&scenario) {
            Ok(outcome) => {
                self.account.score.add(&outcome.score);
                if outcome.divergences.is_empty() {
                    return Ok(true);
                }
                self.account.differing += 1;
                for divergence in &outcome.divergences {
                    *self.account.kinds.entry(divergence.kind).or_default() += 1;
                }
                let report = self.explain(&scenario, &outcome.divergences)?;
                (self.progress)(&report);
                self.account.reports.push(report);
            }
            Err(error) => {
                self.account.broken += 1;
                let report = format!("seed {seed} broke: {error:#}");
                (self.progress)(&report);
                self.account.reports.push(report);
            }
        }
        Ok(false)
    }

    fn play(&mut self, scenario: &Scenario) -> Result<super::world::Outcome> {
        if self.world.as_ref().is_none_or(|world| !world.suits(scenario)) {
            self.world = None;
            self.world = Some(World::new(&scenario.xdp)?);
        }
        let world = self.world.as_mut().context("there is a world")?;
        let result = world.play(scenario);
        if let Err(error) = result {
            let log = world.log();
            self.world = None;
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            return Err(error.context(format!("xbr: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" | "))));
        }
        result
    }

    /// Makes a scenario that differs small, keeps it, and says what differs.
    fn explain(&mut self, scenario: &Scenario, divergences: &[Divergence]) -> Result<String> {
        let mut report = format!("seed {} differs:", scenario.seed);
        for divergence in divergences.iter().take(4) {
            write!(report, "\n  {divergence}")?;
        }
        if self.plan.as_is {
            return Ok(report);
        }
        // Only what differs in the same way counts: making it small must not find another fault.
        let kinds: Vec<Kind> = divergences.iter().map(|divergence| divergence.kind).collect();
        let mut fails = |candidate: &Scenario| {
            self.play(candidate)
                .is_ok_and(|outcome| outcome.divergences.iter().any(|divergence| kinds.contains(&divergence.kind)))
        };
        let again = (0..REPEATS).filter(|_| fails(scenario)).count();
        write!(report, "\n  again in {again} of {REPEATS} repetitions")?;
        let mut small = if again == REPEATS { minimise(scenario, &mut fails) } else { scenario.clone() };
        let last = self.play(&small).map(|outcome| outcome.divergences).unwrap_or_default();
        small.about = last.first().or(divergences.first()).map(ToString::to_string).unwrap_or_default();
        write!(report, "\n  small: {} steps, {} frames: {}", small.steps.len(), small.frames(), small.about)?;
        if let Some(folder) = &self.plan.keep {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            let path = folder.join(format!("seed-{}.json", scenario.seed));
            fs::write(&path, small.text()?).with_context(|| format!("write {}", path.display()))?;
            write!(report, "\n  kept as {}", path.display())?;
        } else {
            write!(report, "\n{}", small.text()?)?;
        }
        Ok(report)
    }
}

/// The worlds that a plan needs, for people.
pub fn describe(plan: &Plan) -> String {
    let missing = Abilities::probe().missing();
    let limits = if missing.is_empty() { String::new() } else { format!("; left out: {}", missing.join("; ")) };
    format!(
        "scenarios {} to {} (XDP on {:?} in the first){limits}",
        plan.seed,
        plan.seed + plan.scenarios.saturating_sub(1),
        xdp_ports(plan.seed)
    )
}
