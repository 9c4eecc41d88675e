//! Dumps of tc as the kernel, or nobody, would send them: only xbr's own filters on the device asked about are taken.

use super::{OWN_NAME, RTM_NEWQDISC, RTM_NEWTFILTER, TcHandle, own_filter, rtnl, split};

/// Reads a datagram as the answer to both dumps. The request is taken for that of the first message.
pub fn read(datagram: &[u8]) {
    let sequence = datagram.get(8..12).and_then(<[u8]>::first_chunk).map_or(0, |raw| u32::from_ne_bytes(*raw));
    let mut interrupted = false;
    // An error ends the walk; what was read before it is checked all the same.
    let _ = rtnl::scan(datagram, sequence, &mut interrupted, |kind, payload| match kind {
        RTM_NEWTFILTER => {
            let device = payload.get(4..8).and_then(<[u8]>::first_chunk).map_or(0, |raw| u32::from_ne_bytes(*raw));
            assert!(!own_filter(device ^ 1, payload).is_ok_and(|found| found.is_some()), "of another device");
            if let Ok(Some(own)) = own_filter(device, payload) {
                assert!(own.name.starts_with(OWN_NAME) && own.header.handle != TcHandle::UNSPEC);
                assert_eq!(own.header.index, device.cast_signed());
            }
        }
        RTM_NEWQDISC => assert!(split(payload).is_err() || payload.len() >= 20),
        _ => {}
    });
}
