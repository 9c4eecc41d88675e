//! Legacy iptables, ip6tables and arptables, through the socket options that those tools use.
//!
//! Only tables that exist in the namespace are asked for: a request for another one would create it and register its hooks
//! (`xt_find_table_lock`), or load its module.

use std::{fs, io, os::fd::OwnedFd};

use super::{
    nft::hook,
    nl::malformed,
    sockopt::{self, i32_at, u16_at, u32_at},
};

/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `sizeof(struct ipt_get_entries)` before the entries, the same for all three.
const GET_ENTRIES: usize = 40;
/// `struct xt_entry_target`; the verdict of a standard target follows.
const TARGET: usize = 32;
/// The verdict that means accept: `-NF_ACCEPT - 1`.
const ACCEPT: i32 = -2;
/// How often a table that changes between two requests is read again.
const ATTEMPTS: usize = 8;

/// One of the three kinds of tables. Offsets are in bytes.
#[derive(Debug)]
pub(super) struct Kind {
    tool: &'static str,
    names: &'static str,
    domain: libc::c_int,
    level: libc::c_int,
    get_info: libc::c_int,
    /// Number of hooks: the arrays in `struct *_getinfo` have as many elements.
    hooks: usize,
    /// Those that forwarded frames pass, with their chains' names.
    forwarded: &'static [(u32, &'static str)],
    /// Offset of `target_offset` in the entry.
    target_offset: usize,
}

/// The kinds and where `br_netfilter` runs them; `get_entries` is always the option after `get_info`.
pub(super) const KINDS: [Kind; 3] = [
    Kind {
        tool: "iptables",
        names: "/proc/thread-self/net/ip_tables_names",
        domain: libc::AF_INET,
        level: libc::SOL_IP,
        get_info: 64,
        hooks: 5,
        forwarded: &IP_CHAINS,
        target_offset: 88,
    },
    Kind {
        tool: "ip6tables",
        names: "/proc/thread-self/net/ip6_tables_names",
        domain: libc::AF_INET6,
        level: libc::SOL_IPV6,
        get_info: 64,
        hooks: 5,
        forwarded: &IP_CHAINS,
        target_offset: 140,
    },
    Kind {
        tool: "arptables",
        names: "/proc/thread-self/net/arp_tables_names",
        domain: libc::AF_INET,
        level: libc::SOL_IP,
        get_info: 96,
        hooks: 3,
        forwarded: &[(hook::ARP_FORWARD, "FORWARD")],
        target_offset: 164,
    },
];

const IP_CHAINS: [(u32, &str); 3] =
    [(hook::PRE_ROUTING, "PREROUTING"), (hook::FORWARD, "FORWARD"), (hook::POST_ROUTING, "POSTROUTING")];

/// One kind of tables, with its socket.
pub(super) struct Tables {
    kind: &'static Kind,
    /// `None`: the kernel lacks the protocol, so that it has no tables either.
    socket: Option<OwnedFd>,
}

impl Tables {
    /// Opens the socket in this namespace.
    pub(super) fn open(kind: &'static Kind) -> io::Result<Self> {
        Ok(Self { kind, socket: sockopt::open(kind.domain)? })
    }

    /// Chains that forwarded frames pass and that hold rules or do not accept by default. To be called on a thread in the
    /// namespace of the socket.
    pub(super) fn policies(&self) -> io::Result<Vec<String>> {
        let Some(socket) = &self.socket else {
            return Ok(Vec::new());
        };
        let names = match fs::read_to_string(self.kind.names) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for name in names.lines().filter(|name| !name.is_empty()) {
            found.extend(self.table(socket, name)?);
        }
        Ok(found)
    }

    fn table(&self, socket: &OwnedFd, name: &str) -> io::Result<Vec<String>> {
        for _ in 0..ATTEMPTS {
            let mut info = vec![0; self.kind.info_size()];
            write_name(&mut info, name);
            sockopt::get(socket, self.kind.level, self.kind.get_info, &mut info)?;
            let info = Info::decode(self.kind, &info)?;

            let mut entries = vec![0; GET_ENTRIES + usize::try_from(info.size).unwrap_or_default()];
            write_name(&mut entries, name);
            entries[NAME..NAME + 4].copy_from_slice(&info.size.to_ne_bytes());
            match sockopt::get(socket, self.kind.level, self.kind.get_info + 1, &mut entries) {
                Ok(()) => return info.policies(self.kind, name, &entries[GET_ENTRIES..]),
                // get_entries: the table was replaced by one of another size in between.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "it changed each time while it was read"))
    }
}

impl Kind {
    /// `sizeof(struct *_getinfo)`.
    pub(super) fn info_size(&self) -> usize {
        NAME + 4 + self.hooks * 8 + 8
    }
}

fn write_name(buffer: &mut [u8], name: &str) {
    let length = name.len().min(NAME - 1);
    buffer[..length].copy_from_slice(&name.as_bytes()[..length]);
}

/// `struct ipt_getinfo`: where each chain begins and where its policy is, as offsets into the entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Info {
    valid_hooks: u32,
    begin: Vec<u32>,
    policy: Vec<u32>,
    size: u32,
}

impl Info {
    pub(super) fn decode(kind: &Kind, bytes: &[u8]) -> io::Result<Self> {
        let number = |index: usize| u32_at(bytes, NAME + 4 * index).ok_or_else(|| malformed("short table information"));
        let array = |from: usize| (from..from + kind.hooks).map(number).collect::<io::Result<Vec<_>>>();
        Ok(Self {
            valid_hooks: number(0)?,
            begin: array(1)?,
            policy: array(1 + kind.hooks)?,
            size: number(2 + 2 * kind.hooks)?,
        })
    }

