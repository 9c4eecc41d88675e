//! The kernel side as user space holds it: programs loaded, maps written, hooks attached, counters read.

pub mod attach;
pub mod btf;
pub mod census;
pub mod clsact;
pub mod counters;
pub mod guardian;
mod holes;
pub mod load;
pub mod shadow;
pub mod sync;
pub mod tables;
pub mod tracing;
pub mod undo;

pub use self::{
    attach::{Attachments, Hooked},
    load::{Entries, Programs},
    sync::Sync,
    tables::{FdbShape, Tables},
};
