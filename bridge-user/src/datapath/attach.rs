//! Attaches the programs to ports and takes them off again, leaving each device as it was found.

mod shadow;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, TcAttachType, XdpMode,
    links::LinkOrder,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};
use bridge_common::reason::Reason;
use log::{info, warn};

use self::shadow::watch_egress;
use super::{
    Programs, clsact,
    guardian::{self, Guardian},
    load::{chain, xdp},
    undo::{Change, Undo},
};
use crate::{
    bypass::ethtool::{self, RxVlan},
    error::Failure,
    model::IfIndex,
    plan::{DevicePlan, Plan, Refusals, Slow},
};

/// Priority of our filter on a clsact qdisc: behind whatever somebody numbered by hand.
const CLSACT_PRIORITY: u16 = 0xbb00;

/// What is attached to one device. Dropping the links detaches the programs.
pub struct Hooked {
    name: String,
    tc: Option<SchedClassifierLink>,
    xdp: Option<XdpLink>,
    /// Shadow mode: the program on egress, or on the ingress of a bridge.
    watch: Option<SchedClassifierLink>,
    /// Since when `watch` is there, in nanoseconds of `CLOCK_MONOTONIC`.
    watched_since: u64,
    clsact_added: bool,
    /// What rx-vlan-offload was before it was turned off.
    rx_vlan_found: Option<RxVlan>,
    tcx: bool,
    /// XDP was wanted and could not be had.
    xdp_refused: Option<String>,
}

impl Hooked {
    fn new(name: &str, tcx: bool) -> Self {
        Self {
            name: name.to_owned(),
            tc: None,
            xdp: None,
            watch: None,
            watched_since: 0,
            clsact_added: false,
            rx_vlan_found: None,
            tcx,
            xdp_refused: None,
        }
    }

    /// As `xbr status` shows it.
    pub fn describe(&self) -> &'static str {
        match (self.xdp.is_some(), self.tc.is_some(), self.tcx) {
            (true, true, true) => "xdp+tcx",
            (true, true, false) => "xdp+tc",
            (false, true, true) => "tcx",
            (false, true, false) => "tc",
            _ => "none",
        }
    }

    /// Why XDP could not be had, if it was wanted.
    pub fn xdp_refused(&self) -> Option<&str> {
        self.xdp_refused.as_deref()
    }
}

/// Polls (one a second) after which refused devices are tried again, whatever happened.
const POLLS_PER_RETRY: u32 = 5;

/// All attachments of this instance.
pub struct Attachments {
    hooked: BTreeMap<IfIndex, Hooked>,
    /// Shadow mode: devices that are only looked at, bridges and ports that no `--port` names.
    lookouts: BTreeMap<IfIndex, Hooked>,
    refused: Refusals,
    /// Refusals that were warned about, not to be told again while they stay the same.
    told: BTreeMap<IfIndex, String>,
    doubted: bool,
    polls: u32,
    undo: Undo,
    guardian: Option<Guardian>,
    run_dir: PathBuf,
}

impl Attachments {
    /// Starts with nothing attached; puts back what a crashed instance left behind.
    pub fn new(run_dir: &Path) -> Result<Self, Failure> {
        let mut undo = Undo::open(run_dir).map_err(|error| {
            Failure::new(crate::error::Exit::Failed, format!("cannot use {}: {error}", run_dir.display()))
        })?;
        guardian::put_back(&mut undo);
        Ok(Self {
            hooked: BTreeMap::new(),
            lookouts: BTreeMap::new(),
            refused: Refusals::new(),
            told: BTreeMap::new(),
            doubted: false,
            polls: 0,
            undo,
            guardian: None,
            run_dir: run_dir.to_owned(),
        })
    }

    /// What is attached to a device.
    pub fn get(&self, ifindex: IfIndex) -> Option<&Hooked> {
        self.hooked.get(&ifindex)
    }

    /// Devices that could not be attached to, and why.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// Takes programs off the devices that the plan no longer has, or wants differently. Before the tables change.
    pub fn detach_outdated(&mut self, plan: &Plan) {
        self.follow_names(plan);
        let outdated: Vec<IfIndex> = self
            .hooked
            .iter()
            .filter(|(ifindex, hooked)| {
                plan.devices.get(ifindex).is_none_or(|device| {
                    // A VLAN port that joins later may want XDP on the device below it.
                    let as_wanted = hooked.xdp.is_some() == device.hook.xdp || hooked.xdp_refused.is_some();
                    !as_wanted
                })
            })
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in outdated {
            self.detach(ifindex);
        }
        self.leave_lookouts(plan);
        let known = |ifindex: &IfIndex| plan.ports.contains_key(ifindex) || plan.below.contains(ifindex);
        self.refused.retain(|ifindex, _| known(ifindex));
        self.told.retain(|ifindex, _| known(ifindex) || plan.bridges.contains_key(ifindex));
    }

