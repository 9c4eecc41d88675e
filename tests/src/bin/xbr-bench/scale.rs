//! `xbr-bench scale`: what a large bridge costs the daemon: its start, its memory, a storm of events, one change among
//! thousands of VLANs.

use std::{
    fs,
    process::ExitCode,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xbr_tests::{
    bpf::generator::{Generator, Vary},
    frame::{BROADCAST, Frame},
    net::{Guest, Kind, Net},
    netns::Netns,
    probe, wait,
    xbr::{Xbr, count},
};

use crate::forward::teach;

/// Largest `--fdb-size`.
const LARGEST: u32 = 4 << 20;
/// Changes of a VLAN that are averaged.
const CHANGES: u32 = 100;
/// How long the daemon may take to have followed everything.
const PATIENCE: Duration = Duration::from_mins(2);

/// Options of `xbr-bench scale`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Addresses that the bridge knows when xbr starts
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    addresses: u32,
    /// Addresses that it learns while xbr runs
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    events: u32,
    /// How many of these in a second
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..))]
    rate: u32,
    /// Ports with 4,094 VLANs each, where the kernel's bridge filters VLANs; 0 leaves this out
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(..=1000))]
    ports: u32,
    /// A JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// What was measured: what, how much, in what.
struct Figures(Vec<(&'static str, f64, &'static str)>);

impl Figures {
    fn add(&mut self, what: &'static str, value: f64, unit: &'static str) {
        self.0.push((what, value, unit));
    }
}

/// Runs `xbr-bench scale`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut figures = Figures(Vec::new());
    addresses(args, &mut figures)?;
    match args.ports {
        0 => {}
        ports if probe::vlan_filtering() => vlans(ports, &mut figures)?,
        _ => eprintln!("skipped: VLANs: the kernel has no bridge VLAN filtering"),
    }
    if args.json {
        let all: Vec<Value> =
            figures.0.iter().map(|(what, value, unit)| json!({"what": what, "value": value, "unit": unit})).collect();
        println!("{}", Value::from(all));
        return Ok(ExitCode::SUCCESS);
    }
    println!("| what | | |\n|---|---|---|");
    for (what, value, unit) in figures.0 {
        println!("| {what} | {value:.1} | {unit} |");
    }
    Ok(ExitCode::SUCCESS)
}

/// A bridge that knows many addresses, and learns more.
fn addresses(args: &Args, figures: &mut Figures) -> Result<()> {
    let net = Net::new()?;
    net.bridge("br0", "ageing_time 8640000")?;
    let guests = [net.guest("crowd", Kind::Veth)?, net.guest("other", Kind::Veth)?];
    for guest in &guests {
        net.join(guest, "br0")?;
        guest.sender()?.send(&Frame::new(guest.mac, BROADCAST).bytes())?;
    }
    let [crowd, other] = &guests;
    // So that the generator's frames are taken (NAPI).
    net.host.cmd(&format!("ethtool -K {} gro on", crowd.port))?;

    let before = Instant::now();
    Xbr::start(&net.host, &["br0"])?.stop()?;
    figures.add("start and end with an empty table", seconds(before.elapsed()), "s");

    let frame = greeting([2, 0xcc], other);
    crowd.space.enter(|| teach::crowd(&crowd.dev, &frame, args.addresses))??;
    let known = entries(&net.host)?;
    ensure!(known >= u64::from(args.addresses), "the bridge has learnt {known} of {} addresses", args.addresses);
    figures.add("addresses that the bridge knows", as_f64(known), "");

    let size = args.addresses.saturating_add(args.events).saturating_mul(2).min(LARGEST).to_string();
    let before = Instant::now();
    let xbr = Xbr::start_patiently(&net.host, &["br0", "--fdb-size", &size], PATIENCE)?;
    figures.add("start until all of them are in the table", seconds(before.elapsed()), "s");
    ensure!(held(&xbr)? >= u64::from(args.addresses), "xbr has {} entries of {known}", held(&xbr)?);
    memory(
        &xbr,
        figures,
        ["memory of its own (RssAnon)", "with the tables (RssAnon + RssFile + RssShmem)", "at most (VmHWM)"],
    )?;
    let idle = processor(&xbr)?;
    sleep(Duration::from_secs(5));
    figures.add("processor while nothing happens", (processor(&xbr)? - idle) / 5.0 * 100.0, "%");

    let (busy, before) = (processor(&xbr)?, Instant::now());
    let took = storm(crowd, &greeting([2, 0xdd], other), args.events, args.rate)?;
    // An answer tells of all that the kernel had announced. (To count the bridge's own entries takes it a minute.)
    let mut seen = held(&xbr)?;
    let mut settled = before.elapsed();
    wait::until("xbr has all entries", PATIENCE, || {
        let (now, then) = (held(&xbr)?, before.elapsed());
        if now != std::mem::replace(&mut seen, now) {
            settled = then;
        }
        Ok(then > settled + Duration::from_secs(1))
    })?;
    let used = processor(&xbr)? - busy;
    let wanted = entries(&net.host)?;
    ensure!(seen == wanted, "xbr has {seen} entries of {wanted}");
    let learnt = as_f64(wanted - known);
    figures.add("addresses learnt", learnt, "");
    figures.add("events a second", learnt / seconds(took), "/s");
    figures.add("all in the table, after the last one", seconds(settled.saturating_sub(took)), "s at most");
    figures.add("processor for an event", used * 1e6 / learnt, "µs");
    let lost: u64 = xbr.status()?["resyncs"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(cause, _)| *cause != "start")
        .map(|(_, times)| count(times))
        .sum();
    figures.add("times that notifications were lost", as_f64(lost), "");
    memory(&xbr, figures, ["memory of its own then", "with the tables then", "at most"])?;
    xbr.stop()
}

