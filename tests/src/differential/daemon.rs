//! The daemon of the accelerated universe: asked over one connection, as a process for each question would cost more than
//! the frames in between.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    netns::Netns,
    wait,
    xbr::{Xbr, count},
};

/// How long the daemon may take to settle.
const PATIENCE: Duration = Duration::from_secs(4);

/// A running `xbr run --all` and the line to it.
#[derive(Debug)]
pub struct Daemon {
    xbr: Xbr,
    line: BufReader<UnixStream>,
}

/// What the daemon counted on one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCount {
    /// Fast frames.
    pub fast: u64,
    /// Frames by reason, fast ones among them.
    pub reasons: BTreeMap<String, u64>,
}

impl Daemon {
    /// Starts it for all bridges, with XDP on these ports.
    pub fn start(space: &Arc<Netns>, xdp: &[String]) -> Result<Self> {
        let mut words = vec!["--all".to_owned()];
        for port in xdp {
            words.extend(["--hook".to_owned(), format!("{port}=xdp")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let xbr = Xbr::start(space, &words)?;
        let path = socket(xbr.run_dir(), xbr.pid())?;
        let stream = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(10) * wait::slowness()))?;
        Ok(Self { xbr, line: BufReader::new(stream) })
    }

    /// Ends it: by SIGTERM, or by SIGKILL.
    pub fn end(mut self, kill: bool) -> Result<()> {
        if kill { self.xbr.kill9() } else { self.xbr.stop() }
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.xbr.log()
    }

    /// Its snapshot.
    pub fn status(&mut self) -> Result<Value> {
        self.line.get_mut().write_all(b"{\"v\":1,\"method\":\"status\"}\n").context("ask xbr")?;
        let mut reply = String::new();
        self.line.read_line(&mut reply).with_context(|| format!("xbr does not answer: {}", self.xbr.last_line()))?;
        let mut reply: Value = serde_json::from_str(&reply).context("answer of xbr")?;
        ensure!(reply["ok"].is_object(), "xbr answered {reply}");
        Ok(reply["ok"].take())
    }

    /// Waits until its tables are in step and hold so many FDB entries of each bridge, or, if it does not come to that,
    /// until nothing changes any more.
    pub fn settle(&mut self, entries: &BTreeMap<String, usize>) -> Result<Value> {
        let start = Instant::now();
        let (mut last, mut same) = (None, 0);
        loop {
            let status = self.status()?;
            let here = essence(&status);
            same = if last.as_ref() == Some(&here) { same + 1 } else { 0 };
            let complete = entries.iter().all(|(bridge, count)| held(&status, bridge) == Some(*count as u64));
            let active = status["active"] == true;
            // Entries that the daemon does not hold for a reason of its own cost a third of a second, once.
            if active && same >= 1 && (complete || start.elapsed() > Duration::from_millis(300) * wait::slowness()) {
                return Ok(status);
            }
            last = Some(here);
            if start.elapsed() > PATIENCE * wait::slowness() {
                bail!("xbr does not settle: {}", self.xbr.summary());
            }
            sleep(Duration::from_millis(2));
        }
    }
}

/// The entries that the daemon holds of a bridge.
fn held(status: &Value, bridge: &str) -> Option<u64> {
    let bridges = status["bridges"].as_array()?;
    bridges.iter().find(|entry| entry["ifname"] == bridge)?["fdb_entries"].as_u64()
}

/// What of a snapshot follows from the bridges, not from traffic.
fn essence(status: &Value) -> Vec<Value> {
    let mut parts = Vec::new();
    for bridge in status["bridges"].as_array().into_iter().flatten() {
        for key in ["ifname", "ifindex", "vlan_filtering", "vlan_protocol", "fdb_entries", "slow_reason"] {
            parts.push(bridge[key].clone());
        }
        for port in bridge["ports"].as_array().into_iter().flatten() {
            for key in ["ifname", "ifindex", "state", "hook", "accelerated", "slow_reason"] {
                parts.push(port[key].clone());
            }
        }
    }
    parts
}

/// Counts by port.
pub fn counts(status: &Value) -> BTreeMap<String, PortCount> {
    let bridges = status["bridges"].as_array().into_iter().flatten();
    let ports = bridges.filter_map(|bridge| bridge["ports"].as_array()).flatten();
    ports
        .filter_map(|port| {
            let reasons = port["reasons"].as_object().into_iter().flatten();
            let reasons = reasons.map(|(reason, value)| (reason.clone(), count(value))).collect();
            Some((port["ifname"].as_str()?.to_owned(), PortCount { fast: count(&port["fast"]["packets"]), reasons }))
        })
        .collect()
}

fn socket(folder: &Path, pid: u32) -> Result<PathBuf> {
    let end = format!("-{pid}.sock");
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(&end) {
            return Ok(path);
        }
    }
    bail!("xbr has no socket in {}", folder.display())
}
