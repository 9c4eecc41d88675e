//! What becomes of a plan when something has changed about a few devices: the same as a new plan.

use super::*;

const VLAN: IfIndex = 10;
const SECOND: IfIndex = 11;
const OTHER: IfIndex = 12;

fn range(first: u16, last: u16) -> VlanRange {
    VlanRange { first, last, state: Some(3), ..VlanRange::default() }
}

/// br0 with two taps, br1 with a VLAN device of the NIC; both VLAN-aware.
fn two_bridges() -> Model {
    let mut model = model(true);
    let below = link(&mut model, NIC);
    (below.master, below.port) = (None, None);
    let other = Link { ifindex: OTHER, name: "br1".into(), ..model.links[&BRIDGE].clone() };
    let tap = model.links[&TAP].clone();
    let second = Link { ifindex: SECOND, name: "tap1".into(), ..tap.clone() };
    let vlan = Link {
        ifindex: VLAN,
        name: "eth0.10".into(),
        kind: Some("vlan".into()),
        master: Some(OTHER),
        lower: Some(NIC),
        vlan: Some((10, 0x8100)),
        vlan_attrs: crate::model::VlanAttrs { reorder_hdr: true, ..Default::default() },
        qdisc: "noqueue".into(),
        ..tap
    };
    model.links.extend([other, second, vlan].map(|link| (link.ifindex, link)));
    model.vlans.remove(&NIC);
    model.vlans.insert(SECOND, vec![range(10, 10), range(20, 30)]);
    model.vlans.insert(VLAN, vec![range(1, 4094)]);
    model
}

/// The change of the plan after `edit` of these devices, which leads to what a new plan is. `None`: it takes a new plan.
fn change_after(devices: &[IfIndex], edit: impl FnOnce(&mut Model)) -> Option<Change> {
    let (mut model, config, mut numbers) = (two_bridges(), config(), Numbers::default());
    let served = BTreeSet::from(["br0".to_owned(), "br1".to_owned()]);
    let mut plan_now = |model: &Model| plan(model, &config, &served, &mut numbers, &Refusals::new());
    let mut before = plan_now(&model);
    edit(&mut model);
    let new = plan_now(&model);
    let change = before.change(&model, &config, &Refusals::new(), &devices.iter().copied().collect())?;
    before.make(change.clone());
    assert_eq!(before, new);
    Some(change)
}

#[test]
fn a_change_leads_to_what_a_new_plan_is() {
    type Case = (&'static str, IfIndex, Box<dyn FnOnce(&mut Model)>);
    let vlans = |port, ranges: &'static [(u16, u16)]| -> Box<dyn FnOnce(&mut Model)> {
        let ranges: Vec<_> = ranges.iter().map(|(first, last)| range(*first, *last)).collect();
        Box::new(move |model| drop(model.vlans.insert(port, ranges)))
    };
    let cases: Vec<Case> = vec![
        ("a VLAN that no port had", TAP, vlans(TAP, &[(10, 10), (40, 40)])),
        ("a VLAN that another port has", TAP, vlans(TAP, &[(10, 10), (25, 25)])),
        ("VLANs that no other port has", SECOND, vlans(SECOND, &[(10, 10)])),
        ("no VLAN any more", SECOND, Box::new(|model| drop(model.vlans.remove(&SECOND)))),
        ("a VLAN of the last port of a bridge", VLAN, vlans(VLAN, &[(1, 99), (101, 4094)])),
        ("PVID", TAP, Box::new(|model| model.vlans.get_mut(&TAP).unwrap()[0].pvid = false)),
        ("VLAN state", TAP, Box::new(|model| model.vlans.get_mut(&TAP).unwrap()[0].state = Some(4))),
        ("port state", TAP, Box::new(|model| attrs(model, TAP).state = Some(4))),
        ("isolated", TAP, Box::new(|model| attrs(model, TAP).isolated = true)),
        ("carrier", TAP, Box::new(|model| link(model, TAP).carrier = false)),
        ("MTU", TAP, Box::new(|model| link(model, TAP).mtu = 9000)),
        ("filter", TAP, Box::new(|model| drop(model.bypass.ingress_filters.insert(TAP, "x".into())))),
        (
            "driver of the device below",
            NIC,
            Box::new(|model| {
                model.bypass.xdp_features.insert(NIC, 0b111);
            }),
        ),
    ];
    for (name, device, edit) in cases {
        let change = change_after(&[device], edit);
        assert!(change.is_some_and(|change| change != Change::default()), "{name}");
    }
    let mut both = change_after(&[TAP, SECOND], |model| {
        model.vlans.insert(TAP, vec![range(20, 20)]);
        model.vlans.insert(SECOND, vec![range(30, 31)]);
    })
    .unwrap();
    assert_eq!(both.ports.keys().copied().collect::<Vec<_>>(), [TAP, SECOND]);
    assert_eq!(both.vlans.remove(&BRIDGE).unwrap().iter().collect::<Vec<_>>(), [20, 30, 31]);
    assert!(both.vlans.is_empty());
}

#[test]
fn what_is_the_same_is_no_change() {
    let unchanged = Some(Change::default());
    assert_eq!(change_after(&[TAP, SECOND, NIC, VLAN], |_| {}), unchanged);
    assert_eq!(change_after(&[TAP], |model| link(model, TAP).stats.rx_packets = 9), unchanged);
    assert_eq!(change_after(&[99], |_| {}), unchanged, "a device that is nobody's");
}

#[test]
fn what_changes_more_than_entries_takes_a_new_plan() {
    assert_eq!(change_after(&[NIC], |model| link(model, NIC).carrier = false), None, "another place to serve the port");
    assert_eq!(change_after(&[VLAN], |model| link(model, VLAN).qdisc = "tbf".into()), None, "another way out");
    let renamed = |model: &mut Model| link(model, TAP).name = "tap9".into();
    assert_eq!(change_after(&[TAP], renamed), None, "another name");
    assert_eq!(change_after(&[TAP], |model| drop(model.links.remove(&TAP))), None, "gone");
}
