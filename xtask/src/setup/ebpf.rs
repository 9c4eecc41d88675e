//! What the eBPF programs are built with: a Rust compiler with the source of `core`, and a bpf-linker whose LLVM reads
//! what that compiler writes.
//!
//! `bridge-user/build.rs` chooses between the toolchains in the same order.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache, proc,
    setup::{linker, say},
};

/// The rustup toolchain that stands for the distribution's Rust.
const LINKED: &str = "xbr-bpf";

/// Where the distribution's Rust is.
const SYSTEM: &str = "/usr";

/// Oldest release that compiles the workspace: its `rust-version`.
const OLDEST: [u64; 2] = [1, 95];

/// Debian's packages of Rust, in the order of preference: compiler, cargo, source. Stable releases have a recent
/// compiler in those that exist for browsers.
const PACKAGES: [[&str; 3]; 2] = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// Stamp with the combination that was last seen to work.
const STAMP: &str = "ebpf-toolchain";

/// Whether the combination that would be used now is the one that was last seen to work.
pub(crate) fn ready() -> bool {
    let now = Toolchain::first().and_then(|toolchain| toolchain.fingerprint());
    now.is_some() && now == cache::stamp(STAMP)
}

/// Finds or brings a combination that works.
pub(crate) fn ensure() -> Result<()> {
    if ready() {
        return Ok(());
    }
    if let Some(toolchain) = Toolchain::first()
        && linker::path().is_some()
    {
        say(&format!("trying the eBPF toolchain that is here ({toolchain}) …"));
        match toolchain.probe() {
            Ok(()) => return toolchain.settle(),
            Err(error) => say(&format!("it does not work: {error:#}")),
        }
    }
    match from_rustup().and_then(|toolchain| toolchain.complete()) {
        Ok(()) => return Ok(()),
        Err(error) => say(&format!("rustup's nightly will not do: {error:#}")),
    }
    let done = from_distribution().and_then(|toolchain| toolchain.complete());
    done.context(
        "the eBPF programs cannot be built here, neither with rustup's nightly nor with the distribution's Rust",
    )
}

/// A Rust toolchain with the source of `core`.
struct Toolchain {
    /// Its name in rustup; `None` is what lies on the search path where there is no rustup.
    name: Option<String>,
    /// What `rustc -vV` says.
    version: String,
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.as_deref().unwrap_or("on the search path");
        write!(f, "{name}, {}", self.version.lines().next().unwrap_or_default())
    }
}

impl Toolchain {
    /// The one that `bridge-user/build.rs` would use.
    fn first() -> Option<Self> {
        if proc::which("rustup").is_none() {
            return Self::usable(None);
        }
        match env::var("XBR_BPF_TOOLCHAIN") {
            Ok(name) => Self::usable(Some(&name)),
            Err(_unset) => [LINKED, "nightly"].iter().find_map(|name| Self::usable(Some(name))),
        }
    }

