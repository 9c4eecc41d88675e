//! Each rule of the plan by itself, so that none can be changed or left out unnoticed.

use bridge_common::maps::port_flags::VIRTUAL_XDP;

use super::{super::port::state_name, *};

/// The entry of a port, after `change`.
fn entry_after(ifindex: IfIndex, change: impl FnOnce(&mut Model)) -> Port {
    let mut model = model(true);
    change(&mut model);
    plan_of(&model, &config()).ports[&ifindex].entry
}

fn bridge_attrs(model: &mut Model) -> &mut BridgeAttrs {
    link(model, BRIDGE).bridge.as_mut().unwrap()
}

#[test]
fn each_switch_of_br_netfilter_counts_where_there_are_rules() {
    let switched = |number: usize, rules: bool, present: bool| {
        reason_after(TAP, |model| {
            let on: [bool; 6] = std::array::from_fn(|index| index == number);
            model.bypass.br_netfilter = present.then_some((on[0], on[1], on[2]));
            model.bypass.inet_rules = rules.then(|| "x".to_owned());
            let attrs = bridge_attrs(model);
            (attrs.nf_call_iptables, attrs.nf_call_ip6tables, attrs.nf_call_arptables) = (on[3], on[4], on[5]);
        })
    };
    for number in 0..6 {
        assert_eq!(switched(number, true, true), Some(Reason::Netfilter), "switch {number}");
        assert_eq!(switched(number, false, true), None, "switch {number}, no rules");
        assert_eq!(switched(number, true, false), None, "switch {number}, no br_netfilter");
    }
    assert_eq!(switched(6, true, true), None, "no switch");
}

#[test]
fn both_kinds_of_promiscuity_count() {
    assert_eq!(reason_after(TAP, |model| link(model, BRIDGE).promiscuity = 1), Some(Reason::BridgePromisc));
    assert_eq!(reason_after(TAP, |model| link(model, BRIDGE).promisc_flag = true), Some(Reason::BridgePromisc));
    // A bridge makes its ports promiscuous.
    assert_eq!(
        reason_after(TAP, |model| (link(model, TAP).promiscuity, link(model, TAP).promisc_flag) = (2, true)),
        None
    );
}

#[test]
fn local_entries_of_vlan_0_are_not_modelled() {
    assert_eq!(reason_after(TAP, |model| bridge_attrs(model).fdb_local_vlan_0 = true), Some(Reason::BridgeFeature));
}

#[test]
fn only_devices_that_take_frames_off_the_port_count() {
    let upper = |kind: Option<&str>, lower: IfIndex, elsewhere: bool| {
        reason_after(TAP, |model| {
            let upper = Link {
                ifindex: 9,
                kind: kind.map(str::to_owned),
                lower: Some(lower),
                lower_elsewhere: elsewhere,
                ..Link::default()
            };
            model.links.insert(9, upper);
        })
    };
    for kind in ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"] {
        assert_eq!(upper(Some(kind), TAP, false), Some(Reason::VlanUpper), "{kind}");
        assert_eq!(upper(Some(kind), NIC, false), None, "{kind} on another device");
        assert_eq!(upper(Some(kind), TAP, true), None, "{kind} on a device of another namespace");
    }
    assert_eq!(upper(Some("veth"), TAP, false), None);
    assert_eq!(upper(None, TAP, false), None);
}

#[test]
fn states_have_the_names_of_iproute2() {
    let names: Vec<_> = [Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), None].map(state_name).into();
    assert_eq!(names, ["disabled", "listening", "learning", "forwarding", "blocking", "unknown", "unknown"]);
}

#[test]
fn a_source_is_refreshed_32_times_within_its_age() {
    let interval =
        |change: fn(&mut BridgeAttrs)| entry_after(TAP, |model| change(bridge_attrs(model))).refresh_interval;
    // Hundredths of a second in, nanoseconds out: 300 s / 32.
    assert_eq!(interval(|_| {}), 9_375_000_000);
    assert_eq!(interval(|attrs| attrs.forward_delay = 1_500), 9_375_000_000);
    assert_eq!(interval(|attrs| (attrs.topology_change, attrs.forward_delay) = (true, 1_500)), 468_750_000);
    assert_eq!(interval(|attrs| (attrs.topology_change, attrs.forward_delay) = (true, 60_000)), 9_375_000_000);
    assert_eq!(interval(|attrs| attrs.ageing_time = u32::MAX), 1_342_177_279_687_500);
}

