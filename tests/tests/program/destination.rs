//! The destination and the egress port.

use anyhow::Result;
use bridge_common::{
    decide::Edit,
    frame::{ETH_P_8021Q, Tag as OuterTag},
    maps::{Port, fdb_flags, port_flags, set_bit},
    reason::Reason,
};
use xbr_tests::frame::Tag;

use crate::{
    Test,
    bench::Bench,
    check::{check, fast, slow, tc_only},
    frames::{plain, sized},
    world::{ELSEWHERE, GONE, HERE, PVID, State, TAGGED, TARGET, THERE, UNTAGGED, World},
};

pub(crate) const TESTS: &[Test] = &[("destination_table", table), ("destination_mtu", mtu), ("destination_gone", gone)];

fn table(bench: &mut Bench) -> Result<()> {
    let frame = plain(&[]);
    let with_tag = plain(&[Tag::q(TAGGED)]);
    let behind = |slot: u16| World::unaware().entry(TARGET, |row| row.slot = slot);
    let flagged = |flags: u16| World::unaware().entry(TARGET, |row| row.flags |= flags);
    let stated = |state: State| World::unaware().entry(TARGET, |row| row.state = state);
    let isolated =
        |slots: &[u16]| slots.iter().fold(World::unaware(), |world, slot| world.flag(*slot, port_flags::ISOLATED));
    let rows = [
        slow("unknown", World::unaware().forget(TARGET), &frame, Some(0), Reason::DestinationUnknown),
        slow("stale generation", stated(State::Stale), &frame, Some(0), Reason::DestinationUnknown),
        slow(
            "known in another VLAN only",
            World::aware().with(|world| world.fdb.retain(|(_, mac), row| *mac != TARGET || row.vid == PVID)),
            &with_tag,
            Some(TAGGED),
            Reason::DestinationUnknown,
        ),
        slow("local", flagged(fdb_flags::LOCAL), &frame, Some(0), Reason::Local),
        slow(
            "local, tagged",
            World::aware().entry(TARGET, |row| row.flags = fdb_flags::LOCAL),
            &with_tag,
            Some(TAGGED),
            Reason::Local,
        ),
        slow("opaque", flagged(fdb_flags::OPAQUE), &frame, Some(0), Reason::DestinationFeature),
        fast("static", flagged(fdb_flags::STATIC), &frame, 0, Edit::Keep),
        fast("sticky", flagged(fdb_flags::STICKY), &frame, 0, Edit::Keep),
        fast("the last slot", behind(ELSEWHERE), &frame, 0, Edit::Keep),
        slow("same port", behind(HERE), &frame, Some(0), Reason::SamePort),
        slow("slot beyond the table", behind(2000), &frame, Some(0), Reason::Inconsistent),
        slow(
            "empty slot",
            World::unaware().port(THERE, |port| *port = Port::EMPTY),
            &frame,
            Some(0),
            Reason::EgressPort,
        ),
        slow("egress off", World::unaware().unflag(THERE, port_flags::EGRESS), &frame, Some(0), Reason::EgressPort),
        tc_only("egress not for XDP", World::unaware().unflag(THERE, port_flags::EGRESS_XDP), &frame, 0, Edit::Keep),
        tc_only(
            "egress not for XDP, pop",
            World::aware().unflag(THERE, port_flags::EGRESS_XDP),
            &plain(&[Tag::q(UNTAGGED)]),
            UNTAGGED,
            Edit::Pop,
        ),
        fast(
            "ingress of the egress port is not asked",
            World::unaware().unflag(THERE, port_flags::INGRESS),
            &frame,
            0,
            Edit::Keep,
        ),
        slow("both isolated", isolated(&[HERE, THERE]), &frame, Some(0), Reason::Isolated),
        fast("only the ingress isolated", isolated(&[HERE]), &frame, 0, Edit::Keep),
        fast("only the egress isolated", isolated(&[THERE]), &frame, 0, Edit::Keep),
        slow(
            "not a member",
            World::aware().port(THERE, |port| set_bit(&mut port.member, TAGGED, false)),
            &with_tag,
            Some(TAGGED),
            Reason::EgressVlan,
        ),
        slow(
            "a port of another bridge",
            World::unaware().port(THERE, |port| port.fid_base = 9),
            &frame,
            Some(0),
            Reason::Inconsistent,
        ),
        slow(
            "a port of another VLAN-aware bridge",
            World::aware().port(THERE, |port| port.fid_base += 4096),
            &with_tag,
            Some(TAGGED),
            Reason::Inconsistent,
        ),
        slow(
            "from VLAN-unaware to VLAN-aware",
            World::unaware().flag(THERE, port_flags::VLAN_AWARE),
            &frame,
            Some(0),
            Reason::Inconsistent,
        ),
        slow(
            "from VLAN-aware to VLAN-unaware",
            World::aware().unflag(THERE, port_flags::VLAN_AWARE),
            &with_tag,
            Some(TAGGED),
            Reason::Inconsistent,
        ),
    ];
    check(bench, &rows)
}

