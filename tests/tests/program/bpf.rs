//! `BPF_PROG_TEST_RUN`, and a tc program in front of ours that puts the outer tag where a device puts it: into metadata.
//!
//! `bpf_prog_test_run_skb` takes no tag in its context and does not run `skb_vlan_untag`, so every frame would meet the
//! program with its tag in the bytes. The prologue pushes the tag with the kernel's own helper (which keeps a first tag
//! in metadata) and calls the program under test; asked for a second run on the same skb, it tells which tag is there.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use bridge_common::frame::Tag;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;

const MAP_TYPE_PROG_ARRAY: u32 = 3;
const PROG_TYPE_SCHED_CLS: u32 = 3;

/// Space for what a run leaves, in bytes.
const ROOM: usize = 8192;

/// `struct __sk_buff` in words of 32 bits.
pub(crate) const SKB_WORDS: usize = 48;
/// Words of `struct __sk_buff`.
pub(crate) mod skb {
    pub(crate) const IFINDEX: usize = 10;
    pub(crate) const CB: usize = 12;
    pub(crate) const GSO_SEGS: usize = 41;
    pub(crate) const GSO_SIZE: usize = 44;
}

/// `struct xdp_md` in words of 32 bits.
pub(crate) const XDP_WORDS: usize = 6;

/// What `bpf_attr.test` holds.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran<const WORDS: usize> {
    /// What the program returned.
    pub(crate) verdict: u32,
    /// The packet, from its metadata (XDP) or its first byte on.
    pub(crate) data: Vec<u8>,
    /// The context.
    pub(crate) context: [u32; WORDS],
}

/// Runs a program on a packet, `repeat` times on the same one.
pub(crate) fn test_run<const WORDS: usize>(
    program: BorrowedFd<'_>,
    data: &[u8],
    context: &[u32; WORDS],
    repeat: u32,
) -> io::Result<Ran<WORDS>> {
    let mut out = vec![0_u8; ROOM];
    let mut context_out = [0_u32; WORDS];
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: size(data.len()),
        data_size_out: size(out.len()),
        data_in: address(data.as_ptr()),
        data_out: address(out.as_mut_ptr()),
        repeat,
        ctx_size_in: size(size_of_val(context)),
        ctx_size_out: size(size_of_val(context)),
        ctx_in: address(context.as_ptr()),
        ctx_out: address(context_out.as_mut_ptr()),
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(Ran { verdict: attr.retval, data: out, context: context_out })
}

/// The program in front, and the map that tells it which one comes next.
#[derive(Debug)]
pub(crate) struct Prologue {
    program: OwnedFd,
    _next: OwnedFd,
}

/// First word of `cb`: whether the prologue has run on this skb.
const RUNS: usize = skb::CB;
/// The tag's protocol in network order, 0 for no tag; after the second run: whether there is a tag in metadata.
const PRESENT: usize = skb::CB + 1;
/// The tag's control information, in and out.
const TCI: usize = skb::CB + 2;
/// After the second run: the tag's protocol in network order.
const PROTO: usize = skb::CB + 3;

impl Prologue {
    /// Loads it in front of `next`.
    pub(crate) fn load(next: BorrowedFd<'_>) -> Result<Self> {
        let map = owned(bpf(MAP_CREATE, &mut [MAP_TYPE_PROG_ARRAY, 4, 4, 1]).context("create a program array")?)?;
        let (key, value) = (0_u32, next.as_raw_fd().cast_unsigned());
        let mut update =
            [u64::from(map.as_raw_fd().cast_unsigned()), address(&raw const key), address(&raw const value)];
        bpf(MAP_UPDATE_ELEM, &mut update).context("fill the program array")?;
        let instructions = instructions(map.as_raw_fd());
        let licence = c"GPL";
        let mut attr = [
            u64::from(PROG_TYPE_SCHED_CLS) | u64::from(size(instructions.len())) << 32,
            address(instructions.as_ptr()),
            address(licence.as_ptr()),
        ];
        let program = owned(bpf(PROG_LOAD, &mut attr).context("load the prologue")?)?;
        Ok(Self { program, _next: map })
    }

