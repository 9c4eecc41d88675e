//! `xbr status`: what the daemons of this network namespace say, for people and for programs.

use bridge_common::reason::Reason;
use clap::Args;
use log::warn;

use super::{
    args::{RunDir, interface_name},
    emit,
    render::render,
};
use crate::{
    error::{Exit, Failure},
    ipc::{self, Answers},
    status::Snapshot,
};

const AFTER_HELP: &str = "\
Examples:
  xbr status -d            with every reason, the choice of each hook, and the VLANs
  xbr status -j | jq '.bridges[].ports[] | {ifname, hook, fast}'
  xbr status br0 --check   for monitoring: exit code 4 unless every port of br0 is accelerated

FAST% is the share of the received frames that took the fast path since the daemon began to count.
In shadow mode, WOULD% is the share that would have taken it; --check minds disagreements, and ports that would not be
accelerated; -d shows the frame of each example, with the moment of its arrival as `date -d @...` takes it.";

/// Options of `xbr status`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
#[command(after_help = AFTER_HELP)]
pub(super) struct StatusArgs {
    /// Only this bridge
    #[arg(value_name = "BRIDGE", value_parser = interface_name)]
    bridge: Option<String>,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
    /// Print indented JSON
    #[arg(short, long)]
    pretty: bool,
    /// Exit with code 4 if a shown port is not accelerated, or shadow mode found a disagreement
    #[arg(long)]
    check: bool,
    /// Show all reasons, why each hook was chosen, and VLANs
    #[arg(short, long)]
    details: bool,
    #[command(flatten)]
    run_dir: RunDir,
}

pub(super) fn execute(args: &StatusArgs) -> Result<(), Failure> {
    let Answers { snapshots, silent } = ipc::ask(&args.run_dir.path)?;
    for line in &silent {
        warn!("{line}");
    }
    let shown = match &args.bridge {
        Some(bridge) => select(snapshots, bridge)?,
        None => snapshots,
    };
    // --check judges before the JSON takes the snapshots, and speaks after it.
    let faults = if args.check { faults(&shown, &silent) } else { Vec::new() };
    let text = if args.json || args.pretty { as_json(shown, args.pretty)? } else { render(&shown, args.details) };
    emit(&text)?;
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Degraded, format!("not accelerated: {}", faults.join(", "))))
}

/// The snapshots reduced to one bridge; daemons that do not serve it are left out.
///
/// # Errors
/// No daemon serves it.
pub(crate) fn select(mut snapshots: Vec<Snapshot>, bridge: &str) -> Result<Vec<Snapshot>, Failure> {
    let mut served: Vec<_> = snapshots.iter().flat_map(|one| &one.bridges).map(|one| one.ifname.clone()).collect();
    for snapshot in &mut snapshots {
        snapshot.bridges.retain(|one| one.ifname == bridge);
    }
    snapshots.retain(|snapshot| !snapshot.bridges.is_empty());
    if snapshots.is_empty() {
        served.sort_unstable();
        let served = if served.is_empty() { "no bridge".to_owned() } else { served.join(", ") };
        return Err(Failure::new(Exit::Failed, format!("bridge \"{bridge}\" is not served by xbr; served: {served}")));
    }
    Ok(snapshots)
}

/// What an operator asked for is no fault.
const CHOSEN: [Reason; 2] = [Reason::TurnedOff, Reason::NotSelected];

/// Everything that `--check` minds, each named.
fn faults(snapshots: &[Snapshot], silent: &[String]) -> Vec<String> {
    let mut faults = silent.to_vec();
    for snapshot in snapshots {
        if !snapshot.running() {
            faults.push(format!("everything of pid {} (the fast path is suspended)", snapshot.pid));
            continue;
        }
        if let Some(shadow) = &snapshot.shadow
            && shadow.total.disagreed > 0
        {
            faults.push(format!("{} frames with which the bridge did something else", shadow.total.disagreed));
        }
        for bridge in &snapshot.bridges {
            if !bridge.present {
                faults.push(format!("{} (no such bridge now)", bridge.ifname));
            }
            for port in bridge.ports.iter().filter(|port| !port.ready()) {
                let why = port.slow_reason.as_deref().or(bridge.slow_reason.as_deref()).unwrap_or("no reason given");
                if !CHOSEN.iter().any(|chosen| chosen.name() == why) {
                    faults.push(format!("{}/{} ({why})", bridge.ifname, port.ifname));
                }
            }
        }
    }
    faults
}

