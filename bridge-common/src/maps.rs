//! Layout of the BPF maps. Host byte order throughout; written by user space, read by the programs.

use crate::{
    frame::{ETH_P_8021AD, ETH_P_8021Q, Tag},
    mac::Mac,
};

/// Ports of one instance. Slot 0 stands for "no port".
pub const MAX_PORTS: u32 = 1024;
/// Forwarding ids: (bridge, VLAN) in 16 bits.
pub const MAX_FIDS: u32 = 1 << 16;
/// VLAN counter cells. Cell 0 collects what has none of its own.
pub const MAX_VLAN_CELLS: u32 = 16384;
/// Trust cells, see [`Trust`]: one per slot, then one per bridge ([`bridge_cell`]).
pub const TRUST_CELLS: u32 = MAX_PORTS + BLOCKS + VLANS as u32;
/// Room for them: with a power of two, the programs need not ask whether there is such a cell.
pub const TRUST_ROOM: u32 = TRUST_CELLS.next_power_of_two();
/// Blocks of fids, one for each VLAN-aware bridge.
const BLOCKS: u32 = MAX_FIDS / VLANS as u32;
/// VLAN ids of one bridge, and the distance between the `fid_base` of two VLAN-aware bridges.
pub const VLANS: u16 = 4096;

/// In the table of devices, where else a slot stands: a device whose frames belong to ports by their outer tag, see
/// [`logical_key`].
pub const PARENT: u32 = u32::MAX;

/// Key of the table of logical ports: the device (interface index) in the upper 32 bits, the tag protocol and the VLAN id
/// of the outer tag below, 16 bits each. PCP and DEI are no part of it (`vlan_do_receive` looks for the VLAN id).
#[inline(always)]
pub const fn logical_key(device: u32, tag: Tag) -> u64 {
    (device as u64) << 32 | (tag.tpid() as u64) << 16 | tag.vid() as u64
}

/// Flags of [`Port`].
pub mod port_flags {
    /// Frames that come in here may take the fast path.
    pub const INGRESS: u32 = 1 << 0;
    /// Frames may be sent out here by the tc program.
    pub const EGRESS: u32 = 1 << 1;
    /// Frames may be sent out here by the XDP program (the driver takes them and no qdisc or filter is passed over).
    pub const EGRESS_XDP: u32 = 1 << 2;
    /// The bridge filters VLANs.
    pub const VLAN_AWARE: u32 = 1 << 3;
    /// `BR_LEARNING`, and the bridge learns at all (its ageing time is not 0).
    pub const LEARNING: u32 = 1 << 4;
    /// `BR_PORT_LOCKED`.
    pub const LOCKED: u32 = 1 << 5;
    /// `BR_ISOLATED`.
    pub const ISOLATED: u32 = 1 << 6;
    /// XDP runs on a virtual device: an unfinished checksum is in skb metadata, invisible to XDP.
    pub const VIRTUAL_XDP: u32 = 1 << 7;
    /// `br_netfilter` looks at IPv4 packets that come in here: only those that it leaves as they are may be fast.
    pub const CHECK_IPV4: u32 = 1 << 12;
    /// As `CHECK_IPV4`, for IPv6.
    pub const CHECK_IPV6: u32 = 1 << 13;
    /// Why `EGRESS` is not set: something on the way out that redirected frames would not meet.
    pub const EGRESS_POLICY: u32 = 1 << 14;
    /// Frames to [`super::Port::far_end`](super::Port) may be handed to the far end of the pair by the tc program.
    pub const EGRESS_PEER: u32 = 1 << 15;
}

/// One bridge port, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Interface index of the device that frames are sent out of: the port's own, or its parent's, see `outer`.
    pub ifindex: u32,
    /// [`port_flags`].
    pub flags: u32,
    /// The largest frame that leaves here, in bytes as in [`crate::frame::Frame::len`]: MTU + 14 + 4.
    pub max_len: u32,
    /// Number of the [`crate::reason::Reason`] for which frames from here are slow, where `INGRESS` is not set.
    pub slow_reason: u32,
    /// The fid of VLAN v is `fid_base + v`; on a VLAN-unaware bridge it is `fid_base`.
    pub fid_base: u16,
    /// VLAN of untagged and priority-tagged frames, 0 for none.
    pub pvid: u16,
    /// `vlan_protocol` of the bridge.
    pub tpid: u16,
    /// The tag that frames get in front before they leave by `ifindex`, as [`Port::pack_outer`] packs it; 0 for none.
    pub outer: u16,
    /// After how many nanoseconds a source's FDB entry wants a frame of its own; 0 never.
    pub refresh_interval: u64,
    /// VLANs that the port is a member of and that forward here, one bit each.
    pub member: [u64; 64],
    /// VLANs that leave untagged.
    pub untagged: [u64; 64],
    /// With `EGRESS_PEER`: the address of the far end of the pair, [`Mac::value`].
    pub far_end: u64,
}

