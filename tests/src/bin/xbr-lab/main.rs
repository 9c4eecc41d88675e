//! `xbr-lab`: two tenants on a VLAN-aware bridge, with real traffic, for a person to look at.
//!
//! `demo` shows that xbr carries the traffic and keeps the tenants apart; `lab` leaves the same machines up and opens a
//! shell; `probe` says whether the running kernel can do either.

use std::{net::Ipv4Addr, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use xbr_tests::{
    probe::{self, Need},
    traffic::ping_here,
};

mod borders;
mod demo;
mod matrix;
mod rates;
mod shell;
mod topology;

/// The kernel has no bridge VLAN filtering.
const EXIT_NO_VLANS: u8 = 4;

/// A lab of network namespaces: an uplink trunk, two tenants in VLAN 10 and 20, two guests each, one bridge.
#[derive(Parser)]
#[command(name = "xbr-lab", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Exit with 0 if the running kernel has bridge VLAN filtering, with 4 if not
    Probe,
    /// Show reachability, the fast path, rates and tenant borders on real traffic
    Demo {
        /// Hook of the uplink
        #[arg(long, default_value = "xdp", value_parser = ["xdp", "tc"])]
        uplink_hook: String,
    },
    /// Ping an address from this namespace, for machines without ping(8)
    Ping {
        /// Who should answer
        address: Ipv4Addr,
        /// How often it is asked
        #[arg(short, long, default_value_t = 3)]
        count: u16,
    },
    /// Leave the lab up and open a shell in its host namespace
    Lab {
        /// Hook of the uplink
        #[arg(long, default_value = "xdp", value_parser = ["xdp", "tc"])]
        uplink_hook: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("xbr-lab: network namespaces need root: run it with sudo");
        return ExitCode::FAILURE;
    }
    if let Verb::Ping { address, count } = arguments.verb {
        return ping(address, count);
    }
    if matches!(arguments.verb, Verb::Probe) {
        return if probe::vlan_filtering() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NO_VLANS) };
    }
    if !probe::vlan_filtering() {
        eprintln!(
            "xbr-lab: this kernel's bridge has no VLAN filtering; `cargo xtask demo` runs the lab in a virtual machine"
        );
        return ExitCode::from(EXIT_NO_VLANS);
    }
    match run(&arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xbr-lab: {error:#}");
            for log in xbr_tests::xbr::take_logs() {
                eprintln!("{log}");
            }
            ExitCode::FAILURE
        }
    }
}

fn ping(address: Ipv4Addr, count: u16) -> ExitCode {
    match ping_here(address, count, Duration::from_secs(1)) {
        Ok(answered) => {
            println!("{answered} of {count} echo requests to {address} were answered");
            if answered > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("xbr-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    for need in [Need::Tun, Need::VlanDevice] {
        if !need.met() {
            bail!("{need}");
        }
    }
    match verb {
        Verb::Probe | Verb::Ping { .. } => Ok(()),
        Verb::Demo { uplink_hook } => demo::run(uplink_hook),
        Verb::Lab { uplink_hook } => shell::run(uplink_hook),
    }
}
