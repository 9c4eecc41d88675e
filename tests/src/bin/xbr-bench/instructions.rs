//! `xbr-bench instructions`: instructions per frame, on a machine whose clock counts them (qemu's `-icount shift=0`: one
//! nanosecond is one instruction). The same on every machine, whatever else that does.
//!
//! A figure is the slope between a short and a long run of frames, less the same for frames that are dropped where they
//! come in. So the generator, or the sender's socket, is not in it. What is counted are instructions alone: no cache
//! misses, no costs of atomics.

use std::{fs, net::UdpSocket, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use xbr_tests::{
    bpf::generator::{Generator, Vary},
    probe::{self, Need},
};

use crate::forward::{
    case::{Case, End, Frames, Vlans, Work},
    contender::{Contender, Kind},
    frames::Sink,
    report::{Origin, median},
    stage::{Middle, PORT, Stage, TARGET_IP},
};

mod known;

/// Frames of the short and of the long run.
const RUNS: [u32; 2] = [1024, 9216];
/// Pairs of runs; the median counts.
const PAIRS: usize = 5;

/// Options of `xbr-bench instructions`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only cases whose name begins so (repeatable)
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Only this contender (repeatable)
    #[arg(long = "only", value_name = "CONTENDER", value_enum)]
    only: Vec<Kind>,
    /// xbr alone, in the cases that have a committed figure; an error unless each is within 2 % of it
    #[arg(long, conflicts_with = "only")]
    check: bool,
    /// Write everything as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All cases.
fn cases() -> Vec<Case> {
    use Kind::{Bridge, Macvlan, Ovs, Peer, Tc, Xbr, XbrPeer, Xdp};
    let veth = |vlans| Work::Frames(Frames { vlans, ..Frames::to(End::Drop) });
    let udp = |vlans| Work::Udp(18, vlans);
    let case =
        |name: &str, work, contenders: &[Kind]| Case { name: name.to_owned(), work, contenders: contenders.to_vec() };
    vec![
        case("xdp-veth", veth(Vlans::None), &[Bridge, Ovs, Tc, Xdp, Xbr]),
        case("xdp-many", Work::Frames(Frames { addresses: 8192, ..Frames::to(End::Drop) }), &[Bridge, Xdp, Xbr]),
        case("xdp-container", Work::Frames(Frames::to(End::Stack)), &[Bridge, Ovs, Tc, Peer, Xdp, Macvlan, Xbr]),
        case("udp", udp(Vlans::None), &[Bridge, Ovs, Tc, Peer, Macvlan, Xbr]),
        case("udp-peer", udp(Vlans::None), &[Bridge, Peer, XbrPeer]),
        case("xdp-access", veth(Vlans::Access), &[Bridge, Ovs, Xbr]),
        case("xdp-push", veth(Vlans::Push), &[Bridge, Ovs, Xbr]),
        case("xdp-pop", veth(Vlans::Pop), &[Bridge, Ovs, Xbr]),
        case("udp-access", udp(Vlans::Access), &[Bridge, Ovs, Xbr]),
        case("udp-push", udp(Vlans::Push), &[Bridge, Ovs, Xbr]),
        case("udp-pop", udp(Vlans::Pop), &[Bridge, Ovs, Xbr]),
    ]
}

/// Runs `xbr-bench instructions`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(counts(), "this machine's clock does not count instructions: use cargo xtask bench instructions");
    let chosen = |case: &Case| args.cases.is_empty() || args.cases.iter().any(|name| case.name.starts_with(name));
    let known = |case: &Case| !args.check || known::figure(probe::kernel(), &case.name).is_some();
    let cases: Vec<Case> = cases().into_iter().filter(|case| chosen(case) && known(case)).collect();
    ensure!(!cases.is_empty(), "no such case, or none with a committed figure: use one of {}", names(&self::cases()));
    let origin = Origin::here()?;
    println!("{}\n\n| case | contender | instructions per frame | pairs of runs, min–max |", origin.line());
    println!("| --- | --- | --- | --- |");
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for case in &cases {
        for (name, result) in args.case(case)? {
            let net = match result {
                Ok(net) => net,
                Err(error) => {
                    println!("| {} | {name} | no figure: {error:#} | |", case.name);
                    faults.push(format!("{}, {name}: {error:#}", case.name));
                    continue;
                }
            };
            println!("| {} | {name} | {:.0} | {:.0}–{:.0} |", case.name, net.median, net.min, net.max);
            if args.check {
                faults.extend(known::fault(probe::kernel(), &case.name, net.median));
            }
            rows.push(json!({ "case": case.name, "contender": name, "instructions": net.median,
                "min": net.min, "max": net.max }));
        }
    }
    if let Some(path) = &args.json {
        let all = json!({ "command": origin.command, "kernel": origin.kernel, "date": origin.date, "figures": rows });
        fs::write(path, format!("{all:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for fault in &faults {
        eprintln!("xbr-bench: {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn names(cases: &[Case]) -> String {
    cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether a nanosecond is an instruction here: a loop of known length tells.
fn counts() -> bool {
    let time = |rounds: u32| {
        let start = Instant::now();
        for round in 0..rounds {
            std::hint::black_box(round);
        }
        u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX)
    };
    // Three to eight instructions; the same every time, which no other clock achieves.
    let times: Vec<u32> = (0..5).map(|_| time(20_000).saturating_sub(time(10_000))).collect();
    let close = times.iter().filter(|time| time.abs_diff(times[4]) <= times[4] / 500).count();
    xbr_tests::wait::emulated() && close >= 3 && (20_000..=100_000).contains(&times[4])
}

/// Instructions per frame.
struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

impl Args {
    /// Every contender of a case, less the floor.
    fn case(&self, case: &Case) -> Result<Vec<(&'static str, Result<Figure>)>> {
        let asked = |kind: &&Kind| match (self.check, self.only.as_slice()) {
            (true, _) => matches!(**kind, Kind::Xbr | Kind::XbrPeer),
            (false, []) => true,
            (false, only) => only.contains(kind),
        };
        let can = |kind: &&Kind| {
            // The probe of all needs loads br_netfilter, which every bridge would pay for from then on.
            let there = kind.needs() != Some(Need::OpenVswitch) || Need::OpenVswitch.met();
            if !there {
                eprintln!("skipped: {}, {}: {}", case.name, kind.name(), Need::OpenVswitch);
            }
            there
        };
        let mut bridge = None;
        let floor = slope(Kind::Floor, case, &mut bridge)?;
        let net = |kind: Kind, bridge: &mut Option<Place>| {
            let gross = slope(kind, case, bridge)?;
            Ok(Figure {
                median: gross.median - floor.median,
                min: gross.min - floor.median,
                max: gross.max - floor.median,
            })
        };
        Ok(case
            .contenders
            .iter()
            .filter(asked)
            .filter(can)
            .map(|kind| (kind.name(), net(*kind, &mut bridge)))
            .collect())
    }
}

type Place = (Sink, Stage);

/// Instructions per frame, the generator's included.
fn slope(kind: Kind, case: &Case, bridge: &mut Option<Place>) -> Result<Figure> {
    let contender = Contender::Own(kind);
    let build = |middle| -> Result<Place> {
        let stage = Stage::new(case.work, middle, None)?;
        Ok((Sink::new(&stage)?, stage))
    };
    let mut own = None;
    let place = match (contender.middle(), &mut *bridge) {
        (Middle::Bridge, Some(place)) => place,
        (Middle::Bridge, empty) => empty.insert(build(Middle::Bridge)?),
        (other, _) => own.insert(build(other)?),
    };
    let (sink, stage) = (&place.0, &place.1);
    stage.teach()?;
    let attachment = contender.attach(stage, sink)?;
    let mut slopes = stage.source.enter(|| slopes(stage, sink))??;
    attachment.check(stage)?;
    attachment.detach()?;
    // By version: the probe of all needs loads br_netfilter, which every bridge would pay for from then on.
    if probe::kernel().is_none_or(|version| version < (6, 6)) {
        // What hangs on clsact stays: the next contender gets a new stage.
        *bridge = None;
    }
    slopes.sort_by(f64::total_cmp);
    let (Some(min), Some(max), Some(median)) = (slopes.first(), slopes.last(), median(&slopes)) else {
        bail!("nothing was measured");
    };
    Ok(Figure { median, min: *min, max: *max })
}

/// Slopes of pairs of runs, from the sender's namespace.
fn slopes(stage: &Stage, sink: &Sink) -> Result<Vec<f64>> {
    let send: Box<dyn Fn(u32) -> Result<()>> = match &stage.work {
        Work::Frames(frames) => {
            let vary = if frames.addresses > 1 { Vary::Destination(frames.addresses) } else { Vary::Nothing };
            let generator = Generator::new("eth0", &Stage::frame(frames), vary)?;
            Box::new(move |count| generator.run(count))
        }
        Work::Udp(payload, _) => {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).context("UDP socket")?;
            socket.connect((TARGET_IP, PORT)).context("UDP socket")?;
            let payload = vec![0x5a; *payload];
            Box::new(move |count| (0..count).try_for_each(|_| socket.send(&payload).map(drop)).context("send UDP"))
        }
        Work::Tcp(_) | Work::Requests => bail!("streams are not counted"),
    };
    let run = |count: u32| -> Result<f64> {
        let before = sink.counter.sum()?;
        let start = Instant::now();
        send(count)?;
        for _ in 0..1000 {
            if sink.counter.sum()? - before >= u64::from(count) {
                return Ok(start.elapsed().as_secs_f64() * 1e9);
            }
            std::thread::yield_now();
        }
        bail!("{} of {count} frames arrived", sink.counter.sum()? - before);
    };
    run(RUNS[0])?;
    (0..PAIRS).map(|_| Ok((run(RUNS[1])? - run(RUNS[0])?) / f64::from(RUNS[1] - RUNS[0]))).collect()
}