    /// Runs both programs on a packet whose outer tag is `tag`, in metadata.
    pub(crate) fn run(
        &self,
        data: &[u8],
        tag: Option<Tag>,
        mut context: [u32; SKB_WORDS],
    ) -> io::Result<Ran<SKB_WORDS>> {
        prepare(&mut context, tag);
        test_run(self.as_fd(), data, &context, 1)
    }

    /// The same, for the tag that is in metadata afterwards.
    pub(crate) fn run_and_look(
        &self,
        data: &[u8],
        tag: Option<Tag>,
        mut context: [u32; SKB_WORDS],
    ) -> io::Result<Option<Tag>> {
        prepare(&mut context, tag);
        let ran = test_run(self.as_fd(), data, &context, 2)?;
        let half = |word: usize| u16::try_from(ran.context[word]).map_err(io::Error::other);
        Ok(match ran.context[PRESENT] {
            0 => None,
            _ => Some(Tag::new(u16::from_be(half(PROTO)?), half(TCI)?)),
        })
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.program)
    }
}

fn prepare(context: &mut [u32; SKB_WORDS], tag: Option<Tag>) {
    if let Some(tag) = tag {
        context[PRESENT] = u32::from(tag.tpid().to_be());
        context[TCI] = u32::from(tag.tci());
    }
}

/// The prologue's instructions.
fn instructions(map: i32) -> [u64; 28] {
    /// Helpers.
    const TAIL_CALL: i32 = 12;
    const SKB_VLAN_PUSH: i32 = 18;
    /// Byte offsets in `struct __sk_buff`.
    const VLAN_PRESENT: usize = 20;
    const VLAN_TCI: usize = 24;
    const VLAN_PROTO: usize = 28;
    let (runs, present, tci, proto) = (4 * RUNS, 4 * PRESENT, 4 * TCI, 4 * PROTO);
    [
        copy(6, 1),
        load(2, 6, runs),
        jump_unless_zero(2, 17),
        mov(3, 1),
        store(6, runs, 3),
        load(2, 6, present),
        jump_if_zero(2, 6),
        load(3, 6, tci),
        copy(1, 6),
        call(SKB_VLAN_PUSH),
        jump_if_zero(0, 2),
        mov(0, -100),
        EXIT,
        // The program under test; it returns in the prologue's place.
        copy(1, 6),
        load_map(2, map),
        0,
        mov(3, 0),
        call(TAIL_CALL),
        mov(0, -101),
        EXIT,
        // The second run.
        load(2, 6, VLAN_PRESENT),
        store(6, present, 2),
        load(2, 6, VLAN_TCI),
        store(6, tci, 2),
        load(2, 6, VLAN_PROTO),
        store(6, proto, 2),
        mov(0, 0),
        EXIT,
    ]
}

const EXIT: u64 = 0x95;

/// `r = value`.
const fn mov(register: u64, value: i32) -> u64 {
    0xb7 | register << 8 | (value.cast_unsigned() as u64) << 32
}

/// `to = from`.
const fn copy(to: u64, from: u64) -> u64 {
    0xbf | to << 8 | from << 12
}

/// `to = *(u32 *)(from + offset)`.
const fn load(to: u64, from: u64, offset: usize) -> u64 {
    0x61 | to << 8 | from << 12 | (offset as u64) << 16
}

/// `*(u32 *)(to + offset) = from`.
const fn store(to: u64, offset: usize, from: u64) -> u64 {
    0x63 | to << 8 | from << 12 | (offset as u64) << 16
}

/// `r = map`, the first of two words.
const fn load_map(register: u64, map: i32) -> u64 {
    0x1018 | register << 8 | (map.cast_unsigned() as u64) << 32
}

/// `if (r == 0) goto +distance`.
const fn jump_if_zero(register: u64, distance: u64) -> u64 {
    0x15 | register << 8 | distance << 16
}

/// `if (r != 0) goto +distance`.
const fn jump_unless_zero(register: u64, distance: u64) -> u64 {
    0x55 | register << 8 | distance << 16
}

/// `call helper`.
const fn call(helper: i32) -> u64 {
    0x85 | (helper.cast_unsigned() as u64) << 32
}

fn bpf<T: ?Sized>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the block is as long as said, and the callers keep what its pointers point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, (&raw mut *attr).cast::<u8>(), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a few bytes")
}

/// Takes a descriptor that the kernel has just returned.
fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(fd)?) })
}
