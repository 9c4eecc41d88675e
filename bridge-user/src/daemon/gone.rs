//! What was counted on ports that have left since, so that the totals of an instance do not shrink.

use bridge_common::reason::Reason;
use log::warn;

use crate::{
    datapath::{
        Tables,
        counters::{self, Served},
    },
    plan::Plan,
    status::GoneStatus,
};

/// Adds the counters of the ports in `old` that `new` has no more, or in another slot.
///
/// To be called when their programs are detached and before their slots are given out again, which is a thousand
/// ports later.
pub(super) fn collect(gone: &mut GoneStatus, tables: &Tables, old: &Plan, new: &Plan) {
    let served = Served::read(tables);
    for (ifindex, port) in &old.ports {
        let Some(slot) = port.slot else { continue };
        if new.ports.get(ifindex).is_some_and(|now| now.slot == Some(slot)) {
            continue;
        }
        let names = |reason: &Reason| reason.name().to_owned();
        match counters::port(tables, &served, slot) {
            Ok(totals) => {
                *gone += GoneStatus {
                    ports: 1,
                    fast: totals.fast,
                    slow: totals.slow,
                    dropped: totals.dropped,
                    reasons: totals.reasons.iter().map(|(reason, count)| (names(reason), count.packets)).collect(),
                    reason_bytes: totals.reasons.iter().map(|(reason, count)| (names(reason), count.bytes)).collect(),
                };
            }
            Err(error) => warn!("cannot read the counters of {}, which has left: {error}", port.name),
        }
    }
}
