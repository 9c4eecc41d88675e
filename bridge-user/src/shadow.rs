//! Shadow mode: what the bridge did with frames that the fast path would have forwarded, and whether that is the same.
//!
//! [`judge`](judge::judge) looks at one frame, the [`Ledger`] keeps the account. What is not known is not counted as
//! agreement: a frame whose way out nobody watched is `unknown`, and one that found no room is only counted.

pub mod judge;

use std::collections::BTreeMap;

use bridge_common::shadow::Flight;
use log::warn;

use self::judge::{Difference, Judgement, judge};
use crate::{
    model::IfIndex,
    status::{Disagreement, PortShadow},
};

/// What a judgement needs to know of the world.
pub trait Scenery {
    /// The name of a device, and of the bridge that it belongs to (or is).
    fn name(&self, ifindex: IfIndex) -> Option<(String, String)>;
    /// Whether what leaves the port was looked at in the moment `at` (`CLOCK_MONOTONIC`, nanoseconds) and ever since.
    fn watched(&self, ifindex: IfIndex, at: u64) -> bool;
}

/// The account of one instance.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the name of the ingress port.
    ports: BTreeMap<String, PortShadow>,
    /// The latest example of each kind of disagreement, by its name.
    examples: BTreeMap<&'static str, Disagreement>,
}

impl Ledger {
    /// Judges flights. `now` is the moment of `CLOCK_MONOTONIC`, `unix` the same moment in seconds since 1970.
    pub fn enter(&mut self, flights: &[Flight], scenery: &impl Scenery, now: u64, unix: f64) {
        for flight in flights {
            let ingress = name(scenery, flight.arrived.ifindex);
            let port = self.ports.entry(ingress.clone()).or_default();
            match judge(flight, scenery.watched(flight.expected, flight.at)) {
                Judgement::Agreed => port.agreed += 1,
                Judgement::Unknown => port.unknown += 1,
                Judgement::Disagreed(difference) => {
                    port.disagreed += 1;
                    let kind = difference.kind.name();
                    *port.disagreements.entry(kind.to_owned()).or_default() += 1;
                    let example = example(flight, &difference, scenery, now, unix);
                    if self.examples.insert(kind, example.clone()).is_none() {
                        warn!("shadow: {kind}: {}: {}; xbr status -d shows the frame", example.ingress, example.detail);
                    }
                }
            }
        }
    }

    /// The account of one port.
    pub fn port(&self, name: &str) -> PortShadow {
        self.ports.get(name).cloned().unwrap_or_default()
    }

    /// The account of all ports, those that are gone included.
    pub fn total(&self) -> PortShadow {
        let mut total = PortShadow::default();
        self.ports.values().for_each(|port| total.add(port));
        total
    }

    /// An example of each kind of disagreement.
    pub fn examples(&self) -> Vec<Disagreement> {
        self.examples.values().cloned().collect()
    }
}

fn name(scenery: &impl Scenery, ifindex: IfIndex) -> String {
    scenery.name(ifindex).map_or_else(|| format!("device {ifindex}"), |(name, _)| name)
}

#[expect(clippy::cast_precision_loss, reason = "an age in seconds for people")]
fn example(flight: &Flight, difference: &Difference, scenery: &impl Scenery, now: u64, unix: f64) -> Disagreement {
    let (expected_port, ingress) = (name(scenery, flight.expected), name(scenery, flight.arrived.ifindex));
    let actual_port = difference.seen.map(|seen| name(scenery, seen.ifindex));
    let bytes = |wire: Option<judge::Wire>| wire.map_or((None, None), |wire| (Some(wire.length), Some(wire.hex())));
    let (actual_length, actual_bytes) = bytes(difference.seen.map(judge::Wire::of));
    let (expected_length, expected_bytes) = bytes(Some(judge::Wire::expected(flight)));
    Disagreement {
        kind: difference.kind.name().to_owned(),
        unix_seconds: unix - now.saturating_sub(flight.at) as f64 / 1e9,
        bridge: scenery.name(flight.arrived.ifindex).map(|(_, bridge)| bridge).unwrap_or_default(),
        detail: difference.describe(flight, &expected_port, actual_port.as_deref()),
        ingress,
        received_length: judge::Wire::of(&flight.arrived).length,
        received_bytes: judge::Wire::of(&flight.arrived).hex(),
        tag_change: judge::tag_change(flight),
        expected_port,
        expected_length: expected_length.unwrap_or_default(),
        expected_bytes: expected_bytes.unwrap_or_default(),
        actual_port,
        actual_length,
        actual_bytes,
        copies_expected: flight.right,
        copies_elsewhere: flight.wrong,
        copies_up: flight.up,
    }
}

#[cfg(test)]
mod tests;
