//! Legacy ebtables, through the socket options that `ebtables` uses.
//!
//! To ask for a table whose module is not loaded would load it (`find_inlist_lock`), so that is never done. To ask for one
//! whose module is there but which this namespace does not have yet creates it, empty (`find_inlist_lock_noload`). So a
//! table is only asked for when the list of hooks shows that it is registered here. A kernel that cannot list hooks
//! (`nfnetlink_hook` is missing, e.g. Debian's 6.1) is asked all the same: the module was loaded because somebody uses
//! ebtables, most often right here, and a new table accepts every frame.

use std::{io, os::fd::OwnedFd, ptr};

use super::{
    hooks::Hook,
    kernel::Kernel,
    nft::hook,
    nl::{malformed, text},
    sockopt::{self, i32_at, u32_at},
};

const EBT_SO_GET_INFO: libc::c_int = 128;
const EBT_SO_GET_ENTRIES: libc::c_int = 129;
/// `EBT_ACCEPT`.
const ACCEPT: i32 = -1;
/// `EBT_ENTRY_OR_ENTRIES`: set in the first word of a rule, not in that of a chain.
const RULE: u32 = 1;
/// `sizeof(struct ebt_entries)` and the offsets of its members.
const CHAIN: usize = 48;
const CHAIN_NAME: usize = 4;
const CHAIN_POLICY: usize = 40;
const CHAIN_RULES: usize = 44;
/// Offset of `next_offset` in `struct ebt_entry`.
const RULE_LENGTH: usize = 108;
/// `NF_BR_LOCAL_IN` and `NF_BR_LOCAL_OUT`: chains that forwarded frames do not pass.
const LOCAL: u32 = 1 << 1 | 1 << 3;
/// How often a table that changes between two requests is read again.
const ATTEMPTS: usize = 8;

/// A table, the module that brings it, and the hook that shows that it is registered.
const TABLES: [(&str, &str, &str, u32); 3] = [
    ("filter", "ebtable_filter", "ebt_do_table", hook::FORWARD),
    ("nat", "ebtable_nat", "ebt_do_table", hook::POST_ROUTING),
    ("broute", "ebtable_broute", "ebt_broute", hook::PRE_ROUTING),
];

/// `struct ebt_replace`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Replace {
    name: [u8; 32],
    valid_hooks: libc::c_uint,
    rules: libc::c_uint,
    size: libc::c_uint,
    chains: [*mut libc::c_void; 6],
    counters: libc::c_uint,
    counter_buffer: *mut libc::c_void,
    entries: *mut libc::c_void,
}

/// Chains that forwarded frames pass and that hold rules or do not accept by default. `hooks` are those of the bridge
/// family, `None` where the kernel cannot list them.
pub(super) fn policies(socket: &OwnedFd, kernel: &Kernel, hooks: Option<&[Hook]>) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (table, module, function, number) in TABLES {
        let registered = hooks.is_none_or(|hooks| hooks.iter().any(|hook| hook.may_be(function, number)));
        if kernel.has(module) && registered {
            found.extend(read(socket, table)?);
        }
    }
    Ok(found)
}

