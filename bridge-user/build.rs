//! Builds the eBPF programs (package `bridge-ebpf`) and leaves the object at `$OUT_DIR/xbr-bpf`.
//!
//! It takes a toolchain that has the source of `core` beside it, which `cargo xtask setup` brings. The first of these
//! that is there is used:
//! 1. the rustup toolchain that `XBR_BPF_TOOLCHAIN` names;
//! 2. the rustup toolchain `xbr-bpf`: `cargo xtask setup` links it to the distribution's Rust where it has to;
//! 3. the rustup toolchain `nightly`;
//! 4. where there is no rustup: the `rustc` on the search path.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// Name of the object, which is the name of the bin target in `bridge-ebpf`.
const OBJECT: &str = "xbr-bpf";

/// What to do when something is missing.
const REMEDY: &str = "run `cargo xtask setup build` first";

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

/// Does it all.
fn build() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=XBR_BPF_TOOLCHAIN");
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let root_dir = manifest_dir.with_file_name("bridge-ebpf");
    let root_dir = root_dir.to_str().context("the path of the repository is not UTF-8")?;
    let package = Package { name: "bridge-ebpf", root_dir, ..Package::default() };

    let name = if env::var("AYA_BUILD_SKIP").is_ok_and(|skip| skip == "1" || skip.eq_ignore_ascii_case("true")) {
        leave_empty()?;
        None
    } else {
        Some(prepare()?)
    };
    let toolchain = name.as_deref().map_or(Toolchain::Nightly, Toolchain::Custom);
    aya_build::build_ebpf([package], toolchain).context("cannot build the eBPF programs")
}

/// Leaves an empty object where there is none: `AYA_BUILD_SKIP` is for clippy and rustdoc, which only want the file.
fn leave_empty() -> Result<()> {
    let object = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join(OBJECT);
    if object.exists() {
        return Ok(());
    }
    fs::write(&object, []).with_context(|| format!("cannot write {}", object.display()))
}

/// Sets the environment for the inner cargo and gives the name of the toolchain to build with.
fn prepare() -> Result<String> {
    let mut path: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    // cargo as the distribution has it does not need its own bin folder on the search path; bpf-linker lives there.
    path.extend(
        cargo_home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).map(|dir| dir.join("bin")),
    );
    let has = |program: &str| path.iter().any(|dir| dir.join(program).is_file());
    let (rustup, linker) = (has("rustup"), has("bpf-linker"));
    if !linker {
        bail!("cannot build the eBPF programs, bpf-linker is missing: {REMEDY}");
    }
    set("PATH", env::join_paths(path).context("PATH has an entry with a colon")?);
    // Without it every line of the inner cargo's progress becomes a warning.
    set("CARGO_TERM_QUIET", "true");

    let named = env::var("XBR_BPF_TOOLCHAIN").ok();
    let candidates = match (rustup, named.as_deref()) {
        (true, Some(name)) => vec![name],
        (true, None) => vec!["xbr-bpf", "nightly"],
        // aya-build then takes the programs on the search path, whatever name it is given.
        (false, _) => vec!["system"],
    };
    let Some((name, version)) = candidates.iter().find_map(|name| Some((*name, usable(rustup.then_some(name))?)))
    else {
        bail!(
            "cannot build the eBPF programs, no Rust toolchain has the source of `core` (looked at: {}): {REMEDY}",
            candidates.join(", ")
        );
    };
    if !version.contains("-nightly") {
        // Lets a release build `core`, as nightly may.
        set("RUSTC_BOOTSTRAP", "1");
    }
    Ok(name.to_owned())
}

/// The version of a toolchain's rustc, if it is installed with the source of `core`. `None` means: on the search path.
fn usable(name: Option<&&str>) -> Option<String> {
    let rustc = |args: &[&str]| {
        let mut command = match name {
            Some(name) => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", name, "rustc"]);
                rustup
            }
            None => Command::new("rustc"),
        };
        // A build shall not download a toolchain.
        let output = command.args(args).env("RUSTUP_AUTO_INSTALL", "0").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(text)
    };
    let sysroot = rustc(&["--print", "sysroot"])?;
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    source.is_file().then(|| rustc(&["--version"])).flatten()
}

/// Sets an environment variable of this process and of what it starts.
fn set(name: &str, value: impl AsRef<std::ffi::OsStr>) {
    // SAFETY: this build script has one thread until aya-build starts its own, and nothing here keeps a pointer into
    // the environment.
    unsafe { env::set_var(name, value) }
}
