//! Numbers, times and tables for people.

use std::time::Duration;

const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];

/// Three significant digits with a decimal unit: 0, 0.4, 999, 12.3k, 1.23M. At most five characters below 10^18.
pub(crate) fn si(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".into();
    }
    if value < 10.0 && value.fract() >= 0.05 {
        return format!("{value:.1}");
    }
    let mut scaled = value;
    for (index, unit) in UNITS.iter().enumerate() {
        // Rounded first, so that 999.6 becomes 1.00k and not 1000.
        let (text, fits) = match (index, scaled) {
            (0, _) => (format!("{scaled:.0}"), scaled < 999.5),
            (_, ..9.995) => (format!("{scaled:.2}"), true),
            (_, ..99.95) => (format!("{scaled:.1}"), true),
            _ => (format!("{scaled:.0}"), scaled < 999.5),
        };
        if fits || index + 1 == UNITS.len() {
            return text + unit;
        }
        scaled /= 1000.0;
    }
    unreachable!("the last unit takes any value")
}

/// As [`si`], for a counter.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn si_count(value: u64) -> String {
    si(value as f64)
}

/// A share of 0 to 1 as "99.9%", cut and not rounded: "100.0%" means all.
pub(crate) fn percent(share: Option<f64>) -> String {
    match share {
        Some(share) => {
            // 1e-9 heals what 0.3 = 0.29999… would lose, and is less than one frame in a billion.
            let tenths = (share * 1000.0 + 1e-9).floor();
            format!("{:.1}%", tenths / 10.0)
        }
        None => "-".into(),
    }
}

/// "42s", "3m 05s", "1h 02m", "12d 03h".
pub(crate) fn span(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    if minutes == 0 {
        format!("{seconds}s")
    } else if hours == 0 {
        format!("{minutes}m {:02}s", seconds % 60)
    } else if days == 0 {
        format!("{hours}h {:02}m", minutes % 60)
    } else {
        format!("{days}d {:02}h", hours % 24)
    }
}

/// "1 port", "2 ports", for nouns that take an s.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Which side of a column its cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells, padded to columns two blanks apart.
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let heading = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        Self { align: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heading] }
    }

    /// Adds a row; it has as many cells as the heading.
    pub(crate) fn row(&mut self, cells: &[String]) {
        debug_assert_eq!(cells.len(), self.align.len());
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// The lines, each behind `indent` blanks and without blanks at its end.
    pub(crate) fn render(&self, indent: usize) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.align.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - cell.chars().count());
                if column > 0 {
                    line.push_str("  ");
                }
                match self.align[column] {
                    Align::Left => line.extend([cell.as_str(), &padding]),
                    Align::Right => line.extend([padding.as_str(), cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text with every control character replaced: an interface name may hold escape sequences.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_five_characters() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.4, "0.4"),
            (3.0, "3"),
            (9.96, "10.0"),
            (12.3, "12"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (9999.0, "10.0k"),
            (12_345.0, "12.3k"),
            (99_990.0, "100k"),
            (999_600.0, "1.00M"),
            (1.5e9, "1.50G"),
            (1e17, "100P"),
            (f64::NAN, "-"),
            (-1.0, "-"),
        ] {
            assert_eq!(si(value), text, "{value}");
            assert!(text.len() <= 5);
        }
        assert_eq!(si(1e21), "1000000P");
        assert_eq!(si_count(u64::MAX), "18447P");
    }

    #[test]
    fn a_hundred_percent_means_all() {
        assert_eq!(percent(Some(1.0)), "100.0%");
        assert_eq!(percent(Some(0.99999)), "99.9%");
        assert_eq!(percent(Some(0.3)), "30.0%");
        assert_eq!(percent(Some(0.0)), "0.0%");
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in
            [(0.4, "0s"), (59.9, "59s"), (185.0, "3m 05s"), (3720.0, "1h 02m"), (1_047_600.0, "12d 03h"), (-1.0, "0s")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn columns_line_up_and_escapes_are_defused() {
        let mut table = Table::new(&[("A", Align::Left), ("N", Align::Right), ("Z", Align::Left)]);
        table.row(&["x".into(), "12345".into(), String::new()]);
        table.row(&["\u{1b}[2J".into(), "1".into(), "end".into()]);
        assert_eq!(table.render(1), " A         N  Z\n x     12345\n ?[2J      1  end\n");
    }
}
