//! The status as text. Pure: snapshots in, text out.

pub(crate) mod shadow;

use std::fmt::Write as _;

use bridge_common::reason::{Class, Reason};

use super::format::{Align, Table, percent, plural, printable, si_count, span};
use crate::status::{BridgeStatus, PortStatus, Snapshot, TableFill, fast_share};

/// How many reasons a port's line names.
const TOP_REASONS: usize = 3;

/// The text of `xbr status`, one section per daemon.
pub(super) fn render(snapshots: &[Snapshot], details: bool) -> String {
    let sections: Vec<String> = snapshots.iter().map(|snapshot| section(snapshot, details)).collect();
    sections.join("\n")
}

/// Whether frames counted under `name` took the fast path. Names that this version does not know count as slow.
pub(crate) fn is_fast(name: &str) -> bool {
    known(name).is_some_and(|reason| reason.class() == Class::Fast)
}

/// What a reason's name means; empty for one that this version does not know.
pub(crate) fn meaning(name: &str) -> &'static str {
    known(name).map_or("", |reason| reason.describe().trim())
}

fn known(name: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.name() == name)
}

/// "xbr 0.1.0, pid 7, up 3s": what a daemon is.
pub(crate) fn identity(snapshot: &Snapshot) -> String {
    let mode = match (&snapshot.shadow, snapshot.running()) {
        (None, true) => "fast path on",
        (None, false) => "fast path SUSPENDED",
        (Some(_), true) => "shadow mode: nothing is forwarded",
        (Some(_), false) => "shadow mode SUSPENDED",
    };
    let up = span(snapshot.uptime_seconds);
    format!("xbr {}, pid {}, up {up}, kernel {}, {mode}", snapshot.daemon, snapshot.pid, snapshot.kernel)
}

/// "netfilter (nft table bridge filter)": a reason and the finding behind it.
pub(crate) fn because(reason: &str, detail: Option<&str>) -> String {
    match detail {
        Some(detail) if !detail.is_empty() => printable(&format!("{reason} ({detail})")),
        _ => printable(reason),
    }
}

/// "fdb 42/65536".
pub(crate) fn fill(table: &TableFill) -> String {
    let refused = if table.refused > 0 { format!(" ({} found no room)", table.refused) } else { String::new() };
    format!("{} {}/{}{refused}", table.name, table.used, table.capacity)
}

fn section(snapshot: &Snapshot, details: bool) -> String {
    let mut text = format!("{}\n", printable(&identity(snapshot)));
    if !snapshot.tables.is_empty() {
        let fills: Vec<String> = snapshot.tables.iter().map(fill).collect();
        line(&mut text, &format!("tables: {}", fills.join(", ")));
    }
    if details && !snapshot.resyncs.is_empty() {
        let causes: Vec<String> = snapshot.resyncs.iter().map(|(cause, times)| format!("{cause} {times}")).collect();
        line(&mut text, &format!("resyncs: {}", causes.join(", ")));
    }
    if let Some(shadow) = &snapshot.shadow {
        shadow::summary(&mut text, shadow, details);
    }
    for warning in &snapshot.warnings {
        line(&mut text, &format!("warning: {warning}"));
    }
    if snapshot.bridges.is_empty() {
        line(&mut text, "no bridge to serve yet");
    }
    for bridge in &snapshot.bridges {
        text.push('\n');
        text.push_str(&bridge_text(bridge, snapshot.shadow.is_some(), details));
    }
    text
}

fn line(text: &mut String, content: &str) {
    text.push_str(&printable(content));
    text.push('\n');
}

