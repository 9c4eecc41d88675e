//! The socket buffer of the model: the outer tag beside the bytes, as the kernel keeps it.

/// An Ethernet address in wire order.
pub(crate) type Address = [u8; 6];

/// Destination, source and type.
pub(crate) const ETH_HLEN: usize = 14;
/// Length of one tag.
pub(crate) const VLAN_HLEN: usize = 4;

/// `struct sk_buff`: the outer tag beside the bytes.
#[derive(Clone)]
pub(crate) struct Skb {
    /// (protocol, TCI), host order.
    pub(crate) tag: Option<(u16, u16)>,
    /// From the destination address on, without the outer tag.
    pub(crate) bytes: Vec<u8>,
    pub(crate) gso: bool,
    /// `BR_INPUT_SKB_CB`.
    pub(crate) vlan_filtered: bool,
    /// `BR_INPUT_SKB_CB`.
    pub(crate) src_port_isolated: bool,
    /// Index of the port.
    pub(crate) in_port: usize,
}

impl Skb {
    pub(crate) fn protocol(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    pub(crate) fn address(&self, offset: usize) -> Address {
        core::array::from_fn(|index| self.bytes[offset + index])
    }

    pub(crate) fn dest(&self) -> Address {
        self.address(0)
    }

    pub(crate) fn source(&self) -> Address {
        self.address(6)
    }

    /// `skb_vlan_untag`. `None`: dropped.
    pub(crate) fn untag(mut self) -> Option<Self> {
        // Two bytes after the tag are looked at as well.
        if self.bytes.len() < ETH_HLEN + VLAN_HLEN + 2 {
            return None;
        }
        let tci = u16::from_be_bytes([self.bytes[14], self.bytes[15]]);
        self.tag = Some((self.protocol(), tci));
        self.bytes.drain(12..16);
        Some(self)
    }

    /// `vlan_insert_tag`: the tag goes into the bytes.
    pub(crate) fn insert_tag(&mut self) {
        if let Some((proto, tci)) = self.tag.take() {
            let [a, b] = proto.to_be_bytes();
            let [c, d] = tci.to_be_bytes();
            self.bytes.splice(12..12, [a, b, c, d]);
        }
    }

    /// `br_vlan_get_tag`: the VLAN id, 0 without a tag.
    pub(crate) fn vid(&self) -> u16 {
        self.tag.map_or(0, |(_, tci)| tci & 0x0fff)
    }
}

pub(crate) fn is_tag_protocol(protocol: u16) -> bool {
    matches!(protocol, 0x8100 | 0x88a8)
}

pub(crate) fn is_multicast(address: Address) -> bool {
    address[0] & 1 == 1
}
