//! The columns: their cells, how rows sort by them, and which ones give way when the screen is narrow.

use std::cmp::Ordering;

use clap::ValueEnum;

use super::rates::{Rates, Row};
use crate::cli::{
    format::{percent, si},
    render::because,
};

/// A column of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Column {
    /// Name of the bridge
    Bridge,
    /// Name of the port
    Port,
    /// Hook in use
    Hook,
    /// Packets in per second
    #[value(name = "pps", alias = "in-pps")]
    InPackets,
    /// Bits in per second
    #[value(name = "bps", alias = "in-bps")]
    InBits,
    /// Packets out per second
    #[value(name = "out-pps")]
    OutPackets,
    /// Bits out per second
    #[value(name = "out-bps")]
    OutBits,
    /// Share of the packets in that took the fast path, the smallest first
    Fast,
    /// Packets in per second that took the slow path, and why
    #[value(name = "slow", alias = "reasons")]
    Slow,
}

/// Widest name of a bridge or port.
const NAME: usize = 15;
/// Narrowest useful list of reasons.
const REASONS: usize = 12;

impl Column {
    /// All, from left to right.
    pub(super) const ALL: [Self; 9] = [
        Self::Bridge,
        Self::Port,
        Self::Hook,
        Self::InPackets,
        Self::InBits,
        Self::OutPackets,
        Self::OutBits,
        Self::Fast,
        Self::Slow,
    ];

    /// The columns that give way in a narrow screen, the least needed first. The port's name never does.
    const DISPENSABLE: [Self; 8] = [
        Self::OutBits,
        Self::OutPackets,
        Self::Hook,
        Self::Bridge,
        Self::InBits,
        Self::Slow,
        Self::Fast,
        Self::InPackets,
    ];

    /// The heading, without blanks, so that batches can be split into words.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Bridge => "BRIDGE",
            Self::Port => "PORT",
            Self::Hook => "HOOK",
            Self::InPackets => "IN_PPS",
            Self::InBits => "IN_b/s",
            Self::OutPackets => "OUT_PPS",
            Self::OutBits => "OUT_b/s",
            Self::Fast => "FAST%",
            Self::Slow => "SLOW_BY_REASON",
        }
    }

    /// Whether its cells are numbers, kept to the right.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::InPackets | Self::InBits | Self::OutPackets | Self::OutBits | Self::Fast)
    }

    /// Whether larger values come first unless the order is reversed.
    fn largest_first(self) -> bool {
        self != Self::Fast && (self.is_number() || self == Self::Slow)
    }

    /// The mark beside the heading of the column that is sorted by: v where values fall downwards, ^ where they rise.
    pub(super) fn mark(self, reversed: bool) -> char {
        if self.largest_first() == reversed { '^' } else { 'v' }
    }

    /// The next column to the right, or to the left.
    pub(super) fn neighbour(self, right: bool) -> Self {
        let count = Self::ALL.len();
        let here = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL[(here + if right { 1 } else { count - 1 }) % count]
    }

    /// The text of one row.
    pub(super) fn cell(self, row: &Row) -> String {
        match self {
            Self::Bridge => row.bridge.clone(),
            Self::Port => row.port.ifname.clone(),
            Self::Hook => row.port.hook_and_device(),
            Self::Slow if !row.port.ready() => not_accelerated(row),
            Self::InPackets | Self::InBits | Self::OutPackets | Self::OutBits | Self::Fast | Self::Slow => {
                self.rate_cell(row.rates.as_ref())
            }
        }
    }

    /// The text of the total.
    pub(super) fn total_cell(self, total: Option<&Rates>) -> String {
        match self {
            Self::Port => "TOTAL".into(),
            Self::Bridge | Self::Hook => String::new(),
            Self::InPackets | Self::InBits | Self::OutPackets | Self::OutBits | Self::Fast | Self::Slow => {
                self.rate_cell(total)
            }
        }
    }

    fn rate_cell(self, rates: Option<&Rates>) -> String {
        let Some(rates) = rates else {
            return if self.is_number() { "-".into() } else { String::new() };
        };
        match self {
            Self::InPackets => si(rates.in_packets),
            Self::InBits => si(rates.in_bits),
            Self::OutPackets => si(rates.out_packets),
            Self::OutBits => si(rates.out_bits),
            Self::Fast => percent(rates.fast_share()),
            Self::Slow => reasons(rates),
            Self::Bridge | Self::Port | Self::Hook => String::new(),
        }
    }

    /// Which of two rows comes first. Rows without a value come last either way; names settle a draw, so that rows do not
    /// jump.
    pub(super) fn order(self, one: &Row, other: &Row, reversed: bool) -> Ordering {
        let names = || (&one.bridge, &one.port.ifname).cmp(&(&other.bridge, &other.port.ifname));
        let turned = |order: Ordering| {
            if reversed == self.largest_first() { order } else { order.reverse() }
        };
        let by_value = match self {
            Self::Bridge => turned(one.bridge.cmp(&other.bridge)),
            Self::Port => turned(one.port.ifname.cmp(&other.port.ifname)),
            Self::Hook => turned(one.port.hook_and_device().cmp(&other.port.hook_and_device())),
            Self::InPackets | Self::InBits | Self::OutPackets | Self::OutBits | Self::Fast | Self::Slow => {
                match (self.value(one), self.value(other)) {
                    (Some(left), Some(right)) => turned(left.total_cmp(&right)),
                    (left, right) => right.is_some().cmp(&left.is_some()),
                }
            }
        };
        by_value.then_with(names)
    }

    fn value(self, row: &Row) -> Option<f64> {
        let rates = row.rates.as_ref()?;
        match self {
            Self::InPackets => Some(rates.in_packets),
            Self::InBits => Some(rates.in_bits),
            Self::OutPackets => Some(rates.out_packets),
            Self::OutBits => Some(rates.out_bits),
            Self::Fast => rates.fast_share(),
            Self::Slow => Some(rates.slow_packets()),
            Self::Bridge | Self::Port | Self::Hook => None,
        }
    }

    /// Cells that the column needs, its gap to the next one not included. The last column takes what is left.
    fn width(self, rows: &[&Row]) -> usize {
        let longest = |text: fn(&Row) -> String, least: usize, most: usize| {
            let longest = rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
            // One more than the heading, for the mark.
            longest.max(least).clamp(self.title().len() + 1, most)
        };
        match self {
            Self::Bridge => longest(|row| row.bridge.clone(), 0, NAME),
            Self::Port => longest(|row| row.port.ifname.clone(), "TOTAL".len(), NAME),
            Self::Hook => longest(|row| row.port.hook_and_device(), 0, NAME),
            Self::InPackets | Self::InBits | Self::OutPackets | Self::OutBits | Self::Fast => self.title().len() + 1,
            Self::Slow => REASONS,
        }
    }

    /// The columns that fit into `available` cells, each with its width. They lie one blank apart.
    pub(super) fn fit(rows: &[&Row], available: usize) -> Vec<(Self, usize)> {
        let mut columns: Vec<_> = Self::ALL.iter().map(|column| (*column, column.width(rows))).collect();
        let needed = |columns: &[(Self, usize)]| columns.iter().map(|(_, width)| width + 1).sum::<usize>() - 1;
        for dispensable in Self::DISPENSABLE {
            if needed(&columns) <= available {
                break;
            }
            columns.retain(|(column, _)| *column != dispensable);
        }
        let rest = available.saturating_sub(needed(&columns));
        if let Some((Self::Slow, width)) = columns.last_mut() {
            *width += rest;
        }
        columns
    }
}

