//! `xbr-bench forward`: what a frame costs, by contender.
//!
//! The figure is processor time of the thread that forwards, per frame that arrived; it hardly depends on what else the
//! machine does. Where frames come in as from a NIC, that thread is the NAPI thread of the port, which runs before all
//! others on the processor of the generator. Between containers it is the sender's. Contenders take turns.

use std::{
    collections::BTreeMap, fs, path::PathBuf, process::ExitCode, sync::PoisonError, thread::sleep, time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

mod attachment;
pub(crate) mod case;
pub(crate) mod contender;
pub(crate) mod frames;
mod load;
mod ovs;
mod plot;
mod processor;
pub(crate) mod report;
mod sample;
pub(crate) mod stage;
mod streams;
pub(crate) mod teach;

use self::{
    case::{Case, Work},
    contender::{Contender, Kind},
    frames::Sink,
    processor::Processor,
    report::{Origin, Row, Table},
    sample::{Sample, measure},
    stage::{IN, Middle, Stage},
};

/// Options of `xbr-bench forward`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this case, or those whose names begin so (repeatable): nic64, fdb
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Only this contender (repeatable), the bridge beside
    #[arg(long = "only", value_name = "CONTENDER", value_enum)]
    only: Vec<Kind>,
    /// Another contender (repeatable): a shell command that attaches it in the namespace of the bridge `$BRIDGE`, where
    /// frames come in at `$PORT_IN` and leave by `$PORT_OUT`; it ends with 0, or goes on running until it gets SIGTERM
    #[arg(long = "contender", value_name = "NAME=ATTACH_CMD", value_parser = foreign)]
    contenders: Vec<Contender>,
    /// Rounds; every contender has one turn in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// How often a turn is taken again while others have more than 5 % of the processor, or the hypervisor takes it
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=100))]
    retakes: u32,
    /// Write everything as JSON to this file; - is standard output, without the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a plot to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Show the cases and their contenders, and measure nothing
    #[arg(long)]
    list: bool,
}

fn foreign(text: &str) -> Result<Contender, String> {
    match text.split_once('=') {
        Some((name, _)) if Kind::value_variants().iter().any(|kind| kind.name() == name) => {
            Err(format!("{name} is one of this program's own: use another name"))
        }
        Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => {
            Ok(Contender::Foreign { name: name.to_owned(), command: command.to_owned() })
        }
        _ => Err("say it as NAME=ATTACH_CMD".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.02..=3600.0).contains(&value) => Ok(value),
        _ => Err("say a number of seconds from 0.02 to 3600".to_owned()),
    }
}

