//! Logical ports: frames that come in or leave with a VLAN device's tag in front, at the device below it.
//!
//! What is expected is put together step by step: take the VLAN device's tag off, let the bridge do what it does with the
//! rest (as [`crate::model`] has it for any other port), put the egress VLAN device's tag in front.

use anyhow::{Result, ensure};
use bridge_common::{
    frame::{ETH_P_8021AD, ETH_P_8021Q, Tag as OuterTag},
    maps::{PARENT, Port, logical_key, port_flags, set_bit},
    reason::Reason,
};
use bridge_user::datapath::counters::{self, Served};
use xbr_tests::frame::{ETHERTYPE_LAB, Tag, describe};

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, Counts, Outcome, TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, with_tag},
    frames::{TCP, frame, ipv4, ipv6, payload, plain},
    model::{End, tc_outcome},
    world::{HERE, PVID, TAGGED, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("logical_every_combination", every_combination),
    ("logical_other_vlans_are_none_of_ours", other_vlans),
    ("logical_short_frames", short_frames),
    ("logical_protocols", protocols),
    ("logical_lease_and_slow_port", lease_and_slow_port),
];

/// The VLAN of the logical port, of both tag protocols.
const VLAN: u16 = 100;

/// Makes the stranger the parent of logical ports: VLAN 100 of either protocol is the port in slot HERE.
fn prepare(bench: &mut Bench) -> Result<u32> {
    let parent = bench.stranger;
    bench.tables.put_device(parent, PARENT)?;
    for tpid in [ETH_P_8021Q, ETH_P_8021AD] {
        bench.tables.put_logical(logical_key(parent, OuterTag::new(tpid, VLAN)), HERE)?;
    }
    Ok(parent)
}

fn arrival(wire: &[u8], ifindex: u32) -> Arrival<'_> {
    Arrival { wire, ifindex, gso: false, untouched: false }
}

/// The frame without its first tag, and what else it says.
fn without_first_tag(wire: &[u8]) -> Vec<u8> {
    [&wire[..12], &wire[16..]].concat()
}

/// What the tc program should make of `wire`, whose first tag is a logical port's if `logical`.
fn expected(world: &World, wire: &[u8], logical: bool) -> Outcome {
    let inside = if logical { without_first_tag(wire) } else { wire.to_vec() };
    let mut outcome = crate::model::tc(world, Some(HERE), &inside, false);
    if outcome.verdict == TC_REDIRECT {
        outcome.wire = with_tag(&outcome.wire, world.ports[&THERE].outer_tag());
    } else {
        outcome.wire = wire.to_vec();
    }
    outcome
}

/// What the XDP program should make of a frame that it has nothing against.
fn expected_by_xdp(by_tc: &Outcome, wire: &[u8]) -> Outcome {
    if by_tc.verdict != TC_REDIRECT {
        return Outcome { verdict: XDP_PASS, wire: wire.to_vec(), counts: Counts::new() };
    }
    let counts = by_tc.counts.iter().map(|(cell, count)| match cell {
        Cell::Port(slot, Reason::ForwardedTc) => (Cell::Port(*slot, Reason::ForwardedXdp), *count),
        other @ (Cell::Port(..) | Cell::Fast(_) | Cell::Slow(_)) => (*other, *count),
    });
    Outcome { verdict: XDP_REDIRECT, wire: by_tc.wire.clone(), counts: counts.collect() }
}

