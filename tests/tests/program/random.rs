//! Random frames through both programs and through the decision on the host, with the same random tables.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use bridge_common::{
    decide::{Verdict, decide},
    frame::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Frame},
    mac::Mac,
    maps::{VLANS, fdb_flags, port_flags, set_bit},
    reason::Reason,
};
use xbr_tests::frame::{ETHERTYPE_LAB, Tag};

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, Outcome},
    check::{bytes, differs},
    frames::{Checksum, ICMP, ICMPV6, SCTP, TCP, UDP, between, ipv4, ipv6, payload, udp},
    model::{self, is_refusal, refused_by_tc_test_run},
    world::{AWARE_FID, ELSEWHERE, GONE, HERE, NEVER, PVID, Row, State, TAGGED, THERE, UNAWARE_FID, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[("random_frames_as_on_the_host", as_on_the_host)];

const WORLDS: u32 = 50;
const FRAMES_PER_WORLD: u32 = 40;
const PORTS: [u16; 4] = [HERE, THERE, ELSEWHERE, GONE];
const VIDS: [u16; 6] = [PVID, TAGGED, UNTAGGED, 1, 40, 4094];

/// Random numbers: the generator `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() % sides as u64).expect("below a usize")
    }

    fn percent(&mut self, of_100: usize) -> bool {
        self.below(100) < of_100
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn number(&mut self, below: u16) -> u16 {
        u16::try_from(self.below(usize::from(below))).expect("below a u16")
    }
}

fn station(number: u8) -> Mac {
    Mac::new([2, 0x70, 0, 1, 0, number])
}

/// The seed: `XBR_SEED`, or a new one.
fn seed() -> Result<u64> {
    match std::env::var("XBR_SEED") {
        Ok(seed) => seed.parse().with_context(|| format!("XBR_SEED is no number: {seed}")),
        Err(_) => Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() & u128::from(u64::MAX))?),
    }
}

fn random_world(dice: &mut Dice) -> World {
    let aware = dice.percent(70);
    let (flags, fid_base) = if aware { (port_flags::VLAN_AWARE, AWARE_FID) } else { (0, UNAWARE_FID) };
    let tpid = dice.pick(&[ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021AD]);
    let mut world = World::empty(flags, fid_base);
    if dice.percent(3) {
        world.lease = dice.pick(&[0, 1]);
    }
    for port in world.ports.values_mut() {
        for (of_100, flag) in [
            (4, port_flags::INGRESS),
            (4, port_flags::EGRESS),
            (15, port_flags::EGRESS_XDP),
            (15, port_flags::LEARNING),
            (5, port_flags::LOCKED),
            (15, port_flags::ISOLATED),
            (30, port_flags::VIRTUAL_XDP),
            (1, port_flags::VLAN_AWARE),
        ] {
            if dice.percent(of_100) {
                port.flags ^= flag;
            }
        }
        port.slow_reason = u32::try_from(dice.below(70)).expect("small");
        port.max_len = u32::try_from(dice.pick(&[100, 114, 118, 1518, 1518, 1518, 1518, 1518, 1518])).unwrap_or(1518);
        // The bridge has one protocol of two; the kernel's helper takes any other for 802.1Q.
        port.tpid = if dice.percent(2) { ETH_P_8021Q ^ ETH_P_8021AD ^ tpid } else { tpid };
        port.pvid = dice.pick(&[0, PVID, PVID, PVID, TAGGED]);
        port.refresh_interval = if dice.percent(10) { 0 } else { port.refresh_interval };
        if dice.percent(2) {
            port.fid_base = port.fid_base.wrapping_add(VLANS);
        }
        for vid in VIDS {
            set_bit(&mut port.member, vid, dice.percent(92));
            set_bit(&mut port.untagged, vid, dice.percent(50));
        }
    }
    for number in 0..6 {
        for vid in if aware { &VIDS[..] } else { &[0][..] } {
            if dice.percent(5) {
                continue;
            }
            let mut flags = 0;
            for (of_100, flag) in
                [(4, fdb_flags::LOCAL), (8, fdb_flags::STICKY), (4, fdb_flags::OPAQUE), (15, fdb_flags::STATIC)]
            {
                flags |= if dice.percent(of_100) { flag } else { 0 };
            }
            // Stations 0 and 1 mostly at the first port, and so on, so that many frames come from where they belong.
            let home = PORTS[usize::from(number / 2)];
            let row = Row {
                vid: *vid,
                slot: if dice.percent(90) {
                    home
                } else {
                    dice.pick(&[HERE, THERE, ELSEWHERE, GONE, 3, 1024, u16::MAX])
                },
                flags,
                refresh_at: if dice.percent(10) { 0 } else { NEVER },
                state: if dice.percent(3) { State::Stale } else { State::Current },
            };
            world.fdb.insert((fid_base + vid, station(number)), row);
        }
    }
    world
}

