//! The flights of shadow mode as user space holds them: mapped into memory, handed out by numbers, and taken back when
//! the bridge is long done with the frame.

use std::{num::NonZeroUsize, ptr::NonNull};

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, Queue},
};
use bridge_common::shadow::{Flight, Recent, flight_state};
use log::warn;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::tables::take;
use crate::error::{Exit, Failure};

/// Flights of one instance: how many frames can wait for their judgement at a time.
pub const FLIGHTS: u32 = 4096;

/// How long, in nanoseconds, a flight is left alone. The bridge forwards a frame within microseconds, in one go; on a
/// virtual machine the host may take the processor away in between.
pub const SETTLED: u64 = 500_000_000;

/// The flights.
pub struct Flights {
    cells: NonNull<Flight>,
    length: NonZeroUsize,
    free: Queue<MapData, u32>,
    recents: PerCpuArray<MapData, Recent>,
    /// Held: programs name the map by its descriptor.
    _map: MapData,
}

// SAFETY: the mapping is not tied to a thread, and only touched through `&mut self`.
unsafe impl Send for Flights {}

impl Flights {
    /// Takes the maps out of an object that was loaded for shadow mode, and hands all flights to the programs.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Failure> {
        let failed =
            |why: &str| Failure::new(Exit::Kernel, format!("cannot map the records of shadow mode into memory: {why}"));
        let mut free: Queue<MapData, u32> = take(ebpf, "xbr_free")?;
        let recents = take(ebpf, "xbr_recent")?;
        let Some(Map::Array(map)) = ebpf.take_map("xbr_flights") else { return Err(failed("no such map")) };
        let length = NonZeroUsize::new(FLIGHTS as usize * size_of::<Flight>()).ok_or_else(|| failed("it is empty"))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping of a map that was made with BPF_F_MMAPABLE and holds this many bytes: the
        // elements of an array lie side by side, each rounded up to eight bytes, which the size of a flight is.
        let cells = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.fd(), 0) };
        let cells = cells.map_err(|error| failed(error.desc()))?.cast();
        for number in 0..FLIGHTS {
            free.push(number, 0).map_err(|error| failed(&error.to_string()))?;
        }
        Ok(Self { cells, length, free, recents, _map: map })
    }

    /// Takes back the flights that began before `now` minus [`SETTLED`].
    pub fn harvest(&mut self, now: u64) -> Vec<Flight> {
        let mut done = Vec::new();
        for number in 0..FLIGHTS {
            // SAFETY: in bounds of the mapping; every read and write of memory that the programs share is volatile.
            let (state, at) = unsafe {
                let cell = self.cells.add(number as usize).as_ptr();
                ((&raw const (*cell).state).read_volatile(), (&raw const (*cell).at).read_volatile())
            };
            if state != flight_state::OPEN || at.saturating_add(SETTLED) > now {
                continue;
            }
            // SAFETY: as above; a program no longer writes to a flight that is this old, and a torn one would only be
            // one wrong judgement.
            done.push(unsafe {
                let cell = self.cells.add(number as usize).as_ptr();
                let flight = cell.read_volatile();
                (&raw mut (*cell).state).write_volatile(flight_state::FREE);
                flight
            });
            if let Err(error) = self.free.push(number, 0) {
                warn!("a record of shadow mode is lost: {error}");
            }
        }
        done.sort_by_key(|flight| flight.at);
        done
    }

    /// Sampled frames that found no free flight.
    pub fn no_room(&self) -> u64 {
        match self.recents.get(&0, 0) {
            Ok(recents) => recents.iter().map(|recent| recent.no_room).sum(),
            Err(error) => {
                warn!("cannot read a counter of shadow mode: {error}");
                0
            }
        }
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.cells.cast(), self.length.get()) } {
            warn!("cannot unmap the records of shadow mode: {error}");
        }
    }
}
