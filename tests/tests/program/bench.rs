//! The programs, their maps, and a few devices in a namespace of their own.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd as _,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, anyhow};
use bridge_common::{
    fdb::pack,
    frame::{ETH_HLEN, MIN_TAGGED, Tag, VLAN_HLEN, is_tag},
    maps::{FdbKey, Port},
    reason::Reason,
};
use bridge_user::datapath::{
    Entries, Programs, Tables,
    counters::{self, Served},
    load,
};
use nix::net::if_::if_nametoindex;
use xbr_tests::netns::Netns;

use crate::{
    bpf::{Prologue, SKB_WORDS, XDP_WORDS, skb, test_run},
    world::{COUNTED, ELSEWHERE, GONE, HERE, SHAPE, SLOTS, State, THERE, World, generation_cell, vlan_cell},
};

/// tc's verdicts, as `BPF_PROG_TEST_RUN` returns them.
pub(crate) const TC_PASS: u32 = u32::MAX;
pub(crate) const TC_REDIRECT: u32 = 7;
/// XDP's verdicts.
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_REDIRECT: u32 = 4;

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    /// Slot and reason.
    Port(u16, Reason),
    /// Fast frames of a VLAN's cell.
    Fast(u32),
    /// Slow frames of a VLAN's cell.
    Slow(u32),
}

/// Packets and bytes, without zeros.
pub(crate) type Counts = BTreeMap<Cell, (u64, u64)>;

/// A frame on its way in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    /// As on the wire: all tags in the bytes.
    pub(crate) wire: &'a [u8],
    /// Interface index of the device where it comes in.
    pub(crate) ifindex: u32,
    /// tc: a super-frame.
    pub(crate) gso: bool,
    /// tc: the outer tag stays in the bytes, which no kernel does.
    pub(crate) untouched: bool,
}

impl Arrival<'_> {
    /// The frame as the tc program receives it: the tag in metadata, and the bytes.
    fn received(&self) -> (Option<Tag>, Vec<u8>) {
        if self.untouched { (None, self.wire.to_vec()) } else { untag(self.wire) }
    }

    fn context(&self) -> [u32; SKB_WORDS] {
        let mut context = [0; SKB_WORDS];
        context[skb::IFINDEX] = self.ifindex;
        if self.gso {
            context[skb::GSO_SIZE] = 1;
            context[skb::GSO_SEGS] = 2;
        }
        context
    }
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: u32,
    /// As it would lie on the wire.
    pub(crate) wire: Vec<u8>,
    /// What was counted.
    pub(crate) counts: Counts,
}

/// Everything a test needs.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) tables: Tables,
    prologue: Prologue,
    /// Interface indices by slot.
    devices: BTreeMap<u16, u32>,
    /// Interface index of a device that xbr does not know.
    pub(crate) stranger: u32,
    /// What the tables hold.
    installed: Option<World>,
    /// Keys in the FDB.
    keys: Vec<FdbKey>,
}