fn random_frame(dice: &mut Dice) -> Vec<u8> {
    let mut tags = Vec::new();
    for _ in 0..dice.pick(&[0, 0, 1, 1, 1, 2, 3]) {
        let vid = if dice.percent(90) { dice.pick(&[0, PVID, TAGGED, UNTAGGED, 1, 4094]) } else { dice.number(4096) };
        let tci = vid | if dice.percent(30) { dice.number(16) << 12 } else { 0 };
        tags.push(Tag { tpid: dice.pick(&[ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021AD]), tci });
    }
    let checksum = if dice.percent(50) { Checksum::Whole } else { Checksum::Unfinished };
    let mut wire = match dice.below(12) {
        0 | 1 => udp(&tags, ETH_P_IP, checksum),
        2 | 3 => udp(&tags, ETH_P_IPV6, checksum),
        4 | 5 => {
            let protocol = dice.pick(&[TCP, UDP, ICMP, SCTP, 47]);
            let words = dice.pick(&[5, 5, 5, 6, 15]);
            ipv4(&tags, protocol, words)
        }
        6 | 7 => {
            let next_header = dice.pick(&[ICMPV6, ICMPV6, ICMPV6, TCP, UDP, 0]);
            let kind = u8::try_from(130 + dice.below(10)).expect("a byte");
            ipv6(&tags, next_header, kind)
        }
        8 => {
            let ethertype =
                dice.pick(&[0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7, 0x0026, 0x0600]);
            between(station(0), station(1), &tags, ethertype, payload(60))
        }
        9 => between(station(0), station(1), &tags, dice.number(u16::MAX), payload(60)),
        _ => between(
            station(0),
            station(1),
            &tags,
            ETHERTYPE_LAB,
            payload(dice.pick(&[46, 99, 100, 101, 104, 105, 1400])),
        ),
    };
    // Mostly from those that are at home at the first port to those that are not.
    for (at, likely) in [(0, 2), (6, 0)] {
        let mac = match dice.below(100) {
            0..4 => dice.pick(&[[0xff; 6], [1, 0x80, 0xc2, 0, 0, 0], [0; 6]]),
            4..15 => station(dice.pick(&[0, 1, 2, 3, 4, 5, 6])).bytes(),
            _ => station(likely + dice.pick(&[0, 1])).bytes(),
        };
        wire[at..at + 6].copy_from_slice(&mac);
    }
    if dice.percent(8) {
        wire.truncate(14 + dice.below(wire.len() - 13));
    }
    if dice.percent(5) {
        let at = 12 + dice.below(wire.len() - 12);
        wire[at] = u8::try_from(dice.below(256)).expect("a byte");
    }
    wire
}

fn as_on_the_host(bench: &mut Bench) -> Result<()> {
    let seed = seed()?;
    println!("random_frames_as_on_the_host: XBR_SEED={seed}");
    let mut dice = Dice(seed);
    let mut tally = Tally::default();
    for number in 0..WORLDS {
        let mut world = random_world(&mut dice);
        for _ in 0..FRAMES_PER_WORLD {
            let wire = random_frame(&mut dice);
            let gso = dice.percent(10);
            let slot = if dice.percent(90) { Some(HERE) } else { dice.pick(&[Some(THERE), Some(ELSEWHERE), None]) };
            let ifindex = slot.map_or(bench.stranger, |slot| bench.device(slot));
            let arrival = Arrival { wire: &wire, ifindex, gso, untouched: false };
            let what = || format!("XBR_SEED={seed}, world {number}, from slot {slot:?}, gso {gso}: {}", bytes(&wire));

            let want = model::xdp(&world, slot, &wire);
            let got = bench.xdp(&world, arrival)?.with_context(what)?;
            ensure!(got == want, "XDP, {}: {}", what(), differs(&want, &got));
            tally.add(&got);

            let want = model::tc(&world, slot, &wire, gso);
            match bench.tc(&world, arrival)? {
                Err(error) if is_refusal(&error) && refused_by_tc_test_run(&wire, false) => tally.refused += 1,
                Err(error) => bail!("tc, {}: {error}", what()),
                Ok(got) => {
                    ensure!(got == want, "tc, {}: {}", what(), differs(&want, &got));
                    tally.add(&got);
                    note(&mut world, slot, &wire, gso, &got);
                }
            }
        }
    }
    println!("random_frames_as_on_the_host: {tally:?}");
    ensure!(tally.fast_tc > 100 && tally.fast_xdp > 30 && tally.slow > 500, "too few of a kind: {tally:?}");
    Ok(())
}

/// Makes the tables what the tc program has made of them.
fn note(world: &mut World, slot: Option<u16>, wire: &[u8], gso: bool, outcome: &Outcome) {
    let reason =
        outcome.counts.keys().find_map(|cell| if let Cell::Port(_, reason) = cell { Some(*reason) } else { None });
    let (Some(slot), Some(Reason::Refresh | Reason::SourceMoved), Some(frame)) = (slot, reason, Frame::parse(wire))
    else {
        return;
    };
    let decision = decide(world, slot, &Frame { gso, ..frame });
    match (decision.verdict, decision.fid.get()) {
        (Verdict::Pass(Reason::Refresh), Some(fid)) => world.refreshed(fid, frame.src),
        (Verdict::Pass(Reason::SourceMoved), _) => world.cancel(decision.vid, frame.src),
        _ => {}
    }
}

/// How many of each kind there were.
#[derive(Debug, Default)]
struct Tally {
    fast_tc: u32,
    fast_xdp: u32,
    slow: u32,
    left_by_xdp: u32,
    other: u32,
    reasons: BTreeMap<&'static str, u32>,
    /// By `BPF_PROG_TEST_RUN` itself.
    refused: u32,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        let field = match outcome.verdict {
            crate::bench::TC_REDIRECT => &mut self.fast_tc,
            crate::bench::TC_PASS => &mut self.slow,
            crate::bench::XDP_REDIRECT => &mut self.fast_xdp,
            crate::bench::XDP_PASS => &mut self.left_by_xdp,
            _ => &mut self.other,
        };
        *field += 1;
        for cell in outcome.counts.keys() {
            if let Cell::Port(_, reason) = cell {
                *self.reasons.entry(reason.name()).or_default() += 1;
            }
        }
    }
}
