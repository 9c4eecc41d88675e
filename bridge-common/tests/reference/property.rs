//! What must hold of every decision. The error says what does not.

use bridge_common::{
    decide::{Delivery, Edit, Origin, Verdict, decide, decide_from, deliver},
    frame::{Frame, Tag, is_tag},
    mac::Mac,
    maps::{fdb_flags, port_flags},
};

use super::{
    case::Case,
    scenario::{Arrival, Scenario},
    tables::{MemoryTables, apply},
};

/// Turns a condition into a result, so that whoever asks can say with which frame.
fn holds(condition: bool, what: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}

/// What is fast the bridge delivers likewise, and what could be fast is.
pub(crate) fn agrees(scenario: &Scenario, tables: &MemoryTables, arrival: &Arrival) -> Result<(), String> {
    let case = Case::new(scenario, tables, arrival);
    let outcome = match case.decided.verdict {
        // Soundness: delivered to that port only, in those bytes, and nothing is learnt.
        Verdict::Forward { slot, ifindex, flags, leaves } => holds(case.could_be_fast(), "not fast").and_then(|()| {
            let delivery = &case.expected.deliveries[0];
            let out = &tables.ports[&slot];
            holds(usize::from(slot - scenario.numbers.first_slot) == delivery.port, "another port")?;
            holds(apply(Edit::between(case.frame.tag, leaves), &arrival.bytes) == delivery.bytes, "other bytes")?;
            holds((ifindex, flags) == (out.ifindex, out.flags), "another port's device or flags")?;
            holds(case.decided.fid.get() == Some(scenario.numbers.fid_base + case.decided.vid), "another fid")
        }),
        // Completeness.
        Verdict::Pass(reason) => holds(!case.could_be_fast() || case.left_on_purpose(reason), "could be fast"),
    };
    outcome.map_err(|what| format!("{what}: {arrival:?}: {:?}, but the bridge: {:?}", case.decided, case.expected))
}

/// Whatever the tables say, consistent or not: some borders are never crossed.
pub(crate) fn keeps_borders(tables: &MemoryTables, ingress: u16, frame: &Frame) -> Result<(), String> {
    let decided = decide(tables, ingress, frame);
    let Verdict::Forward { slot, leaves, .. } = decided.verdict else { return Ok(()) };
    let edit = Edit::between(frame.tag, leaves);
    holds(frame.dst.bytes()[0] & 1 == 0, "multicast destination")?;
    holds(frame.src.bytes()[0] & 1 == 0 && frame.src.bytes() != [0; 6], "invalid source")?;
    holds(slot != ingress, "back to where it came from")?;
    let (inside, outside) = (&tables.ports[&ingress], &tables.ports[&slot]);
    holds(inside.flags & port_flags::INGRESS != 0, "slow ingress port")?;
    holds(outside.flags & port_flags::EGRESS != 0, "egress port that takes nothing")?;
    holds(inside.flags & outside.flags & port_flags::ISOLATED == 0, "isolated from each other")?;
    holds(frame.gso || frame.len <= outside.max_len, "larger than the MTU")?;
    holds(inside.fid_base == outside.fid_base, "another bridge")?;
    holds((inside.flags ^ outside.flags) & port_flags::VLAN_AWARE == 0, "another mode")?;
    let fid = decided.fid.get().ok_or("not classified")?;
    let entry = tables.fdb.get(&(fid, decided.vid, frame.dst)).ok_or("an unknown destination")?;
    holds(entry.slot == slot, "another port than the FDB's")?;
    holds(entry.flags & (fdb_flags::LOCAL | fdb_flags::OPAQUE) == 0, "an entry that is the bridge's business")?;
    if inside.flags & port_flags::VLAN_AWARE == 0 {
        return holds((decided.vid, edit) == (0, Edit::Keep), "a tag of a VLAN-unaware bridge is touched");
    }
    // The VLAN is the frame's own or the PVID, and both ports are in it. A tag of the other protocol is payload.
    let tag = frame.tag.filter(|tag| tag.tpid() == inside.tpid);
    let payload = if frame.tag == tag { 0 } else { 4 };
    holds(frame.gso || frame.len + payload <= outside.max_len, "larger than the MTU with a tag as payload")?;
    let own = tag.map_or(0, |tag| tag.tci() & 0xfff);
    holds(decided.vid == if own == 0 { inside.pvid & 0xfff } else { own }, "neither the frame's VLAN nor the PVID")?;
    holds(decided.vid != 0, "no VLAN")?;
    let bit = |words: &[u64; 64]| words[usize::from(decided.vid / 64)] >> (decided.vid % 64) & 1 == 1;
    holds(bit(&inside.member) && bit(&outside.member), "outside the VLAN")?;
    // It leaves with exactly the tag that the egress port wants.
    let left = match edit {
        Edit::Keep => tag,
        Edit::Push(tag) | Edit::Retag(tag) => Some(tag),
        Edit::Pop => None,
    };
    holds(payload == 0 || edit == Edit::Keep, "payload is touched")?;
    let priority = tag.map_or(0, |tag| tag.tci() & 0xf000);
    let wanted = (!bit(&outside.untagged)).then_some(Tag::new(inside.tpid, priority | decided.vid));
    holds(left == wanted, "another tag than the egress port wants")
}

