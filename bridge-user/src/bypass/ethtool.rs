//! Driver settings of a device, by the ethtool ioctl, in the namespace of the calling thread.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::OnceLock,
};

use super::{
    nl::{malformed, text},
    sockopt,
};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// `ETH_SS_FEATURES`: the names of the feature bits.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN`, in bytes and in words.
const NAME: usize = 32;
const NAME_WORDS: usize = NAME / 4;
/// `struct ethtool_drvinfo` in words; the driver's name follows the command.
const DRIVER_WORDS: usize = 49;

/// The kernel's names for stripping a tag of 802.1Q and of 802.1ad on receive.
const STRIP: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

/// Which tags a device takes out of a frame on receive and keeps beside it, where XDP does not see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxVlan {
    /// 802.1Q (`rx-vlan-offload`).
    pub ctag: bool,
    /// 802.1ad (`rx-vlan-stag-hw-parse`).
    pub stag: bool,
}

impl RxVlan {
    /// Any tag is taken out.
    pub fn any(self) -> bool {
        self.ctag || self.stag
    }
}

/// Whether the device takes VLAN tags of any kind out of received frames. `None`: it cannot be asked.
///
/// Fails with the ioctl's error, e.g. `ENODEV` for a device that is gone.
pub fn rx_vlan_offload(ifname: &str) -> io::Result<Option<bool>> {
    Asker::open()?.rx_vlan_offload(ifname)
}

/// Asks about many devices, through one socket: in the namespace in which it was opened.
pub(super) struct Asker(OwnedFd);

impl Asker {
    pub(super) fn open() -> io::Result<Self> {
        open().map(Self)
    }

    /// As [`rx_vlan_offload`].
    pub(super) fn rx_vlan_offload(&self, ifname: &str) -> io::Result<Option<bool>> {
        Ok(Device { socket: &self.0, name: name(ifname)? }.rx_vlan()?.map(RxVlan::any))
    }
}

/// Switches the stripping of VLAN tags: off for all kinds, on for 802.1Q. Use [`set_rx_vlan`] to put back what was found.
pub fn set_rx_vlan_offload(ifname: &str, on: bool) -> io::Result<()> {
    if on {
        let stag = rx_vlan(ifname)?.is_some_and(|now| now.stag);
        set_rx_vlan(ifname, RxVlan { ctag: true, stag })
    } else {
        set_rx_vlan(ifname, RxVlan::default())
    }
}

/// Which tags the device takes out of received frames. `None`: it cannot be asked.
pub fn rx_vlan(ifname: &str) -> io::Result<Option<RxVlan>> {
    Device { socket: &open()?, name: name(ifname)? }.rx_vlan()
}

/// Asks the device to take out these tags and no others (`__ethtool_set_features`), and reads back whether it does. Fails
/// with [`io::ErrorKind::Unsupported`] where the driver does otherwise.
pub fn set_rx_vlan(ifname: &str, wanted: RxVlan) -> io::Result<()> {
    let device = Device { socket: &open()?, name: name(ifname)? };
    let bits = device.strip_bits()?;
    let wanted = [wanted.ctag, wanted.stag];
    if device.active(bits)? != wanted {
        let blocks = blocks(bits);
        let mut words = vec![0; 2 + 2 * blocks];
        words[0] = ETHTOOL_SFEATURES;
        words[1] = word(blocks)?;
        for (bit, on) in bits.into_iter().zip(wanted).filter_map(|(bit, on)| Some((bit?, on))) {
            // struct ethtool_set_features_block: valid, requested.
            words[2 + 2 * (bit / 32)] |= 1 << (bit % 32);
            words[3 + 2 * (bit / 32)] |= u32::from(on) << (bit % 32);
        }
        device.ioctl(&mut words)?;
    }
    if device.active(bits)? == wanted {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("the driver of {ifname} does not switch rx-vlan-offload")))
}

