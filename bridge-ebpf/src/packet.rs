//! Reading packet memory.

use bridge_common::{
    flow::{Bytes, FLOW_BYTES},
    mac::Mac,
};

use crate::holes::distance;

/// The packet's linear bytes, from the destination address on.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    data: usize,
    end: usize,
}

impl Packet {
    /// From the context's `data` and `data_end`.
    #[inline(always)]
    pub(crate) fn new(data: usize, end: usize) -> Self {
        Self { data, end }
    }

    /// Where the packet begins; to the verifier still a pointer.
    #[inline(always)]
    pub(crate) fn address(self) -> usize {
        self.data
    }

    /// How many bytes are here.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        distance(self.data, self.end)
    }

    /// Pointer to a `T` at `offset`, if all of it lies in the packet.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: usize) -> Option<*mut T> {
        if self.data + offset + size_of::<T>() > self.end { None } else { Some((self.data + offset) as *mut T) }
    }

    /// Puts the addresses where they are wanted, and returns the EtherType behind them. One look at the length is enough for
    /// the three: of more, the compiler would make ways on which an address has no value.
    #[inline(always)]
    pub(crate) fn ethernet(self, dst: &mut Mac, src: &mut Mac) -> Option<u16> {
        let words = self.at::<[u16; 7]>(0)?;
        // SAFETY: in bounds; packets begin at even addresses.
        let words = unsafe { *words };
        *dst = Mac::new(join(words[0], words[1], words[2]));
        *src = Mac::new(join(words[3], words[4], words[5]));
        Some(u16::from_be(words[6]))
    }

    /// The first bytes; `None` if there are fewer than [`FLOW_BYTES`].
    #[inline(always)]
    pub(crate) fn start(self) -> Option<Start> {
        self.at::<[u8; FLOW_BYTES]>(0)?;
        Some(Start(self))
    }

    /// The `T` at `offset`, which may be misaligned: to the BPF machine that is a load like any other, and where the processor
    /// cannot do it, the verifier refuses the program.
    ///
    /// # Safety
    ///
    /// All of it lies in the packet.
    #[inline(always)]
    pub(crate) unsafe fn load<T>(self, offset: usize) -> T {
        // SAFETY: as the caller says, and see above.
        unsafe { ((self.data + offset) as *const T).read_volatile() }
    }

    /// Writes the `T` at `offset`; as [`Self::load`].
    ///
    /// # Safety
    ///
    /// All of it lies in the packet.
    #[inline(always)]
    pub(crate) unsafe fn store<T>(self, offset: usize, value: T) {
        // SAFETY: as the caller says.
        unsafe { ((self.data + offset) as *mut T).write_volatile(value) }
    }

    /// A 16-bit number in network order at `offset`.
    #[inline(always)]
    pub(crate) fn be16(self, offset: usize) -> Option<u16> {
        let field = self.at::<u16>(offset)?;
        // SAFETY: in bounds; the fields that are read lie at even offsets.
        Some(u16::from_be(unsafe { *field }))
    }

    /// The byte at `offset`.
    #[inline(always)]
    pub(crate) fn byte(self, offset: usize) -> Option<u8> {
        let field = self.at::<u8>(offset)?;
        // SAFETY: in bounds.
        Some(unsafe { *field })
    }
}

/// [`FLOW_BYTES`] bytes that are there.
#[derive(Clone, Copy)]
pub(crate) struct Start(Packet);

impl Start {
    /// The four bytes at `offset`, as [`Bytes::two`].
    #[inline(always)]
    pub(crate) fn four(&self, offset: usize) -> u32 {
        // SAFETY: as below.
        unsafe { self.0.load(offset) }
    }
}

impl Bytes for Start {
    #[inline(always)]
    fn eight(&self, offset: usize) -> u64 {
        // SAFETY: all that makes a key lies in FLOW_BYTES, and the offsets are constants: the verifier looks.
        unsafe { self.0.load(offset) }
    }

    #[inline(always)]
    fn two(&self, offset: usize) -> u16 {
        // SAFETY: as above.
        unsafe { self.0.load(offset) }
    }

    #[inline(always)]
    fn one(&self, offset: usize) -> u8 {
        // SAFETY: as above.
        unsafe { self.0.load(offset) }
    }
}

#[inline(always)]
fn join(first: u16, second: u16, third: u16) -> [u8; 6] {
    let ([m0, m1], [m2, m3], [m4, m5]) = (first.to_ne_bytes(), second.to_ne_bytes(), third.to_ne_bytes());
    [m0, m1, m2, m3, m4, m5]
}
