use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::*;
use crate::error::Exit;

/// A folder that is removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("xbr-ipc-{}-{number}", process::id()));
        drop(fs::remove_dir_all(&path));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Serves snapshots of this process until dropped, as the daemon's control loop would: one thread for everything.
struct Daemon {
    path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(run_dir: &Path) -> Self {
        let server = Server::bind(run_dir).unwrap();
        let path = server.path().to_owned();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (sender, mut queries) = mpsc::channel(8);
                tokio::spawn(server.serve(sender));
                loop {
                    tokio::select! {
                        Some(query) = queries.recv() => {
                            assert_eq!(query.method, Method::Status);
                            query.answer(Snapshot { version: 1, pid: process::id(), ..Snapshot::default() });
                        }
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        Self { path, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn line_after(stream: &UnixStream, request: &str) -> String {
    (&*stream).write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_snapshot_comes_across_and_the_socket_goes_with_the_daemon() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder.0);
    let expected = socket_path(&folder.0, namespace_inode().unwrap(), process::id());
    assert_eq!(daemon.path, expected);
    assert_eq!(fs::metadata(&expected).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o755);
    let got = snapshots(&folder.0).unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].pid, process::id());
    drop(daemon);
    assert!(!expected.exists());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn no_folder_no_socket_and_other_namespaces_mean_no_daemon() {
    let folder = Folder::new();
    let failure = ask(&folder.0).unwrap_err();
    assert_eq!(failure.exit, Exit::NoDaemon);
    assert!(failure.message.ends_with("start it with: xbr run BRIDGE"), "{failure}");
    fs::create_dir(&folder.0).unwrap();
    assert_eq!(ask(&folder.0).unwrap_err().exit, Exit::NoDaemon);
    let _other = UnixListener::bind(folder.0.join("1-1.sock")).unwrap();
    let failure = ask(&folder.0).unwrap_err();
    assert_eq!(failure.exit, Exit::NoDaemon);
    assert!(failure.message.contains("1 found for other namespaces"), "{failure}");
}

#[test]
fn bind_removes_dead_sockets_only() {
    let folder = Folder::new();
    fs::create_dir(&folder.0).unwrap();
    // No process has this id: the kernel's largest is 2^22.
    let dead = folder.0.join("7-4194305.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let half_made = folder.0.join("7-4194306.sock.new");
    drop(UnixListener::bind(&half_made).unwrap());
    let elsewhere = folder.0.join("7-4194307.sock");
    let _alive = UnixListener::bind(&elsewhere).unwrap();
    let foreign = folder.0.join("notes.txt");
    fs::write(&foreign, "x").unwrap();
    let server = Server::bind(&folder.0).unwrap();
    assert!(!dead.exists());
    assert!(!half_made.exists());
    assert!(elsewhere.exists());
    assert!(foreign.exists());
    // Left by a process that had our id.
    drop(server);
    drop(UnixListener::bind(socket_path(&folder.0, namespace_inode().unwrap(), process::id())).unwrap());
    assert_eq!(ask(&folder.0).unwrap_err().exit, Exit::NoDaemon);
    Server::bind(&folder.0).unwrap();
}

#[test]
fn too_long_a_path_is_an_error() {
    let folder = Folder::new();
    let reason = Server::bind(&folder.0.join("x".repeat(120))).unwrap_err();
    assert_eq!(reason.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn bad_requests_are_refused_by_name_and_the_connection_goes_on() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder.0);
    let stream = UnixStream::connect(&daemon.path).unwrap();
    for (request, code) in [
        ("nonsense\n", "bad_request"),
        ("{\"v\":2,\"method\":\"status\"}\n", "version"),
        ("{\"v\":1,\"method\":\"reboot\"}\n", "method"),
    ] {
        let line = line_after(&stream, request);
        assert!(line.starts_with(&format!("{{\"v\":1,\"error\":{{\"code\":\"{code}\",\"message\":\"")), "{line}");
    }
    let line = line_after(&stream, "{\"v\":1,\"method\":\"status\"}\n");
    assert!(line.starts_with("{\"v\":1,\"ok\":{\"version\":1,"), "{line}");
}

#[test]
fn an_endless_request_is_cut_off() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder.0);
    let mut stream = UnixStream::connect(&daemon.path).unwrap();
    let reader = stream.try_clone().unwrap();
    // The server closes half-way; then a write fails.
    while stream.write_all(&[b'x'; 4096]).is_ok() {}
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert!(line.contains("too_large"), "{line}");
}

#[test]
fn hung_clients_do_not_hold_the_daemon_up_and_their_number_is_bounded() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder.0);
    let mut hung: Vec<_> = (0..server::MAX_CLIENTS - 1).map(|_| UnixStream::connect(&daemon.path).unwrap()).collect();
    assert_eq!(snapshots(&folder.0).unwrap().len(), 1);
    // Until the server has seen that this client left, its place is taken.
    thread::sleep(Duration::from_millis(200));
    hung.push(UnixStream::connect(&daemon.path).unwrap());
    let failure = snapshots(&folder.0).unwrap_err();
    assert_eq!(failure.exit, Exit::NoDaemon);
    assert!(failure.message.contains("64 clients are connected already"), "{failure}");
    hung.truncate(1);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(snapshots(&folder.0).unwrap().len(), 1);
    // A silent client is closed after a while.
    hung[0].set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(hung[0].read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_hung_daemon_is_reported_in_time_and_does_not_hide_a_live_one() {
    let folder = Folder::new();
    fs::create_dir(&folder.0).unwrap();
    // Accepts nothing, as a stopped process.
    let _hung = UnixListener::bind(socket_path(&folder.0, namespace_inode().unwrap(), 1)).unwrap();
    let before = Instant::now();
    let failure = ask(&folder.0).unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(4));
    assert_eq!(failure.exit, Exit::NoDaemon);
    assert!(failure.message.starts_with("the daemon with pid 1 did not answer within 2 s"), "{failure}");
    let _daemon = Daemon::start(&folder.0);
    let answers = ask(&folder.0).unwrap();
    assert_eq!(answers.snapshots.len(), 1);
    assert_eq!(answers.silent.len(), 1);
}

#[test]
fn names_are_read_strictly() {
    assert_eq!(parse_name(Path::new("/run/xbr/4026531840-12.sock")), Some((4_026_531_840, 12)));
    for other in ["12.sock", "a-12.sock", "1-b.sock", "1-2-3.sock", "1-2.sock.new", "1-2.lock"] {
        assert_eq!(parse_name(Path::new(other)), None, "{other}");
    }
}
