//! The daemon's half of shadow mode: takes the records that are ripe, has them judged, and tells the result.

use std::time::{Duration, SystemTime};

use bridge_common::reason::Reason;

use crate::{
    clock,
    config::RunConfig,
    datapath::{Attachments, Entries, Programs, counters::PortTotals, shadow::Flights},
    error::Failure,
    model::IfIndex,
    plan::Plan,
    shadow::{Ledger, Scenery},
    status::{Count, PortShadow, ShadowStatus},
};

/// What an instance in shadow mode has.
pub(super) struct Shadow {
    sample: u32,
    flights: Flights,
    ledger: Ledger,
}

/// The programs that the configuration asks for.
pub(super) fn entries(config: &RunConfig) -> Entries {
    config.shadow.map_or(Entries::Fast, |sample| Entries::Shadow { sample: sample.get() })
}

impl Shadow {
    /// `None` outside shadow mode.
    pub(super) fn take(programs: &mut Programs) -> Result<Option<Self>, Failure> {
        match programs.entries {
            Entries::Fast => Ok(None),
            Entries::Shadow { sample } => {
                let flights = Flights::take(&mut programs.ebpf)?;
                Ok(Some(Self { sample, flights, ledger: Ledger::default() }))
            }
        }
    }

    /// Judges what is ripe. Before the plan or the attachments change: names and who watched are taken from them.
    pub(super) fn settle(&mut self, plan: &Plan, attachments: &Attachments) {
        let now = clock::now();
        let flights = self.flights.harvest(now);
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs_f64();
        self.ledger.enter(&flights, &View { plan, attachments }, now, since_1970);
    }

    /// The whole account. `would_forward` is that of the ports that are there.
    pub(super) fn status(&self, active: bool, would_forward: Count) -> ShadowStatus {
        ShadowStatus {
            active,
            sample: self.sample,
            total: PortShadow { ready: active, would_forward, ..self.ledger.total() },
            no_room: self.flights.no_room(),
            examples: self.ledger.examples(),
        }
    }

    /// The account of one port.
    pub(super) fn port(&self, name: &str, ready: bool, totals: &PortTotals) -> PortShadow {
        let would_forward = totals.reasons.get(&Reason::WouldForward).copied().unwrap_or_default();
        PortShadow { ready, would_forward, ..self.ledger.port(name) }
    }
}

struct View<'a> {
    plan: &'a Plan,
    attachments: &'a Attachments,
}

impl Scenery for View<'_> {
    fn name(&self, ifindex: IfIndex) -> Option<(String, String)> {
        let bridge = |ifindex: &IfIndex| self.plan.bridges.get(ifindex).map(|bridge| bridge.name.clone());
        match self.plan.ports.get(&ifindex) {
            Some(port) => Some((port.name.clone(), bridge(&port.bridge).unwrap_or_default())),
            None => bridge(&ifindex).map(|name| (name.clone(), name)),
        }
    }

    fn watched(&self, ifindex: IfIndex, at: u64) -> bool {
        self.attachments.watched(ifindex, at)
    }
}