#[test]
fn a_port_that_takes_nothing_in_may_still_take_frames_out() {
    let flags = |change: fn(&mut Model)| entry_after(TAP, change).flags & (INGRESS | EGRESS);
    assert_eq!(flags(|_| {}), INGRESS | EGRESS);
    assert_eq!(flags(|model| drop(model.bypass.ingress_filters.insert(TAP, "x".into()))), EGRESS);
    assert_eq!(flags(|model| link(model, TAP).xdp.push(7)), EGRESS);
    for nothing in [
        (|model| link(model, TAP).up = false) as fn(&mut Model),
        |model| link(model, TAP).carrier = false,
        |model| attrs(model, TAP).state = Some(2),
        |model| {
            link(model, TAP).kind = Some("geneve".into());
            attrs(model, TAP).vlan_tunnel = true;
        },
        |model| attrs(model, TAP).unknown = true,
        |model| link(model, TAP).switchdev = true,
        |model| link(model, TAP).port = None,
        |model| link(model, BRIDGE).promiscuity = 1,
    ] {
        assert_eq!(flags(nothing), 0);
    }
}

#[test]
fn the_largest_frame_is_the_mtu_with_header_and_tag() {
    for (mtu, max_len) in [(1500, 1518), (9000, 9018), (0, 18), (u32::MAX, u32::MAX)] {
        assert_eq!(entry_after(TAP, |model| link(model, TAP).mtu = mtu).max_len, max_len);
    }
}

#[test]
fn a_port_carries_its_own_flags_and_no_others() {
    let flags = |change: fn(&mut PortAttrs)| {
        entry_after(TAP, |model| change(attrs(model, TAP))).flags & (LEARNING | LOCKED | ISOLATED)
    };
    assert_eq!(flags(|_| {}), LEARNING);
    assert_eq!(flags(|attrs| attrs.learning = false), 0);
    assert_eq!(flags(|attrs| attrs.locked = true), LEARNING | LOCKED);
    assert_eq!(flags(|attrs| attrs.isolated = true), LEARNING | ISOLATED);
    assert_eq!(entry_after(TAP, |_| {}).flags & VIRTUAL_XDP, VIRTUAL_XDP);
    assert_eq!(entry_after(NIC, |_| {}).flags & VIRTUAL_XDP, 0);
    let entry = entry_after(TAP, |model| bridge_attrs(model).vlan_protocol = 0x88a8);
    assert_eq!((entry.tpid, entry.ifindex, entry.slow_reason), (0x88a8, TAP, Reason::UnknownPort as u32));
}

#[test]
fn vlans_are_members_from_the_first_to_the_last() {
    let range = VlanRange { first: 4090, last: u16::MAX, state: Some(3), untagged: true, ..VlanRange::default() };
    let entry = entry_after(TAP, |model| drop(model.vlans.insert(TAP, vec![range])));
    let members: Vec<u16> = (0..4096).filter(|vid| entry.is_member(*vid)).collect();
    assert_eq!(members, (4090..=4094).collect::<Vec<u16>>());
    assert_eq!((0..4096).filter(|vid| entry.is_untagged(*vid)).count(), 5);
    assert_eq!(entry.pvid, 0);
    // A bridge that filters no VLANs has them as well, but they mean nothing.
    let unaware = plan_of(&model(false), &config());
    assert!((0..4096).all(|vid| !unaware.ports[&TAP].entry.is_member(vid)) && unaware.ports[&TAP].entry.pvid == 0);
    assert_eq!(unaware.bridges[&BRIDGE].vlans, VlanSet::only(0));
    assert_eq!(unaware.ports[&TAP].entry.flags & VLAN_AWARE, 0);
}

