//! A few devices of which something was heard: the kernel is asked about these alone, and planned anew is no more than what
//! follows from them. A machine may have hundreds of ports with thousands of VLANs each.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Links, World};
use crate::{
    bypass::Device,
    datapath::sync::Announced,
    model::{IfIndex, Link},
    plan,
};

/// More devices than this at once are cheaper as dumps.
const FEW: usize = 16;

impl World {
    /// As [`Self::refresh_links`], of the devices of which something was heard, and of no others. What changes more than the
    /// settings of ports is not worth the distinction.
    pub(super) fn refresh_devices(&mut self) -> Result<(), Error> {
        let mut devices = std::mem::take(&mut self.dirty.devices);
        devices.extend(self.sync.watch.doubted(&self.tables));
        if devices.len() > FEW {
            return self.refresh_links();
        }
        let Some(announced) = self.ask_devices(&devices)? else { return self.refresh_links() };
        // A device that is made on top of another one is announced a little later than that one's change, but under the same
        // lock, which the answers have waited for. In another namespace it is not announced here.
        if self.hear_more() || self.uppers_changed()? {
            return self.refresh_links();
        }
        let inspected = self.inspected(|link| {
            let is_one = |device: &IfIndex| devices.contains(device);
            is_one(&link.ifindex) || link.lower.is_some_and(|lower| is_one(&lower))
        });
        self.inventory.update(&mut self.model.bypass, &inspected, &self.own_programs)?;
        // Of a pair's far end, too, more may be known now.
        let touched = inspected.iter().map(|device| device.index).chain(devices.iter().copied());
        self.replan_devices(&touched.collect())?;
        let again = self.sync.watch.confirm_some(&mut self.tables, &announced, &devices);
        if again { self.refresh_links() } else { Ok(()) }
    }

    /// Asks, if that may be, whether other VLAN devices of other namespaces stand on devices of this one.
    fn uppers_changed(&mut self) -> Result<bool, Error> {
        if !std::mem::take(&mut self.dirty.uppers) {
            return Ok(false);
        }
        Ok(self.inventory.update_uppers(&mut self.model.bypass)?)
    }

    /// Asks for these devices and their VLANs. What had been announced before; `None`: one of them is a bridge, or what it is
    /// to others has changed.
    fn ask_devices(&mut self, devices: &BTreeSet<IfIndex>) -> Result<Option<Announced>, Error> {
        let mut announced = self.sync.watch.announced_of(&self.tables, devices);
        for attempt in 0..2 {
            for device in devices {
                if !self.ask_device(*device)? {
                    return Ok(None);
                }
            }
            // The kernel announces a change more than once, under a lock that its answer has waited for. Whoever asks the
            // same again knows that all of it is in the answers, and need not look at the device another time.
            let now = self.sync.watch.announced_of(&self.tables, devices);
            if attempt == 1 || now == announced {
                break;
            }
            announced = now;
        }
        for device in devices {
            match self.requests.vlans_of(*device)? {
                Some(vlans) => self.model.vlans.insert(*device, vlans),
                None => self.model.vlans.remove(device),
            };
        }
        Ok(Some(announced))
    }

    /// Asks for one device. `false`: it is a bridge, or what it is to others has changed.
    fn ask_device(&mut self, device: IfIndex) -> Result<bool, Error> {
        let Some(mut link) = self.requests.link(device)? else { return Ok(false) };
        link.xdp.retain(|id| !self.own_programs.contains(id));
        let known = self.model.links.get_mut(&device);
        let Some(known) = known.filter(|known| link.bridge.is_none() && is_same(known, &link)) else {
            return Ok(false);
        };
        *known = link;
        Ok(true)
    }

    /// The devices whose policy matters to the bridges, of those that are `wanted`: ports, and what these stand on.
    pub(super) fn inspected(&self, wanted: impl Fn(&Link) -> bool) -> Vec<Device> {
        let model = &self.model;
        let is_port = |link: &&Link| {
            let bridge = link.master.and_then(|master| model.links.get(&master));
            bridge.is_some_and(|bridge| self.served.contains(&bridge.name))
        };
        let mut devices = BTreeMap::new();
        for port in model.links.values().filter(is_port) {
            let all = std::iter::once(port).chain(plan::below(model, port));
            devices.extend(all.filter(|link| wanted(link)).map(|link| (link.ifindex, Device::from(link))));
        }
        devices.into_values().collect()
    }

    /// Plans anew what follows from these devices.
    fn replan_devices(&mut self, devices: &BTreeSet<IfIndex>) -> Result<(), Error> {
        // With the poll, refusals are forgotten, of other devices as well.
        let alone = self.dirty.links == Links::Nothing && !self.sync.is_stale();
        let change = alone.then(|| self.plan.change(&self.model, &self.config, self.attachments.refused(), devices));
        let Some(change) = change.flatten() else { return self.replan() };
        self.sync.apply_change(&mut self.tables, &self.plan, &change)?;
        self.plan.make(change);
        self.announce();
        Ok(())
    }
}

/// Whether a device is to others what it was: then nothing has changed but its own settings.
pub(super) fn is_same(known: &Link, new: &Link) -> bool {
    let lower = |link: &Link| (link.lower, link.lower_elsewhere, link.lower_namespace);
    let place = |link: &Link| (link.master, lower(link), link.vlan, link.physical, link.switchdev);
    known.name == new.name && known.kind == new.kind && place(known) == place(new) && known.bridge == new.bridge
}
