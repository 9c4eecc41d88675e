//! The topology: a host namespace with bridges, guests behind veth or tap, and an uplink on a wire.

use std::{
    net::Ipv4Addr,
    process,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    frame::{Mac, mac},
    netns::{Netns, remove_stale},
    packet::{Capture, Sender},
    tap::{self, Pump},
    wait,
};

/// How a guest is connected to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A veth, as containers have it.
    Veth,
    /// A tap with `virtio_net_hdr`, as virtual machines have it.
    Tap,
    /// The far end of an uplink: a veth that behaves as a NIC on a wire (tags and checksums in the bytes).
    Wire,
}

/// Somebody with an address, in a namespace of its own.
#[derive(Debug)]
pub struct Guest {
    /// Short name, unique in the net.
    pub name: String,
    /// Its namespace.
    pub space: Arc<Netns>,
    /// Its device in its namespace.
    pub dev: String,
    /// The device in the host that leads to it.
    pub port: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address, /24.
    pub ip: Ipv4Addr,
    /// How it is connected.
    pub kind: Kind,
    pump: Option<Pump>,
}

impl Guest {
    /// A sender of raw frames.
    pub fn sender(&self) -> Result<Sender> {
        Sender::open(&self.space, &self.dev)
    }

    /// Catches what the guest receives.
    pub fn capture(&self) -> Result<Capture> {
        Capture::open(&self.space, &self.dev)
    }

    /// Pulls the plug: a tap's file is closed (the device vanishes), other kinds go down.
    pub fn unplug(&mut self) -> Result<()> {
        if self.pump.take().is_none() {
            self.space.cmd(&format!("ip link set {} down", self.dev))?;
        }
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        self.space.cmd(&format!("ip link set {} address {} up", self.dev, mac(self.mac)))?;
        self.space.cmd(&format!("ip addr add {}/24 dev {}", self.ip, self.dev))?;
        Ok(())
    }
}

/// A host with bridges, and everything around it.
#[derive(Debug)]
pub struct Net {
    /// The namespace with the bridges; the daemon runs here.
    pub host: Arc<Netns>,
    prefix: String,
    next: AtomicU8,
}

impl Net {
    /// A net for a test: names are unique on the machine.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::with_prefix(&format!("xbr-t-{}-{number}-", process::id()))
    }

    /// A net whose namespaces are called `xbr-lab-PID-NAME`.
    pub fn lab() -> Result<Self> {
        Self::with_prefix(&format!("xbr-lab-{}-", process::id()))
    }

    fn with_prefix(prefix: &str) -> Result<Self> {
        static CLEAN: std::sync::Once = std::sync::Once::new();
        CLEAN.call_once(remove_stale);
        let host = Arc::new(Netns::create(&format!("{prefix}host"))?);
        Ok(Self { host, prefix: prefix.to_owned(), next: AtomicU8::new(1) })
    }

    /// Another namespace of this net.
    pub fn space(&self, name: &str) -> Result<Arc<Netns>> {
        Ok(Arc::new(Netns::create(&format!("{}{name}", self.prefix))?))
    }

    /// Makes a bridge and brings it up. `options` is in the words of `ip link add type bridge`.
    pub fn bridge(&self, name: &str, options: &str) -> Result<()> {
        self.host.cmd(&format!(
            "ip link add name {name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0 {options}"
        ))?;
        self.host.cmd(&format!("ip link set {name} up"))?;
        Ok(())
    }

    /// A guest of this kind; its port is up, but in no bridge yet. The port is called NAME, for [`Kind::Wire`] `eth0`.
    pub fn guest(&self, name: &str, kind: Kind) -> Result<Guest> {
        let number = self.number()?;
        let space = Arc::new(Netns::create(&format!("{}{name}", self.prefix))?);
        let (port, dev) = match kind {
            Kind::Veth | Kind::Tap => (name.to_owned(), "eth0".to_owned()),
            Kind::Wire => ("eth0".to_owned(), "wire".to_owned()),
        };
        let mut pump = None;
        if kind == Kind::Tap {
            let inside = tap::open(&space, &dev)?;
            pump = Some(Pump::start(tap::open(&self.host, &port)?, inside));
        } else {
            self.host.cmd(&format!("ip link add name {port} type veth peer name {dev} netns {}", space.name()))?;
        }
        if kind == Kind::Wire {
            // Bytes on a wire have their tags and checksums in them; a NIC takes frames in bursts (NAPI, here with GRO).
            space.cmd(&format!(
                "ethtool -K {dev} tx-vlan-offload off tx-vlan-stag-hw-insert off tx off tso off gso off gro on"
            ))?;
        }
        let guest = Guest {
            name: name.to_owned(),
            space,
            dev,
            port,
            mac: [2, 0x0b, 0, 0, 0, number],
            ip: Ipv4Addr::new(10, 77, 0, number),
            kind,
            pump,
        };
        guest.configure()?;
        self.host.cmd(&format!("ip link set {} up", guest.port))?;
        Ok(guest)
    }

    /// A host on the wire in VLAN `vid` of an uplink, with a namespace of its own (needs VLAN devices).
    pub fn vlan_host(&self, name: &str, wire: &Guest, vid: u16) -> Result<Guest> {
        let number = self.number()?;
        let space = Arc::new(Netns::create(&format!("{}{name}", self.prefix))?);
        let dev = format!("{}.{vid}", wire.dev);
        wire.space.cmd(&format!("ip link add link {} name {dev} type vlan id {vid}", wire.dev))?;
        wire.space.cmd(&format!("ip link set {dev} netns {}", space.name()))?;
        let guest = Guest {
            name: name.to_owned(),
            space,
            dev,
            port: wire.port.clone(),
            mac: [2, 0x0b, 0, 0, 0, number],
            ip: Ipv4Addr::new(10, 77, 0, number),
            kind: Kind::Wire,
            pump: None,
        };
        guest.configure()?;
        Ok(guest)
    }

    /// Puts a guest's port into a bridge and waits until it forwards.
    pub fn join(&self, guest: &Guest, bridge: &str) -> Result<()> {
        self.host.cmd(&format!("ip link set {} master {bridge}", guest.port))?;
        self.forwarding(&guest.port)
    }

    /// Waits until a port forwards and the kernel has told all that there is to tell of its carrier, which may be a second late
    /// (`linkwatch_event`): until then, the next notification puts the port in doubt once more.
    pub fn forwarding(&self, port: &str) -> Result<()> {
        wait::until(&format!("{port} forwarding"), Duration::from_secs(5), || {
            let links = self.host.json(&format!("bridge -j link show dev {port}"))?;
            if links[0]["state"] != "forwarding" {
                return Ok(false);
            }
            let links = self.host.json(&format!("ip -j link show dev {port}"))?;
            Ok(links[0]["operstate"] == "UP" || links[0]["operstate"] == "UNKNOWN")
        })
    }

    /// Which port the FDB of a bridge has for an address (VLAN 0: any VLAN); `None` if there is no entry.
    pub fn fdb(&self, bridge: &str, address: Mac, vlan: u16) -> Result<Option<String>> {
        let entries = self.host.json(&format!("bridge -j fdb show br {bridge}"))?;
        let text = mac(address);
        let found = entries.as_array().into_iter().flatten().find(|entry| {
            entry["mac"] == text.as_str()
                && (vlan == 0 || entry["vlan"] == vlan)
                && entry["flags"] != serde_json::json!(["self"])
        });
        Ok(found.and_then(|entry| entry["ifname"].as_str()).map(str::to_owned))
    }

    fn number(&self) -> Result<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 250, "a net has room for 250 guests");
        Ok(number)
    }
}
