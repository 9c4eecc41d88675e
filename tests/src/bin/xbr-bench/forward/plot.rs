//! The figures as bars, in SVG.

use super::report::{Origin, Table};

const WIDTH: f64 = 900.0;
/// Where bars begin.
const LEFT: f64 = 200.0;
/// Room for the label behind the longest bar.
const RIGHT: f64 = 210.0;
const BAR: f64 = 16.0;
const GAP: f64 = 4.0;

/// A colour for a contender.
fn colour(name: &str) -> &'static str {
    match name {
        name if name.starts_with("xbr") => "#d9480f",
        "bridge" => "#495057",
        name if name.starts_with("bridge") => "#868e96",
        _ => "#a5b4c3",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text(x: f64, y: f64, anchor: &str, class: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>\n", escape(words))
}

fn rect(y: f64, length: f64, colour: &str) -> String {
    format!("<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n")
}

/// One group of bars for each case; a bar is as long as the rate, in multiples of the bridge's.
pub(crate) fn svg(origin: &Origin, tables: &[Table]) -> String {
    let ratio = |table: &Table, at: usize| table.ratio(&table.rows[at], "bridge");
    let longest = tables
        .iter()
        .flat_map(|table| (0..table.rows.len()).filter_map(move |at| ratio(table, at)))
        .fold(1.0_f64, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let mut y = 24.0;
    let mut body = text(12.0, y, "start", "title", "Frames per second of one processor core, × Linux bridge");
    for table in tables {
        y += 30.0;
        body += &text(12.0, y, "start", "case", &table.case.name);
        y += 8.0;
        for (at, row) in table.rows.iter().enumerate() {
            let (Some(ratio), Some(cost)) = (ratio(table, at), row.cost()) else { continue };
            let (rate, unit) = table.case.unit().rate(cost);
            let length = ratio * scale;
            body += &text(LEFT - 8.0, y + 12.5, "end", "name", &row.contender);
            body += &rect(y, length, colour(&row.contender));
            let unit = unit.trim_end_matches(" per core");
            body += &text(LEFT + length + 6.0, y + 12.5, "start", "value", &format!("{ratio:.2} ({rate:.2} {unit})"));
            y += BAR + GAP;
        }
    }
    y += 28.0;
    body += &text(12.0, y, "start", "note", &origin.command);
    y += 16.0;
    let note = format!("kernel {}, {}, {}; medians", origin.kernel, origin.machine, origin.date);
    body += &text(12.0, y, "start", "note", &note);
    let height = y + 14.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\">\n<style>.title{{font-size:16px;font-weight:bold}}\
         .case{{font-size:14px;font-weight:bold}}.name,.value{{font-size:12px}}.note{{font-size:11px;fill:#666}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}
