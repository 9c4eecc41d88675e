//! What the two universes delivered, side by side.

use std::{collections::BTreeMap, fmt};

use super::{socket::Caught, spec::Spec};
use crate::frame::{Frame, Tag, describe};

/// A frame at a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Place of the frame that was sent last before it arrived.
    pub frame: usize,
    /// Port or bridge device.
    pub receiver: &'static str,
    /// What was read there.
    pub caught: Caught,
}

/// How the accelerated universe differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A frame at a receiver to which the plain bridge did not deliver it.
    Leak,
    /// A frame that the plain bridge delivered did not arrive.
    Lost,
    /// It arrived where it should, with other bytes or another tag.
    Altered,
    /// It arrived more often.
    Duplicate,
    /// The frames of one flow arrived in another order.
    Order,
    /// A command, or sending a frame, had another result.
    Result,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// How.
    pub kind: Kind,
    /// Place of the step in the scenario.
    pub step: usize,
    /// The frame, the receiver, and both sides.
    pub what: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Leak => "leak",
            Kind::Lost => "lost",
            Kind::Altered => "altered",
            Kind::Duplicate => "duplicate",
            Kind::Order => "order",
            Kind::Result => "result",
        };
        write!(formatter, "step {}: {kind}: {}", self.step, self.what)
    }
}

/// Whether both universes delivered the same, whatever the order.
pub fn equal(plain: &[Delivery], fast: &[Delivery]) -> bool {
    plain.len() == fast.len() && sorted(plain) == sorted(fast)
}

fn sorted(deliveries: &[Delivery]) -> Vec<(&'static str, &Caught)> {
    let mut all: Vec<_> = deliveries.iter().map(|delivery| (delivery.receiver, &delivery.caught)).collect();
    all.sort();
    all
}

/// The differences between what was delivered of `frames`, which were sent in step `step`.
pub fn compare(step: usize, frames: &[Spec], plain: &[Delivery], fast: &[Delivery]) -> Vec<Divergence> {
    let (missing, surplus) = (without(plain, fast), without(fast, plain));
    let mut found = Vec::new();
    let mut explained = vec![false; missing.len()];
    for extra in &surplus {
        let twin = missing.iter().enumerate().position(|(place, lost)| {
            !explained[place] && lost.receiver == extra.receiver && lost.frame == extra.frame
        });
        let (kind, detail) = if let Some(place) = twin {
            explained[place] = true;
            (Kind::Altered, format!("{} instead of {}", show(&extra.caught), show(&missing[place].caught)))
        } else if plain.iter().any(|there| there.receiver == extra.receiver && there.caught == extra.caught) {
            (Kind::Duplicate, show(&extra.caught))
        } else {
            (Kind::Leak, show(&extra.caught))
        };
        found.push(divergence(kind, step, frames, extra, &detail));
    }
    for (lost, explained) in missing.iter().zip(explained) {
        if !explained {
            found.push(divergence(Kind::Lost, step, frames, lost, &show(&lost.caught)));
        }
    }
    if found.is_empty() {
        found.extend(reordered(step, frames, plain, fast));
    }
    found
}

fn divergence(kind: Kind, step: usize, frames: &[Spec], at: &Delivery, detail: &str) -> Divergence {
    let frame = frames.get(at.frame).map_or_else(|| "a frame of before".to_owned(), ToString::to_string);
    Divergence { kind, step, what: format!("[{frame}] at {}: {detail}", at.receiver) }
}

/// What is in `all` more often than in `other`.
fn without<'a>(all: &'a [Delivery], other: &[Delivery]) -> Vec<&'a Delivery> {
    let mut left: BTreeMap<(&'static str, &Caught), usize> = BTreeMap::new();
    for delivery in other {
        *left.entry((delivery.receiver, &delivery.caught)).or_default() += 1;
    }
    all.iter()
        .filter(|delivery| match left.get_mut(&(delivery.receiver, &delivery.caught)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
        .collect()
}

/// The first flow whose frames arrived in another order at some receiver. A flow is what has the same addresses and the
/// same tag.
fn reordered(step: usize, frames: &[Spec], plain: &[Delivery], fast: &[Delivery]) -> Option<Divergence> {
    let (plain, fast) = (flows(plain), flows(fast));
    let (flow, here) =
        fast.iter().find(|(flow, here)| plain.get(*flow).is_none_or(|there| !same_order(there, here)))?;
    let first = here.first()?;
    Some(divergence(Kind::Order, step, frames, first, &format!("{} frames of one flow at {}", here.len(), flow.0)))
}

type Flow = (&'static str, Vec<u8>, Option<(u16, u16)>);

fn flows(deliveries: &[Delivery]) -> BTreeMap<Flow, Vec<&Delivery>> {
    let mut flows: BTreeMap<Flow, Vec<&Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        let addresses = delivery.caught.bytes.iter().take(12).copied().collect();
        flows.entry((delivery.receiver, addresses, delivery.caught.tag)).or_default().push(delivery);
    }
    flows
}

fn same_order(one: &[&Delivery], other: &[&Delivery]) -> bool {
    one.iter().map(|delivery| &delivery.caught).eq(other.iter().map(|delivery| &delivery.caught))
}

/// One line for people.
fn show(caught: &Caught) -> String {
    let mut text = describe(&caught.bytes);
    if let Some((tpid, tci)) = caught.tag {
        text = format!("[{tpid:04x} vid {} tci {tci:04x} beside] {text}", Tag { tpid, tci }.vid());
    }
    if let Some(left) = caught.left {
        text = format!("{text} left {left:?}");
    }
    let number = Frame::parse(&caught.bytes).and_then(|frame| frame.payload.first_chunk::<4>().copied());
    match number {
        Some(number) => format!("{text} payload {:02x}{:02x}{:02x}{:02x}", number[0], number[1], number[2], number[3]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn delivery(frame: usize, receiver: &'static str, byte: u8) -> Delivery {
        Delivery { frame, receiver, caught: Caught { bytes: vec![byte; 60], tag: None, left: None } }
    }

    fn kinds(plain: &[Delivery], fast: &[Delivery]) -> Vec<Kind> {
        compare(0, &[], plain, fast).into_iter().map(|divergence| divergence.kind).collect()
    }

    #[test]
    fn each_difference_has_its_name() {
        let (one, two) = (delivery(0, "p0", 1), delivery(1, "p0", 2));
        assert!(equal(&[one.clone(), two.clone()], &[two, one.clone()]));
        assert_eq!(kinds(from_ref(&one), from_ref(&one)), []);
        assert_eq!(kinds(from_ref(&one), &[]), [Kind::Lost]);
        assert_eq!(kinds(&[], from_ref(&one)), [Kind::Leak]);
        assert_eq!(kinds(from_ref(&one), &[one.clone(), one.clone()]), [Kind::Duplicate]);
        assert_eq!(kinds(from_ref(&one), &[delivery(0, "p0", 9)]), [Kind::Altered]);
        assert_eq!(kinds(&[one], &[delivery(0, "p1", 1)]), [Kind::Leak, Kind::Lost]);
    }

    #[test]
    fn the_order_within_a_flow_counts() {
        let mut second = delivery(1, "p0", 1);
        second.caught.bytes[20] = 7;
        let first = delivery(0, "p0", 1);
        let kinds = kinds(&[first.clone(), second.clone()], &[second, first]);
        assert_eq!(kinds, [Kind::Order]);
    }
}
