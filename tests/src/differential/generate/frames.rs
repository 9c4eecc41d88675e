//! Frames: mostly what hosts send to each other, and everything that a bridge treats in another way.

use super::{Draft, VLANS};
use crate::{
    differential::{
        spec::{Body, Left, Spec},
        universe::VETHS,
    },
    frame::{BROADCAST, Mac, TPID_AD, TPID_Q, Tag},
};

/// Protocols between neighbours, and others that somebody may treat in a way of their own.
const TYPES: [u16; 22] = [
    0x0806, 0x8035, 0x888e, 0x88cc, 0x88e3, 0x8902, 0x8809, 0x88f7, 0x8863, 0x8864, 0x8847, 0x8848, 0x88e5, 0x22f3,
    0x893a, 0x9100, 0x9000, 0x0600, 0x05ff, 0x88b5, 0x6003, 0xffff,
];

impl Draft {
    /// Every host says in every VLAN of its port that it is there.
    pub(super) fn hello(&mut self) {
        let tpid = if self.ad { TPID_AD } else { TPID_Q };
        let mut frames = Vec::new();
        for port in &self.ports {
            for host in &port.hosts {
                let hello = |tags| Spec { tags, ..frame(port.name, *host, BROADCAST) };
                frames.push(hello(Vec::new()));
                let mut vids = port.vids.clone();
                vids.sort_unstable();
                vids.dedup();
                if self.aware {
                    frames.extend(vids.into_iter().map(|vid| hello(vec![Tag { tpid, tci: vid }])));
                }
            }
        }
        self.send(frames);
    }

    /// A step of so many frames.
    pub(super) fn traffic(&mut self, count: usize) {
        let frames = (0..count).map(|_| self.frame()).collect();
        self.send(frames);
    }

    fn frame(&mut self) -> Spec {
        let (from, to) = (self.port(), self.port());
        let src = *self.dice.pick(&self.ports[from].hosts.clone());
        let dst = *self.dice.pick(&self.ports[to].hosts.clone());
        let mut spec = frame(self.ports[from].name, src, dst);
        if self.dice.chance(15) {
            self.odd_addresses(&mut spec, from, to);
        }
        if self.dice.chance(3) {
            self.sent_by_the_bridge(&mut spec);
        }
        self.tags(&mut spec, from);
        spec.body = self.body();
        self.length(&mut spec, to);
        spec
    }

    fn odd_addresses(&mut self, spec: &mut Spec, from: usize, to: usize) {
        let low = u8::try_from(self.dice.below(16)).unwrap_or(0);
        let own = u8::try_from(self.dice.below(10)).unwrap_or(0);
        let bridge: Mac = [2, 0xaa, 0, 0, 1, 0];
        match self.dice.below(14) {
            0 | 1 => spec.dst = BROADCAST,
            2 => spec.dst = [2, 0xcc, 0, 0, 0, low],
            3 => spec.dst = [0x01, 0x80, 0xc2, 0, 0, low],
            4 => spec.dst = [0x01, 0x00, 0x5e, 1, 2, low],
            5 => spec.dst = [0x33, 0x33, 0, 0, 0, low],
            6 => spec.dst = bridge,
            7 => spec.dst = [2, 0xaa, 0, 0, 0, own],
            // A host that has moved, or somebody who says that he is another.
            8 | 9 => spec.src = *self.dice.pick(&self.ports[to].hosts.clone()),
            10 => spec.src = *self.dice.pick(&[[0; 6], BROADCAST, [0x01, 0x00, 0x5e, 0, 0, 1], [3, 0, 0, 0, 0, 1]]),
            11 => spec.src = *self.dice.pick(&[bridge, [2, 0xaa, 0, 0, 0, own]]),
            12 => spec.dst = spec.src,
            _ => {
                spec.src = [2, 0xdd, 0, 0, 0, low];
                spec.dst = self.ports[from].hosts[0];
            }
        }
    }

