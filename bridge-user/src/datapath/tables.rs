//! Typed handles of the BPF maps. One method per write, so that [`super::sync`] reads as the order of writes.

pub(super) mod cells;
mod fdb;

use aya::{
    Ebpf,
    maps::{Array, DevMap, HashMap, Map, MapData, MapError, PerCpuArray},
};
use bridge_common::{
    fdb::Bucket,
    flow::{CELLS, CHURN_CELLS, Flow, churn_cell},
    holes,
    mac::Mac,
    maps::{
        Counter, FdbKey, GenerationCells, Lease, Port, PortCounters, TRUST_ROOM, Trust, USER_SPACE, VlanCounters,
        moment,
    },
    reason::Reason,
};
use log::warn;

pub use self::fdb::FdbShape;
use self::{cells::Cells, fdb::FdbTable};
use super::{Programs, holes::Filling, load::flow_cells};
use crate::{
    clock::now,
    error::{Exit, Failure},
};

/// Maps of which the programs have the address in their instructions.
pub(super) struct Addressed {
    flows: Cells<Flow>,
    churn: Cells<u64>,
    fdb: Cells<Bucket>,
    generations: Cells<u64>,
    trust: Cells<Trust>,
}

impl Addressed {
    /// Makes them, with an FDB table of this shape.
    pub(super) fn create(shape: FdbShape) -> Result<Self, Failure> {
        Ok(Self {
            flows: Cells::create("xbr_flows", flow_cells())?,
            churn: Cells::create("xbr_churn", CHURN_CELLS)?,
            // One more than there are, for the verifier (`fdb::bucket` of the programs).
            fdb: Cells::create("xbr_fdb", shape.buckets + 1)?,
            generations: Cells::create("xbr_gens", shape.generations.count())?,
            trust: Cells::create("xbr_trust", TRUST_ROOM)?,
        })
    }

    /// What belongs in the place of one of [`holes`].
    pub(super) fn filling(&self, hole: u64) -> Filling<'_> {
        Filling::Value(match hole {
            holes::FLOWS => self.flows.descriptor(),
            holes::CHURN => self.churn.descriptor(),
            holes::FDB => self.fdb.descriptor(),
            holes::GENERATIONS => self.generations.descriptor(),
            holes::TRUST => self.trust.descriptor(),
            _ => return Filling::Number(u64::from(flow_cells() / CELLS)),
        })
    }
}

/// All maps that user space writes or reads.
pub struct Tables {
    pub(super) slots: HashMap<MapData, u32, u32>,
    pub(super) logical: HashMap<MapData, u64, u32>,
    pub(super) ports: Array<MapData, Port>,
    fdb: FdbTable,
    pub(super) devices: DevMap<MapData>,
    pub(super) vlan_cells: Array<MapData, u32>,
    pub(super) port_counters: PerCpuArray<MapData, PortCounters>,
    pub(super) sent: PerCpuArray<MapData, Counter>,
    pub(super) vlan_counters: PerCpuArray<MapData, VlanCounters>,
    pub(super) watch: HashMap<MapData, u32, u32>,
    generations: Cells<u64>,
    generation_cells: GenerationCells,
    trust: Cells<Trust>,
    lease: Cells<Lease>,
    churn: Cells<u64>,
    flows: Cells<Flow>,
}

impl Tables {
    /// Takes the maps out of what was loaded, once.
    pub fn take(programs: &mut Programs) -> Result<Self, Failure> {
        let gone = || Failure::new(Exit::Failed, "the tables were taken already");
        let Addressed { flows, churn, fdb, generations, trust } = programs.addressed.take().ok_or_else(gone)?;
        let (ebpf, shape) = (&mut programs.ebpf, programs.fdb);
        let mut tables = Self {
            slots: take(ebpf, "xbr_slots")?,
            logical: take(ebpf, "xbr_logical")?,
            ports: take(ebpf, "xbr_ports")?,
            fdb: FdbTable::new(fdb, shape),
            devices: take(ebpf, "xbr_dev")?,
            vlan_cells: take(ebpf, "xbr_vcell")?,
            port_counters: take(ebpf, "xbr_count")?,
            sent: take(ebpf, "xbr_sent")?,
            vlan_counters: take(ebpf, "xbr_vcount")?,
            watch: take(ebpf, "xbr_watch")?,
            generations,
            generation_cells: shape.generations,
            trust,
            lease: Cells::map(ebpf, "xbr_lease", 1)?,
            churn,
            flows,
        };
        // What the programs find in place of a port that is in doubt.
        let doubted = Port { slow_reason: Reason::Unconfirmed as u32, ..Port::EMPTY };
        tables
            .put_port(0, &doubted)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write the BPF map xbr_ports: {error}")))?;
        Ok(tables)
    }

