//! The list of registered netfilter hooks, by nfnetlink's hook subsystem (`nft list hooks`).
//!
//! It shows, without changing anything, which legacy ebtables tables exist in this namespace, BPF programs in the IP hooks,
//! and functions of kernel modules that xbr does not know.

use std::io;

use super::{
    nft::{NFGENMSG, family, hook},
    nl::{Attributes, Netlink, push_attribute},
};

/// `NFNL_SUBSYS_HOOK` in the upper byte, `NFNL_MSG_HOOK_GET` in the lower one.
const NFNL_MSG_HOOK_GET: u16 = 12 << 8;
const NFNLA_HOOK_HOOKNUM: u16 = 1;
const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;
const NFNLA_HOOK_MODULE_NAME: u16 = 5;
const NFNLA_HOOK_CHAIN_INFO: u16 = 6;
const NFNLA_HOOK_INFO_DESC: u16 = 1;
const NFNLA_HOOK_INFO_TYPE: u16 = 2;
const NFNL_HOOK_TYPE_NFTABLES: u32 = 1;
const NFNL_HOOK_TYPE_BPF: u32 = 2;
const NFNLA_HOOK_BPF_ID: u16 = 1;

/// Functions in the bridge hooks whose rules the inventory reads elsewhere: nftables, ebtables and `br_netfilter`. Bridge
/// connection tracking (`nf_ct_bridge_*`) is none of them: a rule in any chain turns it on, and it merges fragments and
/// cuts them anew (`nf_ct_br_defrag4`).
const KNOWN: [&str; 4] = ["nft_do_chain", "ebt_do_table", "ebt_broute", "br_nf_"];

/// A registered hook function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    family: u8,
    number: u32,
    owner: Owner,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// A base chain of nftables.
    Nftables,
    /// A BPF program, by id.
    Bpf(u32),
    /// A function, and its module unless built in.
    Function(String, Option<String>),
    /// A function in a kernel that has no names for them.
    Nameless,
}

