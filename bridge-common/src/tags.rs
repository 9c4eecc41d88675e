//! All changes to a frame's tags between its arrival and its departure, as one rewrite.
//!
//! A *logical port* is a VLAN device (802.1Q device) that is a bridge port and is served by the program on its parent:
//! the parent's frames carry the VLAN device's tag in front of what the bridge sees. `vlan_do_receive` (net/8021q) takes
//! that tag off on the way in, the bridge may edit the one behind it (`br_handle_vlan`), and `vlan_dev_hard_start_xmit`
//! puts the egress device's tag in front. [`rewrite`] joins the three, so that tags that stay are not touched.

use crate::{decide::Edit, frame::Tag};

/// The tags of a frame that may change, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The tag of the logical port that the frame came in at; `None` at any other port.
    pub outer: Option<Tag>,
    /// [`crate::frame::Frame::tag`]: the outermost tag that the bridge sees.
    pub tag: Option<Tag>,
}

/// What to do with the tags: take `pop` off the front, then put `push` of `tags` there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// How many tags to take off, 0 to 2.
    pub pop: u32,
    /// How many tags to put in front, 0 to 2.
    pub push: u32,
    /// The tags to put in front, outermost first; with one to push, the first is it.
    pub tags: [Tag; 2],
}

impl Rewrite {
    /// The frame leaves as it came.
    pub const NOTHING: Rewrite = Rewrite { pop: 0, push: 0, tags: [NONE, NONE] };

    /// The frame leaves as it came.
    #[inline(always)]
    pub const fn is_nothing(&self) -> bool {
        self.pop == 0 && self.push == 0
    }

    /// How many bytes longer (or shorter, if negative) the frame becomes on the wire.
    #[inline(always)]
    pub const fn growth(&self) -> i32 {
        (self.push.cast_signed() - self.pop.cast_signed()) * 4
    }
}

/// The shortest way from the tags that `arrived` to those that leave: the bridge's `edit`, and in front of it `outer`,
/// the tag of the logical port that the frame leaves by.
#[inline(always)]
pub const fn rewrite(arrived: Arrived, edit: Edit, outer: Option<Tag>) -> Rewrite {
    let inside = match edit {
        Edit::Keep => arrived.tag,
        Edit::Pop => None,
        Edit::Push(tag) | Edit::Retag(tag) => Some(tag),
    };
    let came = Stack::new(arrived.outer, arrived.tag);
    let leaves = Stack::new(outer, inside);
    // Tags are taken off and put on in front, so what both have at the back may stay.
    let mut common = 0;
    if came.count > 0 && leaves.count > 0 && same(came.innermost(), leaves.innermost()) {
        common = 1;
        if came.count == 2 && leaves.count == 2 && same(came.tags[0], leaves.tags[0]) {
            common = 2;
        }
    }
    Rewrite { pop: came.count - common, push: leaves.count - common, tags: leaves.tags }
}

/// No tag, where the count says so.
const NONE: Tag = Tag { tpid: 0, tci: 0 };

/// Up to two tags, outermost first.
struct Stack {
    count: u32,
    tags: [Tag; 2],
}

impl Stack {
    #[inline(always)]
    const fn new(outer: Option<Tag>, inner: Option<Tag>) -> Self {
        // The verifier sees a tag that is not there as a register without a value, which must not even be copied.
        let (front, back) = (or_none(outer), or_none(inner));
        match (outer.is_some(), inner.is_some()) {
            (true, true) => Self { count: 2, tags: [front, back] },
            (true, false) => Self { count: 1, tags: [front, NONE] },
            (false, true) => Self { count: 1, tags: [back, NONE] },
            (false, false) => Self { count: 0, tags: [NONE, NONE] },
        }
    }

    #[inline(always)]
    const fn innermost(&self) -> Tag {
        if self.count == 2 { self.tags[1] } else { self.tags[0] }
    }
}

#[inline(always)]
const fn or_none(tag: Option<Tag>) -> Tag {
    match tag {
        Some(tag) => tag,
        None => NONE,
    }
}

