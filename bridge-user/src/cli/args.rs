//! Options of `xbr run` and those that several verbs share, checked one by one.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf};

use bridge_common::reason::Reason;
use clap::{ArgAction, Args};
use log::warn;

use crate::{
    config::{Coherence, DEFAULT_RUN_DIR, HookChoice, RunConfig, overrulable},
    error::{Exit, Failure},
};

/// How much is written to stderr.
#[derive(Debug, Default, Args)]
pub(super) struct Verbosity {
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Messages")]
    pub(super) verbose: u8,
    /// Say only what needs attention on stderr
    #[arg(short, long, global = true, help_heading = "Messages")]
    pub(super) quiet: bool,
}

/// Where instances keep their sockets.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunDir {
    /// Folder of the daemon's sockets and records of changes
    #[arg(
        long = "run-dir",
        value_name = "DIR",
        env = "XBR_RUN_DIR",
        default_value = DEFAULT_RUN_DIR,
        help_heading = "Instance"
    )]
    pub(crate) path: PathBuf,
}

const RUN_AFTER_HELP: &str = "\
Examples:
  xbr run br0                          every port of br0, the hook chosen per port
  xbr run --all                        every bridge of this network namespace, also later ones
  xbr run br0 --port eth0 --port tap1  two ports; the others stay with the bridge
  xbr run br0 --hook veth1=xdp         let a veth stand in for a NIC
  xbr run br10 --hook eth0=tc          eth0.10 is a port: no XDP on eth0, which has the programs for it
  xbr run br10 --hook eth0.10=tc       eth0.10 is a port: the program on eth0.10, nothing on eth0
  xbr run br0 --overrule netfilter     go around netfilter rules that see bridged frames
  xbr run br0 --shadow                 forward nothing, compare with what the bridge does

The hook auto is XDP and tc on a physical NIC, and tc elsewhere. A port is left to the bridge while something there
would be bypassed: xbr status says what, and --overrule goes around it.
With --shadow every frame goes by the bridge. What xbr would have forwarded is counted, and one frame in --sample is
looked at again where it leaves: xbr status shows how many agree, and an example of each kind of disagreement. Programs
of tc alone are attached, whatever --hook says of xdp.
A port that is a VLAN device (eth0.10) is served by the programs on the device below it (eth0) where xbr status says
tcx@eth0 or the like. --port eth0 and --hook eth0=... then mean all such ports; --hook eth0.10=xdp asks for XDP on eth0,
--hook eth0.10=off takes out that port alone, --hook eth0=off leaves eth0 alone.
SIGTERM and SIGINT stop xbr and leave the ports as they were. RUST_LOG selects log messages in detail.";

/// Of so many frames that shadow mode would forward, one is compared.
const SAMPLE: u32 = 16;

/// Options of `xbr run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_AFTER_HELP)]
pub(super) struct RunArgs {
    /// Bridges to accelerate; they need not exist yet
    #[arg(value_name = "BRIDGE", value_parser = interface_name)]
    bridges: Vec<String>,
    /// Every bridge of this network namespace, also those that appear later
    #[arg(short, long, help_heading = "What is accelerated")]
    all: bool,
    /// Only this port (repeatable)
    #[arg(long = "port", value_name = "DEV", value_parser = interface_name, help_heading = "What is accelerated")]
    ports: Vec<String>,
    /// Hook of a port: auto, xdp, tc or off (repeatable)
    #[arg(long = "hook", value_name = "PORT=HOOK", value_parser = port_hook, help_heading = "What is accelerated")]
    hooks: Vec<(String, HookChoice)>,
    /// Go around netfilter, `tc_filter`, `foreign_xdp`, `bridge_promisc` or `egress_policy` (repeatable)
    #[arg(
        long,
        value_name = "REASON",
        value_parser = overrulable_reason,
        help_heading = "What is accelerated"
    )]
    overrule: Vec<Reason>,
    /// Hand frames for containers to them directly: faster, but they overtake those that go by the bridge
    #[arg(long, help_heading = "What is accelerated")]
    redirect_peer: bool,
    /// Forward nothing: decide, count, and compare with what the bridge does
    #[arg(long, help_heading = "Shadow mode")]
    shadow: bool,
    /// Compare one in N of the frames that would be forwarded [default: 16]
    #[arg(long, value_name = "N", value_parser = number::<1, 1_000_000>, help_heading = "Shadow mode")]
    sample: Option<u32>,
    #[command(flatten)]
    run_dir: RunDir,
    /// Entries of the FDB table, 16 to 4194304
    #[arg(
        long,
        value_name = "N",
        default_value_t = 65536,
        value_parser = number::<16, 4_194_304>,
        help_heading = "Instance"
    )]
    fdb_size: u32,
    /// How changes of the kernel's tables are noticed
    #[arg(long, value_enum, default_value_t, value_name = "HOW", help_heading = "Instance")]
    coherence: Coherence,
    /// When xbr ends, write a last status there, as `xbr status -j` shows one instance
    #[arg(long, value_name = "FILE", help_heading = "Instance")]
    last_status: Option<PathBuf>,
}

