//! The netlink module against the running kernel. Every test has a network namespace and a thread of its own.
//!
//! Needs root and `ip`, `bridge` and `tc`; what the kernel or the user cannot do is printed as "skipped: reason".

#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as well")]

mod census;
mod events;
mod lab;
mod state;
mod vlans;
