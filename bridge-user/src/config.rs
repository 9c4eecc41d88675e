//! What `xbr run` was asked to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
};

use bridge_common::reason::Reason;

/// The folder for sockets and records of changes where neither `--run-dir` nor `XBR_RUN_DIR` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/xbr";

/// The whole configuration of one instance.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The bridges to accelerate, by name; they need not exist yet.
    pub bridges: Vec<String>,
    /// Every bridge of the network namespace, also those that appear later.
    pub all: bool,
    /// If not empty: only these ports.
    pub ports: BTreeSet<String>,
    /// Hook by port name, where it was overruled.
    pub hooks: BTreeMap<String, HookChoice>,
    /// Folder for sockets and records of changes.
    pub run_dir: PathBuf,
    /// Entries of the FDB table.
    pub fdb_size: u32,
    /// Where the last status is written when the daemon ends.
    pub last_status: Option<PathBuf>,
    /// Policy reasons that the operator chose to go around ([`overrulable`]).
    pub overrule: BTreeSet<Reason>,
    /// Frames for the far end of a veth may be handed to it directly, at the price of their order.
    pub redirect_peer: bool,
    /// What keeps the tables true.
    pub coherence: Coherence,
    /// Shadow mode: forward nothing, and compare one in this many of the frames that would be forwarded.
    pub shadow: Option<NonZeroU32>,
}

/// How xbr learns that the kernel has changed its mind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Coherence {
    /// Inside the kernel, while it happens, where the kernel allows that; and from netlink
    #[default]
    Kernel,
    /// From netlink alone: later, for kernels whose tracing is not to be used
    Netlink,
}

/// Which hook a port gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// A physical NIC gets XDP and tc, anything else tc.
    #[default]
    Auto,
    /// XDP in front of tc.
    Xdp,
    /// tc alone.
    Tc,
    /// No program at all.
    Off,
}

impl FromStr for HookChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "xdp" => Ok(Self::Xdp),
            "tc" => Ok(Self::Tc),
            "off" => Ok(Self::Off),
            other => Err(format!("unknown hook \"{other}\": use auto, xdp, tc or off")),
        }
    }
}

/// Whether an operator may go around `reason` by name: somebody's policy, never a matter of correctness.
pub fn overrulable(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Netfilter | Reason::TcFilter | Reason::ForeignXdp | Reason::BridgePromisc | Reason::EgressPolicy
    )
}
