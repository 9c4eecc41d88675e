//! The configuration that a scenario begins with.

use super::{Draft, Port, Step, VLANS, shuffled_ports};
use crate::differential::universe::{PATCH, host_address};

/// Ageing times in hundredths of a second; frames of a scenario take far less than the shortest but for 0.
const LONG: [u32; 3] = [30_000, 100_000, 6_000];

impl Draft {
    /// Bridges, ports, VLANs and entries.
    pub(super) fn configure(&mut self) {
        self.aware = self.can.vlans && self.dice.chance(75);
        self.ad = self.aware && self.dice.chance(25);
        self.second_bridge = self.dice.chance(15);
        let count = self.dice.between(2, 7);
        let names = shuffled_ports(&mut self.dice);
        let mut lines = self.bridges();
        for (place, name) in names.into_iter().take(count).enumerate() {
            let bridge = if self.second_bridge && place > 0 && self.dice.chance(40) { "br1" } else { "br0" };
            let mtu = if self.dice.chance(80) { 1500 } else { *self.dice.pick(&[1400, 1280, 1600, 2000]) };
            lines.push(format!("link set dev {name} mtu {mtu}"));
            lines.push(format!("link set dev {name} master {bridge}"));
            let hosts = (0..self.dice.between(1, 2)).map(|host| host_address(name, host)).collect();
            self.ports.push(Port { name, bridge, mtu, hosts, vids: Vec::new() });
        }
        if self.second_bridge && self.dice.chance(70) {
            lines.extend([
                format!("link set dev {} master br0", PATCH[0]),
                format!("link set dev {} master br1", PATCH[1]),
            ]);
        }
        for place in 0..self.ports.len() {
            for _ in 0..self.dice.below(3) {
                if self.dice.chance(45) {
                    let option = self.option(place);
                    lines.push(option);
                }
            }
        }
        self.steps.push(Step::Ip(lines));
        self.vlans();
        self.entries();
    }

    fn bridges(&mut self) -> Vec<String> {
        let mut words = "stp_state 0".to_owned();
        // A bridge with snooping sends reports of its own, in its own time: another bridge would learn from them.
        let snooping = self.dice.chance(20) && !self.second_bridge;
        words.push_str(if snooping { " mcast_snooping 1" } else { " mcast_snooping 0" });
        let ageing = *self.dice.pick(&LONG);
        self.forgetful = self.dice.chance(4);
        let ageing = if self.forgetful { 0 } else { ageing };
        words.push_str(" ageing_time ");
        words.push_str(&ageing.to_string());
        if self.dice.chance(10) {
            let mask = *self.dice.pick(&[" group_fwd_mask 8", " group_fwd_mask 16384", " group_fwd_mask 65528"]);
            words.push_str(mask);
        }
        if self.dice.chance(5) {
            words += " no_linklocal_learn 1";
        }
        if self.aware {
            let pvid = *self.dice.pick(&[1, 1, 0, 10]);
            let protocol = if self.ad { "802.1ad" } else { "802.1Q" };
            let filtering = format!(" vlan_filtering 1 vlan_default_pvid {pvid} vlan_protocol {protocol}");
            words.push_str(&filtering);
        }
        let mut lines = vec![
            format!("link add name br0 index 100 address 02:aa:00:00:01:00 type bridge {words}"),
            "link set dev br0 up".to_owned(),
        ];
        // Lines of their own: older kernels refuse them.
        if self.dice.chance(6) {
            lines.push(format!("link set dev br0 type bridge fdb_max_learned {}", self.dice.between(1, 5)));
        }
        if self.aware && self.dice.chance(3) {
            lines.push("link set dev br0 type bridge mst_enabled 1".to_owned());
        }
        if self.second_bridge {
            lines.push(
                "link add name br1 index 101 address 02:aa:00:00:01:01 type bridge stp_state 0 mcast_snooping 0"
                    .to_owned(),
            );
            lines.push("link set dev br1 up".to_owned());
        }
        lines
    }

