//! VLAN devices as ports: where they are served.

use bridge_common::{frame::Tag, maps::port_flags::VIRTUAL_XDP};

use super::*;
use crate::model::VlanAttrs;

const VLAN: IfIndex = 10;

/// br0 with the tap and, in place of the NIC, the NIC's VLAN device eth0.10.
fn stacked() -> Model {
    let mut model = model(false);
    let below = link(&mut model, NIC);
    (below.master, below.port) = (None, None);
    let port = PortAttrs { state: Some(3), learning: true, ..PortAttrs::default() };
    let vlan = Link {
        ifindex: VLAN,
        name: "eth0.10".into(),
        mtu: 1400,
        up: true,
        carrier: true,
        kind: Some("vlan".into()),
        lower: Some(NIC),
        vlan: Some((10, 0x8100)),
        vlan_attrs: VlanAttrs { reorder_hdr: true, ..VlanAttrs::default() },
        master: Some(BRIDGE),
        qdisc: "noqueue".into(),
        port: Some(port),
        ..Link::default()
    };
    model.links.insert(VLAN, vlan);
    model
}

#[test]
fn a_vlan_port_is_served_on_the_device_below_both_ways() {
    let plan = plan_of(&stacked(), &config());
    let port = &plan.ports[&VLAN];
    assert_eq!(port.slow, None);
    let tag = Tag::new(0x8100, 10);
    assert_eq!(port.parent, Some(Parent { ifindex: NIC, name: "eth0".into(), tag, leaves: true }));
    assert_eq!((port.entry.ifindex, port.entry.outer_tag(), port.entry.max_len), (NIC, Some(tag), 1418));
    assert_eq!(port.entry.flags & (INGRESS | EGRESS | EGRESS_XDP), INGRESS | EGRESS, "an old kernel's NIC and XDP");
    assert_eq!(port.device(VLAN), NIC);
    let devices: Vec<_> = plan.devices.iter().map(|(ifindex, device)| (*ifindex, device.hook.xdp)).collect();
    assert_eq!(devices, [(TAP, false), (NIC, true)], "programs are attached to the tap and once to the NIC");
    assert_eq!(plan.below, BTreeSet::from([NIC]));
    let mut model = stacked();
    model.bypass.xdp_features.insert(NIC, 0b111);
    assert_ne!(plan_of(&model, &config()).ports[&VLAN].entry.flags & EGRESS_XDP, 0, "by the driver of the NIC");
    link(&mut model, NIC).qdisc = "htb".into();
    assert_eq!(plan_of(&model, &config()).ports[&VLAN].entry.flags & EGRESS_XDP, 0, "a shaping qdisc of the NIC");
}

/// A name, what makes the difference, and a part of the text that says why.
type OwnCase = (&'static str, Box<dyn FnOnce(&mut Model, &mut RunConfig)>, &'static str);

