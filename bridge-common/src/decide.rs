//! The decision: where the bridge would send a frame, if that can be proved.
//!
//! Mirrors `br_handle_frame`, `br_handle_frame_finish`, `__allowed_ingress`, `should_deliver`, `br_handle_vlan` and
//! `br_dev_queue_push_xmit` (net/bridge) for known unicast; everything else is passed with the reason's name.

use crate::{
    frame::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_PPP_SES, Frame, MIN_TAGGED, PPPOE_SES_HLEN, Tag, VLAN_HLEN, is_tag},
    mac::Mac,
    maps::{Port, fdb_flags, port_flags},
    reason::Reason,
};

/// What the decision may ask.
pub trait Tables {
    /// The port in `slot`.
    fn port(&self, slot: u16) -> Option<&Port>;
    /// The FDB entry of `mac` in `fid`, if its generation is current. `vid` is the kernel's VLAN id of the entry.
    fn fdb(&self, fid: u16, vid: u16, mac: Mac) -> Option<Entry>;
    /// `CLOCK_MONOTONIC` in nanoseconds, a tick coarse.
    fn now(&self) -> u64;
}

/// An FDB entry as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The port behind which the address is.
    pub slot: u16,
    /// [`fdb_flags`].
    pub flags: u16,
    /// When the source wants a frame to go to the bridge.
    pub refresh_at: u64,
}

/// What happens to the outer tag on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The frame leaves as it came.
    Keep,
    /// This tag is put in front.
    Push(Tag),
    /// The outer tag is taken off.
    Pop,
    /// The outer tag gets this control information (priority tag to VLAN tag, PCP kept).
    Retag(Tag),
}

impl Edit {
    /// What makes a frame that came with one outer tag leave with another.
    #[must_use]
    #[inline(always)]
    pub fn between(came: Option<Tag>, leaves: Option<Tag>) -> Self {
        match (came, leaves) {
            (None, Some(tag)) => Self::Push(tag),
            (Some(_), None) => Self::Pop,
            (Some(old), Some(tag)) if old != tag => Self::Retag(tag),
            _ => Self::Keep,
        }
    }
}

/// What to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out of the port in `slot`.
    Forward {
        /// Slot of the egress port.
        slot: u16,
        /// Interface index of the egress port.
        ifindex: u32,
        /// [`port_flags`] of the egress port.
        flags: u32,
        /// The outermost tag that the bridge would have left it with. A tag of another protocol than the bridge's, with
        /// which it came, is still there.
        leaves: Option<Tag>,
    },
    /// Leave it to the bridge.
    Pass(Reason),
}

/// A forwarding id, or none: in one word, all of which has a value in either case ([`Tag`] says what for).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fid(u32);

impl Fid {
    /// No forwarding id.
    pub const NONE: Fid = Fid(u32::MAX);

    /// A forwarding id.
    #[inline(always)]
    pub const fn new(fid: u16) -> Self {
        Self(fid as u32)
    }

    /// The number, if there is one.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "as it was made")]
    pub const fn get(self) -> Option<u16> {
        if self.0 <= 0xffff { Some(self.0 as u16) } else { None }
    }

    /// Its place in a table of [`crate::maps::MAX_FIDS`]; beyond it if there is none.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// The verdict and the VLAN it was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// The forwarding id, once the frame was classified.
    pub fid: Fid,
    /// The kernel's VLAN id of the frame, once classified; 0 on a VLAN-unaware bridge.
    pub vid: u16,
}

impl Decision {
    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self { verdict: Verdict::Pass(reason), fid: Fid::NONE, vid: 0 }
    }
}

/// Decides on `frame`, which came in at the port in slot `ingress`.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, ingress: u16, frame: &Frame) -> Decision {
    let mut origin = Origin::NONE;
    decide_from(tables, ingress, frame, &mut origin)
}

