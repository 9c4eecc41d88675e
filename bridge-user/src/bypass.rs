//! The inventory of policy and listeners that a fast path would go around.
//!
//! Everything is asked of the kernel directly, a few dozen system calls per collection, and leaves no trace: nothing is
//! loaded or hooked into the frames' path for the asking. The exceptions only list: the kernel may load `nfnetlink` when
//! the inventory opens its socket, and `nfnetlink_hook` when it asks for the hooks.
//! A source that the kernel does not have holds no policy. A source that cannot be read is an error: the caller has to
//! keep everything on the slow path.
//!
//! Connection tracking that sees bridged frames through `br_netfilter`, because a rule somewhere uses it, is no policy by
//! itself: it drops nothing, and what acts on its verdict on a forwarded frame is a rule in a forwarding hook, which is
//! found. The same holds for NAT. Such a connection loses the frames that take the fast path from its accounting.

use std::{collections::BTreeSet, fs, io};

use aya::programs::{
    ProgramError,
    links::{LinkError, LinkType},
    loaded_links,
};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

use crate::model::{Bypass, IfIndex, Link};

mod ebtables;
mod elsewhere;
pub mod ethtool;
pub mod features;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hooks;
mod ipvs;
mod kernel;
mod nft;
mod nl;
mod peer;
mod sockopt;
mod tc;
mod tcx;
mod watch;
mod xtables;

pub use watch::Watch;

use features::Features;
use kernel::Kernel;
use nft::{Ruleset, Side, family};
use nl::Netlink;
use xtables::Tables;

/// How many findings a text names before it only counts.
const NAMED: usize = 3;

/// `br_netfilter`'s settings, of the namespace of the thread that reads them.
const BR_NETFILTER: [&str; 3] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    "/proc/sys/net/bridge/bridge-nf-call-arptables",
];

/// Further settings, that make it look behind tags.
const ENCAPSULATED: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-filter-vlan-tagged", "/proc/sys/net/bridge/bridge-nf-filter-pppoe-tagged"];

