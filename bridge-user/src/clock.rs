//! The clock that the programs use.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(time.tv_sec()).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or_default()
}