/// As [`decide`]; `origin` gets what was found out before the destination was looked at, where that is looked at.
#[inline(always)]
pub fn decide_from<T: Tables>(tables: &T, ingress: u16, frame: &Frame, origin: &mut Origin) -> Decision {
    let Some(port) = tables.port(ingress) else {
        return Decision::pass(Reason::Inconsistent);
    };
    let flags = port.flags;
    if flags & port_flags::INGRESS == 0 {
        return Decision::pass(slow_reason(port));
    }
    if let Some(reason) = refuse_addresses_and_protocols(frame) {
        return Decision::pass(reason);
    }
    if netfilter_sees(flags, frame) && !frame.untouched {
        return Decision::pass(Reason::BrNetfilter);
    }
    let class = match classify(port, flags, frame) {
        Ok(class) => class,
        Err(reason) => return Decision::pass(reason),
    };
    let verdict = if let Some(reason) = check_source(tables, port, flags, ingress, &class, frame) {
        Verdict::Pass(reason)
    } else {
        *origin = Origin::new(ingress, flags, &class);
        match deliver(tables, origin, frame) {
            Ok(Delivery { slot, port, leaves }) => {
                Verdict::Forward { slot, ifindex: port.ifindex, flags: port.flags, leaves }
            }
            Err(reason) => Verdict::Pass(reason),
        }
    };
    Decision { verdict, fid: Fid::new(class.fid), vid: class.vid }
}

/// What is known of a frame when its source has been accepted and its destination not been looked at: the same for all frames
/// to stations that come from one station in one VLAN with the same outer tag.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// [`port_flags`] of the ingress port.
    pub flags: u32,
    /// On a VLAN-aware bridge: the tag that the frame carries inside the bridge.
    pub inside: Option<Tag>,
    /// Slot of the ingress port.
    pub slot: u16,
    /// The forwarding id.
    pub fid: u16,
    /// The kernel's VLAN id; 0 on a VLAN-unaware bridge.
    pub vid: u16,
    /// Length, in bytes, of a tag that came in as the outermost and is no tag to this bridge: `vlan_insert_tag_set_proto`
    /// puts it into the bytes, where it counts.
    pub payload: u16,
}

impl Origin {
    /// Nothing is known.
    pub const NONE: Origin = Origin { flags: 0, inside: None, slot: 0, fid: 0, vid: 0, payload: 0 };

