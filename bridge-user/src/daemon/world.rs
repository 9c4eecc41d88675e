//! What the daemon knows and does: which parts of the mirror are out of date, and how they are brought up to date.

mod devices;
mod refresh;
mod say;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    time::Instant,
};

use log::{debug, info, warn};

use self::say::Said;
pub(super) use self::say::full_table;
use super::{
    failed,
    lock::Lock,
    shadow::{self, Shadow},
    snapshot,
};
pub(super) use crate::clock::now;
use crate::{
    bypass::{Inventory, Watch},
    config::RunConfig,
    datapath::{Attachments, FdbShape, Programs, Sync, Tables, sync},
    error::{Exit, Failure},
    model::{FdbKey, IfIndex, Model},
    netlink::{self, Event, Events, Requests},
    plan::{Numbers, Plan},
    status::{GoneStatus, Snapshot},
};

/// How long, in nanoseconds, the programs believe the tables without hearing from the daemon.
const LEASE: u64 = 1_500_000_000;
/// Every minute the whole FDB is asked for again: a dump goes on by count, so an entry that is deleted meanwhile can hide
/// another one, without an event.
const RENEWALS_PER_DUMP: u32 = 240;
/// Every minute all devices and VLANs are asked for again, whether or not anything was announced.
const POLLS_PER_DUMP: u32 = 60;
/// A minute more for each so many entries.
const LARGE: usize = 100_000;
/// So many batches of notifications, one behind the other, are a storm.
const FEW_BATCHES: u32 = 4;

/// One instance of the daemon.
pub(super) struct World {
    pub(super) config: RunConfig,
    pub(super) started: Instant,
    pub(super) programs: Programs,
    pub(super) tables: Tables,
    pub(super) attachments: Attachments,
    pub(super) sync: Sync,
    pub(super) model: Model,
    pub(super) plan: Plan,
    pub(super) numbers: Numbers,
    /// Full resyncs by cause.
    pub(super) resyncs: BTreeMap<String, u64>,
    /// Counters of ports that have left.
    pub(super) gone: GoneStatus,
    /// The mirror is known to be true, but for what is marked dirty.
    pub(super) in_step: bool,
    /// What shadow mode found out.
    pub(super) shadow: Option<Shadow>,
    /// What the kernel announces.
    pub(super) events: Events,
    requests: Requests,
    inventory: Inventory,
    own_programs: BTreeSet<u32>,
    locks: BTreeMap<String, Lock>,
    /// The bridges that the plan is for.
    served: BTreeSet<String>,
    /// Bridges that another instance serves; warned about once.
    elsewhere: BTreeSet<String>,
    dirty: Dirty,
    renewals: u32,
    polls: u32,
    said: Said,
}

/// Which parts of the mirror are out of date.
#[derive(Default)]
struct Dirty {
    /// All devices.
    links: Links,
    /// These devices.
    devices: BTreeSet<IfIndex>,
    policy: bool,
    /// VLAN devices in other network namespaces.
    uppers: bool,
    fdb_dump: bool,
    fdb: HashSet<FdbKey>,
    /// These were said to be gone. They count no more, so that it is enough to ask with the next renewal: the kernel still
    /// holds the lock that an answer takes while it goes through all of a bridge's entries, and waiting for it burns time.
    fdb_gone: HashSet<FdbKey>,
}

/// How much of all devices is out of date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Links {
    #[default]
    Nothing,
    /// What is not announced.
    Silent,
    /// Their VLANs, too.
    All,
}

impl World {
    /// Checks the bridges and loads the programs; nothing is attached yet. `events` since before the first dump: what changes in
    /// between is in the queue.
    pub(super) fn new(config: RunConfig, events: Events) -> Result<Self, Failure> {
        let mut requests = Requests::new().map_err(|error| failed("open a netlink socket", &error))?;
        let links = requests.links().map_err(|error| failed("list the network devices", &error))?;
        for name in &config.bridges {
            if let Some(link) = links.values().find(|link| link.name == *name)
                && link.bridge.is_none()
            {
                let message = format!("{name} is not a bridge; name a device that `ip link show type bridge` lists");
                return Err(Failure::new(Exit::Failed, message));
            }
        }
        if let Some(path) = &config.last_status {
            // At the end it would be too late to say that it cannot be written.
            let created = std::fs::write(path, "");
            created.map_err(|error| failed(&format!("write {} (--last-status)", path.display()), &error))?;
        }
        let mut programs = Programs::load_entries(FdbShape::new(config.fdb_size), shadow::entries(&config))?;
        let mut locks = BTreeMap::new();
        for name in &config.bridges {
            locks.insert(name.clone(), Lock::take(name)?);
        }
        let tables = Tables::take(&mut programs)?;
        let shadow = Shadow::take(&mut programs)?;
        let own_programs = programs.ids();
        Ok(Self {
            attachments: Attachments::new(&config.run_dir)?,
            inventory: Inventory::new().map_err(|error| failed("look for policy on the bridges", &error))?,
            config,
            started: Instant::now(),
            programs,
            tables,
            sync: Sync::default(),
            model: Model::default(),
            plan: Plan::default(),
            numbers: Numbers::default(),
            resyncs: BTreeMap::new(),
            gone: GoneStatus::default(),
            in_step: false,
            shadow,
            events,
            requests,
            own_programs,
            locks,
            served: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            dirty: Dirty::default(),
            renewals: 0,
            polls: 0,
            said: Said::default(),
        })
    }

