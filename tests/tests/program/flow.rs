//! What is decided once for all frames that are alike, and what ends it.

use anyhow::{Result, ensure};
use bridge_common::{
    fdb::pack,
    flow::{Hook, ORIGIN_SHARE, packets_and_bytes},
    frame::{self, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6},
    mac::Mac,
    maps::{FdbKey, Port, bridge_cell, port_flags, set_bit},
    reason::Reason,
};
use bridge_user::datapath::Tables;
use xbr_tests::frame::{ETHERTYPE_LAB, Tag};

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, difference, untag},
    check::bytes,
    frames::{Checksum, between, payload, plain, udp},
    world::{
        AWARE_FID, ELSEWHERE, GONE, HERE, PVID, SENDER, TAGGED, TARGET, THERE, UNAWARE_FID, UNTAGGED, VIDS, World,
        generation_cell, vlan_cell,
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("flow_serves_and_counts", serves_and_counts),
    ("flow_ends_with_every_change", ends_with_every_change),
    ("flow_looks_at_the_length", looks_at_the_length),
    ("flow_looks_at_the_checksum", looks_at_the_checksum),
    ("flow_remembers_what_is_passed", remembers_what_is_passed),
    ("flow_changes_tags_each_time", changes_tags_each_time),
    ("flow_knows_origins", knows_origins),
];

fn arrival<'a>(bench: &Bench, wire: &'a [u8]) -> Arrival<'a> {
    Arrival { wire, ifindex: bench.device(HERE), gso: false, untouched: false }
}

/// Frames served by the flow cache, of this hook.
fn served(tables: &Tables, hook: Hook) -> u64 {
    tables.served().filter(|flow| flow.key.hook() == hook).map(|flow| packets_and_bytes(flow.served).0).sum()
}

fn serves_and_counts(bench: &mut Bench) -> Result<()> {
    let wire = plain(&[]);
    let arrival = arrival(bench, &wire);
    for world in [World::unaware(), World::aware()] {
        bench.install(&world)?;
        let before = bench.counts()?;
        let served_before = [Hook::Tc, Hook::Xdp].map(|hook| served(&bench.tables, hook));
        for _ in 0..5 {
            ensure!(bench.tc_once(arrival, None)??.verdict == TC_REDIRECT);
            ensure!(bench.xdp_in(arrival, 0, wire.len())??.verdict == XDP_REDIRECT);
        }
        let counts = difference(&before, &bench.counts()?);
        for reason in [Reason::ForwardedTc, Reason::ForwardedXdp] {
            let count = counts.get(&Cell::Port(HERE, reason));
            ensure!(count == Some(&(5, 5 * wire.len() as u64)), "{reason:?}: {count:?}");
        }
        let now = [Hook::Tc, Hook::Xdp].map(|hook| served(&bench.tables, hook));
        // A decision is made anew after a few ticks, in which at most all of it happens again.
        ensure!(now.iter().any(|count| *count > 0), "served before {served_before:?}, now {now:?}");
    }
    Ok(())
}

/// One change of the tables.
type Change = fn(&mut Bench, fid: u16, vid: u16) -> Result<()>;

const CHANGES: [(&str, Change); 10] = [
    ("the lease ends", |bench, _, _| {
        bench.tables.lease(0);
        Ok(())
    }),
    ("the ingress port closes", |bench, _, _| Ok(bench.tables.put_port(HERE, &Port::EMPTY)?)),
    ("the egress port closes", |bench, _, _| Ok(bench.tables.put_port(THERE, &Port::EMPTY)?)),
    ("the device is forgotten", |bench, _, _| {
        let device = bench.device(HERE);
        Ok(bench.tables.remove_device(device)?)
    }),
    ("the source is cancelled", |bench, _, vid| {
        bench.tables.cancel(generation_cell(SENDER, vid), 1);
        Ok(())
    }),
    ("the destination is cancelled", |bench, _, vid| {
        bench.tables.cancel(generation_cell(TARGET, vid), 1);
        Ok(())
    }),
    ("the ingress port is in doubt", |bench, _, _| {
        bench.tables.distrust(u32::from(HERE));
        Ok(())
    }),
    ("the egress port is in doubt", |bench, _, _| {
        bench.tables.distrust(u32::from(THERE));
        Ok(())
    }),
    ("the bridge is in doubt", |bench, fid, _| {
        bench.tables.distrust(bridge_cell(fid));
        Ok(())
    }),
    ("the policy changes", |bench, _, _| {
        bench.tables.confirm_policy(1);
        bench.tables.end_decisions();
        Ok(())
    }),
];

