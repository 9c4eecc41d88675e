//! The attempt to get frames from one tenant to another.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::{BROADCAST, Frame, Mac, Mark, Tag, describe},
    packet::drain_all,
};

use crate::topology::{Lab, Member, TENANTS};

/// Copies of each attempt.
const COPIES: u32 = 10;
/// Flow numbers of attempts: this, plus the VLAN that the frame belongs to.
const ATTEMPT: u32 = 0x4000_0000;
/// VLAN of frames that belong to none (untagged on the trunk).
const NOWHERE: u16 = 0;

/// What came of it.
pub(crate) struct Verdict {
    /// Frames sent at somebody of another tenant.
    pub(crate) tried: u32,
    /// Frames that arrived in another tenant, each described.
    pub(crate) crossed: Vec<String>,
    /// Frames sent within a tenant, to prove that the check can see.
    pub(crate) allowed: u32,
    /// Those of them that arrived.
    pub(crate) arrived: u32,
}

/// Floods from every member at every member of another tenant, with all the tags and source addresses that might help.
pub(crate) fn check(lab: &Lab) -> Result<Verdict> {
    let mut places: Vec<(&str, Option<u16>)> = Vec::new();
    let mut captures = Vec::new();
    for member in &lab.members {
        places.push((&member.guest.name, Some(member.tenant)));
        captures.push(member.guest.capture()?);
    }
    places.push(("the wire", None));
    captures.push(lab.wire.capture()?);

    let mut verdict = Verdict { tried: 0, crossed: Vec::new(), allowed: 0, arrived: 0 };
    for from in &lab.members {
        verdict.allowed += friends(lab, from)?;
    }
    for from in &lab.members {
        for to in lab.members.iter().filter(|to| to.tenant != from.tenant) {
            verdict.tried += attack(lab, from, to)?;
        }
    }

    for ((name, tenant), frames) in places.into_iter().zip(drain_all(&mut captures, Duration::from_millis(500))?) {
        for frame in frames {
            let Some(Mark { flow, seq }) = frame.mark() else {
                continue;
            };
            if flow & ATTEMPT == 0 {
                continue;
            }
            let origin = u16::try_from(flow & 0xfff)?;
            // On the wire, the VLAN is what the outer tag says.
            let here = tenant.or_else(|| Some(Frame::parse(&frame.bytes)?.tags.first()?.vid())).unwrap_or(NOWHERE);
            if here != origin || origin == NOWHERE {
                verdict.crossed.push(format!("VLAN {origin} to {name} (VLAN {here}): {}", describe(&frame.bytes)));
            } else if seq == u32::MAX && tenant.is_some() {
                verdict.arrived += 1;
            }
        }
    }
    Ok(verdict)
}

/// Frames that may arrive: from one member to the others of its tenant.
fn friends(lab: &Lab, from: &Member) -> Result<u32> {
    let sender = from.guest.sender()?;
    let mut sent = 0;
    for to in lab.members.iter().filter(|to| to.tenant == from.tenant && to.guest.name != from.guest.name) {
        let flow = ATTEMPT | u32::from(from.tenant);
        let frame = Frame::new(from.guest.mac, to.guest.mac).numbered(flow, u32::MAX).bytes();
        sent += u32::try_from(sender.send_all(&vec![frame; COPIES as usize])?)?;
    }
    Ok(sent)
}

/// Frames that must not arrive.
fn attack(lab: &Lab, from: &Member, to: &Member) -> Result<u32> {
    let (mine, theirs) = (from.tenant, to.tenant);
    // A guest's port gives it its VLAN, whatever it sends. On the trunk the outer tag is the VLAN by right, so the
    // attempts there are those whose outer tag is the sender's, or missing.
    let stacks: Vec<(u16, Vec<Tag>)> = if from.outside {
        vec![
            (mine, vec![Tag::q(mine)]),
            (mine, vec![Tag::q(mine), Tag::q(theirs)]),
            (mine, vec![Tag::q(mine), Tag::ad(theirs)]),
            (mine, vec![Tag::q(mine).pcp(7), Tag::q(0), Tag::q(theirs)]),
            (NOWHERE, vec![]),
            (NOWHERE, vec![Tag::q(0)]),
            (NOWHERE, vec![Tag::q(0), Tag::q(theirs)]),
            (NOWHERE, vec![Tag::ad(theirs)]),
        ]
    } else {
        vec![
            (mine, vec![]),
            (mine, vec![Tag::q(theirs)]),
            (mine, vec![Tag::q(mine), Tag::q(theirs)]),
            (mine, vec![Tag::q(theirs), Tag::q(theirs)]),
            (mine, vec![Tag::q(theirs), Tag::q(mine)]),
            (mine, vec![Tag::q(0)]),
            (mine, vec![Tag::q(0), Tag::q(theirs)]),
            (mine, vec![Tag::ad(theirs)]),
            (mine, vec![Tag::ad(mine), Tag::q(theirs)]),
        ]
    };
    let accomplice = lab.members.iter().find(|other| other.tenant == theirs && other.guest.name != to.guest.name);
    let accomplice = accomplice.context("a tenant has more than one member")?.guest.mac;
    let sources: [Mac; 2] = [from.guest.mac, accomplice];
    let destinations: [Mac; 2] = [to.guest.mac, BROADCAST];
    // Attempts from outside are made on the trunk itself, where any tag can be written.
    let sender = if from.outside { lab.wire.sender()? } else { from.guest.sender()? };
    let mut frames = Vec::new();
    for (origin, tags) in stacks {
        for (src, dst) in sources.iter().flat_map(|src| destinations.iter().map(move |dst| (*src, *dst))) {
            for number in 0..COPIES {
                let mut frame = Frame::new(src, dst).numbered(ATTEMPT | u32::from(origin), number);
                frame.tags.clone_from(&tags);
                frames.push(frame.bytes());
            }
        }
    }
    let sent = sender.send_all(&frames)?;
    ensure!(sent == frames.len(), "{} of {} attempts could be sent", sent, frames.len());
    debug_assert!(TENANTS.contains(&mine) && TENANTS.contains(&theirs));
    Ok(u32::try_from(sent)?)
}
