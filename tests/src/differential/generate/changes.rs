//! Changes of the configuration while frames flow.

use super::{Draft, Step};
use crate::{differential::universe::port_address, frame::mac};

impl Draft {
    /// One change, of any kind.
    pub(super) fn change(&mut self) {
        match self.dice.below(100) {
            0..=18 => self.change_option(),
            40..=54 if self.aware => self.change_vlan(),
            55..=64 => self.change_link(),
            65..=74 => self.change_bridge(),
            75..=80 if self.can.vlans => self.change_filtering(),
            36..=39 | 81..=84 => self.change_state(),
            85..=89 => self.change_carrier(),
            90..=93 => self.rejoin(),
            94 => {
                let kill = self.dice.chance(50);
                self.steps.push(Step::Restart(kill));
            }
            95 if self.dice.chance(30) => self.age(),
            _ => self.change_entries(),
        }
    }

    fn ip(&mut self, line: String) {
        self.steps.push(Step::Ip(vec![line]));
    }

    fn change_option(&mut self) {
        let place = self.port();
        let mut line = self.option(place);
        if self.dice.chance(40) {
            line = match line.strip_suffix(" on") {
                Some(start) => format!("{start} off"),
                None => line.strip_suffix(" off").map(|start| format!("{start} on")).unwrap_or(line),
            };
        }
        self.ip(line);
    }

    fn change_entries(&mut self) {
        let place = self.port();
        let port = self.ports[place].name;
        let host = *self.dice.pick(&self.ports[place].hosts.clone());
        match self.dice.below(8) {
            0..=3 => {
                let vlan = self.entry_vlan(place);
                self.steps.push(Step::Fdb(vec![format!("fdb del {} dev {port} master{vlan}", mac(host))]));
            }
            4 => self.ip("link set dev br0 type bridge fdb_flush".to_owned()),
            5 => self.ip(format!("link set dev {port} type bridge_slave fdb_flush")),
            _ => {
                let line = self.entry_line();
                self.steps.push(Step::Bridge(vec![line]));
            }
        }
    }

    fn change_vlan(&mut self) {
        let place = self.port();
        let port = self.ports[place].name;
        let vids = self.ports[place].vids.clone();
        let line = match self.dice.below(10) {
            0..=3 if !vids.is_empty() => {
                let vid = *self.dice.pick(&vids);
                self.ports[place].vids.retain(|other| *other != vid);
                format!("vlan del dev {port} vid {vid}")
            }
            4..=6 if !vids.is_empty() => {
                let state = *self.dice.pick(&["blocking", "disabled", "learning", "listening", "forwarding"]);
                format!("vlan set dev {port} vid {} state {state}", self.dice.pick(&vids))
            }
            _ => self.vlan_line(place),
        };
        self.steps.push(Step::Bridge(vec![line]));
    }

    fn change_link(&mut self) {
        let place = self.port();
        let port = self.ports[place].name;
        match self.dice.below(4) {
            0 => {
                let mtu = *self.dice.pick(&[1280, 1400, 1500, 1600]);
                self.ports[place].mtu = mtu;
                self.ip(format!("link set dev {port} mtu {mtu}"));
            }
            1 => {
                // A port's own address becomes that of a host, or is its own again.
                let host = self.ports[place].hosts.first().map(|host| mac(*host));
                let address = if self.dice.chance(50) { host } else { None };
                let address = address.unwrap_or_else(|| port_address(port));
                self.ip(format!("link set dev {port} address {address}"));
            }
            2 => self.ip(format!("link set dev {port} down")),
            _ => {
                self.steps.push(Step::Ip(vec![format!("link set dev {port} down"), format!("link set dev {port} up")]));
                self.steps.push(Step::Await(vec![format!("{port} forwarding")]));
            }
        }
    }

    fn change_bridge(&mut self) {
        let host = self.ports[0].hosts[0];
        let line = match self.dice.below(11) {
            0 | 9 | 10 => "link set dev br0 promisc on".to_owned(),
            1 => "link set dev br0 promisc off".to_owned(),
            2 => "link set dev br0 down".to_owned(),
            3 => "link set dev br0 up".to_owned(),
            4 => format!("link set dev br0 address {}", mac(host)),
            5 => "link set dev br0 address 02:aa:00:00:01:09".to_owned(),
            6 => {
                self.forgetful = true;
                self.ip("link set dev br0 type bridge ageing_time 0".to_owned());
                return self.steps.push(Step::Age);
            }
            7 => {
                self.forgetful = false;
                "link set dev br0 type bridge ageing_time 30000".to_owned()
            }
            _ => format!("link set dev br0 type bridge group_fwd_mask {}", self.dice.pick(&[0, 8, 0x4000])),
        };
        self.ip(line);
    }

    fn change_filtering(&mut self) {
        let line = match self.dice.below(6) {
            0..=2 => {
                self.aware = !self.aware;
                format!("link set dev br0 type bridge vlan_filtering {}", u8::from(self.aware))
            }
            3 | 4 => {
                self.ad = !self.ad;
                let protocol = if self.ad { "802.1ad" } else { "802.1Q" };
                format!("link set dev br0 type bridge vlan_protocol {protocol}")
            }
            _ => format!("link set dev br0 type bridge vlan_default_pvid {}", self.dice.pick(&[0, 1, 10, 20])),
        };
        self.ip(line);
    }

    fn change_state(&mut self) {
        let place = self.port();
        let state = self.dice.below(5);
        self.steps.push(Step::Bridge(vec![format!("link set dev {} state {state}", self.ports[place].name)]));
    }

    fn change_carrier(&mut self) {
        let place = self.port();
        let port = self.ports[place].name;
        if port.starts_with('t') {
            return self.change_option();
        }
        self.steps.push(Step::Far(vec![format!("link set dev f{port} down")]));
        self.steps.push(Step::Await(vec![format!("{port} disabled")]));
        if self.dice.chance(60) {
            self.traffic(6);
            self.steps.push(Step::Far(vec![format!("link set dev f{port} up")]));
            self.steps.push(Step::Await(vec![format!("{port} forwarding")]));
        }
    }

    /// A port leaves its bridge, and may come back, to the same bridge or to the other one.
    fn rejoin(&mut self) {
        let place = self.port();
        let port = self.ports[place].name;
        self.ip(format!("link set dev {port} nomaster"));
        self.ports[place].vids.clear();
        if self.dice.chance(40) {
            self.traffic(6);
        }
        if self.second_bridge && self.dice.chance(40) {
            self.ports[place].bridge = "br1";
        }
        let bridge = self.ports[place].bridge;
        self.ip(format!("link set dev {port} master {bridge}"));
        if self.aware && bridge == "br0" {
            let line = self.vlan_line(place);
            self.steps.push(Step::Bridge(vec![line]));
        }
    }

    /// The bridge forgets everybody, after a second.
    fn age(&mut self) {
        self.ip("link set dev br0 type bridge ageing_time 100".to_owned());
        self.steps.push(Step::Age);
        self.ip("link set dev br0 type bridge ageing_time 30000".to_owned());
        self.forgetful = false;
    }
}