#[test]
fn what_is_not_certain_on_the_device_below_is_served_on_the_vlan_device() {
    let cases: Vec<OwnCase> = vec![
        ("port of a bridge or bond", Box::new(|model, _| link(model, NIC).master = Some(99)), "port of another"),
        (
            "bridge",
            Box::new(|model, _| (link(model, NIC).kind, link(model, NIC).physical) = (Some("bridge".into()), false)),
            "is a bridge",
        ),
        (
            "VLAN device",
            Box::new(|model, _| (link(model, NIC).kind, link(model, NIC).physical) = (Some("vlan".into()), false)),
            "is a vlan",
        ),
        ("kind unknown", Box::new(|model, _| link(model, NIC).physical = false), "unknown kind"),
        ("down", Box::new(|model, _| link(model, NIC).up = false), "down"),
        ("no carrier", Box::new(|model, _| link(model, NIC).carrier = false), "no carrier"),
        ("other namespace", Box::new(|model, _| link(model, VLAN).lower_elsewhere = true), "another network namespace"),
        ("reorder_hdr off", Box::new(|model, _| link(model, VLAN).vlan_attrs.reorder_hdr = false), "reorder_hdr"),
        ("ingress map", Box::new(|model, _| link(model, VLAN).vlan_attrs.ingress_map = true), "priorities"),
        ("egress map", Box::new(|model, _| link(model, VLAN).vlan_attrs.egress_map = true), "priorities"),
        ("VLAN id 0", Box::new(|model, _| link(model, VLAN).vlan = Some((0, 0x8100))), "VLAN id 0"),
        ("no learning", Box::new(|model, _| attrs(model, VLAN).learning = false), "does not learn"),
        (
            "no learning at all",
            Box::new(|model, _| link(model, BRIDGE).bridge.as_mut().unwrap().ageing_time = 0),
            "does not learn",
        ),
        ("foreign XDP", Box::new(|model, _| link(model, NIC).xdp.push(7)), "XDP program 7"),
        (
            "ingress filter",
            Box::new(|model, _| drop(model.bypass.ingress_filters.insert(NIC, "tc filter x".into()))),
            "tc filter x",
        ),
        (
            "switch ports",
            Box::new(|model, _| {
                let user = Link {
                    ifindex: 30,
                    name: "lan1".into(),
                    kind: Some("dsa".into()),
                    lower: Some(NIC),
                    ..Link::default()
                };
                model.links.insert(30, user);
            }),
            "switch port lan1",
        ),
        (
            "chosen",
            Box::new(|_, config| {
                config.hooks.insert("eth0.10".into(), HookChoice::Tc);
            }),
            "chosen by --hook",
        ),
        (
            "eth0 left alone",
            Box::new(|_, config| {
                config.hooks.insert("eth0".into(), HookChoice::Off);
            }),
            "turned off",
        ),
    ];
    for (name, change, why) in cases {
        let (mut model, mut config) = (stacked(), config());
        change(&mut model, &mut config);
        let plan = plan_of(&model, &config);
        let port = &plan.ports[&VLAN];
        assert_eq!((&port.parent, &port.slow), (&None, &None), "{name}");
        assert_eq!((port.entry.ifindex, port.entry.outer), (VLAN, 0), "{name}");
        assert!(port.hook.tc && !port.hook.xdp && port.hook.why.contains(why), "{name}: {}", port.hook.why);
        assert!(plan.devices.contains_key(&VLAN) && !plan.devices.contains_key(&NIC), "{name}");
    }
    // A refused hook on the device below is no reason to give up.
    let refused = Refusals::from([(NIC, Slow::new(Reason::NoHook, "busy"))]);
    let served = BTreeSet::from(["br0".to_owned()]);
    let plan = plan(&stacked(), &config(), &served, &mut Numbers::default(), &refused);
    assert_eq!((&plan.ports[&VLAN].parent, &plan.ports[&VLAN].slow), (&None, &None));
}

#[test]
fn what_is_found_on_the_vlan_device_itself_keeps_it_slow() {
    let reason = |change: fn(&mut Model)| {
        let mut model = stacked();
        change(&mut model);
        plan_of(&model, &config()).ports[&VLAN].slow.as_ref().map(|slow| slow.reason)
    };
    assert_eq!(reason(|model| drop(model.bypass.ingress_filters.insert(VLAN, "x".into()))), Some(Reason::TcFilter));
    assert_eq!(reason(|model| link(model, VLAN).xdp.push(7)), Some(Reason::ForeignXdp));
    assert_eq!(reason(|model| link(model, VLAN).up = false), Some(Reason::PortState));
    assert_eq!(reason(|model| link(model, VLAN).carrier = false), Some(Reason::PortState));
    let stripped = |model: &mut Model| {
        model.bypass.rx_vlan_offload.insert(NIC, true);
    };
    assert_eq!(reason(stripped), Some(Reason::RxVlanOffload), "XDP would take the inner tag for the outer one");
    let upper = |model: &mut Model| {
        let kind = Some("macvlan".to_owned());
        model.links.insert(40, Link { ifindex: 40, kind, lower: Some(VLAN), ..Link::default() });
    };
    assert_eq!(reason(upper), Some(Reason::VlanUpper));
    // VLAN and macvlan devices on the NIC come after the look for a VLAN device.
    let beside = |model: &mut Model| {
        let link = |ifindex, kind: &str| Link { ifindex, kind: Some(kind.into()), lower: Some(NIC), ..Link::default() };
        model.links.extend([(41, link(41, "macvlan")), (42, link(42, "vlan"))]);
    };
    assert_eq!(reason(beside), None);
}