    /// Where the socket and the records of changes are.
    pub(super) fn run_dir(&self) -> &Path {
        &self.config.run_dir
    }

    /// Lets the kernel side hear what the daemon will read. `false`: it does not.
    pub(super) fn listen(&mut self, rules: &Watch) -> bool {
        let Programs { tracing, ebpf, .. } = &mut self.programs;
        tracing.listen(ebpf, self.config.coherence, self.events.socket(), rules.socket());
        self.programs.tracing.announcements
    }

    /// First synchronisation, and the line that says so.
    pub(super) fn start(&mut self) {
        self.resync("start");
    }

    /// Marks what the events say is out of date.
    pub(super) fn hear(&mut self, heard: netlink::Result<Vec<Event>>) {
        let batch = match heard {
            Ok(batch) => batch,
            Err(error) => return self.lost_track("netlink_error", &error),
        };
        for event in &batch {
            match event {
                Event::Link(ifindex) => {
                    self.dirty.uppers = true;
                    self.doubt(*ifindex);
                }
                Event::LinkGone(ifindex) => {
                    self.sync.forget_device(*ifindex);
                    // It may be back before this is read, without the clsact qdisc (`dev_shutdown`) but with its link.
                    if !self.programs.tcx && self.attachments.lose(*ifindex) {
                        self.dirty.links = Links::All;
                    }
                    self.doubt(*ifindex);
                }
                Event::Port(ifindex) | Event::Vlan(ifindex) => self.doubt(*ifindex),
                Event::Fdb(key) | Event::FdbGone(key) => {
                    if !self.programs.tracing.announcements {
                        self.tables.cancel(sync::fdb_cell(&self.tables, key), now());
                    }
                    let is_gone = matches!(event, Event::FdbGone(_));
                    if is_gone { &mut self.dirty.fdb_gone } else { &mut self.dirty.fdb }.insert(*key);
                }
                // A root qdisc comes without a link event, and a refused hook may be free now.
                Event::Tc(ifindex) => {
                    self.doubt(*ifindex);
                    self.dirty.devices.insert(*ifindex);
                    self.attachments.doubt_refusals();
                }
                Event::Overrun => self.suspend("netlink_overrun"),
            }
        }
    }

    /// The device is no longer what it was. Taking away comes first and at once, looking closely later: unless the kernel
    /// side has taken away already when the change was announced, and it has been looked at since.
    fn doubt(&mut self, ifindex: IfIndex) {
        if !self.programs.tracing.announcements {
            self.sync.watch.distrust(&mut self.tables, ifindex);
        } else if self.sync.watch.is_confirmed(&self.tables, ifindex) {
            return;
        }
        self.dirty.devices.insert(ifindex);
        self.dirty.policy |= self.sync.watch.is_parent(ifindex);
    }

    /// Hears what has been announced by now. `true`: a device that is not known is among it, or there is no end of it.
    pub(super) fn hear_more(&mut self) -> bool {
        for _ in 0..FEW_BATCHES {
            let heard = self.events.there();
            let is_new = |event: &Event| matches!(event, Event::Link(device) if !self.model.links.contains_key(device));
            let (is_over, is_strange) = match &heard {
                Ok(batch) => (batch.is_empty(), batch.iter().any(is_new)),
                Err(_) => (false, true),
            };
            self.hear(heard);
            if is_over || is_strange {
                return is_strange;
            }
        }
        true
    }

    /// Something went wrong on the way from the kernel: nothing is believed until all of it has been asked for again.
    fn lost_track(&mut self, cause: &str, error: &dyn std::error::Error) {
        self.complain(&format!("{cause}: {error}; asking the kernel for everything again"));
        self.suspend(cause);
    }

    /// Nftables changed.
    pub(super) fn policy_changed(&mut self) {
        self.dirty.policy = true;
    }

