//! The plan on hand-made models.

use bridge_common::maps::port_flags::{
    CHECK_IPV4, CHECK_IPV6, EGRESS, EGRESS_PEER, EGRESS_POLICY, EGRESS_XDP, INGRESS, ISOLATED, LEARNING, LOCKED,
    VLAN_AWARE,
};

use super::*;
use crate::model::{FarEnd, PortAttrs, VlanRange};

mod change;
mod logical;
mod rules;

const BRIDGE: IfIndex = 1;
const TAP: IfIndex = 2;
const NIC: IfIndex = 3;

/// A bridge with a tap and a NIC, VLAN-aware if asked, all forwarding.
fn model(vlan_filtering: bool) -> Model {
    let mut model = Model::default();
    let attrs = BridgeAttrs { vlan_filtering, vlan_protocol: 0x8100, ageing_time: 30_000, ..BridgeAttrs::default() };
    model.links.insert(BRIDGE, Link { ifindex: BRIDGE, name: "br0".into(), bridge: Some(attrs), ..Link::default() });
    for (ifindex, name, physical) in [(TAP, "tap0", false), (NIC, "eth0", true)] {
        let port = PortAttrs { state: Some(3), learning: true, ..PortAttrs::default() };
        let link = Link {
            ifindex,
            name: name.into(),
            mtu: 1500,
            up: true,
            carrier: true,
            kind: (!physical).then(|| "tun".to_owned()),
            physical,
            master: Some(BRIDGE),
            qdisc: "fq_codel".into(),
            port: Some(port),
            ..Link::default()
        };
        model.links.insert(ifindex, link);
    }
    let range = |first, last, pvid, untagged| VlanRange { first, last, pvid, untagged, state: Some(3), tunnel: false };
    model.vlans.insert(TAP, vec![range(10, 10, true, true)]);
    model.vlans.insert(NIC, vec![range(10, 20, false, false)]);
    model
}

fn config() -> RunConfig {
    RunConfig {
        bridges: vec!["br0".into()],
        all: false,
        ports: BTreeSet::new(),
        hooks: BTreeMap::new(),
        run_dir: "/nonexistent".into(),
        fdb_size: 16,
        last_status: None,
        overrule: BTreeSet::new(),
        redirect_peer: false,
        coherence: crate::config::Coherence::default(),
        shadow: None,
    }
}

fn plan_of(model: &Model, config: &RunConfig) -> Plan {
    plan(model, config, &BTreeSet::from(["br0".to_owned()]), &mut Numbers::default(), &Refusals::new())
}

/// The reason for which frames from `ifindex` are slow, after `change`.
fn reason_after(ifindex: IfIndex, change: impl FnOnce(&mut Model)) -> Option<Reason> {
    let mut model = model(true);
    change(&mut model);
    let plan = plan_of(&model, &config());
    let port = &plan.ports[&ifindex];
    assert_eq!(port.slow.is_none(), port.entry.flags & INGRESS != 0, "slow and INGRESS contradict each other");
    if let Some(slow) = &port.slow {
        assert_eq!(port.entry.slow_reason, slow.reason as u32);
        assert!(!slow.detail.is_empty());
    }
    port.slow.as_ref().map(|slow| slow.reason)
}

fn attrs(model: &mut Model, ifindex: IfIndex) -> &mut PortAttrs {
    model.links.get_mut(&ifindex).unwrap().port.as_mut().unwrap()
}

fn link(model: &mut Model, ifindex: IfIndex) -> &mut Link {
    model.links.get_mut(&ifindex).unwrap()
}

#[test]
fn healthy_ports_are_fast_and_carry_their_vlans() {
    let plan = plan_of(&model(true), &config());
    let tap = &plan.ports[&TAP];
    assert_eq!(tap.slow, None);
    assert_eq!(tap.entry.flags & (INGRESS | EGRESS | VLAN_AWARE | LEARNING), INGRESS | EGRESS | VLAN_AWARE | LEARNING);
    assert_eq!((tap.entry.pvid, tap.entry.max_len, tap.entry.tpid), (10, 1518, 0x8100));
    assert!(tap.entry.is_member(10) && tap.entry.is_untagged(10) && !tap.entry.is_member(11));
    assert!(plan.ports[&NIC].entry.is_member(20) && !plan.ports[&NIC].entry.is_untagged(20));
    assert_eq!(plan.bridges[&BRIDGE].vlans.iter().collect::<Vec<_>>(), (10..=20).collect::<Vec<u16>>());
    assert!(tap.hook.tc && !tap.hook.xdp);
    assert!(plan.ports[&NIC].hook.tc && plan.ports[&NIC].hook.xdp);
}

