//! The daemon of the accelerated universe: asked over one connection, as a process for each question would cost more than
//! the frames in between.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    netns::Netns,
    wait,
    xbr::{Line, Xbr, count},
};

/// How long the daemon may take to settle.
const PATIENCE: Duration = Duration::from_secs(4);

/// A running `xbr run --all` and the line to it.
#[derive(Debug)]
pub struct Daemon {
    xbr: Xbr,
    line: Line,
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
        let line = xbr.line()?;
        Ok(Self { xbr, line })
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
        self.line.status().with_context(|| self.xbr.last_line())
    }

    /// Waits until its tables are in step and hold so many FDB entries of each bridge, or, if it does not come to that (some
    /// it has no use for), until nothing changes any more: an answer tells of all that was announced before the question.
    pub fn settle(&mut self, entries: &BTreeMap<String, usize>) -> Result<Value> {
        let start = Instant::now();
        let (mut last, mut same) = (None, 0);
        loop {
            let status = self.status()?;
            let here = essence(&status);
            same = if last.as_ref() == Some(&here) { same + 1 } else { 0 };
            let complete = entries.iter().all(|(bridge, count)| held(&status, bridge) == Some(*count as u64));
            let active = status["active"] == true;
            if active && (complete || same >= 1) {
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
