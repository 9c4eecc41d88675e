//! A scenario: a configuration, frames, and changes of the configuration between them; kept as JSON.

use std::{fmt, fs, path::Path, str::FromStr as _};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::spec::Spec;
use crate::probe::Need;

/// What both universes go through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The seed that it was made from; 0 if it was written by hand.
    #[serde(default)]
    pub seed: u64,
    /// It needs a bridge that filters VLANs.
    #[serde(default)]
    pub vlans: bool,
    /// Ports that xbr is told to serve by XDP.
    #[serde(default)]
    pub xdp: Vec<String>,
    /// In this order.
    pub steps: Vec<Step>,
}

/// One step of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Lines of `ip -batch` in the host.
    Ip(Vec<String>),
    /// Lines of `bridge -batch` in the host.
    Bridge(Vec<String>),
    /// Lines of `bridge -batch` that change FDB entries alone; the frames that follow do not wait for xbr.
    Fdb(Vec<String>),
    /// Lines of `ip -batch` at the far ends.
    Far(Vec<String>),
    /// Waits until these ports of both universes are in these states, each as `PORT STATE`, or stay in the same other one.
    Await(Vec<String>),
    /// Waits until br0 has forgotten all that ages.
    Age,
    /// xbr ends and is started again: by SIGTERM, or (true) by SIGKILL.
    Restart(bool),
    /// Frames, one after the other.
    Frames(#[serde(serialize_with = "write_lines", deserialize_with = "read_lines")] Vec<Spec>),
}

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("scenario {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("scenario {}", path.display()))
    }

    /// As it is kept in a file.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What the kernel has to have for it.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::Root, Need::Tun];
        if self.vlans {
            needs.push(Need::VlanFiltering);
        }
        let upper =
            |step: &Step| matches!(step, Step::Ip(lines) if lines.iter().any(|line| line.contains("type vlan")));
        if self.steps.iter().any(upper) {
            needs.push(Need::VlanDevice);
        }
        let frames =
            self.steps.iter().filter_map(|step| if let Step::Frames(frames) = step { Some(frames) } else { None });
        if frames.flatten().any(|frame| frame.meta.is_some()) {
            needs.push(Need::Tcx);
        }
        needs
    }

    /// How many frames are in it.
    pub fn frames(&self) -> usize {
        self.steps.iter().map(|step| if let Step::Frames(frames) = step { frames.len() } else { 0 }).sum()
    }
}

fn write_lines<S: Serializer>(frames: &[Spec], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(frames.iter().map(ToString::to_string))
}

fn read_lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Spec>, D::Error> {
    let lines = Vec::<String>::deserialize(deserializer)?;
    lines.iter().map(|line| Spec::from_str(line).map_err(de::Error::custom)).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Ip(lines) => write!(formatter, "ip: {}", lines.join("; ")),
            Step::Bridge(lines) | Step::Fdb(lines) => write!(formatter, "bridge: {}", lines.join("; ")),
            Step::Far(lines) => write!(formatter, "far ends: {}", lines.join("; ")),
            Step::Await(lines) => write!(formatter, "await {}", lines.join(", ")),
            Step::Age => formatter.write_str("age"),
            Step::Restart(killed) => write!(formatter, "restart{}", if *killed { " after SIGKILL" } else { "" }),
            Step::Frames(frames) => write!(formatter, "{} frames", frames.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_its_file() {
        let frame: Spec = "p0 02:00:00:00:00:01 > 02:00:00:00:00:02 tag=q:10:0 raw=88b5 len=60".parse().unwrap();
        let scenario = Scenario {
            about: "an example".into(),
            seed: 5,
            vlans: true,
            xdp: vec!["p6".into()],
            steps: vec![
                Step::Ip(vec!["link set p0 up".into()]),
                Step::Age,
                Step::Restart(true),
                Step::Frames(vec![frame]),
            ],
        };
        assert_eq!(serde_json::from_str::<Scenario>(&scenario.text().unwrap()).unwrap(), scenario);
        assert_eq!(scenario.needs(), [Need::Root, Need::Tun, Need::VlanFiltering]);
        assert_eq!(scenario.frames(), 1);
    }
}