/// The name of the device's driver. `None`: it has none.
pub fn driver(ifname: &str) -> io::Result<Option<String>> {
    let mut words = vec![0; DRIVER_WORDS];
    words[0] = ETHTOOL_GDRVINFO;
    match (Device { socket: &open()?, name: name(ifname)? }).ioctl(&mut words) {
        Ok(()) => Ok(Some(text(&bytes(&words[1..][..NAME_WORDS]))).filter(|name| !name.is_empty())),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bit numbers of [`STRIP`]; `None` for one that the kernel does not have.
type Bits = [Option<usize>; 2];

/// A device and a socket to ask through.
struct Device<'a> {
    socket: &'a OwnedFd,
    name: Name,
}

/// A device's name as the kernel takes it.
type Name = [libc::c_char; libc::IFNAMSIZ];

fn name(ifname: &str) -> io::Result<Name> {
    let mut name = [0; libc::IFNAMSIZ];
    if ifname.len() >= name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{ifname}' is no interface name")));
    }
    for (to, from) in name.iter_mut().zip(ifname.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(name)
}

fn open() -> io::Result<OwnedFd> {
    // Every kernel with a bridge has packet or netlink sockets, but the ioctl wants one whose family passes it on.
    sockopt::open(libc::AF_INET)?.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

impl Device<'_> {
    fn rx_vlan(&self) -> io::Result<Option<RxVlan>> {
        match self.strip_bits().and_then(|bits| self.active(bits)) {
            Ok([ctag, stag]) => Ok(Some(RxVlan { ctag, stag })),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Passes a request; the kernel reads and writes no more than the sizes in the request's own fields say.
    fn ioctl(&self, words: &mut [u32]) -> io::Result<()> {
        // SAFETY: an all-zero `ifreq` is valid.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_name = self.name;
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: `request` points to `words`, both outlive the call, and the callers size `words` as they tell the kernel.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Finds the bits of the stripping features. The numbers are the kernel's, the same for every device.
    fn strip_bits(&self) -> io::Result<Bits> {
        static BITS: OnceLock<Bits> = OnceLock::new();
        if let Some(bits) = BITS.get() {
            return Ok(*bits);
        }
        // struct ethtool_sset_info: command, reserved, 64-bit mask of sets, then a length for each set in the mask.
        let mask = split((1_u64 << FEATURE_NAMES).to_ne_bytes());
        let mut sizes = [ETHTOOL_GSSET_INFO, 0, mask[0], mask[1], 0];
        self.ioctl(&mut sizes)?;
        let count = usize::try_from(sizes[4]).map_err(io::Error::other)?;
        // struct ethtool_gstrings: command, set, length, names.
        let mut names = vec![0; 3 + count * NAME_WORDS];
        names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, FEATURE_NAMES, sizes[4]]);
        self.ioctl(&mut names)?;
        let find = |wanted: &str| names[3..].chunks(NAME_WORDS).position(|name| text(&bytes(name)) == wanted);
        Ok(*BITS.get_or_init(|| STRIP.map(find)))
    }

    /// Reads which of these features are active.
    fn active(&self, bits: Bits) -> io::Result<[bool; 2]> {
        let blocks = blocks(bits);
        let mut words = vec![0; 2 + 4 * blocks];
        words[0] = ETHTOOL_GFEATURES;
        words[1] = word(blocks)?;
        self.ioctl(&mut words)?;
        // struct ethtool_get_features_block: available, requested, active, never_changed.
        let active = |bit: usize| words.get(2 + 4 * (bit / 32) + 2).map(|block| block >> (bit % 32) & 1 == 1);
        let read = |bit: Option<usize>| bit.map_or(Ok(false), |bit| active(bit).ok_or_else(|| malformed("a feature")));
        Ok([read(bits[0])?, read(bits[1])?])
    }
}

/// How many blocks of 32 features cover these bits.
fn blocks(bits: Bits) -> usize {
    bits.iter().flatten().max().map_or(1, |bit| bit / 32 + 1)
}

fn word(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

/// The two words of a 64-bit member, in memory order.
fn split(bytes: [u8; 8]) -> [u32; 2] {
    let (words, _) = bytes.as_chunks();
    [u32::from_ne_bytes(words[0]), u32::from_ne_bytes(words[1])]
}

/// The bytes of words, in memory order.
fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_highest_bit() {
        assert_eq!([[None, None], [Some(31), None], [Some(5), Some(32)]].map(blocks), [1, 1, 2]);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let error = rx_vlan("a-name-of-sixteen").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
