//! From counters to rates: differences of two snapshots of the same daemon, divided by the time between their reading.

use std::collections::BTreeMap;

use crate::{
    cli::render::is_fast,
    status::{BridgeStatus, PortStatus, Snapshot},
};

/// One port and how fast it goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The bridge's name.
    pub(super) bridge: String,
    /// The port as the daemon described it last.
    pub(super) port: PortStatus,
    /// `None` until there are two readings that belong together.
    pub(super) rates: Option<Rates>,
}

/// What a port did in one interval, per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Packets received.
    pub(super) in_packets: f64,
    /// Bits received.
    pub(super) in_bits: f64,
    /// Packets sent.
    pub(super) out_packets: f64,
    /// Bits sent.
    pub(super) out_bits: f64,
    /// Packets received that took the fast path.
    pub(super) fast_packets: f64,
    /// Packets received by reason, the most frequent first; those without any are left out.
    pub(super) reasons: Vec<(String, f64)>,
}

impl Rates {
    /// The share of fast packets, 0 to 1; `None` if nothing was received.
    pub(super) fn fast_share(&self) -> Option<f64> {
        (self.in_packets > 0.0).then(|| self.fast_packets / self.in_packets)
    }

    /// Packets received that did not take the fast path.
    pub(super) fn slow_packets(&self) -> f64 {
        self.in_packets - self.fast_packets
    }

    /// The reasons of frames that did not take the fast path, the most frequent first.
    pub(super) fn slow_reasons(&self) -> impl Iterator<Item = &(String, f64)> {
        self.reasons.iter().filter(|(name, _)| !is_fast(name))
    }

    /// The rates between two readings that lie `seconds` apart. `None` if a counter went backwards: it has begun anew.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people; 2^53 frames per interval are enough")]
    fn between(before: &PortStatus, now: &PortStatus, seconds: f64) -> Option<Self> {
        let rate = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
        let received = |port: &PortStatus| {
            let (fast, slow, dropped) = (port.fast, port.slow, port.dropped);
            (fast.packets + slow.packets + dropped.packets, fast.bytes + slow.bytes + dropped.bytes)
        };
        // A reason whose count is zero is not in the map: missing now but counted before means anew.
        if before.reasons.iter().any(|(name, count)| now.reasons.get(name).is_none_or(|later| later < count)) {
            return None;
        }
        let mut reasons = Vec::new();
        for (name, count) in &now.reasons {
            let per_second = rate(before.reasons.get(name).copied().unwrap_or(0), *count)?;
            if per_second > 0.0 {
                reasons.push((name.clone(), per_second));
            }
        }
        reasons.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        Some(Self {
            in_packets: rate(received(before).0, received(now).0)?,
            in_bits: rate(received(before).1, received(now).1)? * 8.0,
            out_packets: rate(before.sent.packets, now.sent.packets)?,
            out_bits: rate(before.sent.bytes, now.sent.bytes)? * 8.0,
            fast_packets: rate(before.fast.packets, now.fast.packets)?,
            reasons,
        })
    }

    /// Adds those of another port.
    fn add(&mut self, other: &Self) {
        self.in_packets += other.in_packets;
        self.in_bits += other.in_bits;
        self.out_packets += other.out_packets;
        self.out_bits += other.out_bits;
        self.fast_packets += other.fast_packets;
        for (name, rate) in &other.reasons {
            match self.reasons.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += rate,
                None => self.reasons.push((name.clone(), *rate)),
            }
        }
    }
}

/// The sum of all rows that have rates; `None` if none has.
pub(super) fn total<'rows>(rows: impl Iterator<Item = &'rows Row>) -> Option<Rates> {
    let mut sum: Option<Rates> = None;
    for rates in rows.filter_map(|row| row.rates.as_ref()) {
        sum.get_or_insert_default().add(rates);
    }
    let mut sum = sum?;
    sum.reasons.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Some(sum)
}

/// Remembers each daemon's last two readings.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    daemons: BTreeMap<u32, Readings>,
}

#[derive(Debug)]
struct Readings {
    before: Option<Snapshot>,
    now: Snapshot,
}

