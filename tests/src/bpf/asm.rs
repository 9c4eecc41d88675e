//! Instructions of BPF, for programs of a few of them: opcode, registers, offset and immediate in one word each.

/// `BPF_FUNC_map_lookup_elem`.
pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
/// `BPF_FUNC_get_prandom_u32`.
pub(super) const GET_PRANDOM_U32: i32 = 7;
/// `BPF_FUNC_redirect`.
pub(super) const REDIRECT: i32 = 23;
/// `BPF_FUNC_redirect_map`.
pub(super) const REDIRECT_MAP: i32 = 51;
/// `BPF_FUNC_redirect_peer`.
pub(super) const REDIRECT_PEER: i32 = 155;

/// One instruction.
pub(super) const fn insn(opcode: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    opcode as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (value.cast_unsigned() as u64) << 32
}

/// `dst = src`.
pub(super) const fn copy(dst: u8, src: u8) -> u64 {
    insn(0xbf, dst, src, 0, 0)
}

/// `dst += value`.
pub(super) const fn add(dst: u8, value: i32) -> u64 {
    insn(0x07, dst, 0, 0, value)
}

/// `dst = *(u32 *)(src + offset)`.
pub(super) const fn load32(dst: u8, src: u8, offset: i16) -> u64 {
    insn(0x61, dst, src, offset, 0)
}

/// `dst = *(u64 *)(src + offset)`.
pub(super) const fn load64(dst: u8, src: u8, offset: i16) -> u64 {
    insn(0x79, dst, src, offset, 0)
}

/// `*(u32 *)(dst + offset) = src`.
pub(super) const fn store32(dst: u8, offset: i16, src: u8) -> u64 {
    insn(0x63, dst, src, offset, 0)
}

/// `*(u64 *)(dst + offset) = src`.
pub(super) const fn store64(dst: u8, offset: i16, src: u8) -> u64 {
    insn(0x7b, dst, src, offset, 0)
}

/// `*(u32 *)(dst + offset) = value`.
pub(super) const fn store_word(dst: u8, offset: i16, value: i32) -> u64 {
    insn(0x62, dst, 0, offset, value)
}

/// `*(u16 *)(dst + offset) = value`.
pub(super) const fn store_half(dst: u8, offset: i16, value: i32) -> u64 {
    insn(0x6a, dst, 0, offset, value)
}

/// `(u32) dst %= value`.
pub(super) const fn modulo(dst: u8, value: i32) -> u64 {
    insn(0x94, dst, 0, 0, value)
}

/// `dst = be32(dst)`.
pub(super) const fn big_endian(dst: u8) -> u64 {
    insn(0xdc, dst, 0, 0, 32)
}

/// `if dst == 0` skip the next `skip` instructions.
pub(super) const fn if_zero(dst: u8, skip: i16) -> u64 {
    insn(0x15, dst, 0, skip, 0)
}

/// `if dst > src` skip the next `skip` instructions.
pub(super) const fn if_greater(dst: u8, src: u8, skip: i16) -> u64 {
    insn(0x2d, dst, src, skip, 0)
}

/// `dst = the map behind this descriptor`, in two words.
pub(super) const fn map(dst: u8, descriptor: i32) -> [u64; 2] {
    // BPF_PSEUDO_MAP_FD
    [insn(0x18, dst, 1, 0, descriptor), 0]
}

/// `r0 = &map[0]`, or 0; spoils `r1` to `r5` and the four bytes below `r10`.
pub(super) fn first_cell(descriptor: i32) -> Vec<u64> {
    let [high, low] = map(1, descriptor);
    vec![store_word(10, -4, 0), high, low, copy(2, 10), add(2, -4), super::call(MAP_LOOKUP_ELEM)]
}
