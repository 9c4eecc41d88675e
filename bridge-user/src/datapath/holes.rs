//! Completes the instructions of the programs before they are loaded ([`bridge_common::holes`]): addresses of maps, and a
//! look at one of the kernel's structures.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya_obj::generated::{BPF_PSEUDO_KFUNC_CALL, BPF_PSEUDO_MAP_VALUE};
use bridge_common::holes::{CHURN, CPUS, FDB, FLOWS, GENERATIONS, SCATTERED, TRUST};

use super::btf::{Btf, BtfError};

/// An instruction: operation, registers (the source in the half of the larger values where memory begins with the smaller
/// ones), an offset of two bytes, and a number of four.
type Instruction = [u8; 8];

/// Loads a number of 64 bits, whose upper half stands in a second instruction.
const LOAD: u8 = 0x18;
/// Loads 32 bits from an address.
const LOAD_WORD: u8 = 0x61;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const CALL: u8 = 0x85;
/// The function that gives a program the kernel's own description of a frame, and that structure.
const CAST: (&str, &str) = ("bpf_cast_to_kern_ctx", "xdp_buff");
/// The flag in it of a frame that goes on behind its first buffer.
const SEVERAL: &str = "XDP_FLAGS_HAS_FRAGS";

/// What goes in place of a number.
pub(super) enum Filling<'a> {
    /// Another number.
    Number(u64),
    /// The address of the one value of this map.
    Value(BorrowedFd<'a>),
}

/// How a program sees the kernel's own description of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelContext {
    /// The type id of the function that gives it.
    function: u32,
    /// Where its flags are, in bytes.
    flags: i16,
    /// The bit among them that says that there are several buffers.
    several: u32,
}

impl KernelContext {
    /// Of this kernel; one before 6.2 has no such thing.
    pub(super) fn find(btf: &Btf) -> Result<Self, BtfError> {
        let (function, structure) = CAST;
        let flags = btf.member_offset(structure, &["flags"])?;
        let flags = i16::try_from(flags).map_err(|_too_large| BtfError::NoStructure(structure.to_owned()))?;
        let several = btf.enumeration(SEVERAL)?.get(SEVERAL).copied();
        let several = several.ok_or_else(|| BtfError::NoConstant(SEVERAL.to_owned()))?;
        Ok(Self { function: btf.function(function)?, flags, several })
    }
}

/// A copy of an object, as aligned as its reader wants it.
pub(super) struct Object {
    room: Vec<u8>,
    start: usize,
}

impl Object {
    fn copy(object: &[u8]) -> Self {
        let mut room = vec![0; object.len() + align_of::<u64>()];
        let start = room.as_ptr().align_offset(align_of::<u64>());
        room.truncate(start + object.len());
        room[start..].copy_from_slice(object);
        Self { room, start }
    }

    /// The object.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..]
    }
}

/// The object with all instructions complete. `fill` says what belongs in the place of a number. `None`: one of the numbers
/// is nowhere.
pub(super) fn complete<'a>(
    object: &[u8],
    fill: impl Fn(u64) -> Filling<'a>,
    context: Option<KernelContext>,
) -> Option<Object> {
    let mut object = Object::copy(object);
    // Sections of instructions are aligned to the length of one.
    let (instructions, _) = object.bytes_mut().as_chunks_mut();
    for hole in [FLOWS, CPUS, CHURN, FDB, GENERATIONS, TRUST] {
        complete_loads(instructions, hole, &fill(hole)).then_some(())?;
    }
    complete_looks(instructions, context).then_some(())?;
    Some(object)
}

/// Completes the instructions that load this number.
fn complete_loads(instructions: &mut [Instruction], hole: u64, filling: &Filling<'_>) -> bool {
    let [lower, upper] = halves(hole);
    let mut found = false;
    for at in 1..instructions.len() {
        let [first, second] = &mut instructions[at - 1..=at] else { continue };
        if first[0] != LOAD || first[4..] != lower || second[0] != 0 || second[4..] != upper {
            continue;
        }
        found = true;
        let number = match filling {
            Filling::Number(number) => *number,
            Filling::Value(map) => {
                set_source(first, BPF_PSEUDO_MAP_VALUE);
                // The upper half is an offset into the value.
                u64::from(map.as_raw_fd().cast_unsigned())
            }
        };
        let [lower, upper] = halves(number);
        first[4..].copy_from_slice(&lower);
        second[4..].copy_from_slice(&upper);
    }
    found
}

/// Completes the instructions that find out whether a frame is in one buffer.
fn complete_looks(instructions: &mut [Instruction], context: Option<KernelContext>) -> bool {
    let mut found = false;
    for at in 2..instructions.len() {
        let [call, subtract, last] = &mut instructions[at - 2..=at] else { continue };
        if last[..2] != [ADD, 0] || last[4..] != SCATTERED.to_ne_bytes() || call[0] != CALL {
            continue;
        }
        found = true;
        let Some(KernelContext { function, flags, several }) = context else {
            last[4..].copy_from_slice(&[0; 4]);
            continue;
        };
        set_source(call, BPF_PSEUDO_KFUNC_CALL);
        call[4..].copy_from_slice(&function.to_ne_bytes());
        let [low, high] = flags.to_ne_bytes();
        // Both registers are r0.
        *subtract = [LOAD_WORD, 0, low, high, 0, 0, 0, 0];
        last[0] = AND;
        last[4..].copy_from_slice(&several.to_ne_bytes());
    }
    found
}

