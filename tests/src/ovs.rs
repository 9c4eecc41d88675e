//! The Open vSwitch kernel datapath, set up by `ovs-dpctl`, without its daemons.

use std::process::Command;

use anyhow::Result;

use crate::netns::Netns;

/// Folder with an unpacked `openvswitch-switch` and the libraries that it needs; without it, the system's own is used.
const FOLDER: &str = "XBR_OVS";

/// `ovs-dpctl` and what has to stand before it, as words of a command.
fn tool() -> String {
    match std::env::var(FOLDER) {
        Ok(folder) => {
            let libraries = format!("{folder}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
            format!("env LD_LIBRARY_PATH={libraries} {folder}/usr/bin/ovs-dpctl")
        }
        Err(_) => "ovs-dpctl".to_owned(),
    }
}

/// Whether the tool and the kernel's module are there; loads the module.
pub fn there() -> bool {
    let run = |line: &str| {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap_or_default()).args(words).output();
        output.is_ok_and(|output| output.status.success())
    };
    run("modprobe --quiet openvswitch") && run(&format!("{} --version", tool()))
}

/// A datapath with these devices as its ports 1, 2, …; the kernel removes it with the namespace.
pub struct Datapath<'a>(&'a Netns);

impl<'a> Datapath<'a> {
    /// Makes it; the devices must not be ports of anything else.
    pub fn new(space: &'a Netns, devices: &[String]) -> Result<Self> {
        let path = Self(space);
        path.run("add-dp dp0")?;
        for (number, device) in (1..).zip(devices) {
            path.run(&format!("add-if dp0 {device},port_no={number}"))?;
        }
        Ok(path)
    }

    /// Adds a flow, in the words of ovs-dpctl(8); none may have blanks.
    pub fn flow(&self, matches: &str, actions: &str) -> Result<()> {
        self.run(&format!("add-flow dp0 {matches} {actions}"))
    }

    fn run(&self, words: &str) -> Result<()> {
        self.0.cmd(&format!("{} {words}", tool())).map(drop)
    }
}
