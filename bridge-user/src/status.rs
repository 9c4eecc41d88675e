//! The snapshot that the daemon hands out and that `xbr status` and `xbr top` show. Its JSON keys, once published, stay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the snapshot's form. Keys are added, never changed or removed, within one version.
pub const VERSION: u32 = 1;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// Frames; a GSO or GRO super-frame counts once.
    pub packets: u64,
    /// Bytes from the destination address on, a tag in metadata not included.
    pub bytes: u64,
}

/// One instance of the daemon at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// Version of the daemon.
    pub daemon: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: f64,
    /// Nanoseconds of `CLOCK_MONOTONIC` when the counters were read; rates divide by differences of this.
    pub at_nanoseconds: u64,
    /// Kernel release.
    pub kernel: String,
    /// Whether the fast path is on: false while the daemon resynchronises.
    pub active: bool,
    /// Full resyncs since the start, by cause.
    pub resyncs: BTreeMap<String, u64>,
    /// How full the tables are.
    pub tables: Vec<TableFill>,
    /// The bridges, by name.
    pub bridges: Vec<BridgeStatus>,
    /// Things an operator should know, each one line.
    pub warnings: Vec<String>,
}

/// One BPF table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableFill {
    /// "fdb", "ports", "vlans".
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries that fit.
    pub capacity: u64,
    /// Entries that found no room; their frames go by the bridge.
    pub refused: u64,
}

/// One bridge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeStatus {
    /// Name of the bridge device.
    pub ifname: String,
    /// Its interface index; 0 while it does not exist.
    pub ifindex: u32,
    /// Whether it exists now.
    pub present: bool,
    /// `vlan_filtering`.
    pub vlan_filtering: bool,
    /// "802.1Q" or "802.1ad".
    pub vlan_protocol: String,
    /// FDB entries that xbr holds for it.
    pub fdb_entries: u64,
    /// Why all of the bridge is slow, if it is: a reason's name.
    pub slow_reason: Option<String>,
    /// The finding behind `slow_reason`.
    pub slow_detail: Option<String>,
    /// Its ports, by name.
    pub ports: Vec<PortStatus>,
    /// Its VLANs with traffic, by number.
    pub vlans: Vec<VlanStatus>,
}

/// One bridge port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortStatus {
    /// Name of the port's device.
    pub ifname: String,
    /// Its interface index.
    pub ifindex: u32,
    /// "forwarding", "learning", "blocking", "listening", "disabled", "unknown".
    pub state: String,
    /// "tcx", "tc", "xdp+tcx", "xdp+tc" or "none".
    pub hook: String,
    /// Why this hook.
    pub hook_why: String,
    /// Whether frames from this port can take the fast path now.
    pub accelerated: bool,
    /// Why not: a reason's name.
    pub slow_reason: Option<String>,
    /// The finding behind `slow_reason`.
    pub slow_detail: Option<String>,
    /// Frames received that took the fast path.
    pub fast: Count,
    /// Frames received that went to the bridge.
    pub slow: Count,
    /// Frames received that neither path could deliver.
    pub dropped: Count,
    /// Packets received by reason; zeros are left out. They add up to fast + slow + dropped.
    pub reasons: BTreeMap<String, u64>,
    /// Bytes received by reason; zeros are left out.
    pub reason_bytes: BTreeMap<String, u64>,
    /// Frames sent out of the port, whichever path they took: the kernel's count, and what left a VLAN device by the
    /// device below it.
    pub sent: Count,
    /// The device that has the programs for this port, where it is not the port's own: the one below a VLAN device.
    pub served_on: Option<String>,
}

impl PortStatus {
    /// The hook for people: with the device that has it, if that is not the port's own.
    pub fn hook_and_device(&self) -> String {
        match &self.served_on {
            Some(device) => format!("{}@{device}", self.hook),
            None => self.hook.clone(),
        }
    }
}

/// One VLAN of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VlanStatus {
    /// VLAN id; 0 is the whole of a VLAN-unaware bridge.
    pub vlan: u16,
    /// Frames that took the fast path.
    pub fast: Count,
    /// Frames that were classified into the VLAN and went to the bridge.
    pub slow: Count,
}

/// The share of fast frames among all received, 0 to 1; `None` before the first frame.
#[expect(clippy::cast_precision_loss, reason = "a share for people; 2^53 frames are enough")]
pub fn fast_share(fast: Count, slow: Count, dropped: Count) -> Option<f64> {
    let total = fast.packets + slow.packets + dropped.packets;
    (total > 0).then(|| fast.packets as f64 / total as f64)
}
