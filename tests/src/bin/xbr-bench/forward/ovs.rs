//! The Open vSwitch kernel datapath in place of the bridge.

use anyhow::Result;
use xbr_tests::{frame::mac, ovs::Datapath};

use super::{
    case::Vlans,
    stage::{IN, SOURCE, Stage, VLAN, out, target},
};

impl Stage {
    /// Moves the ports from the bridge to a datapath, with the flows that its daemon would make for the action `NORMAL`.
    pub(super) fn ovs(&self) -> Result<()> {
        let ports: Vec<String> = std::iter::once(IN.to_owned()).chain((0..self.outs()).map(out)).collect();
        let free: Vec<String> = ports.iter().map(|port| format!("link set {port} nomaster")).collect();
        self.host().batch("ip", &free)?;
        let path = Datapath::new(self.host(), &ports)?;
        for number in 0..self.outs() {
            let port = number + 2;
            for (from, src, to, dst) in [(1, SOURCE, port, target(number)), (port, target(number), 1, SOURCE)] {
                let (packet, actions) = self.tags(from == 1, to);
                let matches = format!("in_port({from}),eth(src={},dst={}),{packet}", mac(src), mac(dst));
                path.flow(&matches, &actions)?;
            }
        }
        Ok(())
    }

    /// What a flow asks of the frame behind its addresses, and what it does, on the way out to the target or back.
    fn tags(&self, out: bool, to: u32) -> (String, String) {
        let packet = "eth_type(0x0800),ipv4(frag=no)";
        let vlans = self.work.vlans();
        // Which of the two ends has the tag.
        let (comes_tagged, leaves_tagged) = match vlans {
            Vlans::Push => (!out, out),
            Vlans::Pop => (out, !out),
            Vlans::None | Vlans::Access | Vlans::Many(_) => (false, false),
        };
        let matches = if comes_tagged {
            format!("eth_type(0x8100),vlan(vid={VLAN},pcp=0),encap({packet})")
        } else {
            packet.to_owned()
        };
        let edit = match (comes_tagged, leaves_tagged) {
            (true, false) => "pop_vlan,".to_owned(),
            (false, true) => format!("push_vlan(vid={VLAN},pcp=0),"),
            _ => String::new(),
        };
        (matches, format!("{edit}{to}"))
    }
}
