//! What the XDP program leaves to the tc program although the decision is to send it on.

use anyhow::{Result, ensure};
use bridge_common::{
    decide::Edit,
    frame::{ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, Tag as OuterTag},
    maps::{port_flags, set_bit},
};
use xbr_tests::frame::Tag;

use crate::{
    Test,
    bench::{Arrival, Bench, XDP_PASS, XDP_REDIRECT},
    check::{Row, check, fast, tc_only},
    frames::{Checksum, ICMP, ICMPV6, SCTP, TCP, UDP, ipv4, ipv6, plain, sized, udp},
    model::{edited, is_refusal},
    world::{HERE, PVID, TAGGED, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] =
    &[("xdp_hand_over", hand_over), ("xdp_headroom", headroom), ("xdp_several_buffers", several_buffers)];

/// The frame with another UDP destination port over IPv4, behind `tags` tags. The checksum is as wrong as any, not unfinished.
fn to_port(port: u16, mut wire: Vec<u8>, tags: usize) -> Vec<u8> {
    let at = 14 + 4 * tags + 20 + 2;
    wire[at..at + 2].copy_from_slice(&port.to_be_bytes());
    wire
}

fn hand_over(bench: &mut Bench) -> Result<()> {
    let nic = |tagged: bool| if tagged { World::aware() } else { World::unaware() };
    let on_veth = |tagged: bool| nic(tagged).flag(HERE, port_flags::VIRTUAL_XDP);
    let mut rows = Vec::new();
    for tagged in [false, true] {
        let (tags, vid) = if tagged { (&[Tag::q(TAGGED)][..], TAGGED) } else { (&[][..], 0) };
        let name = |what: &str| format!("{what}{}", if tagged { ", tagged" } else { "" });
        let xdp = |what: &str, world: World, wire: &[u8]| -> Row { fast(name(what), world, wire, vid, Edit::Keep) };
        let tc = |what: &str, world: World, wire: &[u8]| -> Row { tc_only(name(what), world, wire, vid, Edit::Keep) };
        rows.extend([
            tc("TCP", nic(tagged), &ipv4(tags, TCP, 5)),
            tc("TCP over IPv6", nic(tagged), &ipv6(tags, TCP, 1)),
            tc("IPv4 options", nic(tagged), &ipv4(tags, UDP, 6)),
            tc("IPv4 with all options", nic(tagged), &ipv4(tags, ICMP, 15)),
            xdp("UDP", nic(tagged), &ipv4(tags, UDP, 5)),
            xdp("UDP over IPv6", nic(tagged), &ipv6(tags, UDP, 1)),
            xdp("ICMP", nic(tagged), &ipv4(tags, ICMP, 5)),
            xdp("SCTP", nic(tagged), &ipv4(tags, SCTP, 5)),
            xdp("unfinished UDP from a NIC", nic(tagged), &udp(tags, ETH_P_IP, Checksum::Unfinished)),
            xdp("veth: ICMP", on_veth(tagged), &ipv4(tags, ICMP, 5)),
            xdp("veth: ICMPv6", on_veth(tagged), &ipv6(tags, ICMPV6, 128)),
            xdp("veth: no IP", on_veth(tagged), &plain(tags)),
            xdp("veth: whole UDP", on_veth(tagged), &udp(tags, ETH_P_IP, Checksum::Whole)),
            xdp("veth: whole UDP over IPv6", on_veth(tagged), &udp(tags, ETH_P_IPV6, Checksum::Whole)),
            tc("veth: unfinished UDP", on_veth(tagged), &udp(tags, ETH_P_IP, Checksum::Unfinished)),
            tc("veth: unfinished UDP over IPv6", on_veth(tagged), &udp(tags, ETH_P_IPV6, Checksum::Unfinished)),
            tc(
                "veth: UDP to a tunnel",
                on_veth(tagged),
                &to_port(4789, udp(tags, ETH_P_IP, Checksum::Whole), tags.len()),
            ),
            xdp(
                "veth: UDP beside a tunnel",
                on_veth(tagged),
                &to_port(4790, udp(tags, ETH_P_IP, Checksum::Whole), tags.len()),
            ),
            tc("veth: TCP", on_veth(tagged), &ipv4(tags, TCP, 5)),
            tc("veth: SCTP", on_veth(tagged), &ipv4(tags, SCTP, 5)),
            tc("veth: GRE", on_veth(tagged), &ipv4(tags, 47, 5)),
            tc("veth: IPv6 with an extension header", on_veth(tagged), &ipv6(tags, 0, 1)),
        ]);
    }
    let two = &[Tag::q(TAGGED), Tag::q(7)][..];
    rows.push(fast("an inner tag", World::aware(), &plain(two), TAGGED, Edit::Keep));
    rows.push(tc_only("veth: an inner tag", on_veth(true), &plain(two), TAGGED, Edit::Keep));
    // UDP whose header the frame does not hold, on a veth: nothing can be said about its checksum.
    let cut = udp(&[], ETH_P_IP, Checksum::Whole);
    rows.push(fast("veth: UDP header complete", on_veth(false), &cut[..42], 0, Edit::Keep));
    rows.push(tc_only("veth: UDP header cut", on_veth(false), &cut[..41], 0, Edit::Keep));
    rows.push(fast(
        "veth: only the ingress is asked",
        World::unaware().flag(THERE, port_flags::VIRTUAL_XDP),
        &udp(&[], ETH_P_IP, Checksum::Unfinished),
        0,
        Edit::Keep,
    ));
    check(bench, &rows)
}

/// Of 256 bytes in front of the packet, 40 are the kernel's own (`struct xdp_frame`).
const ROOM: usize = 256 - 40;

fn headroom(bench: &mut Bench) -> Result<()> {
    let push = Edit::Push(OuterTag::new(ETH_P_8021Q, PVID));
    let pushes = World::aware().port(THERE, |port| set_bit(&mut port.untagged, PVID, false));
    let untagged = plain(&[]);
    let popped = plain(&[Tag::q(UNTAGGED)]);
    bench.install(&pushes)?;
    for taken in [0, 4, 32, ROOM - 4, ROOM] {
        for (wire, edit, fits) in [(&untagged, push, taken + 4 <= ROOM), (&popped, Edit::Pop, true)] {
            let arrival = Arrival { wire, ifindex: bench.device(HERE), gso: false, untouched: false };
            let outcome = match bench.xdp_in(arrival, taken, wire.len())? {
                Ok(outcome) => outcome,
                Err(error) if taken > 32 && is_refusal(&error) => {
                    println!("xdp_headroom: this kernel takes no {taken} bytes of metadata (6.3 and later do)");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let want = if fits { (XDP_REDIRECT, edited(wire, edit)) } else { (XDP_PASS, wire.clone()) };
            ensure!(
                (outcome.verdict, &outcome.wire) == (want.0, &want.1),
                "{taken} bytes of headroom taken, {edit:?}: {outcome:?} instead of {want:?}"
            );
            ensure!(outcome.counts.is_empty() != fits, "{taken} bytes of headroom taken: counted {:?}", outcome.counts);
        }
    }
    Ok(())
}

fn several_buffers(bench: &mut Bench) -> Result<()> {
    let wire = sized(&[], 1400);
    bench.install(&World::unaware())?;
    let arrival = Arrival { wire: &wire, ifindex: bench.device(HERE), gso: false, untouched: false };
    for (linear, verdict) in [(1400, XDP_REDIRECT), (1399, XDP_PASS), (64, XDP_PASS), (14, XDP_PASS)] {
        let outcome = bench.xdp_in(arrival, 0, linear)??;
        ensure!(outcome.verdict == verdict, "{linear} of 1400 bytes in the first buffer: {}", outcome.verdict);
        ensure!(outcome.wire == wire, "{linear} of 1400 bytes in the first buffer: other bytes");
    }
    Ok(())
}
