//! Programs in the tcx hooks of a device (kernel 6.6 and later), by `BPF_PROG_QUERY`.

use std::{collections::BTreeSet, ptr};

use aya::{
    programs::{
        ProgramError, SchedClassifier,
        tc::{TcAttachType, TcError},
    },
    sys::SyscallError,
};

use super::nft::Side;
use crate::model::IfIndex;

/// `BPF_PROG_QUERY`, `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// `BPF_MPROG_MAX`: no hook has more programs.
const MOST: usize = 64;

/// How often a query is repeated when a program goes away between the list and the look at it.
const ATTEMPTS: usize = 4;

/// Names the tcx programs of a device that are not xbr's own. None where the kernel has no tcx or the device is gone.
///
/// To be called on a thread in the namespace of the device: the kernel looks the device up in that of the caller.
pub(super) fn programs(
    (index, device): (IfIndex, &str),
    side: Side,
    own_programs: &BTreeSet<u32>,
) -> Result<Vec<String>, ProgramError> {
    // To be told of each program costs ten times as much, and hundreds of devices are asked about every second.
    if ids(index, side).is_some_and(|ids| ids.iter().all(|id| own_programs.contains(id))) {
        return Ok(Vec::new());
    }
    let hook = match side {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    };
    for attempt in 1.. {
        let error = match SchedClassifier::query_tcx(device, hook) {
            Ok((_, programs)) => {
                let foreign = programs.iter().filter(|program| !own_programs.contains(&program.id()));
                return Ok(foreign.map(|program| describe(program.id(), program.name_as_str())).collect());
            }
            Err(error) => error,
        };
        match number(&error) {
            // bpf_prog_query of a kernel before 6.6; tcx_prog_query of a device that is gone, and aya's own look-up of it.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENODEV | libc::ENXIO) => return Ok(Vec::new()),
            Some(libc::ENOENT) if attempt < ATTEMPTS => {}
            _ => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// The part of `union bpf_attr` that a query has.
#[repr(C)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    options: u32,
    attach_flags: u32,
    ids: *mut u32,
    count: u32,
    reserved: u32,
    /// Flags of the programs, ids and flags of the links, the revision: none of them is asked for.
    more: [u64; 4],
}

/// Ids of the programs in a hook of a device. `None`: the kernel does not say.
fn ids(index: IfIndex, side: Side) -> Option<Vec<u32>> {
    let mut ids = [0; MOST];
    let mut query = Query {
        ifindex: index,
        attach_type: if side == Side::Ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS },
        options: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr(),
        count: u32::try_from(ids.len()).ok()?,
        reserved: 0,
        more: [0; 4],
    };
    // SAFETY: `query` is as long as the kernel is told, and it writes no more than `count` numbers behind `ids`; both outlive
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, ptr::from_mut(&mut query), size_of::<Query>()) };
    let count = usize::try_from(query.count).ok().filter(|_| result == 0)?;
    ids.get(..count).map(<[u32]>::to_vec)
}

/// The error number behind an error of aya.
fn number(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(SyscallError { io_error, .. })
    | ProgramError::TcError(TcError::IoError(io_error))
    | ProgramError::IOError(io_error) = error
    {
        return io_error.raw_os_error();
    }
    None
}

fn describe(id: u32, name: Option<&str>) -> String {
    match name {
        Some(name) if !name.is_empty() => format!("tcx program {id} \"{name}\""),
        _ => format!("tcx program {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_number_is_found_behind_ayas_errors() {
        let io_error = std::io::Error::from_raw_os_error(libc::EINVAL);
        let error = ProgramError::from(SyscallError { call: "bpf_prog_query", io_error });
        assert_eq!(number(&error), Some(libc::EINVAL));
        assert_eq!(number(&ProgramError::NotLoaded), None);
    }

    #[test]
    fn a_program_without_a_name_has_its_id() {
        assert_eq!(describe(7, Some("")), "tcx program 7");
        assert_eq!(describe(7, Some("meter")), "tcx program 7 \"meter\"");
    }
}