fn ends_with_every_change(_bench: &mut Bench) -> Result<()> {
    let wire = plain(&[]);
    for (name, change) in CHANGES {
        for (world, fid, vid) in [(World::unaware(), UNAWARE_FID, 0), (World::aware(), AWARE_FID, PVID)] {
            // Its own tables: not every change can be taken back.
            let mut bench = Bench::new()?;
            bench.install(&world)?;
            let arrival = arrival(&bench, &wire);
            for _ in 0..2 {
                ensure!(bench.tc_once(arrival, None)??.verdict == TC_REDIRECT, "{name}: before");
                ensure!(bench.xdp_in(arrival, 0, wire.len())??.verdict == XDP_REDIRECT, "{name}: before");
            }
            change(&mut bench, fid, vid)?;
            let (tc, xdp) = (bench.tc_once(arrival, None)??.verdict, bench.xdp_in(arrival, 0, wire.len())??.verdict);
            ensure!((tc, xdp) == (TC_PASS, XDP_PASS), "{name}: tc {tc}, XDP {xdp}");
        }
    }
    Ok(())
}

/// All frames of a flow but the longest are fast, whichever comes first.
fn looks_at_the_length(bench: &mut Bench) -> Result<()> {
    let world = World::unaware();
    bench.install(&world)?;
    let longest = world.ports[&THERE].max_len as usize;
    for len in [64, longest + 1, longest, longest + 1, 64] {
        let mut wire = plain(&[]);
        wire.resize(len, 0);
        let arrival = arrival(bench, &wire);
        let (tc, xdp) = (bench.tc_once(arrival, None)??.verdict, bench.xdp_in(arrival, 0, len)??.verdict);
        let expected = if len > longest { (TC_PASS, XDP_PASS) } else { (TC_REDIRECT, XDP_REDIRECT) };
        ensure!((tc, xdp) == expected, "{len} bytes: tc {tc}, XDP {xdp}");
    }
    Ok(())
}

/// On a virtual device, UDP of one flow goes by XDP or not, frame by frame, whichever comes first.
fn looks_at_the_checksum(bench: &mut Bench) -> Result<()> {
    use Checksum::{Unfinished, Whole};
    for tagged in [false, true] {
        let tags = if tagged { &[Tag::q(TAGGED)][..] } else { &[][..] };
        let world = if tagged { World::aware() } else { World::unaware() };
        bench.install(&world.flag(HERE, port_flags::VIRTUAL_XDP))?;
        for ethertype in [ETH_P_IP, ETH_P_IPV6] {
            let l4 = 14 + 4 * tags.len() + if ethertype == ETH_P_IP { 20 } else { 40 };
            let to_a_tunnel = |mut wire: Vec<u8>| {
                wire[l4 + 2..l4 + 4].copy_from_slice(&4789_u16.to_be_bytes());
                wire
            };
            let without = |mut wire: Vec<u8>| {
                wire[l4 + 6..l4 + 8].fill(0);
                wire
            };
            let whole = udp(tags, ethertype, Whole);
            let unfinished = udp(tags, ethertype, Unfinished);
            let mut cut = whole.clone();
            cut.truncate(l4 + 6);
            for (name, wire, goes) in [
                ("whole", &whole, true),
                ("unfinished", &unfinished, false),
                ("whole again", &whole, true),
                ("none", &without(whole.clone()), true),
                ("to a tunnel", &to_a_tunnel(whole.clone()), false),
                ("cut", &cut, false),
                ("whole at last", &whole, true),
            ] {
                let verdict = bench.xdp_in(arrival(bench, wire), 0, wire.len())??.verdict;
                let expected = if goes { XDP_REDIRECT } else { XDP_PASS };
                ensure!(verdict == expected, "{name}, tagged {tagged}, {ethertype:04x}: {verdict}");
            }
        }
    }
    Ok(())
}