impl Port {
    /// A slot without a port.
    pub const EMPTY: Port = Port {
        ifindex: 0,
        flags: 0,
        max_len: 0,
        slow_reason: crate::reason::Reason::UnknownPort as u32,
        fid_base: 0,
        pvid: 0,
        tpid: 0,
        outer: 0,
        refresh_interval: 0,
        member: [0; 64],
        untagged: [0; 64],
        far_end: 0,
    };

    /// Packs the tag of a VLAN device (`vlan_dev_hard_start_xmit`: no priority without an egress map) for
    /// [`Port::outer`]: the VLAN id, and bit 15 for 802.1ad. 0, which is no tag, for other protocols and VLAN ids.
    pub const fn pack_outer(tpid: u16, vid: u16) -> u16 {
        match (tpid, vid) {
            (ETH_P_8021Q, 1..=4094) => vid,
            (ETH_P_8021AD, 1..=4094) => vid | OUTER_AD,
            _ => 0,
        }
    }

    /// The tag that frames get in front on their way out.
    #[inline(always)]
    pub const fn outer_tag(&self) -> Option<Tag> {
        if self.outer == 0 {
            return None;
        }
        let tpid = if self.outer & OUTER_AD != 0 { ETH_P_8021AD } else { ETH_P_8021Q };
        Some(Tag::new(tpid, self.outer & 0x0fff))
    }

    /// Whether the port is a member of `vid` and the VLAN forwards here.
    #[inline(always)]
    pub fn is_member(&self, vid: u16) -> bool {
        bit(&self.member, vid)
    }

    /// Whether frames of `vid` leave untagged.
    #[inline(always)]
    pub fn is_untagged(&self, vid: u16) -> bool {
        bit(&self.untagged, vid)
    }
}

/// In [`Port::outer`]: the tag is one of 802.1ad.
const OUTER_AD: u16 = 1 << 15;

#[inline(always)]
fn bit(words: &[u64; 64], vid: u16) -> bool {
    words[(vid >> 6) as usize & 63] >> (vid & 63) & 1 == 1
}

/// Sets or clears the bit of `vid`.
pub fn set_bit(words: &mut [u64; 64], vid: u16, on: bool) {
    let word = &mut words[(vid >> 6) as usize & 63];
    let mask = 1 << (vid & 63);
    if on { *word |= mask } else { *word &= !mask }
}

/// Sets or clears the bits of all VLAN ids from `first` to `last`, both included.
pub fn set_bits(words: &mut [u64; 64], first: u16, last: u16, on: bool) {
    for (word, start) in words.iter_mut().zip((0_u16..).step_by(64)) {
        let (low, high) = (first.max(start), last.min(start + 63));
        if low > high {
            continue;
        }
        let mask = (u64::MAX >> (63 - (high - low))) << (low - start);
        if on { *word |= mask } else { *word &= !mask }
    }
}

/// Key of the FDB table: address in the upper 48 bits, fid in the lower 16.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbKey(pub u64);

impl FdbKey {
    /// The key of `mac` in `fid`.
    #[inline(always)]
    pub const fn new(fid: u16, mac: Mac) -> Self {
        Self(mac.value() << 16 | fid as u64)
    }
}

/// Flags of an FDB entry ([`crate::fdb::pack`]).
pub mod fdb_flags {
    /// The address is the bridge's own: up to the bridge device, never out of a port.
    pub const LOCAL: u16 = 1 << 0;
    /// A frame at another port does not move the entry.
    pub const STICKY: u16 = 1 << 1;
    /// An entry that xbr leaves to the bridge (locked, or of a kind that xbr does not know).
    pub const OPAQUE: u16 = 1 << 2;
    /// The entry does not age: its source needs no refresh.
    pub const STATIC: u16 = 1 << 3;
}

/// The generation cells: changed by whatever cancels an entry in the kernel; an entry counts only while its generation is the
/// lower half of its cell's. Addresses that share a cell are cancelled together, and which these are follows from a number
/// at random, so that a tenant cannot choose addresses that keep another's off the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationCells {
    /// An odd number at random.
    pub multiplier: u64,
    /// 64 less the log2 of the number of cells.
    pub shift: u32,
}

impl GenerationCells {
    /// Fewest cells.
    const LEAST: u32 = 1 << 14;