fn bridge_text(bridge: &BridgeStatus, shadow: bool, details: bool) -> String {
    let name = printable(&bridge.ifname);
    if !bridge.present {
        return format!("{name}: does not exist; waiting for it\n");
    }
    let vlans =
        if bridge.vlan_filtering { format!("VLAN-aware ({})", bridge.vlan_protocol) } else { "VLAN-unaware".into() };
    let ports = plural(bridge.ports.len(), "port");
    let fast = bridge.ports.iter().filter(|port| port.ready()).count();
    let accelerated = if shadow { "would be accelerated" } else { "accelerated" };
    let entries = bridge.fdb_entries;
    let noun = if entries == 1 { "entry" } else { "entries" };
    let mut text = format!("{name}: {vlans}, {ports}, {fast} {accelerated}, {entries} FDB {noun}\n");
    if let Some(reason) = &bridge.slow_reason {
        line(&mut text, &format!("  all of it is slow: {}", because(reason, bridge.slow_detail.as_deref())));
    }
    if !bridge.ports.is_empty() {
        text.push_str(&if shadow { shadow::ports_table(&bridge.ports) } else { ports_table(&bridge.ports) });
    }
    if details {
        for port in &bridge.ports {
            text.push_str(&port_details(port));
        }
        if !bridge.vlans.is_empty() {
            text.push('\n');
            text.push_str(&vlans_table(bridge));
        }
    }
    text
}

fn ports_table(ports: &[PortStatus]) -> String {
    let mut table = Table::new(&[
        ("PORT", Align::Left),
        ("STATE", Align::Left),
        ("HOOK", Align::Left),
        ("FAST%", Align::Right),
        ("FAST", Align::Right),
        ("SLOW", Align::Right),
        ("WHY SLOW", Align::Left),
    ]);
    for port in ports {
        table.row(&[
            port.ifname.clone(),
            port.state.clone(),
            port.hook_and_device(),
            percent(fast_share(port.fast, port.slow, port.dropped)),
            si_count(port.fast.packets),
            si_count(port.slow.packets),
            slow_reasons_line(port),
        ]);
    }
    table.render(2)
}

/// What keeps the port slow, or else which reasons its slow frames had.
fn slow_reasons_line(port: &PortStatus) -> String {
    let mut parts = Vec::new();
    if !port.ready() {
        let reason = port.slow_reason.as_deref().unwrap_or("no reason given");
        parts.push(format!("NOT ACCELERATED: {}", because(reason, port.slow_detail.as_deref())));
    }
    let top: Vec<String> = slow_reasons(port)
        .into_iter()
        // The port's own reason has just been said.
        .filter(|(name, _)| port.ready() || Some(*name) != port.slow_reason.as_deref())
        // Has a column of its own.
        .filter(|(name, _)| *name != Reason::WouldForward.name())
        .take(TOP_REASONS)
        .map(|(name, packets)| format!("{name} {}", si_count(packets)))
        .collect();
    if !top.is_empty() {
        parts.push(top.join(", "));
    }
    parts.join("; ")
}

/// The port's reasons other than the fast ones, the most frequent first.
fn slow_reasons(port: &PortStatus) -> Vec<(&str, u64)> {
    let mut reasons: Vec<_> = port.reasons.iter().map(|(name, packets)| (name.as_str(), *packets)).collect();
    reasons.retain(|(name, _)| !is_fast(name));
    reasons.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
    reasons
}

fn port_details(port: &PortStatus) -> String {
    let mut text = format!("\n  {}\n", printable(&port.ifname));
    line(&mut text, &format!("    hook: {}: {}", port.hook_and_device(), port.hook_why));
    if !port.egress.is_empty() {
        line(&mut text, &format!("    towards it: {}: {}", port.egress, port.egress_why));
    }
    if let Some(remedy) = &port.faster {
        line(&mut text, &format!("    faster with: {remedy}"));
    }
    let sent = port.sent;
    // Writing to a string does not fail.
    let _ = writeln!(text, "    sent: {} packets, {} bytes", sent.packets, sent.bytes);
    if port.dropped.packets > 0 {
        let _ = writeln!(text, "    dropped: {} packets, {} bytes", port.dropped.packets, port.dropped.bytes);
    }
    if port.reasons.is_empty() {
        text.push_str("    nothing received yet\n");
        return text;
    }
    let mut table = Table::new(&[
        ("REASON", Align::Left),
        ("PACKETS", Align::Right),
        ("BYTES", Align::Right),
        ("MEANING", Align::Left),
    ]);
    let fast = port.reasons.iter().map(|(name, packets)| (name.as_str(), *packets)).filter(|(name, _)| is_fast(name));
    for (name, packets) in fast.chain(slow_reasons(port)) {
        let bytes = port.reason_bytes.get(name).copied().unwrap_or_default();
        table.row(&[name.into(), packets.to_string(), bytes.to_string(), meaning(name).into()]);
    }
    text + &table.render(4)
}

