//! What the program that reads a bridge's FDB out of the kernel's list is told, and what it tells.

/// One entry of a bridge.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its address.
    pub mac: [u8; 6],
    /// Its VLAN; 0 where the bridge does not filter.
    pub vlan: u16,
    /// Index of the port's device; 0: the bridge itself.
    pub port: u32,
    /// `net_bridge_fdb_entry.flags`, the lower half: bits by number, as the kernel's enumeration has them.
    pub flags: u32,
}

/// Where the running kernel keeps what the program reads: offsets in bytes, from its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbLayout {
    /// `task_struct.nsproxy`.
    pub task_spaces: u32,
    /// `nsproxy.net_ns`.
    pub spaces_net: u32,
    /// `net.dev_base_head`.
    pub net_devices: u32,
    /// `net_device.dev_list`.
    pub device_list: u32,
    /// `net_device.ifindex`.
    pub device_ifindex: u32,
    /// Where a device's private part begins (`netdev_priv`).
    pub device_private: u32,
    /// `net_bridge.dev`.
    pub bridge_device: u32,
    /// `net_bridge.fdb_list`.
    pub bridge_entries: u32,
    /// `net_bridge_port.dev`.
    pub port_device: u32,
    /// `net_bridge_fdb_entry.fdb_node`.
    pub entry_node: u32,
    /// `net_bridge_fdb_entry.key.addr`.
    pub entry_addr: u32,
    /// `net_bridge_fdb_entry.key.vlan_id`.
    pub entry_vlan: u32,
    /// `net_bridge_fdb_entry.dst`.
    pub entry_port: u32,
    /// `net_bridge_fdb_entry.flags`.
    pub entry_flags: u32,
}

/// The most entries of one bridge (`BPF_MAX_LOOPS`, less one for the end).
pub const MOST: u32 = (1 << 23) - 1;
/// In place of a number of entries: something could not be read.
pub const UNREADABLE: u32 = u32::MAX;
/// There are more than the map takes.
pub const TOO_MANY: u32 = u32::MAX - 1;
/// There is no such bridge in the namespace.
pub const NO_BRIDGE: u32 = u32::MAX - 2;

const _: () = assert!(size_of::<Counted>() == 16);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers in repr(C) without padding: any bytes are a value.
    unsafe impl aya::Pod for super::Counted {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FdbLayout {}
}
