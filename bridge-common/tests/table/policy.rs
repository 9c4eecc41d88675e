//! Policy of others, as far as it is decided frame by frame.

use bridge_common::{
    decide::Edit,
    frame::{ETH_P_IPV6, Frame},
    maps::port_flags,
    reason::Reason,
};

use super::bed::{Bed, FRAME, HERE, TAGGED, THERE, check, fast, slow, tagged};

/// What `br_netfilter` would drop, trim or merge is left to it; where it does not look, nothing changes.
#[test]
fn packets_that_br_netfilter_changes() {
    let touched = Frame { untouched: false, ..FRAME };
    let six = Frame { ethertype: ETH_P_IPV6, ..touched };
    let other = Frame { ethertype: 0x88b5, ..touched };
    let (v4, v6) = (port_flags::CHECK_IPV4, port_flags::CHECK_IPV6);
    let bed = |flags: u32| Bed::unaware().with(|bed| bed.port_mut(HERE).flags |= flags);
    let aware = || Bed::aware().with(|bed| bed.port_mut(HERE).flags |= v4 | v6);
    let mut cases = vec![
        fast("not looked at", bed(0), touched, 0, Edit::Keep),
        fast("IPv4, looks at IPv6", bed(v6), touched, 0, Edit::Keep),
        fast("IPv6, looks at IPv4", bed(v4), six, 0, Edit::Keep),
        fast("whole", bed(v4 | v6), FRAME, 0, Edit::Keep),
        fast("not IP", bed(v4 | v6), other, 0, Edit::Keep),
        slow("IPv4", bed(v4), touched, None, Reason::BrNetfilter),
        slow("IPv6", bed(v6), six, None, Reason::BrNetfilter),
        fast("behind a tag", aware(), Frame { untouched: false, ..tagged(TAGGED) }, TAGGED, Edit::Keep),
    ];
    // It cuts what is longer than the MTU itself, where the bridge allows for a tag.
    let mtu = 1500 + 14;
    for (len, gso, fits) in [(mtu, false, true), (mtu + 1, false, false), (mtu + 4, false, false), (9000, true, true)] {
        let long = Frame { len, gso, ..FRAME };
        let bed = bed(v4).with(|bed| bed.port_mut(THERE).max_len = 1518);
        cases.push(if fits {
            fast("fits", bed, long, 0, Edit::Keep)
        } else {
            slow("longer than the MTU", bed, long, Some(0), Reason::Mtu)
        });
    }
    check(&cases);
}

/// A policy on the way out that redirected frames would not meet has a name of its own.
#[test]
fn policy_on_the_way_out() {
    let bed = |flags: u32| Bed::unaware().with(|bed| bed.port_mut(THERE).flags = flags);
    check(&[
        slow("policy", bed(port_flags::EGRESS_POLICY), FRAME, Some(0), Reason::EgressPolicy),
        slow("no egress", bed(0), FRAME, Some(0), Reason::EgressPort),
    ]);
}