fn vlans_table(bridge: &BridgeStatus) -> String {
    let mut table = Table::new(&[
        ("VLAN", Align::Right),
        ("FAST%", Align::Right),
        ("FAST PACKETS", Align::Right),
        ("FAST BYTES", Align::Right),
        ("SLOW PACKETS", Align::Right),
        ("SLOW BYTES", Align::Right),
    ]);
    for vlan in &bridge.vlans {
        table.row(&[
            if vlan.vlan == 0 { "all".into() } else { vlan.vlan.to_string() },
            percent(fast_share(vlan.fast, vlan.slow, crate::status::Count::default())),
            vlan.fast.packets.to_string(),
            vlan.fast.bytes.to_string(),
            vlan.slow.packets.to_string(),
            vlan.slow.bytes.to_string(),
        ]);
    }
    table.render(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::{other_daemon, snapshot};

    #[test]
    fn the_table_names_what_is_slow_and_why() {
        let expected = "\
xbr 0.1.0, pid 4242, up 1h 02m, kernel 6.12.0, fast path on
tables: fdb 42/65536, ports 3/256 (2 found no room)
warning: rx-vlan-offload of eth0 was turned off

br0: VLAN-aware (802.1Q), 3 ports, 2 accelerated, 42 FDB entries
  PORT      STATE       HOOK     FAST%   FAST   SLOW  WHY SLOW
  eth0      forwarding  xdp+tcx  99.9%  1.23M    840  refresh 800, broadcast 40
  tap100i0  forwarding  tcx          -      0      0
  tap3      forwarding  tcx       0.0%      0  9.90k  NOT ACCELERATED: tc_filter (ingress qdisc, u32 police)

br9: does not exist; waiting for it
";
        assert_eq!(render(&[snapshot()], false), expected);
    }

    #[test]
    fn details_add_hooks_reasons_and_vlans() {
        let text = render(&[snapshot()], true);
        let expected = "
  eth0
    hook: xdp+tcx: a physical NIC
    sent: 5000 packets, 500000 bytes
    REASON         PACKETS      BYTES  MEANING
    forwarded_tc    234567   23456700  Forwarded by the tc program.
    forwarded_xdp  1000000  100000000  Forwarded by the XDP program.
    refresh            800      80000  One frame in a while goes to the bridge so that it keeps the source's FDB entry alive.
    broadcast           40       4000  Broadcast destination.

  tap100i0
    hook: tcx: no physical device
    sent: 0 packets, 0 bytes
    nothing received yet
";
        assert!(text.contains(expected), "{text}");
        let expected = "
  VLAN  FAST%  FAST PACKETS  FAST BYTES  SLOW PACKETS  SLOW BYTES
    10  99.9%       1234567   123456700           840       84000
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("\nresyncs: start 1\n"), "{text}");
    }

    #[test]
    fn a_slow_bridge_a_suspended_daemon_and_unknown_reasons_are_shown() {
        let mut other = other_daemon();
        other.active = false;
        other.bridges[0].slow_reason = Some("bridge_promisc".into());
        other.bridges[0].slow_detail = Some("br1 is promiscuous".into());
        other.bridges[0].ports[0].reasons.insert("of_a_later_version".into(), 3);
        let text = render(&[Snapshot { bridges: Vec::new(), ..snapshot() }, other], false);
        let expected = "\
no bridge to serve yet

xbr 0.1.0, pid 4343, up 1h 02m, kernel 6.12.0, fast path SUSPENDED
tables: fdb 42/65536, ports 3/256 (2 found no room)

br1: VLAN-unaware, 1 port, 1 accelerated, 0 FDB entries
  all of it is slow: bridge_promisc (br1 is promiscuous)
  PORT   STATE       HOOK   FAST%  FAST  SLOW  WHY SLOW
  veth7  forwarding  tcx   100.0%    10     0  of_a_later_version 3
";
        assert!(text.ends_with(expected), "{text}");
    }
}