/// A source of policy that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BypassError {
    /// A request to the kernel failed.
    #[error("cannot read {what} ({source}): everything stays on the slow path until it can be read")]
    Source {
        /// The source, e.g. "the nftables ruleset".
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A request about a device failed.
    #[error("cannot read {what} of {device} ({source}): everything stays on the slow path until it can be read")]
    Device {
        /// The source, e.g. "the driver's features".
        what: &'static str,
        /// The device's name.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The BPF programs of a device could not be listed.
    #[error("cannot list the tcx programs of {device} ({source}): everything stays on the slow path until they can")]
    Programs {
        /// The device's name.
        device: String,
        /// The kernel's answer.
        source: ProgramError,
    },
}

/// A device to look at, as far as its link tells.
#[derive(Clone, Debug)]
pub struct Device {
    pub(crate) index: IfIndex,
    name: String,
    /// `noqueue` is at its root.
    unqueued: bool,
    peer: Option<peer::Peer>,
}

impl From<&Link> for Device {
    fn from(link: &Link) -> Self {
        let peer = peer::peer(link);
        Self { index: link.ifindex, name: link.name.clone(), unqueued: link.qdisc == "noqueue", peer }
    }
}

/// Names the source in an error.
fn source(what: &'static str) -> impl FnOnce(io::Error) -> BypassError {
    move |source| BypassError::Source { what, source }
}

/// The sockets that the inventory asks through. They belong to the namespace of the thread that opened them, and only
/// threads in that namespace may collect: `/proc` and `bpf(2)` answer for the namespace of the caller.
pub struct Inventory {
    route: Netlink,
    /// `None`: the kernel has no nfnetlink, hence neither nftables nor a list of hooks.
    netfilter: Option<Netlink>,
    features: Features,
    settings: ethtool::Asker,
    ebtables: Option<std::os::fd::OwnedFd>,
    tables: Vec<Tables>,
    kernel: Kernel,
    /// As it was when it was last read: nftables says when it changes.
    ruleset: Ruleset,
    /// The kernel could list hooks when it was last asked.
    lists_hooks: bool,
}

impl Inventory {
    /// Opens the sockets and looks at what the kernel has built in.
    pub fn new() -> Result<Self, BypassError> {
        let netfilter = match Netlink::open(NETLINK_NETFILTER) {
            Ok(netlink) => Some(netlink),
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
            Err(error) => return Err(source("netfilter")(error)),
        };
        let tables: io::Result<_> = xtables::KINDS.iter().map(Tables::open).collect();
        Ok(Self {
            route: Netlink::open(NETLINK_ROUTE).map_err(source("tc filters"))?,
            netfilter,
            features: Features::open().map_err(source("XDP features"))?,
            settings: ethtool::Asker::open().map_err(source("the drivers' features"))?,
            ebtables: sockopt::open(libc::AF_INET).map_err(source("the ebtables tables"))?,
            tables: tables.map_err(source("the iptables tables"))?,
            kernel: Kernel::read().map_err(source("the list of kernel modules"))?,
            ruleset: Ruleset::default(),
            lists_hooks: true,
        })
    }

    /// Collects what concerns these devices. BPF programs with an id in `own_programs`
    /// are this instance's own. Devices that vanish meanwhile are left out.
    pub fn collect(&mut self, devices: &[Device], own_programs: &BTreeSet<u32>) -> Result<Bypass, BypassError> {
        self.kernel.refresh().map_err(source("the list of kernel modules"))?;
        let br_netfilter = br_netfilter().map_err(source("br_netfilter's settings"))?;
        self.ruleset = self.read_ruleset().map_err(source("the nftables ruleset"))?;
        let mut bypass = Bypass {
            netfilter: one_line(&self.bridge_policies()?),
            inet_rules: if br_netfilter.is_some() { one_line(&self.inet_policies()?) } else { None },
            br_netfilter_encapsulated: br_netfilter.is_some()
                && sees_encapsulated().map_err(source("br_netfilter's settings"))?,
            br_netfilter,
            uppers_elsewhere: elsewhere::vlan_devices(&mut self.route)
                .map_err(source("the VLAN devices of other namespaces"))?,
            ..Bypass::default()
        };
        let indices = devices.iter().map(|device| device.index).collect();
        let filters = tc::filters(&mut self.route, &indices, own_programs).map_err(source("tc filters"))?;
        self.look_at(&mut bypass, devices, own_programs, filters)?;
        Ok(bypass)
    }

    /// Collects anew what concerns these devices, and leaves what `bypass` says of others and of rules for all devices.
    pub fn update(
        &mut self,
        bypass: &mut Bypass,
        devices: &[Device],
        own_programs: &BTreeSet<u32>,
    ) -> Result<(), BypassError> {
        let indices = devices.iter().map(|device| device.index).collect();
        let unqueued = devices.iter().all(|device| device.unqueued);
        let none = unqueued.then(|| tc::no_filters(&mut self.route, &indices, own_programs)).flatten();
        let filters = match none {
            Some(none) => none,
            None => tc::filters(&mut self.route, &indices, own_programs).map_err(source("tc filters"))?,
        };
        bypass.forget(&indices);
        self.look_at(bypass, devices, own_programs, filters)
    }

    /// Looks for VLAN devices in other network namespaces anew. `true`: they are others than `bypass` says.
    pub fn update_uppers(&mut self, bypass: &mut Bypass) -> Result<bool, BypassError> {
        let found = elsewhere::vlan_devices(&mut self.route).map_err(source("the VLAN devices of other namespaces"))?;
        let changed = found != bypass.uppers_elsewhere;
        bypass.uppers_elsewhere = found;
        Ok(changed)
    }

    /// Collects what concerns these devices one by one.
    fn look_at(
        &mut self,
        bypass: &mut Bypass,
        devices: &[Device],
        own_programs: &BTreeSet<u32>,
        mut filters: tc::Filters,
    ) -> Result<(), BypassError> {
        let indices = devices.iter().map(|device| device.index).collect();
        bypass.xdp_features.extend(self.features.read(&indices).map_err(source("XDP features"))?);
        for Device { index, name, peer, .. } in devices {
            for (side, texts) in
                [(Side::Ingress, &mut bypass.ingress_filters), (Side::Egress, &mut bypass.egress_filters)]
            {
                let mut found = filters.remove(&(*index, side)).unwrap_or_default();
                let programs = tcx::programs((*index, name), side, own_programs);
                found.extend(programs.map_err(|source| BypassError::Programs { device: name.clone(), source })?);
                found.extend(self.ruleset.on_device(name, side));
                texts.extend(one_line(&found).map(|text| (*index, text)));
            }
            bypass.rx_vlan_offload.extend(self.rx_vlan_offload(name)?.map(|on| (*index, on)));
            // A frame that tc redirects at ingress skips the egress hook of netfilter (nf_skip_egress in
            // __netif_receive_skb_core).
            let mut missed: Vec<_> = self.ruleset.on_device(name, Side::Egress).collect();
            if let Some(peer) = peer {
                let far = peer::far_end(&mut self.route, *peer).map_err(source("the far ends of ports"))?;
                missed.extend(far.generic_xdp);
                bypass.far_ends.extend(far.elsewhere.map(|far| (*index, far)));
            }
            bypass.egress_missed.extend(one_line(&missed).map(|text| (*index, text)));
        }
        Ok(())
    }

    /// As [`ethtool::rx_vlan_offload`], without a device that is gone.
    fn rx_vlan_offload(&self, device: &str) -> Result<Option<bool>, BypassError> {
        match self.settings.rx_vlan_offload(device) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other.map_err(|source| BypassError::Device {
                what: "the driver's features",
                device: device.to_owned(),
                source,
            }),
        }
    }

    /// Reads nftables, unless asking would make the kernel load it.
    fn read_ruleset(&mut self) -> io::Result<Ruleset> {
        match &mut self.netfilter {
            Some(netlink) if self.kernel.has_nftables() => match Ruleset::read(netlink) {
                // nfnetlink_rcv_msg: no such subsystem.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                    Ok(Ruleset::default())
                }
                other => other,
            },
            _ => Ok(Ruleset::default()),
        }
    }

    /// What netfilter does to the frames of any bridge.
    fn bridge_policies(&mut self) -> Result<Vec<String>, BypassError> {
        let hooks = self.hooks(family::BRIDGE)?;
        let mut found: Vec<_> = self.ruleset.bridge().collect();
        if let Some(socket) = &self.ebtables {
            let tables = ebtables::policies(socket, &self.kernel, hooks.as_deref());
            found.extend(tables.map_err(source("the ebtables tables"))?);
        }
        match &hooks {
            Some(hooks) => found.extend(hooks.iter().filter_map(hooks::Hook::foreign)),
            // nf_ct_netns_get takes a reference for each use.
            None if self.kernel.used("nf_conntrack_bridge") => {
                found.push("connection tracking of bridged frames (nf_conntrack_bridge is in use)".to_owned());
            }
            None => {}
        }
        Ok(found)
    }

    /// What `br_netfilter` would show bridged frames to.
    fn inet_policies(&mut self) -> Result<Vec<String>, BypassError> {
        let mut found: Vec<_> = self.ruleset.inet().collect();
        for tables in &self.tables {
            found.extend(tables.policies().map_err(source("the iptables tables"))?);
        }
        found.extend(ipvs::services().map_err(source("the services of IPVS"))?);
        for family in [family::IPV4, family::IPV6] {
            let Some(hooks) = self.hooks(family)? else {
                found.extend(netfilter_links().map_err(source("the list of BPF links"))?);
                break;
            };
            found.extend(hooks.iter().filter_map(hooks::Hook::bpf));
        }
        Ok(found)
    }

    /// Lists hooks, where the kernel can. A kernel that could not is only asked again once it has the module: each request
    /// would run modprobe.
    fn hooks(&mut self, family: u8) -> Result<Option<Vec<hooks::Hook>>, BypassError> {
        self.lists_hooks |= self.kernel.loaded("nfnetlink_hook");
        let Some(netlink) = self.netfilter.as_mut().filter(|_| self.lists_hooks) else {
            return Ok(None);
        };
        let hooks = hooks::read(netlink, family).map_err(source("the list of netfilter hooks"))?;
        self.lists_hooks = hooks.is_some();
        Ok(hooks)
    }
}

