//! The parts of the text that only shadow mode has.

use std::fmt::Write as _;

use super::{line, slow_reasons_line};
use crate::{
    cli::format::{Align, Table, percent, si_count},
    status::{Count, Disagreement, PortShadow, PortStatus, ShadowStatus, fast_share},
};

/// Bytes of a frame in one line of a dump.
const LINE: usize = 16;

/// "1234 agree, 2 disagree, 0 unknown".
pub(crate) fn account(shadow: &PortShadow) -> String {
    format!("{} agree, {} disagree, {} unknown", shadow.agreed, shadow.disagreed, shadow.unknown)
}

/// The lines behind the tables: the account, and what disagreed.
pub(super) fn summary(text: &mut String, shadow: &ShadowStatus, details: bool) {
    let share = if shadow.sample <= 1 { "all".to_owned() } else { format!("1 in {}", shadow.sample) };
    let room = if shadow.no_room > 0 { format!(", {} found no room", shadow.no_room) } else { String::new() };
    line(text, &format!("shadow: {share} compared: {}{room}", account(&shadow.total)));
    for example in &shadow.examples {
        let count = shadow.total.disagreements.get(&example.kind).copied().unwrap_or_default();
        line(text, &format!("  {} {count}, such as: {}: {}", example.kind, example.ingress, example.detail));
        if details {
            frames(text, example);
        }
    }
}

/// An example with its bytes.
fn frames(text: &mut String, example: &Disagreement) {
    let Disagreement { bridge, ingress, tag_change, expected_port, unix_seconds, .. } = example;
    line(
        text,
        &format!("    received at {ingress} of {bridge}, {} bytes, @{unix_seconds:.3}:", example.received_length),
    );
    dump(text, &example.received_bytes);
    line(text, &format!("    expected at {expected_port}, {} bytes, tag: {tag_change}:", example.expected_length));
    dump(text, &example.expected_bytes);
    if let (Some(port), Some(length), Some(bytes)) =
        (&example.actual_port, example.actual_length, &example.actual_bytes)
    {
        line(text, &format!("    seen at {port}, {length} bytes:"));
        dump(text, bytes);
    } else {
        line(text, "    not seen again");
    }
    let (right, wrong, up) = (example.copies_expected, example.copies_elsewhere, example.copies_up);
    line(text, &format!("    copies: {right} by {expected_port}, {wrong} by other ports, {up} up to {bridge}"));
}

/// Hexadecimal digits in lines with the offset in front.
fn dump(text: &mut String, digits: &str) {
    let bytes: Vec<&str> = (0..digits.len() / 2).filter_map(|at| digits.get(2 * at..2 * at + 2)).collect();
    for (number, row) in bytes.chunks(LINE).enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "      {:04x}  {}", number * LINE, row.join(" "));
    }
}

/// The ports of a bridge: what would be fast, and how the comparison went.
pub(super) fn ports_table(ports: &[PortStatus]) -> String {
    let mut table = Table::new(&[
        ("PORT", Align::Left),
        ("STATE", Align::Left),
        ("HOOK", Align::Left),
        ("WOULD%", Align::Right),
        ("WOULD", Align::Right),
        ("SLOW", Align::Right),
        ("AGREE", Align::Right),
        ("DISAGREE", Align::Right),
        ("WHY SLOW", Align::Left),
    ]);
    for port in ports {
        let shadow = port.shadow.clone().unwrap_or_default();
        let would = shadow.would_forward;
        let slow = Count {
            packets: port.slow.packets.saturating_sub(would.packets),
            bytes: port.slow.bytes.saturating_sub(would.bytes),
        };
        table.row(&[
            port.ifname.clone(),
            port.state.clone(),
            port.hook.clone(),
            percent(fast_share(would, slow, port.dropped)),
            si_count(would.packets),
            si_count(slow.packets),
            si_count(shadow.agreed),
            si_count(shadow.disagreed),
            slow_reasons_line(port),
        ]);
    }
    table.render(2)
}

#[cfg(test)]
mod tests {
    use crate::cli::{fixture, render::render};

    #[test]
    fn the_table_has_the_account_and_an_example_of_each_kind() {
        let expected = "\
xbr 0.1.0, pid 4242, up 1h 02m, kernel 6.12.0, shadow mode: nothing is forwarded
tables: fdb 42/65536, ports 3/256 (2 found no room)
shadow: 1 in 16 compared: 900 agree, 3 disagree, 1 unknown, 7 found no room
  never_left 1, such as: eth0: left by no port instead of tap3
  other_port 2, such as: eth0: left by tap3 instead of tap100i0
warning: rx-vlan-offload of eth0 was turned off

br0: VLAN-aware (802.1Q), 3 ports, 2 would be accelerated, 42 FDB entries
  PORT      STATE       HOOK     WOULD%  WOULD   SLOW  AGREE  DISAGREE  WHY SLOW
  eth0      forwarding  xdp+tcx   95.0%  16.0k    840    900         3  refresh 800, broadcast 40
  tap100i0  forwarding  tcx           -      0      0      0         0
  tap3      forwarding  tcx        0.0%      0  9.90k      0         0  NOT ACCELERATED: tc_filter (ingress qdisc, u32 police)

br9: does not exist; waiting for it
";
        assert_eq!(render(&[fixture::shadow()], false), expected);
    }

    #[test]
    fn details_have_the_bytes() {
        let expected = "
  other_port 2, such as: eth0: left by tap3 instead of tap100i0
    received at eth0 of br0, 20 bytes, @1700000000.250:
      0000  02 00 00 00 00 01 02 00 00 00 00 02 81 00 00 0a
      0010  88 b5 de ad
    expected at tap100i0, 16 bytes, tag: pop:
      0000  02 00 00 00 00 01 02 00 00 00 00 02 88 b5 de ad
    seen at tap3, 16 bytes:
      0000  02 00 00 00 00 01 02 00 00 00 00 02 88 b5 de ad
    copies: 0 by tap100i0, 1 by other ports, 0 up to br0
";
        let text = render(&[fixture::shadow()], true);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("    not seen again\n"), "{text}");
    }

    #[test]
    fn a_daemon_that_lost_track_says_so() {
        let mut snapshot = fixture::shadow();
        if let Some(shadow) = &mut snapshot.shadow {
            shadow.active = false;
        }
        let text = render(&[snapshot], false);
        assert!(text.contains("kernel 6.12.0, shadow mode SUSPENDED\n"), "{text}");
    }
}
