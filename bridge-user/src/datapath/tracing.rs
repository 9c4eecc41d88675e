//! The programs that run inside the kernel's own changes, and take away at once what a change puts in doubt.
//!
//! All of it is an advantage, not a need: without it the same is learnt from netlink, later.

use std::os::fd::AsFd;

use aya::{
    Ebpf,
    maps::Array,
    programs::{RawTracePoint, SocketFilter},
};
use bridge_common::maps::KernelLayout;
use log::warn;

use super::{
    btf::Btf,
    load::{chain, refused},
};
use crate::{
    config::Coherence,
    error::{Exit, Failure},
    ipc,
};

/// Tracepoints of the bridge: program, tracepoint.
const TRACEPOINTS: [(&str, &str); 4] = [
    ("xbr_fdb_delete", "fdb_delete"),
    ("xbr_fdb_update", "br_fdb_update"),
    ("xbr_fdb_add", "br_fdb_add"),
    ("xbr_fdb_extern", "br_fdb_external_learn_add"),
];
/// The filter of the socket that notifications come to.
const LISTENER: &str = "xbr_announced";

/// What is attached of them.
#[derive(Debug, Default)]
pub struct Tracing {
    /// The bridge's tracepoints cancel FDB entries.
    pub fdb: bool,
    /// Announced changes of ports, bridges and FDB entries are heard as the kernel announces them.
    pub announcements: bool,
    warned: bool,
}

impl Tracing {
    /// Loads the programs.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, Failure> {
        for (program, _) in TRACEPOINTS {
            raw_tracepoint(ebpf, program)?.load().map_err(|error| refused(program, &chain(&error)))?;
        }
        listener(ebpf)?.load().map_err(|error| refused(LISTENER, &chain(&error)))?;
        Ok(Self::default())
    }

    /// Hears what comes to `socket` from now on. Where that fails, a warning says so, and what the daemon reads there
    /// has to do.
    pub fn listen(&mut self, ebpf: &mut Ebpf, coherence: Coherence, socket: impl AsFd) {
        if coherence == Coherence::Netlink {
            return;
        }
        let attached = listener(ebpf).map_err(|failure| failure.to_string());
        match attached.and_then(|listener| listener.attach(socket).map_err(|error| chain(&error))) {
            Ok(()) => self.announcements = true,
            Err(why) => warn!("the kernel's notifications cannot be heard inside the kernel, only read later: {why}"),
        }
    }

    /// Attaches the tracepoints, if they are not attached yet. They exist only while the bridge module is loaded.
    pub fn attach(&mut self, ebpf: &mut Ebpf, coherence: Coherence) {
        if coherence == Coherence::Netlink || self.fdb {
            return;
        }
        let attached = write_layout(ebpf).and_then(|()| {
            TRACEPOINTS.iter().try_for_each(|(program, tracepoint)| {
                Ok(raw_tracepoint(ebpf, program)?.attach(tracepoint).map(drop)?)
            })
        });
        match attached {
            Ok(()) => self.fdb = true,
            Err(error) if !std::mem::replace(&mut self.warned, true) => {
                warn!(
                    "the bridge's tracepoints cannot be used, notifications alone keep the FDB true: {}",
                    chain(&*error)
                );
            }
            Err(_) => {}
        }
    }
}

fn write_layout(ebpf: &mut Ebpf) -> Result<(), Box<dyn std::error::Error>> {
    let layout = read_layout()?;
    let map = ebpf.map_mut("xbr_layout").ok_or("the embedded BPF object has no map xbr_layout")?;
    Array::<_, KernelLayout>::try_from(map)?.set(0, layout, 0)?;
    Ok(())
}

/// Where this kernel keeps what the programs read.
fn read_layout() -> Result<KernelLayout, Box<dyn std::error::Error>> {
    let btf = Btf::load("bridge")?;
    Ok(KernelLayout {
        entry_addr: btf.member_offset("net_bridge_fdb_entry", &["key", "addr"])?,
        entry_vlan: btf.member_offset("net_bridge_fdb_entry", &["key", "vlan_id"])?,
        bridge_dev: btf.member_offset("net_bridge", &["dev"])?,
        device_net: btf.member_offset("net_device", &["nd_net", "net"])?,
        net_inum: btf.member_offset("net", &["ns", "inum"])?,
        netns: u32::try_from(ipc::namespace_inode()?)?,
    })
}

fn raw_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint, Failure> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no tracepoint program {name}")))
}

fn listener(ebpf: &mut Ebpf) -> Result<&mut SocketFilter, Failure> {
    ebpf.program_mut(LISTENER)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no socket filter {LISTENER}")))
}
