//! Instructions that user space completes ([`bridge_common::holes`]).

#[cfg(target_arch = "bpf")]
use core::arch::asm;

#[cfg(target_arch = "bpf")]
use aya_ebpf::bindings::bpf_func_id::BPF_FUNC_xdp_get_buff_len;
use aya_ebpf::bindings::xdp_md;
#[cfg(target_arch = "bpf")]
use bridge_common::holes::SCATTERED;

/// Whatever number user space puts in place of `HOLE`.
#[inline(always)]
pub(crate) fn number<const HOLE: u64>() -> u64 {
    address::<(), HOLE>().addr() as u64
}

/// A number of which the compiler does not know that it is one: what is added to an address once stays in it, where otherwise
/// it would be added again for every field that lies too far away.
#[inline(always)]
pub(crate) fn constant<const NUMBER: usize>() -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let number;
        // SAFETY: a register is loaded.
        unsafe { asm!("{0} = {1}", out(reg) number, const NUMBER, options(nomem, nostack, preserves_flags)) }
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    NUMBER
}

/// The address of the value of a map that user space puts in place of `HOLE`.
#[inline(always)]
pub(crate) fn address<T, const HOLE: u64>() -> *mut T {
    #[cfg(target_arch = "bpf")]
    {
        let pointer;
        // SAFETY: a register is loaded.
        unsafe { asm!("{0} = {1} ll", out(reg) pointer, const HOLE, options(nomem, nostack, preserves_flags)) }
        pointer
    }
    #[cfg(not(target_arch = "bpf"))]
    core::ptr::without_provenance_mut(HOLE as usize)
}

/// The bits of a number that are in `MASK`, by an instruction that the compiler cannot do without: the verifier sees how large
/// what follows can be.
#[inline(always)]
pub(crate) fn masked<const MASK: u64>(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut masked = number;
        // SAFETY: arithmetic.
        unsafe { asm!("{0} &= {1}", inout(reg) masked, const MASK, options(pure, nomem, nostack)) }
        masked
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number & MASK
    }
}

/// How far it is from one address to another, by an instruction that the compiler does not merge with others: the verifier
/// allows no other arithmetic with the end of a packet.
#[inline(always)]
pub(crate) fn distance(from: usize, to: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut distance = to;
        // SAFETY: a subtraction.
        unsafe { asm!("{0} -= {1}", inout(reg) distance, in(reg) from, options(pure, nomem, nostack)) }
        distance
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        to - from
    }
}

/// Whether the frame of this context, of which the first buffer has `len` bytes, goes on in another one.
#[inline(always)]
pub(crate) fn is_scattered(ctx: *mut xdp_md, len: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let scattered: u64;
        // SAFETY: a helper or a function of the kernel on the context, which leaves pointers as they are, or a look at the
        // kernel's structure behind the context.
        unsafe {
            asm!(
                "call {helper}",
                "r0 -= {len}",
                "r0 += {hole}",
                helper = const BPF_FUNC_xdp_get_buff_len,
                hole = const SCATTERED,
                len = in(reg) len,
                out("r0") scattered,
                inout("r1") ctx => _,
                out("r2") _,
                out("r3") _,
                out("r4") _,
                out("r5") _,
                options(readonly, nostack),
            )
        }
        scattered != 0
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        _ = (ctx, len);
        true
    }
}
