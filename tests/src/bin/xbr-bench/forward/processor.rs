//! The processor that everything measured runs on: which thread used how much of it.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{Pid, gettid},
};

/// A processor of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processor(usize);

impl Processor {
    /// The one with the highest number of those that this process may use: interrupts of devices go to the first.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("processors of this process")?;
        let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        Ok(Self(last.context("no processor may be used")?))
    }

    /// Keeps this thread, and those that it starts, away from the processor, if there is another one.
    pub(crate) fn avoid(self) -> Result<()> {
        let mut others = sched_getaffinity(Pid::from_raw(0)).context("processors of this thread")?;
        others.unset(self.0)?;
        if (0..CpuSet::count()).any(|cpu| others.is_set(cpu).unwrap_or(false)) {
            sched_setaffinity(Pid::from_raw(0), &others).context("leave the measured processor")?;
        }
        Ok(())
    }

    /// Puts a thread on the processor; 0 is the calling one.
    pub(crate) fn pin(self, thread: i32) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self.0)?;
        sched_setaffinity(Pid::from_raw(thread), &set)
            .with_context(|| format!("put thread {thread} on processor {}", self.0))
    }

    /// The kernel's thread that takes over where soft interrupts last too long.
    pub(crate) fn softirq_thread(self) -> Result<i32> {
        let name = format!("ksoftirqd/{}", self.0);
        kernel_threads(&name)?.first().copied().with_context(|| format!("there is no thread {name}"))
    }

    /// Nanoseconds that the hypervisor took away since boot (in steps of 10 ms).
    pub(crate) fn stolen(self) -> Result<u64> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let name = format!("cpu{}", self.0);
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(&name));
        let ticks = line.and_then(|line| line.split_whitespace().nth(8)).and_then(|word| word.parse::<u64>().ok());
        Ok(ticks.with_context(|| format!("/proc/stat has no {name}"))? * 10_000_000)
    }
}

/// The calling thread's number.
pub(crate) fn this_thread() -> i32 {
    gettid().as_raw()
}

/// Nanoseconds of processor time that a thread has used.
pub(crate) fn used(thread: i32) -> Result<u64> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    text.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| format!("{path}: {text}"))
}

/// Makes a thread run before all others (`SCHED_FIFO`, priority 1).
pub(crate) fn first_in_first_out(thread: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live sched_param.
    let result = unsafe { libc::sched_setscheduler(thread, libc::SCHED_FIFO, &raw const parameters) };
    if result != 0 {
        bail!("SCHED_FIFO for thread {thread}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Threads whose name begins so.
pub(crate) fn kernel_threads(prefix: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may have ended meanwhile.
        let name = fs::read_to_string(Path::new("/proc").join(entry.file_name()).join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.push(number);
        }
    }
    Ok(found)
}

/// Interrupts a thread of this process until it has ended: a signal that comes before its system call is lost.
pub(crate) fn interrupt(thread: i32, ended: impl Fn() -> bool) -> Result<()> {
    catch_signal()?;
    for _ in 0..1000 {
        if ended() {
            return Ok(());
        }
        let process = std::process::id();
        // SAFETY: plain system call without pointers. The thread is one of ours, so the number means nobody else.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
        thread::sleep(Duration::from_millis(5));
    }
    bail!("thread {thread} does not end when interrupted");
}

/// SIGUSR1 does nothing but end the system call that it finds.
fn catch_signal() -> Result<()> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: the handler does nothing, which is allowed at any moment.
    unsafe { handle(Signal::SIGUSR1, nothing) }
}

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM only note that it is time to [`stopped`], so that everything can be taken away.
pub(crate) fn note_signals() -> Result<()> {
    extern "C" fn note(_signal: libc::c_int) {
        STOPPED.store(true, Ordering::Relaxed);
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic variable, which is allowed at any moment.
        unsafe { handle(signal, note) }?;
    }
    Ok(())
}

/// Whether a signal has asked for the end.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// # Safety
/// `handler` may do what a signal handler may.
unsafe fn handle(signal: Signal, handler: extern "C" fn(libc::c_int)) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the caller vouches for the handler.
    unsafe { sigaction(signal, &action) }.with_context(|| signal.to_string())?;
    Ok(())
}
