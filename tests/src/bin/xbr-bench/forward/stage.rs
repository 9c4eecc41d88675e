//! Bridge, ports and what is at their other ends.
//!
//! ```text
//!   source              host                    target
//!   eth0 ─────────── pA ─ br0 ─ pB0 ─────────── eth0      (a tap has no other end)
//! ```

use std::{
    fs::File,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::{Frame, Mac, Tag, mac},
    net::Net,
    netns::Netns,
    tap, wait,
};

use super::{
    case::{End, Frames, Vlans, Work},
    processor::{Processor, first_in_first_out, kernel_threads},
};

/// The port where frames come in.
pub(crate) const IN: &str = "pA";
/// The address that sends.
pub(crate) const SOURCE: Mac = [2, 0xaa, 0, 0, 0, 1];
/// IPv4 address of the sender.
pub(crate) const SOURCE_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// IPv4 address of the receiver.
pub(crate) const TARGET_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// UDP port of the frames: one that no tunnel has.
pub(crate) const PORT: u16 = 9000;

/// The VLAN of tagged frames.
pub(super) const VLAN: u16 = 10;

/// The address with this number that receives.
pub(crate) fn target(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 0xbb, a, b, c, d]
}

/// The device of the host that leads to the target; `number` from 0.
pub(crate) fn out(number: u32) -> String {
    format!("pB{number}")
}

/// Who connects the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Middle {
    /// A bridge with a veth or tap for each.
    Bridge,
    /// macvlan devices on [`IN`].
    Macvlan,
    /// The Open vSwitch kernel datapath, with the bridge's ports.
    Ovs,
}

/// Everything that a case runs on. Fields are dropped in this order.
pub(crate) struct Stage {
    /// What runs on it.
    pub(crate) work: Work,
    /// The thread that takes frames from [`IN`], where that is a NIC.
    pub(crate) napi: Option<i32>,
    /// Whether the bridge knows many addresses already.
    pub(super) taught: AtomicBool,
    /// The file of the target's tap.
    pub(crate) tap: Option<Arc<File>>,
    /// The sender's namespace.
    pub(crate) source: Arc<Netns>,
    /// The receiver's namespace.
    pub(crate) target: Arc<Netns>,
    /// The host with the bridge.
    pub(crate) net: Net,
}

impl Stage {
    /// Builds it; nothing is attached yet. With a processor, NAPI of [`IN`] runs in a thread on it.
    pub(crate) fn new(work: Work, middle: Middle, processor: Option<Processor>) -> Result<Self> {
        let net = Net::new()?;
        let (source, target) = (net.space("source")?, net.space("target")?);
        let mut stage = Self { work, napi: None, taught: AtomicBool::new(false), tap: None, source, target, net };
        let known: Vec<i32> = kernel_threads(&format!("napi/{IN}-"))?;
        stage.quiet_netfilter()?;
        match middle {
            Middle::Bridge | Middle::Ovs => stage.bridge(processor.is_none())?,
            Middle::Macvlan => stage.macvlan()?,
        }
        match middle {
            Middle::Bridge => stage.vlans()?,
            Middle::Macvlan => {}
            Middle::Ovs => stage.ovs()?,
        }
        if let Work::Frames(_) = work {
            stage.host().cmd(&format!("ethtool -K {IN} gro on"))?;
            stage.napi = processor.map(|processor| stage.thread_of_napi(&known, processor)).transpose()?;
        } else {
            stage.addresses()?;
        }
        Ok(stage)
    }

    /// The host's namespace.
    pub(crate) fn host(&self) -> &Arc<Netns> {
        &self.net.host
    }

    /// Number of ports beside [`IN`].
    pub(crate) fn outs(&self) -> u32 {
        if let Work::Frames(frames) = self.work { frames.ports } else { 1 }
    }

    fn end(&self) -> End {
        if let Work::Frames(frames) = self.work { frames.end } else { End::Stack }
    }

    /// Where `br_netfilter` is there, it looks at the frames of every new namespace by default.
    fn quiet_netfilter(&self) -> Result<()> {
        for name in ["arptables", "iptables", "ip6tables"] {
            let key = format!("bridge/bridge-nf-call-{name}");
            if Path::new("/proc/sys/net").join(&key).exists() {
                self.host().sysctl(&key, "0")?;
            }
        }
        Ok(())
    }

    /// `counted`: the clock counts instructions, and runs ahead while the processor is idle.
    fn bridge(&mut self, counted: bool) -> Result<()> {
        let filtering = self.work.vlans() != Vlans::None;
        let vlans = if filtering { "vlan_filtering 1 vlan_default_pvid 0" } else { "" };
        // Centiseconds: a day where there are many addresses to learn or the clock runs ahead, else the default.
        let long = counted || matches!(self.work, Work::Frames(Frames { addresses: 2.., .. }));
        self.net.bridge("br0", &format!("{vlans} ageing_time {}", if long { 8_640_000 } else { 30_000 }))?;
        let mut lines = vec![
            format!("link add {IN} type veth peer name eth0 address {} netns {}", mac(SOURCE), self.source.name()),
            format!("link set {IN} master br0 up"),
        ];
        if self.end() == End::Tap {
            self.tap = Some(Arc::new(tap::open(self.host(), &out(0))?));
            lines.push(format!("link set {} master br0 up", out(0)));
        } else {
            for number in 0..self.outs() {
                let (port, address) = (out(number), mac(target(number)));
                let space = self.target.name();
                lines.push(format!("link add {port} type veth peer name eth{number} address {address} netns {space}"));
                lines.push(format!("link set {port} master br0 up"));
            }
        }
        self.host().batch("ip", &lines)?;
        self.ends_up()?;
        wait::until("all ports forwarding", Duration::from_secs(30), || {
            let shown = self.host().json("bridge -j link show")?;
            let ports = shown.as_array().map(Vec::as_slice).unwrap_or_default();
            let up = ports.iter().filter(|port| port["state"] == "forwarding").count();
            Ok(up == self.outs() as usize + 1)
        })
    }

