//! The same frames with and without xbr: what every guest receives must not differ by a byte.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, bail};
use xbr_tests::{
    frame::{Frame, Mark, describe},
    net::Guest,
    packet::{Sender, drain_all},
};

use super::scene::Scene;

/// A frame that a guest sends.
pub(crate) struct Probe {
    /// Index of the sender.
    pub(crate) from: usize,
    /// What it sends; flow and number are set by [`observe`].
    pub(crate) frame: Frame,
}

/// All frames that each guest received, sorted.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Observed(Vec<Vec<Vec<u8>>>);

/// Flow of the frames that [`observe`] compares.
const COMPARED: u32 = 0x2000_0000;
/// Flow of the frames that only teach.
const TEACHING: u32 = 0x2000_0001;

/// Sends the probes, and looks at nothing.
pub(crate) fn teach(scene: &Scene, probes: &[Probe]) -> Result<()> {
    let senders = scene.guests.iter().map(Guest::sender).collect::<Result<Vec<Sender>>>()?;
    for probe in probes {
        let mut frame = probe.frame.clone();
        frame.mark(Mark { flow: TEACHING, seq: 0 });
        senders[probe.from].send(&frame.bytes())?;
    }
    std::thread::sleep(Duration::from_millis(20) * xbr_tests::wait::slowness());
    Ok(())
}

/// Sends the probes one by one, in order, and lists what everybody received.
pub(crate) fn observe(scene: &Scene, probes: &[Probe]) -> Result<Observed> {
    let mut captures = scene.guests.iter().map(Guest::capture).collect::<Result<Vec<_>>>()?;
    let senders = scene.guests.iter().map(Guest::sender).collect::<Result<Vec<Sender>>>()?;
    for (number, probe) in probes.iter().enumerate() {
        let mut frame = probe.frame.clone();
        frame.mark(Mark { flow: COMPARED, seq: u32::try_from(number)? });
        senders[probe.from].send(&frame.bytes())?;
    }
    let observed = drain_all(&mut captures, Duration::from_millis(200))?.into_iter().map(|frames| {
        let mut frames: Vec<Vec<u8>> = frames
            .into_iter()
            .filter(|frame| frame.mark().is_some_and(|mark| mark.flow == COMPARED))
            .map(|frame| frame.bytes)
            .collect();
        frames.sort_by_key(|frame| (Mark::find(frame), frame.clone()));
        frames
    });
    Ok(Observed(observed.collect()))
}

impl Observed {
    /// An error that lists the differences, if there are any.
    pub(crate) fn expect(&self, other: &Self, scene: &Scene, when: &str, probes: &[Probe]) -> Result<()> {
        let mut text = String::new();
        for ((guest, want), got) in scene.guests.iter().zip(&self.0).zip(&other.0) {
            let mut report = |frames: &[Vec<u8>], against: &[Vec<u8>], what: &str| {
                for frame in frames.iter().filter(|frame| !against.contains(frame)) {
                    let cause = Mark::find(frame).and_then(|mark| probes.get(mark.seq as usize));
                    let cause = cause.map(|probe| {
                        format!(
                            "\n      sent by {} as {}",
                            scene.guests[probe.from].name,
                            describe(&probe.frame.bytes())
                        )
                    });
                    // Writing to a string cannot fail.
                    let _ =
                        write!(text, "\n    {what} {}: {}{}", guest.name, describe(frame), cause.unwrap_or_default());
                }
            };
            report(want, got, "missing at");
            report(got, want, "too much at");
            if want.len() != got.len() {
                let _ = write!(text, "\n    {} received {} frames instead of {}", guest.name, got.len(), want.len());
            }
        }
        if !text.is_empty() {
            bail!("{when}: not what the bridge does:{}", text.lines().take(40).collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }
}

impl Observed {
    /// Whether anybody received anything else.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self != other
    }
}

/// The whole comparison: the plain bridge in its steady state, then with xbr, cold and warm. At least `fast` frames of
/// a warm round must have taken the fast path, or the comparison would prove nothing.
pub(crate) fn compare(scene: &Scene, args: &[&str], probes: &[Probe], fast: u64) -> Result<()> {
    // The first round teaches the bridge where everybody is.
    observe(scene, probes)?;
    let plain = observe(scene, probes)?;
    plain.expect(&observe(scene, probes)?, scene, "the plain bridge is not steady", probes)?;
    let xbr = scene.xbr(args)?;
    for round in 1..=3 {
        let reading = xbr_tests::measure::Reading::take(&xbr)?;
        let observed = observe(scene, probes)?;
        plain.expect(&observed, scene, &format!("round {round} with xbr"), probes)?;
        let taken: u64 = reading.since(&xbr)?.values().map(|delta| delta.fast).sum();
        if round == 3 && taken < fast {
            bail!("only {taken} of {} frames took the fast path: {}", probes.len(), xbr.summary());
        }
    }
    xbr.stop()?;
    plain.expect(&observe(scene, probes)?, scene, "after xbr ended", probes)
}
