//! Frames cut at every length.

use anyhow::{Result, bail, ensure};
use bridge_common::{
    frame::ETH_P_IP,
    maps::{port_flags, set_bit},
};
use xbr_tests::frame::Tag;

use crate::{
    Test,
    bench::{Arrival, Bench},
    check::{bytes, differs},
    frames::{Checksum, ICMPV6, TCP, ipv4, ipv6, plain, udp},
    model::{self, is_refusal, refused_by_tc_test_run},
    world::{HERE, PVID, TAGGED, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[("truncated_at_every_length", every_length)];

fn every_length(bench: &mut Bench) -> Result<()> {
    let tagged = |vid: u16| [Tag::q(vid).pcp(4)];
    let frames = [
        ("plain", plain(&[])),
        ("tagged", plain(&tagged(TAGGED))),
        ("tagged, popped", plain(&tagged(UNTAGGED))),
        ("priority tag", plain(&tagged(0))),
        ("802.1ad", plain(&[Tag::ad(TAGGED)])),
        ("two tags", plain(&[Tag::q(UNTAGGED), Tag::q(7)])),
        ("UDP", udp(&[], ETH_P_IP, Checksum::Whole)),
        ("UDP, tagged", udp(&tagged(UNTAGGED), ETH_P_IP, Checksum::Whole)),
        ("TCP, tagged", ipv4(&tagged(TAGGED), TCP, 5)),
        ("neighbour discovery", ipv6(&[], ICMPV6, 135)),
        ("neighbour discovery, tagged", ipv6(&tagged(UNTAGGED), ICMPV6, 135)),
        ("ping, tagged", ipv6(&tagged(TAGGED), ICMPV6, 128)),
    ];
    let worlds = [
        ("VLAN-unaware", World::unaware()),
        ("VLAN-aware", World::aware()),
        ("PVID tagged", World::aware().port(THERE, |port| set_bit(&mut port.untagged, PVID, false))),
        ("XDP on a veth", World::aware().flag(HERE, port_flags::VIRTUAL_XDP)),
    ];
    let mut failures = Vec::new();
    let (mut refused, mut ran) = (0, 0);
    for (world_name, world) in &worlds {
        for (frame_name, frame) in &frames {
            for len in 0..=64 {
                let wire = &frame[..len];
                let arrival = Arrival { wire, ifindex: bench.device(HERE), gso: false, untouched: false };
                let mut compare = |program: &str, got: std::io::Result<_>, refuses: bool, want: &dyn Fn() -> _| {
                    match got {
                        Err(error) if refuses && is_refusal(&error) => refused += 1,
                        Err(error) => bail!("{program}, {frame_name} of {len} bytes: {error}"),
                        Ok(_) if refuses => bail!("{program} runs on {frame_name} of {len} bytes"),
                        Ok(got) => {
                            ran += 1;
                            let want = want();
                            if got != want {
                                let what = differs(&want, &got);
                                failures.push(format!("{program}, {world_name}, {}: {what}", bytes(wire)));
                            }
                        }
                    }
                    Ok(())
                };
                let tc = bench.tc(world, arrival)?;
                compare("tc", tc, refused_by_tc_test_run(wire, false), &|| model::tc(world, Some(HERE), wire, false))?;
                let xdp = bench.xdp(world, arrival)?;
                compare("XDP", xdp, len < 14, &|| model::xdp(world, Some(HERE), wire))?;
            }
        }
    }
    println!("truncated_at_every_length: {ran} runs, and {refused} frames that BPF_PROG_TEST_RUN itself refuses");
    let first = failures.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n");
    ensure!(failures.is_empty(), "{} differ, the first of them:\n{first}", failures.len());
    Ok(())
}