/// To the byte: the bridge lets MTU + 14 + 4 pass, without the tag; XDP counts a tag in the bytes.
fn mtu(bench: &mut Bench) -> Result<()> {
    const MAX: u32 = 100 + 14 + 4;
    let limit = |world: World| world.port(THERE, |port| port.max_len = MAX);
    let (unaware, aware) = (|| limit(World::unaware()), || limit(World::aware()));
    let pushes = || aware().port(THERE, |port| set_bit(&mut port.untagged, PVID, false));
    let push = Edit::Push(OuterTag::new(ETH_P_8021Q, PVID));
    let (tagged, popped) = (&[Tag::q(TAGGED)][..], &[Tag::q(UNTAGGED)][..]);
    let rows = [
        fast("untagged, mtu + 18", unaware(), &sized(&[], 118), 0, Edit::Keep),
        slow("untagged, mtu + 19", unaware(), &sized(&[], 119), Some(0), Reason::Mtu),
        fast("untagged, VLAN-aware, mtu + 18", aware(), &sized(&[], 118), PVID, Edit::Keep),
        slow("untagged, VLAN-aware, mtu + 19", aware(), &sized(&[], 119), Some(PVID), Reason::Mtu),
        fast("tagged, mtu + 14", aware(), &sized(tagged, 114), TAGGED, Edit::Keep),
        tc_only("tagged, mtu + 15", aware(), &sized(tagged, 115), TAGGED, Edit::Keep),
        tc_only("tagged, mtu + 18", aware(), &sized(tagged, 118), TAGGED, Edit::Keep),
        slow("tagged, mtu + 19", aware(), &sized(tagged, 119), Some(TAGGED), Reason::Mtu),
        fast("tagged, VLAN-unaware, mtu + 14", unaware(), &sized(tagged, 114), 0, Edit::Keep),
        tc_only("tagged, VLAN-unaware, mtu + 18", unaware(), &sized(tagged, 118), 0, Edit::Keep),
        slow("tagged, VLAN-unaware, mtu + 19", unaware(), &sized(tagged, 119), Some(0), Reason::Mtu),
        fast("pop, mtu + 18", aware(), &sized(popped, 118), UNTAGGED, Edit::Pop),
        slow("pop, mtu + 19", aware(), &sized(popped, 119), Some(UNTAGGED), Reason::Mtu),
        fast("push, mtu + 14", pushes(), &sized(&[], 114), PVID, push),
        tc_only("push, mtu + 15", pushes(), &sized(&[], 115), PVID, push),
        tc_only("push, mtu + 18", pushes(), &sized(&[], 118), PVID, push),
        slow("push, mtu + 19", pushes(), &sized(&[], 119), Some(PVID), Reason::Mtu),
        fast("a super-frame", unaware(), &sized(&[], 1500), 0, Edit::Keep).gso(),
        fast("a super-frame, push", pushes(), &sized(&[], 1500), PVID, push).gso(),
        fast(
            "the ingress port's MTU is not asked",
            World::unaware().port(HERE, |port| port.max_len = 20),
            &sized(&[], 500),
            0,
            Edit::Keep,
        ),
    ];
    check(bench, &rows)
}

/// The device map has no such device any more. XDP may still hand an unchanged frame to the bridge; a changed one could
/// end in another VLAN there.
fn gone(bench: &mut Bench) -> Result<()> {
    let away = |world: World| world.entry(TARGET, |row| row.slot = GONE);
    let push = Edit::Push(OuterTag::new(ETH_P_8021Q, PVID));
    let retag = Edit::Retag(OuterTag::new(ETH_P_8021Q, 5 << 13 | PVID));
    let pushes = || away(World::aware()).port(GONE, |port| set_bit(&mut port.untagged, PVID, false));
    let rows = [
        tc_only("unchanged", away(World::unaware()), &plain(&[]), 0, Edit::Keep),
        tc_only("unchanged, tagged", away(World::aware()), &plain(&[Tag::q(TAGGED)]), TAGGED, Edit::Keep),
        fast("pop", away(World::aware()), &plain(&[Tag::q(UNTAGGED)]), UNTAGGED, Edit::Pop).lost_by_xdp(Edit::Pop),
        fast("push", pushes(), &plain(&[]), PVID, push).lost_by_xdp(push),
        fast("retag", pushes(), &plain(&[Tag::q(0).pcp(5)]), PVID, retag).lost_by_xdp(retag),
    ];
    check(bench, &rows)
}
