//! Random small bridges and the frames that hit them: few ports, few VLANs, few addresses, so that look-ups succeed.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{
    dice::Dice,
    kernel::{Address, Bridge, Entry, Port, State, Vlan},
    tables::Numbers,
};

/// VLANs in use, at the edges of the bitmap's words.
const VIDS: [u16; 4] = [1, 63, 64, 4094];
/// Addresses of stations: two differ in the last bit only, the last ones look like multicast to a test of the wrong bit.
const STATIONS: [Address; 5] = [
    [0x02, 0, 0, 0, 0, 0x10],
    [0x02, 0, 0, 0, 0, 0x11],
    [0x02, 0, 0, 0, 0x10, 0],
    [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff],
    [0x00, 0x01, 0x01, 0x01, 0x01, 0x01],
];
/// Addresses that are no station's.
const SPECIAL: [Address; 8] = [
    [0; 6],
    [0xff; 6],
    [0x01, 0, 0x5e, 0, 0, 1],
    [0x33, 0x33, 0, 0, 0, 1],
    [0x01, 0x80, 0xc2, 0, 0, 0x00],
    [0x01, 0x80, 0xc2, 0, 0, 0x01],
    [0x01, 0x80, 0xc2, 0, 0, 0x0e],
    [0x03, 0, 0, 0, 0, 0x10],
];
/// Types and lengths at and around those that are treated apart.
const ODD_TYPES: [u16; 16] = [
    0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7, 0x0000, 0x0064, 0x05ff, 0x0600, 0x0801, 0x8100,
    0x88a8, 0x9100,
];

/// A bridge, the daemon's free choices, and each FDB entry's deadline.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) bridge: Bridge,
    pub(crate) numbers: Numbers,
    pub(crate) refresh_at: Vec<u64>,
}

/// A frame and where it comes in.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) port: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) gso: bool,
}

/// Any bridge of two to six ports, and frames for it.
pub(crate) fn scenario(frames: usize) -> impl Strategy<Value = (Scenario, Vec<Arrival>)> {
    (any::<u64>(), vec(any::<u128>(), 2..=6), vec(any::<u64>(), 4..=16), vec(any::<u128>(), frames)).prop_map(
        |(options, ports, entries, frames)| {
            let scenario = Scenario::draw(u128::from(options), &ports, &entries);
            let arrivals = frames.into_iter().map(|number| scenario.arrival(number)).collect();
            (scenario, arrivals)
        },
    )
}

fn state(dice: &mut Dice, sides: u16) -> State {
    if dice.one_in(sides) {
        dice.pick(&[State::Learning, State::Blocking, State::Listening, State::Disabled])
    } else {
        State::Forwarding
    }
}

fn port(number: u128, index: usize, count: usize) -> Port {
    let dice = &mut Dice::new(number);
    let (up, carrier) = (!dice.one_in(50), !dice.one_in(50));
    // br_port_carrier_check, br_stp_disable_port
    let state = if up && carrier { state(dice, 25) } else { State::Disabled };
    let mut vlans = Vec::new();
    for vid in VIDS {
        // Member and tagged, member and untagged, or no member.
        let kind = dice.roll(5);
        let vlan = Vlan { vid, state: self::state(dice, 30), untagged: kind > 1, tunnel: dice.one_in(2) };
        if kind < 4 {
            vlans.push(vlan);
        }
    }
    // One more than there are VLANs: no PVID.
    let pvid = usize::from(dice.roll(5)).min(vlans.len());
    let backup = dice.one_in(20).then(|| usize::from(dice.roll(6)) % count).filter(|backup| *backup != index);
    Port {
        state,
        up,
        carrier,
        mtu: usize::from(dice.pick(&[1500u16, 46, 50, 100])),
        pvid: vlans.get(pvid).map(|vlan| vlan.vid),
        vlans,
        learning: !dice.one_in(5),
        locked: dice.one_in(8),
        mab: dice.one_in(2),
        isolated: dice.one_in(3),
        hairpin: dice.one_in(8),
        flood: !dice.one_in(5),
        vlan_tunnel: dice.one_in(30),
        backup,
    }
}

fn entry(dice: &mut Dice, ports: u16) -> Entry {
    let port = usize::from(dice.roll(ports));
    let local = dice.one_in(15);
    Entry {
        port: (!local || dice.one_in(2)).then_some(port),
        local,
        is_static: local || dice.one_in(7),
        sticky: dice.one_in(8),
        locked: !local && dice.one_in(20),
    }
}

