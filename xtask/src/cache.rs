//! Where downloads and everything made from them live: outside the tree, so that a clean clone finds them again.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

/// The cache folder, created if need be: `$XBR_CACHE`, else `$XDG_CACHE_HOME/xbr`, else `~/.cache/xbr`.
pub(crate) fn dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("XBR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("xbr")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/xbr")))
        .context("no cache folder: set XBR_CACHE or HOME")?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create the cache folder {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("cannot resolve the cache folder {}", dir.display()))
}

/// An exclusive lock on the cache until the value is dropped, so that two set-ups do not unpack into each other.
pub(crate) fn lock() -> Result<File> {
    let path = dir()?.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("setup: waiting for another `cargo xtask` that is setting up …");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Runs `cargo xtask clean-cache`.
pub(crate) fn clean() -> Result<ExitCode> {
    let dir = dir()?;
    let lock = lock()?;
    // Only what is ours: the folder may have been given by hand.
    for name in ["kernels", "suites", "iproute2", "openvswitch", "tools", "ebpf-toolchain"] {
        let path = dir.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    drop(lock);
    println!("{} has no downloads any more", dir.display());
    Ok(ExitCode::SUCCESS)
}

/// Reads the stamp `name`, if there is one.
pub(crate) fn stamp(name: &str) -> Option<String> {
    fs::read_to_string(dir().ok()?.join(name)).ok()
}

/// Writes the stamp `name`.
pub(crate) fn set_stamp(name: &str, text: &str) -> Result<()> {
    let path = dir()?.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A folder of its own for one run, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates the folder below the temporary folder. `what` makes its name readable.
    pub(crate) fn new(what: &str) -> Result<Self> {
        let base = env::temp_dir();
        for n in 0..1000_u32 {
            let path = base.join(format!("xbr-{what}-{}-{n}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
        anyhow::bail!("{} is full of xbr-{what}-* folders: remove them", base.display())
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is a leftover in the temporary folder, not a failure of the run.
        let _ = fs::remove_dir_all(&self.0);
    }
}
