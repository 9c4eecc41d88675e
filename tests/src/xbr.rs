//! The daemon under test, as a process in a namespace.

use std::{
    cell::RefCell,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{netns::Netns, wait};

/// How long the daemon may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    /// Logs of the daemons that this thread has let go, for the report of a failed test.
    static LOGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes the logs of all daemons that this thread started and let go since the last call.
pub fn take_logs() -> Vec<String> {
    LOGS.take()
}

/// The binary under test: `XBR_BIN`, else `target/release/xbr`, else `xbr` beside the running executable or one folder up.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("XBR_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "XBR_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    let mut candidates = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/xbr")];
    let exe = env::current_exe()?;
    candidates.extend(exe.ancestors().skip(1).take(2).map(|folder| folder.join("xbr")));
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.canonicalize()?),
        None => bail!("no xbr binary: run `cargo build --release`, or name one in XBR_BIN"),
    }
}

/// A folder for one instance, removed on drop.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// A new, empty folder.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("xbr-run-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A command `xbr ARGS --run-dir DIR` in a namespace, with `/sys` of that namespace as `ip netns exec` gives it.
pub fn command(space: &Netns, args: &[&str], run_dir: &Path) -> Result<Command> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space.name()]).arg(binary()?).args(args).arg("--run-dir").arg(run_dir);
    Ok(command)
}

/// Runs `xbr ARGS --run-dir DIR` to its end, which has to come by itself: an error (and SIGKILL) if it does not.
pub fn once(space: &Netns, args: &[&str], run_dir: &Path) -> Result<Output> {
    let context = || format!("xbr {}", args.join(" "));
    let mut command = command(space, args, run_dir)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(context)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // The pipes have to be read while the process runs, so the wait is on a thread of its own.
    let waiter = thread::spawn(move || child.wait_with_output());
    let ended = wait::until(&context(), PATIENCE, || Ok(waiter.is_finished()));
    if ended.is_err() {
        kill(pid, Signal::SIGKILL)?;
    }
    let output = waiter.join().map_err(|_panic| anyhow!("the waiting thread panicked"))?.with_context(context)?;
    ended.with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())?;
    Ok(output)
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Line(BufReader<UnixStream>);

impl Line {
    /// The daemon's snapshot.
    pub fn status(&mut self) -> Result<Value> {
        self.0.get_mut().write_all(b"{\"v\":1,\"method\":\"status\"}\n").context("ask xbr")?;
        let mut reply = String::new();
        self.0.read_line(&mut reply).context("xbr does not answer")?;
        let mut reply: Value = serde_json::from_str(&reply).context("answer of xbr")?;
        ensure!(reply["ok"].is_object(), "xbr answered {reply}");
        Ok(reply["ok"].take())
    }
}

/// A running `xbr run`.
#[derive(Debug)]
pub struct Xbr {
    child: Child,
    space: Arc<Netns>,
    run_dir: Arc<RunDir>,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    ended: bool,
}

impl Xbr {
    /// Starts `xbr run ARGS` and waits until it is ready, or waits for a bridge.
    pub fn start(space: &Arc<Netns>, args: &[&str]) -> Result<Self> {
        Self::start_patiently(space, args, PATIENCE)
    }

    /// As [`Self::start`], where there is more to read than usual.
    pub fn start_patiently(space: &Arc<Netns>, args: &[&str], patience: Duration) -> Result<Self> {
        let mut xbr = Self::spawn(space, args, Arc::new(RunDir::new()?))?;
        xbr.wait_ready_for(patience)?;
        Ok(xbr)
    }

    /// Starts `xbr run ARGS` with this folder and does not wait.
    pub fn spawn(space: &Arc<Netns>, args: &[&str], run_dir: Arc<RunDir>) -> Result<Self> {
        let mut words = vec!["run"];
        words.extend_from_slice(args);
        let mut child = command(space, &words, run_dir.path())?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start xbr")?;
        let log = Arc::new(Mutex::new(format!("$ xbr run {}\n", args.join(" "))));
        let stderr = child.stderr.take().context("stderr of xbr")?;
        let written = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Ok(Self { child, space: Arc::clone(space), run_dir, log, reader: Some(reader), ended: false })
    }