    /// The programs may believe the tables until `until` nanoseconds of `CLOCK_MONOTONIC`; 0 suspends the fast path.
    pub fn lease(&mut self, until: u64) {
        // SAFETY: the field of a value that the pointer is valid for.
        self.lease.write(0, |lease| unsafe { &raw mut (*lease).until }, until);
        if until == 0 {
            self.end_decisions();
        }
    }

    /// Ends all decisions that the flow cache holds. To be called after whatever they rested on was written, so that a
    /// decision which still saw the old state is ended as well.
    pub fn end_decisions(&mut self) {
        let moment = moment(now(), USER_SPACE);
        // SAFETY: as above.
        self.lease.write(0, |lease| unsafe { &raw mut (*lease).changed }, moment);
        // In this order: whoever reads one of these and then that word knows whether the tables had been changed before.
        for cell in 0..CHURN_CELLS {
            self.churn.write(cell, |churn| churn, moment);
        }
    }

    /// Ends all decisions that rest on the FDB of this VLAN (0: of VLAN-unaware bridges); as [`Self::end_decisions`].
    pub fn end_decisions_in(&mut self, vid: u16) {
        self.churn.write(u32::from(churn_cell(vid)), |churn| churn, moment(now(), USER_SPACE));
    }

    /// The cells of the flow cache that have served frames since they were filled.
    pub fn served(&self) -> impl Iterator<Item = Flow> {
        // SAFETY: the field of a value that the pointer is valid for.
        let has_served = |cell: &u32| self.flows.part(*cell, |flow| unsafe { &raw const (*flow).served }) != 0;
        (0..flow_cells()).filter(has_served).map(|cell| self.flows.read(cell))
    }

    /// How often each CPU has emptied cells of the flow cache, twice for each time.
    pub fn flushes(&self) -> Vec<u64> {
        let first = (0..flow_cells()).step_by(CELLS as usize);
        // SAFETY: as above.
        first.map(|cell| self.flows.part(cell, |flow| unsafe { &raw const (*flow).flushes })).collect()
    }

    /// Forgets what cells have served for the port in `slot`, which nothing comes in at any more.
    pub fn forget_served(&mut self, slot: u16) {
        for cell in 0..flow_cells() {
            let flow = self.flows.read(cell);
            if flow.slot == slot && flow.served != 0 {
                // SAFETY: the field of a value that the pointer is valid for.
                self.flows.write(cell, |flow| unsafe { &raw mut (*flow).served }, 0);
            }
        }
    }

    /// The last announced change of the policy on the bridges.
    pub fn policy_announced(&self) -> u64 {
        self.lease.read(0).policy.announced
    }

    /// Whether the policy has changed since it was last confirmed; the fast path is suspended while it is so.
    pub fn policy_in_doubt(&self) -> bool {
        let Trust { announced, confirmed } = self.lease.read(0).policy;
        announced != confirmed
    }

    /// The tables follow the policy as of `announced`, which was read before the kernel was asked.
    pub fn confirm_policy(&mut self, announced: u64) {
        // SAFETY: as above.
        self.lease.write(0, |lease| unsafe { &raw mut (*lease).policy.confirmed }, announced);
    }

    /// The policy is not known to be what it was: the fast path is suspended until it is confirmed.
    pub fn doubt_policy(&mut self) {
        // No moment is this one.
        self.confirm_policy(u64::MAX);
        self.end_decisions();
    }

    /// The generation cell of an address; `vid` is the kernel's.
    pub fn generation_cell(&self, mac: Mac, vid: u16) -> u32 {
        self.generation_cells.of(mac, vid)
    }

    /// When an address was last cancelled.
    pub fn cancelled(&self) -> u64 {
        self.lease.read(0).cancelled
    }

    /// The current generation of a cell.
    #[expect(clippy::cast_possible_truncation, reason = "entries keep the lower half of the moment")]
    pub fn generation(&self, cell: u32) -> u32 {
        self.generations.read(cell) as u32
    }

    /// All generations, as they are now.
    pub fn generations(&self) -> Vec<u32> {
        (0..self.generation_cells.count()).map(|cell| self.generation(cell)).collect()
    }

    /// Cancels all entries of a generation cell, as the programs do; `now` is `CLOCK_MONOTONIC` in nanoseconds.
    pub fn cancel(&mut self, cell: u32, now: u64) {
        self.generations.write(cell, |generation| generation, now);
        // SAFETY: the field of a value that the pointer is valid for.
        self.lease.write(0, |lease| unsafe { &raw mut (*lease).cancelled }, moment(now, USER_SPACE));
        self.end_decisions();
    }

