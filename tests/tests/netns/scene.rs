//! A bridge with guests, and the steps that most tests begin with.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use xbr_tests::{
    frame::{BROADCAST, Frame, Tag},
    measure::Reading,
    net::{Guest, Kind, Net},
    traffic::{Flow, flow_number},
    wait,
    xbr::Xbr,
};

/// A net with the bridge br0 and guests on it.
pub(crate) struct Scene {
    /// The namespaces.
    pub(crate) net: Net,
    /// The guests, in the order asked for.
    pub(crate) guests: Vec<Guest>,
}

impl Scene {
    /// A VLAN-unaware br0 with guests g1, g2, … of these kinds.
    pub(crate) fn new(kinds: &[Kind]) -> Result<Self> {
        Self::with("", kinds)
    }

    /// As [`Scene::new`], with options in the words of `ip link add type bridge`.
    pub(crate) fn with(options: &str, kinds: &[Kind]) -> Result<Self> {
        let net = Net::new()?;
        net.bridge("br0", options)?;
        let mut guests = Vec::new();
        for (kind, name) in kinds.iter().zip(["g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8"]) {
            let guest = net.guest(name, *kind)?;
            net.join(&guest, "br0")?;
            guests.push(guest);
        }
        let scene = Self { net, guests };
        scene.greet()?;
        Ok(scene)
    }

    /// Every guest sends a broadcast, so that the bridge knows where it is.
    pub(crate) fn greet(&self) -> Result<()> {
        self.greet_tagged(&[])
    }

    /// As [`Scene::greet`], with tags.
    pub(crate) fn greet_tagged(&self, tags: &[Tag]) -> Result<()> {
        self.send_greetings(tags, None)
    }

    /// As [`Scene::greet`], but for the guest with this index.
    pub(crate) fn greet_but(&self, missing: usize) -> Result<()> {
        self.send_greetings(&[], Some(missing))
    }

    fn send_greetings(&self, tags: &[Tag], missing: Option<usize>) -> Result<()> {
        for (index, guest) in self.guests.iter().enumerate() {
            if Some(index) == missing {
                continue;
            }
            let mut frame = Frame::new(guest.mac, BROADCAST);
            frame.tags = tags.to_vec();
            guest.sender()?.send(&frame.bytes())?;
        }
        sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Starts the daemon on br0 with further arguments.
    pub(crate) fn xbr(&self, args: &[&str]) -> Result<Xbr> {
        let mut words = vec!["br0"];
        words.extend_from_slice(args);
        Xbr::start(&self.net.host, &words)
    }

    /// The first N guests.
    pub(crate) fn first<const N: usize>(&self) -> [&Guest; N] {
        std::array::from_fn(|index| &self.guests[index])
    }

    /// All guests but these.
    pub(crate) fn others(&self, but: &[&Guest]) -> Vec<&Guest> {
        self.guests.iter().filter(|guest| but.iter().all(|other| other.name != guest.name)).collect()
    }

    /// Sends `frames` numbered frames between two warm guests: an error unless each arrives once, nowhere else, and at
    /// least 99 % of them by the fast path.
    pub(crate) fn steady(&self, xbr: &Xbr, from: &Guest, to: &Guest, frames: u32) -> Result<()> {
        let frame = Frame::new(from.mac, to.mac);
        self.steady_frame(xbr, from, to, &frame, frames)
    }

    /// As [`Scene::steady`], with this frame.
    pub(crate) fn steady_frame(&self, xbr: &Xbr, from: &Guest, to: &Guest, frame: &Frame, frames: u32) -> Result<()> {
        let context = || format!("{} to {}, {} bytes, tags {:x?}", from.name, to.name, frame.bytes().len(), frame.tags);
        let reading = Reading::take(xbr)?;
        let others = self.others(&[from, to]);
        let flow = Flow::start(from, &[to], &others, frame.clone(), 4000 / wait::slowness(), frames)?;
        flow.finish()?.exact().with_context(context)?;
        let deltas = reading.since(xbr)?;
        let delta = deltas.get(&from.port).with_context(|| format!("no port {} in the status", from.port))?;
        delta.steady(u64::from(frames) * 99 / 100).with_context(context)
    }

    /// Runs a command in the host's namespace.
    pub(crate) fn host(&self, line: &str) -> Result<String> {
        self.net.host.cmd(line)
    }
}

/// Sends single frames between two guests until those of both ports take the fast path.
pub(crate) fn warm(xbr: &Xbr, one: &Guest, other: &Guest) -> Result<()> {
    warm_tagged(xbr, (one, &[]), (other, &[]))
}

/// As [`warm`], where each guest sends with these tags.
pub(crate) fn warm_tagged(xbr: &Xbr, one: (&Guest, &[Tag]), other: (&Guest, &[Tag])) -> Result<()> {
    let flow = flow_number();
    let (here, there) = (one.0.sender()?, other.0.sender()?);
    let frame = |from: (&Guest, &[Tag]), to: &Guest| {
        let mut frame = Frame::new(from.0.mac, to.mac).numbered(flow, 0);
        frame.tags = from.1.to_vec();
        frame.bytes()
    };
    let before = (xbr.fast(&one.0.port)?, xbr.fast(&other.0.port)?);
    wait::until(&format!("fast path between {} and {}", one.0.name, other.0.name), Duration::from_secs(5), || {
        here.send(&frame(one, other.0))?;
        there.send(&frame(other, one.0))?;
        sleep(Duration::from_millis(20));
        Ok(xbr.fast(&one.0.port)? > before.0 && xbr.fast(&other.0.port)? > before.1)
    })
    .with_context(|| xbr.summary())
}
