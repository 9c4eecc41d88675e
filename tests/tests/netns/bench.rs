//! The rigs of `cargo xtask bench forward` and `scale`: that they give figures, never which.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xbr_tests::{
    probe::{self, Need},
    xbr,
};

use super::{Test, alone};

pub(crate) const TESTS: &[Test] = &[
    alone("bench::every_contender_has_a_figure", every_contender_has_a_figure, &[Need::Tcx, Need::Tun, Need::Macvlan]),
    alone("bench::a_contender_that_loses_frames_is_refused", one_that_loses_frames_is_refused, &[Need::Tcx]),
    alone("bench::bad_input_is_one_line", bad_input_is_one_line, &[]),
    alone("bench::a_large_bridge_has_its_figures", a_large_bridge_has_its_figures, &[Need::Tcx]),
];

/// Runs `xbr-bench forward ARGS`.
fn bench(args: &[&str]) -> Result<(String, String, bool)> {
    program(&[&["forward"], args].concat())
}

/// Runs `xbr-bench ARGS`, which `cargo xtask test` has built; standard output, standard error, success.
fn program(args: &[&str]) -> Result<(String, String, bool)> {
    let program = match std::env::var_os("XBR_BENCH") {
        Some(path) => path.into(),
        None => xbr::binary()?.with_file_name("xbr-bench"),
    };
    let mut command = Command::new(&program);
    command.args(args).env("XBR_BIN", xbr::binary()?).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&output.stdout), text(&output.stderr), output.status.success()))
}

fn every_contender_has_a_figure() -> Result<()> {
    let cases = ["nic64", "nic-tap", "nic-container", "udp18", "requests", "passed64", "ports-2"];
    let svg = std::env::temp_dir().join(format!("xbr-t-{}-bench.svg", std::process::id()));
    let mut args = vec!["--rounds", "1", "--seconds", "0.05", "--retakes", "0", "--json", "-", "--svg"];
    let path = svg.to_string_lossy();
    args.push(&path);
    args.extend(cases.iter().flat_map(|case| ["--case", case]));
    // A contender of the user's: here the bridge as it is.
    args.extend(["--contender", "mine=test $BRIDGE = br0 && ip link show $PORT_IN"]);
    let (out, err, success) = bench(&args)?;
    ensure!(success, "{err}");
    let plot = std::fs::read_to_string(&svg).context("the plot")?;
    drop(std::fs::remove_file(&svg));
    ensure!(plot.starts_with("<svg") && plot.contains(">nic64<") && plot.contains(">xbr<"), "{plot}");

    let report: Value = serde_json::from_str(&out).with_context(|| out.clone())?;
    for key in ["command", "kernel", "machine", "date"] {
        ensure!(report[key].as_str().is_some_and(|text| !text.is_empty()), "no {key}: {out}");
    }
    let measured = report["cases"].as_array().context("cases")?;
    ensure!(measured.len() == cases.len(), "{err}{out}");
    for case in measured {
        let rows = case["contenders"].as_array().context("contenders")?;
        for name in ["bridge", "xbr", "mine"] {
            ensure!(rows.iter().any(|row| row["name"] == name), "no {name}: {case}");
        }
        for row in rows {
            // Frames arrived, and those of xbr took its fast path: else there would be no figure.
            let cost = row["cost_ns"]["median"].as_f64().with_context(|| format!("no figure: {row}"))?;
            ensure!(cost > 0.0 && row["refused"].is_null() && row["rate"].as_f64() > Some(0.0), "{row}");
        }
        if case["name"] == "requests" {
            ensure!(rows.iter().all(|row| row["latency_us"]["p99"].as_f64() > Some(0.0)), "{case}");
        }
    }
    Ok(())
}

fn one_that_loses_frames_is_refused() -> Result<()> {
    let lossy = "lossy=tc qdisc replace dev $PORT_OUT root tbf rate 1mbit burst 10k limit 10k";
    let args =
        ["--case", "nic64", "--only", "bridge", "--rounds", "1", "--seconds", "0.05", "--retakes", "0", "--json", "-"];
    let (out, err, success) = bench(&[&args[..], &["--contender", lossy]].concat())?;
    ensure!(!success && err.contains("frames arrived"), "{err}{out}");
    let report: Value = serde_json::from_str(&out).with_context(|| out.clone())?;
    let rows = report["cases"][0]["contenders"].as_array().context("contenders")?;
    ensure!(rows.len() == 2 && rows[0]["refused"].is_null(), "{out}");
    ensure!(rows[1]["cost_ns"].is_null() && rows[1]["refused"].is_string(), "{out}");
    Ok(())
}

fn bad_input_is_one_line() -> Result<()> {
    for (args, words) in [
        (&["--case", "nic65"][..], &["nic65", "nic64"][..]),
        (&["--contender", "mine"], &["mine", "NAME=ATTACH_CMD"]),
        (&["--contender", "bridge=true"], &["bridge", "another name"]),
        (&["--seconds", "0"], &["0.02"]),
    ] {
        let (out, err, success) = bench(args)?;
        ensure!(!success && out.is_empty(), "{args:?}: {out}");
        ensure!(words.iter().all(|word| err.contains(word)), "{args:?}: {err}");
    }
    Ok(())
}

fn a_large_bridge_has_its_figures() -> Result<()> {
    let args = ["scale", "--addresses", "3000", "--events", "2000", "--rate", "10000", "--ports", "3", "--json"];
    let (out, err, success) = program(&args)?;
    ensure!(success, "{err}");
    let figures: Value = serde_json::from_str(&out).with_context(|| out.clone())?;
    let figure = |what: &str| {
        let found = figures.as_array().into_iter().flatten().find(|figure| figure["what"] == what);
        found.and_then(|figure| figure["value"].as_f64()).with_context(|| format!("no figure {what:?}: {out}"))
    };
    // Whether xbr has them all, the program says itself.
    ensure!(figure("addresses that the bridge knows")? >= 3000.0, "{out}");
    ensure!(figure("addresses learnt")? > 0.0, "{out}");
    for what in ["start until all of them are in the table", "memory of its own (RssAnon)", "processor for an event"] {
        ensure!(figure(what)? > 0.0, "{out}");
    }
    if probe::vlan_filtering() {
        ensure!(figure("start with 4,094 VLANs on each port")? > 0.0, "{out}");
    }
    let (out, err, success) = program(&["scale", "--addresses", "0"])?;
    ensure!(!success && out.is_empty() && err.contains("--addresses"), "{err}{out}");
    Ok(())
}
