//! How many frames took the fast path during a test, from what its daemons wrote when they ended.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Frames that xbr's programs saw, over all daemons of a run and all ports, those included that were gone at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Daemons that ran: one for the test's own network namespace and one for each that it made.
    pub(crate) daemons: usize,
    /// Daemons that left no status, so that their frames are missing here.
    pub(crate) silent: usize,
    /// Ports that were served.
    pub(crate) ports: u64,
    /// Frames that took the fast path.
    pub(crate) fast: u64,
    /// Frames that went to the bridge.
    pub(crate) slow: u64,
    /// Frames that xbr dropped.
    pub(crate) dropped: u64,
    /// Frames by reason.
    pub(crate) reasons: BTreeMap<String, u64>,
}

impl Frames {
    /// Sums up what is in the folder of the run's daemons.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut frames = Self::default();
        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            // Every daemon has a log from its first moment on.
            if path.extension().is_none_or(|extension| extension != "err") {
                continue;
            }
            frames.daemons += 1;
            let status = fs::read(path.with_extension("json")).ok();
            match status.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
                Some(status) => frames.add(&status),
                None => frames.silent += 1,
            }
        }
        Ok(frames)
    }

    /// Adds one daemon's last status.
    fn add(&mut self, status: &Value) {
        let bridges = status["bridges"].as_array().into_iter().flatten();
        let ports: Vec<&Value> = bridges.flat_map(|bridge| bridge["ports"].as_array().into_iter().flatten()).collect();
        self.ports += ports.len() as u64 + status["gone"]["ports"].as_u64().unwrap_or(0);
        for counted in ports.into_iter().chain([&status["gone"]]) {
            self.fast += counted["fast"]["packets"].as_u64().unwrap_or(0);
            self.slow += counted["slow"]["packets"].as_u64().unwrap_or(0);
            self.dropped += counted["dropped"]["packets"].as_u64().unwrap_or(0);
            for (reason, count) in counted["reasons"].as_object().into_iter().flatten() {
                *self.reasons.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
    }

    /// Fast frames of all, in per cent.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub(crate) fn share(&self) -> Option<f64> {
        let all = self.fast + self.slow + self.dropped;
        (all > 0).then(|| self.fast as f64 * 100.0 / all as f64)
    }

    /// The reasons of slow frames, the most frequent first.
    pub(crate) fn slow_reasons(&self) -> Vec<(&str, u64)> {
        let mut slow: Vec<(&str, u64)> = self
            .reasons
            .iter()
            .filter(|(reason, _)| !reason.starts_with("forwarded"))
            .map(|(reason, count)| (reason.as_str(), *count))
            .collect();
        slow.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        slow
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Frames;

    #[test]
    fn ports_that_are_there_and_that_are_gone_add_up() {
        let port = |fast: u64, slow: u64| {
            json!({"fast": {"packets": fast}, "slow": {"packets": slow}, "dropped": {"packets": 0},
                "reasons": {"forwarded_tc": fast, "broadcast": slow}})
        };
        let mut gone = port(100, 7);
        gone["ports"] = json!(3);
        let mut frames = Frames::default();
        frames.add(&json!({"bridges": [{"ports": [port(1, 2), port(10, 20)]}, {"ports": []}], "gone": gone}));
        assert_eq!((frames.ports, frames.fast, frames.slow), (5, 111, 29));
        assert_eq!(frames.slow_reasons(), [("broadcast", 29)]);
        assert_eq!(frames.share().map(f64::round), Some(79.0));
        assert_eq!(Frames::default().share(), None);
    }
}
