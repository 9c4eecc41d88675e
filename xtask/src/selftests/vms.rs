//! Runs tests in virtual machines, each test without and with xbr in the same one.

use std::{
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{catalogue::Test, results::MODES};
use crate::{
    proc,
    setup::{
        kernel::Kernel,
        suite::{Iproute, Suite},
    },
    vm::Vm,
};

/// Time for booting, and for the set-up and the end of each run.
const OVERHEAD: Duration = Duration::from_mins(2);

/// What all runs share.
pub(super) struct Bench<'a> {
    /// Series of the kernel.
    pub(super) kernel: Kernel,
    /// The kernel's tests.
    pub(super) suite: &'a Suite,
    /// Their iproute2.
    pub(super) iproute: &'a Iproute,
    /// Folder of the results.
    pub(super) dir: &'a Path,
    /// A folder with copies of what is run: `xbr`, and the scripts in `guest`. A build meanwhile does not disturb them.
    pub(super) own: &'a Path,
    /// Virtual machines at a time.
    pub(super) machines: usize,
    /// For each machine in all: no more than this, whatever the tests' own limits.
    pub(super) limit: Option<Duration>,
}

impl Bench<'_> {
    /// Runs the tests; what the kernels complained about is given back, a line each.
    ///
    /// Each machine has its share of the tests, so that none has to boot twice.
    pub(super) fn run(&self, tests: &[Test]) -> Result<Vec<String>> {
        let machines = self.machines.clamp(1, tests.len().max(1));
        let mut shares: Vec<Vec<&Test>> = vec![Vec::new(); machines];
        // Dealt out in turn, the longest first, so that all end at about the same time.
        let mut order: Vec<&Test> = tests.iter().collect();
        order.sort_by_key(|test| std::cmp::Reverse(test.limit));
        for (number, test) in order.into_iter().enumerate() {
            shares[number % machines].push(test);
        }
        let done = AtomicUsize::new(0);
        let results = thread::scope(|scope| {
            let threads: Vec<_> =
                shares.iter().map(|share| scope.spawn(|| self.machine(share, &done, tests.len()))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Vec<String>>>| {
                thread.join().unwrap_or_else(|_panic| bail!("xtask panicked"))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        Ok(results.concat())
    }

    /// Runs one share in one machine.
    fn machine(&self, share: &[&Test], done: &AtomicUsize, all: usize) -> Result<Vec<String>> {
        let modes = u32::try_from(MODES.len()).unwrap_or(2);
        let sum: Duration =
            share.iter().map(|test| Duration::from_secs(u64::from(test.limit)) * modes + OVERHEAD).sum();
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let vm = Vm {
            kernel: self.kernel,
            cpus: 1,
            memory: "2G".to_owned(),
            timeout: Some(self.limit.unwrap_or(sum)),
            tty: false,
            counted: false,
            out: Some(self.dir.to_owned()),
            env: vec![("XBR_BIN".to_owned(), path(&self.own.join("xbr")))],
        };
        let guest = self.own.join("guest/run.sh");
        let mut command = vec!["bash".to_owned(), path(&guest), path(&self.suite.dir), path(&self.iproute.dir)];
        command.push(MODES.join(" "));
        command.extend(share.iter().map(|test| format!("{}={}", test.path, test.limit)));
        let progress = Progress { line: Vec::new(), done, all, began: Instant::now() };
        let ended = vm
            .run(&proc::repo(), &command, progress, io::stderr())
            .with_context(|| format!("the tests of kernel {}", self.kernel))?;
        Ok(ended.complaints)
    }
}

/// Shows each run that is done.
struct Progress<'a> {
    line: Vec<u8>,
    done: &'a AtomicUsize,
    all: usize,
    began: Instant,
}

impl Write for Progress<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            // "done TEST MODE"
            if let Some((test, mode)) = line.strip_prefix("done ").and_then(|rest| rest.split_once(' ')) {
                if mode == MODES[1] {
                    let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
                    eprintln!("selftests: {done}/{}: {test} ({} s)", self.all, self.began.elapsed().as_secs());
                    self.began = Instant::now();
                }
            } else {
                eprintln!("selftests: {line}");
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
