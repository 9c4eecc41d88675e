//! Type information of a kernel and of a module, whole or damaged: an answer or an error, in bounded time.

use super::{Btf, format::Section};

/// What is asked for: as the daemon does, and members of what the seeds contain.
const QUESTIONS: [(&str, &[&str]); 6] = [
    ("net_bridge_fdb_entry", &["key", "addr"]),
    ("net_bridge_fdb_entry", &["key", "vlan_id"]),
    ("net_device", &["nd_net", "net"]),
    ("entry", &["key", "vlan"]),
    ("entry", &["hi"]),
    ("entry", &[]),
];

/// Reads the kernel's BTF and a module's: the length of the first in four bytes, little endian, then both.
pub fn read(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
    let (base, split) = rest.split_at(length);
    let Ok(base) = Section::parse(base.to_vec(), 1, 0) else { return };
    assert_eq!(base.records().count(), usize::try_from(base.end_id() - 1).unwrap_or(usize::MAX), "a type is lost");
    let split = Section::parse(split.to_vec(), base.end_id(), base.end_string()).ok();
    let btf = Btf { base, split };
    for (structure, path) in QUESTIONS {
        match btf.member_offset(structure, path) {
            Ok(offset) => assert!(!path.is_empty() || offset == 0),
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    for name in ["net_device", "entry", "BR_FDB_LOCAL", "RED"] {
        drop(btf.size(name));
        if let Ok(constants) = btf.enumeration(name) {
            assert!(constants.contains_key(name), "{constants:?}");
        }
    }
}