/// Frames that are left to the bridge are counted by their reason all the same, until they need not be.
fn remembers_what_is_passed(bench: &mut Bench) -> Result<()> {
    let wire = plain(&[]);
    for (world, fid, vid) in [(World::unaware(), UNAWARE_FID, 0), (World::aware(), AWARE_FID, PVID)] {
        bench.install(&world)?;
        let arrival = arrival(bench, &wire);
        let key = FdbKey::new(fid + vid, TARGET);
        bench.tables.remove_fdb(key);
        bench.tables.end_decisions_in(vid);
        let mut remembered = false;
        // Where the machine is slow, a cell may be too old when the next frame comes.
        for _ in 0..20 {
            let before = bench.counts()?;
            let served_before = served(&bench.tables, Hook::Tc);
            for _ in 0..5 {
                ensure!(bench.tc_once(arrival, None)??.verdict == TC_PASS);
                ensure!(bench.xdp_in(arrival, 0, wire.len())??.verdict == XDP_PASS);
            }
            let counts = difference(&before, &bench.counts()?);
            // By tc alone: XDP counts what it sends.
            let all = Some(&(5, 5 * wire.len() as u64));
            ensure!(counts.get(&Cell::Port(HERE, Reason::DestinationUnknown)) == all, "{counts:?}");
            ensure!(counts.get(&Cell::Slow(vlan_cell(fid + vid))) == all, "{counts:?}");
            remembered = served(&bench.tables, Hook::Tc) > served_before;
            if remembered {
                break;
            }
        }
        ensure!(remembered, "nothing was remembered");

        let generation = bench.tables.generation(generation_cell(TARGET, vid));
        let data = pack(THERE, 0, generation);
        ensure!(bench.tables.put_fdb(key, data, u64::MAX), "the FDB has room");
        bench.tables.end_decisions_in(vid);
        ensure!(bench.tc_once(arrival, None)??.verdict == TC_REDIRECT);
        ensure!(bench.xdp_in(arrival, 0, wire.len())??.verdict == XDP_REDIRECT);
    }
    Ok(())
}

/// What happens to the tags happens to every frame of a flow, and to those of other flows from the same station.
fn changes_tags_each_time(bench: &mut Bench) -> Result<()> {
    let pushing = World::aware().port(THERE, |port| set_bit(&mut port.untagged, PVID, false));
    let q = |tci| vec![Tag { tpid: ETH_P_8021Q, tci }];
    for (name, world, came, leaves) in [
        ("push", &pushing, vec![], q(PVID)),
        ("pop", &World::aware(), q(UNTAGGED), vec![]),
        ("retag", &pushing, q(0x6000), q(0x6000 | PVID)),
        ("keep", &World::aware(), q(TAGGED), q(TAGGED)),
    ] {
        let other = Mac::new([2, 0x70, 0, 0, 0, 9]);
        let world = VIDS.into_iter().fold(world.clone(), |world, vid| world.station(vid, other, THERE));
        bench.install(&world)?;
        for round in 0..ORIGIN_SHARE + 2 {
            for dst in [TARGET, other] {
                let wire = between(SENDER, dst, &came, ETHERTYPE_LAB, payload(50));
                let want = between(SENDER, dst, &leaves, ETHERTYPE_LAB, payload(50));
                let arrival = arrival(bench, &wire);
                let got = bench.xdp_in(arrival, 0, wire.len())??;
                ensure!(got.verdict == XDP_REDIRECT, "{name}, round {round}: XDP {}", got.verdict);
                ensure!(got.wire == want, "{name}, round {round}: XDP {}", bytes(&got.wire));
                let after = leaves.first().map(|tag| frame::Tag::new(tag.tpid, tag.tci));
                let got = bench.tc_once(arrival, after)??;
                ensure!(got.verdict == TC_REDIRECT, "{name}, round {round}: tc {}", got.verdict);
                ensure!(untag(&got.wire).1 == untag(&want).1, "{name}, round {round}: tc {}", bytes(&got.wire));
            }
        }
    }
    Ok(())
}

