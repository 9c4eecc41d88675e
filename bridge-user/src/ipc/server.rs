//! The daemon's end: accepts clients, reads requests, and hands each to the control loop as a [`Query`].
//!
//! Nothing that a client does or fails to do can hold the control loop up: every client is a task of its own with bounds
//! on size and time, and the control loop only answers a channel.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net as std_unix,
    },
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use log::{debug, error, warn};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Reply, Request, VERSION, WireError, namespace_inode, parse_name, socket_path};
use crate::status::Snapshot;

/// Longest request in bytes, its newline not included.
pub(super) const MAX_REQUEST: usize = 64 * 1024;
/// Clients at a time; one more is told to come back.
pub(super) const MAX_CLIENTS: usize = 64;
/// How long a client may take to send one whole request, and to take one whole reply.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
/// How long the control loop may take to answer before the client is told so.
const DAEMON_PATIENCE: Duration = Duration::from_secs(5);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A [`Snapshot`] of now.
    Status,
}

/// One question to the control loop.
#[derive(Debug)]
pub struct Query {
    /// What is asked for.
    pub method: Method,
    reply: oneshot::Sender<Snapshot>,
}

impl Query {
    /// Answers. The client may have gone meanwhile; that is no error.
    pub fn answer(self, snapshot: Snapshot) {
        drop(self.reply.send(snapshot));
    }
}

/// A listening socket, which is removed with this value.
#[derive(Debug)]
pub struct Server {
    listener: std_unix::UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens in `run_dir` for clients of the calling thread's network namespace. Makes the folder (mode 0755) and
    /// removes what daemons left there that were killed.
    ///
    /// # Errors
    /// The folder cannot be made or written, or its path is longer than a socket's address may be (107 bytes).
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        make_folder(run_dir)?;
        remove_dead_sockets(run_dir);
        let path = socket_path(run_dir, namespace_inode()?, process::id());
        // Made under another name and renamed, so that nobody can connect before the mode is right.
        let unfinished = path.with_extension("sock.new");
        for leftover in [&path, &unfinished] {
            remove_if_there(leftover)?;
        }
        let listener = std_unix::UnixListener::bind(&unfinished)?;
        // From here on, `server` removes the file when something fails.
        let mut server = Self { listener, path: unfinished };
        fs::set_permissions(&server.path, fs::Permissions::from_mode(0o660))?;
        server.listener.set_nonblocking(true)?;
        fs::rename(&server.path, &path)?;
        server.path = path;
        Ok(server)
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves clients until the receiver of `queries` is dropped. To be spawned as a task; when that task is dropped, all
    /// connections are closed and the socket is removed.
    pub async fn serve(self, queries: mpsc::Sender<Query>) {
        let listener = match self.listener.try_clone().and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(reason) => {
                error!("cannot listen on {}: {reason}; xbr status and xbr top will not work", self.path.display());
                return;
            }
        };
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                // In this order: who has left makes room before somebody is turned away.
                biased;
                () = queries.closed() => return,
                Some(_) = clients.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() >= MAX_CLIENTS => turn_away(&stream),
                    Ok((stream, _)) => {
                        clients.spawn(converse(stream, queries.clone()));
                    }
                    Err(reason) => {
                        // Out of file descriptors, most likely: it passes when a client leaves.
                        warn!("cannot accept a client on {}: {reason}", self.path.display());
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(reason) = remove_if_there(&self.path) {
            warn!("cannot remove {}: {reason}", self.path.display());
        }
    }
}

/// One client, until it closes, misbehaves, or is silent for too long.
async fn converse(mut stream: UnixStream, queries: mpsc::Sender<Query>) {
    let (read, mut write) = stream.split();
    let mut reader = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(MAX_REQUEST as u64 + 1);
        match timeout(CLIENT_PATIENCE, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(length)) if length > 0 => {}
            _ => return,
        }
        let too_large = line.len() > MAX_REQUEST && !line.ends_with(b"\n");
        let reply = if too_large {
            refusal("too_large", format!("a request has at most {MAX_REQUEST} bytes"))
        } else {
            reply_to(&line, &queries).await
        };
        let sent = timeout(CLIENT_PATIENCE, write.write_all(&encode(&reply))).await;
        if too_large || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// The reply to one request.
pub(super) async fn reply_to(line: &[u8], queries: &mpsc::Sender<Query>) -> Reply {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(reason) => return refusal("bad_request", format!("not a request: {reason}")),
    };
    if request.v != VERSION {
        return refusal(
            "version",
            format!("protocol version {} is not {VERSION}, which this daemon speaks", request.v),
        );
    }
    if request.method != "status" {
        return refusal("method", format!("unknown method \"{}\": use \"status\"", request.method));
    }
    let (reply, answer) = oneshot::channel();
    let asked = async {
        queries.send(Query { method: Method::Status, reply }).await.ok()?;
        answer.await.ok()
    };
    match timeout(DAEMON_PATIENCE, asked).await {
        Ok(Some(snapshot)) => Reply { v: VERSION, ok: Some(snapshot), error: None },
        Ok(None) => refusal("busy", "the daemon is shutting down".into()),
        Err(_) => refusal("timeout", format!("the daemon did not answer within {} s", DAEMON_PATIENCE.as_secs())),
    }
}

fn refusal(code: &str, message: String) -> Reply {
    Reply { v: VERSION, ok: None, error: Some(WireError { code: code.into(), message }) }
}

/// One line with its newline.
pub(super) fn encode(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_else(|reason| {
        debug!("a reply cannot be written as JSON: {reason}");
        br#"{"v":1,"error":{"code":"internal","message":"the reply cannot be written as JSON"}}"#.to_vec()
    });
    line.push(b'\n');
    line
}

/// Tells one client too many so, without waiting for it.
fn turn_away(stream: &UnixStream) {
    let reply = refusal("busy", format!("{MAX_CLIENTS} clients are connected already; try again"));
    if let Err(reason) = stream.try_write(&encode(&reply)) {
        debug!("cannot turn a client away: {reason}");
    }
}

fn make_folder(run_dir: &Path) -> io::Result<()> {
    if run_dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(run_dir)?;
    // The mode above is narrowed by the umask; `xbr status` has to say "no permission", not "no daemon".
    fs::set_permissions(run_dir, fs::Permissions::from_mode(0o755))
}

/// Removes sockets whose process is gone and that nobody listens on. Both are checked: a process of another PID namespace
/// looks gone, and a socket that is just being set up refuses connections.
fn remove_dead_sockets(run_dir: &Path) {
    let Ok(entries) = fs::read_dir(run_dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let finished = if path.extension().is_some_and(|extension| extension == "new") {
            path.with_extension("")
        } else {
            path.clone()
        };
        let Some((_, pid)) = parse_name(&finished) else {
            continue;
        };
        let gone = i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH));
        if gone && refuses(&path) {
            match remove_if_there(&path) {
                Ok(()) => debug!("removed {}, left by a daemon that is gone", path.display()),
                Err(reason) => warn!("cannot remove {}: {reason}", path.display()),
            }
        }
    }
}

fn refuses(path: &Path) -> bool {
    std_unix::UnixStream::connect(path).is_err_and(|reason| reason.kind() == io::ErrorKind::ConnectionRefused)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(reason),
        _ => Ok(()),
    }
}
