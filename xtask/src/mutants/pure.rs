//! The pure part of `bridge-user` as a package of its own: model, configuration and plan, which need nothing but
//! `bridge-common`, and clap for the names of choices. It builds in seconds. That it builds shows that they are pure.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::proc;

/// The modules, in files of their names.
const MODULES: [&str; 3] = ["config", "model", "plan"];

/// Makes the package in a new folder.
pub(super) fn package(folder: &Path) -> Result<PathBuf> {
    let (from, to) = (proc::repo().join("bridge-user/src"), folder.join("src"));
    create(&to)?;
    let mut root = String::from("//! The pure modules of bridge-user.\n");
    for module in MODULES {
        root.extend(["pub mod ", module, ";\n"]);
        copy(&from.join(format!("{module}.rs")), &to.join(format!("{module}.rs")))?;
        let folder = from.join(module);
        if folder.is_dir() {
            copy_all(&folder, &to.join(module))?;
        }
    }
    let common = proc::repo().join("bridge-common");
    let manifest = format!(
        "[package]\nname = \"bridge-user\"\nedition = \"2024\"\n[workspace]\n\
        [dependencies]\nbridge-common = {{ path = {:?} }}\nclap = {{ version = \"4\", features = [\"derive\"] }}\n\
        [profile.dev]\nopt-level = 0\ndebug = false\n",
        common.display().to_string()
    );
    write(&to.join("lib.rs"), &root)?;
    write(&folder.join("Cargo.toml"), &manifest)?;
    // The same versions as in the workspace.
    copy(&proc::repo().join("Cargo.lock"), &folder.join("Cargo.lock"))?;
    Ok(folder.to_path_buf())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Copies a folder and what is in it.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    create(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", from.display()))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() { copy_all(&path, &target)? } else { copy(&path, &target)? }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
