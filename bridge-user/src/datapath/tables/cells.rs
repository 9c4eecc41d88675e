//! Array maps of small cells that are mapped into memory: read and written without a system call, and shared with
//! programs that write other words of them meanwhile.

use std::{
    num::NonZeroUsize,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use log::warn;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::{
    datapath::load::{chain, refused},
    error::{Exit, Failure},
};

/// The cells of one map.
pub(in crate::datapath) struct Cells<T> {
    first: NonNull<T>,
    count: u32,
    length: NonZeroUsize,
    /// Held: programs that are loaded later name the map by its descriptor.
    map: MapData,
}

// SAFETY: the mapping is touched by single volatile accesses only, and not tied to a thread.
unsafe impl<T> Send for Cells<T> {}

impl<T: Copy> Cells<T> {
    /// Takes the array `name`, made with `BPF_F_MMAPABLE` and of `count` values of type `T`, out of the object. The
    /// mapping keeps the map alive.
    pub(in crate::datapath) fn map(ebpf: &mut Ebpf, name: &str, count: u32) -> Result<Self, Failure> {
        let Some(Map::Array(map)) = ebpf.take_map(name) else { return Err(failed(name, "no such array")) };
        Self::of(map, name, count)
    }

    /// Makes an array of one value, in which all cells are: programs may have its address in their instructions.
    pub(in crate::datapath) fn create(name: &str, count: u32) -> Result<Self, Failure> {
        let size = u32::try_from(size_of::<T>()).ok().and_then(|size| size.checked_mul(count));
        let size = size.ok_or_else(|| failed(name, "it is too large"))?;
        let array = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, size, 1, BPF_F_MMAPABLE);
        let map = MapData::create(array, name, None).map_err(|error| refused(name, &chain(&error)))?;
        Self::of(map, name, count)
    }

    fn of(map: MapData, name: &str, count: u32) -> Result<Self, Failure> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel pads values to eight bytes") };
        let failed = |why: &str| failed(name, why);
        let length = NonZeroUsize::new(count as usize * size_of::<T>()).ok_or_else(|| failed("it is empty"))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping of a map that was made with BPF_F_MMAPABLE and holds this many bytes.
        let first = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.fd(), 0) };
        Ok(Self { first: first.map_err(|error| failed(error.desc()))?.cast(), count, length, map })
    }

    /// The map.
    pub(in crate::datapath) fn descriptor(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// The value of a cell. Of a value that is longer than a word, each word is of its own moment.
    pub(in crate::datapath) fn read(&self, cell: u32) -> T {
        assert!(cell < self.count);
        // SAFETY: in bounds of the mapping; volatile, as the programs write meanwhile.
        unsafe { self.first.add(cell as usize).read_volatile() }
    }

    /// The part of a cell that `part` points out.
    pub(super) fn part<P: Copy>(&self, cell: u32, part: impl FnOnce(*const T) -> *const P) -> P {
        assert!(cell < self.count);
        // SAFETY: as above.
        unsafe { part(self.first.add(cell as usize).as_ptr()).read_volatile() }
    }

    /// Writes the word of a cell that `word` points out.
    pub(super) fn write(&mut self, cell: u32, word: impl FnOnce(*mut T) -> *mut u64, value: u64) {
        assert!(cell < self.count);
        // SAFETY: in bounds of the mapping and aligned; volatile, as the programs read meanwhile.
        unsafe { word(self.first.add(cell as usize).as_ptr()).write_volatile(value) }
    }
}

impl<T: Copy> Cells<T> {
    /// As [`Self::write`], of half a word.
    pub(super) fn write_half(&mut self, cell: u32, half: impl FnOnce(*mut T) -> *mut u32, value: u32) {
        assert!(cell < self.count);
        // SAFETY: as above.
        unsafe { half(self.first.add(cell as usize).as_ptr()).write_volatile(value) }
    }
}

fn failed(name: &str, why: &str) -> Failure {
    Failure::new(Exit::Kernel, format!("cannot map the BPF map {name} into memory: {why}"))
}

impl<T> Drop for Cells<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.first.cast(), self.length.get()) } {
            warn!("cannot unmap a BPF map: {error}");
        }
    }
}