impl Bench {
    /// Runs a test in a namespace of its own, on a thread of its own.
    pub(crate) fn run(test: fn(&mut Self) -> Result<()>) -> Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let space = Netns::create(&format!("xbr-t-{}-prog{number}", std::process::id()))?;
        space.cmd("ip link add p1 type veth peer name q1")?;
        space.cmd("ip link add p2 type veth peer name q2")?;
        for dev in ["p1", "q1", "p2", "q2"] {
            space.cmd(&format!("ip link set {dev} up"))?;
        }
        space.enter(|| test(&mut Self::new()?))?
    }

    /// Loads the programs, in the namespace of this thread.
    pub(crate) fn new() -> Result<Self> {
        Self::with(Entries::Fast)
    }

    /// Loads the programs of this mode.
    pub(crate) fn with(entries: Entries) -> Result<Self> {
        let mut programs = Programs::load_entries(SHAPE, entries).map_err(|failure| anyhow!("{failure}"))?;
        let mut tables = Tables::take(&mut programs).map_err(|failure| anyhow!("{failure}"))?;
        let (here, there, elsewhere) = (if_nametoindex("p1")?, if_nametoindex("p2")?, if_nametoindex("q2")?);
        let stranger = if_nametoindex("q1")?;
        let devices = BTreeMap::from([(HERE, here), (THERE, there), (ELSEWHERE, elsewhere)]);
        for (slot, ifindex) in &devices {
            tables.put_device(*ifindex, u32::from(*slot))?;
            assert!(tables.put_egress(*slot, *ifindex), "device {ifindex} in the device map");
        }
        for fid in COUNTED {
            tables.put_vlan_cell(fid, vlan_cell(fid))?;
        }
        let program =
            load::classifier(&mut programs.ebpf, entries.ingress()).map_err(|failure| anyhow!("{failure}"))?;
        let prologue = Prologue::load(program.fd()?.as_fd())?;
        Ok(Self { programs, tables, prologue, devices, stranger, installed: None, keys: Vec::new() })
    }

    /// Interface index of the device in `slot`.
    pub(crate) fn device(&self, slot: u16) -> u32 {
        self.devices.get(&slot).copied().unwrap_or(self.stranger)
    }

    /// Writes all tables, if they are not as wanted already.
    pub(crate) fn install(&mut self, world: &World) -> Result<()> {
        if self.installed.as_ref() == Some(world) {
            return Ok(());
        }
        self.tables.lease(world.lease);
        for slot in [HERE, THERE, ELSEWHERE, GONE] {
            let mut port = world.ports.get(&slot).copied().unwrap_or(Port::EMPTY);
            port.ifindex = self.device(slot);
            self.tables.put_port(slot, &port)?;
        }
        for key in self.keys.drain(..) {
            self.tables.remove_fdb(key);
        }
        for ((fid, mac), row) in &world.fdb {
            let current = self.tables.generation(generation_cell(*mac, row.vid));
            let generation = if row.state == State::Stale { current.wrapping_add(1) } else { current };
            let key = FdbKey::new(*fid, *mac);
            let data = pack(row.slot, row.flags, generation);
            assert!(self.tables.put_fdb(key, data, row.refresh_at), "the FDB has room");
            self.keys.push(key);
        }
        self.installed = Some(world.clone());
        Ok(())
    }

    /// Hands a frame to the tc program. The tables are those of `world` before, and what the program made of them after.
    /// The inner result is the system call's.
    pub(crate) fn tc(&mut self, world: &World, arrival: Arrival<'_>) -> Result<io::Result<Outcome>> {
        let (tag, bytes) = arrival.received();
        self.install(world)?;
        let mut outcome = match self.tc_once(arrival, None)? {
            Ok(outcome) => outcome,
            Err(error) => return Ok(Err(error)),
        };
        // What the tag has become takes another run, from the same tables and with the same effect on them.
        let changed = self.installed.is_none();
        self.install(world)?;
        let looked = self.prologue.run_and_look(&bytes, tag, arrival.context());
        if changed {
            self.installed = None;
        }
        Ok(looked.map(|tag| {
            outcome.wire = with_tag(&outcome.wire, tag);
            outcome
        }))
    }

    /// Hands one more frame to the tc program, with the tables as they are. It leaves with `tag_after`.
    pub(crate) fn tc_once(&mut self, arrival: Arrival<'_>, tag_after: Option<Tag>) -> Result<io::Result<Outcome>> {
        let (tag, bytes) = arrival.received();
        let before = self.counts()?;
        let ran = match self.prologue.run(&bytes, tag, arrival.context()) {
            Ok(ran) => ran,
            Err(error) => return Ok(Err(error)),
        };
        let counts = difference(&before, &self.counts()?);
        if counts.keys().any(|cell| matches!(cell, Cell::Port(_, Reason::Refresh | Reason::SourceMoved))) {
            // The program has changed the tables.
            self.installed = None;
        }
        Ok(Ok(Outcome { verdict: ran.verdict, wire: with_tag(&ran.data, tag_after), counts }))
    }

    /// Hands a frame to the XDP program, with `metadata` bytes of its headroom taken (a multiple of 4), and all but the
    /// first `linear` bytes in other buffers.
    pub(crate) fn xdp_in(
        &mut self,
        arrival: Arrival<'_>,
        metadata: usize,
        linear: usize,
    ) -> Result<io::Result<Outcome>> {
        let before = self.counts()?;
        let data = [vec![0; metadata], arrival.wire.to_vec()].concat();
        let context: [u32; XDP_WORDS] =
            [u32::try_from(metadata)?, u32::try_from(metadata + linear)?, 0, arrival.ifindex, 0, 0];
        let xbr_xdp = load::xdp(&mut self.programs.ebpf).map_err(|failure| anyhow!("{failure}"))?;
        let ran = match test_run(xbr_xdp.fd()?.as_fd(), &data, &context, 1) {
            Ok(ran) => ran,
            Err(error) => return Ok(Err(error)),
        };
        let wire = ran.data.get(metadata..).context("the metadata is gone")?.to_vec();
        Ok(Ok(Outcome { verdict: ran.verdict, wire, counts: difference(&before, &self.counts()?) }))
    }

    /// Hands a frame to the XDP program.
    pub(crate) fn xdp(&mut self, world: &World, arrival: Arrival<'_>) -> Result<io::Result<Outcome>> {
        self.install(world)?;
        self.xdp_in(arrival, 0, arrival.wire.len())
    }

    /// All counters.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::new();
        let served = Served::read(&self.tables);
        for slot in SLOTS {
            for (reason, count) in counters::port(&self.tables, &served, slot)?.reasons {
                counts.insert(Cell::Port(slot, reason), (count.packets, count.bytes));
            }
        }
        for cell in 0..=u32::try_from(COUNTED.len())? {
            let (mut fast, mut slow) = counters::vlan(&self.tables, cell)?;
            for (_, (fast_since, slow_since)) in served.vlans().iter().filter(|(fid, _)| vlan_cell(**fid) == cell) {
                fast += *fast_since;
                slow += *slow_since;
            }
            counts.insert(Cell::Fast(cell), (fast.packets, fast.bytes));
            counts.insert(Cell::Slow(cell), (slow.packets, slow.bytes));
        }
        Ok(counts)
    }
}

