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
    let verdict = match check_source(tables, port, flags, ingress, &class, frame) {
        Some(reason) => Verdict::Pass(reason),
        None => forward(tables, flags, ingress, &class, frame),
    };
    Decision { verdict, fid: Fid::new(class.fid), vid: class.vid }
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

/// The VLAN that the frame belongs to.
#[derive(Clone, Copy)]
struct Class {
    fid: u16,
    vid: u16,
    /// On a VLAN-aware bridge: the tag that the frame carries inside the bridge.
    inside: Option<Tag>,
    /// Length, in bytes, of a tag that came in as the outermost and is no tag to this bridge: `vlan_insert_tag_set_proto`
    /// puts it into the bytes, where it counts.
    payload: u32,
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
        Some(tag) if tag.tpid() != tpid => VLAN_HLEN,
        _ => 0,
    };
    if payload != 0 && frame.len + payload < MIN_TAGGED_LEN {
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

/// `br_fdb_find_rcu`, `br_forward`, `should_deliver`, `is_skb_forwardable`, `br_handle_vlan`.
#[inline(always)]
fn forward<T: Tables>(tables: &T, ingress_flags: u32, ingress: u16, class: &Class, frame: &Frame) -> Verdict {
    let Some(entry) = tables.fdb(class.fid, class.vid, frame.dst) else {
        return Verdict::Pass(Reason::DestinationUnknown);
    };
    if entry.flags & fdb_flags::LOCAL != 0 {
        return Verdict::Pass(Reason::Local);
    }
    if entry.flags & fdb_flags::OPAQUE != 0 {
        return Verdict::Pass(Reason::DestinationFeature);
    }
    if entry.slot == ingress {
        return Verdict::Pass(Reason::SamePort);
    }
    let Some(out) = tables.port(entry.slot) else {
        return Verdict::Pass(Reason::Inconsistent);
    };
    let flags = out.flags;
    if flags & port_flags::EGRESS == 0 {
        return Verdict::Pass(if flags & port_flags::EGRESS_POLICY == 0 {
            Reason::EgressPort
        } else {
            Reason::EgressPolicy
        });
    }
    if ingress_flags & flags & port_flags::ISOLATED != 0 {
        return Verdict::Pass(Reason::Isolated);
    }
    // br_nf_dev_queue_xmit cuts what is longer than the MTU itself into fragments; without it, a tag's length is allowed.
    let allowance = if netfilter_sees(ingress_flags, frame) { VLAN_HLEN } else { 0 };
    if !frame.gso && frame.len + class.payload + allowance > out.max_len {
        return Verdict::Pass(Reason::Mtu);
    }
    let leaves = match class.inside {
        None => {
            // A slot that changed hands: the entry is of another bridge.
            if flags & port_flags::VLAN_AWARE != 0 || out.fid_base != class.fid {
                return Verdict::Pass(Reason::Inconsistent);
            }
            frame.tag
        }
        Some(inside) => {
            if flags & port_flags::VLAN_AWARE == 0 || out.fid_base.wrapping_add(class.vid) != class.fid {
                return Verdict::Pass(Reason::Inconsistent);
            }
            if !out.is_member(class.vid) {
                return Verdict::Pass(Reason::EgressVlan);
            }
            let tag = egress_tag(out, inside);
            if class.payload == 0 {
                tag
            } else if tag.is_some() {
                // A second tag in front of it.
                return Verdict::Pass(Reason::TagProtocol);
            } else {
                frame.tag
            }
        }
    };
    Verdict::Forward { slot: entry.slot, ifindex: out.ifindex, flags, leaves }
}

/// `br_handle_vlan`: untagged egress strips exactly the bridge's tag.
#[inline(always)]
fn egress_tag(out: &Port, tag: Tag) -> Option<Tag> {
    if out.is_untagged(tag.vid()) { None } else { Some(tag) }
}
