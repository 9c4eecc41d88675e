//! Contenders in their place.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use xbr_tests::{
    bpf::{self, Attached, steer},
    measure::Reading,
    netns::Netns,
    wait,
    xbr::Xbr,
};

use super::{
    case::{Frames, Work},
    contender::Kind,
    stage::{IN, Stage, out},
};

/// How long a foreign contender that goes on running may take to be ready.
const SETTLE: Duration = Duration::from_secs(3);
/// How long xbr may take to read a large FDB.
const MANY: Duration = Duration::from_mins(3);

/// GRO, and with it NAPI, at a container's end, until it is dropped.
struct Napi(Arc<Netns>);

impl Napi {
    fn new(space: &Arc<Netns>) -> Result<Self> {
        space.cmd("ethtool -K eth0 gro on")?;
        Ok(Self(Arc::clone(space)))
    }
}

impl Drop for Napi {
    fn drop(&mut self) {
        // The namespace may be about to go.
        drop(self.0.output("ethtool -K eth0 gro off"));
    }
}

/// A contender in its place; everything is taken away on drop.
#[derive(Default)]
pub(crate) struct Attachment {
    pub(super) programs: Vec<Attached>,
    xbr: Option<(Xbr, Reading)>,
    rules: Option<Rules>,
    napi: Option<Napi>,
    pub(super) foreign: Option<Foreign>,
}

impl Attachment {
    pub(super) fn own(&mut self, kind: Kind, stage: &Stage) -> Result<()> {
        let (host, to) = (stage.host(), out(0));
        // What comes back from a receiver has to get through as well.
        let both = !matches!(stage.work, Work::Frames(_));
        let ways: &[(&str, &str)] = if both { &[(IN, &to), (&to, IN)] } else { &[(IN, &to)] };
        // Frames that XDP sends to a veth are lost unless NAPI runs at its other end, which a container has no reason to want.
        if kind == Kind::Xdp && matches!(stage.work, Work::Udp(..)) {
            self.napi = Some(Napi::new(&stage.target)?);
        }
        for (from, to) in ways {
            let program = host.enter(|| match kind {
                Kind::Tc => steer::tc_redirect(from, to).map(Some),
                Kind::Peer => steer::tc_redirect_peer(from, to).map(Some),
                Kind::Xdp if stage.outs() > 1 => {
                    let all: Vec<String> = (0..stage.outs()).map(out).collect();
                    steer::xdp_redirect_by_address(from, &all).map(Some)
                }
                Kind::Xdp => steer::xdp_redirect(from, to).map(Some),
                Kind::EmptyTcx => bpf::tcx_pass(from).map(Some),
                Kind::EmptyXdp => bpf::xdp_pass(from).map(Some),
                Kind::Floor
                | Kind::Bridge
                | Kind::Macvlan
                | Kind::Ovs
                | Kind::Xbr
                | Kind::XbrTc
                | Kind::XbrPeer
                | Kind::BrNetfilter
                | Kind::Rules => Ok(None),
            })??;
            self.programs.extend(program);
            if kind == Kind::EmptyXdp {
                self.programs.push(host.enter(|| bpf::tcx_pass(from))??);
            }
        }
        match kind {
            Kind::Xbr | Kind::XbrTc | Kind::XbrPeer => self.xbr = Some(start_xbr(kind, stage)?),
            Kind::BrNetfilter => self.rules = Some(Rules::new(stage, &[])?),
            Kind::Rules => {
                self.rules = Some(Rules::new(
                    stage,
                    &[
                        "nft add table ip bench",
                        "nft add chain ip bench forward { type filter hook forward priority 0 ; }",
                        "nft add rule ip bench forward ct state new,established counter accept",
                    ],
                )?);
            }
            Kind::Floor
            | Kind::Bridge
            | Kind::Tc
            | Kind::Xdp
            | Kind::Peer
            | Kind::Macvlan
            | Kind::Ovs
            | Kind::EmptyTcx
            | Kind::EmptyXdp => {}
        }
        Ok(())
    }

