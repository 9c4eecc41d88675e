//! What was counted on ports that have left since, so that the totals of an instance do not shrink.

use bridge_common::reason::Reason;
use log::warn;

use crate::{
    datapath::{
        Tables,
        counters::{self, Served},
    },
    model::IfIndex,
    plan::{Plan, PortPlan},
    status::GoneStatus,
};

/// Adds the counters of the ports in `old` that `new` has no more, or in another slot.
///
/// To be called when their programs are detached and before their slots are given out again, which is a thousand
/// ports later.
pub(super) fn collect<'a>(gone: &mut GoneStatus, tables: &Tables, old: &'a Plan, new: &Plan) {
    let left = |(ifindex, port): (&IfIndex, &'a PortPlan)| {
        let slot = port.slot?;
        let stays = new.ports.get(ifindex).is_some_and(|now| now.slot == Some(slot));
        (!stays).then_some((slot, port))
    };
    let mut left = old.ports.iter().filter_map(left).peekable();
    // To read what the flow cache has served is dear.
    if left.peek().is_none() {
        return;
    }
    let served = Served::read(tables);
    for (slot, port) in left {
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
