//! bpf-linker, with an LLVM that is not older than the compiler's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache, proc,
    setup::{apt, say},
};

/// The version that the build is tested with.
const VERSION: &str = "0.13.0";

/// Major versions of LLVM that it can be built with.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Where it is, if it is installed.
pub(crate) fn path() -> Option<PathBuf> {
    proc::which("bpf-linker")
}

/// Installs a bpf-linker for a compiler with LLVM `oldest`, in place of any other.
pub(crate) fn install(oldest: u32) -> Result<()> {
    match llvm(oldest)? {
        Some(major) => build(major),
        None => download(),
    }
}

/// The LLVM to build with, its development files installed; `None` where the system has no fitting one.
fn llvm(oldest: u32) -> Result<Option<u32>> {
    let fitting = || LLVM.filter(|major| *major >= oldest);
    let installed = |major: &u32| Path::new(&prefix(*major)).join("bin/llvm-config").is_file();
    if let Some(major) = fitting().find(installed) {
        return Ok(Some(major));
    }
    let packaged = |major: &u32| apt::candidate(&format!("llvm-{major}-dev")).is_some();
    let found = match fitting().find(packaged) {
        None if proc::which("apt-get").is_some() => {
            apt::update()?;
            fitting().find(packaged)
        }
        found => found,
    };
    let Some(major) = found else { return Ok(None) };
    apt::install(&[&format!("llvm-{major}-dev")])?;
    Ok(Some(major))
}

/// Where Debian has LLVM.
fn prefix(major: u32) -> String {
    format!("/usr/lib/llvm-{major}")
}

/// Builds it from the sources of crates.io.
fn build(major: u32) -> Result<()> {
    if proc::which("c++").is_none() {
        apt::install(&["g++"])?;
    }
    say(&format!("building bpf-linker {VERSION} with LLVM {major} (about a minute) …"));
    let feature = format!("llvm-{major}");
    let mut cargo = proc::cargo();
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--no-default-features", "--features", &feature]);
    // The caller's target folder is not for programs of the machine.
    let scratch = cache::Scratch::new("linker")?;
    cargo.args(["--locked", "--force"]).env("LLVM_PREFIX", prefix(major)).env("CARGO_TARGET_DIR", scratch.path());
    proc::run_quiet(cargo.current_dir(scratch.path())).map(drop)
}

/// Takes the program that its authors publish; it has the newest LLVM in it.
fn download() -> Result<()> {
    let arch = std::env::consts::ARCH;
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{VERSION}/bpf-linker-{arch}-unknown-linux-musl.tar.zst"
    );
    let missing: Vec<&str> = ["curl", "tar", "zstd"].into_iter().filter(|name| proc::which(name).is_none()).collect();
    apt::install(&missing)?;
    say(&format!("downloading {url} …"));
    let bin = proc::cargo_bin().context("no folder for bpf-linker: set HOME")?;
    let scratch = cache::Scratch::new("linker")?;
    let archive = scratch.path().join("bpf-linker.tar.zst");
    let mut curl = proc::command("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--max-time", "300", "-o"]);
    proc::run_quiet(curl.arg(&archive).arg(&url))?;
    proc::run_quiet(proc::command("tar").arg("-xf").arg(&archive).arg("-C").arg(scratch.path()))?;
    let program = scratch.path().join("bpf-linker");
    if !program.is_file() {
        bail!("{url} has no bpf-linker in it");
    }
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let target = bin.join("bpf-linker");
    std::fs::copy(&program, &target).with_context(|| format!("cannot write {}", target.display())).map(drop)
}
