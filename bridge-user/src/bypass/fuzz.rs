//! Answers to the inventory's questions as the kernel, or nobody, would give them: what must hold of what is found.

use std::{collections::BTreeSet, io};

use super::{
    ebtables, elsewhere, features,
    hooks::Hook,
    nft::{Chain, Flowtable, Ruleset, Side, decode_dormant_table, hook},
    nl::{self, Answer},
    one_line,
    tc::{self, Qdisc, Row},
    xtables::{Info, KINDS},
};

/// Reads one answer. The first byte says what was asked: `t` tc, `n` nftables, `h` hooks, `f` XDP features, `e` ebtables
/// (the hooks in four bytes, then the entries), `v` VLAN devices elsewhere, `0` to `2` iptables, ip6tables and arptables (information, then entries).
pub fn read(bytes: &[u8]) {
    let Some((what, answer)) = bytes.split_first() else { return };
    let findings = match what {
        b't' => filters(answer),
        b'n' => ruleset(answer),
        b'h' => hooks(answer),
        b'f' => rows(answer, features::decode).map(|_| Vec::new()),
        b'e' => ebtables_entries(answer),
        b'v' => uppers(answer),
        b'0'..=b'2' => xtables_entries(usize::from(what - b'0'), answer),
        _ => None,
    };
    // Where it cannot be read, everything stays slow.
    let Some(findings) = findings else { return };
    let line = one_line(&findings);
    assert_eq!(line.is_none(), findings.is_empty(), "a finding is lost");
    assert!(line.is_none_or(|line| !line.chars().any(char::is_control)), "{findings:?}");
}

/// The rows of a dump. The request is taken for that of the first message.
fn rows<T>(datagram: &[u8], decode: impl Fn(Answer<'_>) -> io::Result<Option<T>>) -> Option<Vec<T>> {
    let sequence = datagram.get(8..12).and_then(<[u8]>::first_chunk).map_or(0, |raw| u32::from_ne_bytes(*raw));
    let mut found = Vec::new();
    let mut outcome = Ok(());
    let progress = nl::scan(datagram, sequence, |answer| match decode(answer) {
        Ok(row) => found.extend(row),
        Err(error) => outcome = Err(error),
    });
    progress.and(outcome).is_ok().then_some(found)
}

/// Every filter that is not xbr's own is a finding.
fn filters(answer: &[u8]) -> Option<Vec<String>> {
    rows(answer, Qdisc::decode)?;
    let rows = rows(answer, Row::decode)?;
    let all = tc::foreign(&rows, Side::Ingress, &BTreeSet::new());
    let others = tc::foreign(&rows, Side::Ingress, &BTreeSet::from([7]));
    assert!(others.iter().all(|finding| all.contains(finding)), "fewer are foreign, but more are found");
    assert!(all.iter().all(|finding| finding.starts_with("tc filter on ingress: ")));
    Some(all)
}

/// A chain on a hook that forwarded frames pass is a finding unless it holds nothing.
fn ruleset(answer: &[u8]) -> Option<Vec<String>> {
    let dormant: BTreeSet<_> = rows(answer, decode_dormant_table)?.into_iter().collect();
    let (chains, flowtables) = (rows(answer, Chain::decode)?, rows(answer, Flowtable::decode)?);
    let awake = Ruleset::new(&BTreeSet::new(), chains.clone(), flowtables.clone());
    let ruleset = Ruleset::new(&dormant, chains, flowtables);
    let found = |ruleset: &Ruleset| {
        let mut findings: Vec<_> = ruleset.bridge().chain(ruleset.inet()).collect();
        for side in [Side::Ingress, Side::Egress] {
            findings.extend(ruleset.on_device("eth0", side));
        }
        findings
    };
    let (findings, all) = (found(&ruleset), found(&awake));
    assert!(findings.iter().all(|finding| all.contains(finding) && finding.starts_with("nft table ")));
    assert!(!dormant.is_empty() || findings == all);
    Some(findings)
}

/// Every VLAN device that is not where its lower one is.
fn uppers(answer: &[u8]) -> Option<Vec<String>> {
    let numbers = rows(answer, elsewhere::decode_number)?;
    assert!(numbers.iter().all(|number| *number >= 0));
    Some(rows(answer, elsewhere::decode)?.iter().map(elsewhere::Upper::text).collect())
}

/// A function that no other part answers for is a finding, a BPF program always.
fn hooks(answer: &[u8]) -> Option<Vec<String>> {
    let hooks = rows(answer, Hook::decode)?;
    for hook in &hooks {
        assert!(hook.bpf().is_none() || hook.bpf() == hook.foreign());
        let tables = [("ebt_do_table", hook::FORWARD), ("ebt_broute", hook::PRE_ROUTING)];
        assert!(tables.iter().all(|(function, number)| !hook.may_be(function, *number) || hook.foreign().is_none()));
    }
    Some(hooks.iter().filter_map(Hook::foreign).collect())
}

/// Chains that only the host's own frames pass are none, whatever they hold.
fn ebtables_entries(answer: &[u8]) -> Option<Vec<String>> {
    let (valid_hooks, entries) = answer.split_first_chunk()?;
    let findings = ebtables::decode("filter", u32::from_ne_bytes(*valid_hooks), entries).ok()?;
    let local = 1 << 1 | 1 << 3;
    assert!(u32::from_ne_bytes(*valid_hooks) & !local != 0 || findings.is_empty());
    Some(findings)
}

/// At most one finding for each hook that forwarded frames pass.
fn xtables_entries(number: usize, answer: &[u8]) -> Option<Vec<String>> {
    let kind = &KINDS[number];
    let information = answer.get(..kind.info_size())?;
    let findings = Info::decode(kind, information).ok()?.policies(kind, "filter", &answer[information.len()..]).ok()?;
    assert!(findings.len() <= 3);
    Some(findings)
}