fn read(socket: &OwnedFd, table: &str) -> io::Result<Vec<String>> {
    for _ in 0..ATTEMPTS {
        let mut question = Replace::question(table);
        match get(socket, EBT_SO_GET_INFO, &mut question, 0) {
            Ok(()) => {}
            // The module was unloaded meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => break,
            Err(error) => return Err(error),
        }
        let size = usize::try_from(question.size).unwrap_or_default();
        let mut entries = vec![0_u8; size];
        question.entries = entries.as_mut_ptr().cast();
        match get(socket, EBT_SO_GET_ENTRIES, &mut question, size) {
            Ok(()) => return decode(table, question.valid_hooks, &entries),
            // copy_everything_to_user: the table was replaced by one of another size in between.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
        if size == 0 {
            break;
        }
    }
    Ok(vec![format!("ebtables table {table} (unreadable)")])
}

impl Replace {
    fn question(table: &str) -> Self {
        let mut name = [0; 32];
        name[..table.len()].copy_from_slice(table.as_bytes());
        Self {
            name,
            valid_hooks: 0,
            rules: 0,
            size: 0,
            chains: [ptr::null_mut(); 6],
            counters: 0,
            counter_buffer: ptr::null_mut(),
            entries: ptr::null_mut(),
        }
    }
}

/// Asks the kernel; `entries` is the size of the buffer that `question.entries` points to, which the length includes.
fn get(socket: &OwnedFd, option: libc::c_int, question: &mut Replace, entries: usize) -> io::Result<()> {
    let mut bytes = vec![0_u8; size_of::<Replace>() + entries];
    // SAFETY: `bytes` is at least as large as `Replace`, which is plain data; the pointer need not be aligned.
    unsafe { bytes.as_mut_ptr().cast::<Replace>().write_unaligned(*question) };
    sockopt::get(socket, libc::SOL_IP, option, &mut bytes)?;
    // SAFETY: as above.
    *question = unsafe { bytes.as_ptr().cast::<Replace>().read_unaligned() };
    Ok(())
}

/// Walks the entries: built-in chains come first, in the order of their hooks (`translate_table`), each with its rules.
pub(super) fn decode(table: &str, valid_hooks: u32, entries: &[u8]) -> io::Result<Vec<String>> {
    let mut hooks = (0..u32::BITS).map(|number| 1 << number).filter(|bit| valid_hooks & bit != 0);
    let mut found = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let number = |offset| u32_at(rest, offset).ok_or_else(|| malformed("a short ebtables entry"));
        let length = if number(0)? & RULE == 0 {
            let policy = i32_at(rest, CHAIN_POLICY).ok_or_else(|| malformed("a short ebtables chain"))?;
            let rules = number(CHAIN_RULES)?;
            // A chain of the user's own has no hook: it acts through the jumps that lead to it.
            if hooks.next().is_some_and(|hook| hook & LOCAL == 0) && (rules != 0 || policy != ACCEPT) {
                let name = text(&rest[CHAIN_NAME..CHAIN_POLICY - 4]);
                let policy = if policy == ACCEPT { "" } else { " (policy drop)" };
                found.push(format!("ebtables table {table}, chain {name}{policy}"));
            }
            CHAIN
        } else {
            usize::try_from(number(RULE_LENGTH)?).unwrap_or(usize::MAX)
        };
        if length == 0 {
            return Err(malformed("an empty ebtables entry"));
        }
        rest = rest.get(length..).ok_or_else(|| malformed("an ebtables entry that is too long"))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, policy: i32, rules: u32) -> Vec<u8> {
        let mut bytes = vec![0; CHAIN];
        bytes[CHAIN_NAME..CHAIN_NAME + name.len()].copy_from_slice(name.as_bytes());
        bytes[CHAIN_POLICY..CHAIN_RULES].copy_from_slice(&policy.to_ne_bytes());
        bytes[CHAIN_RULES..].copy_from_slice(&rules.to_ne_bytes());
        bytes
    }

    fn rule() -> Vec<u8> {
        let mut bytes = vec![0; 160];
        bytes[..4].copy_from_slice(&RULE.to_ne_bytes());
        bytes[RULE_LENGTH..RULE_LENGTH + 4].copy_from_slice(&160_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_chains_that_forwarded_frames_pass_count() {
        let filter = 1 << 1 | 1 << 2 | 1 << 3;
        let quiet = [chain("INPUT", -2, 1), rule(), chain("FORWARD", ACCEPT, 0), chain("OUTPUT", -2, 0)].concat();
        assert_eq!(decode("filter", filter, &quiet).unwrap(), [""; 0]);
        let own = [quiet, chain("mine", -4, 2), rule(), rule()].concat();
        assert_eq!(decode("filter", filter, &own).unwrap(), [""; 0]);
        let loud =
            [chain("INPUT", ACCEPT, 0), chain("FORWARD", ACCEPT, 1), rule(), chain("OUTPUT", ACCEPT, 0)].concat();
        assert_eq!(decode("filter", filter, &loud).unwrap(), ["ebtables table filter, chain FORWARD"]);
        assert_eq!(
            decode("broute", 1, &chain("BROUTING", -2, 0)).unwrap(),
            ["ebtables table broute, chain BROUTING (policy drop)"]
        );
    }

    #[test]
    fn a_table_that_is_not_registered_is_not_asked_for() {
        let socket = sockopt::open(libc::AF_INET).unwrap().unwrap();
        assert_eq!(policies(&socket, &Kernel::default(), Some(&[])).unwrap(), [""; 0]);
    }

    #[test]
    fn truncated_entries_are_errors() {
        let whole = [chain("FORWARD", ACCEPT, 1), rule()].concat();
        for end in 1..whole.len() {
            if end != CHAIN {
                assert!(decode("filter", 1 << 2, &whole[..end]).is_err(), "{end}");
            }
        }
        let mut endless = rule();
        endless[RULE_LENGTH..RULE_LENGTH + 4].fill(0);
        assert!(decode("filter", 0, &endless).is_err());
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_question_has_the_kernels_size() {
        assert_eq!(size_of::<Replace>(), 120);
    }
}
