//! The differential test: two universes go through the same scenario, one with a plain bridge and one with xbr, and
//! everything that is delivered anywhere has to be the same.
//!
//! [`generate`] makes scenarios from seeds, [`world`] plays them, [`compare`] tells the differences, [`minimise`] makes a
//! failing scenario small, [`campaign`] does all of it for many.

pub mod campaign;
pub mod compare;
pub mod daemon;
pub mod dice;
pub mod eligible;
pub mod generate;
mod marker;
pub mod minimise;
pub mod scenario;
pub mod socket;
pub mod spec;
pub mod tool;
pub mod universe;
pub mod world;
