//! Ethernet addresses as numbers: the first byte on the wire is the most significant of 48 bits.

/// An Ethernet address. A number rather than six bytes, so that one comparison and one hash take all of it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(u64);

impl Mac {
    /// From the six bytes in wire order.
    #[inline(always)]
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [m0, m1, m2, m3, m4, m5] = bytes;
        Self(u64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5]))
    }

    /// The 48 bits as a number.
    #[inline(always)]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The six bytes in wire order.
    pub const fn bytes(self) -> [u8; 6] {
        let [_, _, m0, m1, m2, m3, m4, m5] = self.0.to_be_bytes();
        [m0, m1, m2, m3, m4, m5]
    }

    /// `is_multicast_ether_addr`: the lowest bit of the first byte. Broadcast included.
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0 & 0x0100_0000_0000 != 0
    }

    /// `is_broadcast_ether_addr`.
    #[inline(always)]
    pub const fn is_broadcast(self) -> bool {
        self.0 == 0xffff_ffff_ffff
    }

    /// `is_valid_ether_addr`: neither multicast nor zero.
    #[inline(always)]
    pub const fn is_valid_source(self) -> bool {
        !self.is_multicast() && self.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_wire_order() {
        let mac = Mac::new([0x02, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        assert_eq!(mac.value(), 0x0234_5678_9abc);
        assert_eq!(mac.bytes(), [0x02, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
    }

    #[test]
    fn only_bit_0_of_byte_0_makes_multicast() {
        for byte in 0..6 {
            for bit in 0..8 {
                let mut bytes = [0; 6];
                bytes[byte] = 1 << bit;
                let mac = Mac::new(bytes);
                assert_eq!(mac.is_multicast(), byte == 0 && bit == 0, "{bytes:?}");
                assert_eq!(mac.is_valid_source(), !(byte == 0 && bit == 0), "{bytes:?}");
            }
        }
        assert!(!Mac::new([0; 6]).is_valid_source());
        assert!(Mac::new([0xff; 6]).is_broadcast() && Mac::new([0xff; 6]).is_multicast());
    }
}
