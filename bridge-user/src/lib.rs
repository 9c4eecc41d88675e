//! The user-space half of xbr: mirrors the state of Linux bridges into BPF maps and shows what the programs do.
//!
//! State flows one way: [`netlink`] and [`bypass`] → [`model`] → [`plan`] → [`datapath`]. The daemon ([`daemon`]) turns
//! the wheel, [`ipc`] hands out [`status::Snapshot`]s, [`cli`] and [`top`] show them.

pub mod bypass;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ipc;
pub mod model;
pub mod netlink;
pub mod plan;
pub mod shadow;
pub mod status;
pub mod top;