impl RunArgs {
    /// The configuration that the options ask for.
    ///
    /// # Errors
    /// [`Exit::Usage`]: the options contradict each other.
    pub(super) fn config(self) -> Result<RunConfig, Failure> {
        let usage = |message: String| Err(Failure::new(Exit::Usage, message));
        match (self.bridges.as_slice(), self.all) {
            ([], false) => return usage("no bridge is named: use xbr run BRIDGE, or --all for every bridge".into()),
            ([bridge, ..], true) => {
                return usage(format!("both --all and bridge \"{bridge}\" are given: use one of them"));
            }
            _ => {}
        }
        if self.sample.is_some() && !self.shadow {
            return usage("--sample is about shadow mode: give --shadow as well, or leave it out".into());
        }
        let mut hooks = BTreeMap::new();
        for (port, hook) in self.hooks {
            if hooks.insert(port.clone(), hook).is_some_and(|earlier| earlier != hook) {
                return usage(format!("port \"{port}\" has two different --hook options: keep one"));
            }
            if self.shadow && hook == HookChoice::Xdp {
                warn!("--hook {port}=xdp has no effect on shadow mode, which attaches tc programs alone");
            }
            // The device below a VLAN port is not named by --port, and has a hook all the same.
            let below = self.ports.iter().any(|named| named.starts_with(&format!("{port}.")));
            if !self.ports.is_empty() && !self.ports.contains(&port) && !below {
                warn!(
                    "--hook {port}=… has no effect unless VLAN ports are served on {port}: --port does not name {port}"
                );
            }
        }
        let mut bridges = Vec::new();
        for bridge in self.bridges {
            if !bridges.contains(&bridge) {
                bridges.push(bridge);
            }
        }
        Ok(RunConfig {
            bridges,
            all: self.all,
            ports: self.ports.into_iter().collect(),
            hooks,
            run_dir: self.run_dir.path,
            fdb_size: self.fdb_size,
            last_status: self.last_status,
            overrule: self.overrule.into_iter().collect(),
            redirect_peer: self.redirect_peer,
            coherence: self.coherence,
            shadow: NonZeroU32::new(self.sample.unwrap_or(SAMPLE)).filter(|_| self.shadow),
        })
    }
}

/// Accepts a number in decimal digits, from `MIN` to `MAX`.
fn number<const MIN: u32, const MAX: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
    number.ok_or_else(|| format!("give a number from {MIN} to {MAX}"))
}

/// Accepts what the kernel accepts as an interface name (`dev_valid_name`).
pub(crate) fn interface_name(text: &str) -> Result<String, String> {
    // `isspace` of the kernel: the ASCII ones and 0xa0.
    let space = |byte: u8| matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0);
    if text.is_empty() {
        Err("an interface name is not empty".into())
    } else if text.len() > 15 {
        Err(format!("an interface name has at most 15 bytes, this one has {}", text.len()))
    } else if text == "." || text == ".." || text.bytes().any(|byte| byte == b'/' || byte == b':' || space(byte)) {
        Err("an interface name has no '/', no ':' and no white space".into())
    } else {
        Ok(text.to_owned())
    }
}

fn port_hook(text: &str) -> Result<(String, HookChoice), String> {
    let Some((port, hook)) = text.split_once('=') else {
        return Err("say it as PORT=HOOK, with HOOK one of auto, xdp, tc, off".into());
    };
    Ok((interface_name(port)?, hook.parse()?))
}

fn overrulable_reason(text: &str) -> Result<Reason, String> {
    let known = Reason::ALL.iter().copied().find(|reason| reason.name() == text);
    match known {
        Some(reason) if overrulable(reason) => Ok(reason),
        other => {
            let allowed: Vec<_> =
                Reason::ALL.iter().copied().filter(|reason| overrulable(*reason)).map(Reason::name).collect();
            let fault = if other.is_some() { "this reason cannot be overruled" } else { "there is no such reason" };
            Err(format!("{fault}: use one of {}", allowed.join(", ")))
        }
    }
}
