//! The programs that run inside the kernel's own changes, and take away at once what a change puts in doubt.
//!
//! All of it is an advantage, not a need: without it the same is learnt from netlink, later.

use std::os::fd::AsFd;

use aya::{
    Ebpf,
    maps::Array,
    programs::{FEntry, FExit, RawTracePoint, SocketFilter},
};
use bridge_common::maps::KernelLayout;
use log::{info, warn};

use super::{
    btf::Btf,
    census::Census,
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
/// Where ebtables and the older iptables replace their tables, for which the kernel has no notification, and the programs
/// before and behind it.
const RULES: (&str, &str, &str) = ("nf_setsockopt", "xbr_rules_in", "xbr_rules_out");
/// The filter of the socket that notifications of rtnetlink come to.
const LISTENER: &str = "xbr_announced";
/// The filter of the socket that notifications of nftables come to.
const RULE_LISTENER: &str = "xbr_rules";

/// What is attached of them.
#[derive(Default)]
pub struct Tracing {
    /// The bridge's tracepoints cancel FDB entries.
    pub fdb: bool,
    /// Announced changes of ports, bridges and FDB entries are heard as the kernel announces them.
    pub announcements: bool,
    /// Changes of ebtables and of the older iptables suspend the fast path until they have been looked at.
    /// `None`: that was not tried yet.
    pub rules: Option<bool>,
    warned: bool,
    /// The kernel's types, if they have been read already.
    pub(super) btf: Option<Btf>,
}

impl Tracing {
    /// Loads the programs.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, Failure> {
        for (program, _) in TRACEPOINTS {
            raw_tracepoint(ebpf, program)?.load().map_err(|error| refused(program, &chain(&error)))?;
        }
        for name in [LISTENER, RULE_LISTENER] {
            listener(ebpf, name)?.load().map_err(|error| refused(name, &chain(&error)))?;
        }
        Ok(Self::default())
    }

    /// Hears what comes to `socket` of rtnetlink and to `rules` of nftables from now on. Where that fails, a warning says so,
    /// and what the daemon reads there has to do.
    pub fn listen(&mut self, ebpf: &mut Ebpf, coherence: Coherence, socket: impl AsFd, rules: Option<impl AsFd>) {
        if coherence == Coherence::Netlink {
            return;
        }
        match attach_listener(ebpf, LISTENER, socket) {
            Ok(()) => self.announcements = true,
            Err(why) => warn!("the kernel's notifications cannot be heard inside the kernel, only read later: {why}"),
        }
        if let Some(Err(why)) = rules.map(|rules| attach_listener(ebpf, RULE_LISTENER, rules)) {
            warn!("changes of nftables cannot be heard inside the kernel, only read later: {why}");
        }
    }

    /// Attaches what is not attached yet. The tracepoints exist only while the bridge module is loaded.
    pub fn attach(&mut self, ebpf: &mut Ebpf, census: &mut Census, coherence: Coherence) {
        if coherence == Coherence::Netlink {
            self.btf = None;
            return;
        }
        if !self.fdb {
            self.attach_tracepoints(ebpf, census);
        }
        if self.fdb && self.rules.is_none() {
            let attached = attach_rules(ebpf);
            self.rules = Some(attached.is_ok());
            if let Err(error) = attached {
                info!("rules of ebtables and of the older iptables are looked for once a second: {}", chain(&*error));
            }
        }
    }

    fn attach_tracepoints(&mut self, ebpf: &mut Ebpf, census: &mut Census) {
        let attached = write_layout(ebpf, census, self.btf.take()).and_then(|()| {
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

fn attach_rules(ebpf: &mut Ebpf) -> Result<(), Box<dyn std::error::Error>> {
    let (function, entry, exit) = RULES;
    let btf = aya::Btf::from_sys_fs()?;
    // The one behind first: without it, the one before would not do.
    let program: &mut FExit = ebpf.program_mut(exit).ok_or("the embedded BPF object lacks a program")?.try_into()?;
    program.load(function, &btf)?;
    program.attach()?;
    let program: &mut FEntry = ebpf.program_mut(entry).ok_or("the embedded BPF object lacks a program")?.try_into()?;
    program.load(function, &btf)?;
    program.attach()?;
    Ok(())
}

fn write_layout(ebpf: &mut Ebpf, census: &mut Census, known: Option<Btf>) -> Result<(), Box<dyn std::error::Error>> {
    // Read before the bridge was loaded, they lack its own.
    let btf = match known.filter(|btf| btf.is_complete("bridge")) {
        Some(btf) => btf,
        None => Btf::load("bridge")?,
    };
    census.prepare(ebpf, &btf);
    let layout = read_layout(&btf)?;
    let map = ebpf.map_mut("xbr_layout").ok_or("the embedded BPF object has no map xbr_layout")?;
    Array::<_, KernelLayout>::try_from(map)?.set(0, layout, 0)?;
    Ok(())
}

/// Where this kernel keeps what the programs read.
fn read_layout(btf: &Btf) -> Result<KernelLayout, Box<dyn std::error::Error>> {
    Ok(KernelLayout {
        entry_addr: btf.member_offset("net_bridge_fdb_entry", &["key", "addr"])?,
        entry_vlan: btf.member_offset("net_bridge_fdb_entry", &["key", "vlan_id"])?,
        bridge_dev: btf.member_offset("net_bridge", &["dev"])?,
        device_net: btf.member_offset("net_device", &["nd_net", "net"])?,
        net_inum: btf.member_offset("net", &["ns", "inum"])?,
        sock_net: btf.member_offset("sock", &["__sk_common", "skc_net", "net"])?,
        netns: u32::try_from(ipc::namespace_inode()?)?,
    })
}

fn raw_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint, Failure> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no tracepoint program {name}")))
}

fn attach_listener(ebpf: &mut Ebpf, name: &str, socket: impl AsFd) -> Result<(), String> {
    let listener = listener(ebpf, name).map_err(|failure| failure.to_string())?;
    listener.attach(socket).map(drop).map_err(|error| chain(&error))
}

fn listener<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SocketFilter, Failure> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no socket filter {name}")))
}