/// Reads the hooks of a family that forwarded frames pass. `None` where the kernel cannot list hooks.
///
/// The request may make the kernel load the module `nfnetlink_hook`, which registers nothing.
pub(super) fn read(netlink: &mut Netlink, family: u8) -> io::Result<Option<Vec<Hook>>> {
    let mut hooks = Vec::new();
    for number in hook::FORWARDED {
        let mut request = vec![family, 0, 0, 0];
        push_attribute(&mut request, NFNLA_HOOK_HOOKNUM, &number.to_be_bytes());
        match netlink.dump(NFNL_MSG_HOOK_GET, &request, Hook::decode) {
            Ok(found) => hooks.extend(found),
            // nfnetlink_rcv_msg: no such subsystem. nfnl_hook_entries_head: the family is not compiled in.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(hooks))
}

impl Hook {
    /// Decodes `nfnl_hook_dump_one`.
    pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Self>> {
        let attributes = Attributes::after(NFGENMSG, payload)?;
        let Some(number) = attributes.be32(NFNLA_HOOK_HOOKNUM).filter(|_| kind == NFNL_MSG_HOOK_GET) else {
            return Ok(None);
        };
        let info = attributes.nest(NFNLA_HOOK_CHAIN_INFO)?;
        let owner = match (info.be32(NFNLA_HOOK_INFO_TYPE), attributes.text(NFNLA_HOOK_FUNCTION_NAME)) {
            (Some(NFNL_HOOK_TYPE_NFTABLES), _) => Owner::Nftables,
            (Some(NFNL_HOOK_TYPE_BPF), _) => {
                Owner::Bpf(info.nest(NFNLA_HOOK_INFO_DESC)?.be32(NFNLA_HOOK_BPF_ID).unwrap_or_default())
            }
            (_, Some(function)) => Owner::Function(function, attributes.text(NFNLA_HOOK_MODULE_NAME)),
            (_, None) => Owner::Nameless,
        };
        Ok(Some(Self { family: payload[0], number, owner }))
    }

    /// The hook is, or without a name may be, this function at this hook number.
    pub(super) fn may_be(&self, function: &str, number: u32) -> bool {
        self.number == number
            && match &self.owner {
                Owner::Function(name, _) => name == function,
                Owner::Nameless => true,
                Owner::Nftables | Owner::Bpf(_) => false,
            }
    }

    /// Names a function in a bridge hook that no other part of the inventory answers for.
    pub(super) fn foreign(&self) -> Option<String> {
        match &self.owner {
            Owner::Function(name, module) if !KNOWN.iter().any(|known| name.starts_with(known)) => {
                let module = module.as_ref().map(|module| format!(" of kernel module {module}")).unwrap_or_default();
                Some(format!("netfilter hook function {name}{module} ({})", self.place()))
            }
            Owner::Bpf(_) => self.bpf(),
            Owner::Function(..) | Owner::Nftables | Owner::Nameless => None,
        }
    }

    /// Names a BPF program. Other functions in the IP hooks are the kernel's own: connection tracking, NAT and IPVS do
    /// nothing to a bridged packet that a rule or a service did not ask for, and rules are found by themselves.
    pub(super) fn bpf(&self) -> Option<String> {
        match self.owner {
            Owner::Bpf(id) => Some(format!("netfilter BPF program {id} ({})", self.place())),
            Owner::Function(..) | Owner::Nftables | Owner::Nameless => None,
        }
    }

    fn place(&self) -> String {
        let family = match self.family {
            family::BRIDGE => "bridge",
            family::IPV6 => "ip6",
            _ => "ip",
        };
        let hook = match self.number {
            hook::PRE_ROUTING => "prerouting",
            hook::FORWARD => "forward",
            _ => "postrouting",
        };
        format!("{family} {hook}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hook as `nfnl_hook_dump_one` lays it out.
    fn answer(function: &str, module: Option<&str>, info: Option<(u32, &[u8])>) -> Vec<u8> {
        let mut bytes = vec![family::BRIDGE, 0, 0, 0];
        if let Some(module) = module {
            push_attribute(&mut bytes, NFNLA_HOOK_MODULE_NAME, format!("{module}\0").as_bytes());
        }
        push_attribute(&mut bytes, NFNLA_HOOK_FUNCTION_NAME, format!("{function}\0").as_bytes());
        push_attribute(&mut bytes, NFNLA_HOOK_HOOKNUM, &hook::FORWARD.to_be_bytes());
        if let Some((kind, description)) = info {
            let mut nest = Vec::new();
            push_attribute(&mut nest, NFNLA_HOOK_INFO_DESC, description);
            push_attribute(&mut nest, NFNLA_HOOK_INFO_TYPE, &kind.to_be_bytes());
            push_attribute(&mut bytes, NFNLA_HOOK_CHAIN_INFO, &nest);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Hook {
        Hook::decode((NFNL_MSG_HOOK_GET, bytes)).unwrap().unwrap()
    }

    #[test]
    fn functions_of_unknown_modules_are_named() {
        let foreign = decode(&answer("filter_frame", Some("vendor"), None));
        assert_eq!(
            foreign.foreign().as_deref(),
            Some("netfilter hook function filter_frame of kernel module vendor (bridge forward)")
        );
        let ebtables = decode(&answer("ebt_do_table", Some("ebtables"), None));
        assert_eq!(ebtables.foreign(), None);
        assert!(ebtables.may_be("ebt_do_table", hook::FORWARD) && !ebtables.may_be("ebt_do_table", hook::PRE_ROUTING));
        assert!(!foreign.may_be("ebt_do_table", hook::FORWARD));
    }

    #[test]
    fn chains_and_programs_are_told_from_functions() {
        let chain = decode(&answer("nft_do_chain_bridge", Some("nf_tables"), Some((NFNL_HOOK_TYPE_NFTABLES, &[]))));
        assert_eq!((chain.foreign(), chain.bpf()), (None, None));
        let mut id = Vec::new();
        push_attribute(&mut id, NFNLA_HOOK_BPF_ID, &42_u32.to_be_bytes());
        let program = decode(&answer("nf_hook_run_bpf", None, Some((NFNL_HOOK_TYPE_BPF, &id))));
        assert_eq!(program.bpf().as_deref(), Some("netfilter BPF program 42 (bridge forward)"));
    }

    #[test]
    fn truncated_answers_do_not_panic() {
        let bytes = answer("f", Some("m"), Some((NFNL_HOOK_TYPE_BPF, &[8, 0, 1, 0, 0, 0, 0, 1])));
        for end in 0..bytes.len() {
            let _ = Hook::decode((NFNL_MSG_HOOK_GET, &bytes[..end]));
        }
    }
}
