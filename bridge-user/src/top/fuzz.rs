//! Rates out of any two readings.

use super::{batch, columns::Column, rates::Tracker};
use crate::status::Snapshot;

/// The batch after a reading and the same counters a second later.
pub(crate) fn show(first: Snapshot) -> String {
    let mut second = first.clone();
    second.at_nanoseconds = second.at_nanoseconds.wrapping_add(1_000_000_000);
    let mut tracker = Tracker::default();
    tracker.ingest(vec![first]);
    tracker.ingest(vec![second]);
    batch::text(&tracker, Column::InPackets)
}
