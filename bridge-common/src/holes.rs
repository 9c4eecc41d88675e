//! Numbers that stand in the instructions of the programs for what user space knows only when it loads them.
//!
//! The address of a map's value takes one instruction, a look-up in the map a dozen; and one look at the kernel's own
//! structure replaces the call of a helper. Loaders write such things for their own sections and symbols alone, so xbr's
//! writes them itself, in the place of these numbers, which occur nowhere else.

/// Where the instruction stands that loads a number of 64 bits: the address of the flow cache's cells, of which each CPU has
/// its part.
pub const FLOWS: u64 = FIRST;
/// As above: how many CPUs there are cells for.
pub const CPUS: u64 = FIRST + 1;
/// As above: the address of the churn cells.
pub const CHURN: u64 = FIRST + 2;
/// As above: the address of the FDB's buckets.
pub const FDB: u64 = FIRST + 3;
/// As above: the address of the generations.
pub const GENERATIONS: u64 = FIRST + 4;
/// As above: the address of the trust cells.
pub const TRUST: u64 = FIRST + 5;

const FIRST: u64 = 0x9d2c_5680_7862_7200;

/// Added to `r0` in the third of three instructions that leave 0 there if a frame is in one buffer. The first calls
/// `bpf_xdp_get_buff_len`, the second takes away what is in the first buffer.
///
/// User space writes 0 in its place; or, where the kernel lets a program see its own `struct xdp_buff`
/// (`bpf_cast_to_kern_ctx`), that call for the first, a look at the flags for the second, and the mask of
/// `XDP_FLAGS_HAS_FRAGS` for the third.
pub const SCATTERED: i32 = 0x7862_7253;
