//! What shadow mode attaches besides: programs that look at what leaves a port, and at what goes up to a bridge.

use aya::programs::{
    TcAttachType,
    links::LinkOrder,
    tc::{NlOptions, TcAttachOptions},
};
use log::{debug, warn};

use super::{Attachments, Hooked, explain, vanished};
use crate::{clock, datapath::Programs, model::IfIndex, plan::Plan};

/// Number of the program on the egress of ports ([`Programs::entry`]).
const OUT: usize = 1;
/// Number of the program on the ingress of bridges.
const UP: usize = 2;

impl Attachments {
    /// Whether what leaves a port was looked at in the moment `at` (`CLOCK_MONOTONIC`, nanoseconds) and ever since.
    pub fn watched(&self, ifindex: IfIndex, at: u64) -> bool {
        let hooked = self.hooked.get(&ifindex).or_else(|| self.lookouts.get(&ifindex));
        hooked.is_some_and(|hooked| hooked.watch.is_some() && hooked.watched_since <= at)
    }

    /// Takes the programs off devices that the plan no longer has.
    pub(super) fn leave_lookouts(&mut self, plan: &Plan) {
        let known = |ifindex: &IfIndex| plan.bridges.contains_key(ifindex) || plan.ports.contains_key(ifindex);
        let gone: Vec<IfIndex> = self.lookouts.keys().copied().filter(|ifindex| !known(ifindex)).collect();
        for ifindex in gone {
            if let Some(hooked) = self.lookouts.remove(&ifindex) {
                self.release(ifindex, hooked);
            }
        }
    }

    /// Attaches to the bridges of the plan, and to the egress of ports that frames may leave by though none is taken from
    /// them. One that refuses costs only the sight of copies there.
    pub(super) fn look_out(&mut self, programs: &mut Programs, plan: &Plan) {
        if !programs.entries.is_shadow() {
            return;
        }
        let bridges = plan.bridges.iter().map(|(ifindex, bridge)| (*ifindex, &bridge.name, UP, TcAttachType::Ingress));
        // Off means off: no program at all, and no frame is expected there.
        let others = plan.ports.iter().filter(|(_, port)| !port.hook.tc && !port.hook.by_name);
        let others = others.map(|(ifindex, port)| (*ifindex, &port.name, OUT, TcAttachType::Egress));
        for (ifindex, name, entry, side) in bridges.chain(others) {
            if self.lookouts.contains_key(&ifindex) {
                continue;
            }
            match self.look_out_at(programs, ifindex, name, entry, side) {
                Ok(hooked) => {
                    debug!("{name}: looking at what the bridge sends here");
                    self.lookouts.insert(ifindex, hooked);
                }
                Err(_) if vanished(ifindex, name) => {}
                Err(why) => {
                    if self.told.insert(ifindex, why.clone()).as_ref() != Some(&why) {
                        warn!("{name}: what the bridge sends here is not compared: {why}");
                    }
                }
            }
        }
    }

    fn look_out_at(
        &mut self,
        programs: &mut Programs,
        ifindex: IfIndex,
        name: &str,
        entry: usize,
        side: TcAttachType,
    ) -> Result<Hooked, String> {
        let mut hooked = Hooked::new(name, programs.tcx);
        let prepared = if programs.tcx { Ok(()) } else { self.prepare_clsact(ifindex, &mut hooked) };
        match prepared.and_then(|()| watch(programs, entry, side, &mut hooked)) {
            Ok(()) => Ok(hooked),
            Err(why) => {
                self.release(ifindex, hooked);
                Err(why)
            }
        }
    }
}

/// Looks at what leaves a port, before anybody else does: in front of that point the fast path would put its frames.
pub(super) fn watch_egress(programs: &mut Programs, hooked: &mut Hooked) -> Result<(), String> {
    watch(programs, OUT, TcAttachType::Egress, hooked)
}

fn watch(programs: &mut Programs, entry: usize, side: TcAttachType, hooked: &mut Hooked) -> Result<(), String> {
    let options = if programs.tcx {
        TcAttachOptions::TcxOrder(LinkOrder::first())
    } else {
        // Priority 0: the kernel takes one in front of all others (tcf_auto_prio).
        TcAttachOptions::Netlink(NlOptions::default())
    };
    let program = programs.entry(entry).map_err(|failure| failure.to_string())?;
    let link = program
        .attach_with_options(&hooked.name, side, options)
        .and_then(|id| program.take_link(id))
        .map_err(|error| explain(&error))?;
    hooked.watch = Some(link);
    hooked.watched_since = clock::now();
    Ok(())
}
