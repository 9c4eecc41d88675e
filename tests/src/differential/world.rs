//! Both universes, and a scenario played in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    compare::{Delivery, Divergence, Kind, compare, equal},
    daemon::{Daemon, PortCount, counts},
    eligible::{Exempt, Wanted, eligible},
    scenario::{Scenario, Step},
    spec::Spec,
    universe::Universe,
};
use crate::wait::slowness;

/// How long a frame that the plain bridge has delivered may take with xbr before the next one is sent.
const FRAME: Duration = Duration::from_millis(30);
/// How long the universes may take to agree after the last frame.
const AGREE: Duration = Duration::from_millis(600);
/// How long a port has to be in the same state in both universes where it does not come to the one that is awaited. The
/// carrier may be noticed a second late.
const SAME: Duration = Duration::from_millis(1500);
/// How long a condition in the kernel may take.
const CONDITION: Duration = Duration::from_secs(8);

/// What a scenario came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// All differences.
    pub divergences: Vec<Divergence>,
    /// What was counted.
    pub score: Score,
}

/// Numbers over one scenario or many.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Frames sent in each universe.
    pub frames: u64,
    /// Deliveries of the plain bridge.
    pub deliveries: u64,
    /// Frames that should take the fast path.
    pub eligible: u64,
    /// Frames that would be eligible, had xbr not sent them to the bridge to keep the source's entry alive.
    pub refreshed: u64,
    /// Of these, as many as were fast from the same port in the same step.
    pub fast_eligible: u64,
    /// All frames that were fast.
    pub fast: u64,
    /// Of the eligible frames that were not fast: no more than so many, by the reason that xbr gives.
    pub missed: BTreeMap<String, u64>,
    /// Commands that both kernels refused, by their first words.
    pub refused: BTreeMap<String, u64>,
}

