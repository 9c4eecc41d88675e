//! Which frames should take the fast path, judged without xbr: by what the plain bridge knew and what it did.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    compare::Delivery,
    spec::Spec,
    universe::{Fdb, open_ports},
};
use crate::frame::{Mac, mac};

/// `EtherTypes` of protocols between neighbours, which always go to the bridge.
const CONTROL: [u16; 8] = [0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7];

/// How many frames of a port should be fast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Frames.
    pub frames: u64,
    /// Their source addresses: of each, xbr may send one frame to the bridge to keep its entry alive.
    pub sources: BTreeSet<Mac>,
}

/// What a scenario has configured so far that xbr leaves to the bridge by design.
#[derive(Clone, Debug, Default)]
pub struct Exempt {
    /// Ports with a backup port.
    backed: BTreeSet<String>,
    /// br0 has states by MST instance.
    mst: bool,
}

impl Exempt {
    /// Takes notice of a line of `ip` or `bridge`.
    pub fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.iter().position(|word| *word == "dev").and_then(|at| words.get(at + 1));
        self.backed.extend(port.filter(|_| words.contains(&"backup_port")).map(|port| (*port).to_owned()));
        self.mst |= line.ends_with("mst_enabled 1");
    }
}

/// The eligible frames by ingress port. A frame is eligible if
/// - it came in at a port, and the plain bridge delivered it to exactly one receiver, which is another port;
/// - both its addresses are individual ones that the bridge had an entry of before the first of these frames (the source
///   at this very port), and no frame of this step has moved either;
/// - it is no control protocol, no LLC and no neighbour discovery, and its outer tag is of the bridge's protocol: the
///   other tags' frames get a second tag, which xbr leaves to the bridge by design;
/// - neither address has a locked entry, and nothing is [`Exempt`]: these are left to the bridge by design, too.
pub fn eligible(frames: &[Spec], fdb: &Fdb, plain: &[Delivery], exempt: &Exempt) -> BTreeMap<&'static str, Wanted> {
    if exempt.mst {
        return BTreeMap::new();
    }
    let moved = moved(frames, fdb);
    let mut receivers: BTreeMap<usize, BTreeSet<&'static str>> = BTreeMap::new();
    for delivery in plain {
        receivers.entry(delivery.frame).or_default().insert(delivery.receiver);
    }
    let mut eligible: BTreeMap<&'static str, Wanted> = BTreeMap::new();
    for (place, spec) in frames.iter().enumerate() {
        let Some(from) = open_ports().find(|port| *port == spec.from) else { continue };
        let Some(to) = receivers.get(&place).filter(|to| to.len() == 1).and_then(BTreeSet::first) else { continue };
        let other_port = *to != from && !exempt.backed.contains(*to) && open_ports().any(|port| port == *to);
        let known = at(fdb, spec.src).any(|port| port == from) && at(fdb, spec.dst).any(|port| port == *to);
        let plain_protocol = match spec.ethertype() {
            0..0x600 => false,
            0x86dd => !matches!(spec.body, super::spec::Body::Icmp6(133..=137)),
            other => !CONTROL.contains(&other),
        } && !cut_off(spec);
        let quiet = !moved.contains(&spec.src) && !moved.contains(&spec.dst);
        let locked = [spec.src, spec.dst].into_iter().any(|address| fdb.locked.contains(&mac(address)));
        if other_port && known && !locked && plain_protocol && quiet && !pushed(place, spec, plain) {
            let wanted = eligible.entry(from).or_default();
            wanted.frames += 1;
            wanted.sources.insert(spec.src);
        }
    }
    eligible
}

/// Addresses that a frame of this step brings to another port than the one where the bridge knows them.
fn moved(frames: &[Spec], fdb: &Fdb) -> BTreeSet<Mac> {
    let elsewhere = |spec: &&Spec| at(fdb, spec.src).any(|port| port != spec.from);
    frames.iter().filter(elsewhere).map(|spec| spec.src).collect()
}

/// The ports at which the bridge knows an address, in whichever VLAN.
fn at(fdb: &Fdb, address: Mac) -> impl Iterator<Item = &str> {
    let text = mac(address);
    fdb.entries.iter().filter(move |((known, ..), _)| *known == text).map(|(_, port)| port.as_str())
}

/// Whether the frame ends inside of an inner tag or of the header of a PPPoE session, which the kernel may drop.
fn cut_off(spec: &Spec) -> bool {
    let outer = if spec.meta.is_some() { 0 } else { 4 * spec.tags.len().min(1) };
    let inner_tag = spec.tags.len() > usize::from(spec.meta.is_none());
    spec.len
        < 14 + outer
            + if inner_tag {
                4
            } else if spec.ethertype() == 0x8864 {
                8
            } else {
                0
            }
}

/// Whether the bridge has put a tag before one that the frame had already.
fn pushed(place: usize, spec: &Spec, plain: &[Delivery]) -> bool {
    if spec.meta.is_none() && spec.tags.is_empty() {
        return false;
    }
    let sent = spec.tags.len() + usize::from(spec.meta.is_some());
    plain.iter().filter(|delivery| delivery.frame == place).any(|delivery| tags(delivery) > sent)
}

/// Number of tags of a frame that was caught.
fn tags(delivery: &Delivery) -> usize {
    let inner = crate::frame::Frame::parse(&delivery.caught.bytes).map_or(0, |frame| frame.tags.len());
    inner + usize::from(delivery.caught.tag.is_some())
}
