//! Filters of the `ingress` and `clsact` qdiscs, by rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    nft::Side,
    nl::{Attributes, Netlink, malformed},
};
use crate::model::IfIndex;

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;

/// `struct tcmsg` in bytes.
const TCMSG: usize = 20;
/// `TC_H_INGRESS`: the parent of both qdiscs.
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// The parents of their filters. The `ingress` qdisc has only one block and answers to the first (`ingress_find`). A
/// block that several devices share is dumped through any of them (`tc_dump_tfilter`).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
const TCA_ACT_KIND: u16 = 1;

/// The part of a u32 handle that names a filter; the rest names its hash table.
const U32_NODE: u32 = 0xfff;

/// Names of xbr's own programs begin with this.
const OWN_NAME: &str = "xbr_";

/// Foreign filters by device and side.
pub(super) type Filters = BTreeMap<(IfIndex, Side), Vec<String>>;

/// Dumps the qdiscs of the namespace and the filters of the devices asked about that have such a qdisc.
pub(super) fn filters(
    netlink: &mut Netlink,
    devices: &BTreeSet<IfIndex>,
    own_programs: &BTreeSet<u32>,
) -> io::Result<Filters> {
    let mut found = Filters::new();
    for qdisc in netlink.dump(RTM_GETQDISC, &[0; TCMSG], Qdisc::decode)? {
        if !devices.contains(&qdisc.device) {
            continue;
        }
        let sides: &[_] = if qdisc.both_sides {
            &[(Side::Ingress, INGRESS), (Side::Egress, EGRESS)]
        } else {
            &[(Side::Ingress, INGRESS)]
        };
        for (side, parent) in sides {
            let rows = netlink.dump(RTM_GETTFILTER, &tcmsg(qdisc.device, *parent), Row::decode)?;
            let foreign = foreign(&rows, *side, own_programs);
            if !foreign.is_empty() {
                found.insert((qdisc.device, *side), foreign);
            }
        }
    }
    Ok(found)
}

fn tcmsg(device: IfIndex, parent: u32) -> [u8; TCMSG] {
    let mut bytes = [0; TCMSG];
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes[12..16].copy_from_slice(&parent.to_ne_bytes());
    bytes
}

/// A number of `struct tcmsg`.
fn number(payload: &[u8], offset: usize) -> io::Result<u32> {
    let raw = payload.get(offset..).and_then(<[u8]>::first_chunk).ok_or_else(|| malformed("a short tc message"))?;
    Ok(u32::from_ne_bytes(*raw))
}

/// An `ingress` or `clsact` qdisc.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Qdisc {
    device: IfIndex,
    both_sides: bool,
}

impl Qdisc {
    pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Self>> {
        if kind != RTM_NEWQDISC || number(payload, 12)? != TC_H_INGRESS {
            return Ok(None);
        }
        let both_sides = Attributes::after(TCMSG, payload)?.text(TCA_KIND).as_deref() != Some("ingress");
        Ok(Some(Self { device: number(payload, 4)?, both_sides }))
    }
}

/// A row of a filter dump: first one for each classifier without a handle, then its filters (`tcf_chain_dump`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    chain: u32,
    /// Priority and protocol: with the chain they name the classifier.
    info: u32,
    handle: u32,
    kind: String,
    /// The kind of the first action.
    action: Option<String>,
    /// Id and name of a `cls_bpf` program.
    program: (Option<u32>, Option<String>),
    /// The row has options: it describes a filter.
    described: bool,
}

impl Row {
    pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Self>> {
        if kind != RTM_NEWTFILTER {
            return Ok(None);
        }
        let attributes = Attributes::after(TCMSG, payload)?;
        let kind = attributes.text(TCA_KIND).unwrap_or_default();
        let options = attributes.nest(TCA_OPTIONS)?;
        let program = if kind == "bpf" { (options.u32(TCA_BPF_ID), options.text(TCA_BPF_NAME)) } else { (None, None) };
        Ok(Some(Self {
            chain: attributes.u32(TCA_CHAIN).unwrap_or_default(),
            info: number(payload, 16)?,
            handle: number(payload, 8)?,
            action: action(&kind, &options),
            program,
            described: attributes.get(TCA_OPTIONS).is_some(),
            kind,
        }))
    }

    /// The row is a filter, not the head of a classifier or a hash table.
    fn is_filter(&self) -> bool {
        match self.kind.as_str() {
            "u32" => self.handle & U32_NODE != 0,
            _ => self.handle != 0 || self.described,
        }
    }

    fn is_own(&self, own_programs: &BTreeSet<u32>) -> bool {
        let (id, name) = &self.program;
        id.is_some_and(|id| own_programs.contains(&id)) || name.as_ref().is_some_and(|name| name.starts_with(OWN_NAME))
    }

    fn describe(&self, side: Side) -> String {
        let side = match side {
            Side::Ingress => "ingress",
            Side::Egress => "egress",
        };
        let detail = match (&self.program, &self.action) {
            ((Some(id), Some(name)), _) => format!(" (program {id} \"{name}\")"),
            ((Some(id), None), _) => format!(" (program {id})"),
            (_, Some(action)) => format!(" ({action})"),
            (_, None) => String::new(),
        };
        format!("tc filter on {side}: {}{detail}", self.kind)
    }
}