    /// The toolchain of this name, if it is there with the source of `core`.
    fn usable(name: Option<&str>) -> Option<Self> {
        let rustc = |args: &[&str]| {
            let output = proc::capture(tool(name, "rustc").args(args)).ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
        sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file().then_some(())?;
        Some(Self { name: name.map(str::to_owned), version: rustc(&["-vV"])? })
    }

    /// The major version of its LLVM.
    fn llvm(&self) -> Result<u32> {
        let line = self.version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let major = line.and_then(|version| version.split('.').next()?.parse().ok());
        major.with_context(|| format!("{self}: no LLVM version"))
    }

    /// Brings a linker that fits, and makes sure that the two work together.
    fn complete(&self) -> Result<()> {
        if linker::path().is_none() || self.probe().is_err() {
            linker::install(self.llvm()?)?;
            self.probe()?;
        }
        self.settle()
    }

    /// Notes that this combination works.
    fn settle(&self) -> Result<()> {
        say(&format!("eBPF toolchain: {self}"));
        let fingerprint = self.fingerprint().context("bpf-linker is gone")?;
        cache::set_stamp(STAMP, &fingerprint)
    }

    /// Text that changes when the compiler or the linker does.
    fn fingerprint(&self) -> Option<String> {
        let linker = linker::path()?;
        let meta = linker.metadata().ok()?;
        let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(format!("{self}\n{}\n{} {} {changed}\n", self.version, linker.display(), meta.len()))
    }

    /// Builds a program that does nothing, as `bridge-user/build.rs` builds the real ones.
    fn probe(&self) -> Result<()> {
        const MAIN: &str = "#![no_std]\n#![no_main]\n\
            #[unsafe(no_mangle)]\n#[unsafe(link_section = \"xdp\")]\npub extern \"C\" fn probe() -> u32 { 2 }\n\
            #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! { loop {} }\n";
        const MANIFEST: &str = "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n";
        let scratch = cache::Scratch::new("probe")?;
        let dir = scratch.path();
        fs::create_dir(dir.join("src")).context("cannot write the probe")?;
        fs::write(dir.join("Cargo.toml"), MANIFEST).context("cannot write the probe")?;
        fs::write(dir.join("src/main.rs"), MAIN).context("cannot write the probe")?;
        let mut cargo = tool(self.name.as_deref(), "cargo");
        cargo.args(["build", "--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
        cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf");
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_TARGET_DIR", dir.join("target")).current_dir(dir);
        proc::run_quiet(&mut cargo).map(drop)
    }
}

/// A program of a toolchain.
fn tool(name: Option<&str>, program: &str) -> Command {
    let mut command = match name {
        Some(name) => {
            let mut rustup = proc::command("rustup");
            rustup.args(["run", name, program]);
            rustup
        }
        None => proc::command(program),
    };
    // Looking must not download, and the caller's toolchain must not shine through.
    command.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC");
    command
}

/// rustup's nightly with its source.
fn from_rustup() -> Result<Toolchain> {
    if proc::which("rustup").is_none() {
        bail!("there is no rustup");
    }
    let installed = proc::run_quiet(proc::command("rustup").args(["toolchain", "list"]))?;
    let args: &[&str] = if installed.lines().any(|line| line.starts_with("nightly-")) {
        &["component", "add", "rust-src", "--toolchain", "nightly"]
    } else {
        &["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src", "--no-self-update"]
    };
    say("asking rustup for nightly with rust-src …");
    // A machine without a way out may drop packets instead of refusing them.
    let mut rustup = proc::command("timeout");
    rustup.args(["300", "rustup"]).args(args).env_remove("RUSTUP_TOOLCHAIN").env("RUST_BACKTRACE", "0");
    proc::run_quiet(&mut rustup)?;
    // A link made earlier comes first in the choice; it did not work, or this would not run.
    unlink();
    Toolchain::usable(Some("nightly")).context("rustup installed nightly, but it does not run")
}

/// The distribution's Rust, made known to rustup where there is one.
fn from_distribution() -> Result<Toolchain> {
    let rustup = proc::which("rustup").is_some();
    if rustup {
        unlink();
    }
    let source = Path::new(SYSTEM).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    let recent = || {
        let output = proc::run_quiet(Command::new("/usr/bin/rustc").arg("--version").env_remove("LD_LIBRARY_PATH"));
        output.is_ok_and(|version| at_least(version.trim_start_matches("rustc "), OLDEST))
    };
    if !(source.is_file() && recent() && Path::new("/usr/bin/cargo").is_file()) {
        super::apt::install(&choose()?)?;
    }
    if rustup {
        proc::run_quiet(proc::command("rustup").args(["toolchain", "link", LINKED, SYSTEM]))?;
    }
    let toolchain = Toolchain::usable(rustup.then_some(LINKED));
    toolchain.context("the distribution's Rust is installed, but has no source of `core`")
}

/// The packages of the distribution that have a compiler recent enough.
fn choose() -> Result<Vec<&'static str>> {
    let recent = |package: &str| super::apt::candidate(package).is_some_and(|version| at_least(&version, OLDEST));
    let find = || PACKAGES.iter().find(|packages| packages.iter().all(|package| recent(package)));
    let found = match find() {
        Some(packages) => Some(packages),
        None => super::apt::update().ok().and_then(|()| find()),
    };
    let [major, minor] = OLDEST;
    let packages = found.with_context(|| format!("the distribution has no Rust {major}.{minor} or newer"))?;
    Ok(packages.to_vec())
}

/// Whether a version that starts with two numbers is `oldest` or newer.
fn at_least(version: &str, oldest: [u64; 2]) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)] >= oldest
}

/// Removes the link to the distribution's Rust. rustup fails where there is none, which is as good.
fn unlink() {
    let _ = proc::capture(proc::command("rustup").args(["toolchain", "uninstall", LINKED]));
}

#[cfg(test)]
mod tests {
    use super::at_least;

    #[test]
    fn compares_versions_by_number() {
        assert!(at_least("1.96.0+dfsg1-1~deb12u2", [1, 95]));
        assert!(at_least("1.100.0 (abc 2026-10-01)", [1, 95]));
        assert!(!at_least("1.63.0+dfsg1-2", [1, 95]));
        assert!(!at_least("", [1, 95]));
    }
}