/// Ports with every VLAN, and one change.
fn vlans(ports: u32, figures: &mut Figures) -> Result<()> {
    let net = Net::new()?;
    net.bridge("br0", "vlan_filtering 1")?;
    let far = net.space("far")?;
    let each = |line: &dyn Fn(u32) -> String| (0..ports).map(line).collect::<Vec<_>>();
    let lines = (0..ports).flat_map(|port| {
        [
            format!("link add p{port} type veth peer name f{port} netns {}", far.name()),
            format!("link set p{port} master br0 up"),
        ]
    });
    net.host.batch("ip", &lines.collect::<Vec<_>>())?;
    far.batch("ip", &each(&|port| format!("link set f{port} up")))?;
    net.host.batch("bridge", &each(&|port| format!("vlan add dev p{port} vid 2-4094")))?;
    let before = Instant::now();
    let xbr = Xbr::start_patiently(&net.host, &["br0"], PATIENCE)?;
    figures.add("start with 4,094 VLANs on each port", seconds(before.elapsed()), "s");
    memory(&xbr, figures, ["memory of its own with these", "with the tables", "at most with these"])?;
    // The lease is renewed and the poll is made meanwhile, as at any other time: what they cost is taken off.
    let pause = Duration::from_millis(20) * wait::slowness();
    wait::until("xbr has settled", PATIENCE, || {
        let busy = processor(&xbr)?;
        sleep(pause * 50);
        Ok(processor(&xbr)? - busy < seconds(pause * 50) / 2.0)
    })?;
    // All changes, then as long without any: a poll more or less on one side hardly counts then.
    let (before, start) = (processor(&xbr)?, Instant::now());
    for number in 0..CHANGES {
        let verb = if number % 2 == 0 { "del" } else { "add" };
        net.host.cmd(&format!("bridge vlan {verb} dev p0 vid 100"))?;
        sleep(pause);
    }
    let (between, took) = (processor(&xbr)?, start.elapsed());
    sleep(took);
    let (busy, idle) = (between - before, processor(&xbr)? - between);
    figures.add("ports", f64::from(ports), "");
    figures.add("processor for one change of a VLAN", (busy - idle) * 1e3 / f64::from(CHANGES), "ms");
    xbr.stop()
}

/// The frame of the first of many addresses, which begin with these two bytes.
fn greeting(first: [u8; 2], to: &Guest) -> Vec<u8> {
    Frame::new([first[0], first[1], 0, 0, 0, 0], to.mac).bytes()
}

/// Sends frames from `count` addresses, so many in a second, and returns how long that took.
fn storm(from: &Guest, frame: &[u8], count: u32, rate: u32) -> Result<Duration> {
    let part = (rate / 100).clamp(1, 10_000);
    from.space.enter(|| -> Result<Duration> {
        let generator = Generator::new(&from.dev, frame, Vary::Source(count))?;
        let start = Instant::now();
        let mut sent = 0;
        while sent < count {
            generator.run(part.min(count - sent))?;
            sent += part;
            sleep(Duration::from_secs_f64(f64::from(sent) / f64::from(rate)).saturating_sub(start.elapsed()));
        }
        Ok(start.elapsed())
    })?
}

/// The entries of the bridge, those of the ports themselves among them.
fn entries(host: &Arc<Netns>) -> Result<u64> {
    let text = host.cmd("bridge fdb show br br0")?;
    // The ports' own also stand in the VLAN that they would have if the bridge filtered.
    Ok(text.lines().filter(|line| line.contains(" master br0") && !line.contains(" vlan ")).count() as u64)
}

/// Entries in xbr's table.
fn held(xbr: &Xbr) -> Result<u64> {
    Ok(count(&xbr.status()?["bridges"][0]["fdb_entries"]))
}

/// MiB: `VmHWM` and the like of the daemon.
fn memory(xbr: &Xbr, figures: &mut Figures, [own, all, most]: [&'static str; 3]) -> Result<()> {
    let text = fs::read_to_string(format!("/proc/{}/status", xbr.pid()))?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes: f64 = kilobytes.with_context(|| format!("no {name} in /proc/PID/status"))?.parse()?;
        Ok(kilobytes / 1024.0)
    };
    figures.add(own, field("RssAnon")?, "MiB");
    figures.add(all, field("RssAnon")? + field("RssFile")? + field("RssShmem")?, "MiB");
    figures.add(most, field("VmHWM")?, "MiB");
    Ok(())
}

/// Seconds for which the daemon has run on a processor.
fn processor(xbr: &Xbr) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", xbr.pid()))?;
    let nanoseconds: f64 = text.split_whitespace().next().context("an empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "counts of less than a billion")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
