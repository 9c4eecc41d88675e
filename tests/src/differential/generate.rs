//! Scenarios from seeds: a topology with its configuration, frames, changes, more frames.

mod changes;
mod config;
mod frames;

use super::{
    dice::Dice,
    scenario::{Scenario, Step},
    spec::Spec,
    universe::{NICS, TAPS, VETHS},
};
use crate::{frame::Mac, probe::Need};

/// VLANs that ports are given.
pub(super) const VLANS: [u16; 5] = [1, 10, 20, 30, 4094];
/// So many seeds in a row share the ports that xbr serves by XDP, and thus a world.
const CHUNK: u64 = 64;

/// What the running kernel lets scenarios have.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Bridges that filter VLANs.
    pub vlans: bool,
    /// 802.1Q devices.
    pub vlan_devices: bool,
    /// Tags in metadata on the way in.
    pub metadata: bool,
}

impl Abilities {
    /// Those of the running kernel.
    pub fn probe() -> Self {
        Self { vlans: Need::VlanFiltering.met(), vlan_devices: Need::VlanDevice.met(), metadata: Need::Tcx.met() }
    }

    /// What is left out, for people.
    pub fn missing(&self) -> Vec<String> {
        let needs = [
            (self.vlans, Need::VlanFiltering, "VLAN-aware bridges"),
            (self.vlan_devices, Need::VlanDevice, "VLAN devices on bridges"),
            (self.metadata, Need::Tcx, "tags in metadata"),
        ];
        let lacking = needs.into_iter().filter(|(met, ..)| !met);
        lacking.map(|(_, need, what)| format!("no {what}: {need}")).collect()
    }
}

/// What is known of a port while a scenario is made up.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) bridge: &'static str,
    pub(super) mtu: usize,
    /// Addresses of the hosts behind it.
    pub(super) hosts: Vec<Mac>,
    /// VLANs that it is in, more or less: changes may have been refused.
    pub(super) vids: Vec<u16>,
}

/// A scenario in the making.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent property of the bridge")]
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) dice: Dice,
    pub(super) can: Abilities,
    pub(super) ports: Vec<Port>,
    /// br0 filters VLANs.
    pub(super) aware: bool,
    /// Its protocol is 802.1ad.
    pub(super) ad: bool,
    pub(super) second_bridge: bool,
    /// br0 forgets at once what it learns (ageing time 0): entries that age vanish at a moment of the kernel's choice.
    pub(super) forgetful: bool,
    /// VLAN devices on br0.
    pub(super) uppers: Vec<&'static str>,
    pub(super) steps: Vec<Step>,
}

/// The ports that xbr serves by XDP in the world of this seed.
pub fn xdp_ports(seed: u64) -> Vec<String> {
    let mut dice = Dice::new(!(seed / CHUNK));
    let count = dice.below(NICS.len() + 1);
    NICS.iter().take(count).map(|port| (*port).to_owned()).collect()
}

/// The scenario of this seed.
pub fn generate(seed: u64, can: Abilities) -> Scenario {
    let mut draft = Draft {
        dice: Dice::new(seed),
        can,
        ports: Vec::new(),
        aware: false,
        ad: false,
        second_bridge: false,
        forgetful: false,
        uppers: Vec::new(),
        steps: Vec::new(),
    };
    draft.configure();
    draft.hello();
    let count = draft.dice.between(15, 40);
    draft.traffic(count);
    for _ in 0..draft.dice.between(1, 5) {
        draft.change();
        if draft.dice.chance(50) {
            draft.hello();
        }
        let count = draft.dice.between(8, 24);
        draft.traffic(count);
    }
    Scenario {
        about: String::new(),
        seed,
        vlans: draft.aware || uses_vlans(&draft.steps),
        xdp: xdp_ports(seed),
        steps: draft.steps,
    }
}

fn uses_vlans(steps: &[Step]) -> bool {
    steps.iter().any(|step| match step {
        Step::Ip(lines) | Step::Bridge(lines) => lines.iter().any(|line| line.contains("vlan")),
        Step::Fdb(_) | Step::Far(_) | Step::Await(_) | Step::Age | Step::Restart(_) | Step::Frames(_) => false,
    })
}

impl Draft {
    /// Any port.
    pub(super) fn port(&mut self) -> usize {
        self.dice.below(self.ports.len())
    }

    /// Frames, as a step.
    pub(super) fn send(&mut self, frames: Vec<Spec>) {
        if !frames.is_empty() {
            self.steps.push(Step::Frames(frames));
        }
    }
}

/// Ports of every kind, shuffled.
pub(super) fn shuffled_ports(dice: &mut Dice) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = VETHS.into_iter().chain(TAPS).chain(NICS).collect();
    for place in (1..names.len()).rev() {
        names.swap(place, dice.below(place + 1));
    }
    names
}
