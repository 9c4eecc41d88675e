//! The decision as a function of its own.
//!
//! The linker exports it, so that the verifier looks at it once for each program and knows nothing of what it returns: else it would
//! follow every way through the parser on through every way of the decision. That a frame and its decision are in memory
//! serves the same end.

use bridge_common::{
    decide::{Decision, Fid, Origin, Verdict, decide_from},
    frame::{Frame, Tag},
    reason::Reason,
};

use crate::tables::KernelTables;

/// Where a program and [`xbr_decide`] hand a frame and its decision to each other: on the program's stack.
#[repr(C, align(8))]
pub(crate) struct Case {
    pub(crate) frame: Frame,
    /// Slot of the ingress port.
    pub(crate) slot: u16,
    /// As in [`Decision`].
    pub(crate) vid: u16,
    /// As in [`Decision`].
    pub(crate) fid: Fid,
    pub(crate) way: Forward,
    /// Of a frame that is forwarded.
    pub(crate) origin: Origin,
}

/// [`Verdict::Forward`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Forward {
    pub(crate) slot: u32,
    pub(crate) ifindex: u32,
    pub(crate) flags: u32,
    pub(crate) leaves: Option<Tag>,
}

/// Words of a [`Case`].
const WORDS: usize = size_of::<Case>() / 8;
const _: () = assert!(size_of::<Case>().is_multiple_of(8));

/// Memory on the stack for an exported function: of the types in it, the kernel's description of types has no idea.
#[repr(align(8))]
pub(crate) struct Words<const N: usize>([u64; N]);

impl<const N: usize> Words<N> {
    /// Zeros.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        let mut words = [0; N];
        for word in &mut words {
            // SAFETY: it is a reference. Volatile, as the kernel wants to see all of it written, between the members too.
            unsafe { core::ptr::write_volatile(word, 0) }
        }
        Self(words)
    }

    #[inline(always)]
    pub(crate) fn pointer(&mut self) -> *mut [u64; N] {
        &raw mut self.0
    }
}

/// A [`Case`], as what its size says it is.
pub(crate) struct Paper(Words<WORDS>);

impl Paper {
    /// Nothing is known of the frame yet.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(Words::new())
    }

    #[inline(always)]
    pub(crate) fn case(&mut self) -> &mut Case {
        // SAFETY: as large and as aligned, and zeros are valid in all of its members.
        unsafe { &mut *self.0.pointer().cast() }
    }

    /// Decides. `None`: forward.
    #[inline(always)]
    pub(crate) fn decide(&mut self) -> Option<Reason> {
        match xbr_decide(self.0.pointer()) {
            FORWARD => None,
            reason => Some(Reason::from_u8(reason as u8).unwrap_or(Reason::Inconsistent)),
        }
    }
}

/// What [`xbr_decide`] returns where there is no reason to pass the frame.
const FORWARD: u64 = 0xff;

/// Fills in the decision. Returns the number of the reason if the frame is to be left to the bridge.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn xbr_decide(paper: *mut [u64; WORDS]) -> u64 {
    if paper.is_null() {
        return Reason::Inconsistent as u64;
    }
    // SAFETY: only `Paper::decide` calls this.
    let case = unsafe { &mut *paper.cast::<Case>() };
    let Decision { verdict, fid, vid } = decide_from(&KernelTables, case.slot, &case.frame, &mut case.origin);
    case.fid = fid;
    case.vid = vid;
    match verdict {
        Verdict::Pass(reason) => reason as u64,
        Verdict::Forward { slot, ifindex, flags, leaves } => {
            case.way = Forward { slot: u32::from(slot), ifindex, flags, leaves };
            FORWARD
        }
    }
}
