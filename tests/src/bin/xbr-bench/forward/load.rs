//! What keeps the measured threads busy, and how much has arrived.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use xbr_tests::netns::Netns;

use super::processor::{Processor, interrupt, this_thread};

/// A thread on the measured processor, in a namespace, that works until it is told to stop.
pub(crate) struct Worker {
    /// Its number.
    pub(crate) thread: i32,
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts `work`, which has to look at its argument now and then, and after each system call that was interrupted.
    pub(crate) fn start(
        space: &Arc<Netns>,
        processor: Processor,
        work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (space, seen) = (Arc::clone(space), Arc::clone(&stop));
        let (number, begun) = mpsc::channel();
        let handle = thread::spawn(move || {
            space.enter(|| {
                processor.pin(0)?;
                number.send(this_thread()).context("nobody waits for the worker")?;
                work(&seen)
            })?
        });
        match begun.recv_timeout(Duration::from_secs(20)) {
            Ok(thread) => Ok(Self { thread, stop, handle: Some(handle) }),
            Err(_) => Err(handle
                .join()
                .map_err(|_panic| anyhow!("the worker panicked"))
                .and_then(|result| result)
                .err()
                .unwrap_or_else(|| anyhow!("the worker did not begin"))),
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it; its error, if it had one.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        self.stop.store(true, Ordering::Relaxed);
        interrupt(self.thread, || handle.is_finished())?;
        handle.join().map_err(|_panic| anyhow!("a worker panicked"))?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its error has no bearing on the failure that led here.
        drop(self.end());
    }
}

/// How long each transaction took, in nanoseconds.
pub(crate) type Times = Arc<Mutex<Vec<u32>>>;

/// A load under way.
pub(crate) struct Load {
    /// Threads whose processor time is the figure.
    pub(crate) measured: Vec<i32>,
    /// Other threads of the measurement on the same processor.
    pub(crate) beside: Vec<i32>,
    /// Units (frames, bytes, transactions) that have arrived so far.
    pub(crate) arrived: Box<dyn Fn() -> Result<u64>>,
    /// The workers, in the order in which they are ended.
    pub(crate) workers: Vec<Worker>,
    /// How long each took, for transactions.
    pub(crate) times: Option<Times>,
}

impl Load {
    /// Ends all workers.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.workers.drain(..).try_for_each(Worker::stop)
    }
}