    /// An error unless the frames since the start took the path that the case is about.
    pub(crate) fn check(&self, stage: &Stage) -> Result<()> {
        let Some((xbr, before)) = &self.xbr else { return Ok(()) };
        let ports = before.since(xbr)?;
        let delta = ports.get(IN).with_context(|| format!("xbr does not know port {IN}"))?;
        let refused = || format!("the figure of xbr is refused: {}", xbr.summary());
        if let Work::Frames(Frames { known: false, .. }) = stage.work {
            let passed = delta.reasons.get("destination_unknown").copied().unwrap_or(0);
            ensure!(delta.fast == 0 && passed > 0, "{delta:?}: {}", refused());
            return Ok(());
        }
        delta.steady(100).with_context(refused)
    }

    /// Takes it away in order.
    pub(crate) fn detach(mut self) -> Result<()> {
        self.xbr.take().map_or(Ok(()), |(xbr, _)| xbr.stop())
    }
}

/// Starts the daemon as a user would.
fn start_xbr(kind: Kind, stage: &Stage) -> Result<(Xbr, Reading)> {
    let mut words = vec!["br0".to_owned()];
    if kind == Kind::XbrPeer {
        words.push("--redirect-peer".to_owned());
    }
    let Work::Frames(frames) = stage.work else {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let xbr = Xbr::start(stage.host(), &words)?;
        xbr.wait_accelerated(IN)?;
        xbr.wait_accelerated(&out(0))?;
        return known(xbr, 2);
    };
    if kind == Kind::Xbr {
        words.extend(["--hook".to_owned(), format!("{IN}=xdp")]);
    }
    if frames.addresses > 30_000 {
        words.extend(["--fdb-size".to_owned(), (frames.addresses + frames.addresses / 4).to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let xbr = Xbr::start_patiently(stage.host(), &words, MANY)?;
    xbr.wait_accelerated(IN)?;
    let wanted = if frames.known { u64::from(frames.addresses) + 1 } else { 1 };
    known(xbr, wanted)
}

/// Waits until so many FDB entries are in xbr's tables.
fn known(xbr: Xbr, wanted: u64) -> Result<(Xbr, Reading)> {
    wait::until("the FDB in xbr's tables", MANY, || {
        Ok(xbr.status()?["bridges"][0]["fdb_entries"].as_u64().unwrap_or(0) >= wanted)
    })?;
    let before = Reading::take(&xbr)?;
    Ok((xbr, before))
}

/// `br_netfilter` on, with or without rules, in a namespace.
struct Rules(Arc<Netns>);

impl Rules {
    fn new(stage: &Stage, lines: &[&str]) -> Result<Self> {
        let rules = Self(stage.host().clone());
        rules.0.sysctl("bridge/bridge-nf-call-iptables", "1")?;
        lines.iter().try_for_each(|line| rules.0.cmd(line).map(drop))?;
        Ok(rules)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // The namespace ends soon anyway.
        drop(self.0.output("nft flush ruleset"));
        drop(self.0.sysctl("bridge/bridge-nf-call-iptables", "0"));
    }
}

/// A command of the user's, and everything that it started.
pub(super) struct Foreign(Child);

impl Foreign {
    /// Runs it in the host's namespace. It may attach something and end, or go on running.
    pub(super) fn start(command: &str, stage: &Stage) -> Result<Self> {
        let child = Command::new("ip")
            .args(["netns", "exec", stage.host().name(), "sh", "-c", command])
            .env("BRIDGE", "br0")
            .env("PORT_IN", IN)
            .env("PORT_OUT", out(0))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run `{command}`"))?;
        let mut foreign = Self(child);
        let start = Instant::now();
        while start.elapsed() < SETTLE {
            match foreign.0.try_wait()? {
                Some(status) if status.success() => break,
                Some(status) => bail!("`{command}` ended with {status}: it has to attach, and end with 0 or go on"),
                None => sleep(Duration::from_millis(50)),
            }
        }
        Ok(foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.id().cast_signed());
        // It may have ended by itself.
        let _ = killpg(group, Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < SETTLE && self.0.try_wait().is_ok_and(|status| status.is_none()) {
            sleep(Duration::from_millis(20));
        }
        let _ = killpg(group, Signal::SIGKILL);
        drop(self.0.wait());
    }
}
