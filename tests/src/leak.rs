//! What a daemon could leave behind: BPF objects that nobody holds, filters, qdiscs, descriptors.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use crate::{bpf, netns::Netns};

/// All BPF programs, maps and links of the machine, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Program ids.
    pub programs: BTreeSet<u32>,
    /// Map ids.
    pub maps: BTreeSet<u32>,
    /// Link ids.
    pub links: BTreeSet<u32>,
}

impl Objects {
    /// Lists them.
    pub fn list() -> Result<Self> {
        Ok(Self {
            programs: bpf::ids(bpf::Kind::Program)?,
            maps: bpf::ids(bpf::Kind::Map)?,
            links: bpf::ids(bpf::Kind::Link)?,
        })
    }

    /// Those that are here, were not in `before`, and that no process has open.
    #[must_use]
    pub fn orphans(&self, before: &Self) -> Self {
        let held = held();
        let new = |now: &BTreeSet<u32>, old: &BTreeSet<u32>, held: &BTreeSet<u32>| {
            now.iter().filter(|id| !old.contains(id) && !held.contains(id)).copied().collect()
        };
        Self {
            programs: new(&self.programs, &before.programs, &held.programs),
            maps: new(&self.maps, &before.maps, &held.maps),
            links: new(&self.links, &before.links, &held.links),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }
}

/// The BPF objects that some process has a descriptor of.
fn held() -> Objects {
    let mut objects = Objects::default();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()) {
        // Processes and descriptors come and go while they are listed.
        let infos = fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten();
        for text in infos.filter_map(|info| fs::read_to_string(info.path()).ok()) {
            for line in text.lines() {
                let Some((key, value)) = line.split_once(':') else {
                    continue;
                };
                let Ok(id) = value.trim().parse() else { continue };
                match key {
                    "prog_id" => drop(objects.programs.insert(id)),
                    "map_id" => drop(objects.maps.insert(id)),
                    "link_id" => drop(objects.links.insert(id)),
                    _ => {}
                }
            }
        }
    }
    objects
}

/// Number of open descriptors of a process.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("descriptors of {pid}"))?.count())
}

/// Everything that hangs on the devices of a namespace: qdiscs, filters, tcx and XDP programs, features. Equal texts
/// before and after mean that the devices are as they were.
pub fn attachments(space: &Netns) -> Result<String> {
    let mut text = String::new();
    for device in space.json("ip -j -d link show")?.as_array().into_iter().flatten() {
        let Some(name) = device["ifname"].as_str() else {
            continue;
        };
        let (mtu, xdp, promiscuity) = (&device["mtu"], &device["xdp"], &device["promiscuity"]);
        writeln!(text, "{name} mtu {mtu} xdp {xdp} promiscuity {promiscuity}")?;
        text.push_str(&space.cmd(&format!("tc qdisc show dev {name}"))?);
        for hook in ["ingress", "egress"] {
            // A device without clsact has no such list.
            let filters = space.output(&format!("tc filter show dev {name} {hook}"))?;
            text.push_str(&String::from_utf8_lossy(&filters.stdout));
        }
        for kind in [bpf::TCX_INGRESS, bpf::TCX_EGRESS] {
            let programs = space.enter(|| bpf::attached(name, kind))??;
            writeln!(text, "{name} tcx {programs:?}")?;
        }
        let features = space.output(&format!("ethtool -k {name}"))?;
        let features = String::from_utf8_lossy(&features.stdout);
        text.extend(features.lines().filter(|line| line.contains("vlan")).map(|line| format!("{line}\n")));
    }
    Ok(text)
}
