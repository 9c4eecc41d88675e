//! Reading packet memory.

use bridge_common::mac::Mac;

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

    /// Pointer to a `T` at `offset`, if all of it lies in the packet.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: usize) -> Option<*mut T> {
        if self.data + offset + size_of::<T>() > self.end { None } else { Some((self.data + offset) as *mut T) }
    }

    /// The addresses, `[dst, src]`.
    #[inline(always)]
    pub(crate) fn macs(self) -> Option<(Mac, Mac)> {
        let words = self.words()?;
        Some((Mac::new(join(words[0], words[1], words[2])), Mac::new(join(words[3], words[4], words[5]))))
    }

    /// The twelve bytes of both addresses as they stand in memory.
    #[inline(always)]
    pub(crate) fn words(self) -> Option<[u16; 6]> {
        let words = self.at::<[u16; 6]>(0)?;
        // SAFETY: in bounds; packets begin at even addresses.
        Some(unsafe { *words })
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

#[inline(always)]
fn join(first: u16, second: u16, third: u16) -> [u8; 6] {
    let ([m0, m1], [m2, m3], [m4, m5]) = (first.to_ne_bytes(), second.to_ne_bytes(), third.to_ne_bytes());
    [m0, m1, m2, m3, m4, m5]
}