    /// A device that was renamed is to be put back under its new name.
    fn follow_names(&mut self, plan: &Plan) {
        for (ifindex, hooked) in &mut self.hooked {
            if let Some(device) = plan.devices.get(ifindex).filter(|device| device.name != hooked.name) {
                hooked.name.clone_from(&device.name);
                self.undo.rename(*ifindex, &device.name);
            }
        }
    }

    /// Attaches to the devices that the plan wants and that have no program yet. After the tables changed. Returns whether
    /// a refusal appeared, which the plan has to learn.
    pub fn attach_missing(&mut self, programs: &mut Programs, plan: &Plan) -> bool {
        let mut changed = false;
        for (ifindex, device) in &plan.devices {
            if self.hooked.contains_key(ifindex) || self.refused.contains_key(ifindex) {
                continue;
            }
            match self.attach(programs, *ifindex, device) {
                Ok(hooked) => {
                    info!("{}: attached ({}: {})", device.name, hooked.describe(), device.hook.why);
                    self.hooked.insert(*ifindex, hooked);
                }
                Err(_) if vanished(*ifindex, &device.name) => {
                    info!("{}: gone before it could be attached to", device.name);
                }
                Err(why) => {
                    if self.told.insert(*ifindex, why.clone()).as_ref() != Some(&why) {
                        warn!("{}: not accelerated: {why}", device.name);
                    }
                    self.refused.insert(*ifindex, Slow { reason: Reason::NoHook, detail: why });
                    changed = true;
                }
            }
        }
        self.look_out(programs, plan);
        changed
    }

    /// Takes the programs off a device that has left the network namespace. Returns whether it had some.
    pub fn lose(&mut self, ifindex: IfIndex) -> bool {
        let had = self.hooked.contains_key(&ifindex);
        self.detach(ifindex);
        had
    }

    /// Something changed that may have been the reason of a refusal.
    pub fn doubt_refusals(&mut self) {
        self.doubted = true;
    }

    /// Tries refused devices again if something has changed, and every few polls, as tcx programs go without a notice. Not
    /// at once, but by the clock: trying and failing makes such changes itself.
    pub fn forget_doubted_refusals(&mut self) {
        self.polls = (self.polls + 1) % POLLS_PER_RETRY;
        if std::mem::take(&mut self.doubted) || self.polls == 0 {
            self.refused.clear();
        }
    }

    /// Takes everything off.
    pub fn detach_all(&mut self) {
        let all: Vec<IfIndex> = self.hooked.keys().copied().collect();
        for ifindex in all {
            self.detach(ifindex);
        }
        self.leave_lookouts(&Plan::default());
    }

    fn attach(&mut self, programs: &mut Programs, ifindex: IfIndex, device: &DevicePlan) -> Result<Hooked, String> {
        let mut hooked = Hooked::new(&device.name, programs.tcx);
        let attached = self
            .attach_tc(programs, ifindex, &mut hooked)
            .and_then(|()| if programs.entries.is_shadow() { watch_egress(programs, &mut hooked) } else { Ok(()) });
        if let Err(why) = attached {
            self.release(ifindex, hooked);
            return Err(why);
        }
        if device.hook.xdp
            && let Err(why) = self.attach_xdp(programs, ifindex, device, &mut hooked)
        {
            warn!("{}: no XDP, tc alone: {why}", device.name);
            hooked.xdp_refused = Some(why);
        }
        Ok(hooked)
    }

    fn attach_tc(&mut self, programs: &mut Programs, ifindex: IfIndex, hooked: &mut Hooked) -> Result<(), String> {
        let options = if programs.tcx {
            TcAttachOptions::TcxOrder(LinkOrder::last())
        } else {
            self.prepare_clsact(ifindex, hooked)?;
            TcAttachOptions::Netlink(NlOptions { priority: CLSACT_PRIORITY, ..NlOptions::default() })
        };
        let program = programs.entry(0).map_err(|failure| failure.to_string())?;
        let link = program
            .attach_with_options(&hooked.name, TcAttachType::Ingress, options)
            .and_then(|id| program.take_link(id))
            .map_err(|error| explain(&error))?;
        hooked.tc = Some(link);
        Ok(())
    }

    /// Before tcx: a clsact qdisc without leftovers, and a record of what will have to be taken off.
    fn prepare_clsact(&mut self, ifindex: IfIndex, hooked: &mut Hooked) -> Result<(), String> {
        clsact::remove_leftovers(ifindex).map_err(|error| error.to_string())?;
        hooked.clsact_added = clsact::ensure(ifindex).map_err(|error| error.to_string())?;
        if hooked.clsact_added {
            self.record(ifindex, &hooked.name, Change::ClsactAdded);
        }
        self.record(ifindex, &hooked.name, Change::FilterAdded);
        Ok(())
    }

