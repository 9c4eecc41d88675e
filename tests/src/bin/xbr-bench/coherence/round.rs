//! One change, and which frames were late.

use std::{collections::HashSet, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use xbr_tests::wait::slowness;

use super::{
    flow::now,
    kind::{Kind, Late},
    stage::Stage,
};

/// A round ends when no frame was late for so long, in nanoseconds.
const QUIET: u64 = 1_000_000;
/// A frame has arrived so long after its sending began, in nanoseconds, if it does at all.
const TRANSIT: u64 = 500_000;
/// What has not arrived after this, never will.
const GRACE: Duration = Duration::from_millis(200);
/// The longest that late frames are waited for, in nanoseconds.
const LIMIT: u64 = 10_000_000_000;

/// What one change brought.
pub(super) struct Round {
    /// Frames that were sent after the change and judged.
    pub(super) judged: u64,
    /// Those of them that were late.
    pub(super) late: u64,
    /// How long after the kernel's answer the last of them was sent, in nanoseconds; 0 if there is none.
    pub(super) window: u64,
    /// Until the flow was steady (and fast) after the change was undone, in nanoseconds.
    pub(super) recovery: u64,
}

impl Stage {
    /// Waits for a steady flow, changes, judges, restores.
    pub(super) fn round(&mut self, kind: Kind) -> Result<Round> {
        let recovery = self.restore(kind)?;
        self.drain_station()?;
        self.drain_witness()?;
        let first = self.flow.sent();
        kind.change(self)?;
        let changed = now();
        let quiet = QUIET * u64::from(slowness());
        let transit = TRANSIT * u64::from(slowness());
        let mut arrived = HashSet::new();
        let mut next = first;
        let mut round = Round { judged: 0, late: 0, window: 0, recovery };
        let mut last_late = changed;
        let mut late = Vec::new();
        loop {
            sleep(Duration::from_micros(200));
            // What was sent before this moment less the transit time has arrived by the time that it is looked for.
            let until = now().saturating_sub(transit);
            arrived.extend(match kind.late() {
                Late::Arrived => self.drain_station()?,
                Late::NotFlooded => self.drain_witness()?,
            });
            while next < self.flow.sent() && self.flow.began(next) < until {
                let began = self.flow.began(next);
                if began > changed {
                    round.judged += 1;
                    if arrived.contains(&next) == (kind.late() == Late::Arrived) {
                        late.push((next, began));
                        last_late = began;
                    }
                }
                next += 1;
            }
            if until > last_late + quiet && round.judged > 0 {
                break;
            }
            ensure!(now() < changed + LIMIT, "{}: frames still went the old way after 10 s", kind.name());
        }
        // On a busy machine a flooded frame may only have been slow.
        if kind.late() == Late::NotFlooded && !late.is_empty() {
            sleep(GRACE * slowness());
            arrived.extend(self.drain_witness()?);
            late.retain(|(number, _)| !arrived.contains(number));
        }
        round.late = late.len().try_into()?;
        round.window = late.last().map_or(0, |(_, began)| began - changed);
        Ok(round)
    }
}
