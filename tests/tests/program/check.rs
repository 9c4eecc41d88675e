//! How a row of a table is written down and checked.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use bridge_common::{decide::Edit, reason::Reason};
use xbr_tests::frame::describe;

use crate::{
    bench::{Arrival, Bench, Outcome, untag},
    model::{self, End},
    world::{HERE, World},
};

/// A row: one frame, and what both programs make of it.
pub(crate) struct Row {
    name: String,
    world: World,
    wire: Vec<u8>,
    slot: Option<u16>,
    gso: bool,
    /// The VLAN that the frame was classified into.
    vid: Option<u16>,
    tc: End,
    xdp: Option<End>,
    untouched: bool,
}

/// Both leave the frame to the bridge for `reason`; classified into `vid`.
pub(crate) fn slow(name: impl Into<String>, world: World, wire: &[u8], vid: Option<u16>, reason: Reason) -> Row {
    let end = End::Slow(reason);
    Row {
        name: name.into(),
        world,
        wire: wire.to_vec(),
        slot: Some(HERE),
        gso: false,
        vid,
        tc: end,
        xdp: Some(end),
        untouched: false,
    }
}

/// Both send the frame on.
pub(crate) fn fast(name: impl Into<String>, world: World, wire: &[u8], vid: u16, edit: Edit) -> Row {
    let end = End::Fast(edit);
    Row { tc: end, xdp: Some(end), ..slow(name, world, wire, Some(vid), Reason::Inconsistent) }
}

/// The XDP program leaves the frame to the tc program, which sends it on.
pub(crate) fn tc_only(name: impl Into<String>, world: World, wire: &[u8], vid: u16, edit: Edit) -> Row {
    Row { xdp: Some(End::Slow(Reason::Inconsistent)), ..fast(name, world, wire, vid, edit) }
}

impl Row {
    /// From a device that xbr does not know.
    pub(crate) fn at_stranger(self) -> Self {
        Self { slot: None, ..self }
    }

    /// A super-frame, which XDP never sees.
    pub(crate) fn gso(self) -> Self {
        Self { gso: true, xdp: None, ..self }
    }

    /// With the tag in the bytes where tc expects it in metadata.
    pub(crate) fn untouched(self) -> Self {
        Self { untouched: true, xdp: None, ..self }
    }

    /// XDP drops the frame: the egress device is gone.
    pub(crate) fn lost_by_xdp(self, edit: Edit) -> Self {
        Self { xdp: Some(End::Lost(edit)), ..self }
    }
}

/// Runs every row through both programs, and names each one that differs.
pub(crate) fn check(bench: &mut Bench, rows: &[Row]) -> Result<()> {
    let mut failures = String::new();
    for row in rows {
        let ifindex = row.slot.map_or(bench.stranger, |slot| bench.device(slot));
        let arrival = Arrival { wire: &row.wire, ifindex, gso: row.gso, untouched: row.untouched };
        let slot = row.slot.unwrap_or(0);
        let fid = row.vid.map(|vid| row.world.ports[&slot].fid_base + vid);
        let len = if row.untouched { row.wire.len() } else { untag(&row.wire).1.len() };
        let mut compare = |program: &str, want: &Outcome, got: Outcome| {
            if got != *want {
                let _ = write!(failures, "\n{}, {program}: {}", row.name, differs(want, &got));
            }
        };

        let want = model::tc_outcome(slot, fid, &row.wire, len, row.tc);
        compare("tc", &want, bench.tc(&row.world, arrival)??);
        // What was decided may be remembered by now.
        compare("tc once more", &want, bench.tc(&row.world, arrival)??);
        if !row.untouched {
            compare("tc against the host", &want, model::tc(&row.world, row.slot, &row.wire, row.gso));
        }
        if let Some(end) = row.xdp {
            let want = model::xdp_outcome(slot, fid, &row.wire, end);
            compare("XDP", &want, bench.xdp(&row.world, arrival)??);
            compare("XDP once more", &want, bench.xdp(&row.world, arrival)??);
            compare("XDP against the host", &want, model::xdp(&row.world, row.slot, &row.wire));
        }
    }
    if !failures.is_empty() {
        bail!("{failures}");
    }
    Ok(())
}

/// What differs.
pub(crate) fn differs(want: &Outcome, got: &Outcome) -> String {
    let mut text = String::new();
    if want.verdict != got.verdict {
        let _ = write!(text, "verdict {} instead of {}; ", got.verdict.cast_signed(), want.verdict.cast_signed());
    }
    if want.wire != got.wire {
        let _ = write!(text, "packet {} instead of {}; ", bytes(&got.wire), bytes(&want.wire));
    }
    if want.counts != got.counts {
        let _ = write!(text, "counted {:?} instead of {:?}; ", got.counts, want.counts);
    }
    text
}

/// A packet for the eye.
pub(crate) fn bytes(packet: &[u8]) -> String {
    let mut text = format!("{} (", describe(packet));
    for byte in packet.iter().take(24) {
        let _ = write!(text, "{byte:02x}");
    }
    text + "…)"
}
