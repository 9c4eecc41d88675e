//! Why a frame went where it went: one name for every decision.
//!
//! The counters, `xbr status`, `xbr top`, `xbr reasons`, the JSON and the docs all use these names. A name, once
//! published, stays.

/// Number of counter cells per port. A power of two above the number of reasons, so that an index can be masked.
pub const REASONS: usize = 64;

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $value:literal, $name:literal, $class:ident; )+) => {
        /// The one reason that a frame, or a port, was treated as it was.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $( $(#[doc = $doc])+ $variant = $value, )+ }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The published name: lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }

            /// One sentence for `xbr reasons`, `xbr status -d` and `xbr top`.
            pub const fn describe(self) -> &'static str {
                match self { $(Reason::$variant => concat!($($doc,)+),)+ }
            }

            /// Which of the three ends the frame met.
            pub const fn class(self) -> Class {
                match self { $(Reason::$variant => Class::$class,)+ }
            }

            /// Whether the next frame with the same [`FlowKey`](crate::flow::FlowKey) meets it as well, for as long as no
            /// table changes.
            #[inline(always)]
            pub const fn lasts(self) -> bool {
                !matches!(
                    self,
                    // Of one frame in a while.
                    Reason::Refresh | Reason::SourceMoved
                    // Of its length, or of what is further inside.
                    | Reason::Truncated | Reason::NeighbourDiscovery | Reason::ShortInnerTag | Reason::Mtu
                    | Reason::TagProtocol | Reason::TagPlacement | Reason::BrNetfilter | Reason::RewriteFailed
                    // Ends without a change of a table.
                    | Reason::Suspended | Reason::Unconfirmed | Reason::UnknownPort | Reason::Inconsistent
                )
            }

            /// The reason with number `value`, if there is one.
            pub const fn from_u8(value: u8) -> Option<Reason> {
                match value { $($value => Some(Reason::$variant),)+ _ => None }
            }
        }
    };
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// xbr sent it to the port that the bridge would have chosen.
    Fast,
    /// xbr left it to the bridge untouched.
    Slow,
    /// xbr had begun to rewrite it when the kernel ran out of memory: neither path could have delivered it.
    Dropped,
}

