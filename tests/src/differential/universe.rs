//! One of the two universes: a host namespace whose devices can be put into bridges, and one for all far ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};

use super::{
    marker::Marker,
    socket::{Caught, LONGEST, PacketSocket},
    spec::Spec,
    tool::Tool,
};
use crate::{
    frame::{Mac, mac},
    netns::{Netns, remove_stale},
    probe::Need,
    tap,
};

/// Ports that are veths; their far ends are `f0` and so on.
pub const VETHS: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];
/// Ports that are taps with `virtio_net_hdr`.
pub const TAPS: [&str; 2] = ["t0", "t1"];
/// Ports that stand in for NICs: tags and checksums are in the bytes, the far end takes frames in bursts (NAPI).
pub const NICS: [&str; 2] = ["n0", "n1"];
/// The two ends of a veth that joins two bridges of the host.
pub const PATCH: [&str; 2] = ["x0", "x1"];
/// Devices on which the host itself listens, with the index that they are made with: bridges, and VLANs on br0.
pub const LOCAL: [(&str, u32); 4] = [("br0", 100), ("br1", 101), ("br0.10", 110), ("br0.20", 120)];
/// Largest MTU of a plain far end.
const JUMBO: u32 = 9200;

/// A host and its far ends.
#[derive(Debug)]
pub struct Universe {
    /// Where the bridges are.
    pub host: Arc<Netns>,
    /// `ip -batch` in the host.
    pub ip: Tool,
    /// `bridge -batch` in the host.
    pub bridge: Tool,
    /// `ip -batch` at the far ends.
    pub far_ip: Tool,
    far: PacketSocket,
    local: Vec<PacketSocket>,
    taps: Vec<File>,
    buffer: Vec<u8>,
    _marker: Option<Marker>,
    // Last, so that devices and sockets are gone before it.
    _far_space: Arc<Netns>,
}

