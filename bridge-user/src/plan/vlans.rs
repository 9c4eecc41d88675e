//! Sets of VLAN ids, as the tables have them: one bit each.

use bridge_common::maps::set_bits;

use crate::model::VlanRange;

/// A set of VLAN ids, 0 to 4095.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanSet([u64; 64]);

impl VlanSet {
    /// No VLAN.
    pub const EMPTY: Self = Self([0; 64]);

    /// The VLANs of these ranges.
    pub fn of(ranges: &[VlanRange]) -> Self {
        let mut set = Self::EMPTY;
        for range in ranges {
            set_bits(&mut set.0, range.first, range.last, true);
        }
        set
    }

    /// VLAN `vid` alone.
    pub fn only(vid: u16) -> Self {
        let mut set = Self::EMPTY;
        set_bits(&mut set.0, vid, vid, true);
        set
    }

    /// The VLANs of either.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
        self
    }

    /// The VLANs that `other` has not.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// All of them, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0
            .iter()
            .zip((0_u16..).step_by(64))
            .flat_map(|(word, start)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| start + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_its_ranges_have() {
        let range = |first, last| VlanRange { first, last, ..VlanRange::default() };
        let set = VlanSet::of(&[range(1, 1), range(63, 64), range(4090, 4094)]);
        let all = [1, 63, 64, 4090, 4091, 4092, 4093, 4094];
        assert_eq!(set.iter().collect::<Vec<_>>(), all);
        assert_eq!(set.without(&VlanSet::of(&[range(2, 4093)])).iter().collect::<Vec<_>>(), [1, 4094]);
        assert_eq!(set.or(&VlanSet::only(0)).iter().collect::<Vec<_>>(), [&[0][..], &all].concat());
        assert!(set.without(&set).is_empty() && !set.is_empty());
        assert!(VlanSet::EMPTY.iter().next().is_none());
    }
}
