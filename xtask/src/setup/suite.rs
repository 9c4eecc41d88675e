//! The kernel's own tests, from Debian's source package, and an iproute2 that is new enough for them; in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache, proc,
    setup::{apt, kernel::Kernel, say, tools},
};

/// The kernel's network tests in the cache.
pub(crate) struct Suite {
    /// `tools/testing/selftests/net`.
    pub(crate) dir: PathBuf,
    /// Version of the source package.
    pub(crate) version: String,
}

/// A folder with the programs of a newer iproute2 below `bin` and `sbin`.
pub(crate) struct Iproute {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// Version of the package; of the system's own if no newer one could be had.
    pub(crate) version: String,
}

/// What the kernel's tests call, beside what xbr's own tests do.
const TOOLS: &[(&str, &str)] = &[
    ("mausezahn", "netsniff-ng"),
    ("jq", "jq"),
    ("arping", "iputils-arping"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("socat", "socat"),
    ("teamd", "libteam-utils"),
    ("ndisc6", "ndisc6"),
    ("traceroute", "traceroute"),
    ("nft", "nftables"),
    ("ebtables", "ebtables"),
    ("nsenter", "util-linux"),
];

/// Installs what the tests call. What cannot be had makes tests skip, and they say so.
pub(crate) fn tools() {
    if let Err(error) = tools::ensure(TOOLS) {
        say(&format!("warning: {error:#}"));
    }
}

/// Brings the tests of the kernel series into the cache.
pub(crate) fn ensure(kernel: Kernel) -> Result<Suite> {
    let dir = cache::dir()?.join("suites").join(format!("v{kernel}"));
    let stamp = dir.join("complete");
    if !stamp.exists() {
        let _lock = cache::lock()?;
        if !stamp.exists() {
            let version = fetch(kernel, &dir)?;
            fs::write(&stamp, version).context("cannot write into the cache")?;
        }
    }
    let version = fs::read_to_string(&stamp).with_context(|| format!("cannot read {}", stamp.display()))?;
    Ok(Suite { dir: dir.join("tools/testing/selftests/net"), version })
}

/// Unpacks the tests, and nothing else, of the newest source package. Gives its version.
fn fetch(kernel: Kernel, dir: &Path) -> Result<String> {
    let package = format!("linux-source-{kernel}");
    if apt::candidate(&package).is_none() {
        apt::update()?;
    }
    let version = apt::candidate(&package).with_context(|| format!("no package {package} for this system"))?;
    say(&format!("fetching the kernel's tests: {package} {version} (150 MB) …"));
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let whole = dir.with_extension("whole");
    apt::unpack(&package, &whole)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let top = format!("linux-source-{kernel}");
    let mut tar = proc::command("tar");
    tar.arg("-xJf").arg(whole.join(format!("usr/src/{top}.tar.xz"))).arg("-C").arg(dir).arg("--strip-components=1");
    // Also what the tests include by a path upwards.
    tar.args(["net", "lib.sh", "kselftest"].map(|name| format!("{top}/tools/testing/selftests/{name}")));
    // Some series lack one of them: then tar says so, and unpacks the rest.
    let output = proc::capture(&mut tar)?;
    if !dir.join("tools/testing/selftests/net/forwarding/lib.sh").exists() {
        bail!("{} brought no tests: {}", proc::show(&tar), String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::remove_dir_all(&whole).with_context(|| format!("cannot remove {}", whole.display()))?;
    Ok(version)
}

/// Brings an iproute2 from Debian's backports into the cache, where it does not disturb the system's own.
///
/// Where that cannot be had, the system's own is used: tests that it is too old for say so and are skipped.
pub(crate) fn iproute() -> Result<Iproute> {
    let dir = cache::dir()?.join("iproute2");
    let stamp = dir.join("complete");
    if !stamp.exists() {
        let _lock = cache::lock()?;
        if let Err(error) = backport(&dir) {
            say(&format!("warning: no newer iproute2: {error:#}; tests that need one will be skipped"));
            let version = proc::run_quiet(proc::command("ip").arg("-V"))?;
            return Ok(Iproute { dir, version: version.trim().to_owned() });
        }
    }
    let version = fs::read_to_string(&stamp).with_context(|| format!("cannot read {}", stamp.display()))?;
    Ok(Iproute { dir, version })
}

/// Asks apt with package lists of its own, so that the system's sources stay as they are.
fn backport(dir: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field =
        |name: &str| release.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_matches('"'));
    let (Some("debian"), Some(codename)) = (field("ID="), field("VERSION_CODENAME=")) else {
        bail!("this is no Debian, whose backports would be asked");
    };
    say("fetching iproute2 from backports …");
    let apt = dir.with_extension("apt");
    let lists = apt.join("lists");
    fs::create_dir_all(lists.join("partial")).with_context(|| format!("cannot create {}", lists.display()))?;
    let sources = apt.join("backports.sources");
    let text = format!(
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {codename}-backports\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    fs::write(&sources, text).with_context(|| format!("cannot write {}", sources.display()))?;
    let get = |words: &[&str]| {
        let mut get = proc::command("apt-get");
        get.arg("-qq").arg("-o").arg(format!("Dir::Etc::SourceList={}", sources.display()));
        get.args(["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Sandbox::User=root", "-o"]);
        get.arg(format!("Dir::State::Lists={}", lists.display())).arg("-o");
        get.arg(format!("Dir::Cache={}", apt.join("cache").display()));
        get.args(words).current_dir(&apt).stdin(Stdio::null());
        proc::run_quiet(&mut get)
    };
    get(&["update"])?;
    get(&["download", &format!("iproute2/{codename}-backports")])?;
    let deb = fs::read_dir(&apt)
        .with_context(|| format!("cannot read {}", apt.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get brought no iproute2")?;
    proc::run_quiet(proc::command("dpkg").arg("-x").arg(&deb).arg(dir))?;
    let version = proc::run_quiet(proc::command("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?;
    fs::write(dir.join("complete"), version.trim()).context("cannot write into the cache")?;
    fs::remove_dir_all(&apt).with_context(|| format!("cannot remove {}", apt.display()))
}