#[test]
fn every_qdisc_that_the_kernel_sets_up_by_itself_is_plain() {
    for (qdisc, plain) in [
        ("noqueue", true),
        ("mq", true),
        ("pfifo_fast", true),
        ("fq_codel", true),
        ("fq", true),
        ("tbf", false),
        ("", false),
    ] {
        let entry = entry_after(TAP, |model| link(model, TAP).qdisc = qdisc.into());
        assert_eq!(entry.flags & EGRESS_XDP != 0, plain, "{qdisc}");
    }
}

#[test]
fn only_policy_may_be_overruled() {
    let overruled = |reason: Reason, change: fn(&mut Model)| {
        let mut model = model(true);
        change(&mut model);
        let config = RunConfig { overrule: BTreeSet::from([reason]), ..config() };
        plan_of(&model, &config).ports[&TAP].slow.as_ref().map(|slow| slow.reason)
    };
    let filter = |model: &mut Model| drop(model.bypass.ingress_filters.insert(TAP, "x".into()));
    assert_eq!(overruled(Reason::TcFilter, filter), None);
    assert_eq!(overruled(Reason::ForeignXdp, filter), Some(Reason::TcFilter));
    assert_eq!(overruled(Reason::ForeignXdp, |model| link(model, TAP).xdp.push(7)), None);
    assert_eq!(overruled(Reason::BridgePromisc, |model| link(model, BRIDGE).promiscuity = 1), None);
    assert_eq!(overruled(Reason::PortState, |model| link(model, TAP).up = false), Some(Reason::PortState));
}

#[test]
fn hooks_say_whether_they_were_chosen_by_name() {
    let hook = |choice: Option<HookChoice>, ports: &[&str], ifindex: IfIndex| {
        let mut config = config();
        config.ports = ports.iter().map(|name| (*name).to_owned()).collect();
        config.hooks.extend(choice.map(|choice| ("tap0".to_owned(), choice)));
        let hook = plan_of(&model(true), &config).ports[&ifindex].hook.clone();
        assert!(!hook.why.is_empty());
        (hook.tc, hook.xdp, hook.by_name, hook.is_virtual)
    };
    assert_eq!(hook(None, &[], TAP), (true, false, false, true));
    assert_eq!(hook(None, &[], NIC), (true, true, false, false));
    assert_eq!(hook(Some(HookChoice::Auto), &["tap0"], TAP), (true, false, false, true));
    assert_eq!(hook(Some(HookChoice::Tc), &[], TAP), (true, false, true, true));
    assert_eq!(hook(Some(HookChoice::Xdp), &[], TAP), (true, true, true, true));
    assert_eq!(hook(Some(HookChoice::Off), &[], TAP), (false, false, true, true));
    assert_eq!(hook(Some(HookChoice::Xdp), &["eth0"], TAP), (false, false, false, true));
}

#[test]
fn what_attaching_found_keeps_the_port_slow() {
    let refused = Refusals::from([(TAP, Slow::new(Reason::NoHook, "x"))]);
    let served = BTreeSet::from(["br0".to_owned()]);
    let plan = plan(&model(true), &config(), &served, &mut Numbers::default(), &refused);
    assert_eq!(plan.ports[&TAP].slow, Some(Slow { reason: Reason::NoHook, detail: "x".into() }));
    assert_eq!(plan.ports[&NIC].slow, None);
}

#[test]
fn where_the_tables_are_full_the_bridge_does_it() {
    let served = BTreeSet::from(["br0".to_owned()]);
    let planned = |numbers: &mut Numbers| {
        let plan = plan(&model(true), &config(), &served, numbers, &Refusals::new());
        let port = &plan.ports[&TAP];
        (
            port.slow.as_ref().map(|slow| slow.reason),
            port.entry.flags & (INGRESS | EGRESS),
            plan.bridges[&BRIDGE].fid_base,
        )
    };
    let mut no_slot = Numbers::default();
    assert!((1000..3000).any(|ifindex| no_slot.slot(ifindex).is_none()));
    let (reason, flags, _) = planned(&mut no_slot);
    assert_eq!((reason, flags & INGRESS), (Some(Reason::TableFull), 0));
    let mut no_fid = Numbers::default();
    assert!((1000..1020).any(|ifindex| no_fid.fid_base(ifindex, true).is_none()));
    assert_eq!(planned(&mut no_fid), (Some(Reason::TableFull), 0, None));
    // What is gone has made room.
    assert_eq!(planned(&mut no_fid).0, None);
}