impl Universe {
    /// Two namespaces with all devices, none of them in a bridge.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static CLEAN: std::sync::Once = std::sync::Once::new();
        CLEAN.call_once(remove_stale);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("xbr-t-{}-d{number}-", std::process::id());
        let host = Arc::new(Netns::create(&format!("{prefix}host"))?);
        let far_space = Arc::new(Netns::create(&format!("{prefix}far"))?);
        let mut ip = Tool::start("ip", &host)?;
        let mut far_ip = Tool::start("ip", &far_space)?;
        for table in ["iptables", "ip6tables", "arptables"] {
            let key = format!("bridge/bridge-nf-call-{table}");
            if Need::BrNetfilter.met() {
                host.sysctl(&key, "0")?;
            }
        }
        let taps = TAPS.iter().map(|name| tap::open(&host, name)).collect::<Result<Vec<_>>>()?;
        ip.must(&devices(far_space.name()))?;
        far_ip.must(&far_ends())?;
        for name in NICS {
            let far = far_end(name);
            far_space.cmd(&format!(
                "ethtool -K {far} tx-vlan-offload off tx-vlan-stag-hw-insert off tx off tso off gso off gro on"
            ))?;
        }
        let marker = Need::Tcx.met().then(|| far_space.enter(|| Marker::attach(&VETHS.map(far_end)))).transpose()?;
        let far = PacketSocket::open(&far_space)?;
        far.listen(0)?;
        let local = LOCAL.iter().map(|_| PacketSocket::open(&host)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            ip,
            bridge: Tool::start("bridge", &host)?,
            far_ip,
            host,
            far,
            local,
            taps,
            buffer: vec![0; LONGEST],
            _marker: marker.transpose()?,
            _far_space: far_space,
        })
    }

    /// Listens on bridge devices that have appeared.
    pub fn listen(&self) {
        for (socket, (_, index)) in self.local.iter().zip(LOCAL) {
            if socket.bound().is_ok_and(|bound| bound != index) {
                // It is not there, or not yet.
                drop(socket.listen(index));
            }
        }
    }

    /// Sends a frame; the error number if the device refuses it.
    pub fn send(&mut self, spec: &Spec, number: u32) -> Result<Result<(), i32>> {
        let wire = spec.wire(number);
        let from = spec.from.as_str();
        let sent = if let Some(tap) = TAPS.iter().position(|name| *name == from) {
            let mut data = wire.header.to_vec();
            data.extend_from_slice(&wire.bytes);
            (&self.taps[tap]).write(&data).map(drop)
        } else if let Some(local) = LOCAL.iter().position(|(name, _)| *name == from) {
            self.local[local].send(LOCAL[local].1, &wire, 0)
        } else {
            let index = far_index(from).with_context(|| format!("there is no port {from}"))?;
            let mark = spec.meta.map_or(0, |tag| Marker::mark(tag.tpid, tag.tci));
            self.far.send(index, &wire, mark)
        };
        Ok(sent.map_err(|error| error.raw_os_error().unwrap_or(0)))
    }

    /// All frames that wait to be read, with the receiver's name.
    pub fn receive(&mut self) -> Result<Vec<(&'static str, Caught)>> {
        let mut all = Vec::new();
        while let Some((index, caught)) = self.far.next()? {
            all.extend(port_of(index).map(|port| (port, caught)));
        }
        for (socket, (name, _)) in self.local.iter_mut().zip(LOCAL) {
            while let Some((_, caught)) = socket.next()? {
                all.push((name, caught));
            }
        }
        for (mut tap, name) in self.taps.iter().zip(TAPS) {
            while let Ok(length) = tap.read(&mut self.buffer) {
                all.push((name, Caught::new(&self.buffer[..length], None)));
            }
        }
        all.retain(|(_, caught)| !is_host_report(caught));
        Ok(all)
    }

    /// Whether the kernel has dealt with every change of a carrier: until then a device that has its carrier back drops
    /// what it is given.
    pub fn steady(&mut self) -> Result<bool> {
        let mut lines = self.ip.run(&["link show"])?.output;
        lines.extend(self.far_ip.run(&["link show"])?.output);
        let devices = lines.iter().filter(|line| line.contains(" state ") && !line.contains(" state UNKNOWN"));
        Ok(devices.into_iter().all(|line| line.contains("LOWER_UP") == line.contains(" state UP ")))
    }

    /// The bridges' entries that lead to ports: address and port, by bridge the number of entries.
    pub fn fdb(&mut self) -> Result<Fdb> {
        let said = self.bridge.run(&["fdb show"])?;
        let mut fdb = Fdb::default();
        for line in said.output {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after =
                |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied();
            let (Some(address), Some(port), Some(bridge)) = (words.first(), after("dev"), after("master")) else {
                continue;
            };
            if words.contains(&"self") {
                continue;
            }
            *fdb.counts.entry(bridge.to_owned()).or_default() += 1;
            let vlan = after("vlan").and_then(|vlan| vlan.parse().ok()).unwrap_or(0);
            if words.contains(&"permanent") {
                continue;
            }
            if words.contains(&"locked") {
                fdb.locked.insert((*address).to_owned());
            }
            fdb.entries.insert(((*address).to_owned(), vlan, bridge.to_owned()), port.to_owned());
            if bridge == LOCAL[0].0 && !words.contains(&"static") && !words.contains(&"extern_learn") {
                fdb.ageing += 1;
            }
        }
        Ok(fdb)
    }

    /// Takes the bridges away and puts every device back to what it was.
    pub fn clear(&mut self) -> Result<()> {
        let shown = self.ip.run(&["link show type bridge"])?.output;
        let there = |bridge: &str| shown.iter().any(|line| line.contains(&format!(": {bridge}: ")));
        // Of a bridge that is not there, the kernel would look for a module of that name.
        let bridges = LOCAL[..2].iter().map(|(bridge, _)| *bridge).filter(|bridge| there(bridge));
        let mut lines: Vec<String> = bridges.map(|bridge| format!("link del {bridge}")).collect();
        lines.extend(plain_devices());
        self.ip.tell(&lines)?;
        self.far_ip.tell(&far_ends())
    }

    /// Waits for what [`Universe::clear`] has begun.
    pub fn cleared(&mut self) -> Result<()> {
        self.ip.finish()?;
        self.far_ip.finish()?;
        self.receive().map(drop)
    }
}