/// What was found out about a fast frame before its destination was looked at holds for frames to every other station, of any
/// length: with it, only the destination has to be looked up, and the decision is the same. Not so where the length or what is
/// further inside counts before, which the flow cache leaves alone.
pub(crate) fn origin_holds(tables: &MemoryTables, ingress: u16, frame: &Frame) -> Result<(), String> {
    let mut origin = Origin::NONE;
    let decided = decide_from(tables, ingress, frame, &mut origin);
    holds(decided == decide(tables, ingress, frame), "another decision")?;
    if !matches!(decided.verdict, Verdict::Forward { .. }) || origin.payload != 0 || is_tag(frame.ethertype) {
        return Ok(());
    }
    holds((origin.slot, origin.vid) == (ingress, decided.vid), "another port or VLAN")?;
    holds(decided.fid.get() == Some(origin.fid), "another fid")?;
    holds(origin.flags == tables.ports[&ingress].flags, "another port's flags")?;
    let entries = tables.fdb.keys().map(|(_, _, mac)| *mac).filter(|mac| !mac.is_multicast());
    for dst in entries.chain([Mac::new([2, 0xee, 0, 0, 0, 1])]) {
        for (len, gso) in [(frame.len, frame.gso), (60, false), (61, false), (1518, false), (1519, false), (9000, true)]
        {
            let direct = decide(tables, ingress, &Frame { dst, len, gso, ..*frame }).verdict;
            let seen = Frame { dst, tag: frame.tag, len, gso, ..Frame::EMPTY };
            let by_origin = match deliver(tables, &origin, &seen) {
                Ok(Delivery { slot, port, leaves }) => {
                    Verdict::Forward { slot, ifindex: port.ifindex, flags: port.flags, leaves }
                }
                Err(reason) => Verdict::Pass(reason),
            };
            holds(by_origin == direct, &format!("to {dst:?}: {by_origin:?}, but {direct:?}"))?;
        }
    }
    Ok(())
}

/// A frame is what its bytes say, and no longer than they are.
pub(crate) fn reads(bytes: &[u8]) -> Result<(), String> {
    let Some(frame) = Frame::parse(bytes) else {
        let is_tagged = matches!(bytes.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        return holds(bytes.len() < if is_tagged { 20 } else { 14 }, "a whole frame is not read");
    };
    let tag = if frame.tag.is_some() { 4 } else { 0 };
    holds(usize::try_from(frame.len) == Ok(bytes.len() - tag) && frame.len >= 14, "another length")?;
    holds(frame.dst.bytes() == bytes[..6] && frame.src.bytes() == bytes[6..12], "other addresses")?;
    holds(frame.ethertype.to_be_bytes() == bytes[12 + tag..14 + tag], "another type")?;
    let Some(outer) = frame.tag else {
        return holds(!matches!(bytes[12..14], [0x81, 0x00] | [0x88, 0xa8]), "a tag is overlooked");
    };
    let outer = [outer.tpid().to_be_bytes(), outer.tci().to_be_bytes()].concat();
    holds(outer == bytes[12..16] && matches!(outer[..2], [0x81, 0x00] | [0x88, 0xa8]), "another tag")
}
