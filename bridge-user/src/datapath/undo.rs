//! What has to be put back on devices even if this process ends without warning.
//!
//! Each instance keeps one file in the run folder, `<inode of the network namespace>-<pid>-<time>.undo`, and holds a lock
//! on it, which the kernel releases when the process ends, however it ends. A file that can be locked is thus a dead
//! instance's. That also holds for instances in other pid namespaces, where a process id says nothing. The file is
//! replaced as a whole, by a new one that is locked before it takes its name; it exists only while it records something.
//!
//! What a file says holds for one boot and one network namespace: it carries the boot's id and the namespace's cookie
//! (an inode number is used again).

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirEntry, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use log::{debug, warn};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use crate::{ipc, model::IfIndex};

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;

const SUFFIX: &str = "undo";
/// A file on its way to its name.
const NEW_SUFFIX: &str = "undo-new";
/// A file needs far less than this to get its name; an older one belongs to a process that died meanwhile.
const STALE: Duration = Duration::from_mins(1);
/// More than any file of an instance with thousands of ports.
const LARGEST: u64 = 4 << 20;

/// A change to a device that outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// We attached a filter to a clsact qdisc: it outlives the process.
    FilterAdded,
    /// We added the clsact qdisc.
    ClsactAdded,
    /// rx-vlan-offload was on, and we turned it off.
    RxVlanOffloadOff,
    /// We turned `rx-vlan-stag-hw-parse` off (the same for 802.1ad tags).
    RxVlanStagOff,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FilterAdded => "a filter that was added",
            Self::ClsactAdded => "a clsact qdisc that was added",
            Self::RxVlanOffloadOff => "rx-vlan-offload, which was on",
            Self::RxVlanStagOff => "rx-vlan-stag-hw-parse, which was on",
        })
    }
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The boot that all of this happened in.
    boot: String,
    /// `SO_NETNS_COOKIE` of the namespace of the devices.
    netns_cookie: u64,
    /// Who wrote it, for a person to read.
    pid: u32,
    devices: Vec<Device>,
}

