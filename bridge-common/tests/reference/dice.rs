//! Many small draws out of one random number: far cheaper than a strategy per draw, and as zero gives the first choice
//! every time, a number that shrinks makes the scenario plainer.

/// What is left of the number.
pub(crate) struct Dice(u128);

impl Dice {
    pub(crate) fn new(number: u128) -> Self {
        Self(number)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u16) -> u16 {
        let sides = u128::from(sides);
        let rolled = self.0 % sides;
        self.0 /= sides;
        u16::try_from(rolled).expect("below a u16")
    }

    /// True once in `sides` rolls.
    pub(crate) fn one_in(&mut self, sides: u16) -> bool {
        self.roll(sides) + 1 == sides
    }

    /// One of `choices`; name one several times to make it likelier.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let sides = u16::try_from(choices.len()).expect("few choices");
        choices[usize::from(self.roll(sides))]
    }
}
