//! Programs that do nothing but send frames on, and programs that count what arrives and drop it: the limits that a
//! measurement compares with, and its end.

use std::{
    ffi::CString,
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use super::{
    ATTACH_XDP, Attached, Attr, EXIT, TCX_INGRESS, TYPE_SCHED_CLS, TYPE_XDP, XDP_NATIVE,
    asm::{
        REDIRECT, REDIRECT_MAP, REDIRECT_PEER, add, big_endian, copy, first_cell, if_greater, if_zero, load32, load64,
        map, store64,
    },
    attach, call,
    cells::{Counter, devices},
    load, mov,
};
use crate::netns::run;

const OBJ_PIN: libc::c_long = 6;

/// `TC_ACT_SHOT`.
const TC_SHOT: i32 = 2;
/// `XDP_DROP`.
const XDP_DROP: i32 = 1;

/// Sends what `dev` receives out of `to`, from XDP (natively, by a device map). Both are in this thread's namespace.
pub fn xdp_redirect(dev: &str, to: &str) -> Result<Attached> {
    let devices = devices(&[if_nametoindex(to)?])?;
    let [high, low] = map(1, devices.as_raw_fd());
    let program = [high, low, mov(2, 0), mov(3, 0), call(REDIRECT_MAP), EXIT];
    attach(dev, &load(TYPE_XDP, &program)?, ATTACH_XDP, XDP_NATIVE).with_context(|| format!("XDP on {dev}"))
}

/// As [`xdp_redirect`], to the device that the last four bytes of the destination address number, from 0.
pub fn xdp_redirect_by_address(dev: &str, to: &[String]) -> Result<Attached> {
    let indices = to.iter().map(|name| if_nametoindex(name.as_str())).collect::<Result<Vec<_>, _>>()?;
    let devices = devices(&indices)?;
    let [high, low] = map(1, devices.as_raw_fd());
    let program = [
        // r3 = data, r4 = data_end
        load32(3, 1, 0),
        load32(4, 1, 4),
        copy(5, 3),
        add(5, 14),
        mov(0, XDP_DROP),
        if_greater(5, 4, 6),
        load32(2, 3, 2),
        big_endian(2),
        high,
        low,
        mov(3, 0),
        call(REDIRECT_MAP),
        EXIT,
    ];
    attach(dev, &load(TYPE_XDP, &program)?, ATTACH_XDP, XDP_NATIVE).with_context(|| format!("XDP on {dev}"))
}

/// Sends what `dev` receives out of `to`, from tcx. Both are in this thread's namespace.
pub fn tc_redirect(dev: &str, to: &str) -> Result<Attached> {
    tc(dev, &redirect(REDIRECT, to)?)
}

/// Hands what `dev` receives to the other end of the veth `to`, in whatever namespace that is, from tcx.
pub fn tc_redirect_peer(dev: &str, to: &str) -> Result<Attached> {
    tc(dev, &redirect(REDIRECT_PEER, to)?)
}

fn redirect(helper: i32, to: &str) -> Result<[u64; 4]> {
    Ok([mov(1, i32::try_from(if_nametoindex(to)?)?), mov(2, 0), call(helper), EXIT])
}

/// Before kernel 6.6 the program is put on clsact, and stays until the device goes.
fn tc(dev: &str, program: &[u64]) -> Result<Attached> {
    let program = load(TYPE_SCHED_CLS, program)?;
    if crate::probe::kernel().is_some_and(|version| version >= (6, 6)) {
        return attach(dev, &program, TCX_INGRESS, 0).with_context(|| format!("tcx on {dev}"));
    }
    clsact(dev, &program).with_context(|| format!("clsact on {dev}"))?;
    Ok(Attached { _link: program })
}

fn clsact(dev: &str, program: &OwnedFd) -> Result<()> {
    let path = format!("/sys/fs/bpf/xbr-t-{}-{}", std::process::id(), program.as_raw_fd());
    let name = CString::new(path.as_str())?;
    let mut attr = Attr::new();
    attr.pointer(0, name.as_ptr());
    attr.0[2] = program.as_raw_fd().cast_unsigned();
    attr.call(OBJ_PIN).with_context(|| path.clone())?;
    let run = |line: String| run(Command::new("tc").args(line.split(' '))).map(drop);
    // There may be one already.
    drop(run(format!("qdisc add dev {dev} clsact")));
    let added = run(format!("filter add dev {dev} ingress bpf da object-pinned {path}"));
    fs::remove_file(&path).with_context(|| path.clone())?;
    added
}

/// Counts what `dev` of this thread's namespace receives, and drops it in the driver.
pub fn xdp_sink(dev: &str, counter: &Counter) -> Result<Attached> {
    let program = load(TYPE_XDP, &counting(counter, XDP_DROP))?;
    attach(dev, &program, ATTACH_XDP, XDP_NATIVE).with_context(|| format!("XDP on {dev}"))
}

/// Counts what the network stack behind `dev` of this thread's namespace gets, and drops it there.
pub fn tc_sink(dev: &str, counter: &Counter) -> Result<Attached> {
    tc(dev, &counting(counter, TC_SHOT))
}

fn counting(counter: &Counter, action: i32) -> Vec<u64> {
    let mut program = first_cell(counter.descriptor());
    program.extend([if_zero(0, 3), load64(1, 0, 0), add(1, 1), store64(0, 0, 1), mov(0, action), EXIT]);
    program
}
