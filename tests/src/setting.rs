//! Settings that the distribution's `ip` and `bridge` are too old for, as rtnetlink messages.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};

use crate::{frame::Mac, netns::Netns};

const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWVLAN: u16 = 112;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const AF_BRIDGE: u8 = 7;
const NESTED: u16 = 0x8000;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_MULTI_BOOLOPT: u16 = 46;
const IFLA_BRIDGE_MST: u16 = 6;
const BRIDGE_VLANDB_ENTRY: u16 = 1;
const BRIDGE_VLANDB_ENTRY_INFO: u16 = 1;
const BRIDGE_VLANDB_GLOBAL_OPTIONS: u16 = 2;
const GOPTS_ID: u16 = 1;
const GOPTS_MSTI: u16 = 18;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
const NDA_FDB_EXT_ATTRS: u16 = 14;
const NFEA_ACTIVITY_NOTIFY: u16 = 1;
const NUD_NOARP: u16 = 0x40;
const NTF_MASTER: u8 = 4;

/// Boolean option of a bridge: `BR_BOOLOPT_NO_LL_LEARN`.
pub const NO_LL_LEARN: u32 = 0;
/// Boolean option of a bridge: `BR_BOOLOPT_MST_ENABLE`.
pub const MST_ENABLE: u32 = 2;
/// Boolean option of a bridge: `BR_BOOLOPT_FDB_LOCAL_VLAN_0` (6.18).
pub const FDB_LOCAL_VLAN_0: u32 = 4;
/// Bridge: the most entries that it learns (6.7), 32 bits.
pub const FDB_MAX_LEARNED: u16 = 49;
/// Port: MAC authentication bypass (6.2), 8 bits.
pub const MAB: u16 = 40;
/// Port: neighbour suppression by VLAN (6.4), 8 bits.
pub const NEIGH_VLAN_SUPPRESS: u16 = 43;
/// VLAN of a port: neighbour suppression (6.4), 8 bits.
pub const VLAN_NEIGH_SUPPRESS: u16 = 9;

/// An attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sets a bridge's attribute (`IFLA_BR_*`).
pub fn set_bridge(space: &Netns, bridge: &str, kind: u16, value: &[u8]) -> Result<()> {
    let data = attribute(IFLA_INFO_DATA | NESTED, &attribute(kind, value));
    let info = [attribute(IFLA_INFO_KIND, b"bridge\0"), data].concat();
    set_link(space, bridge, &info).with_context(|| format!("attribute {kind} of bridge {bridge}"))
}

/// Turns a bridge's boolean option on or off.
pub fn set_option(space: &Netns, bridge: &str, option: u32, on: bool) -> Result<()> {
    let (value, mask) = (u32::from(on) << option, 1_u32 << option);
    set_bridge(space, bridge, IFLA_BR_MULTI_BOOLOPT, &[value.to_ne_bytes(), mask.to_ne_bytes()].concat())
}