    /// The last announcement of a trust cell.
    pub fn announced(&self, cell: u32) -> u64 {
        self.trust.read(cell).announced
    }

    /// Whether something has been announced that the tables are not known to include.
    pub fn in_doubt(&self, cell: u32) -> bool {
        let trust = self.trust.read(cell);
        trust.announced != trust.confirmed
    }

    /// The tables include all that was announced up to `announced`, which was read before the kernel was asked.
    pub fn confirm(&mut self, cell: u32, announced: u64) {
        // SAFETY: the field of a value that the pointer is valid for.
        self.trust.write(cell, |trust| unsafe { &raw mut (*trust).confirmed }, announced);
        // That frames could not be sent there may be remembered.
        self.end_decisions();
    }

    /// The cell's port or bridge is not to be used until it is confirmed.
    pub fn distrust(&mut self, cell: u32) {
        // No moment is this one.
        self.confirm(cell, u64::MAX);
    }

    /// Announced changes of the device put this trust cell in doubt.
    pub fn watch(&mut self, ifindex: u32, cell: u32) -> Result<(), MapError> {
        self.watch.insert(ifindex, cell, 0)
    }

    /// Announced changes of the device mean nothing any more.
    pub fn unwatch(&mut self, ifindex: u32) -> Result<(), MapError> {
        absent_is_fine(self.watch.remove(&ifindex))
    }

    /// Puts an FDB entry, [`bridge_common::fdb::pack`]ed, whose source goes to the bridge once from `refresh_at` nanoseconds of
    /// `CLOCK_MONOTONIC` on. `false`: the table is full.
    pub fn put_fdb(&mut self, key: FdbKey, data: u64, refresh_at: u64) -> bool {
        self.fdb.put(key, data, refresh_at)
    }

    /// How many FDB entries there is room for.
    pub fn fdb_size(&self) -> usize {
        self.fdb.size()
    }

    /// Removes an FDB entry; one that is not there is fine.
    pub fn remove_fdb(&mut self, key: FdbKey) {
        self.fdb.remove(key);
    }

    /// Writes a port.
    pub fn put_port(&mut self, slot: u16, port: &Port) -> Result<(), MapError> {
        let done = self.ports.set(u32::from(slot), port, 0);
        self.end_decisions();
        done
    }

    /// Sets the device by which XDP sends frames to the port in `slot`. `false`: it may not stand in a device map.
    #[must_use]
    pub fn put_egress(&mut self, slot: u16, ifindex: u32) -> bool {
        let done = self.devices.set(u32::from(slot), ifindex, None, 0);
        self.end_decisions();
        if let Err(error) = &done {
            warn!("device {ifindex} cannot be an egress of XDP: {error}");
        }
        done.is_ok()
    }

    /// Makes a device known to the programs that it runs: by its slot, or as [`bridge_common::maps::PARENT`].
    pub fn put_device(&mut self, ifindex: u32, slot: u32) -> Result<(), MapError> {
        let done = self.slots.insert(ifindex, slot, 0);
        self.end_decisions();
        done
    }

    /// Forgets a device. Its cell in the device map stays (no port entry points there any more, and the kernel clears it
    /// when the device goes).
    pub fn remove_device(&mut self, ifindex: u32) -> Result<(), MapError> {
        let done = absent_is_fine(self.slots.remove(&ifindex));
        self.end_decisions();
        done
    }

    /// Makes a logical port known by its [`bridge_common::maps::logical_key`].
    pub fn put_logical(&mut self, key: u64, slot: u16) -> Result<(), MapError> {
        let done = self.logical.insert(key, u32::from(slot), 0);
        self.end_decisions();
        done
    }

    /// Forgets a logical port; one that is not there is fine.
    pub fn remove_logical(&mut self, key: u64) -> Result<(), MapError> {
        let done = absent_is_fine(self.logical.remove(&key));
        self.end_decisions();
        done
    }

    /// Sets the counter cell of a fid.
    pub fn put_vlan_cell(&mut self, fid: u16, cell: u32) -> Result<(), MapError> {
        self.vlan_cells.set(u32::from(fid), cell, 0)
    }
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, Failure> {
    ebpf.take_map(name)
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no map {name}")))?
        .try_into()
        .map_err(|error: MapError| Failure::new(Exit::Failed, format!("BPF map {name} is of another kind: {error}")))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
