//! The pane with everything about the selected port.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};

use super::put;
use crate::{
    cli::{
        format::si,
        render::{because, meaning, shadow::account},
    },
    top::{app::App, rates::Row},
};

/// Draws the pane; its first line is a rule with the port's name.
pub(super) fn render(app: &App, area: Rect, buffer: &mut Buffer) {
    let Some(row) = app.selected().and_then(|position| app.shown.rows.get(position)) else {
        return;
    };
    let rule =
        format!("{:-<width$}", format!("-- {}/{} ", row.bridge, row.port.ifname), width = usize::from(area.width));
    put(buffer, area, &rule, Style::new().add_modifier(Modifier::BOLD));
    for (y, line) in (area.y..area.bottom()).skip(1).zip(lines(row)) {
        put(buffer, Rect { y, height: 1, ..area }, &line, Style::new());
    }
}

fn lines(row: &Row) -> Vec<String> {
    let port = &row.port;
    let mut lines = vec![format!("state {}, hook {}: {}", port.state, port.hook_and_device(), port.hook_why)];
    if !port.ready() {
        let reason = port.slow_reason.as_deref().unwrap_or("no reason given");
        lines.push(format!("NOT ACCELERATED: {}", because(reason, port.slow_detail.as_deref())));
    }
    if let Some(shadow) = &port.shadow {
        let kinds: Vec<String> = shadow.disagreements.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
        lines.push(format!("shadow mode: {}{kinds}", account(shadow)));
    }
    let rate = |name: &str| {
        let rates = row.rates.as_ref()?;
        Some(rates.reasons.iter().find(|(known, _)| known == name).map_or(0.0, |(_, rate)| *rate))
    };
    let mut reasons: Vec<_> = port.reasons.iter().map(|(name, count)| (name, *count, rate(name))).collect();
    reasons.sort_by(|one, other| {
        let by_rate = other.2.unwrap_or(0.0).total_cmp(&one.2.unwrap_or(0.0));
        by_rate.then(other.1.cmp(&one.1)).then(one.0.cmp(other.0))
    });
    if reasons.is_empty() {
        lines.push("nothing received yet".into());
        return lines;
    }
    lines.push(format!("{:>6} {:>14}  {:<20} {}", "PPS", "PACKETS", "REASON", "MEANING"));
    for (name, count, rate) in reasons {
        let rate = rate.map_or_else(|| "-".into(), si);
        lines.push(format!("{rate:>6} {count:>14}  {name:<20} {}", meaning(name)));
    }
    lines
}
