//! How `xbr status` and `xbr top` ask the daemon: one UNIX stream socket per instance, one JSON object per line.
//!
//! The socket is named `<inode of the network namespace>-<pid>.sock`, so that instances in several namespaces share one
//! folder and a client finds those of its own namespace without asking each. A request is `{"v":1,"method":"status"}`,
//! the reply `{"v":1,"ok":…}` or `{"v":1,"error":{"code":…,"message":…}}`. A connection takes any number of requests.

mod client;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod server;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::{
    client::{Answers, ask, snapshots},
    server::{Method, Query, Server},
};
use crate::status::Snapshot;

/// Version of the protocol: of the envelope, not of what is inside `ok`.
pub const VERSION: u32 = 1;

/// What a client sends.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// [`VERSION`].
    v: u32,
    /// What is asked for: "status".
    method: String,
}

/// What the server sends back: either `ok` or `error` is there.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Reply {
    /// [`VERSION`].
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<Snapshot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<WireError>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireError {
    /// For programs: `bad_request`, `too_large`, `version`, `method`, `busy`, `timeout`.
    code: String,
    /// For people, one line.
    message: String,
}

/// The inode number that tells the calling thread's network namespace from all others of the host.
///
/// # Errors
/// `/proc` is not mounted.
pub fn namespace_inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Where the instance with this namespace and process id listens.
fn socket_path(run_dir: &Path, inode: u64, pid: u32) -> PathBuf {
    run_dir.join(format!("{inode}-{pid}.sock"))
}

/// The namespace inode and process id in a socket's name; `None` for any other file.
fn parse_name(path: &Path) -> Option<(u64, u32)> {
    let (inode, pid) = path.file_name()?.to_str()?.strip_suffix(".sock")?.split_once('-')?;
    Some((inode.parse().ok()?, pid.parse().ok()?))
}

#[cfg(test)]
mod tests;