/// One snapshot for all: the first daemon's, with the bridges, the warnings and the sums of all. It is active if all are that are
/// not in shadow mode.
fn merge(snapshots: Vec<Snapshot>) -> Snapshot {
    let mut fast = snapshots.iter().filter(|one| one.shadow.is_none()).map(|one| one.active).peekable();
    let active = fast.peek().is_some() && fast.all(|active| active);
    let mut snapshots = snapshots.into_iter();
    let mut merged = snapshots.next().unwrap_or_default();
    merged.active = active;
    for other in snapshots {
        merged.bridges.extend(other.bridges);
        merged.warnings.extend(other.warnings);
        match (&mut merged.shadow, other.shadow) {
            (Some(merged), Some(other)) => merged.add(other),
            (merged @ None, other) => *merged = other,
            (Some(_), None) => {}
        }
        merged.gone += other.gone;
        for (cause, count) in other.resyncs {
            *merged.resyncs.entry(cause).or_default() += count;
        }
        for table in other.tables {
            match merged.tables.iter_mut().find(|one| one.name == table.name) {
                Some(one) => *one += &table,
                None => merged.tables.push(table),
            }
        }
    }
    merged.bridges.sort_by(|one, other| one.ifname.cmp(&other.ifname));
    merged
}

fn as_json(snapshots: Vec<Snapshot>, pretty: bool) -> Result<String, Failure> {
    let merged = merge(snapshots);
    let text = if pretty { serde_json::to_string_pretty(&merged) } else { serde_json::to_string(&merged) };
    match text {
        Ok(text) => Ok(text + "\n"),
        Err(reason) => Err(Failure::new(Exit::Failed, format!("the status cannot be written as JSON: {reason}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::{
        cli::fixture::{other_daemon, shadow, snapshot},
        status::{ShadowStatus, TableFill},
    };

    /// The paths of all keys; below `open` the keys are names, not part of the form.
    fn keys(value: &Value, path: &str, into: &mut BTreeSet<String>) {
        const OPEN: [&str; 3] = ["resyncs", "reasons", "reason_bytes"];
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    let path = format!("{path}.{key}");
                    if !OPEN.contains(&key.as_str()) {
                        keys(inner, &path, into);
                    }
                    into.insert(path);
                }
            }
            Value::Array(list) => list.iter().for_each(|inner| keys(inner, &format!("{path}[]"), into)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn published_keys_stay() {
        let text = as_json(vec![snapshot()], false).unwrap();
        assert_eq!(text.lines().count(), 1);
        let mut found = BTreeSet::new();
        keys(&serde_json::from_str(&text).unwrap(), "", &mut found);
        let published = "\
            .active .at_nanoseconds .bridges .bridges[].fdb_entries .bridges[].ifindex .bridges[].ifname .bridges[].ports \
            .bridges[].ports[].accelerated .bridges[].ports[].dropped .bridges[].ports[].dropped.bytes \
            .bridges[].ports[].dropped.packets .bridges[].ports[].fast .bridges[].ports[].fast.bytes \
            .bridges[].ports[].fast.packets .bridges[].ports[].hook .bridges[].ports[].hook_why \
            .bridges[].ports[].ifindex .bridges[].ports[].ifname .bridges[].ports[].reason_bytes \
            .bridges[].ports[].reasons .bridges[].ports[].sent .bridges[].ports[].sent.bytes \
            .bridges[].ports[].sent.packets .bridges[].ports[].slow .bridges[].ports[].slow.bytes \
            .bridges[].ports[].slow.packets .bridges[].ports[].slow_detail .bridges[].ports[].slow_reason \
            .bridges[].ports[].state .bridges[].present .bridges[].slow_detail .bridges[].slow_reason .bridges[].vlan_filtering \
            .bridges[].vlan_protocol .bridges[].vlans .bridges[].vlans[].fast .bridges[].vlans[].fast.bytes \
            .bridges[].vlans[].fast.packets .bridges[].vlans[].slow .bridges[].vlans[].slow.bytes \
            .bridges[].vlans[].slow.packets .bridges[].vlans[].vlan .daemon .gone .gone.dropped .gone.dropped.bytes .gone.dropped.packets .gone.fast \
            .gone.fast.bytes .gone.fast.packets .gone.ports .gone.reason_bytes .gone.reasons .gone.slow .gone.slow.bytes \
            .gone.slow.packets .kernel .pid .resyncs .tables \
            .tables[].capacity .tables[].name .tables[].refused .tables[].used .uptime_seconds .version .warnings";
        for key in published.split_whitespace() {
            assert!(found.contains(key), "{key} has gone");
        }
    }

    #[test]
    fn several_daemons_are_one_object() {
        let text = as_json(vec![other_daemon(), snapshot()], true).unwrap();
        let merged: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(merged["version"], 1);
        assert_eq!(merged["pid"], 4343);
        let names: Vec<_> = merged["bridges"].as_array().unwrap().iter().map(|bridge| &bridge["ifname"]).collect();
        assert_eq!(names, ["br0", "br1", "br9"]);
        assert_eq!(merged["bridges"][0]["ports"][0]["ifname"], "eth0");
        assert_eq!(merged["bridges"][0]["ports"][0]["fast"]["packets"], 1_234_567);
        assert_eq!(merged["bridges"][0]["ports"][0]["reasons"]["refresh"], 800);
        assert_eq!(merged["warnings"].as_array().unwrap().len(), 1);
        assert_eq!(merged["gone"]["ports"], 4);
        assert_eq!(merged["gone"]["reasons"]["refresh"], 10);
    }

    #[test]
    fn what_several_daemons_have_is_added_up() {
        let fill = |name: &str, used| TableFill { name: name.to_owned(), used, capacity: 10, refused: 1 };
        let one = Snapshot {
            active: true,
            resyncs: [("overrun".to_owned(), 2)].into(),
            tables: vec![fill("fdb", 3)],
            ..Snapshot::default()
        };
        let other = Snapshot {
            resyncs: [("overrun".to_owned(), 1), ("start".to_owned(), 1)].into(),
            tables: vec![fill("fdb", 4), fill("ports", 1)],
            ..Snapshot::default()
        };
        let merged = merge(vec![one.clone(), other]);
        assert!(!merged.active && merge(vec![one.clone(), one.clone()]).active);
        let trial = Snapshot { shadow: Some(ShadowStatus::default()), ..Snapshot::default() };
        assert!(merge(vec![trial.clone(), one.clone()]).active && merge(vec![one, trial.clone()]).active);
        assert!(!merge(vec![trial]).active);
        assert_eq!(merged.resyncs, [("overrun".to_owned(), 3), ("start".to_owned(), 1)].into());
        let fdb = TableFill { used: 7, capacity: 20, refused: 2, ..fill("fdb", 0) };
        assert_eq!(merged.tables, [fdb, fill("ports", 1)]);
    }

    #[test]
    fn one_bridge_is_picked_or_named() {
        let picked = select(vec![snapshot(), other_daemon()], "br1").unwrap();
        assert_eq!(picked.len(), 1);
        assert_eq!(picked[0].pid, 4343);
        assert_eq!(picked[0].bridges.len(), 1);
        let failure = select(vec![other_daemon(), snapshot()], "br7").unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.message, "bridge \"br7\" is not served by xbr; served: br0, br1, br9");
        let failure = select(vec![Snapshot::default()], "br7").unwrap_err();
        assert_eq!(failure.message, "bridge \"br7\" is not served by xbr; served: no bridge");
    }

    #[test]
    fn published_keys_of_shadow_mode_stay() {
        let text = as_json(vec![shadow()], false).unwrap();
        let mut found = BTreeSet::new();
        keys(&serde_json::from_str(&text).unwrap(), "", &mut found);
        let published = "\
            .shadow .shadow.active .shadow.sample .shadow.no_room .shadow.total .shadow.total.ready \
            .shadow.total.would_forward.packets .shadow.total.would_forward.bytes .shadow.total.agreed \
            .shadow.total.disagreed .shadow.total.unknown .shadow.total.disagreements .shadow.examples \
            .shadow.examples[].kind .shadow.examples[].detail .shadow.examples[].unix_seconds .shadow.examples[].bridge \
            .shadow.examples[].ingress .shadow.examples[].received_length .shadow.examples[].received_bytes \
            .shadow.examples[].tag_change .shadow.examples[].expected_port .shadow.examples[].expected_length \
            .shadow.examples[].expected_bytes .shadow.examples[].actual_port .shadow.examples[].actual_length \
            .shadow.examples[].actual_bytes .shadow.examples[].copies_expected .shadow.examples[].copies_elsewhere \
            .shadow.examples[].copies_up .bridges[].ports[].shadow .bridges[].ports[].shadow.ready \
            .bridges[].ports[].shadow.would_forward.packets .bridges[].ports[].shadow.agreed \
            .bridges[].ports[].shadow.disagreed .bridges[].ports[].shadow.unknown \
            .bridges[].ports[].shadow.disagreements";
        for key in published.split_whitespace() {
            assert!(found.contains(key), "{key} has gone");
        }
    }

    #[test]
    fn shadow_accounts_of_several_daemons_are_one() {
        let merged = merge(vec![snapshot(), shadow(), shadow()]).shadow.unwrap();
        assert_eq!((merged.total.agreed, merged.total.disagreements["other_port"], merged.no_room), (1800, 4, 14));
        assert_eq!(merged.examples.len(), 4);
        assert_eq!(merge(vec![snapshot()]).shadow, None);
    }

    #[test]
    fn check_minds_disagreements() {
        let found = faults(&[shadow()], &[]);
        let disagreed = "3 frames with which the bridge did something else";
        assert_eq!(found, [disagreed, "br0/tap3 (tc_filter)", "br9 (no such bridge now)"]);
    }

    #[test]
    fn check_names_what_is_slow() {
        let found = faults(&[snapshot()], &[]);
        assert_eq!(found, ["br0/tap3 (tc_filter)", "br9 (no such bridge now)"]);
        assert!(faults(&select(vec![other_daemon()], "br1").unwrap(), &[]).is_empty());
        let suspended = Snapshot { active: false, ..snapshot() };
        assert_eq!(faults(&[suspended], &[]), ["everything of pid 4242 (the fast path is suspended)"]);
        assert_eq!(faults(&[], &["the daemon with pid 1 hangs".into()]).len(), 1);
    }
}