impl Scenario {
    /// The bridge that numbers stand for: one for its options, one for each port, one for each FDB entry.
    pub(crate) fn draw(options: u128, ports: &[u128], entries: &[u64]) -> Self {
        let dice = &mut Dice::new(options);
        let count = ports.len();
        let vlan_filtering = !dice.one_in(4);
        let mut fdb = BTreeMap::new();
        let mut refresh_at = Vec::new();
        for number in entries {
            let dice = &mut Dice::new(u128::from(*number));
            let address = dice.pick(&STATIONS);
            // Now and then an entry of the other mode, left there when filtering was toggled.
            let vid = if vlan_filtering == dice.one_in(10) { 0 } else { dice.pick(&VIDS) };
            fdb.insert((address, vid), entry(dice, u16::try_from(count).expect("few ports")));
            refresh_at.push(u64::from(dice.pick(&[2u16, 2, 2, 1, 0])));
        }
        let bridge = Bridge {
            vlan_filtering,
            vlan_proto: dice.pick(&[0x8100, 0x88a8]),
            ages: !dice.one_in(10),
            promisc: dice.one_in(30),
            mst: dice.one_in(30),
            stp: dice.one_in(3),
            ports: ports.iter().enumerate().map(|(index, number)| port(*number, index, count)).collect(),
            fdb,
        };
        let numbers = Numbers {
            first_slot: 1 + dice.roll(3),
            fid_base: dice.roll(16) * 4096,
            refresh_interval: u64::from(dice.pick(&[10u16, 10, 10, 0])),
            now: 1,
        };
        Self { bridge, numbers, refresh_at }
    }

    /// A frame of at least 14 bytes, 20 with a tag, and up to a little over the larger of the small MTUs.
    pub(crate) fn arrival(&self, number: u128) -> Arrival {
        let dice = &mut Dice::new(number);
        let bridge = &self.bridge;
        // Most frames go from one station to another, in the VLAN that the bridge knows both in, from the right port.
        let entries: Vec<_> = bridge.fdb.iter().collect();
        let ((source, vid), entry) = entries[usize::from(dice.roll(16)) % entries.len()];
        let mut peers: Vec<_> = entries.iter().filter(|((_, other), _)| other == vid).collect();
        if peers.iter().any(|(_, peer)| peer.port != entry.port) && !dice.one_in(12) {
            peers.retain(|(_, peer)| peer.port != entry.port);
        }
        let (mut src, mut dst) = (*source, peers[usize::from(dice.roll(16)) % peers.len()].0.0);
        let mut port = entry.port.unwrap_or(0);
        let mut tag = Some((bridge.vlan_proto, *vid));
        if bridge.ports[port].pvid == Some(*vid) || !bridge.vlan_filtering {
            tag = dice.pick(&[None, tag, Some((bridge.vlan_proto, 0))]);
        }
        // The others differ from that in one way or several.
        if dice.one_in(6) {
            port = usize::from(dice.roll(6)) % bridge.ports.len();
        }
        if dice.one_in(8) {
            src = if dice.one_in(3) { dice.pick(&SPECIAL) } else { dice.pick(&STATIONS) };
        }
        if dice.one_in(8) {
            dst = if dice.one_in(2) { dice.pick(&SPECIAL) } else { dice.pick(&STATIONS) };
        }
        if dice.one_in(6) {
            tag = dice.one_in(4).then(|| (dice.pick(&[0x8100, 0x88a8]), dice.pick(&[0, 1, 63, 64, 4094, 4095, 2])));
        }
        let mut bytes = [dst, src].concat();
        if let Some((tpid, vid)) = tag {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend((dice.roll(16) << 12 | vid).to_be_bytes());
        }
        let mut ethertype = dice.pick(&[0x0800u16, 0x0800, 0x0800, 0x86dd]);
        if dice.one_in(8) {
            ethertype = dice.pick(&ODD_TYPES);
        }
        // An inner tag protocol with little or nothing behind it.
        let lone_tag = dice.one_in(20);
        if lone_tag {
            ethertype = dice.pick(&[0x8100, 0x88a8]);
        }
        bytes.extend(ethertype.to_be_bytes());
        let l3 = bytes.len();
        let length = match dice.roll(4) {
            _ if lone_tag => dice.roll(8),
            0 => 20 + dice.roll(20),
            // Around the small MTUs, with and without the four bytes of grace.
            1 => 44 + dice.roll(12),
            2 => 98 + dice.roll(12),
            _ => dice.roll(8),
        };
        bytes.resize(l3 + usize::from(length), u8::try_from(dice.roll(256)).expect("a byte"));
        if ethertype == 0x86dd && length > 40 && dice.one_in(2) {
            bytes[l3 + 6] = 58;
            bytes[l3 + 40] = u8::try_from(132 + dice.roll(7)).expect("a byte");
        }
        if l3 > 14 || matches!(ethertype, 0x8100 | 0x88a8) {
            bytes.resize(bytes.len().max(20), 0);
        }
        Arrival { port, bytes, gso: dice.one_in(8) }
    }
}