impl Tracker {
    /// Takes what all daemons said in one round. A daemon that is not among them is forgotten.
    pub(super) fn ingest(&mut self, snapshots: Vec<Snapshot>) {
        let mut daemons = BTreeMap::new();
        for now in snapshots {
            let before = match self.daemons.remove(&now.pid) {
                // The same reading once more: the rates stay.
                Some(known) if known.now.at_nanoseconds == now.at_nanoseconds => known.before,
                // The time cannot run backwards within one process: this one is new and got the same id.
                Some(known) if is_later(&known.now, &now) => Some(known.now),
                _ => None,
            };
            daemons.insert(now.pid, Readings { before, now });
        }
        self.daemons = daemons;
    }

    /// The last reading of each daemon, by process id.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.daemons.values().map(|readings| &readings.now)
    }

    /// The seconds between the readings that the rates come from; the longest, if there are several daemons.
    pub(super) fn interval(&self) -> Option<f64> {
        let spans =
            self.daemons.values().filter_map(|readings| Some(seconds(readings.before.as_ref()?, &readings.now)));
        spans.max_by(f64::total_cmp)
    }

    /// One row per port, by bridge and port.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for Readings { before, now } in self.daemons.values() {
            for bridge in &now.bridges {
                for port in &bridge.ports {
                    let rates = before.as_ref().and_then(|before| {
                        Rates::between(find_port(before, bridge, port)?, port, seconds(before, now))
                    });
                    rows.push(Row { bridge: bridge.ifname.clone(), port: port.clone(), rates });
                }
            }
        }
        rows.sort_by(|one, other| (&one.bridge, &one.port.ifname).cmp(&(&other.bridge, &other.port.ifname)));
        rows
    }
}