impl Record {
    fn parse(text: &str) -> io::Result<Self> {
        serde_json::from_str(text).map_err(io::Error::from)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Device {
    ifindex: IfIndex,
    name: String,
    changes: BTreeSet<Change>,
}

/// The changes that this instance has made, kept in a file as well.
pub struct Undo {
    run_dir: PathBuf,
    /// Inode of the namespace, with which the names of its files begin.
    netns: u64,
    stem: String,
    boot: String,
    netns_cookie: u64,
    devices: Vec<Device>,
    /// The current file, if there is something to record.
    file: Option<Flock<File>>,
}

impl Undo {
    /// Prepares to record changes to devices of the calling thread's network namespace. Makes the folder if need be;
    /// writes nothing yet.
    ///
    /// # Errors
    /// The folder cannot be made, or `/proc` cannot be read.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(run_dir)?;
        let netns = ipc::namespace_inode()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The time keeps apart what has one process id: instances in different pid namespaces.
        let stem = format!("{netns}-{}-{:x}", std::process::id(), now.as_nanos());
        let netns_cookie = netns_cookie()?;
        Ok(Self { run_dir: run_dir.to_owned(), netns, stem, boot, netns_cookie, devices: Vec::new(), file: None })
    }

    /// Records a change to a device. Where it is harmless to undo what was not done, this belongs before the change. A
    /// failure is logged: it costs no more than what a crash would leave behind.
    pub fn record(&mut self, ifindex: IfIndex, name: &str, change: Change) {
        if self.add(ifindex, name, [change]) {
            self.store();
        }
    }

    /// The device has another name now.
    pub fn rename(&mut self, ifindex: IfIndex, name: &str) {
        let mut changed = false;
        for device in self.devices.iter_mut().filter(|device| device.ifindex == ifindex && device.name != name) {
            name.clone_into(&mut device.name);
            changed = true;
        }
        if changed {
            self.store();
        }
    }

    /// Strikes out a change that was undone. What is not recorded is ignored.
    pub fn forget(&mut self, ifindex: IfIndex, change: Change) {
        let mut changed = false;
        for device in self.devices.iter_mut().filter(|device| device.ifindex == ifindex) {
            changed |= device.changes.remove(&change);
        }
        if changed {
            self.devices.retain(|device| !device.changes.is_empty());
            self.store();
        }
    }

    /// What dead instances left to undo in this namespace: index and name of the device as it was, and the changes in
    /// the order of [`Change`].
    ///
    /// All of it is recorded as this instance's from now on, so that of several that ask at once only one gets it, and
    /// that nothing is lost if this one dies, too: [`Self::forget`] each change once it is undone.
    pub fn leftovers(&mut self) -> Vec<(IfIndex, String, Vec<Change>)> {
        let entries = match fs::read_dir(&self.run_dir) {
            Ok(entries) => entries,
            Err(error) => {
                warn!("cannot look for what a dead instance left to undo in {}: {error}", self.run_dir.display());
                return Vec::new();
            }
        };
        let mut found: Vec<Device> = Vec::new();
        let mut taken_over = Vec::new();
        for entry in entries.filter_map(Result::ok) {
            self.remove_stale(&entry);
            let Some((path, file)) = self.dead(&entry) else {
                continue;
            };
            match self.load(&path, &file) {
                Ok(devices) if !devices.is_empty() => {
                    found.extend(devices);
                    // The lock has to last until this instance's own file has the devices.
                    taken_over.push((path, file));
                }
                Ok(_) => remove(&path),
                Err(error) => {
                    warn!("{}: {error}; removed: what it recorded is not undone", path.display());
                    remove(&path);
                }
            }
        }
        for Device { ifindex, name, changes } in &found {
            self.add(*ifindex, name, changes.iter().copied());
        }
        if !taken_over.is_empty() && self.store() {
            for (path, _) in &taken_over {
                remove(path);
            }
        }
        let mut merged = Vec::new();
        for device in found {
            merge(&mut merged, device);
        }
        merged.into_iter().map(|device| (device.ifindex, device.name, device.changes.into_iter().collect())).collect()
    }

    /// Returns whether that was new.
    fn add(&mut self, ifindex: IfIndex, name: &str, changes: impl IntoIterator<Item = Change>) -> bool {
        merge(&mut self.devices, Device { ifindex, name: name.to_owned(), changes: changes.into_iter().collect() })
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.run_dir.join(format!("{}.{suffix}", self.stem))
    }

    /// Brings the file up to date, and logs it if that fails. Returns whether the file is up to date.
    fn store(&mut self) -> bool {
        let path = self.path(SUFFIX);
        let stored = if self.devices.is_empty() { self.clear(&path) } else { self.replace(&path) };
        if let Err(error) = &stored {
            warn!("cannot write {}: {error}; a crash would leave changes to devices behind", path.display());
        }
        stored.is_ok()
    }

    /// Removes the file: there is nothing to record.
    fn clear(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                self.file = None;
                Ok(())
            }
        }
    }

    /// Puts a new file in the place of the old one, with the devices as they are now.
    fn replace(&mut self, path: &Path) -> io::Result<()> {
        let record = Record {
            boot: self.boot.clone(),
            netns_cookie: self.netns_cookie,
            pid: std::process::id(),
            devices: self.devices.clone(),
        };
        let text = serde_json::to_string(&record).map_err(io::Error::from)?;
        let new_path = self.path(NEW_SUFFIX);
        let written = write_new(&new_path, &text).and_then(|file| fs::rename(&new_path, path).map(|()| file));
        match written {
            Ok(file) => {
                self.file = Some(file);
                Ok(())
            }
            Err(error) => {
                // What was written before is still there, and still true of most devices.
                let _ = fs::remove_file(&new_path);
                Err(error)
            }
        }
    }

    /// Whether a file in the folder belongs to this namespace.
    fn is_ours(&self, entry: &DirEntry, suffix: &str) -> bool {
        let path = entry.path();
        let netns = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.split('-').next());
        path.extension() == Some(OsStr::new(suffix)) && netns.and_then(|netns| netns.parse().ok()) == Some(self.netns)
    }

    /// Locks the file of a dead instance; `None` for any other.
    fn dead(&self, entry: &DirEntry) -> Option<(PathBuf, Flock<File>)> {
        let path = entry.path();
        if !self.is_ours(entry, SUFFIX) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return None;
        }
        match lock(&path) {
            Ok(file) => file.map(|file| (path, file)),
            Err(error) => {
                warn!("cannot lock {}: {error}; what it may record is not undone", path.display());
                None
            }
        }
    }

    /// Reads the file of a dead instance. Nothing is left to undo after a reboot, or in a namespace that is gone.
    fn load(&self, path: &Path, file: &File) -> io::Result<Vec<Device>> {
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text)?;
        let record = Record::parse(&text)?;
        if record.boot != self.boot || record.netns_cookie != self.netns_cookie {
            debug!("{}: of another boot or namespace; removed", path.display());
            return Ok(Vec::new());
        }
        Ok(record.devices)
    }

    /// Removes what an instance that died while it wrote has left.
    fn remove_stale(&self, entry: &DirEntry) {
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if self.is_ours(entry, NEW_SUFFIX) && age().is_some_and(|age| age > STALE) {
            debug!("{}: never finished; removed", entry.path().display());
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes a file that has served its purpose.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!("cannot remove {}: {error}", path.display());
    }
}

/// Adds changes to the device they belong to. Returns whether that was new.
fn merge(devices: &mut Vec<Device>, new: Device) -> bool {
    let known = devices.iter_mut().find(|device| device.ifindex == new.ifindex && device.name == new.name);
    let Some(known) = known else {
        devices.push(new);
        return true;
    };
    let before = known.changes.len();
    known.changes.extend(new.changes);
    known.changes.len() > before
}

/// Makes a file that is locked from the start.
fn write_new(path: &Path, text: &str) -> io::Result<Flock<File>> {
    // Who may open it may lock it, and so keep others from undoing what it says.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| io::Error::from(error))?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    Ok(file)
}

/// Locks a file and makes sure that it is still the one of that name; `None` if somebody holds it or has replaced it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    match fs::metadata(path) {
        Ok(named) if named.ino() == file.metadata()?.ino() => Ok(Some(file)),
        _ => Ok(None),
    }
}

/// The number of the calling thread's network namespace that is never used again (`sock_getsockopt`, since 5.14).
fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and the length it wrote to `length`; both live.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}
