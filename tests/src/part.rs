//! Which tests of a binary run, where virtual machines share them.

use std::env;

/// What one of several machines runs: every so many'th test, as `XBR_TEST_PART=2/3` says (the second of every three). Without
/// that, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    number: usize,
    of: usize,
}

impl Part {
    const ALL: Self = Self { number: 1, of: 1 };

    /// From the environment.
    ///
    /// # Panics
    /// `XBR_TEST_PART` is something else.
    pub fn get() -> Self {
        let Ok(text) = env::var("XBR_TEST_PART") else { return Self::ALL };
        Self::parse(&text).unwrap_or_else(|| panic!("XBR_TEST_PART={text}: give it as NUMBER/OF"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, of) = text.split_once('/')?;
        let part = Self { number: number.parse().ok()?, of: of.parse().ok()? };
        (1..=part.of).contains(&part.number).then_some(part)
    }

    /// Those of these tests that belong to it.
    pub fn of<T>(self, tests: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        tests.skip(self.number - 1).step_by(self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn parts_share_everything() {
        let of = |text: &str| Part::parse(text).unwrap().of(0..7).collect::<Vec<_>>();
        assert_eq!(of("1/1"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!((of("1/2"), of("2/2")), (vec![0, 2, 4, 6], vec![1, 3, 5]));
        assert_eq!(of("3/3"), [2, 5]);
        for wrong in ["", "1", "0/2", "3/2", "1/0", "a/2", "1/2/3"] {
            assert_eq!(Part::parse(wrong), None, "{wrong}");
        }
    }
}
