//! What was counted on ports that have left since, so that the totals of an instance do not shrink.

use std::collections::BTreeMap;

use log::warn;

use crate::{
    datapath::{Tables, counters},
    plan::Plan,
    status::{Count, GoneStatus},
};

/// Adds the counters of the ports in `old` that `new` has no more, or in another slot.
///
/// To be called when their programs are detached and before their slots are given out again, which is a thousand
/// ports later.
pub(super) fn collect(gone: &mut GoneStatus, tables: &Tables, old: &Plan, new: &Plan) {
    for (ifindex, port) in &old.ports {
        let Some(slot) = port.slot else { continue };
        if new.ports.get(ifindex).is_some_and(|now| now.slot == Some(slot)) {
            continue;
        }
        match counters::port(tables, slot) {
            Ok(totals) => {
                gone.ports += 1;
                add(&mut gone.fast, totals.fast);
                add(&mut gone.slow, totals.slow);
                add(&mut gone.dropped, totals.dropped);
                for (reason, count) in totals.reasons {
                    sum(&mut gone.reasons, reason.name(), count.packets);
                    sum(&mut gone.reason_bytes, reason.name(), count.bytes);
                }
            }
            Err(error) => warn!("cannot read the counters of {}, which has left: {error}", port.name),
        }
    }
}

fn add(total: &mut Count, count: Count) {
    total.packets += count.packets;
    total.bytes += count.bytes;
}

fn sum(totals: &mut BTreeMap<String, u64>, reason: &str, count: u64) {
    *totals.entry(reason.to_owned()).or_default() += count;
}
