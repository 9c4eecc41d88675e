//! What a stretch of traffic did to the counters.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::xbr::{Xbr, count};

/// Reasons of frames that no bridge forwards as known unicast: they say nothing about the fast path.
const NOT_KNOWN_UNICAST: [&str; 8] = [
    "broadcast",
    "multicast",
    "control_protocol",
    "neighbour_discovery",
    "llc",
    "local",
    "destination_unknown",
    "invalid_source",
];

/// The difference between two readings of one port.
#[derive(Clone, Debug, Default)]
pub struct PortDelta {
    /// Hook at the second reading.
    pub hook: String,
    /// Packets on the fast path.
    pub fast: u64,
    /// Packets that went by the bridge.
    pub slow: u64,
    /// Packets that neither path could deliver.
    pub dropped: u64,
    /// Packets by reason.
    pub reasons: BTreeMap<String, u64>,
}

impl PortDelta {
    /// Packets of known unicast among all.
    pub fn known(&self) -> u64 {
        let other: u64 = NOT_KNOWN_UNICAST.iter().filter_map(|reason| self.reasons.get(*reason)).sum();
        (self.fast + self.slow + self.dropped).saturating_sub(other)
    }

    /// The share of known unicast that took the fast path, 0 to 1; `None` if there was none.
    #[expect(clippy::cast_precision_loss, reason = "a share; 2^53 frames are enough")]
    pub fn share(&self) -> Option<f64> {
        let known = self.known();
        (known > 0).then(|| self.fast as f64 / known as f64)
    }

    /// An error unless at least `frames` packets were fast and they are at least 99 % of the known unicast.
    pub fn steady(&self, frames: u64) -> Result<()> {
        let share = self.share().unwrap_or(0.0);
        ensure!(self.fast >= frames && share >= 0.99, "{:.2} % of {} fast: {self:?}", share * 100.0, self.known());
        Ok(())
    }
}

/// A reading of all ports.
#[derive(Clone, Debug)]
pub struct Reading(Value);

impl Reading {
    /// Reads now.
    pub fn take(xbr: &Xbr) -> Result<Self> {
        Ok(Self(xbr.status()?))
    }

    /// What was counted since, by port.
    pub fn since(&self, xbr: &Xbr) -> Result<BTreeMap<String, PortDelta>> {
        let now = xbr.status()?;
        let before = ports(&self.0);
        Ok(ports(&now)
            .into_iter()
            .map(|(name, port)| {
                let old = before.get(name).copied().unwrap_or(&Value::Null);
                let packets = |key: &str| count(&port[key]["packets"]).saturating_sub(count(&old[key]["packets"]));
                let reasons = port["reasons"].as_object().into_iter().flatten().filter_map(|(reason, value)| {
                    let delta = count(value).saturating_sub(count(&old["reasons"][reason]));
                    (delta > 0).then(|| (reason.clone(), delta))
                });
                let delta = PortDelta {
                    hook: port["hook"].as_str().unwrap_or("none").to_owned(),
                    fast: packets("fast"),
                    slow: packets("slow"),
                    dropped: packets("dropped"),
                    reasons: reasons.collect(),
                };
                (name.to_owned(), delta)
            })
            .collect())
    }
}

/// Every port of a snapshot, by name.
fn ports(status: &Value) -> BTreeMap<&str, &Value> {
    let bridges = status["bridges"].as_array().into_iter().flatten();
    let ports = bridges.filter_map(|bridge| bridge["ports"].as_array()).flatten();
    ports.filter_map(|port| Some((port["ifname"].as_str()?, port))).collect()
}
