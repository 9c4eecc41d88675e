//! Bad input: one clear line, a documented exit code, nothing left attached.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Output},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    leak,
    net::Kind,
    xbr::{RunDir, Xbr, binary, once},
};

use super::{Test, scene::Scene, test};

pub(crate) const TESTS: &[Test] = &[
    test("cli::not_a_bridge", not_a_bridge, &[]),
    test("cli::last_status_nowhere", last_status_nowhere, &[]),
    test("cli::status_without_a_daemon", status_without_a_daemon, &[]),
    test("cli::two_daemons_on_one_bridge", two_daemons_on_one_bridge, &[]),
    test("cli::without_root", without_root, &[]),
    test("cli::bad_arguments", bad_arguments, &[]),
    test("cli::top_in_batch_mode", top_in_batch_mode, &[]),
];

/// Exit codes as in the README.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NO_DAEMON: i32 = 3;
const PERMISSION: i32 = 5;
const BUSY: i32 = 7;

/// An error unless the command failed with this code and one line that contains `words`.
fn refused(output: &Output, code: Option<i32>, words: &[&str]) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "succeeded: {text}");
    if let Some(code) = code {
        ensure!(output.status.code() == Some(code), "exit code {:?} instead of {code}: {text}", output.status.code());
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(lines.len() == 1, "{} lines instead of one:\n{text}", lines.len());
    for word in words {
        ensure!(lines[0].contains(word), "\"{word}\" is not in: {text}");
    }
    Ok(())
}

fn not_a_bridge() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth])?;
    let folder = RunDir::new()?;
    let port = &scene.guests[0].port;
    let before = leak::attachments(&scene.net.host)?;
    refused(&once(&scene.net.host, &["run", port], folder.path())?, None, &[port, "bridge"])?;
    ensure!(leak::attachments(&scene.net.host)? == before, "something stayed attached");
    Ok(())
}

fn last_status_nowhere() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth])?;
    let folder = RunDir::new()?;
    let before = leak::attachments(&scene.net.host)?;
    let file = folder.path().join("missing/last.json");
    let file = file.to_string_lossy();
    let output = once(&scene.net.host, &["run", "br0", "--last-status", &file], folder.path())?;
    refused(&output, Some(FAILED), &["--last-status", &file])?;
    ensure!(leak::attachments(&scene.net.host)? == before, "something stayed attached");
    Ok(())
}

fn status_without_a_daemon() -> Result<()> {
    let scene = Scene::new(&[])?;
    let folder = RunDir::new()?;
    for words in [&["status"][..], &["status", "-j"], &["top", "-b", "-n", "1"]] {
        refused(&once(&scene.net.host, words, folder.path())?, Some(NO_DAEMON), &[])
            .with_context(|| words.join(" "))?;
    }
    Ok(())
}

fn two_daemons_on_one_bridge() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let first = scene.xbr(&[])?;
    refused(&once(&scene.net.host, &["run", "br0"], first.run_dir())?, Some(BUSY), &[])?;
    // A folder of its own does not make it a second bridge.
    let before = leak::attachments(&scene.net.host)?;
    let folder = Arc::new(RunDir::new()?);
    let mut second = Xbr::spawn(&scene.net.host, &["br0"], Arc::clone(&folder))?;
    let ready = second.wait_ready();
    ensure!(ready.is_err(), "a second daemon serves the same bridge: {}", second.log());
    ensure!(second.wait_end()?.code() == Some(BUSY), "{}", second.log());
    ensure!(leak::attachments(&scene.net.host)? == before, "the second daemon left something behind");
    super::scene::warm(&first, &scene.guests[0], &scene.guests[1])?;
    first.stop()
}

fn without_root() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth])?;
    // Somewhere that everybody may look into.
    let folder = RunDir::new()?;
    let copy = folder.path().join("xbr");
    std::fs::copy(binary()?, &copy)?;
    let run_dir = folder.path().join("run");
    let output = scene.net.host.enter(|| {
        Command::new(&copy).args(["run", "br0", "--run-dir"]).arg(&run_dir).uid(65_534).gid(65_534).output()
    })??;
    refused(&output, Some(PERMISSION), &[])
}

fn bad_arguments() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth])?;
    let folder = RunDir::new()?;
    for words in [&["run"][..], &["run", "br0", "--hook", "g1"], &["run", "br0", "--hook", "g1=fast"], &["fly"]] {
        let output = once(&scene.net.host, words, folder.path())?;
        ensure!(output.status.code() == Some(USAGE), "xbr {}: {:?}", words.join(" "), output.status);
    }
    Ok(())
}

fn top_in_batch_mode() -> Result<()> {
    let scene = Scene::new(&[Kind::Veth, Kind::Veth])?;
    let xbr = scene.xbr(&[])?;
    let output = xbr.ask(&["top", "-b", "-n", "2", "-d", "0.2"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for guest in &scene.guests {
        let lines = text.lines().filter(|line| line.contains(&guest.port)).count();
        ensure!(lines >= 2, "{} is in {lines} lines of two batches:\n{text}", guest.port);
    }
    ensure!(!text.contains('\u{1b}'), "escape sequences in a batch");
    xbr.stop()
}
