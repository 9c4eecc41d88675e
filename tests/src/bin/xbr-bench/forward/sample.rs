//! One figure: processor time of the measured threads per unit that arrived.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    load::Load,
    processor::{Processor, used},
};

/// Share of the processor that others may have before a round counts as hit from outside.
const TOLERATED: f64 = 0.05;

/// What a stretch of load brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Nanoseconds of processor time per unit.
    pub(crate) cost: f64,
    /// Share of the processor that neither the measured threads nor the load had, or that the hypervisor took, 0 to 1.
    pub(crate) others: f64,
}

impl Sample {
    /// Whether somebody else used the processor.
    pub(crate) fn is_hit(&self) -> bool {
        self.others > TOLERATED
    }
}

/// One reading of everything.
struct Reading {
    at: Instant,
    measured: u64,
    beside: u64,
    stolen: u64,
    units: u64,
}

impl Reading {
    fn take(load: &Load, processor: Processor) -> Result<Self> {
        let sum = |threads: &[i32]| threads.iter().map(|thread| used(*thread)).sum::<Result<u64>>();
        let (units, measured) = ((load.arrived)()?, sum(&load.measured)?);
        let at = Instant::now();
        Ok(Self { at, measured, beside: sum(&load.beside)?, stolen: processor.stolen()?, units })
    }
}

/// Measures a load for a time, after a tenth of that to warm up.
#[expect(clippy::cast_precision_loss, reason = "times of less than an hour")]
pub(crate) fn measure(load: &Load, processor: Processor, time: Duration) -> Result<Sample> {
    sleep((time / 10).max(Duration::from_millis(20)));
    let before = Reading::take(load, processor)?;
    sleep(time);
    let after = Reading::take(load, processor)?;
    ensure!(load.workers.iter().all(|worker| !worker.ended()), "the load ended by itself");
    let wall = after.at.duration_since(before.at).as_secs_f64() * 1e9;
    let units = after.units - before.units;
    ensure!(units > 0, "nothing arrived within {:.2} s", wall / 1e9);
    let measured = (after.measured - before.measured) as f64;
    let known = measured + (after.beside - before.beside) as f64;
    let stolen = (after.stolen - before.stolen) as f64;
    Ok(Sample { cost: measured / units as f64, others: ((wall - known).max(0.0) / wall).max(stolen / wall) })
}
