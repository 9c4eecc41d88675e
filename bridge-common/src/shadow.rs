//! What shadow mode records of a frame: how it came in, where xbr would have sent it, and how it was seen leaving the
//! bridge. Written by the programs, read by user space. Host byte order, but for the frames' own bytes.

/// Bytes from the beginning of a frame that are kept.
pub const HEAD: usize = 128;
/// Bytes from further behind that are kept.
pub const WINDOW: usize = 64;
/// States of a [`Flight`].
pub mod flight_state {
    /// Nobody's: its number is in the queue of free ones.
    pub const FREE: u32 = 0;
    /// Filled by the programs, to be judged by user space.
    pub const OPEN: u32 = 1;
}

/// Kinds of [`crate::decide::Edit`] in [`Flight::edit`].
pub mod edit_kind {
    /// The tag stays.
    pub const KEEP: u32 = 0;
    /// A tag is put in front.
    pub const PUSH: u32 = 1;
    /// The outer tag is taken off.
    pub const POP: u32 = 2;
    /// The outer tag is replaced.
    pub const RETAG: u32 = 3;
}

/// One look at a frame, at one hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Interface index of the device; 0: not seen.
    pub ifindex: u32,
    /// Length in bytes from the destination address on, a tag in metadata not included.
    pub len: u32,
    /// Protocol of the tag in metadata; 0: none.
    pub tpid: u16,
    /// Control information of the tag in metadata.
    pub tci: u16,
    /// Size of the segments that a super-frame will be cut into; 0: no super-frame.
    pub gso_size: u32,
    /// Number of those segments.
    pub gso_segs: u32,
    /// Whether `head` and `window` could be read.
    pub complete: u32,
    /// The first bytes, as many as the frame has.
    pub head: [u8; HEAD],
    /// Bytes from [`Flight::window_at`] on, where that is not 0.
    pub window: [u8; WINDOW],
}

/// A frame that xbr would have forwarded, and what the bridge did with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// [`flight_state`].
    pub state: u32,
    /// Slot of the ingress port.
    pub slot: u32,
    /// Where the frame's bytes lie in the kernel's memory: the same for the frame and for all of its clones.
    pub key: u64,
    /// When it came in, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// Interface index of the port that xbr would have sent it to.
    pub expected: u32,
    /// [`edit_kind`].
    pub edit: u32,
    /// Protocol of the tag that is pushed, or that replaces another.
    pub tpid: u16,
    /// Its control information.
    pub tci: u16,
    /// Where the windows begin; 0: the heads hold all of the frame.
    pub window_at: u32,
    /// Copies that left by the expected port.
    pub right: u32,
    /// Copies that left by other ports.
    pub wrong: u32,
    /// Copies that went up to the bridge device.
    pub up: u32,
    /// Always 0.
    pub reserved: u32,
    /// The frame as it came in.
    pub arrived: Sight,
    /// The first copy that left by the expected port.
    pub left: Sight,
    /// The first copy that left by another port or went up.
    pub strayed: Sight,
}

/// The frame that one CPU follows: the last that came in there, if it is followed. The bridge takes a frame from ingress
/// to egress in one go, so there is no other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    /// [`Flight::key`]; 0: no frame is followed.
    pub key: u64,
    /// The address of its `sk_buff`.
    pub skb: u64,
    /// Sampled frames for which there was no free flight.
    pub no_room: u64,
    /// Number of the flight.
    pub flight: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Sight>() == 216);
const _: () = assert!(size_of::<Flight>() == 56 + 3 * 216);
const _: () = assert!(size_of::<Recent>() == 32);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain integers in repr(C) without padding: any bytes are a value.
    unsafe impl aya::Pod for super::Flight {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Recent {}
}