#[test]
fn only_bridges_that_are_served_are_planned() {
    let mut model = model(true);
    let other = Link { ifindex: 20, name: "br1".into(), bridge: Some(BridgeAttrs::default()), ..Link::default() };
    model.links.insert(20, other);
    link(&mut model, NIC).master = Some(20);
    let plan = plan_of(&model, &config());
    assert_eq!(plan.bridges.keys().collect::<Vec<_>>(), [&BRIDGE]);
    assert_eq!(plan.ports.keys().collect::<Vec<_>>(), [&TAP]);
    assert_eq!(plan.ports[&TAP].bridge, BRIDGE);
}

#[test]
fn ports_carry_the_fids_of_their_bridge() {
    for vlan_filtering in [true, false] {
        let plan = plan_of(&model(vlan_filtering), &config());
        let base = plan.bridges[&BRIDGE].fid_base.unwrap();
        assert_ne!(base, Port::EMPTY.fid_base);
        assert_eq!([TAP, NIC].map(|ifindex| plan.ports[&ifindex].entry.fid_base), [base; 2]);
    }
}

/// What changes none of them is no reason to write all entries again.
#[test]
fn plans_of_one_footing_have_the_same_entries() {
    type Change = fn(&mut Model);
    const OTHER: IfIndex = 20;
    let planned = |change: Change| {
        let mut model = model(true);
        let other = Link { ifindex: OTHER, name: "br1".into(), ..model.links[&BRIDGE].clone() };
        model.links.insert(OTHER, other);
        change(&mut model);
        let served = BTreeSet::from(["br0".to_owned(), "br1".to_owned()]);
        let plan = plan(&model, &config(), &served, &mut Numbers::default(), &Refusals::new());
        let entry = FdbEntry { port: NIC, ..FdbEntry::default() };
        let keys = [(BRIDGE, 0), (BRIDGE, 10), (OTHER, 0), (OTHER, 10)];
        let entries =
            keys.map(|(bridge, vlan)| fdb_entry(&plan, &KernelKey { bridge, vlan, mac: [2, 0, 0, 0, 0, 9] }, &entry));
        (Footing::of(&plan), entries)
    };
    let before = planned(|_| {});
    let same: [Change; 4] = [
        |model| link(model, NIC).up = false,
        |model| link(model, NIC).mtu = 9000,
        |model| attrs(model, NIC).learning = false,
        |model| drop(model.vlans.remove(&NIC)),
    ];
    for change in same {
        assert_eq!(planned(change), before);
    }
    let different: [Change; 4] = [
        |model| bridge_attrs(model).vlan_filtering = false,
        |model| link(model, NIC).master = Some(OTHER),
        |model| link(model, NIC).master = None,
        // Its slot is another one.
        |model| link(model, TAP).master = None,
    ];
    for change in different {
        let (footing, entries) = planned(change);
        assert!(footing != before.0 && entries != before.1, "{footing:?} {entries:?}");
    }
}

#[test]
fn entries_of_impossible_vlans_and_of_other_bridges_are_left_out() {
    let plan = plan_of(&model(true), &config());
    let base = plan.bridges[&BRIDGE].fid_base.unwrap();
    let entry = FdbEntry { port: TAP, ..FdbEntry::default() };
    let key = |bridge, vlan| KernelKey { bridge, vlan, mac: [2, 0, 0, 0, 0, 9] };
    let fid = |key: &KernelKey| fdb_entry(&plan, key, &entry).map(|(key, _, _)| key.0 & 0xffff);
    assert_eq!(fid(&key(BRIDGE, 1)), Some(u64::from(base) + 1));
    assert_eq!(fid(&key(BRIDGE, 4095)), Some(u64::from(base) + 4095));
    assert_eq!(fid(&key(BRIDGE, 4096)), None);
    assert_eq!(fid(&key(99, 1)), None);
    // A local entry names no port of its own.
    let local = FdbEntry { port: BRIDGE, local: true, ..FdbEntry::default() };
    assert_eq!(
        fdb_entry(&plan, &key(BRIDGE, 1), &local).map(|(_, slot, flags)| (slot, flags)),
        Some((0, fdb_flags::LOCAL))
    );
}

