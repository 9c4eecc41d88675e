//! `cargo xtask bench coherence`: how long frames follow what the bridge has changed.

use std::process::ExitCode;

use anyhow::Result;

use super::measure;
use crate::setup::kernel::Where;

/// Arguments of `cargo xtask bench coherence`. Kinds and modes are checked by the program that measures.
#[derive(clap::Args)]
pub(super) struct Coherence {
    /// Changes of each kind
    #[arg(long, default_value_t = 10_000)]
    changes: u32,
    /// Only this kind of change (repeatable), such as fdb-move, vlan-egress; a wrong one is answered with the list
    #[arg(long = "kind")]
    kinds: Vec<String>,
    /// Only this mode (repeatable): kernel, netlink or bridge
    #[arg(long = "mode")]
    modes: Vec<String>,
    /// Kernel; changes of VLANs need one with VLAN filtering
    #[arg(long, value_enum, default_value = "running")]
    kernel: Where,
    /// Microseconds between two frames [default: 20; 200 in a virtual machine]
    #[arg(long)]
    gap: Option<u64>,
    /// One JSON object per line in place of the table
    #[arg(long)]
    json: bool,
    /// Minutes until a virtual machine is killed
    #[arg(long, default_value_t = 120)]
    minutes: u64,
}

/// Runs `cargo xtask bench coherence`.
pub(super) fn main(args: &Coherence) -> Result<ExitCode> {
    measure(args.kernel, false, "2G", args.minutes, &args.words())
}

impl Coherence {
    /// The words for `xbr-bench`.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["coherence".to_owned(), "--changes".to_owned(), self.changes.to_string()];
        let options = [("--kind", &self.kinds), ("--mode", &self.modes)];
        for (option, values) in options {
            words.extend(values.iter().flat_map(|value| [option.to_owned(), value.clone()]));
        }
        words.extend(self.gap.into_iter().flat_map(|gap| ["--gap".to_owned(), gap.to_string()]));
        words.extend(self.json.then(|| "--json".to_owned()));
        words
    }
}