/// IGMP of the host itself, which comes in its own time: a bridge with snooping joins the group of all snoopers. Its address may
/// be any port's, or a host's, and it may be tagged; the hosts send nothing to such groups.
fn is_host_report(caught: &Caught) -> bool {
    let bytes = &caught.bytes;
    let at = |from: usize, wanted: &[u8]| bytes.get(from..from + wanted.len()) == Some(wanted);
    at(0, &[0x01, 0x00, 0x5e, 0, 0])
}

/// The forwarding databases of all bridges.
#[derive(Clone, Debug, Default)]
pub struct Fdb {
    /// (Address, VLAN, bridge) and the port, but for the host's own addresses.
    pub entries: BTreeMap<(String, u16, String), String>,
    /// Number of entries by bridge.
    pub counts: BTreeMap<String, usize>,
    /// Addresses with a locked entry: of hosts that have not been let in yet.
    pub locked: BTreeSet<String>,
    /// Number of br0's entries that age.
    pub ageing: usize,
}

/// Every port of the host.
pub fn ports() -> impl Iterator<Item = &'static str> {
    VETHS.into_iter().chain(TAPS).chain(NICS).chain(PATCH)
}

/// Ports with a far end, where frames can be sent.
pub fn open_ports() -> impl Iterator<Item = &'static str> {
    VETHS.into_iter().chain(TAPS).chain(NICS)
}

/// The far end of a port.
fn far_end(port: &str) -> String {
    format!("f{port}")
}

fn far_index(port: &str) -> Option<u32> {
    let place = VETHS.iter().chain(&NICS).position(|name| *name == port)?;
    Some(50 + u32::try_from(place).ok()?)
}

fn port_of(index: u32) -> Option<&'static str> {
    let place = usize::try_from(index.checked_sub(50)?).ok()?;
    VETHS.iter().chain(&NICS).nth(place).copied()
}

/// The hardware address of a port's device in the host, as text.
pub fn port_address(port: &str) -> String {
    let place = ports().position(|name| name == port).unwrap_or(0);
    format!("02:aa:00:00:00:{place:02x}")
}

/// The address of a host behind a port. The first one has that of the far end's device, as a container has.
pub fn host_address(port: &str, host: usize) -> Mac {
    let place = ports().position(|name| name == port).unwrap_or(0);
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    [2, 0xb0, 0, 0, byte(place + 1), byte(host + 1)]
}

fn devices(far: &str) -> Vec<String> {
    let pairs = VETHS.iter().chain(&NICS).enumerate().map(|(place, port)| {
        let (index, far_index, end) = (10 + place, 50 + place, far_end(port));
        format!("link add name {port} index {index} type veth peer name {end} index {far_index} netns {far}")
    });
    let patch = format!("link add name {} index 40 type veth peer name {} index 41", PATCH[0], PATCH[1]);
    pairs.chain([patch]).chain(plain_devices()).collect()
}

/// Lines that put the host's devices into the state that every scenario begins with.
fn plain_devices() -> Vec<String> {
    ports()
        .map(|port| {
            let address = port_address(port);
            format!("link set dev {port} nomaster mtu 1500 address {address} promisc off up")
        })
        .collect()
}

/// The same for the far ends.
fn far_ends() -> Vec<String> {
    let plain = VETHS.iter().map(|port| {
        let address = mac(host_address(port, 0));
        format!("link set dev {} mtu {JUMBO} address {address} up", far_end(port))
    });
    // XDP on a veth limits the MTU of its peer.
    plain.chain(NICS.iter().map(|port| format!("link set dev {} mtu 2000 up", far_end(port)))).collect()
}