#[inline(always)]
const fn same(one: Tag, other: Tag) -> bool {
    one.tpid == other.tpid && one.tci == other.tci
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ETH_P_8021AD, ETH_P_8021Q};

    /// Few enough to try all combinations, and such that tags of the two places are sometimes the same.
    const TAGS: [Option<Tag>; 5] = [
        None,
        Some(Tag { tpid: ETH_P_8021Q, tci: 10 }),
        Some(Tag { tpid: ETH_P_8021AD, tci: 10 }),
        Some(Tag { tpid: ETH_P_8021Q, tci: 0xb00a }),
        Some(Tag { tpid: ETH_P_8021Q, tci: 20 }),
    ];

    /// The edits that `decide` gives for a frame with this tag.
    fn edits(tag: Option<Tag>) -> impl Iterator<Item = Edit> {
        let changed = TAGS.into_iter().flatten();
        let edits = changed.map(move |new| if tag.is_none() { Edit::Push(new) } else { Edit::Retag(new) });
        edits.chain([Edit::Keep]).chain(tag.map(|_| Edit::Pop))
    }

    /// The three steps of the kernel, one after the other, on a stack whose end is the innermost tag; `99` stands for the
    /// payload.
    fn step_by_step(arrived: Arrived, edit: Edit, outer: Option<Tag>) -> ([Option<Tag>; 3], usize) {
        let mut stack = ([None; 3], 0);
        let mut put = |tag: Option<Tag>| {
            if tag.is_some() {
                stack.0[stack.1] = tag;
                stack.1 += 1;
            }
        };
        put(outer);
        match edit {
            Edit::Keep => put(arrived.tag),
            Edit::Pop => {}
            Edit::Push(tag) => {
                put(Some(tag));
                put(arrived.tag);
            }
            Edit::Retag(tag) => put(Some(tag)),
        }
        stack
    }

    /// The rewrite, carried out literally.
    fn carried_out(arrived: Arrived, rewrite: &Rewrite) -> ([Option<Tag>; 3], usize) {
        let mut came = [None; 2];
        let mut count = 0;
        for tag in [arrived.outer, arrived.tag].into_iter().flatten() {
            came[count] = Some(tag);
            count += 1;
        }
        assert!(rewrite.pop as usize <= count, "more taken off than there is: {arrived:?} {rewrite:?}");
        let mut stack = ([None; 3], 0);
        let pushed = rewrite.tags[..rewrite.push as usize].iter().map(|tag| Some(*tag));
        for tag in pushed.chain(came[rewrite.pop as usize..count].iter().copied()) {
            stack.0[stack.1] = tag;
            stack.1 += 1;
        }
        stack
    }

    #[test]
    fn every_combination_is_what_the_three_steps_give() {
        let mut cases = 0;
        for outer_in in TAGS {
            for tag in TAGS {
                for outer_out in TAGS {
                    for edit in edits(tag) {
                        let arrived = Arrived { outer: outer_in, tag };
                        let rewrite = rewrite(arrived, edit, outer_out);
                        let want = step_by_step(arrived, edit, outer_out);
                        assert_eq!(carried_out(arrived, &rewrite), want, "{arrived:?} {edit:?} {outer_out:?}");
                        let came = usize::from(outer_in.is_some()) + usize::from(tag.is_some());
                        let growth = 4 * (i32::try_from(want.1).unwrap() - i32::try_from(came).unwrap());
                        assert_eq!(rewrite.growth(), growth);
                        cases += 1;
                    }
                }
            }
        }
        assert_eq!(cases, 5 * 5 * (5 + 4 * 6));
    }

    #[test]
    fn nothing_is_done_for_nothing() {
        for outer in TAGS {
            for tag in TAGS {
                assert!(rewrite(Arrived { outer, tag }, Edit::Keep, outer).is_nothing());
            }
        }
        // The VLAN device's tag goes, the bridge pushes the same one.
        let [_, Some(ten), ..] = TAGS else { unreachable!() };
        assert!(rewrite(Arrived { outer: Some(ten), tag: None }, Edit::Push(ten), None).is_nothing());
    }

    #[test]
    fn what_is_behind_a_changed_tag_stays() {
        let [_, Some(ten), _, _, Some(twenty)] = TAGS else { unreachable!() };
        let found = rewrite(Arrived { outer: Some(ten), tag: Some(ten) }, Edit::Keep, Some(twenty));
        assert_eq!((found.pop, found.push, found.tags[0]), (1, 1, twenty));
        let found = rewrite(Arrived { outer: Some(ten), tag: Some(twenty) }, Edit::Keep, None);
        assert_eq!((found.pop, found.push), (1, 0));
        let found = rewrite(Arrived { outer: None, tag: Some(twenty) }, Edit::Keep, Some(ten));
        assert_eq!((found.pop, found.push, found.tags[0]), (0, 1, ten));
    }
}
