//! A generator of frames in the kernel: a program that `BPF_PROG_TEST_RUN` runs over and over with live frames, each of
//! which it sends out of one device. On a veth they arrive at the other end as frames from a NIC do: in XDP's form, in
//! bursts, taken by NAPI.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::{
    Attr, EXIT, TYPE_XDP,
    asm::{
        GET_PRANDOM_U32, REDIRECT, add, big_endian, copy, first_cell, if_greater, if_zero, load32, load64, modulo,
        store_half, store_word, store32, store64,
    },
    call,
    cells::Counter,
    load, mov,
};

const PROG_TEST_RUN: libc::c_long = 10;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames that leave at once.
pub const BATCH: u32 = 64;
/// `XDP_ABORTED`.
const ABORTED: i32 = 0;
/// Bytes that every run writes anew, since frames are used again as the last receiver left them: addresses, a tag.
const HEADER: usize = 18;

/// What differs between frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vary {
    /// Nothing.
    Nothing,
    /// The last four bytes of the destination address: random, below this.
    Destination(u32),
    /// The last four bytes of the source address: 0, 1, 2 and so on up to this, and again from 0.
    Source(u32),
}

/// A loaded generator.
#[derive(Debug)]
pub struct Generator {
    program: OwnedFd,
    frame: Vec<u8>,
    _counter: Option<Counter>,
}

impl Generator {
    /// A generator of `frame` (at least 60 bytes), out of a device of this thread's namespace.
    pub fn new(dev: &str, frame: &[u8], vary: Vary) -> Result<Self> {
        ensure!(frame.len() >= 60, "a frame of {} bytes is no frame of Ethernet", frame.len());
        let counter = matches!(vary, Vary::Source(_)).then(Counter::new).transpose()?;
        let out = i32::try_from(if_nametoindex(dev)?)?;
        let varied = match (vary, &counter) {
            (Vary::Destination(below), _) => {
                // r0 = be32(random % below); destination = .. r0
                vec![call(GET_PRANDOM_U32), modulo(0, i32::try_from(below)?), big_endian(0), store32(7, 2, 0)]
            }
            (Vary::Source(below), Some(counter)) => {
                let mut program = first_cell(counter.descriptor());
                // r1 = (*r0)++; source = .. be32(r1 % below)
                let count = [
                    load64(1, 0, 0),
                    copy(2, 1),
                    add(2, 1),
                    store64(0, 0, 2),
                    modulo(1, i32::try_from(below)?),
                    big_endian(1),
                    store32(7, 8, 1),
                ];
                program.push(if_zero(0, i16::try_from(count.len())?));
                program.extend(count);
                program
            }
            _ => Vec::new(),
        };
        // r7 = data, r2 = data_end
        let mut program = vec![load32(7, 1, 0), load32(2, 1, 4), copy(3, 7), add(3, i32::try_from(HEADER)?)];
        let (words, half) = frame[..HEADER].as_chunks::<4>();
        let mut body: Vec<u64> =
            (0_i16..).step_by(4).zip(words).map(|(at, word)| store_word(7, at, i32::from_ne_bytes(*word))).collect();
        body.push(store_half(7, i16::try_from(HEADER - 2)?, i32::from(u16::from_ne_bytes([half[0], half[1]]))));
        body.extend(varied);
        body.extend([mov(1, out), mov(2, 0), call(REDIRECT), EXIT]);
        program.push(if_greater(3, 2, i16::try_from(body.len())?));
        program.extend(body);
        program.extend([mov(0, ABORTED), EXIT]);
        let program = load(TYPE_XDP, &program).with_context(|| format!("generator for {dev}"))?;
        Ok(Self { program, frame: frame.to_vec(), _counter: counter })
    }

    /// Sends `count` frames, or fewer if a signal comes. The thread has to be in the namespace of the device.
    pub fn run(&self, count: u32) -> Result<()> {
        let mut attr = Attr::new();
        attr.0[0] = self.program.as_raw_fd().cast_unsigned();
        attr.0[2] = u32::try_from(self.frame.len())?;
        attr.pointer(4, self.frame.as_ptr());
        attr.0[8] = count;
        attr.0[16] = LIVE_FRAMES;
        attr.0[18] = BATCH;
        match attr.call(PROG_TEST_RUN) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error).context("run the generator (BPF_F_TEST_XDP_LIVE_FRAMES needs kernel 5.18)"),
        }
    }
}
