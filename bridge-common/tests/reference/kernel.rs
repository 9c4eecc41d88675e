//! What the kernel does with one frame, step by step, in bytes: net/bridge of Linux 6.12 (6.1 differs only in MAB).
//!
//! Written from the kernel's source and not from `bridge_common::decide`, so that the two can disagree. Left out because no
//! port of the scenarios has it: netfilter, switchdev, multicast snooping, proxy ARP and neighbour suppression, MRP, CFM.

use std::collections::BTreeMap;

pub(crate) use super::skb::Address;
use super::skb::{ETH_HLEN, Skb, VLAN_HLEN, is_multicast, is_tag_protocol};

/// `BR_STATE_*`, of a port or of one VLAN on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Disabled,
    Listening,
    Learning,
    Forwarding,
    Blocking,
}

/// `struct net_bridge_vlan` of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vlan {
    pub(crate) vid: u16,
    pub(crate) state: State,
    pub(crate) untagged: bool,
    /// Mapped to a tunnel id.
    pub(crate) tunnel: bool,
}

/// `struct net_bridge_port` and its device.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the kernel's port flags one to one")]
pub(crate) struct Port {
    pub(crate) state: State,
    /// `IFF_UP`.
    pub(crate) up: bool,
    pub(crate) carrier: bool,
    /// In bytes, without the Ethernet header.
    pub(crate) mtu: usize,
    pub(crate) vlans: Vec<Vlan>,
    /// One of `vlans`, as `__vlan_add_pvid` guarantees.
    pub(crate) pvid: Option<u16>,
    pub(crate) learning: bool,
    pub(crate) locked: bool,
    pub(crate) mab: bool,
    pub(crate) isolated: bool,
    pub(crate) hairpin: bool,
    /// Floods unknown unicast, multicast and broadcast.
    pub(crate) flood: bool,
    pub(crate) vlan_tunnel: bool,
    /// Index of the port that takes over when this one has no carrier.
    pub(crate) backup: Option<usize>,
}

impl Port {
    /// `br_vlan_find`; a port's VLAN is always `br_vlan_should_use`.
    fn vlan(&self, vid: u16) -> Option<&Vlan> {
        self.vlans.iter().find(|vlan| vlan.vid == vid)
    }
}

/// `struct net_bridge_fdb_entry`.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the kernel's entry flags one to one")]
pub(crate) struct Entry {
    /// Index of the port; `None` is the bridge itself.
    pub(crate) port: Option<usize>,
    pub(crate) local: bool,
    pub(crate) is_static: bool,
    pub(crate) sticky: bool,
    pub(crate) locked: bool,
}

/// `struct net_bridge` and its device.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the kernel's bridge options one to one")]
pub(crate) struct Bridge {
    pub(crate) vlan_filtering: bool,
    /// `vlan_protocol`, host order.
    pub(crate) vlan_proto: u16,
    /// `hold_time` is not 0.
    pub(crate) ages: bool,
    /// `IFF_PROMISC` of the bridge device.
    pub(crate) promisc: bool,
    pub(crate) mst: bool,
    pub(crate) stp: bool,
    pub(crate) ports: Vec<Port>,
    pub(crate) fdb: BTreeMap<(Address, u16), Entry>,
}

/// What `br_fdb_update` did with the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FdbChange {
    None,
    /// The timestamp, if it ages.
    Refreshed,
    Learnt,
    Moved,
}

/// A frame on its way out of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) port: usize,
    pub(crate) bytes: Vec<u8>,
    /// With tunnel metadata beside it.
    pub(crate) tunnel: bool,
}

/// All that happened.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) deliveries: Vec<Delivery>,
    /// `br_pass_frame_up` was called (the bridge's own VLAN filter may still drop it there).
    pub(crate) up_to_bridge: bool,
    /// The frame went to the port device's own sockets.
    pub(crate) up_to_port: bool,
    /// The destination was in the FDB.
    pub(crate) known: bool,
    pub(crate) fdb: FdbChange,
}

impl Bridge {
    /// A frame in `bytes`, as on the wire, comes in at a port.
    pub(crate) fn receive(&self, in_port: usize, bytes: &[u8], gso: bool) -> Outcome {
        let mut outcome = Outcome {
            deliveries: Vec::new(),
            up_to_bridge: false,
            up_to_port: false,
            known: false,
            fdb: FdbChange::None,
        };
        if self.ports[in_port].up && bytes.len() >= ETH_HLEN {
            let skb =
                Skb { tag: None, bytes: bytes.to_vec(), gso, vlan_filtered: false, src_port_isolated: false, in_port };
            // __netif_receive_skb_core
            let skb = if is_tag_protocol(skb.protocol()) { skb.untag() } else { Some(skb) };
            if let Some(skb) = skb {
                self.handle_frame(skb, &mut outcome);
            }
        }
        outcome
    }

