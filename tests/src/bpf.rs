//! The little that the tests need of bpf(2) itself: foreign programs of a few instructions, and lists of what is there.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

const PROG_LOAD: libc::c_long = 5;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const MAP_GET_NEXT_ID: libc::c_long = 12;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;
const LINK_GET_NEXT_ID: libc::c_long = 31;

const TYPE_SCHED_CLS: u32 = 3;
const TYPE_XDP: u32 = 6;
/// `BPF_XDP`.
const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_INGRESS`.
pub const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub const TCX_EGRESS: u32 = 47;
/// `XDP_FLAGS_DRV_MODE`.
const XDP_NATIVE: u32 = 1 << 2;

/// `BPF_FUNC_skb_vlan_push`.
const SKB_VLAN_PUSH: i32 = 18;

/// A kind of object that the kernel numbers.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Programs.
    Program,
    /// Maps.
    Map,
    /// Links.
    Link,
}

/// One argument block for all commands: zeros beyond what a command knows are accepted.
#[repr(C, align(8))]
struct Attr([u32; 32]);

impl Attr {
    fn new() -> Self {
        Self([0; 32])
    }

    /// Stores a pointer at word `at`.
    fn pointer<T>(&mut self, at: usize, to: *const T) {
        let bits = to.addr() as u64;
        to.expose_provenance();
        for (word, bytes) in self.0[at..].iter_mut().zip(bits.to_ne_bytes().as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
    }

    fn call(&mut self, command: libc::c_long) -> io::Result<libc::c_long> {
        // SAFETY: the block is as long as said; pointers in it were stored by the callers below and are live.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), size_of::<Self>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}

/// The ids of all objects of a kind.
pub fn ids(kind: Kind) -> Result<BTreeSet<u32>> {
    let command = match kind {
        Kind::Program => PROG_GET_NEXT_ID,
        Kind::Map => MAP_GET_NEXT_ID,
        Kind::Link => LINK_GET_NEXT_ID,
    };
    let mut found = BTreeSet::new();
    let mut attr = Attr::new();
    loop {
        match attr.call(command) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            Err(error) => return Err(error).context("list BPF objects"),
        }
        // start_id, next_id: go on from what was found.
        found.insert(attr.0[1]);
        attr.0[0] = attr.0[1];
    }
}

/// Ids of the tcx programs on a device of this thread's namespace; none on kernels without tcx.
pub fn attached(dev: &str, kind: u32) -> Result<Vec<u32>> {
    let mut programs = [0_u32; 16];
    let mut attr = Attr::new();
    attr.0[0] = nix::net::if_::if_nametoindex(dev)?;
    attr.0[1] = kind;
    attr.pointer(4, programs.as_mut_ptr());
    attr.0[6] = u32::try_from(programs.len())?;
    match attr.call(PROG_QUERY) {
        Ok(_) => Ok(programs[..(attr.0[6] as usize).min(programs.len())].to_vec()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("tcx programs of {dev}")),
    }
}

/// A program on a device for as long as this lives.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// Attaches an XDP program that passes everything (natively) to a device of this thread's namespace.
pub fn xdp_pass(dev: &str) -> Result<Attached> {
    attach(dev, &load(TYPE_XDP, &[mov(0, 2), EXIT])?, ATTACH_XDP, XDP_NATIVE).with_context(|| format!("XDP on {dev}"))
}

/// Attaches a tcx program without effect to the ingress of a device of this thread's namespace.
pub fn tcx_pass(dev: &str) -> Result<Attached> {
    attach(dev, &load(TYPE_SCHED_CLS, &[mov(0, -1), EXIT])?, TCX_INGRESS, 0).with_context(|| format!("tcx on {dev}"))
}

/// Everything that leaves `dev` of this thread's namespace gets this tag, kept in metadata: as from a VLAN device on a
/// NIC that inserts tags.
pub fn tag_in_metadata(dev: &str, tpid: u16, tci: u16) -> Result<Attached> {
    let program =
        [mov(2, i32::from(tpid.to_be().cast_signed())), mov(3, i32::from(tci)), call(SKB_VLAN_PUSH), mov(0, -1), EXIT];
    attach(dev, &load(TYPE_SCHED_CLS, &program)?, TCX_EGRESS, 0).with_context(|| format!("tagger on {dev}"))
}

/// A mark with this bit asks [`tag_by_mark`] for an 802.1Q tag; the lower 16 bits are its control information.
pub const MARK_Q: u32 = 1 << 16;
/// As [`MARK_Q`], for an 802.1ad tag.
pub const MARK_AD: u32 = 1 << 17;

/// What leaves `dev` of this thread's namespace with a mark ([`MARK_Q`], [`MARK_AD`]) gets that tag, kept in metadata.
pub fn tag_by_mark(dev: &str) -> Result<Attached> {
    let program = [
        // r3 = skb->mark
        0x61 | 3 << 8 | 1 << 12 | 8 << 16,
        // if r3 == 0 goto end
        0x15 | 3 << 8 | 5 << 16,
        mov(2, i32::from(0x88a8_u16.to_be().cast_signed())),
        // if r3 & MARK_AD goto push
        0x45 | 3 << 8 | 1 << 16 | u64::from(MARK_AD) << 32,
        mov(2, i32::from(0x8100_u16.to_be().cast_signed())),
        // r3 &= 0xffff
        0x57 | 3 << 8 | 0xffff << 32,
        call(SKB_VLAN_PUSH),
        // No clean-up of the mark: it ends at the border of the namespace.
        mov(0, -1),
        EXIT,
    ];
    attach(dev, &load(TYPE_SCHED_CLS, &program)?, TCX_EGRESS, 0).with_context(|| format!("tagger on {dev}"))
}

/// `exit`.
const EXIT: u64 = 0x95;

/// `r = value`, sign-extended.
const fn mov(register: u64, value: i32) -> u64 {
    0xb7 | register << 8 | (value.cast_unsigned() as u64) << 32
}

/// `call helper`.
const fn call(helper: i32) -> u64 {
    0x85 | (helper.cast_unsigned() as u64) << 32
}

fn load(kind: u32, instructions: &[u64]) -> Result<OwnedFd> {
    let licence = c"GPL";
    let mut log = vec![0_u8; 4096];
    let mut attr = Attr::new();
    attr.0[0] = kind;
    attr.0[1] = u32::try_from(instructions.len())?;
    attr.pointer(2, instructions.as_ptr());
    attr.pointer(4, licence.as_ptr());
    attr.0[6] = 1;
    attr.0[7] = u32::try_from(log.len())?;
    attr.pointer(8, log.as_mut_ptr());
    let fd = attr
        .call(PROG_LOAD)
        .with_context(|| format!("load: {}", String::from_utf8_lossy(&log).trim_end_matches('\0')))?;
    owned(fd)
}

fn attach(dev: &str, program: &OwnedFd, kind: u32, flags: u32) -> Result<Attached> {
    let mut attr = Attr::new();
    attr.0[0] = program.as_raw_fd().cast_unsigned();
    attr.0[1] = nix::net::if_::if_nametoindex(dev)?;
    attr.0[2] = kind;
    attr.0[3] = flags;
    Ok(Attached { _link: owned(attr.call(LINK_CREATE)?)? })
}

/// Takes a descriptor that the kernel has just returned.
fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(fd)?) })
}
