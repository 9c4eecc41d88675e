//! The ingress port and the lease.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use bridge_common::{
    decide::Edit,
    mac::Mac,
    maps::{Port, port_flags},
    reason::Reason,
};
use xbr_tests::frame::{BROADCAST, ETHERTYPE_LAB};

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT},
    check::{Row, check, fast, slow},
    frames::{between, payload, plain},
    world::{HERE, SENDER, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("ports_ingress_table", ingress),
    ("ports_lease_runs_out", lease_runs_out),
    ("ports_counters_add_up", counters_add_up),
];

/// What a port may be slow for.
const SLOW: [Reason; 13] = [
    Reason::TurnedOff,
    Reason::PortState,
    Reason::PortFeature,
    Reason::BridgeFeature,
    Reason::Netfilter,
    Reason::TcFilter,
    Reason::ForeignXdp,
    Reason::BridgePromisc,
    Reason::VlanUpper,
    Reason::RxVlanOffload,
    Reason::TableFull,
    Reason::NotSelected,
    Reason::NoHook,
];

fn slow_port(reason: u32) -> World {
    World::unaware().unflag(HERE, port_flags::INGRESS).port(HERE, |port| port.slow_reason = reason)
}

fn ingress(bench: &mut Bench) -> Result<()> {
    let frame = plain(&[]);
    let lease = |until: u64| World::unaware().with(|world| world.lease = until);
    let broadcast = between(SENDER, Mac::new(BROADCAST), &[], ETHERTYPE_LAB, payload(46));
    let mut rows = vec![
        fast("plain", World::unaware(), &frame, 0, Edit::Keep),
        slow("unknown port", World::unaware(), &frame, None, Reason::UnknownPort).at_stranger(),
        slow("unknown port without a lease", lease(0), &frame, None, Reason::UnknownPort).at_stranger(),
        slow("no lease", lease(0), &frame, None, Reason::Suspended),
        slow("lease expired long ago", lease(1), &frame, None, Reason::Suspended),
        slow("empty slot", World::unaware().port(HERE, |port| *port = Port::EMPTY), &frame, None, Reason::UnknownPort),
        slow("slow for a reason that is none", slow_port(63), &frame, None, Reason::Inconsistent),
        slow("slow for a number beyond a byte", slow_port(255), &frame, None, Reason::Inconsistent),
        slow(
            "a slow port looks at no address",
            slow_port(Reason::Netfilter as u32),
            &broadcast,
            None,
            Reason::Netfilter,
        ),
        slow(
            "slow port without a lease",
            slow_port(Reason::Netfilter as u32).with(|world| world.lease = 0),
            &frame,
            None,
            Reason::Suspended,
        ),
        fast(
            "egress of the ingress port is not asked",
            World::unaware().unflag(HERE, port_flags::EGRESS),
            &frame,
            0,
            Edit::Keep,
        ),
    ];
    rows.extend(SLOW.map(|reason| -> Row {
        slow(format!("slow port: {}", reason.name()), slow_port(reason as u32), &frame, None, reason)
    }));
    check(bench, &rows)
}

fn lease_runs_out(bench: &mut Bench) -> Result<()> {
    const LEASE: Duration = Duration::from_millis(300);
    let wire = plain(&[]);
    let arrival = Arrival { wire: &wire, ifindex: bench.device(HERE), gso: false, untouched: false };
    let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?);
    let world = World::unaware().with(|world| world.lease = u64::try_from((now + LEASE).as_nanos()).unwrap_or(0));
    bench.install(&world)?;
    let verdicts = |bench: &mut Bench| -> Result<(u32, u32)> {
        Ok((bench.tc_once(arrival, None)??.verdict, bench.xdp_in(arrival, 0, wire.len())??.verdict))
    };
    let before = verdicts(bench)?;
    thread::sleep(LEASE + Duration::from_millis(50));
    let after = verdicts(bench)?;
    ensure!(before == (TC_REDIRECT, XDP_REDIRECT), "with a lease: {before:?}");
    ensure!(after == (TC_PASS, XDP_PASS), "300 ms later: {after:?}");
    Ok(())
}

/// Several frames of several kinds: every one is in one cell of its port and, if classified, of its VLAN.
fn counters_add_up(bench: &mut Bench) -> Result<()> {
    let known = plain(&[]);
    let unknown = between(SENDER, Mac::new([2, 0x70, 0, 0, 0, 0x99]), &[], ETHERTYPE_LAB, payload(100));
    let broadcast = between(SENDER, Mac::new(BROADCAST), &[], ETHERTYPE_LAB, payload(46));
    bench.install(&World::unaware())?;
    let before = bench.counts()?;
    for round in 0..10 {
        for (every, wire) in [(1, &known), (2, &unknown), (5, &broadcast)] {
            if round % every == 0 {
                let arrival = Arrival { wire, ifindex: bench.device(HERE), gso: false, untouched: false };
                bench.tc_once(arrival, None)??;
            }
        }
    }
    let arrival = Arrival { wire: &known, ifindex: bench.device(HERE), gso: false, untouched: false };
    for _ in 0..3 {
        bench.xdp_in(arrival, 0, known.len())??;
    }
    let counted = crate::bench::difference(&before, &bench.counts()?);
    let want = [
        (Cell::Port(HERE, Reason::ForwardedTc), (10, 640)),
        (Cell::Port(HERE, Reason::ForwardedXdp), (3, 192)),
        (Cell::Port(HERE, Reason::DestinationUnknown), (5, 570)),
        (Cell::Port(HERE, Reason::Broadcast), (2, 120)),
        (Cell::Fast(1), (13, 832)),
        (Cell::Slow(1), (5, 570)),
    ];
    ensure!(counted == want.into(), "counted {counted:?} instead of {want:?}");
    Ok(())
}
