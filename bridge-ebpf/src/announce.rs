//! Hears the notifications of rtnetlink and nftables as the kernel sends them, and takes away what they put in doubt.
//!
//! The daemon reads its socket some time later, or never if it is stopped. The filter of that socket runs inside the
//! change itself (`do_one_broadcast` calls `sk_filter`, `net/netlink/af_netlink.c`): before the answer to whoever asked for
//! it, and also where the message then finds no room in the socket's buffer. Nothing is believed that the message says:
//! it only names the device or address that may no longer be what it was.

use aya_ebpf::programs::SkBuffContext;
use bridge_common::mac::Mac;

use crate::tables::{announced, cancel, policy_announced};

/// `AF_BRIDGE`.
const AF_BRIDGE: u8 = 7;
/// `NDA_LLADDR`.
const NDA_LLADDR: u16 = 2;
/// `NDA_VLAN`.
const NDA_VLAN: u16 = 5;
/// `RTM_NEWNEIGH` and `RTM_DELNEIGH`.
const NEIGHBOUR_KINDS: [u16; 2] = [28, 29];
/// Offset of the type in `struct nlmsghdr`.
const KIND: usize = 4;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM` and `NFT_MSG_NEWGEN`: what sets are made of is no matter, only the rules are,
/// and every transaction ends with its generation.
const NO_RULES: [u16; 3] = [12, 14, 15];
/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
const NFTABLES: u16 = 10 << 8;
/// Messages of one datagram that are looked at (`nft_commit_notify` joins them).
const MESSAGES: u32 = 8;
/// Length of `struct ndmsg`.
const NEIGHBOUR: usize = 12;
/// Attributes of an FDB message that are looked at; `fdb_fill_info` puts the VLAN as the fifth at most.
const ATTRIBUTES: u32 = 8;

/// Looks at one message. `None`: it is of no interest, or shorter than it should be.
#[inline(always)]
pub(crate) fn heard(message: &SkBuffContext) -> Option<()> {
    let kind: u16 = message.load(KIND).ok()?;
    if kind == NEIGHBOUR_KINDS[0] || kind == NEIGHBOUR_KINDS[1] {
        return neighbour(message);
    }
    // `struct ifinfomsg`, `br_vlan_msg` and `tcmsg`, of which the other messages are made, have the interface index at the
    // same place.
    announced(message.load(HEADER + 4).ok()?)
}

/// `fdb_notify`: some edits by hand (and local entries) have no tracepoint, or one that comes before the change.
#[inline(always)]
fn neighbour(message: &SkBuffContext) -> Option<()> {
    if message.load::<u8>(HEADER).ok()? != AF_BRIDGE {
        return None;
    }
    let mut mac: Option<[u8; 6]> = None;
    let mut vid = 0;
    let mut at = HEADER + NEIGHBOUR;
    let mut left = ATTRIBUTES;
    while left > 0 {
        left -= 1;
        let Ok([size, kind]) = message.load::<[u16; 2]>(at) else { break };
        if kind == NDA_LLADDR {
            mac = message.load(at + 4).ok();
        } else if kind == NDA_VLAN {
            vid = message.load(at + 4).ok()?;
        }
        if size < 4 {
            break;
        }
        at += (size as usize + 3) & !3;
    }
    cancel(vid, Mac::new(mac?));
    Some(())
}

/// Looks at a datagram of nftables: whether anything but the contents of sets has changed.
#[inline(always)]
pub(crate) fn rules_changed(message: &SkBuffContext) {
    let mut at = 0;
    let mut left = MESSAGES;
    while left > 0 {
        left -= 1;
        let (Ok(size), Ok(kind)) = (message.load::<u32>(at), message.load::<u16>(at + KIND)) else {
            if at == 0 {
                break;
            }
            // The end of the datagram.
            return;
        };
        if !NO_RULES.iter().any(|harmless| kind == NFTABLES | harmless) || (size as usize) < HEADER || size > 0xffff {
            break;
        }
        at += (size as usize + 3) & !3;
    }
    policy_announced();
}
