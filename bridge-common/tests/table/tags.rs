//! `br_handle_vlan`: the tag that a frame leaves with.

use bridge_common::{
    decide::Edit,
    frame::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, Frame, Tag},
    maps::set_bit,
    reason::Reason,
};

use super::bed::{Bed, FRAME, HERE, PVID, TAGGED, THERE, check, fast, slow, tagged, tagged_ad};

/// `br_handle_vlan`: how it arrived against how it leaves, with PCP 5 and DEI set where there is a tag to carry them.
#[test]
fn tag_on_the_way_out() {
    const PRIORITY: u16 = 0xb000;
    let untagged = |bed: Bed, vid, on| bed.with(|bed| set_bit(&mut bed.port_mut(THERE).untagged, vid, on));
    for (tpid, bed) in [(ETH_P_8021Q, Bed::aware as fn() -> Bed), (ETH_P_8021AD, Bed::aware_ad)] {
        let with_tag = if tpid == ETH_P_8021Q { tagged } else { tagged_ad };
        let tag = |tci| Tag::new(tpid, tci);
        check(&[
            fast("untagged to untagged", bed(), FRAME, PVID, Edit::Keep),
            // A PVID that is not untagged leaves tagged; the new tag has priority 0.
            fast("untagged to tagged", untagged(bed(), PVID, false), FRAME, PVID, Edit::Push(tag(PVID))),
            fast("tagged to tagged", bed(), with_tag(TAGGED | PRIORITY), TAGGED, Edit::Keep),
            fast("tagged to untagged", untagged(bed(), TAGGED, true), with_tag(TAGGED | PRIORITY), TAGGED, Edit::Pop),
            fast("tagged with the PVID, to untagged", bed(), with_tag(PVID | PRIORITY), PVID, Edit::Pop),
            fast("tagged with the PVID, to tagged", untagged(bed(), PVID, false), with_tag(PVID), PVID, Edit::Keep),
            fast("priority-tagged to untagged", bed(), with_tag(PRIORITY), PVID, Edit::Pop),
            fast("priority 0 to untagged", bed(), with_tag(0), PVID, Edit::Pop),
            fast(
                "priority-tagged to tagged keeps the priority",
                untagged(bed(), PVID, false),
                with_tag(PRIORITY),
                PVID,
                Edit::Retag(tag(PVID | PRIORITY)),
            ),
            // What the ingress port would do on its own egress is no matter.
            fast(
                "untagged at the ingress port only",
                untagged(bed(), PVID, false).with(|bed| set_bit(&mut bed.port_mut(HERE).untagged, TAGGED, true)),
                with_tag(TAGGED),
                TAGGED,
                Edit::Keep,
            ),
        ]);
    }
}

/// Exactly one tag comes off. A frame that ends inside of an inner tag is left to the kernel, whatever would become of
/// the outer one: `skb_vlan_pop` could not move the inner one, and `br_nf_pre_routing` drops such frames. So is one of 18
/// or 19 bytes, which `skb_vlan_untag` at the far end would drop.
#[test]
fn inner_tags() {
    let inner = |ethertype, len, outer: Frame| Frame { ethertype, len, ..outer };
    let mut cases = Vec::new();
    for ethertype in [ETH_P_8021Q, ETH_P_8021AD] {
        for outer in [tagged(PVID), tagged(0)] {
            cases.push(slow("too short", Bed::aware(), inner(ethertype, 19, outer), None, Reason::ShortInnerTag));
            cases.push(fast("just long enough", Bed::aware(), inner(ethertype, 20, outer), PVID, Edit::Pop));
        }
        let short = |outer| inner(ethertype, 19, outer);
        cases.push(slow("short, but stays", Bed::aware(), short(tagged(TAGGED)), None, Reason::ShortInnerTag));
        cases.push(slow("short, unaware", Bed::unaware(), short(tagged(5)), None, Reason::ShortInnerTag));
        cases.push(fast("long enough, unaware", Bed::unaware(), inner(ethertype, 20, tagged(5)), 0, Edit::Keep));
    }
    cases.push(fast("short, but no inner tag", Bed::aware(), inner(0x0800, 14, tagged(PVID)), PVID, Edit::Pop));
    check(&cases);
}

/// `skb_vlan_pop` comes before the push of a changed tag, too, and refuses as above.
#[test]
fn short_inner_tag_behind_a_priority_tag_that_stays() {
    let bed = || Bed::aware().with(|bed| set_bit(&mut bed.port_mut(THERE).untagged, PVID, false));
    let inner = |len| Frame { ethertype: ETH_P_8021Q, len, ..tagged(0) };
    check(&[
        slow("too short", bed(), inner(19), None, Reason::ShortInnerTag),
        fast("just long enough", bed(), inner(20), PVID, Edit::Retag(Tag::new(ETH_P_8021Q, PVID))),
    ]);
}

/// `br_nf_pre_routing` wants the header of a PPPoE session whole (`nf_bridge_encap_header_len`).
#[test]
fn short_pppoe_session() {
    let frame = |len| Frame { ethertype: 0x8864, len, ..tagged(TAGGED) };
    check(&[
        slow("too short", Bed::aware(), frame(21), None, Reason::Truncated),
        fast("just long enough", Bed::aware(), frame(22), TAGGED, Edit::Keep),
    ]);
}

/// `skb_vlan_untag` looks at two bytes behind the tag and its `EtherType`, and drops a frame that has not got them, on
/// every bridge.
#[test]
fn tagged_frames_need_twenty_bytes() {
    let mut bytes = [0u8; 20];
    bytes[12..14].copy_from_slice(&ETH_P_8021Q.to_be_bytes());
    bytes[16..18].copy_from_slice(&ETH_P_IP.to_be_bytes());
    for len in 18..20 {
        assert_eq!(Frame::parse(&bytes[..len]), None, "{len} bytes");
    }
    assert!(Frame::parse(&bytes).is_some());
}