    fn sent_by_the_bridge(&mut self, spec: &mut Spec) {
        let upper = self.uppers.first().copied().filter(|_| self.dice.chance(60));
        upper.unwrap_or("br0").clone_into(&mut spec.from);
        spec.src = [2, 0xaa, 0, 0, 1, 0];
    }

    fn tags(&mut self, spec: &mut Spec, from: usize) {
        let own = if self.ad { TPID_AD } else { TPID_Q };
        let vids = self.ports[from].vids.clone();
        let roll = self.dice.below(100);
        if self.aware && roll < 45 && !vids.is_empty() {
            let vid = *self.dice.pick(&vids);
            spec.tags.push(Tag { tpid: own, tci: vid });
            if self.dice.chance(20) {
                let tag = self.tag();
                spec.tags.push(tag);
            }
        } else if roll > if self.aware { 80 } else { 60 } {
            for _ in 0..self.dice.between(1, 3) {
                let tag = self.tag();
                spec.tags.push(tag);
            }
        }
        if self.dice.chance(15)
            && let Some(tag) = spec.tags.first_mut()
        {
            tag.tci |= *self.dice.pick(&[0x1000, 0x2000, 0xa000, 0xf000]);
        }
        let veth = VETHS.contains(&spec.from.as_str());
        if self.can.metadata && veth && !spec.tags.is_empty() && self.dice.chance(25) {
            spec.meta = Some(spec.tags.remove(0));
        }
    }

    fn tag(&mut self) -> Tag {
        let tpid = if self.dice.chance(70) { TPID_Q } else { TPID_AD };
        let vid = if self.dice.chance(70) { *self.dice.pick(&VLANS) } else { *self.dice.pick(&[0, 0, 4095, 99]) };
        let priority = if self.dice.chance(25) { *self.dice.pick(&[0x1000, 0x6000, 0xe000]) } else { 0 };
        Tag { tpid, tci: priority | vid }
    }

    fn body(&mut self) -> Body {
        match self.dice.below(100) {
            0..=44 => Body::Raw(0x88b5),
            45..=59 => Body::Udp4,
            60..=66 => Body::Udp6,
            67..=72 => Body::Tcp4,
            73..=75 => Body::Tcp6,
            76..=87 => Body::Raw(*self.dice.pick(&TYPES)),
            88..=90 => Body::Raw(u16::try_from(self.dice.below(0x10000)).unwrap_or(0)),
            91..=93 => Body::Raw(u16::try_from(self.dice.below(0x600)).unwrap_or(0)),
            94..=96 => Body::Arp(u16::try_from(self.dice.between(1, 4)).unwrap_or(1)),
            _ => Body::Icmp6(u8::try_from(self.dice.between(128, 140)).unwrap_or(128)),
        }
    }

    fn length(&mut self, spec: &mut Spec, to: usize) {
        let mtu = self.ports[to].mtu;
        let transport = matches!(spec.body, Body::Udp4 | Body::Udp6 | Body::Tcp4 | Body::Tcp6);
        spec.len = match self.dice.below(100) {
            0..=59 => self.dice.between(60, 200),
            60..=74 => self.dice.between(14, 60),
            75..=84 => mtu + 14 + self.dice.below(12) - 2,
            85..=89 => self.dice.between(1000, 9000),
            _ => 120,
        };
        if transport && self.dice.chance(20) {
            spec.len = spec.len.max(120);
            spec.left = Left::Checksum;
            if self.dice.chance(50) {
                spec.len = self.dice.between(3000, 20_000);
                spec.left = Left::Segments(*self.dice.pick(&[500, 1000, 1400]));
            }
        }
    }
}

/// A plain frame of 60 bytes.
fn frame(from: &str, src: Mac, dst: Mac) -> Spec {
    Spec {
        from: from.to_owned(),
        src,
        dst,
        tags: Vec::new(),
        meta: None,
        body: Body::Raw(0x88b5),
        len: 60,
        left: Left::Nothing,
    }
}