/// Both programs do with the frame what is expected, and what left by the parent is counted as sent.
fn check(bench: &mut Bench, world: &World, wire: &[u8], ifindex: u32, logical: bool) -> Result<bool> {
    let name = || {
        let outer = world.ports[&THERE].outer_tag();
        format!("{}, leaves with {outer:x?}, aware {}", describe(wire), world.ports[&HERE].tpid != 0)
    };
    let want = expected(world, wire, logical);
    let fast = want.verdict == TC_REDIRECT;
    let sent = counters::sent(&bench.tables, &Served::read(&bench.tables), THERE)?.packets;
    let got = bench.tc(world, arrival(wire, ifindex))??;
    ensure!(got == want, "tc: {}:\n got {got:x?}\nwant {want:x?}", name());
    // The bench runs the tc program twice for one outcome.
    let by_parent = u64::from(fast && world.ports[&THERE].outer != 0);
    ensure!(
        counters::sent(&bench.tables, &Served::read(&bench.tables), THERE)?.packets == sent + 2 * by_parent,
        "tc: sent: {}",
        name()
    );
    let want = expected_by_xdp(&want, wire);
    let got = bench.xdp(world, arrival(wire, ifindex))??;
    ensure!(got == want, "xdp: {}:\n got {got:x?}\nwant {want:x?}", name());
    ensure!(
        counters::sent(&bench.tables, &Served::read(&bench.tables), THERE)?.packets == sent + 3 * by_parent,
        "xdp: sent: {}",
        name()
    );
    Ok(fast)
}

/// Bridges of all kinds, whose egress port is left in each way.
fn worlds() -> Vec<World> {
    let tagged_pvid = |world: World| world.port(THERE, |port| set_bit(&mut port.untagged, PVID, false));
    let bridges = [World::unaware(), World::aware(), tagged_pvid(World::aware()), World::aware_ad()];
    let outers = [0, Port::pack_outer(ETH_P_8021Q, VLAN), Port::pack_outer(ETH_P_8021Q, PVID)];
    let outers = outers.into_iter().chain([Port::pack_outer(ETH_P_8021AD, 300)]);
    outers
        .flat_map(|outer| bridges.iter().map(move |world| world.clone().port(THERE, |port| port.outer = outer)))
        .collect()
}

fn every_combination(bench: &mut Bench) -> Result<()> {
    let parent = prepare(bench)?;
    let here = bench.device(HERE);
    let dei = Tag { tpid: ETH_P_8021Q, tci: 7 << 13 | 1 << 12 | VLAN };
    let fronts = [None, Some(Tag::q(VLAN)), Some(Tag::q(VLAN).pcp(5)), Some(dei), Some(Tag::ad(VLAN))];
    let insides: [&[Tag]; 10] = [
        &[],
        &[Tag::q(0).pcp(3)],
        &[Tag::q(PVID)],
        &[Tag::q(TAGGED).pcp(2)],
        &[Tag::q(UNTAGGED)],
        &[Tag::q(VLAN)],
        &[Tag::ad(TAGGED)],
        &[Tag::q(TAGGED), Tag::q(7)],
        &[Tag::q(UNTAGGED), Tag::ad(7)],
        &[Tag::ad(0), Tag::q(TAGGED), Tag::q(9)],
    ];
    let (mut fast, mut all) = (0, 0);
    for world in worlds() {
        for front in fronts {
            for inside in insides {
                let tags: Vec<Tag> = front.into_iter().chain(inside.iter().copied()).collect();
                let ifindex = if front.is_some() { parent } else { here };
                fast += u32::from(check(bench, &world, &plain(&tags), ifindex, front.is_some())?);
                all += 1;
            }
        }
    }
    ensure!(fast * 2 > all, "only {fast} of {all} frames are fast: most of this test says nothing");
    Ok(())
}

/// Untagged frames, priority tags and VLANs that are no port pass as they are, and nobody counts them.
fn other_vlans(bench: &mut Bench) -> Result<()> {
    let parent = prepare(bench)?;
    let world = World::unaware();
    let stacks: [&[Tag]; 6] = [
        &[],
        &[Tag::q(0)],
        &[Tag::q(0), Tag::q(VLAN)],
        &[Tag::q(VLAN + 1)],
        &[Tag::ad(7), Tag::q(VLAN)],
        &[Tag::q(4095)],
    ];
    for tags in stacks {
        let wire = plain(tags);
        let got = bench.tc(&world, arrival(&wire, parent))??;
        ensure!(got == Outcome { verdict: TC_PASS, wire: wire.clone(), counts: Counts::new() }, "tc: {got:x?}");
        let got = bench.xdp(&world, arrival(&wire, parent))??;
        ensure!(got == Outcome { verdict: XDP_PASS, wire, counts: Counts::new() }, "xdp: {got:x?}");
    }
    // A logical port that is gone is one of them.
    bench.tables.remove_logical(logical_key(parent, OuterTag::new(ETH_P_8021Q, VLAN)))?;
    let wire = plain(&[Tag::q(VLAN)]);
    let got = bench.tc(&world, arrival(&wire, parent))??;
    ensure!((got.verdict, got.counts.is_empty()) == (TC_PASS, true), "{got:x?}");
    Ok(())
}