/// Reads `br_netfilter`'s settings of the calling thread's namespace. `None` where it is not there.
fn br_netfilter() -> io::Result<Option<(bool, bool, bool)>> {
    let mut values = [false; 3];
    for (value, path) in values.iter_mut().zip(BR_NETFILTER) {
        *value = match fs::read_to_string(path) {
            Ok(text) => text.trim() != "0",
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    Ok(Some(values.into()))
}

/// Whether `br_netfilter` looks into VLAN tags or PPPoE sessions, too.
fn sees_encapsulated() -> io::Result<bool> {
    for path in ENCAPSULATED {
        match fs::read_to_string(path) {
            Ok(text) if text.trim() != "0" => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Names the netfilter links of BPF (kernel 6.4 and later), where the kernel cannot list hooks. A link does not tell its
/// namespace or its hook: any on the machine counts.
fn netfilter_links() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for link in loaded_links() {
        let link = match link {
            Ok(link) => link,
            // Gone between its number and the look at it, or (EAGAIN, bpf_link_by_id) about to be made: the next look finds it.
            Err(LinkError::SyscallError(error))
                if matches!(error.io_error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) =>
            {
                continue;
            }
            // No such command: a kernel before 5.8.
            Err(LinkError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(io::Error::other(error)),
        };
        // Kinds that aya does not know yet are no netfilter links.
        if link.link_type().is_ok_and(|kind| kind == LinkType::Netfilter) {
            found.push(format!(
                "netfilter BPF program {} (of whatever namespace: the kernel lacks nfnetlink_hook)",
                link.program_id()
            ));
        }
    }
    Ok(found)
}

/// Joins findings to one line; `None` where there are none. The names in them are somebody else's: a control character
/// shall neither begin a line nor reach a terminal.
fn one_line(found: &[String]) -> Option<String> {
    let (named, more) = found.split_at(found.len().min(NAMED));
    let text = match more.len() {
        _ if named.is_empty() => return None,
        0 => named.join("; "),
        more => format!("{}; and {more} more", named.join("; ")),
    };
    Some(text.replace(char::is_control, "?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_three_and_counts_the_rest() {
        let found: Vec<_> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(one_line(&[]), None);
        assert_eq!(one_line(&found[..1]).as_deref(), Some("a"));
        assert_eq!(one_line(&found[..3]).as_deref(), Some("a; b; c"));
        assert_eq!(one_line(&found).as_deref(), Some("a; b; c; and 2 more"));
        let hostile = ["table a\nb\u{1b}[2J".to_owned()];
        assert_eq!(one_line(&hostile).as_deref(), Some("table a?b?[2J"));
    }

    #[test]
    fn an_error_is_one_line_that_names_its_source() {
        let error = source("tc filters")(io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.to_string().starts_with("cannot read tc filters (Operation not permitted"));
        assert!(!error.to_string().contains('\n'));
    }
}