fn not_accelerated(row: &Row) -> String {
    let reason = row.port.slow_reason.as_deref().unwrap_or("no reason given");
    format!("!{}", because(reason, row.port.slow_detail.as_deref()))
}

fn reasons(rates: &Rates) -> String {
    let list: Vec<_> = rates.slow_reasons().take(3).map(|(name, rate)| format!("{name} {}", si(*rate))).collect();
    list.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::port;

    fn row(name: &str, rates: Option<Rates>) -> Row {
        Row { bridge: "br0".into(), port: port(name, 1, "tcx", &[], 0), rates }
    }

    fn sorted(column: Column, reversed: bool) -> String {
        let of = |name: &str, all: f64, fast: f64| {
            row(name, Some(Rates { in_packets: all, fast_packets: fast, ..Rates::default() }))
        };
        let mut rows =
            [of("b", 100.0, 99.0), of("a", 100.0, 50.0), row("z", None), of("c", 500.0, 499.0), of("i", 0.0, 0.0)];
        rows.sort_by(|one, other| column.order(one, other, reversed));
        rows.iter().map(|row| row.port.ifname.as_str()).collect()
    }

    #[test]
    fn order_is_stable_and_what_is_unknown_comes_last() {
        assert_eq!(sorted(Column::InPackets, false), "cabiz");
        assert_eq!(sorted(Column::InPackets, true), "iabcz");
        assert_eq!(sorted(Column::Fast, false), "abciz");
        assert_eq!(sorted(Column::Fast, true), "cbaiz");
        assert_eq!(sorted(Column::Port, false), "abciz");
        assert_eq!(sorted(Column::Port, true), "zicba");
        assert_eq!(sorted(Column::Slow, false), "abciz");
        assert_eq!(Column::InPackets.mark(false), 'v');
        assert_eq!(Column::Port.mark(false), '^');
        assert_eq!(Column::Port.mark(true), 'v');
    }

    #[test]
    fn columns_give_way_in_order() {
        let rows = [row("tap100i0", None)];
        let rows: Vec<_> = rows.iter().collect();
        let titles = |available| {
            let fitted = Column::fit(&rows, available);
            fitted.iter().map(|(column, _)| column.title()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(titles(79), "BRIDGE PORT HOOK IN_PPS IN_b/s OUT_PPS OUT_b/s FAST% SLOW_BY_REASON");
        assert_eq!(titles(60), "BRIDGE PORT HOOK IN_PPS IN_b/s FAST% SLOW_BY_REASON");
        assert_eq!(titles(39), "PORT IN_PPS FAST% SLOW_BY_REASON");
        assert_eq!(titles(24), "PORT IN_PPS FAST%");
        assert_eq!(titles(0), "PORT");
        for available in 12..200 {
            let used: usize = Column::fit(&rows, available).iter().map(|(_, width)| width + 1).sum();
            assert!(used <= available + 1);
        }
    }

    #[test]
    fn neighbours_wrap_around() {
        assert_eq!(Column::Slow.neighbour(true), Column::Bridge);
        assert_eq!(Column::Bridge.neighbour(false), Column::Slow);
        assert_eq!(Column::Bridge.neighbour(true), Column::Port);
    }
}
