//! The tool of the Open vSwitch kernel datapath, which `cargo xtask bench` compares with; unpacked in the cache, where none of
//! its daemons starts.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    cache,
    setup::{apt, say},
};

/// The package with `ovs-dpctl`, and the library that it needs beyond those of every system.
const PACKAGES: [&str; 2] = ["openvswitch-switch", "libxdp1"];

/// The variable that names the folder, for the measuring program; nothing where it cannot be had, which is then said.
pub(crate) fn variable() -> Option<(String, String)> {
    match folder() {
        Ok(folder) => Some(("XBR_OVS".to_owned(), folder)),
        Err(error) => {
            say(&format!("warning: no ovs-dpctl: {error:#}; the OVS datapath does not take part"));
            None
        }
    }
}

fn folder() -> Result<String> {
    let dir = cache::dir()?.join("openvswitch");
    let stamp = dir.join("complete");
    if !stamp.exists() {
        let _lock = cache::lock()?;
        if !stamp.exists() {
            say("fetching ovs-dpctl …");
            for package in PACKAGES {
                apt::unpack(package, &dir)?;
            }
            fs::write(&stamp, "").context("cannot write into the cache")?;
        }
    }
    Ok(dir.to_string_lossy().into_owned())
}