/// The first action of a filter. The attribute that holds the list differs from classifier to classifier.
fn action(kind: &str, options: &Attributes<'_>) -> Option<String> {
    let (list, police) = match kind {
        "matchall" => (2, None),
        "flower" => (3, None),
        "u32" => (7, Some(6)),
        "fw" => (4, Some(2)),
        "basic" => (3, Some(4)),
        "bpf" => (1, Some(2)),
        _ => return None,
    };
    let first = options.nest(list).ok()?.iter().next();
    first
        .and_then(|(_, action)| Attributes::parse(action).ok()?.text(TCA_ACT_KIND))
        .or_else(|| police.filter(|police| options.get(*police).is_some()).map(|_| "police".to_owned()))
}

/// Names the filters that are not xbr's own, each text once.
pub(super) fn foreign(rows: &[Row], side: Side, own_programs: &BTreeSet<u32>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for row in rows {
        // A classifier of a kind that acts without filters of its own shows only its head. These two never do.
        let lone = !row.is_filter()
            && !matches!(row.kind.as_str(), "u32" | "bpf")
            && !rows.iter().any(|other| other.is_filter() && (other.chain, other.info) == (row.chain, row.info));
        if (row.is_filter() || lone) && !row.is_own(own_programs) {
            let text = row.describe(side);
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::nl::push_attribute, *};

    fn row(kind: &str, handle: u32, options: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = vec![0; TCMSG];
        bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
        bytes[16..20].copy_from_slice(&0xc000_0003_u32.to_ne_bytes());
        push_attribute(&mut bytes, TCA_KIND, format!("{kind}\0").as_bytes());
        push_attribute(&mut bytes, TCA_CHAIN, &0_u32.to_ne_bytes());
        if let Some(options) = options {
            push_attribute(&mut bytes, TCA_OPTIONS, options);
        }
        bytes
    }

    fn find(rows: &[Vec<u8>], own: &[u32]) -> Vec<String> {
        let rows: Vec<_> = rows.iter().map(|row| Row::decode((RTM_NEWTFILTER, row)).unwrap().unwrap()).collect();
        foreign(&rows, Side::Ingress, &own.iter().copied().collect())
    }

    fn program(id: u32, name: &str) -> Vec<u8> {
        let mut options = Vec::new();
        push_attribute(&mut options, TCA_BPF_NAME, format!("{name}\0").as_bytes());
        push_attribute(&mut options, TCA_BPF_ID, &id.to_ne_bytes());
        options
    }

    #[test]
    fn own_programs_are_known_by_id_or_by_name() {
        let rows = [
            row("bpf", 0, None),
            row("bpf", 1, Some(&program(7, "other"))),
            row("bpf", 2, Some(&program(8, "xbr_tc"))),
        ];
        assert_eq!(find(&rows, &[7]), [""; 0]);
        assert_eq!(find(&rows, &[]), ["tc filter on ingress: bpf (program 7 \"other\")"]);
    }

    #[test]
    fn hash_tables_and_heads_are_no_filters() {
        let mut police = Vec::new();
        push_attribute(&mut police, 6, &[0; 8]);
        assert_eq!(find(&[row("u32", 0, None), row("u32", 0x8000_0000, Some(&[]))], &[]), [""; 0]);
        let rows = [row("u32", 0, None), row("u32", 0x8000_0000, Some(&[])), row("u32", 0x8000_0800, Some(&police))];
        assert_eq!(find(&rows, &[]), ["tc filter on ingress: u32 (police)"]);
        let mut kind = Vec::new();
        push_attribute(&mut kind, TCA_ACT_KIND, b"mirred\0");
        let mut list = Vec::new();
        push_attribute(&mut list, 1, &kind);
        let mut options = Vec::new();
        push_attribute(&mut options, 2, &list);
        let rows = [row("matchall", 0, None), row("matchall", 1, Some(&options)), row("matchall", 2, Some(&options))];
        assert_eq!(find(&rows, &[]), ["tc filter on ingress: matchall (mirred)"]);
        assert_eq!(find(&[row("fw", 0, None)], &[]), ["tc filter on ingress: fw"]);
    }

    #[test]
    fn qdiscs_are_found_by_their_parent() {
        let mut bytes = tcmsg(3, TC_H_INGRESS).to_vec();
        push_attribute(&mut bytes, TCA_KIND, b"clsact\0");
        let found = Qdisc::decode((RTM_NEWQDISC, &bytes)).unwrap();
        assert_eq!(found, Some(Qdisc { device: 3, both_sides: true }));
        bytes[12] = 0;
        assert_eq!(Qdisc::decode((RTM_NEWQDISC, &bytes)).unwrap(), None);
    }

    #[test]
    fn truncated_rows_do_not_panic() {
        let whole = row("bpf", 1, Some(&program(7, "other")));
        for end in 0..whole.len() {
            let _ = Row::decode((RTM_NEWTFILTER, &whole[..end]));
            let _ = Qdisc::decode((RTM_NEWQDISC, &whole[..end]));
        }
    }
}