    /// `br_handle_frame`. `br_handle_ingress_vlan_tunnel` needs metadata, which a frame from a wire has not.
    fn handle_frame(&self, skb: Skb, outcome: &mut Outcome) {
        let port = &self.ports[skb.in_port];
        let dest = skb.dest();
        if is_multicast(skb.source()) || skb.source() == [0; 6] {
            return;
        }
        if dest[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && dest[5] & 0xf0 == 0 {
            match dest[5] {
                0x00 if !self.stp => {}
                0x01 => return,
                // group_fwd_mask is 0. Whether the source is learnt here is no matter: nothing is delivered.
                _ => {
                    outcome.up_to_port = true;
                    return;
                }
            }
        }
        if self.mst || matches!(port.state, State::Forwarding | State::Learning) {
            self.handle_frame_finish(skb, outcome);
        }
    }

    /// `br_handle_frame_finish`.
    fn handle_frame_finish(&self, mut skb: Skb, outcome: &mut Outcome) {
        let port = &self.ports[skb.in_port];
        let mut state = if self.mst { State::Forwarding } else { port.state };
        let mut vid = 0;
        if self.vlan_filtering {
            match self.allowed_ingress(port, &mut skb, &mut state) {
                Some(allowed) => vid = allowed,
                None => return,
            }
        }
        if port.locked {
            match self.fdb.get(&(skb.source(), vid)) {
                None => {
                    if port.mab {
                        outcome.fdb = self.fdb_update(skb.in_port, skb.source(), vid);
                    }
                    return;
                }
                Some(entry) if entry.port != Some(skb.in_port) || entry.local => return,
                Some(entry) if entry.locked => {
                    outcome.fdb = self.fdb_update(skb.in_port, skb.source(), vid);
                    return;
                }
                Some(_) => {}
            }
        }
        if port.learning {
            outcome.fdb = self.fdb_update(skb.in_port, skb.source(), vid);
        }
        let multicast = is_multicast(skb.dest());
        // Snooping is off: every multicast is for the bridge, too.
        let local_rcv = self.promisc || multicast;
        if state == State::Learning {
            return;
        }
        skb.src_port_isolated = port.isolated;
        let dst = if multicast { None } else { self.fdb.get(&(skb.dest(), vid)) };
        match dst {
            Some(entry) => {
                outcome.known = true;
                if entry.local {
                    outcome.up_to_bridge = true;
                    return;
                }
                if let Some(to) = entry.port {
                    self.forward(to, &skb, outcome);
                }
            }
            None => {
                // br_flood
                for (to, egress) in self.ports.iter().enumerate() {
                    if egress.flood && self.should_deliver(to, &skb) {
                        self.forward_finish(to, skb.clone(), outcome);
                    }
                }
            }
        }
        outcome.up_to_bridge |= local_rcv;
    }

    /// `__allowed_ingress`: the VLAN id, or `None` for a drop.
    fn allowed_ingress(&self, port: &Port, skb: &mut Skb, state: &mut State) -> Option<u16> {
        skb.vlan_filtered = true;
        let mut vid = skb.vid();
        let mut tagged = false;
        if let Some((proto, _)) = skb.tag {
            if proto == self.vlan_proto {
                tagged = true;
            } else {
                skb.insert_tag();
                vid = 0;
            }
        }
        if vid == 0 {
            // br_get_pvid
            vid = port.pvid?;
            let tci = if tagged { skb.tag.map_or(0, |(_, tci)| tci) | vid } else { vid };
            skb.tag = Some((self.vlan_proto, tci));
        }
        let vlan = port.vlan(vid)?;
        if *state == State::Forwarding {
            *state = vlan.state;
            // br_vlan_state_allowed(state, true)
            if !matches!(vlan.state, State::Learning | State::Forwarding) {
                return None;
            }
        }
        Some(vid)
    }

    /// `br_fdb_update`. The scenario's FDB stays as it is: one frame is one question.
    fn fdb_update(&self, source: usize, address: Address, vid: u16) -> FdbChange {
        if !self.ages {
            return FdbChange::None;
        }
        match self.fdb.get(&(address, vid)) {
            None => FdbChange::Learnt,
            Some(entry) if entry.local => FdbChange::None,
            Some(entry) if entry.port != Some(source) && !entry.sticky => FdbChange::Moved,
            Some(_) => FdbChange::Refreshed,
        }
    }

    /// `br_forward`.
    fn forward(&self, to: usize, skb: &Skb, outcome: &mut Outcome) {
        let port = &self.ports[to];
        let to = match port.backup {
            Some(backup) if !port.carrier || !port.up => backup,
            _ => to,
        };
        if self.should_deliver(to, skb) {
            self.forward_finish(to, skb.clone(), outcome);
        }
    }

    /// `should_deliver`.
    fn should_deliver(&self, to: usize, skb: &Skb) -> bool {
        let port = &self.ports[to];
        (port.hairpin || to != skb.in_port)
            && (self.mst || port.state == State::Forwarding)
            // br_allowed_egress
            && (!skb.vlan_filtered || port.vlan(skb.vid()).is_some_and(|vlan| vlan.state == State::Forwarding))
            // br_skb_isolated
            && !(skb.src_port_isolated && port.isolated)
    }

    /// `__br_forward`, `br_handle_vlan`, `br_dev_queue_push_xmit`, `dev_queue_xmit`.
    fn forward_finish(&self, to: usize, mut skb: Skb, outcome: &mut Outcome) {
        let port = &self.ports[to];
        let mut tunnel = false;
        if skb.vlan_filtered {
            let Some(vlan) = port.vlan(skb.vid()) else { return };
            if vlan.untagged {
                skb.tag = None;
            }
            // br_handle_egress_vlan_tunnel
            if port.vlan_tunnel && vlan.tunnel && skb.tag.is_some() {
                skb.tag = None;
                tunnel = true;
            }
        }
        // is_skb_forwardable; a device without carrier has the noop qdisc.
        if !port.up || !port.carrier || (skb.bytes.len() > port.mtu + ETH_HLEN + VLAN_HLEN && !skb.gso) {
            return;
        }
        skb.insert_tag();
        outcome.deliveries.push(Delivery { port: to, bytes: skb.bytes, tunnel });
    }
}