#[test]
fn what_is_on_the_vlan_devices_egress_sees_frames_there() {
    for change in
        [(|model: &mut Model| link(model, VLAN).qdisc = "htb".into()) as fn(&mut Model), |model: &mut Model| {
            drop(model.bypass.egress_filters.insert(VLAN, "x".into()));
        }]
    {
        let mut model = stacked();
        model.bypass.xdp_features.insert(NIC, 0b111);
        change(&mut model);
        let port = &plan_of(&model, &config()).ports[&VLAN];
        assert!(port.parent.as_ref().is_some_and(|parent| !parent.leaves), "frames still come in at the NIC");
        assert_eq!((port.entry.ifindex, port.entry.outer), (VLAN, 0));
        assert_eq!(port.entry.flags & (INGRESS | EGRESS | EGRESS_XDP), INGRESS | EGRESS);
    }
}

#[test]
fn options_name_the_vlan_port_or_the_device_below() {
    let port = |change: fn(&mut RunConfig)| {
        let mut config = config();
        change(&mut config);
        let mut plan = plan_of(&stacked(), &config);
        (plan.ports.remove(&VLAN).unwrap(), plan.devices)
    };
    let (by_tc, _) = port(|config| {
        config.hooks.insert("eth0".into(), HookChoice::Tc);
    });
    assert!(by_tc.parent.is_some() && by_tc.hook.tc && !by_tc.hook.xdp);
    let (off, devices) = port(|config| {
        config.hooks.insert("eth0.10".into(), HookChoice::Off);
    });
    assert_eq!((off.slow.unwrap().reason, off.entry.flags & (INGRESS | EGRESS)), (Reason::TurnedOff, 0));
    assert!(!devices.contains_key(&NIC) && !devices.contains_key(&VLAN));
    for name in ["eth0", "eth0.10"] {
        let mut config = config();
        config.ports.insert(name.into());
        let plan = plan_of(&stacked(), &config);
        assert_eq!(plan.ports[&VLAN].slow, None, "--port {name}");
        assert_eq!(plan.ports[&TAP].slow.as_ref().unwrap().reason, Reason::NotSelected);
    }
    let (other, devices) = port(|config| {
        config.ports.insert("tap0".into());
    });
    assert_eq!(other.slow.unwrap().reason, Reason::NotSelected);
    assert!(!devices.contains_key(&NIC) && other.entry.flags & EGRESS != 0);
    // On a virtual device XDP has to be asked for, by either name.
    for name in ["eth0", "eth0.10"] {
        let (mut model, mut config) = (stacked(), config());
        (link(&mut model, NIC).physical, link(&mut model, NIC).kind) = (false, Some("veth".into()));
        assert!(!plan_of(&model, &config).devices[&NIC].hook.xdp);
        config.hooks.insert(name.into(), HookChoice::Xdp);
        let plan = plan_of(&model, &config);
        assert!(plan.devices[&NIC].hook.xdp && plan.devices[&NIC].hook.is_virtual, "--hook {name}=xdp");
        assert_ne!(plan.ports[&VLAN].entry.flags & VIRTUAL_XDP, 0);
    }
}

#[test]
fn only_vlan_devices_have_a_device_below_and_only_in_this_namespace() {
    let mut model = stacked();
    let found = |model: &Model, ifindex| below(model, &model.links[&ifindex]).map(|below| below.ifindex);
    assert_eq!(found(&model, VLAN), Some(NIC));
    // A veth's far end is no device below it.
    link(&mut model, TAP).lower = Some(NIC);
    assert_eq!(found(&model, TAP), None);
    link(&mut model, VLAN).lower_elsewhere = true;
    assert_eq!(found(&model, VLAN), None);
}

#[test]
fn two_bridges_share_the_device_below() {
    let mut model = stacked();
    let bridge = Link { ifindex: 5, name: "br1".into(), ..model.links[&BRIDGE].clone() };
    let vlan = Link {
        ifindex: 20,
        name: "eth0.20".into(),
        vlan: Some((20, 0x88a8)),
        master: Some(5),
        ..model.links[&VLAN].clone()
    };
    model.links.extend([(5, bridge), (20, vlan)]);
    let served = BTreeSet::from(["br0".to_owned(), "br1".to_owned()]);
    let plan = plan(&model, &config(), &served, &mut Numbers::default(), &Refusals::new());
    let [one, other] = [&plan.ports[&VLAN], &plan.ports[&20]];
    assert_eq!((one.device(VLAN), other.device(20)), (NIC, NIC));
    assert_ne!((one.slot, one.entry.fid_base), (other.slot, other.entry.fid_base));
    assert_eq!(other.entry.outer_tag(), Some(Tag::new(0x88a8, 20)));
    assert_eq!(plan.devices.len(), 2, "the tap and the NIC");
}
