//! A failing scenario made small: whatever can be left out while it still fails is left out.

use std::time::{Duration, Instant};

use super::{
    scenario::{Scenario, Step},
    spec::Spec,
};

/// How long making one scenario small may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Leaves out steps, lines and frames as long as `fails` says yes, for a bounded time.
pub fn minimise(scenario: &Scenario, mut fails: impl FnMut(&Scenario) -> bool) -> Scenario {
    let start = Instant::now();
    let mut small = scenario.clone();
    loop {
        let before = size(&small);
        let steps = reduce(&small.steps.clone(), |steps| {
            start.elapsed() < PATIENCE && fails(&Scenario { steps: steps.to_vec(), ..small.clone() })
        });
        small.steps = steps;
        for place in 0..small.steps.len() {
            let with = |step: Step| {
                let mut changed = small.clone();
                changed.steps[place] = step;
                changed
            };
            let mut lines = |lines: &[String], make: fn(Vec<String>) -> Step| {
                make(reduce(lines, |lines| start.elapsed() < PATIENCE && fails(&with(make(lines.to_vec())))))
            };
            let reduced = match &small.steps[place] {
                Step::Ip(all) => lines(all, Step::Ip),
                Step::Bridge(all) => lines(all, Step::Bridge),
                Step::Fdb(all) => lines(all, Step::Fdb),
                Step::Far(all) => lines(all, Step::Far),
                Step::Await(all) => lines(all, Step::Await),
                Step::Frames(all) => Step::Frames(reduce(all, |frames: &[Spec]| {
                    start.elapsed() < PATIENCE && fails(&with(Step::Frames(frames.to_vec())))
                })),
                other @ (Step::Age | Step::Restart(_)) => other.clone(),
            };
            small.steps[place] = reduced;
        }
        if size(&small) == before || start.elapsed() > PATIENCE {
            return small;
        }
    }
}

fn size(scenario: &Scenario) -> usize {
    let lines = |step: &Step| match step {
        Step::Ip(lines) | Step::Bridge(lines) | Step::Fdb(lines) | Step::Far(lines) | Step::Await(lines) => lines.len(),
        Step::Frames(frames) => frames.len(),
        Step::Age | Step::Restart(_) => 1,
    };
    scenario.steps.iter().map(|step| 1 + lines(step)).sum()
}

/// The smallest part of `all` found that still fails: halves are left out, then quarters, down to single ones.
fn reduce<T: Clone>(all: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = all.to_vec();
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 {
        // From the end: what comes late builds on what came before.
        let mut end = kept.len();
        while end > 0 {
            let from = end.saturating_sub(chunk);
            let candidate: Vec<T> = kept[..from].iter().chain(&kept[end..]).cloned().collect();
            if fails(&candidate) {
                kept = candidate;
            }
            end = from;
        }
        chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_left() {
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(reduce(&all, |some| some.contains(&7) && some.contains(&93)), [7, 93]);
        assert_eq!(reduce(&all, |some| some.len() >= 3).len(), 3);
        assert_eq!(reduce(&all, |_| false), all);
        let scenario = Scenario {
            steps: vec![Step::Age, Step::Ip(vec!["a".into(), "b".into()]), Step::Restart(true)],
            ..Scenario::default()
        };
        let needs_b = |scenario: &Scenario| {
            scenario.steps.iter().any(|step| matches!(step, Step::Ip(lines) if lines.contains(&"b".to_owned())))
        };
        assert_eq!(minimise(&scenario, needs_b).steps, [Step::Ip(vec!["b".into()])]);
    }
}