/// What was counted between two moments.
pub(crate) fn difference(before: &Counts, after: &Counts) -> Counts {
    let grown = |(cell, (packets, bytes)): (&Cell, &(u64, u64))| {
        let (packets_before, bytes_before) = before.get(cell).copied().unwrap_or_default();
        let growth = (packets - packets_before, bytes - bytes_before);
        (growth != (0, 0)).then_some((*cell, growth))
    };
    after.iter().filter_map(grown).collect()
}

/// `skb_vlan_untag`: the outer tag goes to metadata. What it would drop is left as it is.
pub(crate) fn untag(wire: &[u8]) -> (Option<Tag>, Vec<u8>) {
    let at = ETH_HLEN as usize - 2;
    let be16 = |at: usize| wire.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    match (be16(at), be16(at + 2)) {
        (Some(tpid), Some(tci)) if is_tag(tpid) && wire.len() >= MIN_TAGGED => {
            (Some(Tag::new(tpid, tci)), [&wire[..at], &wire[at + VLAN_HLEN as usize..]].concat())
        }
        _ => (None, wire.to_vec()),
    }
}

/// The frame with this tag in front.
pub(crate) fn with_tag(bytes: &[u8], tag: Option<Tag>) -> Vec<u8> {
    match tag {
        None => bytes.to_vec(),
        Some(tag) => [&bytes[..12], &tag.tpid().to_be_bytes(), &tag.tci().to_be_bytes(), &bytes[12..]].concat(),
    }
}
