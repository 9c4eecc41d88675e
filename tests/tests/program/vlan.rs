//! VLANs: classification, and the tag on the way out, byte by byte.
//!
//! The tc program gets the outer tag in metadata, as the kernel leaves it there; see [`crate::bpf`].

use anyhow::Result;
use bridge_common::{
    decide::Edit,
    frame::{ETH_P_8021AD, ETH_P_8021Q, Tag as OuterTag},
    maps::{Port, port_flags, set_bit},
    reason::Reason,
};
use xbr_tests::frame::{ETHERTYPE_LAB, Tag};

use crate::{
    Test,
    bench::{Arrival, Bench, XDP_PASS},
    check::{check, fast, slow},
    frames::{frame, payload, plain},
    world::{HERE, PVID, TAGGED, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("vlan_classification", classification),
    ("vlan_tags", tags),
    ("vlan_tags_of_two", tags_of_two),
    ("vlan_runts", runts),
];

/// The PVID leaves tagged.
fn tagged_pvid(world: World) -> World {
    world.port(THERE, |port| set_bit(&mut port.untagged, PVID, false))
}

fn q(tci: u16) -> OuterTag {
    OuterTag::new(ETH_P_8021Q, tci)
}

fn ad(tci: u16) -> OuterTag {
    OuterTag::new(ETH_P_8021AD, tci)
}

fn classification(bench: &mut Bench) -> Result<()> {
    let (untagged, priority) = (plain(&[]), plain(&[Tag::q(0).pcp(3)]));
    let here = |change: fn(&mut Port)| World::aware().port(HERE, change);
    let no_pvid = || here(|port| port.pvid = 0);
    let rows = [
        fast("untagged", World::aware(), &untagged, PVID, Edit::Keep),
        slow("untagged without a PVID", no_pvid(), &untagged, None, Reason::NoPvid),
        slow("priority tag without a PVID", no_pvid(), &priority, None, Reason::NoPvid),
        fast("tagged without a PVID", no_pvid(), &plain(&[Tag::q(TAGGED)]), TAGGED, Edit::Keep),
        slow(
            "PVID whose VLAN is gone",
            here(|port| set_bit(&mut port.member, PVID, false)),
            &untagged,
            None,
            Reason::IngressVlan,
        ),
        slow(
            "priority tag, VLAN gone",
            here(|port| set_bit(&mut port.member, PVID, false)),
            &priority,
            None,
            Reason::IngressVlan,
        ),
        slow("not a member", World::aware(), &plain(&[Tag::q(40)]), None, Reason::IngressVlan),
        slow("VLAN 4095", World::aware(), &plain(&[Tag::q(4095)]), None, Reason::IngressVlan),
        slow(
            "not a member here, though there",
            here(|port| set_bit(&mut port.member, TAGGED, false)),
            &plain(&[Tag::q(TAGGED)]),
            None,
            Reason::IngressVlan,
        ),
        fast("the other protocol", World::aware(), &plain(&[Tag::ad(TAGGED)]), PVID, Edit::Keep),
        fast("the other protocol, VLAN 0", World::aware(), &plain(&[Tag::ad(0)]), PVID, Edit::Keep),
        fast("the other protocol, 802.1ad", World::aware_ad(), &plain(&[Tag::q(TAGGED)]), PVID, Edit::Keep),
        slow(
            "the other protocol, to tagged",
            tagged_pvid(World::aware()),
            &plain(&[Tag::ad(TAGGED)]),
            Some(PVID),
            Reason::TagProtocol,
        ),
        slow("tag in the bytes", World::aware(), &plain(&[Tag::q(TAGGED)]), None, Reason::TagPlacement).untouched(),
        slow("802.1ad tag in the bytes", World::unaware(), &plain(&[Tag::ad(7)]), None, Reason::TagPlacement)
            .untouched(),
        fast("VLAN-unaware, untagged", World::unaware(), &untagged, 0, Edit::Keep),
        fast("VLAN-unaware, priority tag", World::unaware(), &priority, 0, Edit::Keep),
        fast("VLAN-unaware, 802.1Q", World::unaware(), &plain(&[Tag::q(4095).pcp(7)]), 0, Edit::Keep),
        fast("VLAN-unaware, 802.1ad", World::unaware(), &plain(&[Tag::ad(99)]), 0, Edit::Keep),
        fast(
            "VLAN-unaware: the other port fields mean nothing",
            World::unaware().port(HERE, |port| (port.pvid, port.tpid) = (PVID, ETH_P_8021AD)),
            &plain(&[Tag::q(5)]),
            0,
            Edit::Keep,
        ),
    ];
    check(bench, &rows)
}

fn tags(bench: &mut Bench) -> Result<()> {
    let dei = Tag { tpid: ETH_P_8021Q, tci: 6 << 13 | 1 << 12 | TAGGED };
    let dei_priority = Tag { tpid: ETH_P_8021Q, tci: 6 << 13 | 1 << 12 };
    let rows = [
        fast("untagged to tagged", tagged_pvid(World::aware()), &plain(&[]), PVID, Edit::Push(q(PVID))),
        fast("untagged to tagged, 802.1ad", tagged_pvid(World::aware_ad()), &plain(&[]), PVID, Edit::Push(ad(PVID))),
        fast("tagged to tagged", World::aware(), &plain(&[Tag::q(TAGGED)]), TAGGED, Edit::Keep),
        fast("PCP and DEI stay", World::aware(), &plain(&[dei]), TAGGED, Edit::Keep),
        fast("802.1ad to 802.1ad", World::aware_ad(), &plain(&[Tag::ad(TAGGED).pcp(1)]), TAGGED, Edit::Keep),
        fast("tagged to untagged", World::aware(), &plain(&[Tag::q(UNTAGGED)]), UNTAGGED, Edit::Pop),
        fast("tagged to untagged, with PCP", World::aware(), &plain(&[Tag::q(UNTAGGED).pcp(7)]), UNTAGGED, Edit::Pop),
        fast("802.1ad to untagged", World::aware_ad(), &plain(&[Tag::ad(UNTAGGED)]), UNTAGGED, Edit::Pop),
        fast("tagged with the PVID", World::aware(), &plain(&[Tag::q(PVID)]), PVID, Edit::Pop),
        fast("tagged with the PVID to tagged", tagged_pvid(World::aware()), &plain(&[Tag::q(PVID)]), PVID, Edit::Keep),
        fast("priority tag to untagged", World::aware(), &plain(&[Tag::q(0).pcp(5)]), PVID, Edit::Pop),
        fast(
            "priority tag to tagged",
            tagged_pvid(World::aware()),
            &plain(&[Tag::q(0).pcp(5)]),
            PVID,
            Edit::Retag(q(5 << 13 | PVID)),
        ),
        fast(
            "priority tag with DEI to tagged",
            tagged_pvid(World::aware()),
            &plain(&[dei_priority]),
            PVID,
            Edit::Retag(q(6 << 13 | 1 << 12 | PVID)),
        ),
        fast(
            "802.1ad priority tag to tagged",
            tagged_pvid(World::aware_ad()),
            &plain(&[Tag::ad(0)]),
            PVID,
            Edit::Retag(ad(PVID)),
        ),
        fast(
            "the VLAN with the highest number",
            World::aware()
                .with(|world| {
                    for port in world.ports.values_mut() {
                        set_bit(&mut port.member, 4094, true);
                    }
                })
                .station(4094, crate::world::SENDER, HERE)
                .station(4094, crate::world::TARGET, THERE),
            &plain(&[Tag::q(4094)]),
            4094,
            Edit::Keep,
        ),
    ];
    check(bench, &rows)
}

/// Only the outer tag is the bridge's; when it goes, the kernel moves the inner one to metadata, and the wire is the same.
fn tags_of_two(bench: &mut Bench) -> Result<()> {
    let inner = Tag::q(7).pcp(2);
    let short = |tags: &[Tag], len: usize| frame(tags, ETHERTYPE_LAB, payload(60))[..len].to_vec();
    let popped = [Tag::q(UNTAGGED), inner];
    let retagged = [Tag::q(0).pcp(1), inner];
    let retag = Edit::Retag(q(1 << 13 | PVID));
    let kept = [Tag::q(TAGGED), inner];
    let rows = [
        fast("VLAN-unaware", World::unaware(), &plain(&[Tag::ad(5), inner]), 0, Edit::Keep),
        fast("to tagged", World::aware(), &plain(&[Tag::q(TAGGED), inner]), TAGGED, Edit::Keep),
        fast("to untagged", World::aware(), &plain(&popped), UNTAGGED, Edit::Pop),
        fast(
            "to untagged, inner 802.1ad",
            World::aware(),
            &plain(&[Tag::q(UNTAGGED), Tag::ad(7)]),
            UNTAGGED,
            Edit::Pop,
        ),
        fast("802.1ad to untagged", World::aware_ad(), &plain(&[Tag::ad(UNTAGGED), inner]), UNTAGGED, Edit::Pop),
        fast("three tags to untagged", World::aware(), &plain(&[Tag::q(UNTAGGED), inner, inner]), UNTAGGED, Edit::Pop),
        fast("priority tag to untagged", World::aware(), &plain(&retagged), PVID, Edit::Pop),
        fast("priority tag to tagged", tagged_pvid(World::aware()), &plain(&retagged), PVID, retag),
        // The kernel moves an inner tag only where 18 bytes are there without the outer one, br_netfilter wants them, and
        // the far end takes the inner tag from the bytes only where there are 20.
        slow("pop, 16 bytes", World::aware(), &short(&popped, 20), None, Reason::ShortInnerTag),
        slow("pop, 19 bytes", World::aware(), &short(&popped, 23), None, Reason::ShortInnerTag),
        fast("pop, 20 bytes", World::aware(), &short(&popped, 24), UNTAGGED, Edit::Pop),
        slow("retag, 19 bytes", tagged_pvid(World::aware()), &short(&retagged, 23), None, Reason::ShortInnerTag),
        fast("retag, 20 bytes", tagged_pvid(World::aware()), &short(&retagged, 24), PVID, retag),
        slow("keep, 19 bytes", World::aware(), &short(&kept, 23), None, Reason::ShortInnerTag),
        fast("keep, 20 bytes", World::aware(), &short(&kept, 24), TAGGED, Edit::Keep),
        slow("VLAN-unaware, 19 bytes", World::unaware(), &short(&kept, 23), None, Reason::ShortInnerTag),
    ];
    check(bench, &rows)
}

/// Shorter than 20 bytes, a tagged frame is dropped by the kernel before the bridge sees it.
fn runts(bench: &mut Bench) -> Result<()> {
    let long = plain(&[Tag::q(TAGGED)]);
    for world in [World::aware(), World::unaware(), World::aware().unflag(THERE, port_flags::EGRESS)] {
        bench.install(&world)?;
        for len in 14..20 {
            let arrival = Arrival { wire: &long[..len], ifindex: bench.device(HERE), gso: false, untouched: false };
            let outcome = bench.xdp_in(arrival, 0, len)??;
            anyhow::ensure!(outcome.verdict == XDP_PASS, "{len} bytes: verdict {}", outcome.verdict);
            anyhow::ensure!(outcome.wire == long[..len] && outcome.counts.is_empty(), "{len} bytes: {outcome:?}");
        }
    }
    let rows = [
        fast("20 bytes", World::aware(), &long[..20], TAGGED, Edit::Keep),
        fast("20 bytes to untagged", World::aware(), &plain(&[Tag::q(UNTAGGED)])[..20], UNTAGGED, Edit::Pop),
        fast("14 bytes, untagged", World::aware(), &plain(&[])[..14], PVID, Edit::Keep),
        fast("14 bytes, untagged to tagged", tagged_pvid(World::aware()), &plain(&[])[..14], PVID, Edit::Push(q(PVID))),
    ];
    check(bench, &rows)
}
