//! Debian's packages.

use std::{path::Path, process::Command, sync::Once};

use anyhow::{Context as _, Result, bail};

use crate::{proc, setup::say};

/// Installs `packages`, which are all known to be missing.
///
/// # Errors
/// No apt-get, no root, or a package that no source has.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    if proc::which("apt-get").is_none() {
        bail!("missing: {names} (Debian's names), and there is no apt-get: install them with your package manager");
    }
    say(&format!("installing {names} …"));
    let mut apt = proc::as_root("apt-get", &format!("installing {names}"))?;
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]).args(packages);
    // The package lists may be missing, or older than the archive. Refreshing them takes longer than most packages.
    if packages.iter().all(|package| candidate(package).is_some()) && proc::run_quiet(&mut apt).is_ok() {
        return Ok(());
    }
    update()?;
    proc::run_quiet(&mut apt).map(drop)
}

/// Refreshes the package lists, once per run. A failure is only shown: what is missing in them shows later.
pub(crate) fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut apt = proc::as_root("apt-get", "refreshing the package lists")?;
    apt.args(["update", "-qq", "-o", "DPkg::Lock::Timeout=300"]);
    ONCE.call_once(|| {
        say("refreshing the package lists …");
        if let Err(error) = proc::run_quiet(&mut apt) {
            say(&format!("warning: {error:#}"));
        }
    });
    Ok(())
}

/// The newest version of a package that the package lists have.
pub(crate) fn candidate(name: &str) -> Option<String> {
    let output = proc::run_quiet(proc::command("apt-cache").args(["policy", name])).ok()?;
    let version = output.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// The names of all packages that match the extended regular expression, in the order of their versions.
pub(crate) fn names(pattern: &str) -> Vec<String> {
    let list = || {
        let output = proc::run_quiet(proc::command("apt-cache").args(["search", "--names-only", pattern])).ok()?;
        let mut names: Vec<String> =
            output.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        names.sort_by_key(|name| numbers(name));
        Some(names)
    };
    let found = list().unwrap_or_default();
    if found.is_empty() && proc::which("apt-cache").is_some() && update().is_ok() {
        return list().unwrap_or_default();
    }
    found
}

/// The numbers in a package's name, which order versions of one name.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Downloads package `name` and unpacks it into `dir`, without installing it. Needs no root.
pub(crate) fn unpack(name: &str, dir: &Path) -> Result<()> {
    let scratch = dir.with_extension("deb");
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let mut download = proc::command("apt-get");
    download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", name]).current_dir(&scratch);
    if proc::run_quiet(&mut download).is_err() {
        // The lists may be older than the archive.
        update()?;
        proc::run_quiet(&mut download)?;
    }
    let deb = std::fs::read_dir(&scratch)
        .with_context(|| format!("cannot read {}", scratch.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("`apt-get download {name}` brought nothing"))?;
    proc::run_quiet(Command::new("dpkg").arg("-x").arg(&deb).arg(dir))?;
    std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(numbers("linux-image-6.1.0-9-amd64-unsigned") < numbers("linux-image-6.1.0-56-amd64-unsigned"));
        assert!(numbers("linux-image-6.12.9+deb12-amd64") < numbers("linux-image-6.12.117+deb12-amd64"));
        assert!(numbers("llvm-9-dev") < numbers("llvm-22-dev"));
    }
}
