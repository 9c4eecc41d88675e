//! Changes to bridges over rtnetlink, without a process for each: a change is a request and the kernel's answer.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{frame::Mac, netns::Netns};

const AF_BRIDGE: u8 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_DELLINK: u16 = 17;
const RTM_NEWVLAN: u16 = 112;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK: u16 = 5;
/// `NLM_F_REPLACE | NLM_F_CREATE`.
const REPLACE: u16 = 0x500;
const NESTED: u16 = 0x8000;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_FDB_FLUSH: u16 = 21;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_FLUSH: u16 = 24;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NUD_NOARP: u16 = 0x40;
const NTF_MASTER: u8 = 4;
const BRIDGE_VLANDB_ENTRY: u16 = 1;
const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
const BRIDGE_VLANDB_ENTRY_STATE: u16 = 3;

/// `BRIDGE_VLAN_INFO_ONLY_OPTS`: the VLAN is there, and its flags stay as they are.
const ONLY_OPTIONS: u16 = 1 << 6;

/// `BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED`.
pub const PVID_UNTAGGED: u16 = 6;

/// A socket in a namespace.
#[derive(Debug)]
pub struct Rtnl {
    fd: OwnedFd,
    sequence: u32,
}

/// An attribute with its value, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ifinfomsg`.
fn link(family: u8, device: u32, flags: u32, change: u32) -> Vec<u8> {
    [[family, 0, 0, 0], device.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

impl Rtnl {
    /// Opens a socket in the namespace.
    pub fn open(space: &Netns) -> Result<Self> {
        let fd = space.enter(|| {
            // SAFETY: plain system call without pointers; a descriptor that it returns is owned by nobody else.
            unsafe {
                let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
                if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
            }
        })?;
        Ok(Self { fd: fd.with_context(|| format!("netlink socket in {}", space.name()))?, sequence: 0 })
    }

    /// `bridge fdb replace MAC dev PORT master static [vlan VID]`; `vid` 0 for none.
    pub fn fdb_replace(&mut self, port: u32, mac: Mac, vid: u16) -> Result<()> {
        self.fdb(RTM_NEWNEIGH, REPLACE, port, mac, vid).context("bridge fdb replace")
    }

    /// `bridge fdb del MAC dev PORT master [vlan VID]`.
    pub fn fdb_delete(&mut self, port: u32, mac: Mac, vid: u16) -> Result<()> {
        self.fdb(RTM_DELNEIGH, 0, port, mac, vid).context("bridge fdb del")
    }

    fn fdb(&mut self, kind: u16, flags: u16, port: u32, mac: Mac, vid: u16) -> Result<()> {
        let [low, high] = NUD_NOARP.to_ne_bytes();
        let mut body = [[AF_BRIDGE, 0, 0, 0], port.to_ne_bytes(), [low, high, NTF_MASTER, 0]].concat();
        body.extend(attribute(NDA_LLADDR, &mac));
        if vid != 0 {
            body.extend(attribute(NDA_VLAN, &vid.to_ne_bytes()));
        }
        self.ask(kind, flags, &body)
    }

    /// `bridge vlan add dev PORT vid VID`, with flags such as [`PVID_UNTAGGED`].
    pub fn vlan_add(&mut self, port: u32, vid: u16, flags: u16) -> Result<()> {
        self.vlan(RTM_SETLINK, port, vid, flags).context("bridge vlan add")
    }

    /// `bridge vlan del dev PORT vid VID`.
    pub fn vlan_delete(&mut self, port: u32, vid: u16) -> Result<()> {
        self.vlan(RTM_DELLINK, port, vid, 0).context("bridge vlan del")
    }

    fn vlan(&mut self, kind: u16, port: u32, vid: u16, flags: u16) -> Result<()> {
        let info = attribute(IFLA_BRIDGE_VLAN_INFO, &[flags.to_ne_bytes(), vid.to_ne_bytes()].concat());
        let body = [link(AF_BRIDGE, port, 0, 0), attribute(IFLA_AF_SPEC | NESTED, &info)].concat();
        self.ask(kind, 0, &body)
    }

    /// `bridge vlan set dev PORT vid VID state STATE`.
    pub fn vlan_state(&mut self, port: u32, vid: u16, state: u8) -> Result<()> {
        let info = attribute(BRIDGE_VLANDB_ENTRY_INFO, &[ONLY_OPTIONS.to_ne_bytes(), vid.to_ne_bytes()].concat());
        let entry = [info, attribute(BRIDGE_VLANDB_ENTRY_STATE, &[state])].concat();
        let header = [[AF_BRIDGE, 0, 0, 0], port.to_ne_bytes()].concat();
        let body = [header, attribute(BRIDGE_VLANDB_ENTRY | NESTED, &entry)].concat();
        self.ask(RTM_NEWVLAN, 0, &body).context("bridge vlan set state")
    }

    /// `bridge link set dev PORT state STATE`.
    pub fn port_state(&mut self, port: u32, state: u8) -> Result<()> {
        self.port_option(port, &attribute(IFLA_BRPORT_STATE, &[state])).context("bridge link set state")
    }

    /// `bridge link set dev PORT isolated on|off`.
    pub fn isolated(&mut self, port: u32, on: bool) -> Result<()> {
        self.port_option(port, &attribute(IFLA_BRPORT_ISOLATED, &[u8::from(on)])).context("bridge link set isolated")
    }

    /// `ip link set dev PORT type bridge_slave fdb_flush`.
    pub fn flush_port(&mut self, port: u32) -> Result<()> {
        self.port_option(port, &attribute(IFLA_BRPORT_FLUSH, &[])).context("fdb_flush of a port")
    }

    fn port_option(&mut self, port: u32, option: &[u8]) -> Result<()> {
        let body = [link(AF_BRIDGE, port, 0, 0), attribute(IFLA_PROTINFO | NESTED, option)].concat();
        self.ask(RTM_SETLINK, 0, &body)
    }

    /// `ip link set dev BRIDGE type bridge fdb_flush`.
    pub fn flush_bridge(&mut self, bridge: u32) -> Result<()> {
        self.bridge_option(bridge, &attribute(IFLA_BR_FDB_FLUSH, &[])).context("fdb_flush of a bridge")
    }

    /// `ip link set dev BRIDGE type bridge vlan_filtering 0|1`.
    pub fn vlan_filtering(&mut self, bridge: u32, on: bool) -> Result<()> {
        self.bridge_option(bridge, &attribute(IFLA_BR_VLAN_FILTERING, &[u8::from(on)])).context("vlan_filtering")
    }

    fn bridge_option(&mut self, bridge: u32, option: &[u8]) -> Result<()> {
        let info = [attribute(IFLA_INFO_KIND, b"bridge"), attribute(IFLA_INFO_DATA | NESTED, option)].concat();
        let body = [link(0, bridge, 0, 0), attribute(IFLA_LINKINFO | NESTED, &info)].concat();
        self.ask(RTM_NEWLINK, 0, &body)
    }

    /// `ip link set dev DEVICE master MASTER`; 0 for none.
    pub fn master(&mut self, device: u32, master: u32) -> Result<()> {
        let body = [link(0, device, 0, 0), attribute(IFLA_MASTER, &master.to_ne_bytes())].concat();
        self.ask(RTM_NEWLINK, 0, &body).context("ip link set master")
    }

    /// `ip link set dev DEVICE up|down`.
    pub fn up(&mut self, device: u32, up: bool) -> Result<()> {
        let flag = libc::IFF_UP.cast_unsigned();
        self.ask(RTM_NEWLINK, 0, &link(0, device, if up { flag } else { 0 }, flag)).context("ip link set up")
    }

    /// Sends a request and reads the kernel's answer.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        self.sequence += 1;
        let length = u32::try_from(16 + body.len())?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((ASK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend_from_slice(body);
        // SAFETY: the pointer and the length describe `message`.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        ensure!(usize::try_from(sent) == Ok(message.len()), "send: {}", io::Error::last_os_error());
        let mut answer = [0_u8; 4096];
        loop {
            // SAFETY: the pointer and the length describe `answer`.
            let got = unsafe { libc::recv(self.fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
            let Ok(got) = usize::try_from(got) else { bail!("receive: {}", io::Error::last_os_error()) };
            let word =
                |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
            if got < 20 || word(8) != Some(self.sequence.cast_signed()) {
                continue;
            }
            return match word(16) {
                Some(0) => Ok(()),
                Some(error) => Err(io::Error::from_raw_os_error(-error).into()),
                None => bail!("a short answer"),
            };
        }
    }
}
