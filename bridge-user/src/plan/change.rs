//! What becomes of a plan when nothing has changed but the settings of a few devices.

use std::collections::{BTreeMap, BTreeSet};

use super::{Plan, PortPlan, Refusals, VlanSet, below, port, vlans_of};
use crate::{
    config::RunConfig,
    model::{IfIndex, Model},
};

/// What is different in a plan: entries of ports, and which VLANs bridges have. Everything else is as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The ports that are others now, by interface index.
    pub ports: BTreeMap<IfIndex, PortPlan>,
    /// The VLANs of the bridges that have others now, by interface index.
    pub vlans: BTreeMap<IfIndex, VlanSet>,
}

impl Plan {
    /// What [`super::plan`] would make another of, if since it made this plan no more has changed in the model than the
    /// links, the VLANs and the policy of `devices`, and these only so that each is to the others what it was: no bridge, and
    /// of the same kind, name, master, lower device and VLAN. `None`: more follows from it than a [`Change`] tells.
    ///
    /// The work does not grow with what the other ports have: a machine may have hundreds with thousands of VLANs each.
    pub fn change(
        &self,
        model: &Model,
        config: &RunConfig,
        refused: &Refusals,
        devices: &BTreeSet<IfIndex>,
    ) -> Option<Change> {
        let mut change = Change::default();
        let uppers = port::uppers(model);
        for (ifindex, old) in self.resting_on(model, devices) {
            let link = model.links.get(ifindex)?;
            let bridge = self.bridges.get(&old.bridge)?;
            let context = port::Context { model, config, bridge, uppers: &uppers, refusals: refused };
            let new = port::port(&context, old.bridge, link, old.slot);
            // What programs a device has, and which frames are whose, is planned as a whole.
            if (&new.name, &new.parent, &new.hook) != (&old.name, &old.parent, &old.hook) {
                return None;
            }
            if bridge.attrs.vlan_filtering {
                let vlans = change.vlans.entry(old.bridge).or_insert(bridge.vlans);
                *vlans = self.vlans_after(model, old.bridge, *ifindex, vlans);
            }
            if new != *old {
                change.ports.insert(*ifindex, new);
            }
        }
        change.vlans.retain(|bridge, vlans| self.bridges.get(bridge).is_some_and(|bridge| bridge.vlans != *vlans));
        Some(change)
    }

    /// The ports that are among `devices`, and those on VLAN devices that have one of them below.
    fn resting_on(&self, model: &Model, devices: &BTreeSet<IfIndex>) -> BTreeMap<&IfIndex, &PortPlan> {
        let mut ports: BTreeMap<_, _> = devices.iter().filter_map(|device| self.ports.get_key_value(device)).collect();
        if devices.iter().any(|device| self.below.contains(device)) {
            let is_above = |port: &IfIndex| {
                let below = model.links.get(port).and_then(|link| below(model, link));
                below.is_some_and(|below| devices.contains(&below.ifindex))
            };
            ports.extend(self.ports.iter().filter(|(port, _)| is_above(port)));
        }
        ports
    }

    /// The VLANs of a bridge that had `before`, of which one port has others now.
    fn vlans_after(&self, model: &Model, bridge: IfIndex, port: IfIndex, before: &VlanSet) -> VlanSet {
        let own = vlans_of(model, port);
        let mut gone = before.without(&own);
        for (other, _) in self.ports.iter().filter(|(_, other)| other.bridge == bridge) {
            if gone.is_empty() {
                break;
            }
            gone = gone.without(&vlans_of(model, *other));
        }
        before.or(&own).without(&gone)
    }

    /// Makes the change.
    pub fn make(&mut self, change: Change) {
        self.ports.extend(change.ports);
        for (index, vlans) in change.vlans {
            if let Some(bridge) = self.bridges.get_mut(&index) {
                bridge.vlans = vlans;
            }
        }
    }
}
