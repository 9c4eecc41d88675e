//! The asking end: finds the daemons of this network namespace and asks each, within a bounded time.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use log::warn;
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt},
    time::TimeVal,
};

use super::{Reply, Request, VERSION, namespace_inode, parse_name};
use crate::{
    error::{Exit, Failure},
    status::Snapshot,
};

/// How long one daemon may take for its whole answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest reply that is read, in bytes.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// What the daemons of one network namespace said.
#[derive(Debug, Default)]
pub struct Answers {
    /// One snapshot per daemon that answered, ordered by process id.
    pub snapshots: Vec<Snapshot>,
    /// One line per daemon that is there and did not answer.
    pub silent: Vec<String>,
}

/// Why one daemon gave no snapshot.
pub(super) enum Silence {
    /// Nobody listens: the socket of a process that is gone.
    Dead,
    /// The caller may not connect.
    Forbidden,
    /// It is there, but: one line.
    Trouble(String),
}

/// The snapshots of all daemons that serve the calling thread's network namespace. A daemon that does not answer is
/// logged and left out.
///
/// # Errors
/// As [`ask`].
pub fn snapshots(run_dir: &Path) -> Result<Vec<Snapshot>, Failure> {
    let answers = ask(run_dir)?;
    for line in &answers.silent {
        warn!("{line}");
    }
    Ok(answers.snapshots)
}

/// Asks all daemons that serve the calling thread's network namespace; at least one has answered.
///
/// # Errors
/// [`Exit::NoDaemon`] if none answers, [`Exit::Permission`] if the caller may not ask.
pub fn ask(run_dir: &Path) -> Result<Answers, Failure> {
    let (mine, elsewhere) = sockets(run_dir)?;
    // A daemon that hangs costs the whole patience; side by side, several cost no more than one.
    let heard: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = mine.iter().map(|(pid, path)| (*pid, scope.spawn(|| ask_one(path)))).collect();
        threads.into_iter().map(|(pid, thread)| (pid, thread.join())).collect()
    });
    let mut answers = Answers::default();
    let mut forbidden = false;
    for (pid, outcome) in heard {
        match outcome {
            Ok(Ok(snapshot)) => answers.snapshots.push(snapshot),
            Ok(Err(Silence::Dead)) => {}
            Ok(Err(Silence::Forbidden)) => forbidden = true,
            Ok(Err(Silence::Trouble(what))) => answers.silent.push(format!("the daemon with pid {pid} {what}")),
            Err(_) => answers.silent.push(format!("asking the daemon with pid {pid} failed unexpectedly")),
        }
    }
    if !answers.snapshots.is_empty() {
        return Ok(answers);
    }
    if forbidden {
        return Err(Failure::new(
            Exit::Permission,
            format!("no permission to ask the daemon in {}: run as root", run_dir.display()),
        ));
    }
    if let Some(line) = answers.silent.into_iter().next() {
        return Err(Failure::new(Exit::NoDaemon, line));
    }
    Err(no_daemon(run_dir, elsewhere))
}

fn no_daemon(run_dir: &Path, elsewhere: usize) -> Failure {
    let place = run_dir.display();
    let hint = if elsewhere == 0 {
        String::new()
    } else {
        format!(" ({elsewhere} found for other namespaces; ip netns exec NAME xbr … asks there)")
    };
    Failure::new(
        Exit::NoDaemon,
        format!("no daemon serves this network namespace in {place}{hint}: start it with: xbr run BRIDGE"),
    )
}

/// The sockets of the calling thread's network namespace by process id, and the number of those of others.
fn sockets(run_dir: &Path) -> Result<(Vec<(u32, PathBuf)>, usize), Failure> {
    let inode = namespace_inode().map_err(|reason| {
        Failure::new(Exit::Failed, format!("cannot tell the network namespace from /proc: {reason}"))
    })?;
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Err(no_daemon(run_dir, 0)),
        Err(reason) => {
            let denied = reason.kind() == io::ErrorKind::PermissionDenied;
            let exit = if denied { Exit::Permission } else { Exit::Failed };
            let remedy = if denied { ": run as root" } else { "" };
            return Err(Failure::new(exit, format!("cannot read {}: {reason}{remedy}", run_dir.display())));
        }
    };
    let mut mine = Vec::new();
    let mut elsewhere = 0;
    for path in entries.flatten().map(|entry| entry.path()) {
        match parse_name(&path) {
            Some((owner, pid)) if owner == inode => mine.push((pid, path)),
            Some(_) => elsewhere += 1,
            None => {}
        }
    }
    mine.sort_unstable();
    Ok((mine, elsewhere))
}

fn ask_one(path: &Path) -> Result<Snapshot, Silence> {
    let deadline = Instant::now() + PATIENCE;
    let line = converse(path, deadline).map_err(|reason| silence(&reason))?;
    read(&line)
}

/// Reads a daemon's reply.
pub(super) fn read(line: &[u8]) -> Result<Snapshot, Silence> {
    let reply: Reply = serde_json::from_slice(line)
        .map_err(|reason| Silence::Trouble(format!("answers in a form that this xbr does not know: {reason}")))?;
    match reply {
        Reply { v, .. } if v != VERSION => {
            Err(Silence::Trouble(format!("speaks protocol version {v}, this xbr {VERSION}: restart the daemon")))
        }
        Reply { ok: Some(snapshot), .. } => Ok(snapshot),
        Reply { error: Some(error), .. } => Err(Silence::Trouble(format!("refuses: {}", error.message))),
        Reply { .. } => Err(Silence::Trouble("sent an empty reply".into())),
    }
}

fn silence(reason: &io::Error) -> Silence {
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&reason.kind());
    if is(&[io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound]) {
        Silence::Dead
    } else if is(&[io::ErrorKind::PermissionDenied]) {
        Silence::Forbidden
    } else if is(&[io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock]) {
        Silence::Trouble(format!(
            "did not answer within {} s: it hangs or is stopped, and the bridge forwards without it",
            PATIENCE.as_secs()
        ))
    } else {
        Silence::Trouble(format!("cannot be asked: {reason}"))
    }
}

/// Sends one request and reads one line.
fn converse(path: &Path, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = connect_within(path, deadline)?;
    let mut request = serde_json::to_vec(&Request { v: VERSION, method: "status".into() })?;
    request.push(b'\n');
    stream.set_write_timeout(Some(left(deadline)?))?;
    match stream.write_all(&request) {
        // The server may have turned us away before it read; its reply says why.
        Err(reason) if reason.kind() != io::ErrorKind::BrokenPipe => return Err(reason),
        _ => {}
    }
    let mut line = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let length = match stream.read(&mut chunk) {
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        line.extend_from_slice(&chunk[..length]);
        if length == 0 || chunk[..length].contains(&b'\n') {
            break;
        }
        if line.len() > MAX_REPLY {
            return Err(io::Error::other("its reply is too large"));
        }
    }
    if line.is_empty() { Err(io::Error::other("it closed the connection")) } else { Ok(line) }
}

/// Connects, waiting no longer than `deadline`: a UNIX socket whose backlog is full blocks `connect` until its send
/// timeout (`unix_stream_connect`), and the standard library has no way to set that beforehand.
fn connect_within(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = left(deadline)?;
    let seconds = i64::try_from(wait.as_secs()).unwrap_or(1);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, i64::from(wait.subsec_micros())))?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The time until `deadline`, at least a millisecond (zero would mean "for ever" to the kernel).
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
}