/// `skb_vlan_untag` drops a frame that ends less than two bytes behind a tag and its EtherType, also for the tag behind the
/// VLAN device's: nothing so short is forwarded, and what is longer is.
fn short_frames(bench: &mut Bench) -> Result<()> {
    let parent = prepare(bench)?;
    for world in [World::unaware(), World::aware()] {
        for (tags, shortest) in [(&[Tag::q(VLAN), Tag::q(TAGGED)][..], 24), (&[Tag::q(VLAN)][..], 20)] {
            for len in 20..32 {
                let bare = frame(tags, ETHERTYPE_LAB, Vec::new()).len();
                let Some(rest) = usize::checked_sub(len, bare) else { continue };
                let wire = frame(tags, ETHERTYPE_LAB, payload(rest));
                let by_tc = bench.tc(&world, arrival(&wire, parent))??;
                let by_xdp = bench.xdp(&world, arrival(&wire, parent))??;
                if wire.len() < shortest {
                    ensure!((by_tc.verdict, by_xdp.verdict) == (TC_PASS, XDP_PASS), "{} bytes: fast", wire.len());
                    let reasons: Vec<&Cell> = by_tc.counts.keys().collect();
                    ensure!(reasons == [&Cell::Port(HERE, Reason::Truncated)], "{} bytes: {reasons:?}", wire.len());
                } else {
                    check(bench, &world, &wire, parent, true)?;
                }
            }
        }
    }
    Ok(())
}

/// What is looked at behind the tags is found there: neighbour discovery, and TCP, which XDP leaves to tc.
fn protocols(bench: &mut Bench) -> Result<()> {
    let parent = prepare(bench)?;
    let world = World::unaware();
    for tags in [&[Tag::q(VLAN)][..], &[Tag::q(VLAN), Tag::q(TAGGED)][..]] {
        let wire = ipv6(tags, 58, 135);
        let got = bench.tc(&world, arrival(&wire, parent))??;
        let want = Cell::Port(HERE, Reason::NeighbourDiscovery);
        ensure!(got.verdict == TC_PASS && got.counts.contains_key(&want), "{got:x?}");
        ensure!(bench.xdp(&world, arrival(&wire, parent))??.verdict == XDP_PASS, "XDP forwards neighbour discovery");
        let wire = ipv4(tags, TCP, 5);
        ensure!(bench.tc(&world, arrival(&wire, parent))??.verdict == TC_REDIRECT, "TCP is not forwarded by tc");
        ensure!(bench.xdp(&world, arrival(&wire, parent))??.verdict == XDP_PASS, "TCP is not left to tc");
        check(bench, &world, &ipv4(tags, 17, 5), parent, true)?;
    }
    Ok(())
}

fn lease_and_slow_port(bench: &mut Bench) -> Result<()> {
    let parent = prepare(bench)?;
    let wire = plain(&[Tag::q(VLAN)]);
    let late = World::unaware().with(|world| world.lease = 1);
    let slow = World::unaware()
        .unflag(HERE, port_flags::INGRESS)
        .port(HERE, |port| port.slow_reason = Reason::TcFilter as u32);
    for (world, reason) in [(late, Reason::Suspended), (slow, Reason::TcFilter)] {
        let got = bench.tc(&world, arrival(&wire, parent))??;
        let want = tc_outcome(HERE, None, &wire, wire.len() - 4, End::Slow(reason));
        ensure!(got == want, "{reason:?}: {got:x?} instead of {want:x?}");
        ensure!(bench.xdp(&world, arrival(&wire, parent))??.verdict == XDP_PASS, "{reason:?}: XDP forwards");
    }
    Ok(())
}
