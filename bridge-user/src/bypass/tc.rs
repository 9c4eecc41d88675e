//! Filters of the `ingress` and `clsact` qdiscs, by rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    nft::Side,
    nl::{Attributes, Netlink, malformed},
};
use crate::{
    model::IfIndex,
    netlink::uapi::{
        RTM_GETQDISC, RTM_GETTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER, TCA_ACT_KIND, TCA_BPF_ID, TCA_BPF_NAME, TCA_CHAIN,
        TCA_KIND, TCA_OPTIONS,
    },
};

/// `struct tcmsg` in bytes.
const TCMSG: usize = 20;
/// `TC_H_INGRESS`: the parent of both qdiscs.
const TC_H_INGRESS: u32 = 0xffff_fff1;
const TC_H_ROOT: u32 = 0xffff_ffff;
/// The parents of their filters. The `ingress` qdisc has only one block and answers to the first (`ingress_find`). A
/// block that several devices share is dumped through any of them (`tc_dump_tfilter`).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// The root qdisc, whatever it is (`tc_dump_tfilter`).
const ROOT: u32 = 0;

/// Kinds that the kernel sets up by itself: the default ones, and what a device with several queues has.
const PLAIN: [&str; 5] = ["noqueue", "mq", "pfifo_fast", "fq_codel", "fq"];

/// The part of a u32 handle that names a filter; the rest names its hash table.
const U32_NODE: u32 = 0xfff;

/// Names of xbr's own programs begin with this.
const OWN_NAME: &str = "xbr_";

/// Foreign filters by device and side.
pub(super) type Filters = BTreeMap<(IfIndex, Side), Vec<String>>;

/// Dumps the qdiscs of the namespace, and the filters of the devices asked about that have an `ingress` or `clsact` qdisc.
/// Whatever else somebody set up on the egress of these devices is named as well.
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
        if !qdisc.is_plain() {
            found.entry((qdisc.device, Side::Egress)).or_default().push(qdisc.describe());
        }
        for (side, parent) in qdisc.filters() {
            let rows = netlink.dump(RTM_GETTFILTER, &tcmsg(qdisc.device, *parent), Row::decode)?;
            let foreign = foreign(&rows, *side, own_programs);
            if !foreign.is_empty() {
                found.entry((qdisc.device, *side)).or_default().extend(foreign);
            }
        }
    }
    Ok(found)
}

/// As [`filters`], where these are the only devices and `noqueue` is at the root of each: nothing is below that, and it limits
/// nothing, so that only filters on ingress and behind clsact can be there. `None`: something is, and has to be told by what
/// it belongs to. The kernel dumps qdiscs of all devices or none.
pub(super) fn no_filters(
    netlink: &mut Netlink,
    devices: &BTreeSet<IfIndex>,
    own_programs: &BTreeSet<u32>,
) -> Option<Filters> {
    for device in devices {
        for (side, parent) in [(Side::Ingress, INGRESS), (Side::Egress, EGRESS)] {
            // Nothing where there is no such qdisc (tc_dump_tfilter). Why it cannot be asked, the dump will tell.
            let rows = netlink.dump(RTM_GETTFILTER, &tcmsg(*device, parent), Row::decode).ok()?;
            if !foreign(&rows, side, own_programs).is_empty() {
                return None;
            }
        }
    }
    Some(Filters::new())
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

/// A qdisc.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Qdisc {
    device: IfIndex,
    handle: u32,
    parent: u32,
    kind: String,
}

impl Qdisc {
    pub(super) fn decode((kind, payload): (u16, &[u8])) -> io::Result<Option<Self>> {
        if kind != RTM_NEWQDISC {
            return Ok(None);
        }
        let kind = Attributes::after(TCMSG, payload)?.text(TCA_KIND).unwrap_or_default();
        Ok(Some(Self { device: number(payload, 4)?, handle: number(payload, 8)?, parent: number(payload, 12)?, kind }))
    }

    /// The kernel set it up by itself (then it has no handle, `qdisc_create_dflt`) and it limits nothing; or it only holds
    /// filters, which are looked at one by one.
    fn is_plain(&self) -> bool {
        self.parent == TC_H_INGRESS
            || (self.handle == 0 && PLAIN.contains(&self.kind.as_str()))
            || self.kind == "noqueue"
    }

    /// Where it can have filters that matter. Those of classful qdiscs do not: such a qdisc is a finding by itself.
    fn filters(&self) -> &'static [(Side, u32)] {
        match (self.parent, self.kind.as_str()) {
            (TC_H_INGRESS, "ingress") => &[(Side::Ingress, INGRESS)],
            (TC_H_INGRESS, _) => &[(Side::Ingress, INGRESS), (Side::Egress, EGRESS)],
            (TC_H_ROOT, "fq_codel") => &[(Side::Egress, ROOT)],
            _ => &[],
        }
    }

    fn describe(&self) -> String {
        let Self { handle, parent, kind, .. } = self;
        let place = if *parent == TC_H_ROOT {
            "root".to_owned()
        } else {
            format!("parent {:x}:{:x}", parent >> 16, parent & 0xffff)
        };
        format!("qdisc {kind} {:x}: ({place})", handle >> 16)
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

    fn qdisc(handle: u32, parent: u32, kind: &str) -> Qdisc {
        let mut bytes = tcmsg(3, parent).to_vec();
        bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
        push_attribute(&mut bytes, TCA_KIND, format!("{kind}\0").as_bytes());
        Qdisc::decode((RTM_NEWQDISC, &bytes)).unwrap().unwrap()
    }

    #[test]
    fn qdiscs_that_hold_filters_are_known_by_their_parent() {
        let sides = |parent, kind| qdisc(0xffff_0000, parent, kind).filters().iter().map(|(side, _)| *side).collect();
        let none: Vec<Side> = sides(TC_H_ROOT, "htb");
        assert_eq!(none, []);
        let both: Vec<Side> = sides(TC_H_INGRESS, "clsact");
        assert_eq!(both, [Side::Ingress, Side::Egress]);
        let ingress: Vec<Side> = sides(TC_H_INGRESS, "ingress");
        assert_eq!(ingress, [Side::Ingress]);
        assert_eq!(qdisc(0, TC_H_ROOT, "fq_codel").filters(), [(Side::Egress, ROOT)]);
    }

    #[test]
    fn what_an_operator_set_up_on_egress_is_named() {
        for (handle, parent, kind) in [(0, TC_H_ROOT, "mq"), (0, 1, "fq_codel"), (0x8001_0000, TC_H_ROOT, "noqueue")] {
            assert!(qdisc(handle, parent, kind).is_plain(), "{kind}");
        }
        assert!(qdisc(0xffff_0000, TC_H_INGRESS, "clsact").is_plain());
        let shaped = qdisc(0x8002_0000, 0x8001_0001, "tbf");
        assert!(!shaped.is_plain());
        assert_eq!(shaped.describe(), "qdisc tbf 8002: (parent 8001:1)");
        let limited = qdisc(0x8001_0000, TC_H_ROOT, "fq");
        assert!(!limited.is_plain(), "the kernel's own has no handle");
        assert_eq!(limited.describe(), "qdisc fq 8001: (root)");
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
