//! What shadow mode attaches besides: programs that look at what leaves a port, and at what goes up to a bridge.

use aya::programs::{
    TcAttachType,
    links::LinkOrder,
    tc::{NlOptions, TcAttachOptions},
};
use log::{debug, warn};

use super::{Attachments, Hooked, explain, vanished};
use crate::{
    clock,
    datapath::Programs,
    model::IfIndex,
    plan::{BridgePlan, Plan},
};

/// Number of the program on the egress of ports ([`Programs::entry`]).
const OUT: usize = 1;
/// Number of the program on the ingress of bridges.
const UP: usize = 2;

impl Attachments {
    /// Whether what leaves a port was looked at in the moment `at` (`CLOCK_MONOTONIC`, nanoseconds) and ever since.
    pub fn watched(&self, ifindex: IfIndex, at: u64) -> bool {
        self.hooked.get(&ifindex).is_some_and(|hooked| hooked.watch.is_some() && hooked.watched_since <= at)
    }

    /// Takes the programs off bridges that the plan no longer has.
    pub(super) fn leave_bridges(&mut self, plan: &Plan) {
        let gone: Vec<IfIndex> =
            self.bridges.keys().copied().filter(|ifindex| !plan.bridges.contains_key(ifindex)).collect();
        for ifindex in gone {
            if let Some(hooked) = self.bridges.remove(&ifindex) {
                self.release(ifindex, hooked);
            }
        }
    }

    /// Attaches to the bridges of the plan. One that refuses costs only the sight of copies that go up there.
    pub(super) fn watch_bridges(&mut self, programs: &mut Programs, plan: &Plan) {
        if !programs.entries.is_shadow() {
            return;
        }
        for (ifindex, bridge) in &plan.bridges {
            if self.bridges.contains_key(ifindex) {
                continue;
            }
            match self.watch_bridge(programs, *ifindex, bridge) {
                Ok(hooked) => {
                    debug!("{}: looking at what goes up", bridge.name);
                    self.bridges.insert(*ifindex, hooked);
                }
                Err(_) if vanished(*ifindex, &bridge.name) => {}
                Err(why) => {
                    if self.told.insert(*ifindex, why.clone()).as_ref() != Some(&why) {
                        warn!("{}: what goes up to the bridge itself is not compared: {why}", bridge.name);
                    }
                }
            }
        }
    }

    fn watch_bridge(
        &mut self,
        programs: &mut Programs,
        ifindex: IfIndex,
        bridge: &BridgePlan,
    ) -> Result<Hooked, String> {
        let mut hooked = Hooked::new(&bridge.name, programs.tcx);
        let prepared = if programs.tcx { Ok(()) } else { self.prepare_clsact(ifindex, &mut hooked) };
        match prepared.and_then(|()| watch(programs, UP, TcAttachType::Ingress, &mut hooked)) {
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
