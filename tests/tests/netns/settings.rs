//! One property of the bridge at a time: what everybody receives while it is set must not depend on xbr, whether it was
//! set while xbr ran or before, and frames must be counted under the right name.

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::{BROADCAST, Frame, Mac, Tag},
    measure::Reading,
    xbr::Xbr,
};

use super::{
    observe::{Observed, Probe, observe, teach},
    scene::Scene,
};

/// A group address that is nobody's.
pub(crate) const GROUP: Mac = [0x01, 0, 0x5e, 0x51, 2, 3];
/// An address that nobody has.
pub(crate) const NOBODY: Mac = [2, 0x0b, 9, 9, 9, 9];

/// A change of the host's settings.
pub(crate) type Change = Box<dyn Fn(&Scene) -> Result<()>>;

/// Commands in the host's namespace.
pub(crate) fn host(lines: &'static [&'static str]) -> Change {
    Box::new(move |scene| lines.iter().try_for_each(|line| scene.host(line).map(drop)))
}

/// A property, and what is asked of xbr while it is set.
pub(crate) struct Setting {
    what: &'static str,
    set: Change,
    unset: Change,
    counted: &'static [(&'static str, &'static str)],
    matters: bool,
    before: bool,
}

impl Setting {
    /// `counted`: ports, and reasons under which frames from there have to be counted meanwhile.
    pub(crate) fn new(
        what: &'static str,
        set: Change,
        unset: Change,
        counted: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { what, set, unset, counted, matters: true, before: true }
    }

    /// A property that changes nothing for these frames: the fast path has to stay. Tried only while xbr runs.
    pub(crate) fn idle(what: &'static str, set: &'static [&'static str], unset: &'static [&'static str]) -> Self {
        Self { matters: false, before: false, ..Self::new(what, host(set), host(unset), &[("g1", "forwarded_tc")]) }
    }

    /// It changes nothing for these frames, but it keeps them slow.
    #[must_use]
    pub(crate) fn without_effect(self) -> Self {
        Self { matters: false, ..self }
    }

    /// Tried only while xbr runs, to save time.
    #[must_use]
    pub(crate) fn only_under_way(self) -> Self {
        Self { before: false, ..self }
    }
}

/// A frame from the guest with this index.
pub(crate) fn probe(from: usize, frame: Frame) -> Probe {
    Probe { from, frame }
}

/// A frame of every guest to every other, to everybody, to a group, and to nobody.
pub(crate) fn everybody(scene: &Scene, stacks: &[&[Tag]]) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (from, sender) in scene.guests.iter().enumerate() {
        let others = scene.guests.iter().map(|guest| guest.mac).filter(|mac| *mac != sender.mac);
        for to in others.chain([BROADCAST, GROUP, NOBODY]) {
            for stack in stacks {
                let mut frame = Frame::new(sender.mac, to);
                frame.tags = stack.to_vec();
                probes.push(probe(from, frame));
            }
        }
    }
    probes
}

/// What everybody receives once the bridge knows who is where.
fn steady(scene: &Scene, probes: &[Probe]) -> Result<Observed> {
    teach(scene, probes)?;
    teach(scene, probes)?;
    observe(scene, probes)
}

/// As [`steady`], with xbr: it takes two rounds until the known are fast, the second refreshes. A question to the daemon
/// is answered after what the kernel has announced before it.
fn steady_with(xbr: &Xbr, scene: &Scene, probes: &[Probe], counted: &[(&str, &str)]) -> Result<Observed> {
    teach(scene, probes)?;
    let reading = Reading::take(xbr)?;
    teach(scene, probes)?;
    teach(scene, probes)?;
    let observed = observe(scene, probes)?;
    let deltas = reading.since(xbr)?;
    for (port, reason) in counted {
        let delta = deltas.get(*port).with_context(|| format!("no port {port} in the status"))?;
        let frames = delta.reasons.get(*reason).copied().unwrap_or_default();
        ensure!(frames > 0, "no frame from {port} was counted as {reason}: {delta:?}");
    }
    Ok(observed)
}

/// The whole comparison. The guests that send must be able to all the time.
pub(crate) fn follow(scene: &Scene, args: &[&str], probes: &[Probe], settings: &[Setting]) -> Result<()> {
    const USUAL: &[(&str, &str)] = &[("g1", "forwarded_tc")];
    let usual = steady(scene, probes)?;
    let mut plain = Vec::new();
    for setting in settings {
        (setting.set)(scene).context(setting.what)?;
        let observed = steady(scene, probes)?;
        ensure!(
            observed.differs(&usual) == setting.matters,
            "{}: the plain bridge forwards {} with it",
            setting.what,
            if setting.matters { "no differently" } else { "differently" }
        );
        plain.push(observed);
        (setting.unset)(scene).context(setting.what)?;
    }
    let xbr = scene.xbr(args)?;
    let at = |setting: &Setting, when: &str| format!("{} {when}", setting.what);
    usual.expect(&steady_with(&xbr, scene, probes, USUAL)?, scene, "before the first setting", probes)?;
    for (setting, plain) in settings.iter().zip(&plain) {
        (setting.set)(scene)?;
        let when = at(setting, "set while xbr runs");
        let observed = steady_with(&xbr, scene, probes, setting.counted).with_context(|| when.clone())?;
        plain.expect(&observed, scene, &when, probes)?;
        (setting.unset)(scene)?;
    }
    let after = steady_with(&xbr, scene, probes, USUAL).context("after the last setting")?;
    usual.expect(&after, scene, "after the last setting", probes)?;
    xbr.stop()?;
    for (setting, plain) in settings.iter().zip(&plain).filter(|(setting, _)| setting.before) {
        (setting.set)(scene)?;
        steady(scene, probes)?;
        let xbr = scene.xbr(args)?;
        let when = at(setting, "set before xbr starts");
        let observed = steady_with(&xbr, scene, probes, setting.counted).with_context(|| when.clone())?;
        plain.expect(&observed, scene, &when, probes)?;
        xbr.stop()?;
        (setting.unset)(scene)?;
    }
    Ok(())
}