    /// A built-in chain without rules begins with its policy; anything before the policy is a rule.
    pub(super) fn policies(&self, kind: &Kind, table: &str, entries: &[u8]) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for (number, chain) in kind.forwarded {
            let index = usize::try_from(*number).unwrap_or(usize::MAX);
            let (Some(begin), Some(policy)) = (self.begin.get(index), self.policy.get(index)) else {
                continue;
            };
            if self.valid_hooks & 1 << number == 0 {
                continue;
            }
            let verdict = verdict(kind, entries, *policy).ok_or_else(|| malformed("a chain without a policy"))?;
            if begin != policy {
                found.push(format!("{} table {table}, chain {chain}", kind.tool));
            } else if verdict != ACCEPT {
                found.push(format!("{} table {table}, chain {chain} (policy drop)", kind.tool));
            }
        }
        Ok(found)
    }
}

/// The verdict of the standard target of the entry at an offset.
fn verdict(kind: &Kind, entries: &[u8], offset: u32) -> Option<i32> {
    let entry = entries.get(usize::try_from(offset).ok()?..)?;
    i32_at(entry, usize::from(u16_at(entry, kind.target_offset)?) + TARGET)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of one size: a standard target each, with these verdicts.
    fn entries(kind: &Kind, verdicts: &[i32]) -> (Vec<u8>, u32) {
        let target = (kind.target_offset + 24).next_multiple_of(8);
        let size = target + TARGET + 8;
        let mut bytes = vec![0; size * verdicts.len()];
        for (entry, verdict) in bytes.chunks_mut(size).zip(verdicts) {
            entry[kind.target_offset..kind.target_offset + 2]
                .copy_from_slice(&u16::try_from(target).unwrap().to_ne_bytes());
            entry[target + TARGET..target + TARGET + 4].copy_from_slice(&verdict.to_ne_bytes());
        }
        (bytes, u32::try_from(size).unwrap())
    }

    #[test]
    fn a_table_with_built_in_chains_that_accept_is_no_policy() {
        for kind in &KINDS {
            let (bytes, size) = entries(kind, &[ACCEPT; 5]);
            let begin: Vec<_> = (0..5).map(|index| index * size).take(kind.hooks).collect();
            let info = Info { valid_hooks: 0x1f, policy: begin.clone(), begin, size: 5 * size };
            assert_eq!(info.policies(kind, "mangle", &bytes).unwrap(), [""; 0], "{kind:?}");
        }
    }

    #[test]
    fn rules_and_policies_of_forwarding_chains_are_named() {
        let kind = &KINDS[0];
        // INPUT: policy drop; FORWARD: one rule, accepts; OUTPUT: accepts.
        let (bytes, size) = entries(kind, &[-1, -1, ACCEPT, ACCEPT]);
        let info = Info {
            valid_hooks: 0b0_1110,
            begin: vec![u32::MAX, 0, size, 3 * size, u32::MAX],
            policy: vec![u32::MAX, 0, 2 * size, 3 * size, u32::MAX],
            size: 4 * size,
        };
        assert_eq!(info.policies(kind, "filter", &bytes).unwrap(), ["iptables table filter, chain FORWARD"]);
        let info = Info { begin: vec![0, 0, size, 0, 0], policy: vec![0, 0, size, 0, 0], ..info };
        assert_eq!(
            info.policies(kind, "filter", &bytes).unwrap(),
            ["iptables table filter, chain FORWARD (policy drop)"]
        );
    }

    #[test]
    fn information_has_the_size_of_the_kernels_structures_and_truncation_is_an_error() {
        assert_eq!(KINDS.each_ref().map(Kind::info_size), [84, 84, 68]);
        for kind in &KINDS {
            let bytes = vec![0; kind.info_size()];
            assert!(Info::decode(kind, &bytes).is_ok());
            assert!(Info::decode(kind, &bytes[..bytes.len() - 5]).is_err());
            let info = Info { valid_hooks: 0x1f, begin: vec![9; 5], policy: vec![u32::MAX; 5], size: 0 };
            assert!(info.policies(kind, "filter", &[0; 9]).is_err());
        }
    }
}
