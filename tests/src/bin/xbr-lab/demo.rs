//! The demonstration: the same traffic without and with xbr, and the proof that tenants stay apart.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::Frame,
    measure::Reading,
    net::Guest,
    traffic::{Flow, Stream, tcp},
    wait::{emulated, slowness},
    xbr::{Xbr, command},
};

use crate::{borders, matrix::Matrix, rates, topology::Lab};

/// Pairs that the rates are measured on, by name: in by the uplink and out by it. Between taps the lab's own copying
/// from tap to tap would be measured.
const RATED: [(&str, &str); 2] = [("out10", "ct10"), ("ct10", "out10")];
/// How long a rate is measured, and how often; the best counts, as other work on the machine only makes it worse.
const RATE_TIME: Duration = Duration::from_millis(700);
const RATE_RUNS: usize = 3;
/// Pairs of the steady flow: every port receives on some of them.
const STEADY: [(&str, &str); 8] = [
    ("out10", "ct10"),
    ("ct10", "vm10"),
    ("vm10", "out10"),
    ("out10", "vm10"),
    ("out20", "vm20"),
    ("vm20", "ct20"),
    ("ct20", "out20"),
    ("out20", "ct20"),
];
/// Numbered frames per pair of the steady flow.
const FRAMES: u32 = 1000;
/// Bytes per TCP stream.
const TCP_BYTES: u64 = 4 << 20;

/// Runs all of it; an error if a border leaks or the fast path is not taken.
pub(crate) fn run(uplink_hook: &str) -> Result<()> {
    let start = Instant::now();
    println!("Building the lab: bridge br0, uplink trunk eth0, tenants in VLAN 10 and VLAN 20.");
    println!(
        "  Each tenant has a container (ct, veth), a virtual machine (vm, tap) and a host beyond the uplink (out)."
    );
    println!("  All six share one IP network: nothing but the VLANs keeps the tenants apart.");
    let lab = Lab::build()?;

    step("The plain bridge, without xbr");
    let plain = Matrix::measure(&lab)?;
    let (crossed, missing) = plain.wrong();
    ensure!(crossed.is_empty() && missing.is_empty(), "the lab itself does not work:\n{}", plain.draw());
    println!("  reachability as it should be; measuring frames per second …");
    let before = rated(&lab)?;

    step("xbr attached");
    let hook = format!("eth0={uplink_hook}");
    let xbr = Xbr::start(&lab.net.host, &["br0", "--hook", &hook])?;
    for line in xbr.log().lines() {
        println!("  {line}");
    }

    step("Who can reach whom (ping; rows ask, columns answer)");
    let matrix = Matrix::measure(&lab)?;
    println!("{}", matrix.draw());

    let steady = steady_flow(&lab, &xbr)?;

    step("Frames per second, small UDP frames");
    let after = rated(&lab)?;
    for (((from, to), plain), fast) in RATED.iter().zip(&before).zip(&after) {
        let ratio = fast / plain.max(1.0);
        println!(
            "  {:<16} without xbr {:>11}   with xbr {:>11}   ratio {ratio:.2}",
            format!("{from} → {to}"),
            rates::human(*plain),
            rates::human(*fast)
        );
    }
    if emulated() {
        println!("  (measured inside an emulated virtual machine: not a benchmark)");
    }

    step("xbr top");
    top(&lab, &xbr)?;

    step("Tenant borders: frames thrown at the other tenant (tagged, double-tagged, spoofed, broadcast)");
    let borders = borders::check(&lab)?;
    println!("  {} frames tried, {} crossed", borders.tried, borders.crossed.len());
    println!("  {} of {} frames within the tenants arrived, so the check can see", borders.arrived, borders.allowed);
    for line in borders.crossed.iter().take(10) {
        println!("  LEAK {line}");
    }
    lab.greet()?;
    let again = Matrix::measure(&lab)?;

    step("xbr stopped");
    xbr.stop()?;
    let bare = Matrix::measure(&lab)?;
    for (when, matrix) in [("with xbr", &matrix), ("after the border check", &again), ("after xbr ended", &bare)] {
        let (crossed, missing) = matrix.wrong();
        ensure!(crossed.is_empty(), "{when}: pings crossed a tenant border: {}", crossed.join(", "));
        ensure!(missing.is_empty(), "{when}: no answer: {}", missing.join(", "));
    }
    println!("  the bridge goes on by itself: reachability unchanged");
    ensure!(borders.crossed.is_empty(), "{} frames crossed a tenant border", borders.crossed.len());
    ensure!(borders.arrived == borders.allowed, "frames within a tenant were lost in the border check");
    steady?;
    println!(
        "\ndemo: ok in {:.0} s: 0 of {} frames crossed a tenant border, fast path ≥ 99 % on every port",
        start.elapsed().as_secs_f32(),
        borders.tried
    );
    Ok(())
}

