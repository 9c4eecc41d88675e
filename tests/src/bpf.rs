//! The little that the tests need of bpf(2) itself: foreign programs of a few instructions, and lists of what is there.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

mod asm;
pub mod cells;
pub mod foreign;
pub mod generator;
pub mod steer;

const PROG_LOAD: libc::c_long = 5;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const MAP_GET_NEXT_ID: libc::c_long = 12;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const GET_INFO: libc::c_long = 15;
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

/// `BPF_FUNC_skb_store_bytes`.
const SKB_STORE_BYTES: i32 = 9;
/// `BPF_FUNC_clone_redirect`.
const CLONE_REDIRECT: i32 = 13;
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

/// A map of a process, to be read.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    value: usize,
}

impl Map {
    /// The map `name` that process `pid` has open; `value` is the length of a value in bytes, that of all CPUs together
    /// for a per-CPU map.
    pub fn of(pid: u32, name: &str, value: usize) -> Result<Self> {
        let infos =
            std::fs::read_dir(format!("/proc/{pid}/fdinfo")).with_context(|| format!("descriptors of {pid}"))?;
        for text in infos.flatten().filter_map(|info| std::fs::read_to_string(info.path()).ok()) {
            let id = text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok());
            let Some(id) = id else { continue };
            let mut attr = Attr::new();
            attr.0[0] = id;
            let fd = owned(attr.call(MAP_GET_FD_BY_ID)?)?;
            // struct bpf_map_info: six words, then the name.
            let mut info = [0_u8; 40];
            let mut attr = Attr::new();
            attr.0[0] = fd.as_raw_fd().cast_unsigned();
            attr.0[1] = u32::try_from(info.len())?;
            attr.pointer(2, info.as_mut_ptr());
            attr.call(GET_INFO).context("information about a map")?;
            if info[24..].split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                return Ok(Self { fd, value });
            }
        }
        anyhow::bail!("process {pid} has no map {name}")
    }

    /// The value of a key of four bytes; `None` if there is none.
    pub fn get(&self, key: u32) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0_u8; self.value];
        let mut attr = Attr::new();
        attr.0[0] = self.fd.as_raw_fd().cast_unsigned();
        attr.pointer(2, &raw const key);
        attr.pointer(4, value.as_mut_ptr());
        match attr.call(MAP_LOOKUP) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error).context("read a map"),
        }
    }
}

/// Processors that a per-CPU map has values for.
pub fn possible_cpus() -> Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last.parse::<usize>().with_context(|| format!("possible processors: {text}"))? + 1)
}

/// Attaches a tcx program behind all others to the ingress of `dev`, which sends a copy of every frame out of `to`, both
/// devices of this thread's namespace.
pub fn mirror(dev: &str, to: &str) -> Result<Attached> {
    let to = i32::try_from(nix::net::if_::if_nametoindex(to)?)?;
    let program = [mov(2, to), mov(3, 0), call(CLONE_REDIRECT), mov(0, -1), EXIT];
    attach(dev, &load(TYPE_SCHED_CLS, &program)?, TCX_INGRESS, 0).with_context(|| format!("mirror on {dev}"))
}

/// Attaches a tcx program behind all others to the ingress of a device of this thread's namespace, which writes `value`
/// over the byte at `offset` of every frame that has one.
pub fn write_byte(dev: &str, offset: u16, value: u8) -> Result<Attached> {
    // *(u8 *)(r10 - 8) = value; r3 = r10 - 8
    let store = 0x72 | 10 << 8 | u64::from(0xfff8_u16) << 16 | u64::from(value) << 32;
    let (copy, add) = (0xbf | 3 << 8 | 10 << 12, 0x07 | 3 << 8 | u64::from(0xffff_fff8_u32) << 32);
    let program =
        [store, mov(2, i32::from(offset)), copy, add, mov(4, 1), mov(5, 0), call(SKB_STORE_BYTES), mov(0, -1), EXIT];
    attach(dev, &load(TYPE_SCHED_CLS, &program)?, TCX_INGRESS, 0).with_context(|| format!("writer on {dev}"))
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
    load_for(kind, 0, instructions)
}

/// As [`load`], for kinds that want to know the hook beforehand.
fn load_for(kind: u32, hook: u32, instructions: &[u64]) -> Result<OwnedFd> {
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
    attr.0[17] = hook;
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
