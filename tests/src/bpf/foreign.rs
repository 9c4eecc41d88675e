//! Programs of somebody else that drop every frame they see.

use anyhow::{Context as _, Result};

use super::{
    ATTACH_XDP, Attached, Attr, EXIT, LINK_CREATE, TYPE_SCHED_CLS, TYPE_XDP, XDP_NATIVE, attach, load, load_for, mov,
    owned,
};

const TYPE_NETFILTER: u32 = 32;
/// `BPF_NETFILTER`.
const ATTACH_NETFILTER: u32 = 45;
/// `XDP_FLAGS_SKB_MODE`.
const XDP_GENERIC: u32 = 1 << 1;

/// `TC_ACT_SHOT`, `XDP_DROP` and `NF_DROP`.
const SHOT: i32 = 2;
const XDP_DROP: i32 = 1;
const NF_DROP: i32 = 0;

/// Drops what a device of this thread's namespace receives, in the driver.
pub fn xdp_native_drop(dev: &str) -> Result<Attached> {
    xdp_drop(dev, XDP_NATIVE)
}

/// Drops what a device of this thread's namespace receives, behind the driver.
pub fn xdp_generic_drop(dev: &str) -> Result<Attached> {
    xdp_drop(dev, XDP_GENERIC)
}

fn xdp_drop(dev: &str, mode: u32) -> Result<Attached> {
    attach(dev, &load(TYPE_XDP, &[mov(0, XDP_DROP), EXIT])?, ATTACH_XDP, mode).with_context(|| format!("XDP on {dev}"))
}

/// Drops what passes a tcx hook (`TCX_INGRESS` or `TCX_EGRESS`) of a device of this thread's namespace.
pub fn tcx_drop(dev: &str, hook: u32) -> Result<Attached> {
    attach(dev, &load(TYPE_SCHED_CLS, &[mov(0, SHOT), EXIT])?, hook, 0).with_context(|| format!("tcx on {dev}"))
}

/// Drops the IPv4 packets that pass a netfilter hook (`NF_INET_*`) of this thread's namespace (kernel 6.4 and later).
pub fn netfilter_drop(hook: u32) -> Result<Attached> {
    let program = load_for(TYPE_NETFILTER, ATTACH_NETFILTER, &[mov(0, NF_DROP), EXIT])?;
    let mut attr = Attr::new();
    attr.0[0] = std::os::fd::AsRawFd::as_raw_fd(&program).cast_unsigned();
    attr.0[2] = ATTACH_NETFILTER;
    attr.0[4] = u32::try_from(libc::NFPROTO_IPV4)?;
    attr.0[5] = hook;
    attr.0[6] = 1;
    Ok(Attached { _link: owned(attr.call(LINK_CREATE).context("attach to a netfilter hook")?)? })
}
