//! The bridge's and its ports' properties, one by one, on a VLAN-unaware bridge.

#[path = "attributes/addresses.rs"]
mod addresses;
#[path = "attributes/bridge.rs"]
mod bridge;
#[path = "attributes/entries.rs"]
mod entries;
#[path = "attributes/ports.rs"]
mod ports;
#[path = "attributes/timers.rs"]
mod timers;

use anyhow::Result;
use xbr_tests::{
    frame::{Frame, Mac},
    net::Kind,
    probe::Need,
};

use super::{
    Test,
    observe::Probe,
    scene::Scene,
    settings::{everybody, probe},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("attributes::isolated", ports::isolated, &[]),
    test("attributes::hairpin", ports::hairpin, &[]),
    test("attributes::learning", ports::learning, &[]),
    test("attributes::flooding", ports::flooding, &[]),
    test("attributes::locked", ports::locked, &[]),
    test("attributes::mab", ports::mab, &[Need::Kernel(6, 2)]),
    test("attributes::backup_port", ports::backup_port, &[]),
    test("attributes::port_states", ports::port_states, &[]),
    test("attributes::idle_port_options", ports::idle_options, &[]),
    test("attributes::a_port_that_joins_again_is_reset", ports::joins_again, &[]),
    test("attributes::a_port_without_room_for_a_hook", ports::no_room_for_a_hook, &[Need::Tcx]),
    test("attributes::neighbour_suppression", addresses::neighbour_suppression, &[]),
    test("attributes::link_local", addresses::link_local, &[]),
    test("attributes::protocols", addresses::protocols, &[]),
    test("attributes::own_addresses", addresses::own_addresses, &[]),
    test("attributes::ipv6", addresses::ipv6, &[]),
    test("attributes::bridge_down_and_promiscuous", bridge::down_and_promiscuous, &[]),
    test("attributes::idle_bridge_options", bridge::idle_options, &[]),
    test("attributes::fdb_local_vlan_0", bridge::fdb_local_vlan_0, &[Need::Kernel(6, 18)]),
    test("attributes::no_linklocal_learn", bridge::no_linklocal_learn, &[]),
    test("attributes::fdb_max_learned", bridge::fdb_max_learned, &[Need::Kernel(6, 7)]),
    test("attributes::kinds_of_entries", entries::kinds, &[]),
    test("attributes::a_watched_entry_stays_active", entries::a_watched_entry_stays_active, &[]),
    test("attributes::ageing_time", timers::ageing_time, &[]),
    test("attributes::ageing_is_shortened", timers::ageing_is_shortened, &[]),
    test("attributes::a_port_forwards_by_itself", timers::a_port_forwards_by_itself, &[]),
    test("attributes::kernel_stp_and_a_topology_change", timers::kernel_stp, &[]),
];

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

/// A station that is behind whoever sends with its address.
const STATION: Mac = [2, 0x0b, 0, 0, 0, 0x70];

/// A bridge with g1, g2 and g3, whose ports have the same names and whose addresses end in their numbers.
fn scene() -> Result<Scene> {
    Scene::new(&THREE)
}

/// Plain frames of everybody to everybody, and these.
fn probes(scene: &Scene, more: impl FnOnce([Mac; 3]) -> Vec<(usize, Frame)>) -> Vec<Probe> {
    let mut probes = everybody(scene, &[&[]]);
    let [one, two, three] = scene.first();
    probes.extend(more([one.mac, two.mac, three.mac]).into_iter().map(|(from, frame)| probe(from, frame)));
    probes
}
