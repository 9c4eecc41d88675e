//! The properties for the fuzzer (`tests/fuzz`): bytes stand for the bridge, its tables and the frames.

use bridge_common::frame::Frame;

use super::{
    anything,
    dice::Dice,
    property::{agrees, keeps_borders, origin_holds, reads},
    scenario::{Arrival, Scenario},
    tables::tables_of,
};

/// A target: its name, which is that of its folder in `tests/fuzz/corpus`, and what it does with bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: [Target; 3] = [("decision", decision), ("frame", frame), ("tables", tables)];

/// Frames out of one input, at most.
const FRAMES: usize = 16;

/// Numbers out of bytes; zero where they are used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        std::array::from_fn(|index| taken.get(index).copied().unwrap_or_default())
    }

    fn byte(&mut self) -> usize {
        usize::from(self.next::<1>()[0])
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(self.0.len().min(length));
        self.0 = rest;
        taken.to_vec()
    }
}

/// The decision against the model of the bridge. Options, ports and FDB entries are drawn from numbers; a frame is drawn,
/// or is drawn and has other bytes behind its addresses, or is nothing but bytes.
fn decision(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let options = u64::from_le_bytes(numbers.next());
    let ports: Vec<u128> = (0..2 + numbers.byte() % 5).map(|_| u128::from_le_bytes(numbers.next())).collect();
    let entries: Vec<u64> = (0..4 + numbers.byte() % 13).map(|_| u64::from_le_bytes(numbers.next())).collect();
    let scenario = Scenario::draw(u128::from(options), &ports, &entries);
    let tables = tables_of(&scenario.bridge, scenario.numbers, &scenario.refresh_at);
    for _ in 0..FRAMES {
        let kind = numbers.byte();
        let mut arrival = scenario.arrival(u128::from_le_bytes(numbers.next()));
        match kind % 3 {
            0 => {}
            1 => {
                arrival.bytes.truncate(12);
                let length = numbers.byte();
                arrival.bytes.extend(numbers.take(length));
            }
            _ => {
                let length = numbers.byte();
                let port = numbers.byte() % scenario.bridge.ports.len();
                arrival = Arrival { port, bytes: numbers.take(length), gso: kind >= 128 };
            }
        }
        check(&scenario, &tables, &arrival);
        if numbers.0.is_empty() {
            break;
        }
    }
}

fn check(scenario: &Scenario, tables: &super::tables::MemoryTables, arrival: &Arrival) {
    if Frame::parse(&arrival.bytes).is_some() {
        agrees(scenario, tables, arrival).unwrap_or_else(|what| panic!("{what}"));
    } else {
        // What xbr cannot read the kernel drops before the bridge.
        let outcome = scenario.bridge.receive(arrival.port, &arrival.bytes, arrival.gso);
        assert!(
            outcome.deliveries.is_empty() && !outcome.up_to_bridge && !outcome.up_to_port,
            "{arrival:?}: {outcome:?}"
        );
    }
}

/// Any bytes as a frame.
fn frame(bytes: &[u8]) {
    reads(bytes).unwrap_or_else(|what| panic!("{what}: {bytes:02x?}"));
}

/// Any tables, and frames that are drawn from numbers or read from bytes.
fn tables(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let aware = numbers.byte() % 2 == 1;
    let ports: [u64; 4] = std::array::from_fn(|_| u64::from_le_bytes(numbers.next()));
    let entries: [u128; 4] = std::array::from_fn(|_| u128::from_le_bytes(numbers.next()));
    let tables = anything::draw(aware, &ports, &entries);
    for _ in 0..FRAMES {
        let kind = numbers.byte();
        let (ingress, mut frame) = anything::frame(&mut Dice::new(u64::from_le_bytes(numbers.next()).into()));
        if kind % 2 == 1 {
            let length = numbers.byte();
            if let Some(read) = Frame::parse(&numbers.take(length)) {
                frame = if kind % 4 == 1 { Frame { dst: frame.dst, src: frame.src, ..read } } else { read };
            }
        }
        keeps_borders(&tables, ingress, &frame).unwrap_or_else(|what| panic!("{what}: {frame:?} at {ingress}"));
        origin_holds(&tables, ingress, &frame).unwrap_or_else(|what| panic!("{what}: {frame:?} at {ingress}"));
        if numbers.0.is_empty() {
            break;
        }
    }
}
