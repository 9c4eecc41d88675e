//! Draws the live view. Pure: the state goes in, a buffer comes out; any size of screen will do.

mod details;
#[cfg(test)]
mod tests;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{app::App, columns::Column, keys};
use crate::cli::format::span;

const FOOTER: &str = "q quit  h help  s sort  r reverse  space pause  +/- tick  / filter  d details";
/// Least height of the body that the list and the details share.
const SHARED: u16 = 12;

/// Draws `app` into all of `area`.
pub(super) fn render(app: &mut App, area: Rect, buffer: &mut Buffer) {
    let layout = Layout::of(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let alarm = if app.colours && !app.shown.active { bold.fg(Color::Red) } else { bold };
    put(buffer, layout.header, &app.shown.header, alarm);
    put(buffer, layout.second, &second_line(app), Style::new());
    if app.help {
        help(layout.whole_body(), buffer);
    } else {
        body(app, &layout, buffer);
    }
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    if app.editing {
        put(buffer, layout.footer, &format!("filter: {}_   Enter keeps it, Esc drops it", app.filter), reversed);
    } else {
        put(buffer, layout.footer, &format!("{FOOTER:<width$}", width = usize::from(area.width)), reversed);
    }
}

/// Where things go. A part that the screen is too low for has no height.
struct Layout {
    header: Rect,
    second: Rect,
    titles: Rect,
    rows: Rect,
    total: Rect,
    footer: Rect,
}

impl Layout {
    /// With every line more, the next part of the list appears: header, one row, titles, footer, total, second line.
    fn of(area: Rect) -> Self {
        let needs = |least: u16| u16::from(area.height >= least);
        let (header, second, titles) = (needs(1), needs(6), needs(3));
        let (total, footer) = (needs(5), needs(4));
        let rows = area.height - header - second - titles - total - footer;
        let mut top = area.y;
        let mut next = |height| {
            let part = Rect { y: top, height, ..area };
            top += height;
            part
        };
        Self {
            header: next(header),
            second: next(second),
            titles: next(titles),
            rows: next(rows),
            total: next(total),
            footer: next(footer),
        }
    }

    /// Everything between the second line and the footer.
    fn whole_body(&self) -> Rect {
        Rect { height: self.titles.height + self.rows.height + self.total.height, ..self.titles }
    }
}

fn body(app: &mut App, layout: &Layout, buffer: &mut Buffer) {
    if let Some(waiting) = &app.shown.waiting {
        wrapped(buffer, layout.whole_body(), waiting);
        return;
    }
    let mut rows = layout.rows;
    if app.details {
        let body = layout.whole_body();
        if body.height < SHARED {
            details::render(app, body, buffer);
            return;
        }
        let below = body.height / 2;
        rows.height -= below;
        let total = Rect { y: rows.bottom(), ..layout.total };
        let pane = Rect { y: total.bottom(), height: below, ..body };
        list(app, layout.titles, rows, total, buffer);
        details::render(app, pane, buffer);
    } else {
        list(app, layout.titles, rows, layout.total, buffer);
    }
}

fn list(app: &mut App, titles: Rect, area: Rect, total: Rect, buffer: &mut Buffer) {
    let visible = app.visible(usize::from(area.height));
    let rows: Vec<_> = app.shown.rows.iter().collect();
    // One cell at the left marks the selected row.
    let columns = Column::fit(&rows, usize::from(area.width).saturating_sub(1));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let heading = columns.iter().map(|(column, width)| {
        let mark = if *column == app.sort { column.mark(app.reversed) } else { ' ' };
        if column.is_number() {
            format!("{:>width$}", format!("{mark}{}", column.title()))
        } else {
            format!("{:<width$}", format!("{}{mark}", column.title()))
        }
    });
    put(buffer, titles, &join(' ', heading), bold.add_modifier(Modifier::UNDERLINED));
    let line = |mark: char, cell: &dyn Fn(Column) -> String| {
        join(mark, columns.iter().map(|(column, width)| padded(*column, &cell(*column), *width)))
    };
    for (y, index) in (area.y..).zip(visible) {
        let row = rows[index];
        let selected = app.selected() == Some(index);
        let mut style = Style::new();
        if app.colours && !row.port.ready() {
            style = style.fg(Color::Yellow);
        }
        if selected {
            style = style.add_modifier(Modifier::REVERSED);
        }
        let mark = if selected { '>' } else { ' ' };
        put(buffer, Rect { y, height: 1, ..area }, &line(mark, &|column| column.cell(row)), style);
    }
    put(buffer, total, &line(' ', &|column| column.total_cell(app.shown.total.as_ref())), bold);
}

fn join(mark: char, cells: impl Iterator<Item = String>) -> String {
    format!("{mark}{}", cells.collect::<Vec<_>>().join(" "))
}

/// The cell cut and padded to its column. A cut is marked: `tap100i~`.
fn padded(column: Column, cell: &str, width: usize) -> String {
    if cell.chars().count() > width {
        let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
        return format!("{kept}~");
    }
    if column.is_number() { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

fn second_line(app: &App) -> String {
    let mut parts = Vec::new();
    if app.paused {
        parts.push("PAUSED".to_owned());
    }
    let tick = app.tick.as_secs_f64();
    parts.push(if tick < 1.0 { format!("every {tick}s") } else { format!("every {}", span(tick)) });
    if !app.filter.is_empty() {
        parts.push(format!("filter \"{}\"", app.filter));
    }
    match app.shown.notes.as_slice() {
        [] => {}
        [note] => parts.push(format!("! {note}")),
        [note, others @ ..] => parts.push(format!("! {note} (and {} more: xbr status)", others.len())),
    }
    parts.join("   ")
}

fn help(area: Rect, buffer: &mut Buffer) {
    let lines = keys::help().map(|(label, help)| format!("  {label:<10} {help}"));
    let more = [
        String::new(),
        "  IN: from the wire or the guest. OUT: towards it. b/s: bits per second. FAST%: share of IN on the fast path."
            .into(),
        "  !reason: the port is not accelerated, and why. v and ^ mark the column that is sorted by.".into(),
    ];
    for (y, line) in (area.y..area.bottom()).zip(lines.chain(more)) {
        put(buffer, Rect { y, height: 1, ..area }, &line, Style::new());
    }
}

/// Writes one line into the first line of `area`, cut at its end. Does nothing where there is no room.
fn put(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    let area = area.intersection(buffer.area);
    if !area.is_empty() {
        buffer.set_stringn(area.x, area.y, text, usize::from(area.width), style);
    }
}

/// Writes a text over as many lines as it needs and `area` has.
fn wrapped(buffer: &mut Buffer, area: Rect, text: &str) {
    let mut line = String::new();
    let mut lines = Vec::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > usize::from(area.width) {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        put(buffer, Rect { y, height: 1, ..area }, &line, Style::new());
    }
}
