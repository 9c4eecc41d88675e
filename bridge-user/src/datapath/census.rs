//! The whole FDB of a bridge, read out of the kernel's own list by a program ([`bridge_common::census`]).
//!
//! An advantage, not a need: where the kernel's types are other than what is known here, netlink's dump says the same, later
//! for a large bridge.

use std::{collections::BTreeMap, error::Error};

use aya::{
    Ebpf,
    maps::Array,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use bridge_common::census::{Counted, FdbLayout, NO_BRIDGE, TOO_MANY, UNREADABLE};
use log::{debug, info};

use super::{btf::Btf, load::chain, tables::cells::Cells};
use crate::{
    error::Failure,
    model::{FdbEntry, FdbKey, IfIndex},
};

const PROGRAM: &str = "xbr_fdb_all";
/// Numbers of bits of `net_bridge_fdb_entry.flags` (an enumeration in `net/bridge/br_private.h`), of a kernel that has them.
const FLAGS: [&str; 10] = [
    "BR_FDB_LOCAL",
    "BR_FDB_STATIC",
    "BR_FDB_STICKY",
    "BR_FDB_ADDED_BY_EXT_LEARN",
    "BR_FDB_OFFLOADED",
    "BR_FDB_NOTIFY",
    "BR_FDB_LOCKED",
    // Of no matter: who made an entry, and what user space is told of it.
    "BR_FDB_ADDED_BY_USER",
    "BR_FDB_NOTIFY_INACTIVE",
    "BR_FDB_DYNAMIC_LEARNED",
];

/// Where the entries of the bridge itself are told by, in [`FLAGS`].
const LOCAL: usize = 0;

/// Reads FDBs.
pub struct Census {
    cells: Cells<Counted>,
    /// The mask of each of [`FLAGS`]; 0 where the kernel has none. `None`: it cannot be used, or not yet.
    masks: Option<[u32; FLAGS.len()]>,
}

impl Census {
    /// Loads the program; `size` is the most entries of a bridge.
    pub(super) fn load(ebpf: &mut Ebpf, size: u32) -> Result<Self, Failure> {
        if let Err(error) = program(ebpf).and_then(|program| Ok(program.load()?)) {
            info!("large FDBs are read slowly: {}", chain(&*error));
        }
        Ok(Self { cells: Cells::map(ebpf, "xbr_census", size + 1)?, masks: None })
    }

    /// Tells the program where this kernel keeps what it reads.
    pub(super) fn prepare(&mut self, ebpf: &mut Ebpf, btf: &Btf) {
        let told = layout(btf).map_err(Into::into).and_then(|layout| tell(ebpf, layout)).and_then(|()| masks(btf));
        match told {
            Ok(masks) => self.masks = Some(masks),
            Err(error) => info!("large FDBs are read slowly: {}", chain(&*error)),
        }
    }

    /// Whether it can be used.
    pub fn is_ready(&self) -> bool {
        self.masks.is_some()
    }

    /// All entries of these bridges; of one that has more than the table takes, without those of the bridge itself. `None`:
    /// netlink has to be asked.
    pub fn take(&mut self, ebpf: &mut Ebpf, bridges: &[IfIndex]) -> Option<Vec<(FdbKey, FdbEntry)>> {
        let masks = self.masks?;
        let program = program(ebpf).ok()?;
        let mut entries = Vec::new();
        for bridge in bridges {
            let mut count = self.run(program, *bridge, 0)?;
            if count == TOO_MANY {
                count = self.run(program, *bridge, masks[LOCAL])?;
            }
            if matches!(count, UNREADABLE | TOO_MANY | NO_BRIDGE) {
                debug!("the FDB of device {bridge} cannot be read at once: {count:#x}");
                return None;
            }
            entries.extend((1..=count).map(|cell| read(&masks, *bridge, self.cells.read(cell))));
        }
        Some(entries)
    }

    /// Lets the program note the entries of a bridge that have none of these flags; their number, or why there is none.
    fn run(&self, program: &RawTracePoint, bridge: IfIndex, without: u32) -> Option<u32> {
        let args = [u64::from(bridge), u64::from(without), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        if let Err(error) = program.test_run(RawTracePointRunOptions { args, cpu: None }) {
            debug!("the FDB of device {bridge} cannot be read at once: {}", chain(&error));
            return None;
        }
        Some(self.cells.read(0).flags)
    }
}

/// As netlink would have told it (`fdb_fill_info`, `fdb_to_nud`).
fn read(masks: &[u32; FLAGS.len()], bridge: IfIndex, found: Counted) -> (FdbKey, FdbEntry) {
    let [local, fixed, sticky, extern_learn, offloaded, watched, locked, ..] =
        masks.map(|mask| found.flags & mask != 0);
    let known = masks.iter().fold(0, |all, mask| all | mask);
    let entry = FdbEntry {
        port: if found.port == 0 { bridge } else { found.port },
        local,
        is_static: local || fixed,
        sticky,
        extern_learn,
        locked,
        offloaded,
        watched,
        unknown: found.flags & !known != 0,
    };
    (FdbKey { bridge, vlan: found.vlan, mac: found.mac }, entry)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut RawTracePoint, Box<dyn Error>> {
    Ok(ebpf.program_mut(PROGRAM).ok_or("the embedded BPF object lacks a program")?.try_into()?)
}

fn tell(ebpf: &mut Ebpf, layout: FdbLayout) -> Result<(), Box<dyn Error>> {
    let map = ebpf.map_mut("xbr_fdb_layout").ok_or("the embedded BPF object has no map xbr_fdb_layout")?;
    Ok(Array::<_, FdbLayout>::try_from(map)?.set(0, layout, 0)?)
}

/// The masks of [`FLAGS`].
fn masks(btf: &Btf) -> Result<[u32; FLAGS.len()], Box<dyn Error>> {
    let bits: BTreeMap<String, u32> = btf.enumeration(FLAGS[0])?;
    if let Some(stranger) = bits.keys().find(|name| !FLAGS.contains(&name.as_str())) {
        return Err(format!("flag {stranger} of FDB entries is unknown").into());
    }
    Ok(FLAGS.map(|name| bits.get(name).and_then(|bit| 1_u32.checked_shl(*bit)).unwrap_or(0)))
}

fn layout(btf: &Btf) -> Result<FdbLayout, super::btf::BtfError> {
    let entry = |path: &[&str]| btf.member_offset("net_bridge_fdb_entry", path);
    // netdev_priv: a member since 6.10; before, whatever is behind the structure, aligned to NETDEV_ALIGN.
    let private = btf.member_offset("net_device", &["priv"]);
    Ok(FdbLayout {
        task_spaces: btf.member_offset("task_struct", &["nsproxy"])?,
        spaces_net: btf.member_offset("nsproxy", &["net_ns"])?,
        net_devices: btf.member_offset("net", &["dev_base_head"])?,
        device_list: btf.member_offset("net_device", &["dev_list"])?,
        device_ifindex: btf.member_offset("net_device", &["ifindex"])?,
        device_private: match private {
            Ok(offset) => offset,
            Err(_) => btf.size("net_device")?.next_multiple_of(32),
        },
        bridge_device: btf.member_offset("net_bridge", &["dev"])?,
        bridge_entries: btf.member_offset("net_bridge", &["fdb_list"])?,
        port_device: btf.member_offset("net_bridge_port", &["dev"])?,
        entry_node: entry(&["fdb_node"])?,
        entry_addr: entry(&["key", "addr"])?,
        entry_vlan: entry(&["key", "vlan_id"])?,
        entry_port: entry(&["dst"])?,
        entry_flags: entry(&["flags"])?,
    })
}