/// The lower half and the upper one, as they lie in memory.
#[expect(clippy::cast_possible_truncation, reason = "each takes its half")]
fn halves(number: u64) -> [[u8; 4]; 2] {
    [number as u32, (number >> 32) as u32].map(u32::to_ne_bytes)
}

fn set_source(instruction: &mut Instruction, source: u32) {
    let [lowest, ..] = source.to_le_bytes();
    let registers = &mut instruction[1];
    *registers =
        if cfg!(target_endian = "little") { *registers & 0x0f | lowest << 4 } else { *registers & 0xf0 | lowest };
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use super::*;
    use crate::datapath::load::at_least;

    fn instruction(operation: u8, registers: u8, offset: i16, number: u32) -> Instruction {
        let ([o0, o1], [n0, n1, n2, n3]) = (offset.to_ne_bytes(), number.to_ne_bytes());
        [operation, registers, o0, o1, n0, n1, n2, n3]
    }

    fn load(register: u8, number: u64) -> [Instruction; 2] {
        let [lower, upper] = halves(number).map(u32::from_ne_bytes);
        [instruction(LOAD, register, 0, lower), instruction(0, 0, 0, upper)]
    }

    fn look() -> [Instruction; 3] {
        [instruction(CALL, 0, 0, 188), instruction(0x1f, 0x60, 0, 0), instruction(ADD, 0, 0, SCATTERED.cast_unsigned())]
    }

    fn whole() -> Vec<Instruction> {
        let loads = [FLOWS, CPUS, CHURN, FDB, GENERATIONS, TRUST].map(|hole| load(3, hole));
        loads.into_iter().flatten().chain(look()).collect()
    }

    const CONTEXT: KernelContext = KernelContext { function: 0x1234_5678, flags: 0x48, several: 4 };

    #[test]
    fn addresses_and_numbers_take_the_place_of_holes() {
        let map = File::open("/dev/null").unwrap();
        let descriptor = u64::from(map.as_raw_fd().cast_unsigned());
        let mut program = [load(3, FDB), load(4, FDB + 0x100), load(5, FDB)].concat();
        assert!(complete_loads(&mut program, FDB, &Filling::Value(map.as_fd())));
        let value = |register: u8| {
            let mut load = load(register, descriptor);
            load[0][1] = register | 0x20;
            load
        };
        assert_eq!(program, [value(3), load(4, FDB + 0x100), value(5)].concat());

        let mut program = load(7, CPUS).to_vec();
        assert!(complete_loads(&mut program, CPUS, &Filling::Number(0x1_0000_0002)));
        assert_eq!(program, load(7, 0x1_0000_0002));
        assert!(!complete_loads(&mut program, CPUS, &Filling::Number(1)), "there is none any more");
    }

    #[test]
    fn a_look_at_the_kernels_structure_takes_the_place_of_a_call() {
        let mut program = look().to_vec();
        assert!(complete_looks(&mut program, Some(CONTEXT)));
        let wanted =
            [instruction(CALL, 0x20, 0, 0x1234_5678), instruction(LOAD_WORD, 0, 0x48, 0), instruction(AND, 0, 0, 4)];
        assert_eq!(program, wanted);

        let mut program = look().to_vec();
        assert!(complete_looks(&mut program, None));
        assert_eq!((&program[..2], program[2]), (&look()[..2], instruction(ADD, 0, 0, 0)));
        assert!(!complete_looks(&mut program, None), "there is none any more");
    }

    #[test]
    fn an_object_without_one_of_the_holes_is_refused() {
        let fill = |_hole| Filling::Number(0);
        let all = whole();
        assert!(complete(all.as_flattened(), fill, Some(CONTEXT)).is_some());
        for missing in 0..all.len() {
            let mut program = all.clone();
            program.remove(missing);
            assert!(complete(program.as_flattened(), fill, None).is_none(), "{missing}");
        }
        let object = complete(all.as_flattened(), fill, None).unwrap();
        assert!(object.bytes().as_ptr().addr().is_multiple_of(8) && object.bytes().len() == all.len() * 8);
    }

    #[test]
    fn the_running_kernel_describes_its_frames() {
        let found = KernelContext::find(&Btf::load("bridge").unwrap());
        if at_least(6, 2) {
            let context = found.unwrap();
            assert!(context.function > 0 && (8..256).contains(&context.flags), "{context:?}");
            assert!(context.several.is_power_of_two());
        } else {
            assert!(matches!(found, Err(BtfError::NoFunction(_))), "{found:?}");
        }
    }
}