/// Sets an attribute of a bridge port (`IFLA_BRPORT_*`).
pub fn set_port(space: &Netns, port: &str, kind: u16, value: &[u8]) -> Result<()> {
    let data = attribute(IFLA_INFO_SLAVE_DATA | NESTED, &attribute(kind, value));
    let info = [attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0"), data].concat();
    set_link(space, port, &info).with_context(|| format!("attribute {kind} of port {port}"))
}

/// Sets an attribute (`BRIDGE_VLANDB_ENTRY_*`) of a port's VLAN.
pub fn set_vlan(space: &Netns, port: &str, vid: u16, kind: u16, value: &[u8]) -> Result<()> {
    /// `BRIDGE_VLAN_INFO_ONLY_OPTS`: the VLAN is there already.
    const ONLY_OPTIONS: u16 = 1 << 6;
    let info = [ONLY_OPTIONS.to_ne_bytes(), vid.to_ne_bytes()].concat();
    let entry = [attribute(BRIDGE_VLANDB_ENTRY_INFO, &info), attribute(kind, value)].concat();
    let body = attribute(BRIDGE_VLANDB_ENTRY | NESTED, &entry);
    let work = || {
        let index = nix::net::if_::if_nametoindex(port)?;
        let mut header = vec![AF_BRIDGE, 0, 0, 0];
        header.extend(index.to_ne_bytes());
        request(RTM_NEWVLAN, 0, &[header, body].concat()).map(drop)
    };
    space.enter(work)?.with_context(|| format!("attribute {kind} of VLAN {vid} of port {port}"))
}

/// Puts a VLAN of a bridge into a spanning tree instance (`bridge vlan global set … msti`).
pub fn set_mst_instance(space: &Netns, bridge: &str, vid: u16, instance: u16) -> Result<()> {
    let options = [attribute(GOPTS_ID, &vid.to_ne_bytes()), attribute(GOPTS_MSTI, &instance.to_ne_bytes())].concat();
    let body = attribute(BRIDGE_VLANDB_GLOBAL_OPTIONS | NESTED, &options);
    let work = || {
        let index = nix::net::if_::if_nametoindex(bridge)?;
        let mut header = vec![AF_BRIDGE, 0, 0, 0];
        header.extend(index.to_ne_bytes());
        request(RTM_NEWVLAN, 0, &[header, body].concat()).map(drop)
    };
    space.enter(work)?.with_context(|| format!("instance {instance} of VLAN {vid} of {bridge}"))
}

/// Sets the state of a port in a spanning tree instance (`bridge mst set`).
pub fn set_mst_state(space: &Netns, port: &str, instance: u16, state: u8) -> Result<()> {
    let entry = [attribute(1, &instance.to_ne_bytes()), attribute(2, &[state])].concat();
    let mst = attribute(IFLA_BRIDGE_MST | NESTED, &attribute(1 | NESTED, &entry));
    let body = attribute(IFLA_AF_SPEC | NESTED, &mst);
    let work = || {
        let index = nix::net::if_::if_nametoindex(port)?;
        let mut header = vec![0; 16];
        header[0] = AF_BRIDGE;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        request(RTM_SETLINK, 0, &[header, body].concat()).map(drop)
    };
    space.enter(work)?.with_context(|| format!("state {state} of {port} in instance {instance}"))
}

/// `RTM_NEWLINK` of a device that is there, with this `IFLA_LINKINFO`.
fn set_link(space: &Netns, device: &str, info: &[u8]) -> Result<()> {
    let name = [device.as_bytes(), b"\0"].concat();
    let body = [vec![0; 16], attribute(IFLA_IFNAME, &name), attribute(IFLA_LINKINFO | NESTED, info)].concat();
    space.enter(|| request(RTM_NEWLINK, 0, &body).map(drop))?
}

/// Sends one request from the calling thread's namespace and waits for the answer: what was asked for, or nothing with an
/// acknowledgement.
fn request(kind: u16, flags: u16, body: &[u8]) -> Result<Vec<u8>> {
    // SAFETY: plain system call without pointers; a descriptor that it returns is owned by nobody else.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            bail!(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut message = u32::try_from(16 + body.len())?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    let acknowledged = if kind == RTM_GETNEIGH { 0 } else { NLM_F_ACK };
    message.extend((NLM_F_REQUEST | acknowledged | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend_from_slice(body);
    let fd = socket.as_raw_fd();
    // SAFETY: the pointer and the length describe `message`, which outlives the call. Unbound, it goes to the kernel.
    if unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), 0) } < 0 {
        bail!(io::Error::last_os_error());
    }
    let mut answer = [0_u8; 4096];
    // SAFETY: the pointer and the length describe `answer`, which outlives the call.
    let length = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
    let length = usize::try_from(length).map_err(|_negative| io::Error::last_os_error())?;
    if length >= 20 && answer[4..6] != NLMSG_ERROR.to_ne_bytes() {
        return Ok(answer[16..length].to_vec());
    }
    match (answer[4..6].try_into().map(u16::from_ne_bytes), answer[16..20].try_into().map(i32::from_ne_bytes)) {
        (Ok(NLMSG_ERROR), Ok(0)) if length >= 20 => Ok(Vec::new()),
        (Ok(NLMSG_ERROR), Ok(error)) if length >= 20 => bail!(io::Error::from_raw_os_error(-error)),
        _ => bail!("an answer that is no acknowledgement"),
    }
}

/// Gives a port a static FDB entry and asks to hear of its activity (`NFEA_ACTIVITY_NOTIFY`).
pub fn watch_entry(space: &Netns, port: &str, address: Mac) -> Result<()> {
    let work = || {
        let index = nix::net::if_::if_nametoindex(port)?;
        let mut body = vec![AF_BRIDGE, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(NUD_NOARP.to_ne_bytes());
        body.extend([NTF_MASTER, 0]);
        body.extend(attribute(NDA_LLADDR, &address));
        body.extend(attribute(NDA_FDB_EXT_ATTRS | NESTED, &attribute(NFEA_ACTIVITY_NOTIFY, &[1])));
        request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &body).map(drop)
    };
    space.enter(work)?.with_context(|| format!("watched entry on {port}"))
}

/// Whether the bridge says that the host of a watched entry is active.
pub fn watched_entry_is_active(space: &Netns, bridge: &str, address: Mac) -> Result<bool> {
    /// `FDB_NOTIFY_INACTIVE_BIT`.
    const INACTIVE: u8 = 2;
    let work = || {
        let index = nix::net::if_::if_nametoindex(bridge)?;
        let mut body = vec![0; 12];
        body[0] = AF_BRIDGE;
        body.extend(attribute(NDA_LLADDR, &address));
        body.extend(attribute(NDA_MASTER, &index.to_ne_bytes()));
        request(RTM_GETNEIGH, 0, &body)
    };
    let answer = space.enter(work)?.context("FDB entry")?;
    // The nest holds one attribute of one byte.
    let nest = [12_u16.to_ne_bytes(), (NDA_FDB_EXT_ATTRS | NESTED).to_ne_bytes()].concat();
    let position = answer.windows(4).position(|window| window == nest);
    let bits = position.and_then(|at| answer.get(at + 8)).context("the entry is not watched")?;
    Ok(bits & INACTIVE == 0)
}
