//! Programs of crates.io that a verb needs: at one version, in the cache, for no other use of the machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{cache, proc, setup::say};

/// A program and the version that is used.
pub(crate) struct Tool {
    /// Name of the crate and of its program.
    pub(crate) name: &'static str,
    /// The version.
    pub(crate) version: &'static str,
}

impl Tool {
    /// The program's file; it is built if it is not there.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        let Self { name, version } = self;
        let root = cache::dir()?.join("tools").join(format!("{name}-{version}"));
        let program = root.join("bin").join(name);
        if program.is_file() {
            return Ok(program);
        }
        let _lock = cache::lock()?;
        say(&format!("building {name} {version} (about two minutes) …"));
        let scratch = cache::Scratch::new("tool")?;
        let mut cargo = proc::cargo();
        cargo.args(["install", name, "--version", version, "--locked", "--root"]).arg(&root);
        cargo.env("CARGO_TARGET_DIR", scratch.path()).current_dir(scratch.path());
        proc::run_quiet(&mut cargo).with_context(|| format!("{name} {version} cannot be installed from crates.io"))?;
        Ok(program)
    }
}