#[test]
fn only_what_nobody_would_miss_is_handed_to_the_far_end() {
    type Change = fn(&mut Model);
    const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let peer = |asked: bool, change: Change| {
        let mut model = model(true);
        let near = link(&mut model, TAP);
        (near.kind, near.lower, near.lower_elsewhere) = (Some("veth".into()), Some(7), true);
        near.promiscuity = 1;
        model.bypass.xdp_features.insert(TAP, 0b011);
        model.bypass.far_ends.insert(TAP, FarEnd { mac: ADDRESS, has_xdp: false });
        change(&mut model);
        let config = RunConfig { redirect_peer: asked, ..config() };
        let entry = plan_of(&model, &config).ports[&TAP].entry;
        (entry.flags & (EGRESS | EGRESS_PEER), entry.far_end)
    };
    let value = Mac::new(ADDRESS).value();
    assert_eq!(peer(true, |_| {}), (EGRESS | EGRESS_PEER, value));
    assert_eq!(peer(false, |_| {}), (EGRESS, 0));
    let changes: [(&str, Change); 9] = [
        ("a program", |model| model.bypass.far_ends.get_mut(&TAP).unwrap().has_xdp = true),
        ("nothing is known", |model| _ = model.bypass.far_ends.remove(&TAP)),
        ("NAPI", |model| _ = model.bypass.xdp_features.insert(TAP, 0b111)),
        ("perhaps NAPI", |model| _ = model.bypass.xdp_features.remove(&TAP)),
        ("a listener", |model| link(model, TAP).promiscuity = 2),
        ("a qdisc", |model| link(model, TAP).qdisc = "pfifo".into()),
        ("a filter", |model| drop(model.bypass.egress_filters.insert(TAP, "x".into()))),
        ("this namespace", |model| link(model, TAP).lower_elsewhere = false),
        ("another kind", |model| link(model, TAP).kind = Some("netkit".into())),
    ];
    for (what, change) in changes {
        assert_eq!(peer(true, change).0, EGRESS, "{what}");
    }
    let (flags, _) = peer(true, |model| drop(model.bypass.egress_missed.insert(TAP, "x".into())));
    assert_eq!(flags, 0, "what the far end would not see at all");
}

#[test]
fn the_way_out_is_told_with_its_remedy() {
    type Change = fn(&mut Model);
    let exit = |change: Change| {
        let mut model = model(true);
        change(&mut model);
        plan_of(&model, &config()).ports[&TAP].exit.clone()
    };
    let cases: [(Change, &str, Option<&str>); 6] = [
        (|_| {}, "its driver takes", None),
        (|model| link(model, TAP).kind = Some("veth".into()), "does not say", Some("Linux 6.3")),
        (
            |model| {
                link(model, TAP).kind = Some("veth".into());
                model.bypass.xdp_features.insert(TAP, 0b011);
            },
            "far end has GRO",
            Some("ethtool"),
        ),
        (|model| _ = model.bypass.xdp_features.insert(TAP, 0b011), "takes no frames", Some("another driver")),
        (|model| link(model, TAP).qdisc = "htb".into(), "qdisc htb", Some("tc qdisc del dev tap0 root")),
        (|model| drop(model.bypass.egress_filters.insert(TAP, "xyz".into())), "xyz", Some("removal")),
    ];
    for (change, why, remedy) in cases {
        let found = exit(change);
        assert!(found.why.contains(why), "{found:?}");
        assert_eq!((found.by_xdp, found.remedy.is_some()), (remedy.is_none(), remedy.is_some()), "{found:?}");
        assert!(remedy.is_none_or(|remedy| found.remedy.as_ref().unwrap().contains(remedy)), "{found:?}");
    }
    let missed = exit(|model| drop(model.bypass.egress_missed.insert(TAP, "xyz".into())));
    assert!(missed.why.contains("xyz") && missed.remedy.is_none() && !missed.by_xdp, "{missed:?}");
}
