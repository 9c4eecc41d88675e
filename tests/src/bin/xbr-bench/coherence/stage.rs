//! The bridge with its guests, the flow, and the daemon if there is one.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf::{Map, possible_cpus},
    frame::{BROADCAST, Frame, Mac},
    net::{self, Guest, Net},
    packet::{Capture, Sender},
    rtnl::Rtnl,
    wait::slowness,
    xbr::Xbr,
};

use super::{
    Mode,
    flow::{Flow, now},
    kind::Kind,
};

/// Cells of a port's counters, of two words each; the first two are those of the fast path.
const CELLS: usize = 64;
/// How long a round may take to become fast again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that a round needs. Fields are dropped in this order.
pub(super) struct Stage {
    pub(super) flow: Flow,
    pub(super) rtnl: Rtnl,
    /// Interface indices of the ports of the sender, the station, another place and a witness.
    pub(super) ports: [u32; 4],
    pub(super) bridge: u32,
    pub(super) sender: Mac,
    pub(super) station: Mac,
    /// What arrives at the station's place, and at the witness.
    pub(super) at_station: Capture,
    pub(super) at_witness: Capture,
    pub(super) witness: Mac,
    here: Sender,
    there: Sender,
    shown: u32,
    fast: Option<Fast>,
    xbr: Option<Xbr>,
    _guests: Vec<Guest>,
    _net: Net,
}

/// The daemon's count of fast frames from the sender's port, read without asking it.
struct Fast {
    counters: Map,
    slot: u32,
}

impl Fast {
    fn of(xbr: &Xbr, port: u32) -> Result<Self> {
        let slots = Map::of(xbr.pid(), "xbr_slots", 4)?;
        let slot = slots.get(port)?.context("the sender's port has no slot")?;
        let slot = u32::from_ne_bytes(slot.try_into().unwrap_or_default());
        Ok(Self { counters: Map::of(xbr.pid(), "xbr_count", possible_cpus()? * CELLS * 16)?, slot })
    }

    fn count(&self) -> Result<u64> {
        let value = self.counters.get(self.slot)?.context("no counters")?;
        let word =
            |at: usize| value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
        // forwarded_tc and forwarded_xdp of every processor.
        Ok((0..value.len()).step_by(CELLS * 16).map(|cpu| word(cpu) + word(cpu + 16)).sum())
    }
}

impl Stage {
    pub(super) fn new(kind: Kind, mode: Mode, gap: u64) -> Result<Self> {
        let net = Net::new()?;
        net.bridge("br0", kind.options())?;
        let mut guests = Vec::new();
        for name in ["g1", "g2", "g3", "g4"] {
            let guest = net.guest(name, net::Kind::Veth)?;
            net.join(&guest, "br0")?;
            guests.push(guest);
        }
        let index = |name: &str| net.host.enter(|| nix::net::if_::if_nametoindex(name))?.context(name.to_owned());
        let ports = [index("g1")?, index("g2")?, index("g3")?, index("g4")?];
        let bridge = index("br0")?;
        let [from, to, other, witness] = [&guests[0], &guests[1], &guests[2], &guests[3]];
        for guest in &guests {
            guest.sender()?.send(&Frame::new(guest.mac, BROADCAST).bytes())?;
        }
        let mut words = vec!["br0"];
        if mode == Mode::Netlink {
            words.extend(["--coherence", "netlink"]);
        }
        let xbr = if mode == Mode::Bridge { None } else { Some(Xbr::start(&net.host, &words)?) };
        let fast = xbr.as_ref().map(|xbr| Fast::of(xbr, ports[0])).transpose()?;
        let frame = Frame::new(from.mac, to.mac);
        let number = xbr_tests::traffic::flow_number();
        let mut stage = Self {
            flow: Flow::start(from.sender()?, &frame, number, gap),
            rtnl: Rtnl::open(&net.host)?,
            ports,
            bridge,
            sender: from.mac,
            station: to.mac,
            at_station: to.capture()?,
            at_witness: witness.capture()?,
            witness: witness.mac,
            here: to.sender()?,
            there: other.sender()?,
            shown: 0,
            fast,
            xbr,
            _guests: guests,
            _net: net,
        };
        kind.prepare(&mut stage)?;
        Ok(stage)
    }

    /// The station sends a frame to the witness, from its own place or from the other one. On return the witness has it,
    /// so the bridge has learnt where the station is.
    pub(super) fn show_up(&mut self, elsewhere: bool) -> Result<()> {
        let sender = if elsewhere { &self.there } else { &self.here };
        let number = self.flow.number + 1;
        let deadline = Instant::now() + PATIENCE * slowness();
        loop {
            self.shown += 1;
            let bytes = Frame::new(self.station, self.witness).numbered(number, self.shown).bytes();
            // The port may still be on its way up: lost frames are sent again.
            let sent = sender.send(&bytes);
            let until = Instant::now() + Duration::from_millis(2) * slowness();
            while sent.is_ok() && Instant::now() < until {
                while let Some(frame) = self.at_witness.next(Duration::ZERO)? {
                    if frame.mark().is_some_and(|mark| mark.flow == number && mark.seq == self.shown) {
                        return Ok(());
                    }
                }
            }
            ensure!(Instant::now() < deadline, "the station's frames do not reach the witness");
        }
    }

    /// Waits until the flow arrives at the station again, by the fast path if there is one.
    pub(super) fn wait_steady(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE * slowness();
        loop {
            let (sent, fast) = (self.flow.sent(), self.fast_count()?);
            self.drain_station()?;
            sleep(Duration::from_micros(200) * slowness());
            let sent = u64::from(self.flow.sent() - sent);
            // The count before was read after `sent`, so a frame in between may be missing from it.
            let fast = self.fast_count()?.zip(fast).map_or(sent, |(after, before)| after - before);
            if sent >= 3 && fast + 2 >= sent && !self.drain_station()?.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the flow does not come back to the fast path: {}",
                self.xbr.as_ref().map(Xbr::summary).unwrap_or_default()
            );
        }
    }

    fn fast_count(&self) -> Result<Option<u64>> {
        self.fast.as_ref().map(Fast::count).transpose()
    }

    /// Numbers of the flow's frames that wait at the station's place.
    pub(super) fn drain_station(&mut self) -> Result<Vec<u32>> {
        drain(&mut self.at_station, self.flow.number)
    }

    /// Numbers of the flow's frames that wait at the witness.
    pub(super) fn drain_witness(&mut self) -> Result<Vec<u32>> {
        drain(&mut self.at_witness, self.flow.number)
    }

    /// Restores what a kind changed, and how long that took to be fast again, in nanoseconds.
    pub(super) fn restore(&mut self, kind: Kind) -> Result<u64> {
        kind.restore(self)?;
        let restored = now();
        self.wait_steady()?;
        Ok(now() - restored)
    }

    /// Stops the daemon.
    pub(super) fn end(mut self) -> Result<()> {
        self.xbr.take().map_or(Ok(()), Xbr::stop)
    }
}

fn drain(capture: &mut Capture, flow: u32) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    while let Some(frame) = capture.next(Duration::ZERO)? {
        numbers.extend(frame.mark().filter(|mark| mark.flow == flow).map(|mark| mark.seq));
    }
    Ok(numbers)
}