    #[inline(always)]
    const fn new(slot: u16, flags: u32, class: &Class) -> Self {
        let Class { fid, vid, inside, payload } = *class;
        Self { flags, inside, slot, fid, vid, payload }
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Slot of the egress port.
    pub slot: u16,
    /// The egress port.
    pub port: &'a Port,
    /// As in [`Verdict::Forward`].
    pub leaves: Option<Tag>,
}

#[inline(always)]
fn slow_reason(port: &Port) -> Reason {
    #[expect(clippy::cast_possible_truncation, reason = "reasons are numbered in a byte")]
    match Reason::from_u8(port.slow_reason as u8) {
        Some(reason) => reason,
        None => Reason::Inconsistent,
    }
}

/// What the bridge never treats as plain unicast: `br_handle_frame`, and the protocols that it may answer or consume.
#[inline(always)]
fn refuse_addresses_and_protocols(frame: &Frame) -> Option<Reason> {
    if !frame.src.is_valid_source() {
        return Some(Reason::InvalidSource);
    }
    if frame.dst.is_multicast() {
        return Some(if frame.dst.is_broadcast() { Reason::Broadcast } else { Reason::Multicast });
    }
    if frame.ethertype < 0x0600 {
        return Some(Reason::Llc);
    }
    match frame.ethertype {
        // ARP, RARP, EAPOL, LLDP, MRP, CFM, slow protocols, PTP
        0x0806 | 0x8035 | 0x888e | 0x88cc | 0x88e3 | 0x8902 | 0x8809 | 0x88f7 => return Some(Reason::ControlProtocol),
        _ => {}
    }
    if frame.neighbour_discovery {
        return Some(Reason::NeighbourDiscovery);
    }
    // br_netfilter drops these without a rule or a sysctl that asks for it (br_nf_pre_routing,
    // nf_bridge_encap_header_len), and skb_vlan_pop could not move such a tag to the outer one's place. Below MIN_TAGGED it
    // could, but then the frame would get past the far end's skb_vlan_untag, which drops it if the tag is in the bytes.
    if is_tag(frame.ethertype) && frame.len < MIN_TAGGED_LEN {
        return Some(Reason::ShortInnerTag);
    }
    if frame.ethertype == ETH_P_PPP_SES && frame.len < ETH_HLEN + PPPOE_SES_HLEN {
        return Some(Reason::Truncated);
    }
    None
}

/// Whether `br_netfilter` takes the frame for an IP packet (`IS_IP`, `IS_IPV6` in `br_nf_pre_routing`). Tagged frames it
/// does not look at: user space sees to it that `bridge-nf-filter-vlan-tagged` is off.
#[inline(always)]
const fn netfilter_sees(flags: u32, frame: &Frame) -> bool {
    frame.tag.is_none()
        && match frame.ethertype {
            ETH_P_IP => flags & port_flags::CHECK_IPV4 != 0,
            ETH_P_IPV6 => flags & port_flags::CHECK_IPV6 != 0,
            _ => false,
        }
}

#[expect(clippy::cast_possible_truncation, reason = "a handful of bytes")]
const MIN_TAGGED_LEN: u32 = MIN_TAGGED as u32;

/// [`VLAN_HLEN`], as [`Origin::payload`] has it.
const TAG_AS_PAYLOAD: u16 = 4;
const _: () = assert!(TAG_AS_PAYLOAD as u32 == VLAN_HLEN);

/// The VLAN that the frame belongs to.
#[derive(Clone, Copy)]
struct Class {
    fid: u16,
    vid: u16,
    /// As in [`Origin`].
    inside: Option<Tag>,
    /// As in [`Origin`].
    payload: u16,
}

/// `__allowed_ingress`.
#[inline(always)]
fn classify(port: &Port, flags: u32, frame: &Frame) -> Result<Class, Reason> {
    let fid_base = port.fid_base;
    if flags & port_flags::VLAN_AWARE == 0 {
        return Ok(Class { fid: fid_base, vid: 0, inside: None, payload: 0 });
    }
    let pvid = port.pvid & 0x0fff;
    let tpid = port.tpid;
    // A tag of the other protocol is payload. As such it has to be long enough for the far end (skb_vlan_untag).
    let payload = match frame.tag {
        Some(tag) if tag.tpid() != tpid => TAG_AS_PAYLOAD,
        _ => 0,
    };
    if payload != 0 && frame.len + u32::from(payload) < MIN_TAGGED_LEN {
        return Err(Reason::TagProtocol);
    }
    let tci = match frame.tag {
        Some(tag) if payload == 0 && tag.vid() != 0 => tag.tci(),
        Some(_) | None if pvid == 0 => return Err(Reason::NoPvid),
        // Only the VLAN id is set: PCP and DEI stay.
        Some(tag) if payload == 0 => tag.tci() | pvid,
        Some(_) | None => pvid,
    };
    let tag = Tag::new(tpid, tci);
    let vid = tag.vid();
    if !port.is_member(vid) {
        return Err(Reason::IngressVlan);
    }
    Ok(Class { fid: fid_base.wrapping_add(vid), vid, inside: Some(tag), payload })
}

/// The part of `br_handle_frame_finish` and `br_fdb_update` that looks at the source: the frame may only be fast if
/// the bridge would learn nothing new from it. Returns why not.
#[inline(always)]
fn check_source<T: Tables>(
    tables: &T,
    port: &Port,
    flags: u32,
    ingress: u16,
    class: &Class,
    frame: &Frame,
) -> Option<Reason> {
    if flags & (port_flags::LEARNING | port_flags::LOCKED) == 0 {
        // Nothing is learnt here and nothing is checked: the bridge does not look at the source at all.
        return None;
    }
    let Some(entry) = tables.fdb(class.fid, class.vid, frame.src) else {
        return Some(if flags & port_flags::LOCKED != 0 { Reason::SourceLocked } else { Reason::SourceUnknown });
    };
    if entry.flags & (fdb_flags::LOCAL | fdb_flags::OPAQUE) != 0 {
        return Some(if flags & port_flags::LOCKED != 0 { Reason::SourceLocked } else { Reason::SourceFixed });
    }
    if entry.slot != ingress {
        if flags & port_flags::LOCKED != 0 {
            return Some(Reason::SourceLocked);
        }
        return Some(if entry.flags & fdb_flags::STICKY != 0 { Reason::SourceFixed } else { Reason::SourceMoved });
    }
    let interval = port.refresh_interval;
    if interval != 0
        && flags & port_flags::LEARNING != 0
        && entry.flags & fdb_flags::STATIC == 0
        && tables.now() >= entry.refresh_at
    {
        return Some(Reason::Refresh);
    }
    None
}

/// The half of the decision that looks at the destination: `br_fdb_find_rcu`, `br_forward`, `should_deliver`,
/// `is_skb_forwardable`, `br_handle_vlan`. Of the frame it looks at the destination, which is no multicast address, the tag, the
/// length and, where `br_netfilter` looks at IP, the EtherType.
#[inline(always)]
pub fn deliver<'a, T: Tables>(tables: &'a T, origin: &Origin, frame: &Frame) -> Result<Delivery<'a>, Reason> {
    let Origin { flags: ingress_flags, slot: ingress, fid, vid, .. } = *origin;
    let Some(entry) = tables.fdb(fid, vid, frame.dst) else {
        return Err(Reason::DestinationUnknown);
    };
    if entry.flags & fdb_flags::LOCAL != 0 {
        return Err(Reason::Local);
    }
    if entry.flags & fdb_flags::OPAQUE != 0 {
        return Err(Reason::DestinationFeature);
    }
    if entry.slot == ingress {
        return Err(Reason::SamePort);
    }
    let Some(out) = tables.port(entry.slot) else {
        return Err(Reason::Inconsistent);
    };
    let flags = out.flags;
    if flags & port_flags::EGRESS == 0 {
        return Err(if flags & port_flags::EGRESS_POLICY == 0 { Reason::EgressPort } else { Reason::EgressPolicy });
    }
    if ingress_flags & flags & port_flags::ISOLATED != 0 {
        return Err(Reason::Isolated);
    }
    let leaves = match origin.inside {
        None => {
            // A slot that changed hands: the entry is of another bridge.
            if flags & port_flags::VLAN_AWARE != 0 || out.fid_base != fid {
                return Err(Reason::Inconsistent);
            }
            frame.tag
        }
        Some(inside) => {
            if flags & port_flags::VLAN_AWARE == 0 || out.fid_base.wrapping_add(vid) != fid {
                return Err(Reason::Inconsistent);
            }
            if !out.is_member(vid) {
                return Err(Reason::EgressVlan);
            }
            let tag = egress_tag(out, inside);
            if origin.payload == 0 {
                tag
            } else if tag.is_some() {
                // A second tag in front of it.
                return Err(Reason::TagProtocol);
            } else {
                frame.tag
            }
        }
    };
    // Last, as in the kernel: what is found before holds for frames of any length. br_nf_dev_queue_xmit cuts what is longer
    // than the MTU itself into fragments; without it, a tag's length is allowed.
    let allowance = if netfilter_sees(ingress_flags, frame) { VLAN_HLEN } else { 0 };
    if !frame.gso && frame.len + u32::from(origin.payload) + allowance > out.max_len {
        return Err(Reason::Mtu);
    }
    Ok(Delivery { slot: entry.slot, port: out, leaves })
}

/// `br_handle_vlan`: untagged egress strips exactly the bridge's tag.
#[inline(always)]
fn egress_tag(out: &Port, tag: Tag) -> Option<Tag> {
    if out.is_untagged(tag.vid()) { None } else { Some(tag) }
}
