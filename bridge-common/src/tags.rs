//! All changes to a frame's tags between its arrival and its departure, as one rewrite.
//!
//! A *logical port* is a VLAN device (802.1Q device) that is a bridge port and is served by the program on its parent:
//! the parent's frames carry the VLAN device's tag in front of what the bridge sees. `vlan_do_receive` (net/8021q) takes
//! that tag off on the way in, the bridge may edit the one behind it (`br_handle_vlan`), and `vlan_dev_hard_start_xmit`
//! puts the egress device's tag in front. [`rewrite`] joins the three, so that tags that stay are not touched.

use crate::frame::Tag;

/// The tags of a frame that may change, as on the wire.
#[repr(C)]
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
    pub tags: [Option<Tag>; 2],
}

impl Rewrite {
    /// The frame leaves as it came.
    pub const NOTHING: Rewrite = Rewrite { pop: 0, push: 0, tags: [None, None] };

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

/// The shortest way from the tags that `arrived` to those that leave: `inside`, the outermost tag that the bridge leaves the
/// frame with, and in front of it `outer`, the tag of the logical port that the frame leaves by.
#[inline(always)]
pub fn rewrite(arrived: Arrived, inside: Option<Tag>, outer: Option<Tag>) -> Rewrite {
    let came = Stack::new(arrived.outer, arrived.tag);
    let leaves = Stack::new(outer, inside);
    // Tags are taken off and put on in front, so what both have at the back may stay.
    let mut common = 0;
    if came.count > 0 && leaves.count > 0 && came.innermost() == leaves.innermost() {
        common = 1;
        if came.count == 2 && leaves.count == 2 && came.tags[0] == leaves.tags[0] {
            common = 2;
        }
    }
    Rewrite { pop: came.count - common, push: leaves.count - common, tags: leaves.tags }
}

/// Up to two tags, outermost first.
struct Stack {
    count: u32,
    tags: [Option<Tag>; 2],
}

impl Stack {
    #[inline(always)]
    fn new(outer: Option<Tag>, inner: Option<Tag>) -> Self {
        match (outer, inner) {
            (Some(_), Some(_)) => Self { count: 2, tags: [outer, inner] },
            (Some(_), None) => Self { count: 1, tags: [outer, None] },
            (None, Some(_)) => Self { count: 1, tags: [inner, None] },
            (None, None) => Self { count: 0, tags: [None, None] },
        }
    }

    #[inline(always)]
    fn innermost(&self) -> Option<Tag> {
        if self.count == 2 { self.tags[1] } else { self.tags[0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ETH_P_8021AD, ETH_P_8021Q};

    /// Few enough to try all combinations, and such that tags of the two places are sometimes the same.
    const TAGS: [Option<Tag>; 5] = [
        None,
        Some(Tag::new(ETH_P_8021Q, 10)),
        Some(Tag::new(ETH_P_8021AD, 10)),
        Some(Tag::new(ETH_P_8021Q, 0xb00a)),
        Some(Tag::new(ETH_P_8021Q, 20)),
    ];

    /// The tags that leave, on a stack whose end is the innermost one.
    fn stacked(tags: [Option<Tag>; 2]) -> ([Option<Tag>; 3], usize) {
        let mut stack = ([None; 3], 0);
        for tag in tags.into_iter().flatten() {
            stack.0[stack.1] = Some(tag);
            stack.1 += 1;
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
        let pushed = rewrite.tags[..rewrite.push as usize].iter().copied();
        for tag in pushed.chain(came[rewrite.pop as usize..count].iter().copied()) {
            stack.0[stack.1] = tag;
            stack.1 += 1;
        }
        stack
    }

    #[test]
    fn every_combination_leaves_with_its_tags() {
        let mut cases = 0;
        for outer_in in TAGS {
            for tag in TAGS {
                for outer_out in TAGS {
                    for inside in TAGS {
                        let arrived = Arrived { outer: outer_in, tag };
                        let rewrite = rewrite(arrived, inside, outer_out);
                        let want = stacked([outer_out, inside]);
                        assert_eq!(carried_out(arrived, &rewrite), want, "{arrived:?} {inside:?} {outer_out:?}");
                        let came = usize::from(outer_in.is_some()) + usize::from(tag.is_some());
                        let growth = 4 * (i32::try_from(want.1).unwrap() - i32::try_from(came).unwrap());
                        assert_eq!(rewrite.growth(), growth);
                        assert_eq!(rewrite.is_nothing(), stacked([outer_in, tag]) == want, "{arrived:?} {rewrite:?}");
                        cases += 1;
                    }
                }
            }
        }
        assert_eq!(cases, 5 * 5 * 5 * 5);
    }

    #[test]
    fn nothing_is_done_for_nothing() {
        for outer in TAGS {
            for tag in TAGS {
                assert!(rewrite(Arrived { outer, tag }, tag, outer).is_nothing());
            }
        }
        // The VLAN device's tag goes, the bridge pushes the same one.
        let [_, Some(ten), ..] = TAGS else { unreachable!() };
        assert!(rewrite(Arrived { outer: Some(ten), tag: None }, Some(ten), None).is_nothing());
    }

    #[test]
    fn what_is_behind_a_changed_tag_stays() {
        let [_, Some(ten), _, _, Some(twenty)] = TAGS else { unreachable!() };
        let found = rewrite(Arrived { outer: Some(ten), tag: Some(ten) }, Some(ten), Some(twenty));
        assert_eq!((found.pop, found.push, found.tags[0]), (1, 1, Some(twenty)));
        let found = rewrite(Arrived { outer: Some(ten), tag: Some(twenty) }, Some(twenty), None);
        assert_eq!((found.pop, found.push), (1, 0));
        let found = rewrite(Arrived { outer: None, tag: Some(twenty) }, Some(twenty), Some(ten));
        assert_eq!((found.pop, found.push, found.tags[0]), (0, 1, Some(ten)));
    }
}
