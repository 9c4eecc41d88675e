//! What kernel and user space share: the decision ([`decide`]), the reasons for it ([`reason`]), and the layout of the
//! BPF maps ([`maps`], [`shadow`]).
//!
//! No I/O, no map access, no context types: the same decision runs in the XDP program, in the tc program and on the host.
#![no_std]

pub mod census;
pub mod decide;
pub mod fdb;
pub mod flow;
pub mod frame;
pub mod holes;
pub mod ip;
pub mod mac;
pub mod maps;
pub mod reason;
pub mod shadow;
pub mod tags;
