//! Network namespaces that vanish when they go out of scope.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// What all namespaces of tests and labs are called at the start; the process id of the owner follows.
const PREFIXES: [&str; 2] = ["xbr-t-", "xbr-lab-"];

/// Settings of every namespace: nothing may talk on its own, or a count of frames would not be exact.
const QUIET: [(&str, &str); 4] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/all/rp_filter", "0"),
];

/// A named network namespace; removed on drop, also while unwinding.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace with loopback up and IPv6 off.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let space = Self { name: name.to_owned() };
        space.cmd("ip link set lo up")?;
        for (key, value) in QUIET {
            space.sysctl(key, value)?;
        }
        Ok(space)
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands lines to `ip` or `bridge`; an error if one of them fails.
    pub fn batch(&self, tool: &str, lines: &[String]) -> Result<()> {
        let text = lines.join("\n") + "\n";
        let mut child = self.enter(|| {
            Command::new(tool).args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
        })??;
        child.stdin.take().with_context(|| format!("{tool} has no input"))?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{tool} -batch in {}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it. Sockets opened there stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(Path::new(NAMES).join(&self.name)).with_context(|| format!("namespace {}", self.name))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("setns {}", self.name))?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command, given as words separated by spaces, inside the namespace; its standard output, or an error with
    /// its standard error.
    pub fn cmd(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        if !output.status.success() {
            bail!(
                "`{line}` in {}: {}: {}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Netns::cmd`], for commands that may fail.
    pub fn output(&self, line: &str) -> Result<Output> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command")?;
        // A process inherits the namespace of the thread that starts it.
        self.enter(|| Command::new(program).args(words).output())?.with_context(|| format!("cannot start `{program}`"))
    }

    /// Runs a command whose output is JSON.
    pub fn json(&self, line: &str) -> Result<serde_json::Value> {
        let text = self.cmd(line)?;
        let text = if text.trim().is_empty() { "[]" } else { text.as_str() };
        serde_json::from_str(text).with_context(|| format!("output of `{line}`"))
    }

    /// Sets `net/KEY` under `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("{} in {}", path.display(), self.name))
    }

    /// The kernel's counter `key` (e.g. `rx_packets`) of a device.
    pub fn link_counter(&self, dev: &str, direction: &str, key: &str) -> Result<u64> {
        let links = self.json(&format!("ip -j -s link show dev {dev}"))?;
        links[0]["stats64"][direction][key].as_u64().with_context(|| format!("{direction} {key} of {dev}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("cannot remove namespace {}: {error:#}", self.name);
        }
    }
}

/// Runs a command outside of any lab namespace; its standard output, or an error with its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes namespaces whose owner, a process of an earlier test run or lab, is dead.
pub fn remove_stale() {
    let Ok(names) = fs::read_dir(NAMES) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(Netns { name });
        }
    }
}

/// The process id in the name of a namespace of ours.
fn owner(name: &str) -> Option<u32> {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    rest.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("xbr-t-123-4-host"), Some(123));
        assert_eq!(owner("xbr-lab-77-host"), Some(77));
        assert_eq!(owner("xbr-t-host"), None);
        assert_eq!(owner("prod"), None);
    }
}
