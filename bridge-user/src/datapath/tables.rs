//! Typed handles of the BPF maps. One method per write, so that [`super::sync`] reads as the order of writes.

use std::num::NonZeroUsize;

use aya::{
    Ebpf,
    maps::{Array, DevMap, HashMap, Map, MapData, MapError, PerCpuArray},
};
use bridge_common::maps::{Counter, FdbKey, FdbValue, GENERATIONS, Port, PortCounters, VlanCounters};
use log::warn;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::{Exit, Failure};

/// All maps that user space writes or reads.
pub struct Tables {
    pub(super) slots: HashMap<MapData, u32, u32>,
    pub(super) logical: HashMap<MapData, u64, u32>,
    pub(super) ports: Array<MapData, Port>,
    pub(super) fdb: HashMap<MapData, u64, FdbValue>,
    pub(super) lease: Array<MapData, u64>,
    pub(super) devices: DevMap<MapData>,
    pub(super) vlan_cells: Array<MapData, u32>,
    pub(super) port_counters: PerCpuArray<MapData, PortCounters>,
    pub(super) sent: PerCpuArray<MapData, Counter>,
    pub(super) vlan_counters: PerCpuArray<MapData, VlanCounters>,
    generations: Generations,
}

impl Tables {
    /// Takes the maps out of the loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Failure> {
        Ok(Self {
            slots: take(ebpf, "xbr_slots")?,
            logical: take(ebpf, "xbr_logical")?,
            ports: take(ebpf, "xbr_ports")?,
            fdb: take(ebpf, "xbr_fdb")?,
            lease: take(ebpf, "xbr_lease")?,
            devices: take(ebpf, "xbr_dev")?,
            vlan_cells: take(ebpf, "xbr_vcell")?,
            port_counters: take(ebpf, "xbr_count")?,
            sent: take(ebpf, "xbr_sent")?,
            vlan_counters: take(ebpf, "xbr_vcount")?,
            generations: Generations::map(ebpf)?,
        })
    }

    /// The programs may believe the tables until `until` nanoseconds of `CLOCK_MONOTONIC`; 0 suspends the fast path.
    pub fn lease(&mut self, until: u64) -> Result<(), MapError> {
        self.lease.set(0, until, 0)
    }

    /// The current generation of a cell.
    pub fn generation(&self, cell: u32) -> u32 {
        self.generations.get(cell)
    }

    /// All generations, as they are now.
    pub fn generations(&self) -> Vec<u32> {
        (0..GENERATIONS).map(|cell| self.generations.get(cell)).collect()
    }

    /// Puts an FDB entry. `Ok(false)`: the table is full.
    pub fn put_fdb(&mut self, key: FdbKey, value: FdbValue) -> Result<bool, MapError> {
        match self.fdb.insert(key.0, value, 0) {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an FDB entry; one that is not there is fine.
    pub fn remove_fdb(&mut self, key: FdbKey) -> Result<(), MapError> {
        absent_is_fine(self.fdb.remove(&key.0))
    }

    /// Writes a port.
    pub fn put_port(&mut self, slot: u16, port: &Port) -> Result<(), MapError> {
        self.ports.set(u32::from(slot), port, 0)
    }

    /// Sets the device by which XDP sends frames to the port in `slot`.
    pub fn put_egress(&mut self, slot: u16, ifindex: u32) {
        if let Err(error) = self.devices.set(u32::from(slot), ifindex, None, 0) {
            // Not every device may stand in a device map; the port table does not offer it to XDP then.
            warn!("device {ifindex} cannot be an egress of XDP: {error}");
        }
    }

    /// Makes a device known to the programs that it runs: by its slot, or as [`bridge_common::maps::PARENT`].
    pub fn put_device(&mut self, ifindex: u32, slot: u32) -> Result<(), MapError> {
        self.slots.insert(ifindex, slot, 0)
    }

    /// Forgets a device. Its cell in the device map stays (no port entry points there any more, and the kernel clears it
    /// when the device goes).
    pub fn remove_device(&mut self, ifindex: u32) -> Result<(), MapError> {
        absent_is_fine(self.slots.remove(&ifindex))
    }

    /// Makes a logical port known by its [`bridge_common::maps::logical_key`].
    pub fn put_logical(&mut self, key: u64, slot: u16) -> Result<(), MapError> {
        self.logical.insert(key, u32::from(slot), 0)
    }

    /// Forgets a logical port; one that is not there is fine.
    pub fn remove_logical(&mut self, key: u64) -> Result<(), MapError> {
        absent_is_fine(self.logical.remove(&key))
    }

    /// Sets the counter cell of a fid.
    pub fn put_vlan_cell(&mut self, fid: u16, cell: u32) -> Result<(), MapError> {
        self.vlan_cells.set(u32::from(fid), cell, 0)
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, Failure> {
    ebpf.take_map(name)
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no map {name}")))?
        .try_into()
        .map_err(|error: MapError| Failure::new(Exit::Failed, format!("BPF map {name} is of another kind: {error}")))
}

fn is_full(error: &MapError) -> bool {
    // E2BIG where the table has its number of entries, ENOMEM where the element caches are empty.
    matches!(error, MapError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// The generation cells, mapped into memory: read at every FDB change and swept often.
struct Generations {
    cells: std::ptr::NonNull<u64>,
    length: NonZeroUsize,
    /// Held: programs that are loaded later name the map by its descriptor.
    _map: MapData,
}

// SAFETY: the mapping is only read, by volatile loads, and not tied to a thread.
unsafe impl Send for Generations {}

impl Generations {
    /// Maps the cells. The mapping keeps the BPF map alive.
    fn map(ebpf: &mut Ebpf) -> Result<Self, Failure> {
        let failed =
            |why: &str| Failure::new(Exit::Kernel, format!("cannot map the generations of the FDB into memory: {why}"));
        let Some(Map::Array(map)) = ebpf.take_map("xbr_gens") else { return Err(failed("no such map")) };
        let bytes = GENERATIONS as usize * size_of::<u64>();
        let length = NonZeroUsize::new(bytes).ok_or_else(|| failed("it is empty"))?;
        // SAFETY: a new shared read-only mapping of a map that was made with BPF_F_MMAPABLE and holds this many bytes.
        let cells = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map.fd(), 0) };
        Ok(Self { cells: cells.map_err(|error| failed(error.desc()))?.cast(), length, _map: map })
    }

    #[expect(clippy::cast_possible_truncation, reason = "entries keep the lower half of the moment")]
    fn get(&self, cell: u32) -> u32 {
        assert!(cell < GENERATIONS);
        // SAFETY: in bounds of the mapping; volatile, as the programs write meanwhile.
        unsafe { self.cells.add(cell as usize).read_volatile() as u32 }
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.cells.cast(), self.length.get()) } {
            warn!("cannot unmap the generations: {error}");
        }
    }
}
