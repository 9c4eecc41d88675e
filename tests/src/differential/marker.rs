//! Tags in metadata: a program on the egress of the far ends pushes the tag that a frame's mark asks for, and the kernel
//! keeps it beside the bytes, as a NIC with tag offload does.

use anyhow::Result;

use crate::{
    bpf::{self, Attached},
    frame::{TPID_AD, TPID_Q},
};

/// Programs on devices for as long as this lives.
#[derive(Debug)]
pub(super) struct Marker {
    _attached: Vec<Attached>,
}

impl Marker {
    /// Attaches the programs to devices of this thread's namespace.
    pub(super) fn attach(devices: &[String]) -> Result<Self> {
        let attached = devices.iter().map(|device| bpf::tag_by_mark(device)).collect::<Result<Vec<_>>>()?;
        Ok(Self { _attached: attached })
    }

    /// The mark that asks for a tag; 0 asks for none.
    pub(super) const fn mark(tpid: u16, tci: u16) -> u32 {
        let kind = match tpid {
            TPID_Q => bpf::MARK_Q,
            TPID_AD => bpf::MARK_AD,
            _ => return 0,
        };
        kind | tci as u32
    }
}
