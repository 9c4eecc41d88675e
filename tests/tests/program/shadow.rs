//! Shadow mode: every frame is passed as it came, and what is written down of it is what the fast path would have sent.

use anyhow::{Result, anyhow, ensure};
use bridge_common::{
    maps::set_bit,
    reason::{Class, Reason},
    shadow::HEAD,
};
use bridge_user::{
    clock,
    datapath::{
        Entries,
        shadow::{Flights, SETTLED},
    },
    shadow::judge::Wire,
};
use xbr_tests::frame::Tag;

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, TC_PASS, TC_REDIRECT},
    frames::{plain, sized},
    load,
    world::{HERE, PVID, TAGGED, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("shadow_instructions", instructions),
    ("shadow_passes_and_writes_down", passes_and_writes_down),
    ("shadow_leaves_slow_frames_alone", leaves_slow_frames_alone),
    ("shadow_takes_a_sample", takes_a_sample),
];

fn shadow(sample: u32) -> Result<(Bench, Flights)> {
    let mut bench = Bench::with(Entries::Shadow { sample })?;
    let flights = Flights::take(&mut bench.programs.ebpf).map_err(|failure| anyhow!("{failure}"))?;
    Ok((bench, flights))
}

fn ripe() -> u64 {
    clock::now() + SETTLED + 1
}

fn instructions(_: &mut Bench) -> Result<()> {
    load::instructions(&mut shadow(1)?.0)
}

/// Frames that the fast path takes: every change of the tag, every length that is kept in another way.
fn forwarded() -> Vec<(World, Vec<u8>)> {
    let tagged_pvid = || World::aware().port(THERE, |port| set_bit(&mut port.untagged, PVID, false));
    let mut frames = Vec::new();
    for len in [60, 124, 128, 132, 150, 192, 193, 500, 1514] {
        frames.push((World::unaware(), sized(&[], len)));
        frames.push((World::unaware(), sized(&[Tag::q(7).pcp(3)], len)));
        frames.push((tagged_pvid(), sized(&[], len)));
        frames.push((tagged_pvid(), sized(&[Tag::q(0).pcp(5)], len)));
        frames.push((World::aware(), sized(&[Tag::q(0).pcp(5)], len)));
        frames.push((World::aware(), sized(&[Tag::q(UNTAGGED).pcp(2)], len)));
        frames.push((World::aware(), sized(&[Tag::q(TAGGED)], len)));
        frames.push((World::aware(), sized(&[Tag::q(UNTAGGED), Tag::q(9)], len)));
    }
    frames.push((World::unaware(), sized(&[], 14)));
    frames
}

fn passes_and_writes_down(bench: &mut Bench) -> Result<()> {
    let (mut shadowed, mut flights) = shadow(1)?;
    let here = bench.device(HERE);
    for (world, wire) in forwarded() {
        let what = format!("{} bytes: {:02x?}", wire.len(), &wire[..wire.len().min(24)]);
        let arrival = Arrival { wire: &wire, ifindex: here, gso: false, untouched: false };
        let fast = bench.tc(&world, arrival)??;
        ensure!(fast.verdict == TC_REDIRECT, "{what}: verdict {} of the fast path", fast.verdict);
        let passed = shadowed.tc(&world, arrival)??;
        ensure!(passed.verdict == TC_PASS && passed.wire == wire, "{what}: {passed:?}");
        ensure!(passed.counts.keys().any(|cell| *cell == Cell::Port(HERE, Reason::WouldForward)), "{what}: {passed:?}");
        let counted_fast = |cell: &Cell| match cell {
            Cell::Port(_, reason) => reason.class() == Class::Fast,
            Cell::Fast(_) => true,
            Cell::Slow(_) => false,
        };
        ensure!(!passed.counts.keys().any(counted_fast), "{what}: {passed:?}");
        // The second run is the bench's, which looks what became of the tag.
        let written = flights.harvest(ripe());
        ensure!(!written.is_empty(), "{what}: nothing was written down");
        for flight in written {
            let (received, expected) = (Wire::of(&flight.arrived), Wire::expected(&flight));
            ensure!((flight.expected, flight.slot) == (bench.device(THERE), u32::from(HERE)), "{what}: {flight:?}");
            for (frame, bytes) in [(received, &wire), (expected, &fast.wire)] {
                ensure!(
                    frame.length as usize == bytes.len(),
                    "{what}: {} bytes instead of {}",
                    frame.length,
                    bytes.len()
                );
                // A tag in metadata makes room for four bytes less in the head when it is taken off.
                let kept = frame.head.len();
                ensure!(kept >= bytes.len().min(HEAD - 4) && frame.head == bytes[..kept], "{what}: {frame:?}");
            }
            let at = flight.window_at as usize;
            let bytes = [&wire[..12], &wire[wire.len() - flight.arrived.len as usize + 12..]].concat();
            ensure!((at == 0) == (bytes.len() <= HEAD), "{what}: a window at {at}");
            ensure!(at == 0 || flight.arrived.window == bytes[at..at + 64], "{what}: the window at {at}");
        }
    }
    ensure!(flights.no_room() == 0, "records were lost");
    Ok(())
}

fn leaves_slow_frames_alone(bench: &mut Bench) -> Result<()> {
    let (mut shadowed, mut flights) = shadow(1)?;
    let ifindex = bench.device(HERE);
    let wire = plain(&[Tag::q(TAGGED)]);
    let arrival = Arrival { wire: &wire, ifindex, gso: false, untouched: false };
    for world in [World::aware().port(THERE, |port| port.flags = 0), World { lease: 0, ..World::aware() }] {
        let (slow, passed) = (bench.tc(&world, arrival)??, shadowed.tc(&world, arrival)??);
        ensure!(slow == passed && passed.verdict == TC_PASS, "{slow:?} and {passed:?}");
    }
    ensure!(flights.harvest(ripe()).is_empty(), "a frame was followed that is the bridge's");
    Ok(())
}

fn takes_a_sample(bench: &mut Bench) -> Result<()> {
    const FRAMES: usize = 2000;
    const SAMPLE: usize = 10;
    let (mut shadowed, mut flights) = shadow(u32::try_from(SAMPLE)?)?;
    let wire = plain(&[]);
    let arrival = Arrival { wire: &wire, ifindex: bench.device(HERE), gso: false, untouched: false };
    shadowed.install(&World::unaware())?;
    for _ in 0..FRAMES {
        shadowed.tc_once(arrival, None)??;
    }
    let now = clock::now();
    let early = flights.harvest(now);
    ensure!(early.iter().all(|flight| flight.at + SETTLED <= now), "a flight was taken before it had settled");
    let taken = early.len() + flights.harvest(ripe()).len();
    println!("shadow_takes_a_sample: {taken} of {FRAMES}");
    // Seven standard deviations around 200: less than one false alarm in a hundred billion runs.
    ensure!((105..=295).contains(&taken), "{taken} of {FRAMES} frames with a sample of one in {SAMPLE}");
    Ok(())
}