/// Of a frame from a station that has just sent another one, only the destination is looked up: as it is now.
fn knows_origins(bench: &mut Bench) -> Result<()> {
    const STATIONS: u8 = 40;
    let station = |number: u8| Mac::new([2, 0x70, 0, 2, 0, number]);
    for (world, fid, vid) in [(World::unaware(), UNAWARE_FID, 0), (World::aware(), AWARE_FID, PVID)] {
        // By their numbers: at one port or another, at that of the sender, at one that takes nothing, or nowhere.
        let at = |number: u8| [Some(THERE), Some(ELSEWHERE), Some(HERE), Some(GONE), None][usize::from(number % 5)];
        let closed = world.unflag(GONE, port_flags::EGRESS);
        let world = (0..STATIONS).fold(closed, |world, number| match at(number) {
            Some(slot) => world.station(vid, station(number), slot),
            None => world,
        });
        bench.install(&world)?;
        let before = bench.counts()?;
        let mut fast = 0;
        let send = |bench: &mut Bench, number: u8| -> Result<(u32, u32)> {
            let wire = between(SENDER, station(number), &[], ETHERTYPE_LAB, payload(50));
            let arrival = arrival(bench, &wire);
            Ok((bench.tc_once(arrival, None)??.verdict, bench.xdp_in(arrival, 0, wire.len())??.verdict))
        };
        let mut by_origin = 0;
        for number in (0..STATIONS).cycle().take(400) {
            let goes = matches!(at(number), Some(THERE | ELSEWHERE));
            let want = if goes { (TC_REDIRECT, XDP_REDIRECT) } else { (TC_PASS, XDP_PASS) };
            let got = send(bench, number)?;
            ensure!(got == want, "station {number}: tc and XDP {got:?}");
            fast += u64::from(goes);
            let origins = bench.tables.served().filter(|flow| flow.key == flow.key.origin());
            by_origin = by_origin.max(origins.map(|flow| packets_and_bytes(flow.served).0).max().unwrap_or(0));
        }
        ensure!(by_origin > 1, "nothing was served by an origin");
        let counts = difference(&before, &bench.counts()?);
        for reason in [Reason::ForwardedTc, Reason::ForwardedXdp] {
            let counted = counts.get(&Cell::Port(HERE, reason)).map(|count| count.0);
            ensure!(counted == Some(fast), "{reason:?}: {counted:?} of {fast}");
        }
        ensure!(counts.get(&Cell::Fast(vlan_cell(fid + vid))).map(|count| count.0) == Some(2 * fast), "{counts:?}");

        // The entry is gone, or void, although nobody has said so to the cache.
        let (gone, void) = (station(5), station(11));
        for mac in [gone, void] {
            let data = pack(THERE, 0, bench.tables.generation(generation_cell(mac, vid)));
            ensure!(bench.tables.put_fdb(FdbKey::new(fid + vid, mac), data, u64::MAX), "the FDB has room");
        }
        bench.tables.end_decisions();
        // The first goes all the way, and fills the cell of the origin.
        for number in [0, 1, 6] {
            ensure!(send(bench, number)? == (TC_REDIRECT, XDP_REDIRECT), "station {number}");
        }
        bench.tables.remove_fdb(FdbKey::new(fid + vid, gone));
        ensure!(send(bench, 5)? == (TC_PASS, XDP_PASS), "a station that is gone");
        let data = pack(THERE, 0, bench.tables.generation(generation_cell(void, vid)).wrapping_add(1));
        ensure!(bench.tables.put_fdb(FdbKey::new(fid + vid, void), data, u64::MAX), "the FDB has room");
        ensure!(send(bench, 11)? == (TC_PASS, XDP_PASS), "a station whose entry is void");
    }
    Ok(())
}
