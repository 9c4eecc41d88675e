//! Asks the daemons at each tick, in a thread of its own: a daemon that hangs does not hold the keys up.

use std::{
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::Failure,
    ipc::{self, Answers},
};

/// The sampling thread. It ends soon after this is dropped.
pub(super) struct Sampler {
    /// What was sampled. Closed only if the thread has died.
    pub(super) samples: Receiver<Result<Answers, Failure>>,
    ticks: Sender<Duration>,
}

impl Sampler {
    /// Samples at once and then every `tick`. The thread is in the caller's network namespace.
    pub(super) fn start(run_dir: PathBuf, tick: Duration) -> Self {
        let (sender, samples) = mpsc::channel();
        let (ticks, changes) = mpsc::channel();
        thread::spawn(move || sample(&run_dir, tick, &sender, &changes));
        Self { samples, ticks }
    }

    /// Changes the tick from now on.
    pub(super) fn set_tick(&self, tick: Duration) {
        // A thread that has died shows in `samples`.
        let _ = self.ticks.send(tick);
    }
}

fn sample(
    run_dir: &std::path::Path,
    mut tick: Duration,
    samples: &Sender<Result<Answers, Failure>>,
    changes: &Receiver<Duration>,
) {
    let mut last = Instant::now();
    loop {
        if samples.send(ipc::ask(run_dir)).is_err() {
            return;
        }
        loop {
            let left = (last + tick).saturating_duration_since(Instant::now());
            match changes.recv_timeout(left) {
                Ok(wanted) => tick = wanted,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        // From the planned time, so that ticks do not drift; from now, if asking took longer than a tick.
        last = (last + tick).max(Instant::now().checked_sub(tick).unwrap_or(last));
    }
}