    fn attach_xdp(
        &mut self,
        programs: &mut Programs,
        ifindex: IfIndex,
        device: &DevicePlan,
        hooked: &mut Hooked,
    ) -> Result<(), String> {
        let name = &device.name;
        if device.hook.is_virtual {
            warn!(
                "{name}: XDP on a virtual device: a VLAN tag or an unfinished checksum in skb metadata is invisible there; \
                 the sender must have tx-vlan-offload and tx checksumming off, or a frame may lose its tag or the checksum of a packet that it tunnels"
            );
        }
        if let Some(found) = ethtool::rx_vlan(name).ok().flatten().filter(|found| found.ctag || found.stag) {
            // Recorded first: a crash in between costs no more than turning on what is on.
            for (on, change) in offloads(found) {
                if on {
                    self.record(ifindex, name, change);
                }
            }
            hooked.rx_vlan_found = Some(found);
            if let Err(error) = ethtool::set_rx_vlan(name, RxVlan { ctag: false, stag: false }) {
                warn!("{name}: rx-vlan-offload cannot be turned off: {error}");
            }
        }
        let program = xdp(&mut programs.ebpf).map_err(|failure| failure.to_string())?;
        let attached = program.attach(name, XdpMode::Driver).and_then(|id| program.take_link(id));
        match attached {
            Ok(link) => {
                hooked.xdp = Some(link);
                Ok(())
            }
            Err(error) => {
                self.restore_rx_vlan(ifindex, hooked);
                Err(explain(&error))
            }
        }
    }

    /// Records a change that outlives this process, and sees to it that somebody puts it back.
    fn record(&mut self, ifindex: IfIndex, name: &str, change: Change) {
        self.undo.record(ifindex, name, change);
        if self.guardian.is_none() {
            match Guardian::start(&self.run_dir) {
                Ok(guardian) => self.guardian = Some(guardian),
                Err(error) => warn!("no guardian process ({error}): after a crash, run xbr undo"),
            }
        }
    }

    fn detach(&mut self, ifindex: IfIndex) {
        if let Some(hooked) = self.hooked.remove(&ifindex) {
            info!("{}: detached", hooked.name);
            self.release(ifindex, hooked);
        }
    }

    /// Detaches in the order in which nothing is passed over: XDP, then tc, then what was changed for them.
    fn release(&mut self, ifindex: IfIndex, mut hooked: Hooked) {
        drop(hooked.xdp.take());
        drop(hooked.tc.take());
        drop(hooked.watch.take());
        self.undo.forget(ifindex, Change::FilterAdded);
        self.restore_rx_vlan(ifindex, &mut hooked);
        if hooked.clsact_added && revert(ifindex, &hooked.name, Change::ClsactAdded) {
            self.undo.forget(ifindex, Change::ClsactAdded);
        }
    }

    fn restore_rx_vlan(&mut self, ifindex: IfIndex, hooked: &mut Hooked) {
        let Some(found) = hooked.rx_vlan_found.take() else { return };
        if !vanished(ifindex, &hooked.name)
            && let Err(error) = ethtool::set_rx_vlan(&hooked.name, found)
        {
            // The record stays, for `xbr undo`.
            let name = &hooked.name;
            warn!(
                "{name}: cannot turn rx-vlan-offload on again: {error}; run `xbr undo` or `ethtool -K {name} rxvlan on`"
            );
            return;
        }
        for (_, change) in offloads(found) {
            self.undo.forget(ifindex, change);
        }
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.detach_all();
    }
}

/// Puts one change back, if the device is still the one that was changed. `false`: it could not, and should be tried again.
pub(super) fn revert(ifindex: IfIndex, name: &str, change: Change) -> bool {
    if vanished(ifindex, name) {
        return true;
    }
    let result = match change {
        Change::FilterAdded => clsact::remove_leftovers(ifindex).map_err(|error| error.to_string()),
        Change::ClsactAdded => clsact::remove_leftovers(ifindex)
            .and_then(|()| clsact::remove_if_empty(ifindex))
            .map_err(|error| error.to_string()),
        Change::RxVlanOffloadOff => turn_on(name, |found| found.ctag = true),
        Change::RxVlanStagOff => turn_on(name, |found| found.stag = true),
    };
    if let Err(error) = &result {
        warn!("{name}: cannot put back {change}: {error}");
    }
    result.is_ok()
}

/// The two halves of rx-vlan-offload and the records of their being turned off.
fn offloads(found: RxVlan) -> [(bool, Change); 2] {
    [(found.ctag, Change::RxVlanOffloadOff), (found.stag, Change::RxVlanStagOff)]
}

fn turn_on(name: &str, which: impl FnOnce(&mut RxVlan)) -> Result<(), String> {
    let Some(mut wanted) = ethtool::rx_vlan(name).map_err(|error| error.to_string())? else { return Ok(()) };
    which(&mut wanted);
    ethtool::set_rx_vlan(name, wanted).map_err(|error| error.to_string())
}

fn vanished(ifindex: IfIndex, name: &str) -> bool {
    nix::net::if_::if_nametoindex(name) != Ok(ifindex)
}

fn explain(error: &ProgramError) -> String {
    let text = chain(error);
    if text.contains("os error 16") || text.contains("os error 17") {
        return format!("another program holds the hook; take it off first ({text})");
    }
    text
}
