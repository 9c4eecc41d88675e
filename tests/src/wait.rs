//! Waiting for something that the kernel or the daemon does in its own time.

use std::{
    env, fs,
    sync::LazyLock,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Whether the processor is emulated in software, as in the virtual machines of the tests.
pub fn emulated() -> bool {
    static EMULATED: LazyLock<bool> =
        LazyLock::new(|| fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG")));
    *EMULATED
}

/// How much slower than real time this machine is allowed to be: `XBR_TEST_SLOWNESS`, at least 1. By default 1, and 3 on
/// an emulated processor. Time limits are multiplied by it, so that they mean the same work everywhere.
pub fn slowness() -> u32 {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        let asked = env::var("XBR_TEST_SLOWNESS").ok().and_then(|value| value.parse().ok());
        asked.unwrap_or(if emulated() { 3 } else { 1 }).max(1)
    });
    *SLOWNESS
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
