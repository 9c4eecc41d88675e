//! The snapshot that the daemon hands out and that `xbr status` and `xbr top` show. Its JSON keys, once published, stay.

use std::{collections::BTreeMap, ops::AddAssign};

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

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
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
    /// Whether the fast path is on: false while the daemon resynchronises, and in shadow mode.
    pub active: bool,
    /// The account of shadow mode; `None` outside it.
    pub shadow: Option<ShadowStatus>,
    /// Full resyncs since the start, by cause.
    pub resyncs: BTreeMap<String, u64>,
    /// How full the tables are.
    pub tables: Vec<TableFill>,
    /// The bridges, by name.
    pub bridges: Vec<BridgeStatus>,
    /// What was counted on ports that have left since the daemon started.
    pub gone: GoneStatus,
    /// Things an operator should know, each one line.
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// Whether the daemon knows the state of the bridges, and frames are decided.
    pub fn running(&self) -> bool {
        self.active || self.shadow.as_ref().is_some_and(|shadow| shadow.active)
    }
}

impl PortStatus {
    /// Whether frames from this port can take the fast path, or could if it were not for shadow mode.
    pub fn ready(&self) -> bool {
        self.accelerated || self.shadow.as_ref().is_some_and(|shadow| shadow.ready)
    }
}

impl ShadowStatus {
    /// Adds the account of another daemon.
    pub fn add(&mut self, other: Self) {
        self.active &= other.active;
        self.total.add(&other.total);
        self.no_room += other.no_room;
        self.examples.extend(other.examples);
    }
}

/// The counters of ports that have left, summed. A port that comes back begins at zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GoneStatus {
    /// How many ports have left.
    pub ports: u64,
    /// Frames received that took the fast path.
    pub fast: Count,
    /// Frames received that went to the bridge.
    pub slow: Count,
    /// Frames received that neither path could deliver.
    pub dropped: Count,
    /// Packets received by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Bytes received by reason.
    pub reason_bytes: BTreeMap<String, u64>,
}

impl AddAssign for GoneStatus {
    fn add_assign(&mut self, other: Self) {
        self.ports += other.ports;
        self.fast += other.fast;
        self.slow += other.slow;
        self.dropped += other.dropped;
        for (sums, counts) in [(&mut self.reasons, other.reasons), (&mut self.reason_bytes, other.reason_bytes)] {
            for (reason, count) in counts {
                *sums.entry(reason).or_default() += count;
            }
        }
    }
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

impl AddAssign<&Self> for TableFill {
    fn add_assign(&mut self, other: &Self) {
        self.used += other.used;
        self.capacity += other.capacity;
        self.refused += other.refused;
    }
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
    /// How fast frames leave by this port: "xdp" (sent by the XDP program that they came in through, or by tc where they came
    /// in through tc), "tc" (always by tc), "peer" (by tc, and what is addressed to the far end of the veth is handed to it directly),
    /// or "none" (no fast frames leave here).
    pub egress: String,
    /// Why so.
    pub egress_why: String,
    /// What it would take for frames that come in through XDP to leave here without tc; `None` where they do, or where no
    /// other port of the bridge has XDP.
    pub faster: Option<String>,
    /// Whether frames from this port can take the fast path now.
    pub accelerated: bool,
    /// Why not: a reason's name. In shadow mode: why they could not even outside it.
    pub slow_reason: Option<String>,
    /// The finding behind `slow_reason`.
    pub slow_detail: Option<String>,
    /// The account of shadow mode; `None` outside it.
    pub shadow: Option<PortShadow>,
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

/// Shadow mode: everything is decided and nothing forwarded, and what the bridge does is compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShadowStatus {
    /// Whether frames are decided and compared: false while the daemon resynchronises.
    pub active: bool,
    /// One in this many frames that would be forwarded is compared.
    pub sample: u32,
    /// All ports together, those that have left included. `would_forward` has those that are there now.
    pub total: PortShadow,
    /// Frames that were to be compared when all records were in use.
    pub no_room: u64,
    /// The latest example of each kind of disagreement.
    pub examples: Vec<Disagreement>,
}

/// What shadow mode found out about the frames that came in at a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortShadow {
    /// Whether frames could take the fast path now, were it not for shadow mode.
    pub ready: bool,
    /// Frames that would have been forwarded.
    pub would_forward: Count,
    /// Compared frames that left by the expected port alone, and with the expected bytes.
    pub agreed: u64,
    /// Compared frames with which something else happened.
    pub disagreed: u64,
    /// Frames whose way out nobody watched, as the egress port joined or left meanwhile.
    pub unknown: u64,
    /// The disagreements by kind: `other_port`, `other_bytes`, `extra_copy`, `never_left`, `went_up`. They add up to
    /// `disagreed`.
    pub disagreements: BTreeMap<String, u64>,
}

impl PortShadow {
    /// Adds the account of another port.
    pub fn add(&mut self, other: &Self) {
        self.ready |= other.ready;
        self.would_forward.packets += other.would_forward.packets;
        self.would_forward.bytes += other.would_forward.bytes;
        self.agreed += other.agreed;
        self.disagreed += other.disagreed;
        self.unknown += other.unknown;
        for (kind, count) in &other.disagreements {
            *self.disagreements.entry(kind.clone()).or_default() += count;
        }
    }
}

/// A frame with which the bridge did something else than the fast path would have done. Bytes are in hexadecimal, as
/// they would lie on the wire: at most the first 128, with the tag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disagreement {
    /// See [`PortShadow::disagreements`].
    pub kind: String,
    /// What happened instead, one sentence.
    pub detail: String,
    /// When the frame came in, in seconds since 1970.
    pub unix_seconds: f64,
    /// The bridge.
    pub bridge: String,
    /// The port where the frame came in.
    pub ingress: String,
    /// Its length there, in bytes.
    pub received_length: u32,
    /// Its bytes there.
    pub received_bytes: String,
    /// What the fast path would have done to the tag: "keep", "push VLAN 10", "pop", "retag to VLAN 10".
    pub tag_change: String,
    /// The port by which the fast path would have sent it.
    pub expected_port: String,
    /// The length that it would have had.
    pub expected_length: u32,
    /// The bytes that it would have had.
    pub expected_bytes: String,
    /// The port by which the copy in question left, or the bridge that it went up to; `None`: it was not seen again.
    pub actual_port: Option<String>,
    /// The length of that copy.
    pub actual_length: Option<u32>,
    /// Its bytes.
    pub actual_bytes: Option<String>,
    /// Copies that left by the expected port.
    pub copies_expected: u32,
    /// Copies that left by other ports.
    pub copies_elsewhere: u32,
    /// Copies that went up to the bridge.
    pub copies_up: u32,
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
