//! The flow: one frame after the other, and when the sending of each began.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use xbr_tests::{frame::Frame, packet::Sender};

/// Frames whose time of sending is remembered: more than any round sends.
const REMEMBERED: usize = 1 << 20;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(time.tv_sec()).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default()
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Frames whose sending has ended.
    sent: AtomicU32,
    times: Vec<AtomicU64>,
}

/// A flow under way.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) number: u32,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Vec<u64>>>>,
}

impl Flow {
    /// Sends `frame` with rising numbers, one every `gap` microseconds.
    pub(super) fn start(sender: Sender, frame: &Frame, number: u32, gap: u64) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            sent: AtomicU32::new(0),
            times: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
        });
        let thread = {
            let (shared, frame) = (Arc::clone(&shared), frame.clone());
            thread::spawn(move || send(&sender, &frame, number, gap * 1000, &shared))
        };
        Self { number, shared, thread: Some(thread) }
    }

    /// Frames whose sending has ended.
    pub(super) fn sent(&self) -> u32 {
        self.shared.sent.load(Ordering::Acquire)
    }

    /// When the sending of a frame began.
    pub(super) fn began(&self, seq: u32) -> u64 {
        self.shared.times[seq as usize % REMEMBERED].load(Ordering::Acquire)
    }

    /// Ends the flow and gives a sample of the times between two frames, in nanoseconds.
    pub(super) fn stop(&mut self) -> Result<Vec<u64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_panic| anyhow!("the sending thread panicked"))?,
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Its error, if any, has no bearing on the failure that led here.
        drop(self.stop());
    }
}

fn send(sender: &Sender, frame: &Frame, number: u32, gap: u64, shared: &Shared) -> Result<Vec<u64>> {
    let mut gaps = Vec::new();
    let mut last = now();
    for seq in 0_u32.. {
        let bytes = frame.clone().numbered(number, seq).bytes();
        while now() < last + gap {
            if gap > 50_000 {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let began = now();
        shared.times[seq as usize % REMEMBERED].store(began, Ordering::Release);
        sender.send(&bytes)?;
        shared.sent.store(seq + 1, Ordering::Release);
        if gaps.len() < REMEMBERED {
            gaps.push(began - last);
        }
        last = began;
    }
    Ok(gaps)
}
