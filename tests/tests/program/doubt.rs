//! What the kernel has announced, and user space has not confirmed.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
};

use anyhow::{Result, ensure};
use bridge_common::{maps::bridge_cell, reason::Reason};
use bridge_user::config::Coherence;

use crate::{
    Test,
    bench::{Arrival, Bench, Cell, TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, difference},
    frames::plain,
    world::{AWARE_FID, HERE, THERE, UNAWARE_FID, World},
};

pub(crate) const TESTS: &[Test] =
    &[("doubt_holds_frames_back", holds_frames_back), ("doubt_comes_with_the_announcement", comes_with_announcements)];

fn holds_frames_back(bench: &mut Bench) -> Result<()> {
    let wire = plain(&[]);
    let arrival = Arrival { wire: &wire, ifindex: bench.device(HERE), gso: false, untouched: false };
    for (world, fid) in [(World::unaware(), UNAWARE_FID), (World::aware(), AWARE_FID)] {
        bench.install(&world)?;
        for (name, cell, reason) in [
            ("ingress port", u32::from(HERE), Reason::Unconfirmed),
            ("egress port", u32::from(THERE), Reason::EgressPort),
            ("bridge", bridge_cell(fid), Reason::Unconfirmed),
        ] {
            let announced = bench.tables.announced(cell);
            bench.tables.distrust(cell);
            ensure!(bench.tables.in_doubt(cell), "{name}: no doubt");
            let before = bench.counts()?;
            let doubted = bench.tc_once(arrival, None)??.verdict;
            let xdp = bench.xdp_in(arrival, 0, wire.len())??.verdict;
            let counted = difference(&before, &bench.counts()?);
            ensure!((doubted, xdp) == (TC_PASS, XDP_PASS), "{name} in doubt: tc {doubted}, XDP {xdp}");
            let count = counted.get(&Cell::Port(HERE, reason)).map(|(packets, _)| *packets);
            ensure!(count == Some(1), "{name}: counted {counted:?}");
            // An older announcement than the last is not enough.
            bench.tables.confirm(cell, announced.wrapping_add(1));
            ensure!(bench.tc_once(arrival, None)??.verdict == TC_PASS, "{name}: confirmed by another announcement");
            bench.tables.confirm(cell, announced);
            let (tc, xdp) = (bench.tc_once(arrival, None)??.verdict, bench.xdp_in(arrival, 0, wire.len())??.verdict);
            ensure!((tc, xdp) == (TC_REDIRECT, XDP_REDIRECT), "{name} confirmed: tc {tc}, XDP {xdp}");
        }
    }
    Ok(())
}

/// A netlink socket that is subscribed to links and neighbours, in the namespace of this thread.
fn subscribed() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls; the address outlives the call, and a descriptor that is returned is owned by nobody.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_nl = mem::zeroed();
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).map_err(io::Error::other)?;
        // RTNLGRP_LINK and RTNLGRP_NEIGH.
        address.nl_groups = 1 | 4;
        let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}

/// Nobody reads the socket: the filter alone puts in doubt, and lets the messages through.
fn comes_with_announcements(bench: &mut Bench) -> Result<()> {
    let socket = subscribed()?;
    bench.programs.tracing.listen(&mut bench.programs.ebpf, Coherence::Kernel, &socket, None::<&OwnedFd>);
    ensure!(bench.programs.tracing.announcements, "the socket filter is refused");
    let (here, cell, other) = (bench.device(HERE), u32::from(HERE), u32::from(THERE));
    bench.tables.watch(here, cell)?;
    let ip = |words: &str| -> Result<()> {
        let status = Command::new("ip").args(words.split(' ')).status()?;
        ensure!(status.success(), "ip {words}: {status}");
        Ok(())
    };
    for mtu in [1400, 1500] {
        let announced = bench.tables.announced(cell);
        ip(&format!("link set p1 mtu {mtu}"))?;
        ensure!(bench.tables.in_doubt(cell) && bench.tables.announced(cell) != announced, "a change was not heard");
        ensure!(!bench.tables.in_doubt(other), "a change of another device was heard");
        bench.tables.confirm(cell, bench.tables.announced(cell));
        ensure!(!bench.tables.in_doubt(cell), "still in doubt when confirmed");
    }
    let cancelled =
        |bench: &Bench| bench.tables.generations().into_iter().filter(|generation| *generation != 0).count();
    let before = cancelled(bench);
    ip("link add br7 type bridge")?;
    ip("link set p1 master br7")?;
    // Its address became a local entry, which has no tracepoint.
    ensure!(cancelled(bench) > before, "a new FDB entry was not heard");
    let mut message = [0_u8; 64];
    // SAFETY: the pointer and the length describe `message`.
    let got = unsafe {
        libc::recv(socket.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    };
    ensure!(got > 64, "the filter keeps messages from the daemon, or cuts them off: {got}");
    bench.tables.unwatch(here)?;
    ip("link del br7")?;
    Ok(())
}