/// A name, the expected reason, and what makes the difference.
type Case = (&'static str, Option<Reason>, Box<dyn FnOnce(&mut Model)>);

#[test]
fn every_finding_keeps_its_port_slow_under_its_name() {
    use Reason::*;
    let cases: Vec<Case> = vec![
        ("nothing", None, Box::new(|_| {})),
        ("no attributes", Some(PortFeature), Box::new(|model| link(model, TAP).port = None)),
        ("state unknown", Some(PortState), Box::new(|model| attrs(model, TAP).state = None)),
        ("learning", Some(PortState), Box::new(|model| attrs(model, TAP).state = Some(2))),
        ("blocking", Some(PortState), Box::new(|model| attrs(model, TAP).state = Some(4))),
        ("down", Some(PortState), Box::new(|model| link(model, TAP).up = false)),
        ("no carrier", Some(PortState), Box::new(|model| link(model, TAP).carrier = false)),
        ("vlan_tunnel of a tap", None, Box::new(|model| attrs(model, TAP).vlan_tunnel = true)),
        (
            "vlan_tunnel of a tunnel",
            Some(PortFeature),
            Box::new(|model| {
                link(model, TAP).kind = Some("vxlan".into());
                attrs(model, TAP).vlan_tunnel = true;
            }),
        ),
        ("unknown option of the port", Some(PortFeature), Box::new(|model| attrs(model, TAP).unknown = true)),
        ("switchdev", Some(PortFeature), Box::new(|model| link(model, TAP).switchdev = true)),
        ("foreign XDP", Some(ForeignXdp), Box::new(|model| link(model, TAP).xdp.push(7))),
        ("promiscuous bridge", Some(BridgePromisc), Box::new(|model| link(model, BRIDGE).promiscuity = 1)),
        ("MST", Some(BridgeFeature), Box::new(|model| link(model, BRIDGE).bridge.as_mut().unwrap().mst = true)),
        (
            "unknown option",
            Some(BridgeFeature),
            Box::new(|model| link(model, BRIDGE).bridge.as_mut().unwrap().unknown_options = 32),
        ),
        (
            "unknown attribute",
            Some(BridgeFeature),
            Box::new(|model| link(model, BRIDGE).bridge.as_mut().unwrap().unknown_attribute = Some(50)),
        ),
        (
            "fdb_local_vlan_0",
            Some(BridgeFeature),
            Box::new(|model| link(model, BRIDGE).bridge.as_mut().unwrap().fdb_local_vlan_0 = true),
        ),
        ("tc filter", Some(TcFilter), Box::new(|model| drop(model.bypass.ingress_filters.insert(TAP, "x".into())))),
        ("nft bridge", Some(Netfilter), Box::new(|model| model.bypass.netfilter = Some("x".into()))),
        (
            "br_netfilter with rules",
            Some(Netfilter),
            Box::new(|model| {
                model.bypass.br_netfilter = Some((true, false, false));
                model.bypass.inet_rules = Some("x".into());
            }),
        ),
        ("br_netfilter without rules", None, Box::new(|model| model.bypass.br_netfilter = Some((true, true, true)))),
        (
            "rules, but br_netfilter is off",
            None,
            Box::new(|model| {
                model.bypass.br_netfilter = Some((false, false, false));
                model.bypass.inet_rules = Some("x".into());
            }),
        ),
        (
            "VLAN device on the port",
            Some(VlanUpper),
            Box::new(|model| {
                let upper = Link {
                    ifindex: 9,
                    kind: Some("vlan".into()),
                    lower: Some(TAP),
                    name: "tap0.5".into(),
                    ..Link::default()
                };
                model.links.insert(9, upper);
            }),
        ),
    ];
    for (name, expected, change) in cases {
        assert_eq!(reason_after(TAP, change), expected, "{name}");
    }
    let stripped = |model: &mut Model| model.bypass.rx_vlan_offload = BTreeMap::from([(NIC, true)]);
    assert_eq!(reason_after(NIC, stripped), Some(RxVlanOffload));
    let stripped_without_xdp = |model: &mut Model| model.bypass.rx_vlan_offload = BTreeMap::from([(TAP, true)]);
    assert_eq!(reason_after(TAP, stripped_without_xdp), None);
}

#[test]
fn bridges_that_find_no_room_are_slow() {
    let mut model = model(true);
    let first = model.links[&BRIDGE].clone();
    let names: BTreeSet<String> = (0..20).map(|number| format!("br{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let ifindex = 100 + u32::try_from(number).unwrap();
        model.links.insert(ifindex, Link { ifindex, name: name.clone(), ..first.clone() });
    }
    model.links.remove(&BRIDGE);
    // A port of the last one.
    link(&mut model, TAP).master = Some(119);
    let plan = plan(&model, &config(), &names, &mut Numbers::default(), &Refusals::new());
    let slow = |ifindex| plan.bridges[&ifindex].slow.as_ref().map(|slow| slow.reason);
    assert_eq!((slow(100), slow(119)), (None, Some(Reason::TableFull)));
    let port = &plan.ports[&TAP];
    assert_eq!(port.slow.as_ref().map(|slow| slow.reason), Some(Reason::TableFull));
    assert_eq!(port.entry.flags & (INGRESS | EGRESS), 0);
}

#[test]
fn a_policy_may_be_overruled_by_name() {
    let mut model = model(false);
    model.bypass.netfilter = Some("x".into());
    let mut config = config();
    assert_eq!(plan_of(&model, &config).ports[&TAP].slow.as_ref().unwrap().reason, Reason::Netfilter);
    config.overrule.insert(Reason::Netfilter);
    assert_eq!(plan_of(&model, &config).ports[&TAP].slow, None);
}

#[test]
fn shadow_mode_is_for_tc_alone() {
    let shadow = RunConfig { shadow: std::num::NonZeroU32::new(16), ..config() };
    let plan = plan_of(&model(false), &shadow);
    let hook = &plan.ports[&NIC].hook;
    assert!(hook.tc && !hook.xdp && hook.why.ends_with("shadow mode: tc alone"), "{hook:?}");
    assert_eq!(plan.ports[&TAP].hook, plan_of(&model(false), &config()).ports[&TAP].hook);
}

#[test]
fn operators_choose_ports_and_hooks() {
    let mut config = config();
    config.ports.insert("eth0".into());
    let plan = plan_of(&model(false), &config);
    assert_eq!(plan.ports[&TAP].slow.as_ref().unwrap().reason, Reason::NotSelected);
    assert!(!plan.ports[&TAP].hook.tc && plan.ports[&TAP].entry.flags & EGRESS != 0);
    config.ports.clear();
    config.hooks.insert("eth0".into(), HookChoice::Tc);
    config.hooks.insert("tap0".into(), HookChoice::Off);
    let plan = plan_of(&model(false), &config);
    assert!(plan.ports[&NIC].hook.tc && !plan.ports[&NIC].hook.xdp);
    let tap = &plan.ports[&TAP];
    assert_eq!(tap.slow.as_ref().unwrap().reason, Reason::TurnedOff);
    assert_eq!(tap.entry.flags & (INGRESS | EGRESS), 0);
}

#[test]
fn xdp_egress_needs_driver_qdisc_and_no_filter() {
    let mut model = model(false);
    let xdp = |model: &Model| plan_of(model, &config()).ports[&TAP].entry.flags & EGRESS_XDP != 0;
    assert!(xdp(&model), "a tap, on a kernel that says nothing");
    link(&mut model, TAP).kind = Some("veth".into());
    assert!(!xdp(&model), "a veth, on a kernel that says nothing");
    model.bypass.xdp_features.insert(TAP, 0b011);
    assert!(!xdp(&model), "the driver does not take them");
    model.bypass.xdp_features.insert(TAP, 0b111);
    assert!(xdp(&model));
    link(&mut model, TAP).qdisc = "htb".into();
    assert!(!xdp(&model), "a shaping qdisc");
    link(&mut model, TAP).qdisc = "noqueue".into();
    model.bypass.egress_filters.insert(TAP, "x".into());
    assert!(!xdp(&model), "an egress filter");
}

#[test]
fn br_netfilter_without_rules_is_a_check_of_packets() {
    let checks = |change: &dyn Fn(&mut Model)| {
        let mut model = model(false);
        change(&mut model);
        let flags = plan_of(&model, &config()).ports[&TAP].entry.flags;
        assert_ne!(flags & INGRESS, 0);
        [CHECK_IPV4, CHECK_IPV6].map(|bit| flags & bit != 0)
    };
    let option = |model: &mut Model| link(model, BRIDGE).bridge.as_mut().unwrap().nf_call_iptables = true;
    assert_eq!(checks(&|_| {}), [false, false]);
    assert_eq!(checks(&|model| model.bypass.br_netfilter = Some((true, false, true))), [true, false]);
    assert_eq!(checks(&|model| model.bypass.br_netfilter = Some((false, true, false))), [false, true]);
    assert_eq!(checks(&|model| option(model)), [false, false], "without br_netfilter, the option does nothing");
    let both = |model: &mut Model| {
        option(model);
        model.bypass.br_netfilter = Some((false, false, false));
    };
    assert_eq!(checks(&both), [true, false]);
    // Behind tags it does not look by itself; if it was told to, all of the bridge is left to it.
    let slow = |calls| {
        reason_after(TAP, |model| {
            model.bypass.br_netfilter = Some((calls, false, false));
            model.bypass.br_netfilter_encapsulated = true;
        })
    };
    assert_eq!(slow(true), Some(Reason::Netfilter));
    assert_eq!(slow(false), None);
}

#[test]
fn what_redirected_frames_would_not_meet_closes_the_egress_alone() {
    let mut model = model(false);
    model.bypass.egress_missed.insert(TAP, "x".into());
    let bits = INGRESS | EGRESS | EGRESS_XDP | EGRESS_POLICY;
    let flags = |config: &RunConfig| plan_of(&model, config).ports[&TAP].entry.flags & bits;
    assert_eq!(flags(&config()), INGRESS | EGRESS_POLICY);
    let overruled = RunConfig { overrule: [Reason::EgressPolicy].into(), ..config() };
    assert_eq!(flags(&overruled), INGRESS | EGRESS | EGRESS_XDP);
}

#[test]
fn port_options_become_flags() {
    let mut model = model(true);
    *attrs(&mut model, TAP) =
        PortAttrs { state: Some(3), isolated: true, locked: true, learning: false, ..PortAttrs::default() };
    let flags = plan_of(&model, &config()).ports[&TAP].entry.flags;
    assert_eq!(flags & (ISOLATED | LOCKED | LEARNING), ISOLATED | LOCKED);
    // Ageing time 0: the bridge learns nothing at all.
    link(&mut model, BRIDGE).bridge.as_mut().unwrap().ageing_time = 0;
    let nic = &plan_of(&model, &config()).ports[&NIC].entry;
    assert_eq!((nic.flags & LEARNING, nic.refresh_interval), (0, 0));
}

#[test]
fn a_port_with_a_backup_is_left_to_the_bridge_as_egress() {
    let mut model = model(true);
    attrs(&mut model, TAP).backup_port = Some(NIC);
    let plan = plan_of(&model, &config());
    assert_eq!(plan.ports[&TAP].entry.flags & (INGRESS | EGRESS | EGRESS_XDP), INGRESS);
    assert_eq!(plan.ports[&NIC].entry.flags & (INGRESS | EGRESS), INGRESS | EGRESS);
}

#[test]
fn the_refresh_interval_follows_what_may_age_entries() {
    let second = 1_000_000_000;
    let interval = |change: fn(&mut BridgeAttrs)| {
        let mut model = model(false);
        let attrs = link(&mut model, BRIDGE).bridge.as_mut().unwrap();
        (attrs.ageing_time, attrs.forward_delay) = (32 * 100, 16 * 100);
        change(attrs);
        plan_of(&model, &config()).ports[&TAP].entry.refresh_interval
    };
    assert_eq!(interval(|_| {}), second);
    assert_eq!(interval(|attrs| attrs.topology_change = true), second / 2);
    // The kernel's STP announces no topology change: as if there was one.
    assert_eq!(interval(|attrs| attrs.stp_state = 1), second / 2);
    assert_eq!(interval(|attrs| attrs.stp_state = 2), second);
    assert_eq!(interval(|attrs| (attrs.stp_state, attrs.forward_delay) = (1, 0)), second);
    assert_eq!(interval(|attrs| (attrs.stp_state, attrs.ageing_time) = (1, 0)), 0);
}

#[test]
fn vlans_that_do_not_forward_or_are_tunnelled_are_no_members() {
    let mut model = model(true);
    let vlans = model.vlans.get_mut(&TAP).unwrap();
    vlans[0].state = Some(4);
    assert!(!plan_of(&model, &config()).ports[&TAP].entry.is_member(10));
    let vlans = model.vlans.get_mut(&TAP).unwrap();
    vlans[0].state = None;
    assert!(!plan_of(&model, &config()).ports[&TAP].entry.is_member(10), "not said is not forwarding");
    let vlans = model.vlans.get_mut(&TAP).unwrap();
    (vlans[0].state, vlans[0].tunnel) = (Some(3), true);
    assert!(!plan_of(&model, &config()).ports[&TAP].entry.is_member(10));
}

#[test]
fn fdb_entries_belong_to_the_filtering_mode() {
    let aware = plan_of(&model(true), &config());
    let unaware = plan_of(&model(false), &config());
    let key = |vlan| KernelKey { bridge: BRIDGE, vlan, mac: [2, 0, 0, 0, 0, 9] };
    let entry = FdbEntry { port: TAP, ..FdbEntry::default() };
    let base = aware.bridges[&BRIDGE].fid_base.unwrap();
    let (at, slot, flags) = fdb_entry(&aware, &key(10), &entry).unwrap();
    assert_eq!(at, FdbKey::new(base + 10, Mac::new([2, 0, 0, 0, 0, 9])));
    assert_eq!((Some(slot), flags), (aware.ports[&TAP].slot, 0));
    assert_eq!(fdb_entry(&aware, &key(0), &entry), None);
    assert_eq!(fdb_entry(&unaware, &key(10), &entry), None);
    assert!(fdb_entry(&unaware, &key(0), &entry).is_some());
    assert_eq!(fdb_entry(&unaware, &key(0), &FdbEntry { port: 77, ..entry }), None, "not a port of the bridge");
}

#[test]
fn kinds_of_fdb_entries_become_flags() {
    let plan = plan_of(&model(false), &config());
    let key = KernelKey { bridge: BRIDGE, vlan: 0, mac: [2, 0, 0, 0, 0, 9] };
    let entry = FdbEntry { port: TAP, ..FdbEntry::default() };
    for (entry, expected) in [
        (FdbEntry { local: true, is_static: true, ..entry }, fdb_flags::LOCAL | fdb_flags::STATIC),
        (FdbEntry { sticky: true, ..entry }, fdb_flags::STICKY),
        (FdbEntry { locked: true, ..entry }, fdb_flags::OPAQUE),
        (FdbEntry { unknown: true, ..entry }, fdb_flags::OPAQUE),
        (FdbEntry { offloaded: true, ..entry }, fdb_flags::OPAQUE),
        (FdbEntry { extern_learn: true, ..entry }, fdb_flags::STATIC),
        (FdbEntry { is_static: true, ..entry }, fdb_flags::STATIC),
        // Its frames have to reach the bridge now and then, or user space hears that it fell silent.
        (FdbEntry { is_static: true, watched: true, ..entry }, 0),
        (FdbEntry { extern_learn: true, watched: true, ..entry }, 0),
    ] {
        assert_eq!(fdb_entry(&plan, &key, &entry).unwrap().2, expected, "{entry:?}");
    }
}
