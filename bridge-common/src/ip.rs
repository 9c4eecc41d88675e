//! What `br_netfilter` does to IP packets although no rule asks for it, and which packets it leaves alone.
//!
//! Where it is on, `br_nf_pre_routing` checks each untagged IP packet (`br_validate_ipv4`, `br_validate_ipv6`,
//! net/bridge): it drops what is malformed and cuts off what follows the packet, such as the padding of a
//! short frame. Connection tracking, if a rule somewhere uses it, merges fragments there, and what is larger than the
//! egress MTU is cut into fragments.

use crate::frame::{ETH_P_IP, ETH_P_IPV6};

/// How much of an IP header [`is_untouched`] wants to see, in bytes.
pub const HEADER: usize = 20;

/// The bits of flags and offset that are 0 in a packet that is no fragment: MF and the offset.
const NOT_A_FRAGMENT: u32 = 0x3fff;

/// Whether `br_netfilter` would leave a packet as it is: `header` are the first bytes behind the EtherType, `len` is the
/// number of bytes from there to the end of the frame.
///
/// `true` only for whole, well-formed packets of exactly their length, without IPv4 options and IPv6 extension headers.
/// Protocols other than IP are not its business: `true`.
#[inline(always)]
pub fn is_untouched(ethertype: u16, header: &[u8; HEADER], len: u32) -> bool {
    match ethertype {
        ETH_P_IP => {
            header[0] == 0x45
                && be16(header, 2) == len
                && len >= 20
                && be16(header, 6) & NOT_A_FRAGMENT == 0
                && is_whole(header)
        }
        ETH_P_IPV6 => header[0] >> 4 == 6 && be16(header, 4) + 40 == len && !is_extension(header[6]),
        _ => true,
    }
}

/// Whether a sum of 16-bit words, of whatever width, is a multiple of 65,535: then it folds (`csum_fold`) to 0xffff, or 0
/// if it is 0.
#[inline(always)]
pub const fn folds_to_zero(sum: u64) -> bool {
    // The multiples are those that come to lie first when all numbers are multiplied by the inverse: fewer steps than folding.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// `ip_fast_csum` of a header without options is 0.
#[inline(always)]
fn is_whole(header: &[u8; HEADER]) -> bool {
    let mut sum = 0;
    let mut at = 0;
    while at < HEADER {
        sum += be16(header, at);
        at += 2;
    }
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Hop-by-hop options (`br_validate_ipv6` parses them), and the headers behind which a fragment header may hide
/// (`ipv6_ext_hdr`).
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 51 | 59 | 60 | 135 | 139 | 140)
}

#[inline(always)]
fn be16(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from(header[at]) << 8 | u32::from(header[at + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.1 to 10.0.0.2, UDP, 64 bytes.
    const V4: [u8; HEADER] = [0x45, 0, 0, 64, 0, 1, 0, 0, 64, 17, 0x66, 0xaa, 10, 0, 0, 1, 10, 0, 0, 2];

    fn v6(payload: u16, next_header: u8) -> [u8; HEADER] {
        let [high, low] = payload.to_be_bytes();
        let mut header = [0xfd; HEADER];
        header[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, next_header, 64]);
        header
    }

    /// As [`V4`] with this byte, and a checksum that is right again.
    fn changed(at: usize, value: u8) -> [u8; HEADER] {
        let mut header = V4;
        header[at] = value;
        header[10..12].fill(0);
        let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        header[10..12].copy_from_slice(&(!folded).to_be_bytes());
        header
    }

    #[test]
    fn a_whole_packet_of_its_own_length_is_left_alone() {
        assert!(is_untouched(ETH_P_IP, &V4, 64));
        assert!(is_untouched(ETH_P_IP, &changed(8, 1), 64), "its time to live is the routers' business");
        assert!(is_untouched(ETH_P_IP, &changed(6, 0x40), 64), "DF");
        assert!(is_untouched(ETH_P_IPV6, &v6(24, 17), 64));
        assert!(is_untouched(ETH_P_IPV6, &v6(0, 17), 40));
        assert!(is_untouched(0x88b5, &[0xff; HEADER], 7), "not IP");
    }

    #[test]
    fn padding_and_truncation_are_seen() {
        for len in (0..200).filter(|len| *len != 64) {
            assert!(!is_untouched(ETH_P_IP, &V4, len), "{len}");
            assert!(!is_untouched(ETH_P_IPV6, &v6(24, 17), len), "{len}");
        }
        assert!(!is_untouched(ETH_P_IP, &changed(3, 19), 19), "shorter than its header");
    }

    #[test]
    fn a_sum_folds_to_zero_as_the_kernel_folds_it() {
        let folded = |mut sum: u64| {
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            sum
        };
        let near = |middle: u64| (0..5).flat_map(move |by| [middle.wrapping_sub(by), middle.wrapping_add(by)]);
        for sum in [0, 0xffff, 0x1_fffe, 0xffff_0000, 1 << 36, 0xffff * 0x10_0001, u64::MAX].into_iter().flat_map(near)
        {
            assert_eq!(folds_to_zero(sum), matches!(folded(sum), 0 | 0xffff), "{sum:#x}");
        }
        for factor in (0..1 << 20).step_by(4099) {
            assert!(
                folds_to_zero(0xffff * factor) && !folds_to_zero(0xffff * factor + 1 + factor % 0xfffe),
                "{factor}"
            );
        }
    }

    #[test]
    fn every_wrong_byte_breaks_the_checksum() {
        for at in 0..HEADER {
            for value in (0..=255).filter(|value| *value != V4[at]) {
                let mut header = V4;
                header[at] = value;
                assert!(!is_untouched(ETH_P_IP, &header, 64), "byte {at} is {value}");
            }
        }
    }

    #[test]
    fn other_versions_options_and_fragments_are_not() {
        for (at, value) in [(0, 0x44), (0, 0x46), (0, 0x65), (6, 0x20), (6, 0x01), (7, 0x01)] {
            assert!(!is_untouched(ETH_P_IP, &changed(at, value), 64), "byte {at} is {value:#x}");
        }
        let mut other = v6(24, 17);
        other[0] = 0x45;
        assert!(!is_untouched(ETH_P_IPV6, &other, 64));
        for next_header in [0, 43, 44, 51, 59, 60, 135, 139, 140] {
            assert!(!is_untouched(ETH_P_IPV6, &v6(24, next_header), 64), "{next_header}");
        }
    }
}
