//! Waiting for something that the kernel or the daemon does in its own time.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How much slower than real time this machine is allowed to be: `XBR_TEST_SLOWNESS`, at least 1, default 1.
///
/// An emulated virtual machine sets it, so that time limits mean the same work everywhere.
pub fn slowness() -> u32 {
    std::env::var("XBR_TEST_SLOWNESS")
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(1)
        .max(1)
}

/// Asks `done` every few milliseconds until it says yes; an error after `limit` times [`slowness`] names `what`.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = limit * slowness();
    let start = Instant::now();
    loop {
        if done()? {
            return Ok(());
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {:.1} s", limit.as_secs_f32());
        }
        sleep(Duration::from_millis(20));
    }
}
