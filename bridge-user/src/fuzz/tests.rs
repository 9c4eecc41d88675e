//! The fuzzer's corpus, on stable Rust and without the fuzzer: every input as it is, and damaged at random.
//!
//! `XBR_SEED` repeats a run, `XBR_FUZZ_RUNS` asks for more damaged inputs per target.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use super::*;

/// Damaged inputs per target.
const RUNS: u32 = 4_000;
/// Targets of `bridge-common`, which has a replay of its own.
const ELSEWHERE: [&str; 3] = ["decision", "frame", "tables"];

fn corpus() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fuzz", "corpus"].iter().collect()
}

/// The inputs of a target, by the names of their files.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpus().join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// Runs a target, and says what it was given if it panics.
fn attempt(target: Target, bytes: &[u8], what: &dyn Fn() -> String) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.1(bytes))) {
        let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        println!("{} panics on {}: {hex}", target.0, what());
        resume_unwind(panic);
    }
}

#[test]
fn every_target_has_inputs_and_every_input_a_target() {
    let mut folders: Vec<_> =
        fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut targets: Vec<_> = TARGETS.iter().map(|(name, _)| *name).chain(ELSEWHERE).collect();
    targets.sort_unstable();
    assert_eq!(folders, targets);
    for (name, _) in TARGETS {
        assert!(inputs(name).len() >= 3, "{name}");
    }
}

#[test]
fn no_input_of_the_corpus_breaks_a_rule() {
    for target in TARGETS {
        for (file, bytes) in inputs(target.0) {
            attempt(target, &bytes, &|| file.clone());
        }
    }
}

#[test]
fn no_damaged_input_breaks_a_rule() {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse().expect("a number"));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let seed: u64 = number("XBR_SEED").unwrap_or_else(now);
    let runs = number("XBR_FUZZ_RUNS").map_or(RUNS, |runs| u32::try_from(runs).unwrap());
    println!("no_damaged_input_breaks_a_rule: XBR_SEED={seed}, {runs} for each target");
    for target in TARGETS {
        let inputs = inputs(target.0);
        let mut random = Random(seed);
        for run in 0..runs {
            let bytes = damaged(&inputs, &mut random);
            attempt(target, &bytes, &|| format!("damaged input {run} of XBR_SEED={seed}"));
        }
    }
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// One input with a few changes of the kind that breaks parsers.
fn damaged(inputs: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = inputs[random.below(inputs.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 3, 4, 7, 0x7f, 0x80, 0xff][random.below(8)],
            // A length, mostly.
            3 if bytes.len() >= 4 => {
                let at = at.min(bytes.len() - 4) & !3;
                let length = u16::try_from(random.below(80)).unwrap();
                bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
            }
            4 => {
                let end = bytes.len().min(at + random.below(64));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let end = bytes.len().min(at + random.below(64));
                bytes.drain(at..end);
            }
            6 => {
                let other = &inputs[random.below(inputs.len())].1;
                bytes.truncate(at);
                bytes.extend(&other[random.below(other.len())..]);
            }
            _ => bytes.push(u8::try_from(random.below(256)).unwrap()),
        }
    }
    bytes
}