    fn macvlan(&mut self) -> Result<()> {
        ensure!(self.end() != End::Tap, "macvlan has no tap");
        let (source, target_space) = (self.source.name().to_owned(), self.target.name().to_owned());
        let mut lines = Vec::new();
        if matches!(self.work, Work::Frames(_)) {
            lines.push(format!("link add {IN} type veth peer name eth0 address {} netns {source}", mac(SOURCE)));
        } else {
            lines.push(format!("link add {IN} type veth peer name wire"));
            lines.push("link set wire up".to_owned());
            let address = mac(SOURCE);
            lines.push(format!("link add link {IN} name m1 address {address} type macvlan mode bridge"));
            lines.push(format!("link set m1 netns {source} name eth0"));
        }
        lines.push(format!("link add link {IN} name m2 address {} type macvlan mode bridge", mac(target(0))));
        lines.push(format!("link set m2 netns {target_space} name eth0"));
        lines.push(format!("link set {IN} up"));
        self.host().batch("ip", &lines)?;
        self.ends_up()?;
        // Its queue begins to send when the kernel has noticed the carrier, up to a second late.
        wait::until("macvlan up", Duration::from_secs(5), || {
            let up =
                |space: &Netns| Ok::<_, anyhow::Error>(space.json("ip -j link show eth0")?[0]["operstate"] == "UP");
            Ok(up(&self.source)? && up(&self.target)?)
        })
    }

    fn ends_up(&self) -> Result<()> {
        self.source.cmd("ip link set eth0 up")?;
        if self.end() == End::Tap {
            return Ok(());
        }
        let lines: Vec<String> = (0..self.outs()).map(|number| format!("link set eth{number} up")).collect();
        self.target.batch("ip", &lines)?;
        if matches!(self.work, Work::Frames(_)) && self.outs() == 1 {
            // Frames that XDP sends to a veth are lost unless NAPI runs at its other end. macvlan has no GRO of its own.
            drop(self.target.output("ethtool -K eth0 gro on")?);
        }
        Ok(())
    }

    /// The VLANs of the ports.
    fn vlans(&self) -> Result<()> {
        let (tagged, untagged) = (format!("vid {VLAN}"), format!("vid {VLAN} pvid untagged"));
        let (own, theirs) = match self.work.vlans() {
            Vlans::None => return Ok(()),
            Vlans::Many(count) => {
                let last = vec![format!("vid {count} pvid untagged")];
                let all = (count > 1).then(|| format!("vid 1-{}", count - 1)).into_iter().chain(last);
                let all: Vec<String> = all.collect();
                (all.clone(), all)
            }
            Vlans::Access => (vec![untagged.clone()], vec![untagged]),
            Vlans::Push => (vec![untagged], vec![tagged]),
            Vlans::Pop => (vec![tagged], vec![untagged]),
        };
        let ports = std::iter::once((IN.to_owned(), own));
        for (port, words) in ports.chain((0..self.outs()).map(|number| (out(number), theirs.clone()))) {
            for words in words {
                self.host().cmd(&format!("bridge vlan add dev {port} {words}"))?;
            }
        }
        Ok(())
    }

    /// Makes [`IN`] a NIC: NAPI in a thread of its own, before all others on the processor.
    fn thread_of_napi(&self, known: &[i32], processor: Processor) -> Result<i32> {
        let path = format!("/sys/class/net/{IN}/threaded");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.host().name(), "sh", "-c", &format!("echo 1 >{path}")]);
        xbr_tests::netns::run(&mut command).context("NAPI in a thread")?;
        let threads = kernel_threads(&format!("napi/{IN}-"))?;
        let mut new = threads.into_iter().filter(|thread| !known.contains(thread));
        let thread = new.next().with_context(|| format!("{IN} has no NAPI thread"))?;
        ensure!(new.next().is_none(), "two measurements at once: wait until the other one has ended");
        processor.pin(thread)?;
        first_in_first_out(thread)?;
        Ok(thread)
    }

    /// Addresses and neighbours, so that nothing has to be asked.
    fn addresses(&self) -> Result<()> {
        let mut device = "eth0".to_owned();
        if self.work.vlans() == Vlans::Pop {
            device = format!("eth0.{VLAN}");
            self.source.cmd(&format!("ip link add link eth0 name {device} type vlan id {VLAN}"))?;
            self.source.cmd(&format!("ip link set {device} up"))?;
        }
        for (space, device, own, other, address) in [
            (&self.source, device.as_str(), SOURCE_IP, TARGET_IP, target(0)),
            (&self.target, "eth0", TARGET_IP, SOURCE_IP, SOURCE),
        ] {
            space.cmd(&format!("ip addr add {own}/24 dev {device}"))?;
            space.cmd(&format!("ip neigh replace {other} lladdr {} dev {device} nud permanent", mac(address)))?;
        }
        Ok(())
    }

    /// The frame that the generator sends: UDP to the first target. A tag comes on top of its length.
    pub(crate) fn frame(frames: &Frames) -> Vec<u8> {
        let frame = Frame::udp(SOURCE, target(0), SOURCE_IP, TARGET_IP, PORT, frames.len - 42);
        if frames.vlans == Vlans::Pop { frame.tag(Tag::q(VLAN)) } else { frame }.bytes()
    }
}
