//! The model of the bridge that the property tests of `bridge-common` use.
#![expect(dead_code, reason = "shared with the property tests, which use the rest")]

#[path = "../../bridge-common/tests/reference/anything.rs"]
mod anything;
#[path = "../../bridge-common/tests/reference/case.rs"]
mod case;
#[path = "../../bridge-common/tests/reference/dice.rs"]
mod dice;
#[path = "../../bridge-common/tests/reference/fuzz.rs"]
mod fuzz;
#[path = "../../bridge-common/tests/reference/kernel.rs"]
mod kernel;
#[path = "../../bridge-common/tests/reference/property.rs"]
mod property;
#[path = "../../bridge-common/tests/reference/scenario.rs"]
mod scenario;
#[path = "../../bridge-common/tests/reference/skb.rs"]
mod skb;
#[path = "../../bridge-common/tests/reference/tables.rs"]
mod tables;

/// Runs the target of this name.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("the name of a target").1(bytes);
}
