//! Programs that the tests and the virtual machines use.

use std::{fs::File, io::Read as _};

use anyhow::Result;

use crate::{proc, setup::apt};

/// A program and the Debian package that has it.
type Tool = (&'static str, &'static str);

/// What the tests call.
pub(crate) const TEST: &[Tool] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("bpftool", "bpftool"),
    ("iperf3", "iperf3"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("nft", "nftables"),
    ("ebtables", "ebtables"),
];

/// What starting a virtual machine takes.
pub(crate) const VM: &[Tool] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Installs those of `tools` that are missing.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|(program, _)| !present(program)).map(|(_, package)| *package).collect();
    apt::install(&missing)
}

/// Whether `program` is there, and for busybox: whether it runs without any library.
fn present(program: &str) -> bool {
    proc::which(program).is_some_and(|path| program != "busybox" || is_static(&path))
}

/// Whether the file names no loader. A dynamic program has the loader's path in its first page.
fn is_static(path: &std::path::Path) -> bool {
    let mut page = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut page));
    read.is_ok() && !page.windows(8).any(|window| window == b"ld-linux")
}
