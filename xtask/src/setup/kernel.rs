//! Debian's kernels for the virtual machines, unpacked in the cache.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache, proc,
    setup::{apt, say},
};

/// A kernel series that xbr is tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// 6.1: the oldest that xbr supports, with the strictest verifier, without tcx
    #[value(name = "6.1")]
    V6_1,
    /// 6.12: with tcx
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];
}

/// Where something runs.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Where {
    /// The kernel that runs this machine
    Running,
    /// A virtual machine with kernel 6.1
    #[value(name = "6.1")]
    V6_1,
    /// A virtual machine with kernel 6.12
    #[value(name = "6.12")]
    V6_12,
}

impl Where {
    /// The kernel of the virtual machine; `None`: this machine.
    pub(crate) fn machine(self) -> Option<Kernel> {
        match self {
            Self::Running => None,
            Self::V6_1 => Some(Kernel::V6_1),
            Self::V6_12 => Some(Kernel::V6_12),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

/// A kernel in the cache.
pub(crate) struct Installed {
    /// The image that qemu boots.
    pub(crate) image: PathBuf,
    /// `lib/modules/RELEASE`, with the lists of depmod.
    pub(crate) modules: PathBuf,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// Modules of the first stage, decompressed, their names sorted in the order of loading.
    pub(crate) early: PathBuf,
}

/// Modules that the virtual machine loads before it has a root file system, in this order, after what they need.
///
/// The last few are not needed to boot. From here they load at once; through 9p each would cost a good part of a second.
const EARLY: [&str; 9] =
    ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "bridge", "8021q", "veth", "tun"];

/// The kernel in the cache, if it is there.
pub(crate) fn installed(kernel: Kernel) -> Result<Option<Installed>> {
    let dir = dir(kernel)?;
    if !dir.join("complete").exists() {
        return Ok(None);
    }
    let modules = only_child(&dir.join("lib/modules"))?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = dir.join(format!("boot/vmlinuz-{release}"));
    Ok(Some(Installed { image, modules, release, early: dir.join("early") }))
}

/// Brings the kernel into the cache.
pub(crate) fn ensure(kernel: Kernel) -> Result<Installed> {
    if installed(kernel)?.is_none() {
        let start = std::time::Instant::now();
        let package = newest(kernel)?;
        say(&format!("fetching kernel {kernel}: {package} …"));
        let dir = dir(kernel)?;
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        apt::unpack(&package, &dir)?;
        let modules = only_child(&dir.join("lib/modules"))?;
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        proc::run_quiet(proc::command("depmod").arg("-b").arg(&dir).arg(&release))?;
        early(&dir, &release)?;
        fs::write(dir.join("complete"), &package).context("cannot write into the cache")?;
        say(&format!("kernel {release} unpacked ({:.1} s)", start.elapsed().as_secs_f32()));
    }
    installed(kernel)?
        .with_context(|| format!("kernel {kernel} is not in the cache: `cargo xtask clean-cache`, try again"))
}

/// Where the kernel is kept.
fn dir(kernel: Kernel) -> Result<PathBuf> {
    Ok(cache::dir()?.join("kernels").join(format!("v{kernel}")))
}

/// The newest package of the plain flavour: the cloud flavour lacks 9p.
fn newest(kernel: Kernel) -> Result<String> {
    let version = kernel.to_string().replace('.', r"\.");
    let pattern = |tail| format!(r"^linux-image-{version}\.[0-9.]+(-[0-9]+)?(\+deb[0-9]+)?-amd64{tail}$");
    // The unsigned package comes first: the signed one of the same kernel appears days later.
    let found = [pattern("-unsigned"), pattern("")].iter().find_map(|pattern| apt::names(pattern).pop());
    found.with_context(|| {
        format!("no package of kernel {kernel} for this system: apt-cache knows no linux-image-{kernel}*-amd64")
    })
}

/// Fills `early` with the modules of the first stage.
fn early(dir: &Path, release: &str) -> Result<()> {
    let early = dir.join("early");
    fs::create_dir_all(&early).with_context(|| format!("cannot create {}", early.display()))?;
    let mut done = Vec::new();
    for name in EARLY {
        let mut modprobe = proc::command("modprobe");
        modprobe.arg("-d").arg(dir).args(["-S", release, "--show-depends", name]);
        for line in proc::run_quiet(&mut modprobe)?.lines() {
            // "insmod FILE" or "builtin NAME"
            let Some(file) = line.strip_prefix("insmod ").map(|rest| PathBuf::from(rest.trim())) else {
                continue;
            };
            if !done.contains(&file) {
                decompress(&file, &early, done.len())?;
                done.push(file);
            }
        }
    }
    Ok(())
}

/// Writes module `file` without compression as number `n` into `early`.
fn decompress(file: &Path, early: &Path, n: usize) -> Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let (stem, tool) = match name.rsplit_once('.') {
        Some((stem, "xz")) => (stem, Some("xz")),
        Some((stem, "zst")) => (stem, Some("zstd")),
        Some((stem, "gz")) => (stem, Some("gzip")),
        _ => (name.as_ref(), None),
    };
    let bytes = match tool {
        None => fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        Some(tool) => {
            let output = proc::capture(proc::command(tool).arg("-dc").arg(file))?;
            if !output.status.success() {
                bail!("{tool} cannot decompress {}", file.display());
            }
            output.stdout
        }
    };
    let path = early.join(format!("{n:02}-{stem}"));
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The one entry of a folder.
fn only_child(dir: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.next();
    Ok(entry.with_context(|| format!("{} is empty", dir.display()))??.path())
}