fn is_later(before: &Snapshot, now: &Snapshot) -> bool {
    now.at_nanoseconds > before.at_nanoseconds && now.uptime_seconds >= before.uptime_seconds
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds between two readings; 2^53 are over a hundred days")]
fn seconds(before: &Snapshot, now: &Snapshot) -> f64 {
    now.at_nanoseconds.saturating_sub(before.at_nanoseconds) as f64 / 1e9
}

/// The same port in an earlier reading. The index is compared, too: a device made anew under its old name starts at zero.
fn find_port<'a>(before: &'a Snapshot, bridge: &BridgeStatus, port: &PortStatus) -> Option<&'a PortStatus> {
    let same_bridge =
        before.bridges.iter().find(|known| known.ifname == bridge.ifname && known.ifindex == bridge.ifindex)?;
    same_bridge.ports.iter().find(|known| known.ifname == port.ifname && known.ifindex == port.ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::fixture::{other_daemon, port, snapshot},
        status::Snapshot,
    };

    fn with(base: &Snapshot, at: u64, ports: Vec<PortStatus>) -> Snapshot {
        let mut next = base.clone();
        next.at_nanoseconds = at;
        next.uptime_seconds += 1.0;
        next.bridges[0].ports = ports;
        next
    }

    fn two(first: Vec<PortStatus>, second: Vec<PortStatus>, nanoseconds: u64) -> Vec<Row> {
        let base = snapshot();
        let mut tracker = Tracker::default();
        tracker.ingest(vec![with(&base, 1_000, first)]);
        tracker.ingest(vec![with(&base, 1_000 + nanoseconds, second)]);
        tracker.rows()
    }

    #[test]
    fn rates_divide_by_the_time_that_really_passed() {
        let before = port("eth0", 2, "tcx", &[("forwarded_tc", 1000), ("refresh", 10)], 500);
        let now = port("eth0", 2, "tcx", &[("forwarded_tc", 3970), ("refresh", 30), ("broadcast", 10)], 1000);
        let rows = two(vec![before], vec![now], 2_000_000_000);
        let rates = rows[0].rates.as_ref().unwrap();
        assert_eq!(rates.in_packets.to_bits(), 1500.0_f64.to_bits());
        assert_eq!(rates.in_bits.to_bits(), 1_200_000.0_f64.to_bits());
        assert_eq!(rates.out_packets.to_bits(), 250.0_f64.to_bits());
        assert_eq!(rates.out_bits.to_bits(), 200_000.0_f64.to_bits());
        assert_eq!(rates.fast_share(), Some(0.99));
        assert_eq!(rates.slow_packets().to_bits(), 15.0_f64.to_bits());
        let expected =
            [("forwarded_tc".to_owned(), 1485.0), ("refresh".to_owned(), 10.0), ("broadcast".to_owned(), 5.0)];
        assert_eq!(rates.reasons, expected);
        assert_eq!(rates.slow_reasons().count(), 2);
    }

    #[test]
    fn counters_that_begin_anew_give_no_rate_for_one_interval() {
        let before = || port("eth0", 2, "tcx", &[("forwarded_tc", 1000)], 500);
        let anew = port("eth0", 2, "tcx", &[("forwarded_tc", 10)], 600);
        assert_eq!(two(vec![before()], vec![anew], 1_000_000_000)[0].rates, None);
        // More was received than before, but under another reason.
        let other = port("eth0", 2, "tcx", &[("refresh", 5000)], 600);
        assert_eq!(two(vec![before()], vec![other], 1_000_000_000)[0].rates, None);
        let other_device = port("eth0", 3, "tcx", &[("forwarded_tc", 2000)], 600);
        assert_eq!(two(vec![before()], vec![other_device], 1_000_000_000)[0].rates, None);
        let sent_anew = port("eth0", 2, "tcx", &[("forwarded_tc", 2000)], 0);
        assert_eq!(two(vec![before()], vec![sent_anew], 1_000_000_000)[0].rates, None);
    }

    #[test]
    fn ports_come_and_go() {
        let port = |name: &str, index| port(name, index, "tcx", &[], 0);
        let rows = two(vec![port("a", 1), port("b", 2)], vec![port("b", 2), port("c", 3)], 1);
        let seen: Vec<_> = rows.iter().map(|row| (row.port.ifname.as_str(), row.rates.is_some())).collect();
        assert_eq!(seen, [("b", true), ("c", false)]);
        assert_eq!(rows[0].rates, Some(Rates::default()));
        assert_eq!(rows[0].rates.as_ref().unwrap().fast_share(), None);
    }

    #[test]
    fn a_reading_that_comes_twice_keeps_the_rates() {
        let base = snapshot();
        let reading = |at, packets| with(&base, at, vec![port("a", 1, "tcx", &[("forwarded_tc", packets)], 0)]);
        let mut tracker = Tracker::default();
        tracker.ingest(vec![reading(0, 0)]);
        tracker.ingest(vec![reading(1_000_000_000, 7)]);
        let rates = tracker.rows();
        tracker.ingest(vec![reading(1_000_000_000, 7)]);
        assert_eq!(tracker.rows(), rates);
        assert_eq!(tracker.interval(), Some(1.0));
        assert_eq!(rates[0].rates.as_ref().unwrap().in_packets.to_bits(), 7.0_f64.to_bits());
    }

    #[test]
    fn a_restarted_daemon_starts_over_even_with_the_same_process_id() {
        let base = snapshot();
        let reading = |at, packets| with(&base, at, vec![port("a", 1, "tcx", &[("forwarded_tc", packets)], 0)]);
        let mut tracker = Tracker::default();
        tracker.ingest(vec![reading(1_000_000_000, 5)]);
        let mut restarted = reading(2_000_000_000, 9);
        restarted.uptime_seconds = 0.5;
        tracker.ingest(vec![restarted]);
        assert_eq!(tracker.rows()[0].rates, None);
        let mut other_pid = reading(3_000_000_000, 10);
        other_pid.pid += 1;
        tracker.ingest(vec![other_pid]);
        assert_eq!(tracker.rows()[0].rates, None);
        assert_eq!(tracker.snapshots().count(), 1);
        assert_eq!(tracker.interval(), None);
    }

    #[test]
    fn several_daemons_are_one_list_and_one_total() {
        let later = |mut snapshot: Snapshot, seconds: u64| {
            snapshot.at_nanoseconds += seconds * 1_000_000_000;
            for port in snapshot.bridges.iter_mut().flat_map(|bridge| &mut bridge.ports) {
                port.fast.packets += 10;
                *port.reasons.entry("forwarded_tc".into()).or_default() += 10;
            }
            snapshot
        };
        let mut tracker = Tracker::default();
        tracker.ingest(vec![other_daemon(), snapshot()]);
        assert_eq!(total(tracker.rows().iter()), None);
        tracker.ingest(vec![later(other_daemon(), 2), later(snapshot(), 1)]);
        let rows = tracker.rows();
        let names: Vec<_> = rows.iter().map(|row| row.port.ifname.as_str()).collect();
        assert_eq!(names, ["eth0", "tap100i0", "tap3", "veth7"]);
        let total = total(rows.iter()).unwrap();
        assert_eq!(total.in_packets.to_bits(), 35.0_f64.to_bits());
        assert_eq!(total.reasons, [("forwarded_tc".to_owned(), 35.0)]);
        assert_eq!(tracker.interval(), Some(2.0));
    }
}