    /// A line that gives a port an option.
    pub(super) fn option(&mut self, place: usize) -> String {
        let port = self.ports[place].name;
        let option = match self.dice.below(15) {
            0..=2 => "isolated on",
            3 => "hairpin on",
            4 => "learning off",
            5 => "flood off",
            6 => "mcast_flood off",
            7 => "bcast_flood off",
            8 => "locked on",
            9 => "neigh_suppress on",
            10 => "guard on",
            11 if self.aware => "vlan_tunnel on",
            12 => "group_fwd_mask 8",
            14 => "locked on mab on",
            13 => {
                let other = self.port();
                return format!("link set dev {port} type bridge_slave backup_port {}", self.ports[other].name);
            }
            _ => "proxy_arp on",
        };
        format!("link set dev {port} type bridge_slave {option}")
    }

    fn vlans(&mut self) {
        if !self.aware {
            return;
        }
        let mut lines = Vec::new();
        for place in 0..self.ports.len() {
            if self.ports[place].bridge != "br0" {
                continue;
            }
            if self.dice.chance(10) {
                self.ports[place].vids.push(1);
                continue;
            }
            lines.push(format!("vlan del dev {} vid 1", self.ports[place].name));
            for _ in 0..self.dice.between(1, 4) {
                let line = self.vlan_line(place);
                lines.push(line);
            }
        }
        if self.dice.chance(50) {
            for vid in [10, 20] {
                lines.push(format!("vlan add dev br0 vid {vid} self"));
            }
        }
        self.steps.push(Step::Bridge(lines));
        if self.can.vlan_devices && !self.ad && self.dice.chance(20) {
            self.steps.push(Step::Ip(vec![
                "link add link br0 name br0.10 index 110 type vlan id 10".to_owned(),
                "link set dev br0.10 up".to_owned(),
            ]));
            self.uppers.push("br0.10");
        }
    }

    /// A line that puts a port into a VLAN.
    pub(super) fn vlan_line(&mut self, place: usize) -> String {
        // Few VLANs for most ports, so that many of them can talk.
        let vid = if self.dice.chance(70) { *self.dice.pick(&[10, 20]) } else { *self.dice.pick(&VLANS) };
        let kind = match self.dice.below(10) {
            0..=4 => " pvid untagged",
            5 => " pvid",
            6 => " untagged",
            _ => "",
        };
        self.ports[place].vids.push(vid);
        format!("vlan add dev {} vid {vid}{kind}", self.ports[place].name)
    }

    /// Entries made by hand.
    fn entries(&mut self) {
        let mut lines = Vec::new();
        for _ in 0..self.dice.below(4) {
            let line = self.entry_line();
            lines.push(line);
        }
        if !lines.is_empty() {
            self.steps.push(Step::Bridge(lines));
        }
    }

    /// A line that makes or changes an entry.
    pub(super) fn entry_line(&mut self) -> String {
        const LASTING: [&str; 5] = ["static", "static", "static sticky", "extern_learn", "permanent"];
        let (owner, at) = (self.port(), self.port());
        let address = *self.dice.pick(&self.ports[owner].hosts.clone());
        let at = if self.dice.chance(70) { owner } else { at };
        let kinds: &[&str] =
            if self.forgetful { &LASTING } else { &["dynamic", "dynamic sticky", "dynamic", "static", "extern_learn"] };
        let lasting = self.dice.chance(50);
        let kind = *self.dice.pick(if lasting { &LASTING } else { kinds });
        let vlan = self.entry_vlan(at);
        let text = crate::frame::mac(address);
        format!("fdb replace {text} dev {} master {kind}{vlan}", self.ports[at].name)
    }

    /// ` vlan VID` for an entry on this port, or nothing.
    pub(super) fn entry_vlan(&mut self, place: usize) -> String {
        let vids = self.ports[place].vids.clone();
        if self.aware && !vids.is_empty() && self.dice.chance(90) {
            format!(" vlan {}", self.dice.pick(&vids))
        } else {
            String::new()
        }
    }
}