    /// For a table of so many entries, of which there are no more than 2^31: no more of them than cells.
    pub const fn new(random: u64, entries: u32) -> Self {
        let cells = if entries > Self::LEAST { entries.next_power_of_two() } else { Self::LEAST };
        Self { multiplier: random | 1, shift: 64 - cells.trailing_zeros() }
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        1 << (64 - self.shift)
    }

    /// The cell of an address. `vid` is the kernel's (0 on a VLAN-unaware bridge), as the tracepoints know no fid.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a number of a cell, of which there are fewer than 2^32")]
    pub const fn of(self, mac: Mac, vid: u16) -> u32 {
        ((mac.value() << 16 | vid as u64).wrapping_mul(self.multiplier) >> self.shift) as u32
    }
}

/// Whether what stands in the port table about a port, or about all ports of a bridge, is still what the kernel says.
///
/// The kernel side writes the moment at which the kernel announced a change; user space reads it, asks the kernel, writes
/// the tables, and then notes here up to which announcement they are true. Only while the two are equal is the port used,
/// so a change that is announced while user space is still asking about an earlier one is not lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The last announcement, in nanoseconds of `CLOCK_MONOTONIC`; 0 never. Written by the programs alone.
    pub announced: u64,
    /// The announcement that the tables are known to include. Written by user space alone.
    pub confirmed: u64,
}

/// Whether the tables as a whole may be believed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Until when, in nanoseconds of `CLOCK_MONOTONIC`; 0: not at all.
    pub until: u64,
    /// Whether the policy on the bridges is still what the tables say.
    pub policy: Trust,
    /// Changes whenever anything else changes that a decision rests on, but for the FDB, and before all churn cells
    /// ([`crate::flow::CHURN_CELLS`]) change for the same reason. Never twice the same: [`moment`].
    pub changed: u64,
    /// Changes whenever an address is cancelled, behind its generation cell. Never twice the same.
    pub cancelled: u64,
}

/// A number that nobody else writes: the nanoseconds of `CLOCK_MONOTONIC`, and who looked at the clock (a CPU; user space
/// is [`USER_SPACE`]), modulo 2^64.
#[inline(always)]
pub const fn moment(now: u64, who: u32) -> u64 {
    now << 10 | (who & 0x3ff) as u64
}

/// Stands for user space in [`moment`].
pub const USER_SPACE: u32 = 0x3ff;

/// The [`Trust`] cell of a bridge whose ports have this `fid_base`.
#[inline(always)]
pub const fn bridge_cell(fid_base: u16) -> u32 {
    let cell = if fid_base < VLANS { BLOCKS + fid_base as u32 } else { (fid_base / VLANS) as u32 };
    MAX_PORTS + cell
}

/// A counter cell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Frames; a super-frame counts once.
    pub packets: u64,
    /// Bytes, as in [`crate::frame::Frame::len`].
    pub bytes: u64,
}

/// Counters of one port on one CPU, by the number of the reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortCounters {
    /// One cell per [`crate::reason::Reason`].
    pub reasons: [Counter; crate::reason::REASONS],
}

/// Counters of one VLAN on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanCounters {
    /// Fast frames.
    pub fast: Counter,
    /// Frames that were classified into the VLAN and left to the bridge.
    pub slow: Counter,
}

/// Where the running kernel keeps what the tracepoint programs read: offsets in bytes, from its BTF, and our namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLayout {
    /// `net_bridge_fdb_entry.key.addr`.
    pub entry_addr: u32,
    /// `net_bridge_fdb_entry.key.vlan_id`.
    pub entry_vlan: u32,
    /// `net_bridge.dev`.
    pub bridge_dev: u32,
    /// `net_device.nd_net.net`.
    pub device_net: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `sock.__sk_common.skc_net.net`.
    pub sock_net: u32,
    /// Inode number of the network namespace whose bridges are served: what happens in others is none of our business,
    /// or a tenant with bridges of his own could cancel our entries.
    pub netns: u32,
}

const _: () = assert!(size_of::<Port>() == 1064);
const _: () = assert!(size_of::<Trust>() == 16);
const _: () = assert!(size_of::<Lease>() == 40);
// Every fid_base has a cell of its own kind.
const _: () = assert!(bridge_cell(VLANS - 1) == TRUST_CELLS - 1 && bridge_cell(u16::MAX) < bridge_cell(0));
const _: () = assert!(size_of::<PortCounters>() == 1024);
const _: () = assert!(size_of::<VlanCounters>() == 32);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers in repr(C) without padding: any bytes are a value.
    unsafe impl aya::Pod for super::Port {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FdbKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::KernelLayout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Trust {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Lease {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::VlanCounters {}
}

#[cfg(test)]
mod tests;