    /// Looks at what may have changed without an event: an XDP or tcx program that came or went with its owner, a sysctl.
    pub(super) fn poll(&mut self) {
        self.polls = (self.polls + 1) % POLLS_PER_DUMP;
        if self.polls == 0 {
            self.dirty.links = Links::All;
        } else if self.dirty.links == Links::Nothing {
            self.dirty.links = Links::Silent;
        }
        self.attachments.forget_doubted_refusals();
    }

    /// Renews the lease, after having asked about entries that the kernel side cancelled.
    pub(super) fn renew(&mut self) {
        self.dirty.fdb.extend(self.sync.fdb.stale(&self.tables));
        self.dirty.fdb.extend(self.dirty.fdb_gone.drain());
        self.dirty.devices.extend(self.sync.watch.doubted(&self.tables));
        self.dirty.policy |= self.tables.policy_in_doubt();
        // Nothing else is done meanwhile, so that the lease ends under a dump of a second and a half.
        let large = 1 + u32::try_from(self.sync.fdb.known() / LARGE).unwrap_or(u32::MAX / RENEWALS_PER_DUMP - 1);
        self.renewals = (self.renewals + 1) % (RENEWALS_PER_DUMP * large);
        self.dirty.fdb_dump |= self.renewals == 0;
        if let Some(shadow) = &mut self.shadow {
            shadow.settle(&self.plan, &self.attachments);
        }
        self.settle();
        self.lease();
    }

    /// As [`Self::settle`], and nothing is left for the next renewal.
    pub(super) fn settle_all(&mut self) {
        self.dirty.fdb.extend(self.dirty.fdb_gone.drain());
        self.settle();
    }

    /// Brings whatever is out of date up to date.
    pub(super) fn settle(&mut self) {
        if !self.in_step {
            self.resync("retry");
            return;
        }
        // What logical ports are served on is confirmed with the policy, and so to be asked for before.
        if self.dirty.policy && self.dirty.links == Links::Nothing && self.sync.watch.has_parents() {
            self.dirty.links = Links::Silent;
        }
        let mut refreshed = if self.dirty.links == Links::All {
            self.refresh_links()
        } else if !self.dirty.devices.is_empty() {
            self.refresh_devices()
        } else {
            Ok(())
        };
        if self.dirty.links == Links::Silent {
            refreshed = refreshed.and_then(|()| self.refresh_silent());
        }
        let refreshed = refreshed.and_then(|()| if self.dirty.policy { self.refresh_policy(None) } else { Ok(()) });
        if let Err(error) = refreshed {
            self.lost_track("links", &*error);
        }
        if (self.dirty.fdb_dump || !self.dirty.fdb.is_empty())
            && let Err(error) = self.refresh_fdb()
        {
            self.lost_track("fdb", &*error);
        }
    }

    /// What `xbr status` shows.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        match self.requests.links() {
            Ok(links) => snapshot::snapshot(self, &links),
            Err(error) => {
                warn!("cannot list the network devices: {error}");
                snapshot::snapshot(self, &self.model.links)
            }
        }
    }

    /// Stops the fast path and takes everything off.
    pub(super) fn stop(&mut self) {
        self.tables.lease(0);
        self.write_last_status();
        self.attachments.detach_all();
    }

    /// Leaves the last counters in a file, if one was asked for.
    fn write_last_status(&mut self) {
        let Some(path) = self.config.last_status.clone() else { return };
        let written = serde_json::to_vec_pretty(&self.snapshot()).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|text| std::fs::write(&path, text)) {
            warn!("cannot write the last status to {}: {error}", path.display());
        }
    }

    fn suspend(&mut self, cause: &str) {
        self.tables.lease(0);
        self.in_step = false;
        *self.resyncs.entry(cause.to_owned()).or_default() += 1;
    }

    fn lease(&mut self) {
        if self.in_step {
            self.tables.lease(now() + LEASE);
        }
    }

    fn resync(&mut self, cause: &str) {
        debug!("resync: {cause}");
        if cause == "start" {
            self.resyncs.insert(cause.to_owned(), 1);
        }
        match self.refresh_all() {
            Ok(()) => {
                self.in_step = true;
                self.lease();
                self.said.trouble.clear();
                if !std::mem::replace(&mut self.said.ready, true) {
                    info!("ready: {} bridges, {} ports", self.plan.bridges.len(), self.plan.ports.len());
                }
            }
            Err(error) => self.complain(&format!("cannot read the state of the bridges: {error}; trying again")),
        }
    }
}

/// Whatever can go wrong while reading the kernel's state or writing the tables.
type Error = Box<dyn std::error::Error>;
