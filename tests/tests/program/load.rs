//! The programs as the kernel loaded them, and the stub that stands in front where tc has no links.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{MapData, ProgramArray};
use bridge_common::reason::Reason;
use bridge_user::datapath::{Programs, load};

use crate::{
    Test,
    bench::{Bench, Cell, TC_PASS, TC_REDIRECT, difference},
    bpf::{SKB_WORDS, skb, test_run},
    frames::plain,
    world::{HERE, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("load_instructions", instructions),
    ("load_stub_calls_the_program", stub_calls),
    ("load_stub_outlives_its_owner", stub_outlives),
];

/// How much the verifier had to look at is printed, not asserted.
pub(crate) fn instructions(bench: &mut Bench) -> Result<()> {
    for (name, program) in bench.programs.ebpf.programs() {
        if program.fd().is_err() {
            println!("load_instructions: {name}: not loaded on this kernel");
            continue;
        }
        let info = program.info()?;
        let verified = info.verified_instruction_count().map_or("?".to_owned(), |count| count.to_string());
        let translated = info.size_translated().map_or("?".to_owned(), |bytes| (bytes / 8).to_string());
        println!("load_instructions: {name}: {translated} instructions, {verified} verified");
    }
    Ok(())
}

/// The stub's descriptor, and the map behind it if it was not armed by the loader.
struct Stub {
    program: OwnedFd,
    tail: Option<ProgramArray<MapData>>,
}

fn stub(programs: &mut Programs) -> Result<Stub> {
    let failed = |failure| anyhow!("{failure}");
    let tail = match programs.ebpf.take_map("xbr_tail") {
        // Taken by the loader, as this kernel has no tcx.
        None => None,
        Some(map) => {
            load::classifier(&mut programs.ebpf, "xbr_stub").map_err(failed)?.load()?;
            Some(map.try_into()?)
        }
    };
    ensure!(tail.is_some() == programs.tcx, "the loader arms the stub where it is needed, and nowhere else");
    let program = load::classifier(&mut programs.ebpf, "xbr_stub").map_err(|failure| anyhow!("{failure}"))?;
    Ok(Stub { program: program.fd()?.as_fd().try_clone_to_owned()?, tail })
}

fn arm(stub: &mut Stub, programs: &mut Programs) -> Result<()> {
    let Some(tail) = &mut stub.tail else { return Ok(()) };
    let target = load::classifier(&mut programs.ebpf, "xbr_tc").map_err(|failure| anyhow!("{failure}"))?;
    tail.set(0, target.fd()?, 0).context("arm the stub")
}

fn run(stub: &Stub, ifindex: u32, wire: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut context = [0; SKB_WORDS];
    context[skb::IFINDEX] = ifindex;
    let ran = test_run(stub.program.as_fd(), wire, &context, 1)?;
    Ok((ran.verdict, ran.data))
}

fn stub_calls(bench: &mut Bench) -> Result<()> {
    let wire = plain(&[]);
    let here = bench.device(HERE);
    bench.install(&World::unaware())?;
    let mut stub = stub(&mut bench.programs)?;
    let before = bench.counts()?;
    if stub.tail.is_some() {
        ensure!(run(&stub, here, &wire)? == (TC_PASS, wire.clone()), "the stub passes while nothing is behind it");
        ensure!(difference(&before, &bench.counts()?).is_empty(), "and nobody counts");
    }
    arm(&mut stub, &mut bench.programs)?;
    ensure!(run(&stub, here, &wire)? == (TC_REDIRECT, wire.clone()), "the stub calls the program");
    ensure!(run(&stub, bench.stranger, &wire)? == (TC_PASS, wire.clone()), "which sees the real device");
    let counted = difference(&before, &bench.counts()?);
    let want = [
        (Cell::Port(0, Reason::UnknownPort), (1, 64)),
        (Cell::Port(HERE, Reason::ForwardedTc), (1, 64)),
        (Cell::Fast(1), (1, 64)),
    ];
    ensure!(counted == want.into(), "counted {counted:?} instead of {want:?}");
    Ok(())
}

/// A filter of the stub stays attached when its process dies. It must pass everything then: the kernel empties the map.
fn stub_outlives(_: &mut Bench) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(5);
    let wire = plain(&[]);
    let mut owner = Bench::new()?;
    let here = owner.device(HERE);
    owner.install(&World::unaware())?;
    let mut stub = stub(&mut owner.programs)?;
    arm(&mut stub, &mut owner.programs)?;
    ensure!(run(&stub, here, &wire)?.0 == TC_REDIRECT, "the stub calls the program while the owner lives");
    drop(owner);
    stub.tail = None;
    // The map is emptied by a worker of the kernel.
    let start = Instant::now();
    while run(&stub, here, &wire)? != (TC_PASS, wire.clone()) {
        ensure!(start.elapsed() < LIMIT, "the stub still calls the program of an owner who is gone");
        thread::sleep(Duration::from_millis(1));
    }
    println!("load_stub_outlives_its_owner: passes after {:?}", start.elapsed());
    Ok(())
}
