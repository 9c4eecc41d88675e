//! Traffic that is accounted for: numbered flows, pings, and TCP streams whose every byte is checked.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    frame::{Frame, Mark},
    net::Guest,
    packet::{Capture, Sender},
    wait,
};

mod icmp;
mod tcp;

pub use icmp::{ping, ping_here};
pub use tcp::{Stream, tcp};

/// How long after the last frame a flow is over.
const QUIET: Duration = Duration::from_millis(300);

/// A number for a flow that no other flow of this process has.
pub fn flow_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What became of the frames of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Frames sent.
    pub sent: u32,
    /// Different frames that arrived where they should.
    pub received: u32,
    /// Frames that arrived nowhere they should.
    pub lost: u32,
    /// Second and further copies at the right place.
    pub duplicated: u32,
    /// Frames (with copies) that arrived somewhere else.
    pub misdelivered: u32,
    /// Frames that arrived after one with a higher number.
    pub reordered: u32,
}

impl Account {
    /// An error unless every frame arrived exactly once and nowhere else. Order is not asked for.
    pub fn exact(&self) -> Result<()> {
        ensure!(
            self.lost == 0 && self.duplicated == 0 && self.misdelivered == 0,
            "not every frame arrived once: {self:?}"
        );
        Ok(())
    }
}

/// Catches in the background and counts by flow and number.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Seen>>>,
}

/// How often each frame of the lab was seen, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The frames, by flow: numbers in the order in which they came.
    pub flows: HashMap<u32, Vec<u32>>,
}

impl Watch {
    /// Starts to watch what a guest receives.
    pub fn start(guest: &Guest) -> Result<Self> {
        Ok(Self::on(guest.capture()?))
    }

    /// Starts to watch a capture.
    pub fn on(mut capture: Capture) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            let quiet = QUIET * wait::slowness();
            let mut end: Option<Instant> = None;
            loop {
                // After the stop one quiet spell, so that late frames count; not for ever, as others may go on sending.
                let last = stopped.load(Ordering::Relaxed);
                if last && *end.get_or_insert_with(|| Instant::now() + 10 * quiet) < Instant::now() {
                    return Ok(seen);
                }
                match capture.next(if last { quiet } else { Duration::from_millis(50) })? {
                    Some(frame) => {
                        if let Some(Mark { flow, seq }) = frame.mark() {
                            seen.flows.entry(flow).or_default().push(seq);
                        }
                    }
                    None if last => return Ok(seen),
                    None => {}
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends the watch as soon as it is quiet.
    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for late frames and hands out what was seen.
    pub fn stop(mut self) -> Result<Seen> {
        self.halt();
        let thread = self.thread.take().context("watch was stopped before")?;
        thread.join().map_err(|_panic| anyhow!("the watching thread panicked"))?
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A flow of numbered frames that runs in the background.
#[derive(Debug)]
pub struct Flow {
    number: u32,
    sent: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    right: Vec<Watch>,
    wrong: Vec<Watch>,
}

impl Flow {
    /// Sends copies of `frame`, numbered, from `from` at `per_second` until stopped or `count` were sent. They should
    /// arrive at every guest of `right`, and at none of `wrong`.
    pub fn start(
        from: &Guest,
        right: &[&Guest],
        wrong: &[&Guest],
        frame: Frame,
        per_second: u32,
        count: u32,
    ) -> Result<Self> {
        let watch = |guests: &[&Guest]| guests.iter().map(|guest| Watch::start(guest)).collect::<Result<Vec<_>>>();
        let (right, wrong) = (watch(right)?, watch(wrong)?);
        let number = flow_number();
        let sent = Arc::new(AtomicU32::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = from.sender()?;
        let thread = {
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
            thread::spawn(move || paced(&sender, frame, number, per_second, count, &sent, &stop))
        };
        Ok(Self { number, sent, stop, thread: Some(thread), right, wrong })
    }

    /// How many frames were sent up to now.
    pub fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the sending; the account is still open.
    pub fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the flow and gives the account.
    pub fn stop(self) -> Result<Account> {
        self.halt();
        self.finish()
    }

    /// Waits until all frames were sent and gives the account.
    pub fn finish(mut self) -> Result<Account> {
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_panic| anyhow!("the sending thread panicked"))??;
        }
        // All at once, so that the quiet after the flow is waited for only once.
        self.right.iter().chain(&self.wrong).for_each(Watch::halt);
        let mut account = Account { sent: self.sent(), ..Account::default() };
        for watch in self.right.drain(..) {
            let order = watch.stop()?.flows.remove(&self.number).unwrap_or_default();
            let mut copies = vec![0_u32; account.sent as usize];
            let mut highest = 0;
            for &seq in &order {
                if let Some(cell) = copies.get_mut(seq as usize) {
                    *cell += 1;
                }
                account.reordered += u32::from(seq < highest);
                highest = highest.max(seq);
            }
            for copies in copies {
                account.received += u32::from(copies > 0);
                account.lost += u32::from(copies == 0);
                account.duplicated += copies.saturating_sub(1);
            }
        }
        for watch in self.wrong.drain(..) {
            let count = watch.stop()?.flows.remove(&self.number).map_or(0, |order| order.len());
            account.misdelivered += u32::try_from(count)?;
        }
        Ok(account)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends at a steady rate, in small batches where the rate is high.
fn paced(
    sender: &Sender,
    mut frame: Frame,
    flow: u32,
    per_second: u32,
    count: u32,
    sent: &AtomicU32,
    stop: &AtomicBool,
) -> Result<()> {
    let start = Instant::now();
    let mut seq = 0;
    while seq < count && !stop.load(Ordering::Relaxed) {
        let due = u32::try_from(start.elapsed().as_millis() * u128::from(per_second) / 1000).unwrap_or(u32::MAX);
        // A sender that was held up does not catch up in one burst: queues are finite.
        for _ in 0..due.saturating_sub(seq).min(64).min(count - seq) {
            frame.mark(Mark { flow, seq });
            sender.send(&frame.bytes())?;
            seq += 1;
            sent.store(seq, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A whole flow from `from` to `to`: `count` frames of the lab's `EtherType`, none of them at `others`.
pub fn flow(from: &Guest, to: &Guest, others: &[&Guest], count: u32, per_second: u32) -> Result<Account> {
    Flow::start(from, &[to], others, Frame::new(from.mac, to.mac), per_second, count)?.finish()
}
