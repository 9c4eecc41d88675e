//! Reading packet memory.

use bridge_common::{
    flow::FLOW_BYTES,
    frame::{ETH_P_IP, ETH_P_IPV6, Tag, is_tag},
    mac::Mac,
};

/// The packet's linear bytes, from the destination address on.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    data: usize,
    end: usize,
}

/// The parts of a frame's first bytes that are the same in all frames of a flow.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// Both addresses as they lie in memory.
    pub(crate) addresses: (u64, u32),
    /// The tag in the bytes.
    pub(crate) tag: Option<Tag>,
    /// The EtherType behind it, host order.
    pub(crate) ethertype: u16,
    /// What [`FlowKey::new`](bridge_common::flow::FlowKey::new) wants of an IP packet: its first byte and its protocol.
    pub(crate) packet: (u8, u8),
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

    /// The twelve bytes of both addresses as they stand in memory.
    #[inline(always)]
    pub(crate) fn words(self) -> Option<[u16; 6]> {
        let words = self.at::<[u16; 6]>(0)?;
        // SAFETY: in bounds; packets begin at even addresses.
        Some(unsafe { *words })
    }

    /// What a flow's key is made of. `None` for what is shorter than [`FLOW_BYTES`].
    #[inline(always)]
    pub(crate) fn head(self) -> Option<Head> {
        self.at::<[u8; FLOW_BYTES]>(0)?;
        // SAFETY: all offsets lie below FLOW_BYTES.
        unsafe {
            let addresses = (self.load::<u64>(0), self.load::<u32>(8));
            let outer = u16::from_be(self.load(12));
            if is_tag(outer) {
                let tag = Some(Tag::new(outer, u16::from_be(self.load(14))));
                let ethertype = u16::from_be(self.load(16));
                Some(Head { addresses, tag, ethertype, packet: self.packet_head(ethertype, 18) })
            } else {
                Some(Head { addresses, tag: None, ethertype: outer, packet: self.packet_head(outer, 14) })
            }
        }
    }

    /// As [`Head::packet`], of the packet at `l3`.
    ///
    /// # Safety
    ///
    /// Ten bytes at `l3` lie in the packet.
    #[inline(always)]
    unsafe fn packet_head(self, ethertype: u16, l3: usize) -> (u8, u8) {
        // SAFETY: as the caller says.
        unsafe {
            match ethertype {
                ETH_P_IP => (self.load(l3), self.load(l3 + 9)),
                ETH_P_IPV6 => (0, self.load(l3 + 6)),
                _ => (0, 0),
            }
        }
    }

    /// The `T` at `offset`, which may be misaligned: to the BPF machine that is a load like any other, and where the processor
    /// cannot do it, the verifier refuses the program.
    ///
    /// # Safety
    ///
    /// All of it lies in the packet.
    #[inline(always)]
    unsafe fn load<T>(self, offset: usize) -> T {
        // SAFETY: as the caller says, and see above.
        unsafe { ((self.data + offset) as *const T).read_volatile() }
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