/// Runs `xbr-bench forward`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let cases = args.cases()?;
    if args.list {
        for case in cases {
            let names: Vec<&str> = case.contenders.iter().map(|kind| kind.name()).collect();
            println!("{}: {}", case.name, names.join(", "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let processor = Processor::choose()?;
    processor.avoid()?;
    processor::note_signals()?;
    let origin = Origin::here()?;
    let quiet = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if !quiet {
        println!("{}\n", origin.line());
    }
    let (mut tables, mut skipped) = (Vec::new(), Vec::new());
    for case in cases {
        if let Some(need) = case.needs().into_iter().find(|need| !need.met()) {
            skip(&mut skipped, &format!("{}: {need}", case.name));
            continue;
        }
        let table = args.case(case, processor, &mut skipped)?;
        if !quiet {
            println!("{}", table.text());
        }
        tables.push(table);
    }
    args.write(&origin, &tables, &skipped)?;
    let refused = tables.iter().flat_map(|table| &table.rows).any(|row| row.refused.is_some());
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn skip(skipped: &mut Vec<String>, line: &str) {
    eprintln!("skipped: {line}");
    skipped.push(line.to_owned());
}

impl Args {
    fn cases(&self) -> Result<Vec<Case>> {
        let all = Case::all();
        let exact = |name: &String| all.iter().any(|case| case.name == *name);
        let meant = |case: &Case, name: &String| {
            if exact(name) { case.name == *name } else { case.name.starts_with(name) }
        };
        let chosen: Vec<Case> = all
            .iter()
            .filter(|case| self.cases.is_empty() || self.cases.iter().any(|name| meant(case, name)))
            .cloned()
            .collect();
        if let Some(name) = self.cases.iter().find(|name| !all.iter().any(|case| case.name.starts_with(*name))) {
            let names: Vec<&str> = all.iter().map(|case| case.name.as_str()).collect();
            bail!("there is no case \"{name}\": use one of {}", names.join(", "));
        }
        Ok(chosen)
    }

    /// Those who take part in a case and can run here.
    fn contenders(&self, case: &Case, skipped: &mut Vec<String>) -> Vec<Contender> {
        let asked = |kind: &&Kind| self.only.is_empty() || self.only.contains(kind) || **kind == Kind::Bridge;
        let mut all = Vec::new();
        for kind in case.contenders.iter().filter(asked) {
            match kind.needs().filter(|need| !need.met()) {
                Some(need) => skip(skipped, &format!("{}, {}: {need}", case.name, kind.name())),
                None => all.push(Contender::Own(*kind)),
            }
        }
        all.extend(self.contenders.iter().cloned());
        all
    }

    /// All rounds of one case.
    fn case(&self, case: Case, processor: Processor, skipped: &mut Vec<String>) -> Result<Table> {
        let contenders = self.contenders(&case, skipped);
        let mut stages: BTreeMap<Middle, (Sink, Stage)> = BTreeMap::new();
        let name = |contender: &Contender| Row { contender: contender.name().to_owned(), ..Row::default() };
        let mut rows: Vec<Row> = contenders.iter().map(name).collect();
        for round in 1..=self.rounds {
            for (contender, row) in contenders.iter().zip(&mut rows).filter(|(_, row)| row.refused.is_none()) {
                ensure!(!processor::stopped(), "interrupted");
                let middle = contender.middle();
                let (sink, stage) = match stages.entry(middle) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let stage = Stage::new(case.work, middle, Some(processor))
                            .with_context(|| format!("the stage of {} cannot be built", case.name))?;
                        entry.insert((Sink::new(&stage)?, stage))
                    }
                };
                if let Err(error) = self.round(contender, stage, sink, processor, row) {
                    eprintln!("{}, {}, round {round}: {error:#}", case.name, row.contender);
                    row.refused = Some(format!("{error:#}"));
                    row.costs.clear();
                }
            }
        }
        Ok(Table { case, rows })
    }

    /// One turn of a contender, taken again if it was hit.
    fn round(
        &self,
        contender: &Contender,
        stage: &Stage,
        sink: &Sink,
        processor: Processor,
        row: &mut Row,
    ) -> Result<()> {
        let mut best: Option<(Sample, Option<[u32; 2]>)> = None;
        for attempt in 0..=self.retakes {
            stage.teach()?;
            let place = contender.attach(stage, sink)?;
            let turn = match turn(stage, sink, processor, Duration::from_secs_f64(self.seconds)) {
                Ok(turn) => turn,
                // Queues run over where others keep the receiver from its processor.
                Err(_) if attempt < self.retakes => {
                    row.retaken += 1;
                    continue;
                }
                Err(error) if best.is_none() => return Err(error),
                Err(_) => break,
            };
            place.check(stage)?;
            place.detach()?;
            if best.is_none_or(|(sample, _)| turn.0.others < sample.others) {
                best = Some(turn);
            }
            if !turn.0.is_hit() {
                break;
            }
            row.retaken += 1;
        }
        let (sample, times) = best.context("no turn")?;
        if sample.is_hit() {
            row.retaken = row.retaken.saturating_sub(1);
            row.disturbed += 1;
        }
        row.costs.push(sample.cost);
        row.times.extend(times);
        Ok(())
    }

    fn write(&self, origin: &Origin, tables: &[Table], skipped: &[String]) -> Result<()> {
        let mut files = Vec::new();
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report::json(origin, tables, skipped))? + "\n";
            if path.as_os_str() == "-" {
                print!("{text}");
            } else {
                files.push((path, text));
            }
        }
        files.extend(self.svg.as_ref().map(|path| (path, plot::svg(origin, tables))));
        files.into_iter().try_for_each(|(path, text)| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        })
    }
}

/// Share of the frames that came in which has to arrive.
const DELIVERED: f64 = 0.99;

/// Runs the load for a time. All frames that came in have to arrive.
#[expect(clippy::cast_precision_loss, reason = "a share; 2^53 frames are enough")]
fn turn(stage: &Stage, sink: &Sink, processor: Processor, time: Duration) -> Result<(Sample, Option<[u32; 2]>)> {
    let came_in = || match stage.work {
        Work::Frames(_) => stage.host().link_counter(IN, "rx", "packets"),
        Work::Udp(..) | Work::Tcp(_) | Work::Requests => Ok(0),
    };
    let before = came_in()?;
    let mut load = match &stage.work {
        Work::Frames(frames) => frames::from_nic(stage, frames, sink, processor)?,
        Work::Udp(payload, _) => frames::udp(stage, *payload, sink, processor)?,
        Work::Tcp(streams) => streams::bulk(stage, *streams, processor)?,
        Work::Requests => streams::requests(stage, processor)?,
    };
    let begin = (load.arrived)()?;
    let sample = measure(&load, processor, time)?;
    load.stop()?;
    sleep(Duration::from_millis(10));
    let (arrived, came_in) = ((load.arrived)()? - begin, came_in()? - before);
    ensure!(came_in == 0 || arrived as f64 >= DELIVERED * came_in as f64, "only {arrived} of {came_in} frames arrived");
    let times = load.times.map(|times| {
        let mut times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
        [at(50).unwrap_or(0), at(99).unwrap_or(0)]
    });
    Ok((sample, times))
}