impl Score {
    /// Adds another score.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.deliveries += other.deliveries;
        self.eligible += other.eligible;
        self.refreshed += other.refreshed;
        self.fast_eligible += other.fast_eligible;
        self.fast += other.fast;
        for (mine, theirs) in [(&mut self.missed, &other.missed), (&mut self.refused, &other.refused)] {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// A plain universe, and one with xbr.
#[derive(Debug)]
pub struct World {
    plain: Universe,
    fast: Universe,
    daemon: Option<Daemon>,
    xdp: Vec<String>,
    number: u32,
    exempt: Exempt,
}

impl World {
    /// Two universes; xbr serves these ports by XDP.
    pub fn new(xdp: &[String]) -> Result<Self> {
        let plain = Universe::new()?;
        let fast = Universe::new()?;
        let daemon = Daemon::start(&fast.host, xdp)?;
        Ok(Self { plain, fast, daemon: Some(daemon), xdp: xdp.to_vec(), number: 0, exempt: Exempt::default() })
    }

    /// Whether this scenario can be played here, as far as xbr's options matter.
    pub fn suits(&self, scenario: &Scenario) -> bool {
        self.xdp == scenario.xdp
    }

    /// What xbr wrote.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Plays a scenario from a clean state. An error means that the machinery failed; then this world is spoilt.
    pub fn play(&mut self, scenario: &Scenario) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        self.number = 0;
        self.exempt = Exempt::default();
        let mut settled = false;
        for (place, step) in scenario.steps.iter().enumerate() {
            self.step(place, step, &mut settled, &mut outcome).with_context(|| format!("step {place}: {step}"))?;
        }
        self.plain.clear()?;
        self.fast.clear()?;
        self.plain.cleared()?;
        self.fast.cleared()?;
        Ok(outcome)
    }

    fn step(&mut self, place: usize, step: &Step, settled: &mut bool, outcome: &mut Outcome) -> Result<()> {
        match step {
            Step::Frames(frames) => {
                let status = if *settled { self.daemon()?.status()? } else { self.settle()? };
                *settled = false;
                return self.frames(place, frames, &status, outcome);
            }
            Step::Restart(kill) => {
                if let Some(daemon) = self.daemon.take() {
                    daemon.end(*kill)?;
                }
                self.daemon = Some(Daemon::start(&self.fast.host, &self.xdp)?);
            }
            Step::Await(conditions) => {
                for condition in conditions {
                    let (port, state) = condition.split_once(' ').context("a condition is PORT STATE")?;
                    self.await_state(port, state)?;
                }
            }
            Step::Age => {
                await_age(&mut self.plain)?;
                await_age(&mut self.fast)?;
            }
            Step::Ip(lines) | Step::Bridge(lines) | Step::Fdb(lines) | Step::Far(lines) => {
                self.lines(place, step, lines, outcome)?;
            }
        }
        let carriers = |lines: &[String]| lines.iter().any(|line| line.ends_with(" up") || line.ends_with(" down"));
        if matches!(step, Step::Ip(lines) | Step::Far(lines) if carriers(lines)) {
            self.steady()?;
        }
        *settled = matches!(step, Step::Fdb(_));
        Ok(())
    }

    fn lines(&mut self, place: usize, step: &Step, lines: &[String], outcome: &mut Outcome) -> Result<()> {
        for line in lines {
            self.exempt.note(line);
        }
        let tools = match step {
            Step::Ip(_) => [&mut self.plain.ip, &mut self.fast.ip],
            Step::Far(_) => [&mut self.plain.far_ip, &mut self.fast.far_ip],
            Step::Bridge(_) | Step::Fdb(_) | Step::Await(_) | Step::Age | Step::Restart(_) | Step::Frames(_) => {
                [&mut self.plain.bridge, &mut self.fast.bridge]
            }
        };
        let [plain, fast] = tools;
        plain.tell(lines)?;
        fast.tell(lines)?;
        let (plain, fast) = (plain.finish()?, fast.finish()?);
        let lines_of = |failed: &[(usize, String)]| failed.iter().map(|(line, _)| *line).collect::<BTreeSet<_>>();
        for line in lines_of(&plain.failed).symmetric_difference(&lines_of(&fast.failed)) {
            let message = |failed: &[(usize, String)]| {
                failed.iter().find(|(at, _)| at == line).map_or("done".to_owned(), |(_, message)| message.clone())
            };
            let text = lines.get(*line).map_or("?", String::as_str);
            let what = format!("`{text}`: {}, with xbr {}", message(&plain.failed), message(&fast.failed));
            outcome.divergences.push(Divergence { kind: Kind::Result, step: place, what });
        }
        for (line, message) in plain.failed {
            let text = lines.get(line).map_or("?", String::as_str);
            *outcome.score.refused.entry(format!("{}: {message}", kind_of_line(text))).or_default() += 1;
        }
        self.plain.listen();
        self.fast.listen();
        Ok(())
    }

    /// Waits until changes of carriers are through in both universes.
    fn steady(&mut self) -> Result<()> {
        let start = Instant::now();
        while !(self.plain.steady()? && self.fast.steady()?) && start.elapsed() < SAME * slowness() {
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits until a port is in a state in both universes. Where something else keeps it from that state (the bridge is
    /// down), being in the same state for long is as good.
    fn await_state(&mut self, port: &str, state: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let (plain, fast) = (port_state(&mut self.plain, port)?, port_state(&mut self.fast, port)?);
            let there = plain == fast && plain.as_deref() == Some(state);
            if there || (plain == fast && start.elapsed() > SAME * slowness()) {
                return Ok(());
            }
            if start.elapsed() > CONDITION * slowness() {
                bail!("{port} is {plain:?} in one universe and {fast:?} in the other");
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("xbr does not run")
    }

    fn settle(&mut self) -> Result<Value> {
        let entries = self.fast.fdb()?.counts;
        self.daemon()?.settle(&entries)
    }

    fn frames(&mut self, place: usize, frames: &[Spec], status: &Value, outcome: &mut Outcome) -> Result<()> {
        let fdb = self.plain.fdb()?;
        let first = self.number;
        let number = |frame: usize| first + u32::try_from(frame).unwrap_or(0);
        self.number = number(frames.len());
        let (mut plain, mut fast) = (Vec::new(), Vec::new());
        let mut errors = Vec::with_capacity(frames.len());
        for (frame, spec) in frames.iter().enumerate() {
            errors.push(self.plain.send(spec, number(frame))?);
            drained();
            collect(&mut self.plain, frame, &mut plain)?;
        }
        for (frame, spec) in frames.iter().enumerate() {
            let sent = self.fast.send(spec, number(frame))?;
            drained();
            if sent != errors[frame] {
                let what = format!("sending [{spec}]: {:?}, with xbr {sent:?}", errors[frame]);
                outcome.divergences.push(Divergence { kind: Kind::Result, step: place, what });
            }
            let wanted = plain.iter().filter(|delivery| delivery.frame == frame).count();
            let (before, start) = (fast.len(), Instant::now());
            loop {
                collect(&mut self.fast, frame, &mut fast)?;
                if fast.len() - before >= wanted || start.elapsed() > FRAME * slowness() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        let start = Instant::now();
        while !equal(&plain, &fast) && start.elapsed() < AGREE * slowness() {
            sleep(Duration::from_millis(2));
            let last = frames.len().saturating_sub(1);
            collect(&mut self.plain, last, &mut plain)?;
            collect(&mut self.fast, last, &mut fast)?;
        }
        outcome.divergences.extend(compare(place, frames, &plain, &fast));
        let after = self.daemon()?.status()?;
        let eligible = eligible(frames, &fdb, &plain, &self.exempt);
        score(frames, &eligible, &plain, &counts(status), &counts(&after), &mut outcome.score);
        Ok(())
    }
}

/// Waits until no processor has frames in its queue: on a busy machine one that is sent later, by a tap, would be seen first.
fn drained() {
    let start = Instant::now();
    while waiting() && start.elapsed() < FRAME * slowness() {
        std::thread::yield_now();
    }
}

/// Whether frames wait for a processor (`softnet_backlog_len` in `/proc/net/softnet_stat`, one line for each).
fn waiting() -> bool {
    const BACKLOG: usize = 11;
    let lines = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let length =
        |line: &str| line.split_whitespace().nth(BACKLOG).map(|field| !field.trim_start_matches('0').is_empty());
    lines.lines().any(|line| length(line).unwrap_or(false))
}

/// Takes what has arrived.
fn collect(universe: &mut Universe, frame: usize, into: &mut Vec<Delivery>) -> Result<()> {
    into.extend(universe.receive()?.into_iter().map(|(receiver, caught)| Delivery { frame, receiver, caught }));
    Ok(())
}

/// Counts eligible frames, and how many frames were fast.
fn score(
    frames: &[Spec],
    eligible: &BTreeMap<&'static str, Wanted>,
    plain: &[Delivery],
    before: &BTreeMap<String, PortCount>,
    after: &BTreeMap<String, PortCount>,
    score: &mut Score,
) {
    score.frames += frames.len() as u64;
    score.deliveries += plain.len() as u64;
    let none = PortCount::default();
    for (port, count) in after {
        let old = before.get(port).unwrap_or(&none);
        let fast = count.fast.saturating_sub(old.fast);
        let grown = |reason: &str| {
            let read = |count: &PortCount| count.reasons.get(reason).copied().unwrap_or(0);
            read(count).saturating_sub(read(old))
        };
        // One frame of each source may keep its entry alive.
        let wanted = eligible.get(port.as_str()).map_or(0, |wanted| {
            let refreshed = grown("refresh").min(wanted.sources.len() as u64);
            score.refreshed += refreshed.min(wanted.frames);
            wanted.frames.saturating_sub(refreshed)
        });
        score.fast += fast;
        score.eligible += wanted;
        score.fast_eligible += fast.min(wanted);
        if fast >= wanted {
            continue;
        }
        for reason in count.reasons.keys().filter(|reason| !reason.starts_with("forwarded")) {
            *score.missed.entry(reason.clone()).or_default() += grown(reason).min(wanted - fast);
        }
    }
}

/// The words of a command that say what kind it is.
fn kind_of_line(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(6).collect::<Vec<_>>().join(" ")
}

/// The state of a port as the bridge tells it; `None` if it is in no bridge.
fn port_state(universe: &mut Universe, port: &str) -> Result<Option<String>> {
    let said = universe.bridge.run(&[format!("link show dev {port}")])?;
    let words = said.output.iter().flat_map(|line| line.split_whitespace());
    Ok(words.skip_while(|word| *word != "state").nth(1).map(str::to_owned))
}

fn await_age(universe: &mut Universe) -> Result<()> {
    let start = Instant::now();
    while universe.fdb()?.ageing > 0 {
        if start.elapsed() > CONDITION * slowness() {
            bail!("the bridges' entries do not age");
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
