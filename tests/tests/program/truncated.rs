//! Frames cut at every length, with any number of tags, and large ones.

use std::io;

use anyhow::{Result, bail, ensure};
use bridge_common::{
    frame::ETH_P_IP,
    maps::{port_flags, set_bit},
};
use xbr_tests::frame::Tag;

use crate::{
    Test,
    bench::{Arrival, Bench, Outcome, TC_REDIRECT, XDP_REDIRECT},
    check::{bytes, differs},
    frames::{Checksum, ICMPV6, TCP, frame, ipv4, ipv6, payload, plain, sized, udp},
    model::{self, is_refusal, refused_by_tc_test_run},
    world::{HERE, PVID, TAGGED, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("truncated_at_every_length", every_length),
    ("tags_and_types_at_every_length", tags_and_types),
    ("large_frames_keep_every_byte", large),
];

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
    ]
    .map(|(name, frame)| (name.to_owned(), frame));
    let worlds = [
        ("VLAN-unaware", World::unaware()),
        ("VLAN-aware", World::aware()),
        ("PVID tagged", World::aware().port(THERE, |port| set_bit(&mut port.untagged, PVID, false))),
        ("XDP on a veth", World::aware().flag(HERE, port_flags::VIRTUAL_XDP)),
    ];
    let mut tally = Tally::default();
    for world in &worlds {
        for frame in &frames {
            for len in 0..=64 {
                tally.compare(bench, world, frame, len)?;
            }
        }
    }
    tally.finish("truncated_at_every_length")
}

/// Up to five tags, in front of types that are none, that are lengths, or that announce one more tag which is not there.
fn tags_and_types(bench: &mut Bench) -> Result<()> {
    let (q, ad) = (Tag::q, Tag::ad);
    let stacks: [&[Tag]; 10] = [
        &[],
        &[q(TAGGED)],
        &[ad(UNTAGGED)],
        &[q(0), q(0)],
        &[ad(TAGGED), q(UNTAGGED)],
        &[q(UNTAGGED), ad(7)],
        &[q(UNTAGGED), q(UNTAGGED), q(UNTAGGED)],
        &[q(0), ad(0), q(4095)],
        &[ad(UNTAGGED), q(1), q(2), ad(3)],
        &[q(TAGGED), q(1), q(2), q(3), q(4)],
    ];
    let mut frames = Vec::new();
    for tags in stacks {
        for ethertype in [0x0000, 0x05ff, 0x0600, 0x0800, 0x8100, 0x86dd, 0x88a8, 0x9100, 0xffff] {
            let name = format!("{} tags, type {ethertype:#06x}", tags.len());
            // Neither IPv4 nor IPv6, whatever the type says.
            frames.push((name, frame(tags, ethertype, payload(70))));
        }
    }
    // The shortest and the headers' ends: exactly, one byte less, one byte more.
    let lengths = [0, 1, 12].into_iter().chain(13..=27).chain([33, 34, 35, 37, 38, 39, 53, 54, 55, 57, 58, 59, 70]);
    let worlds = [("VLAN-unaware", World::unaware()), ("VLAN-aware", World::aware()), ("802.1ad", World::aware_ad())];
    let mut tally = Tally::default();
    for world in &worlds {
        for frame in &frames {
            for len in lengths.clone() {
                tally.compare(bench, world, frame, len)?;
            }
        }
    }
    ensure!(tally.fast > 100, "hardly a frame was fast: {}", tally.fast);
    tally.finish("tags_and_types_at_every_length")
}

/// Frames at the edge of a large MTU and one byte beyond, with and without a change of tag. `BPF_PROG_TEST_RUN` takes
/// frames of up to a page, with some room around; those of 9 kB go over real ports in the ring netns.
fn large(bench: &mut Bench) -> Result<()> {
    const LARGEST: usize = 3018;
    let wide = |world: World| world.port(THERE, |port| port.max_len = 3018);
    let worlds = [("VLAN-unaware", wide(World::unaware())), ("VLAN-aware", wide(World::aware()))];
    let mut tally = Tally::default();
    for world in &worlds {
        for tags in [&[][..], &[Tag::q(TAGGED)], &[Tag::q(UNTAGGED)], &[Tag::q(0).pcp(5)]] {
            for len in [LARGEST - 5, LARGEST - 4, LARGEST, LARGEST + 1] {
                let frame = sized(tags, len);
                let whole = frame.len();
                tally.compare_tc(bench, world, &(format!("{len} bytes, {} tags", tags.len()), frame), whole)?;
            }
        }
    }
    // Three of the four lengths fit.
    ensure!(tally.fast > 0 && tally.fast < tally.ran, "{} of {} fast", tally.fast, tally.ran);
    tally.finish("large_frames_keep_every_byte")
}

/// What became of the frames of a test.
#[derive(Default)]
struct Tally {
    ran: u32,
    fast: u32,
    /// By `BPF_PROG_TEST_RUN` itself.
    refused: u32,
    failures: Vec<String>,
}

impl Tally {
    /// Hands the first `len` bytes of a frame to both programs.
    fn compare(
        &mut self,
        bench: &mut Bench,
        named: &(&str, World),
        frame: &(String, Vec<u8>),
        len: usize,
    ) -> Result<()> {
        self.compare_tc(bench, named, frame, len)?;
        let (world, wire) = (&named.1, &frame.1[..len]);
        let got = bench.xdp(world, arrival(bench, wire))?;
        self.note("XDP", (named, frame), wire, got, wire.len() < 14, || model::xdp(world, Some(HERE), wire))
    }

    /// Hands the first `len` bytes of a frame to the tc program.
    fn compare_tc(
        &mut self,
        bench: &mut Bench,
        named: &(&str, World),
        frame: &(String, Vec<u8>),
        len: usize,
    ) -> Result<()> {
        let (world, wire) = (&named.1, &frame.1[..len]);
        let got = bench.tc(world, arrival(bench, wire))?;
        let refuses = refused_by_tc_test_run(wire, false);
        self.note("tc", (named, frame), wire, got, refuses, || model::tc(world, Some(HERE), wire, false))
    }

    fn note(
        &mut self,
        program: &str,
        ((world, _), (frame, _)): (&(&str, World), &(String, Vec<u8>)),
        wire: &[u8],
        got: io::Result<Outcome>,
        refuses: bool,
        want: impl FnOnce() -> Outcome,
    ) -> Result<()> {
        let len = wire.len();
        match got {
            Err(error) if refuses && is_refusal(&error) => self.refused += 1,
            Err(error) => bail!("{program}, {frame}, {len} bytes: {error}"),
            Ok(_) if refuses => bail!("{program} runs on {frame}, {len} bytes"),
            Ok(got) => {
                self.ran += 1;
                self.fast += u32::from(matches!(got.verdict, TC_REDIRECT | XDP_REDIRECT));
                let want = want();
                if got != want {
                    self.failures.push(format!("{program}, {world}, {}: {}", bytes(wire), differs(&want, &got)));
                }
            }
        }
        Ok(())
    }

    fn finish(&self, test: &str) -> Result<()> {
        let Self { ran, fast, refused, failures } = self;
        println!("{test}: {ran} runs, {fast} fast, and {refused} frames that BPF_PROG_TEST_RUN itself refuses");
        let first = failures.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n");
        ensure!(failures.is_empty(), "{} differ, the first of them:\n{first}", failures.len());
        Ok(())
    }
}

fn arrival<'a>(bench: &Bench, wire: &'a [u8]) -> Arrival<'a> {
    Arrival { wire, ifindex: bench.device(HERE), gso: false, untouched: false }
}
