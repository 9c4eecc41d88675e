//! Maps that the programs of this crate are loaded with.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use super::{Attr, MAP_LOOKUP, owned, possible_cpus};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const TYPE_PERCPU_ARRAY: u32 = 6;
const TYPE_DEVMAP: u32 = 14;

fn create(kind: u32, value: u32, entries: u32) -> Result<OwnedFd> {
    let mut attr = Attr::new();
    attr.0[0] = kind;
    attr.0[1] = 4;
    attr.0[2] = value;
    attr.0[3] = entries;
    owned(attr.call(MAP_CREATE).context("create a map")?)
}

/// A counter of 64 bits, one for each CPU.
#[derive(Debug)]
pub struct Counter {
    fd: OwnedFd,
    cpus: usize,
}

impl Counter {
    /// A counter at zero.
    pub fn new() -> Result<Self> {
        Ok(Self { fd: create(TYPE_PERCPU_ARRAY, 8, 1)?, cpus: possible_cpus()? })
    }

    /// The descriptor, for instructions.
    pub(super) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// The sum over all CPUs.
    pub fn sum(&self) -> Result<u64> {
        let (key, mut values) = (0_u32, vec![0_u64; self.cpus]);
        let mut attr = Attr::new();
        attr.0[0] = self.fd.as_raw_fd().cast_unsigned();
        attr.pointer(2, &raw const key);
        attr.pointer(4, values.as_mut_ptr());
        attr.call(MAP_LOOKUP).context("read a counter")?;
        Ok(values.iter().sum())
    }
}

/// Devices of this thread's namespace, by number, for redirects from XDP.
pub(super) fn devices(indices: &[u32]) -> Result<OwnedFd> {
    let map = create(TYPE_DEVMAP, 4, u32::try_from(indices.len())?)?;
    for (key, index) in (0_u32..).zip(indices) {
        let mut attr = Attr::new();
        attr.0[0] = map.as_raw_fd().cast_unsigned();
        attr.pointer(2, &raw const key);
        attr.pointer(4, index);
        attr.call(MAP_UPDATE).with_context(|| format!("device {index} into a map"))?;
    }
    Ok(map)
}
