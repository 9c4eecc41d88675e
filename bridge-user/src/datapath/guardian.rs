//! A process that outlives a crash: it waits for the daemon to end and then puts back what the kernel would not put back
//! by itself (an offload that was turned off, a qdisc that was added).
//!
//! Started only when there is such a change. It is the same binary as `xbr undo`, in a process group of its own, so that
//! Ctrl-C does not end both.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use log::{info, warn};

use super::{attach::revert, undo::Undo};
use crate::error::{Exit, Failure};

/// The end of a pipe whose other end closes with this process.
pub(super) struct Guardian {
    child: Child,
}

impl Guardian {
    /// Starts the guardian for changes that are recorded in `run_dir`.
    pub(super) fn start(run_dir: &Path) -> io::Result<Self> {
        let child = Command::new("/proc/self/exe")
            .args(["undo", "--after-stdin", "--run-dir"])
            .arg(run_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // A word before the end of the pipe says that nothing is left to put back.
        if let Some(mut pipe) = self.child.stdin.take()
            && let Err(error) = pipe.write_all(b"done")
        {
            warn!("the guardian process has gone: {error}");
        }
        if let Err(error) = self.child.wait() {
            warn!("cannot wait for the guardian process: {error}");
        }
    }
}

/// `xbr undo`: puts back what instances that died in this network namespace had changed. With `after_stdin`, only when
/// standard input ends without a word. Returns how many changes were put back; it is an error if one could not be.
pub fn undo(run_dir: &Path, after_stdin: bool) -> Result<usize, Failure> {
    if after_stdin {
        ignore_signals();
        let mut word = Vec::new();
        // Whatever goes wrong with the pipe means that its other end is gone.
        if io::stdin().read_to_end(&mut word).is_ok() && !word.is_empty() {
            return Ok(0);
        }
    }
    let unusable = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Failed };
        Failure::new(exit, format!("cannot use {}: {error}; run as root or name another --run-dir", run_dir.display()))
    };
    // The kernel takes the dead process apart step by step; its record may still be locked.
    for _ in 0..if after_stdin { 50 } else { 1 } {
        let Outcome { done, left } = put_back(&mut Undo::open(run_dir).map_err(unusable)?);
        if left > 0 {
            let message =
                format!("{left} changes could not be put back, {done} were; see above why, and run xbr undo again");
            return Err(Failure::new(Exit::Failed, message));
        }
        if done > 0 {
            return Ok(done);
        }
        sleep(Duration::from_millis(if after_stdin { 20 } else { 0 }));
    }
    Ok(0)
}

/// How many changes were put back, and how many could not be.
pub(super) struct Outcome {
    done: usize,
    left: usize,
}

/// Puts back what dead instances left.
pub(super) fn put_back(undo: &mut Undo) -> Outcome {
    let mut outcome = Outcome { done: 0, left: 0 };
    for (ifindex, name, changes) in undo.leftovers() {
        for change in changes {
            info!("{name}: putting back what an instance that ended without warning had changed: {change}");
            if revert(ifindex, &name, change) {
                undo.forget(ifindex, change);
                outcome.done += 1;
            } else {
                outcome.left += 1;
            }
        }
    }
    outcome
}

/// What ends the daemon in good order must not end its guardian first.
fn ignore_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: ignoring a signal installs no handler.
        if let Err(error) = unsafe { signal(ignored, SigHandler::SigIgn) } {
            warn!("cannot ignore {ignored}: {error}");
        }
    }
}