reasons! {
    /// Forwarded by the tc program.
    ForwardedTc = 0, "forwarded_tc", Fast;
    /// Forwarded by the XDP program.
    ForwardedXdp = 1, "forwarded_xdp", Fast;

    /// The lease has run out: the daemon hangs, is stopped or suspended itself until its tables are true again.
    Suspended = 2, "suspended", Slow;
    /// The device is no port that xbr knows (it just joined or is leaving).
    UnknownPort = 3, "unknown_port", Slow;
    /// The operator turned acceleration of the port off.
    TurnedOff = 4, "turned_off", Slow;
    /// The port does not forward: its STP state, its carrier or the bridge is down.
    PortState = 5, "port_state", Slow;
    /// The ingress port has an attribute that xbr leaves to the bridge (VLAN tunnel, MST, switchdev, an unknown one).
    PortFeature = 6, "port_feature", Slow;
    /// The bridge has an attribute that xbr leaves to the bridge.
    BridgeFeature = 7, "bridge_feature", Slow;
    /// Netfilter sees bridged frames: nft's bridge family, ebtables, or br_netfilter with rules.
    Netfilter = 8, "netfilter", Slow;
    /// A tc or tcx filter of somebody else is attached to the port's ingress.
    TcFilter = 9, "tc_filter", Slow;
    /// An XDP program of somebody else is attached to the port.
    ForeignXdp = 10, "foreign_xdp", Slow;
    /// The bridge device is promiscuous: it gets a copy of every frame.
    BridgePromisc = 11, "bridge_promisc", Slow;
    /// A VLAN, macvlan or ipvlan device sits on the port and takes frames before the bridge does.
    VlanUpper = 12, "vlan_upper", Slow;
    /// The device strips VLAN tags before XDP sees the frame, and that could not be turned off.
    RxVlanOffload = 13, "rx_vlan_offload", Slow;
    /// More ports or bridges than the tables have room for.
    TableFull = 14, "table_full", Slow;

    /// Shorter than its headers say.
    Truncated = 15, "truncated", Slow;
    /// The source address is multicast or zero; the bridge drops it.
    InvalidSource = 16, "invalid_source", Slow;
    /// Broadcast destination.
    Broadcast = 17, "broadcast", Slow;
    /// Multicast destination.
    Multicast = 18, "multicast", Slow;
    /// A protocol between neighbours that the kernel may answer itself: ARP, RARP, EAPOL, LLDP, MRP, CFM, PTP, slow protocols.
    ControlProtocol = 19, "control_protocol", Slow;
    /// IPv6 neighbour discovery.
    NeighbourDiscovery = 20, "neighbour_discovery", Slow;
    /// An 802.3 length field instead of an EtherType.
    Llc = 21, "llc", Slow;
    /// The outer tag is of the other protocol than the bridge's vlan_protocol, and the bridge would push a second one, or the
    /// frame is too short.
    TagProtocol = 22, "tag_protocol", Slow;
    /// The tag is still in the frame's bytes where the kernel would have moved it to metadata.
    TagPlacement = 23, "tag_placement", Slow;
    /// Untagged or priority-tagged, and the port has no PVID.
    NoPvid = 24, "no_pvid", Slow;
    /// The ingress port is no member of the frame's VLAN, or the VLAN does not forward there.
    IngressVlan = 25, "ingress_vlan", Slow;

    /// The source address is not in the FDB yet.
    SourceUnknown = 26, "source_unknown", Slow;
    /// The source address was last seen at another port; the cached entry is cancelled.
    SourceMoved = 27, "source_moved", Slow;
    /// The source address is one of the bridge's own, or may not be learnt here (sticky elsewhere).
    SourceFixed = 28, "source_fixed", Slow;
    /// The port is locked and the source address is not authorised.
    SourceLocked = 29, "source_locked", Slow;
    /// One frame in a while goes to the bridge so that it keeps the source's FDB entry alive.
    Refresh = 30, "refresh", Slow;
    /// The destination is not in the FDB: the bridge floods it.
    DestinationUnknown = 31, "destination_unknown", Slow;
    /// The destination is the bridge itself.
    Local = 32, "local", Slow;
    /// The destination's entry is of a kind that xbr leaves to the bridge.
    DestinationFeature = 33, "destination_feature", Slow;
    /// The destination is behind the port that the frame came from.
    SamePort = 34, "same_port", Slow;
    /// Both ports are isolated.
    Isolated = 35, "isolated", Slow;
    /// The egress port does not forward, or xbr leaves it to the bridge.
    EgressPort = 36, "egress_port", Slow;
    /// The egress port is no member of the frame's VLAN, or the VLAN does not forward there.
    EgressVlan = 37, "egress_vlan", Slow;
    /// Larger than the egress port's MTU allows.
    Mtu = 38, "mtu", Slow;
    /// The frame ends inside of an inner tag: the kernel may drop it, and could not move such a tag to the outer one's place.
    ShortInnerTag = 39, "short_inner_tag", Slow;

    // 40 was a name that is not used any more.

    /// The kernel could not rewrite the tag (out of memory), or the way out by XDP had just left; the frame was dropped, not forwarded with a wrong tag.
    RewriteFailed = 41, "rewrite_failed", Dropped;

    /// The tables that the program was given do not fit together.
    Inconsistent = 42, "inconsistent", Slow;
    /// The port is named by no `--port` option of this instance.
    NotSelected = 43, "not_selected", Slow;
    /// The device's hook is taken or refused, so the port is not accelerated.
    NoHook = 44, "no_hook", Slow;
    /// An IP packet that br_netfilter drops, trims or merges even without rules: malformed, padded, with options or a fragment.
    BrNetfilter = 52, "br_netfilter", Slow;
    /// Frames that xbr sends out would not meet what is on the way there: an nft egress chain, generic XDP at the far end.
    EgressPolicy = 53, "egress_policy", Slow;
    /// The kernel has announced a change of the port or its bridge, and xbr has not yet asked what it is.
    Unconfirmed = 60, "unconfirmed", Slow;
    /// Shadow mode: the fast path would have forwarded it; it was left to the bridge.
    WouldForward = 62, "would_forward", Slow;
}

const _: () = assert!(Reason::ALL.len() <= REASONS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::from_u8(*reason as u8), Some(*reason));
            assert!((*reason as usize) < REASONS);
            for other in &Reason::ALL[index + 1..] {
                assert_ne!(reason.name(), other.name());
                assert_ne!(*reason as u8, *other as u8);
            }
        }
        assert_eq!(Reason::from_u8(63), None);
    }
}