fn step(title: &str) {
    println!("\n── {title} ──");
    // Shown at once, even through a pipe; a reader that went away is no reason to stop.
    drop(io::stdout().flush());
}

fn rated(lab: &Lab) -> Result<Vec<f64>> {
    let mut best = vec![0.0_f64; RATED.len()];
    for _ in 0..RATE_RUNS {
        for ((from, to), best) in RATED.iter().zip(&mut best) {
            *best = best.max(rates::udp(lab.member(from)?, lab.member(to)?, RATE_TIME)?);
        }
    }
    Ok(best)
}

/// Numbered UDP frames and TCP streams over every port. The outer result is of the traffic; the inner one says whether
/// the fast path was taken, and is looked at when everything has been shown.
fn steady_flow(lab: &Lab, xbr: &Xbr) -> Result<Result<()>> {
    step("Steady flow: numbered UDP frames, then TCP");
    let reading = Reading::take(xbr)?;
    let mut total = xbr_tests::traffic::Account::default();
    for (from, to) in STEADY {
        let (from, to) = (lab.member(from)?, lab.member(to)?);
        let others: Vec<&Guest> = lab
            .members
            .iter()
            .map(|member| &member.guest)
            .filter(|guest| guest.name != from.name && guest.name != to.name)
            .collect();
        let frame = Frame::udp(from.mac, to.mac, from.ip, to.ip, 7, 256);
        let account = Flow::start(from, &[to], &others, frame, 4000 / slowness(), FRAMES)?.finish()?;
        total.sent += account.sent;
        total.received += account.received;
        total.lost += account.lost;
        total.duplicated += account.duplicated;
        total.misdelivered += account.misdelivered;
    }
    println!(
        "  UDP: {} sent, {} arrived, {} lost, {} twice, {} at somebody else",
        total.sent, total.received, total.lost, total.duplicated, total.misdelivered
    );
    for (from, to) in STEADY {
        let stream: Stream = tcp(lab.member(from)?, lab.member(to)?, TCP_BYTES)?;
        println!(
            "  TCP: {:<14} {} MiB, every byte right, {:.0} Mbit/s",
            format!("{from} → {to}"),
            stream.bytes >> 20,
            stream.megabits()
        );
    }
    let deltas = reading.since(xbr)?;
    println!(
        "\n  {:<8} {:<9} {:>10} {:>10} {:>10}   known unicast on the fast path",
        "port", "hook", "fast", "by XDP", "slow"
    );
    let mut verdict = Ok(());
    for (port, delta) in &deltas {
        let by_xdp = delta.reasons.get("forwarded_xdp").copied().unwrap_or(0);
        let share = delta.share().map_or("no traffic".to_owned(), |share| format!("{:.2} %", share * 100.0));
        println!("  {port:<8} {:<9} {:>10} {by_xdp:>10} {:>10}   {share}", delta.hook, delta.fast, delta.slow);
        if verdict.is_ok() {
            verdict = delta.steady(u64::from(FRAMES) / 2).with_context(|| format!("port {port}, hook {}", delta.hook));
        }
    }
    if total.misdelivered > 0 {
        verdict = Err(anyhow::anyhow!("{} frames arrived at somebody else", total.misdelivered));
    }
    if deltas.len() < lab.members.iter().filter(|member| !member.outside).count() + 1 {
        verdict = Err(anyhow::anyhow!("xbr status shows only {} ports", deltas.len()));
    }
    Ok(verdict)
}

/// A few seconds of the live view, with traffic to look at.
fn top(lab: &Lab, xbr: &Xbr) -> Result<()> {
    let mut flows = Vec::new();
    for (from, to) in STEADY {
        let (from, to) = (lab.member(from)?, lab.member(to)?);
        flows.push(Flow::start(from, &[to], &[], Frame::new(from.mac, to.mac), 500 / slowness(), u32::MAX)?);
    }
    let status =
        command(&lab.net.host, &["top", "-b", "-n", "3", "-d", "1"], xbr.run_dir())?.status().context("xbr top")?;
    flows.iter().for_each(Flow::halt);
    for flow in flows {
        flow.stop()?;
    }
    ensure!(status.success(), "xbr top: {status}");
    Ok(())
}
