//! The lab, left up for a person.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result};
use xbr_tests::xbr::{Xbr, binary};

use crate::topology::Lab;

/// Builds the lab, starts xbr, and opens a shell in the host's namespace; everything goes when the shell ends.
pub(crate) fn run(uplink_hook: &str) -> Result<()> {
    let lab = Lab::build()?;
    let hook = format!("eth0={uplink_hook}");
    let xbr = Xbr::start(&lab.net.host, &["br0", "--hook", &hook])?;
    println!(
        "The lab is up: bridge br0, uplink trunk eth0, tenants in VLAN 10 and 20; xbr runs (process {}).",
        xbr.pid()
    );
    println!("\n  {:<8} {:<24} {:<12} {:<19} how", "machine", "namespace", "address", "hardware address");
    for member in &lab.members {
        let guest = &member.guest;
        let how = if member.outside {
            format!("VLAN {} beyond eth0", member.tenant)
        } else {
            format!("port {}, VLAN {}", guest.port, member.tenant)
        };
        println!(
            "  {:<8} {:<24} {:<12} {:<19} {how}",
            guest.name,
            guest.space.name(),
            guest.ip.to_string(),
            xbr_tests::frame::mac(guest.mac)
        );
    }
    let first = &lab.members[0].guest;
    let last = &lab.members[1].guest;
    println!("\nYou get a shell on the host of the bridge. Try:");
    println!("  xbr status                  what is fast, and why the rest is not");
    println!("  xbr top                     live; q leaves it");
    println!("  bridge vlan; bridge fdb     what the kernel says");
    println!("  ip netns exec {} xbr-lab ping {}", first.space.name(), last.ip);
    println!(
        "  ip netns exec {} iperf3 -s -D; ip netns exec {} iperf3 -c {}",
        last.space.name(),
        first.space.name(),
        last.ip
    );
    println!("  kill -STOP {0}; kill -CONT {0}    the lease: frames go by the bridge while xbr hangs", xbr.pid());
    println!("Leave the shell (exit) and everything is taken down.\n");

    let shell = env::var("SHELL").unwrap_or_else(|_unset| "bash".to_owned());
    // The binaries of this lab, whatever else is installed.
    let mut path = Vec::new();
    for file in [binary()?, env::current_exe()?] {
        path.extend(file.parent().map(Path::to_path_buf));
    }
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let status = Command::new("ip")
        .args(["netns", "exec", lab.net.host.name(), &shell])
        .env("PATH", env::join_paths(path)?)
        .env("XBR_RUN_DIR", xbr.run_dir())
        .env("PS1", "xbr-lab # ")
        .status()
        .context("start a shell")?;
    println!("Taking the lab down.");
    xbr.stop()?;
    // What the last command of the shell returned is the person's affair.
    let _ = status;
    Ok(())
}
