//! Two tenants on one bridge.

use anyhow::Result;
use xbr_tests::{
    frame::{BROADCAST, Frame},
    net::{Guest, Kind, Net},
};

/// The tenants, by VLAN.
pub(crate) const TENANTS: [u16; 2] = [10, 20];

/// Somebody of a tenant.
pub(crate) struct Member {
    /// The machine.
    pub(crate) guest: Guest,
    /// The tenant's VLAN.
    pub(crate) tenant: u16,
    /// Whether it is beyond the uplink.
    pub(crate) outside: bool,
}

/// The whole lab.
pub(crate) struct Lab {
    /// The namespaces; `net.host` has the bridge br0.
    pub(crate) net: Net,
    /// The far end of the uplink, where all VLANs are seen with their tags.
    pub(crate) wire: Guest,
    /// Per tenant a container, a virtual machine's tap, and a host beyond the uplink, in the order of the tenants.
    pub(crate) members: Vec<Member>,
}

impl Lab {
    /// Builds it: br0 without a default PVID, the trunk eth0 with all tenants tagged, each guest's port untagged in its
    /// tenant's VLAN. All machines share one IP network, so nothing but the VLANs keeps the tenants apart.
    pub(crate) fn build() -> Result<Self> {
        let net = Net::lab()?;
        net.bridge("br0", "vlan_filtering 1 vlan_default_pvid 0")?;
        let wire = net.guest("wire", Kind::Wire)?;
        net.join(&wire, "br0")?;
        let mut members = Vec::new();
        for tenant in TENANTS {
            net.host.cmd(&format!("bridge vlan add dev eth0 vid {tenant}"))?;
            for (name, kind) in [("ct", Kind::Veth), ("vm", Kind::Tap)] {
                let guest = net.guest(&format!("{name}{tenant}"), kind)?;
                net.join(&guest, "br0")?;
                net.host.cmd(&format!("bridge vlan add dev {} vid {tenant} pvid untagged", guest.port))?;
                members.push(Member { guest, tenant, outside: false });
            }
            let guest = net.vlan_host(&format!("out{tenant}"), &wire, tenant)?;
            members.push(Member { guest, tenant, outside: true });
        }
        let lab = Self { net, wire, members };
        lab.greet()?;
        Ok(lab)
    }

    /// Every member sends a broadcast, so that the bridge knows where it is.
    pub(crate) fn greet(&self) -> Result<()> {
        for Member { guest, .. } in &self.members {
            guest.sender()?.send(&Frame::new(guest.mac, BROADCAST).bytes())?;
        }
        Ok(())
    }

    /// The member with this name.
    pub(crate) fn member(&self, name: &str) -> Result<&Guest> {
        let member = self.members.iter().find(|member| member.guest.name == name);
        member.map(|member| &member.guest).ok_or_else(|| anyhow::anyhow!("no member {name} in the lab"))
    }
}