    /// Waits for the line that says "ready" (or "waiting").
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_for(PATIENCE)
    }

    /// As [`Self::wait_ready`], where there is more to read than usual.
    pub fn wait_ready_for(&mut self, patience: Duration) -> Result<()> {
        wait::until("xbr ready", patience, || {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                self.join_reader();
                bail!("xbr ended before it was ready: {status}: {}", self.last_line());
            }
            let log = self.log();
            Ok(log.lines().skip(1).any(|line| line.contains("ready") || line.contains("waiting")))
        })
    }

    /// What it wrote up to now.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its folder.
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs another `xbr` command against this instance.
    pub fn ask(&self, args: &[&str]) -> Result<Output> {
        once(&self.space, args, self.run_dir())
    }

    /// What `xbr status -j` would print, without a process: on an emulated processor that takes as long as a hundred frames.
    pub fn status(&self) -> Result<Value> {
        self.line()?.status()
    }

    /// A connection to it.
    pub fn line(&self) -> Result<Line> {
        let end = format!("-{}.sock", self.pid());
        let path = fs::read_dir(self.run_dir())?
            .filter_map(|entry| entry.map(|entry| entry.path()).ok())
            .find(|path| path.to_string_lossy().ends_with(&end));
        let path = path.with_context(|| format!("xbr has no socket in {}", self.run_dir().display()))?;
        let stream = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE * wait::slowness()))?;
        Ok(Line(BufReader::new(stream)))
    }

    /// The status of one port, on whichever bridge it is.
    pub fn port(&self, port: &str) -> Result<Value> {
        let status = self.status()?;
        find_port(&status, port).cloned().with_context(|| format!("port {port} is not in the status"))
    }

    /// Packets from a port that took the fast path.
    pub fn fast(&self, port: &str) -> Result<u64> {
        Ok(count(&self.port(port)?["fast"]["packets"]))
    }

    /// Packets from a port that went by the bridge.
    pub fn slow(&self, port: &str) -> Result<u64> {
        Ok(count(&self.port(port)?["slow"]["packets"]))
    }

    /// Packets of one reason from a port.
    pub fn reason(&self, port: &str, reason: &str) -> Result<u64> {
        Ok(count(&self.port(port)?["reasons"][reason]))
    }

    /// Waits until a port says that it is slow for this reason.
    pub fn wait_slow(&self, port: &str, reason: &str) -> Result<()> {
        wait::until(&format!("{port} slow with reason {reason}"), Duration::from_secs(5), || {
            let status = self.status()?;
            Ok(find_port(&status, port)
                .is_some_and(|port| port["accelerated"] == false && port["slow_reason"] == reason))
        })
        .with_context(|| format!("status: {}", self.summary()))
    }

    /// Waits until a port is accelerated.
    pub fn wait_accelerated(&self, port: &str) -> Result<()> {
        wait::until(&format!("{port} accelerated"), Duration::from_secs(5), || {
            Ok(find_port(&self.status()?, port).is_some_and(|port| port["accelerated"] == true))
        })
        .with_context(|| format!("status: {}", self.summary()))
    }

    /// Ports with what holds them back, in one line.
    pub fn summary(&self) -> String {
        let Ok(status) = self.status() else {
            return "no answer".to_owned();
        };
        let ports = status["bridges"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|bridge| bridge["ports"].as_array())
            .flatten();
        let ports: Vec<String> = ports
            .map(|port| {
                format!(
                    "{} {} accelerated {} {} {}",
                    port["ifname"], port["hook"], port["accelerated"], port["slow_reason"], port["reasons"]
                )
            })
            .collect();
        ports.join("; ")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).with_context(|| format!("{signal} to xbr"))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        self.ended = true;
        Ok(())
    }

    /// SIGTERM; an error unless it ends with 0 in time.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_end()?;
        ensure!(status.success(), "xbr ended with {status} on SIGTERM: {}", self.last_line());
        Ok(())
    }

    /// Waits for the end and gives the status.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let mut end = None;
        wait::until("end of xbr", PATIENCE, || {
            end = self.child.try_wait()?;
            Ok(end.is_some())
        })?;
        self.ended = true;
        self.join_reader();
        end.context("end of xbr")
    }

    /// The last line that it wrote.
    pub fn last_line(&self) -> String {
        self.log().lines().last().unwrap_or_default().to_owned()
    }

    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            // The reader cannot fail; a panic in it would only cost log lines.
            drop(reader.join());
        }
    }
}

impl Drop for Xbr {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        self.join_reader();
        LOGS.with_borrow_mut(|logs| logs.push(self.log()));
    }
}

/// A port in a snapshot.
pub fn find_port<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let bridges = status["bridges"].as_array()?;
    bridges.iter().filter_map(|bridge| bridge["ports"].as_array()).flatten().find(|port| port["ifname"] == name)
}

/// A number in a snapshot; what is missing counts as 0.
pub fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
