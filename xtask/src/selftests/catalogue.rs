//! Which of the kernel's tests are of interest: those that make a bridge.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// One of the kernel's tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    /// Path below `tools/testing/selftests/net`.
    pub(crate) path: String,
    /// Seconds after which one run of it is killed. About five times what it takes under emulation.
    pub(crate) limit: u32,
    /// Why it is not run, if it is not.
    pub(crate) left_out: Option<&'static str>,
}

/// Folders below `tools/testing/selftests/net` that have tests with bridges.
const FOLDERS: [&str; 3] = ["forwarding", "", "netfilter"];

/// Tests that cannot say anything here, by the start of their path.
const LEFT_OUT: &[(&str, &str)] = &[
    ("forwarding/sch_", "measures rates, which mean nothing under emulation"),
    ("forwarding/tc_actions", "makes no bridge of its own"),
    ("fcnal-test.sh", "takes hours; its bridge only holds addresses"),
    ("pmtu.sh", "takes an hour; its bridges forward between a port and an overlay's own device"),
    ("netfilter/br_netfilter_queue.sh", "needs nf_queue, a program that is built with the kernel's tests"),
    ("netfilter/nft_flowtable.sh", "needs more file space and time than an emulated machine has"),
    ("test_vxlan_mdb.sh", "dumps large tables of vxlan devices for most of an hour; its bridges only hold these"),
    ("amt.sh", "needs programs that are built with the kernel's tests"),
];

/// Tests that take longer than [`LIMIT`], by the start of their path, and their limits in seconds.
const LONG: &[(&str, u32)] = &[
    ("forwarding/bridge_igmp", 900),
    ("forwarding/bridge_mld", 900),
    ("forwarding/bridge_mdb", 1800),
    ("forwarding/bridge_vlan_mcast", 1200),
    ("forwarding/vxlan_bridge", 1800),
    ("forwarding/local_termination", 1500),
    ("forwarding/mirror_gre", 900),
    ("forwarding/no_forwarding", 1500),
    ("test_bridge_neigh_suppress", 1800),
    ("test_bridge_backup_port", 1800),
    ("test_vxlan", 1800),
];

/// Seconds for one run of a test.
const LIMIT: u32 = 600;

/// The short ones among those in which the bridge forwards unicast between stations: about four minutes in all.
pub(crate) const QUICK: [&str; 3] =
    ["forwarding/bridge_port_isolation.sh", "forwarding/bridge_vlan_unaware.sh", "forwarding/tc_vlan_modify.sh"];

/// All tests of the suite in `dir` that make a bridge, themselves or by what they include.
pub(crate) fn all(dir: &Path) -> Result<Vec<Test>> {
    let mut tests = BTreeSet::new();
    for folder in FOLDERS {
        let path = dir.join(folder);
        // Older suites have their netfilter tests elsewhere.
        if !path.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let script = path.join(&name);
            let library = name.ends_with("lib.sh") || name.ends_with("core.sh") || name.ends_with("_common.sh");
            let plain_name = name.strip_suffix(".sh").is_some() && !library;
            if plain_name && makes_a_bridge(&script, &mut BTreeSet::new())? {
                tests.insert(test(&if folder.is_empty() { name } else { format!("{folder}/{name}") }));
            }
        }
    }
    Ok(tests.into_iter().collect())
}

/// The test at `path`, with what is known of it.
fn test(path: &str) -> Test {
    let limit = LONG.iter().find(|(start, _)| path.starts_with(start)).map_or(LIMIT, |(_, limit)| *limit);
    let left_out = LEFT_OUT.iter().find(|(start, _)| path.starts_with(start)).map(|(_, why)| *why);
    Test { path: path.to_owned(), limit, left_out }
}

/// Whether the script or a file that it includes creates a bridge. The library that all include only has helpers.
fn makes_a_bridge(script: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<bool> {
    if script.file_name().is_some_and(|name| name == "lib.sh") || !script.is_file() || !seen.insert(script.to_owned()) {
        return Ok(false);
    }
    let bytes = fs::read(script).with_context(|| format!("cannot read {}", script.display()))?;
    // A command may go on in the next line.
    let text = String::from_utf8_lossy(&bytes).replace("\\\n", " ");
    let code = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    if code().any(creates) {
        return Ok(true);
    }
    let folder = script.parent().unwrap_or(Path::new("."));
    for line in code() {
        let included = line.strip_prefix("source ").or_else(|| line.strip_prefix(". "));
        if let Some(name) = included.and_then(|rest| rest.split_whitespace().next())
            && makes_a_bridge(&folder.join(name.trim_matches('"')), seen)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the line of shell creates a bridge device.
fn creates(line: &str) -> bool {
    // The word after the type tells the bridge from options of one: "type bridge_slave".
    let bridge = line.split("type bridge").nth(1).is_some_and(|rest| !rest.starts_with('_'));
    bridge && line.contains("add ")
}

#[cfg(test)]
mod tests {
    use super::{creates, test};

    #[test]
    fn a_bridge_is_told_from_its_options() {
        assert!(creates("ip link add name br1 address $mac   type bridge vlan_filtering 1"));
        assert!(creates("ip -n $ns link add name br0 up type bridge vlan_filtering 1"));
        assert!(!creates("ip link set dev br0 type bridge vlan_filtering 1"));
        assert!(!creates("ip link set dev $swp1 type bridge_slave learning off; ip address add x"));
    }

    #[test]
    fn limits_and_omissions_go_by_the_start_of_the_path() {
        assert_eq!(test("forwarding/vxlan_bridge_1d.sh").limit, 1800);
        assert_eq!(test("forwarding/bridge_vlan_aware.sh").limit, 600);
        assert!(test("forwarding/sch_red.sh").left_out.is_some());
        assert_eq!(test("forwarding/router_bridge.sh").left_out, None);
    }
}
