//! The committed figures of xbr.

/// `MAJOR.MINOR CASE INSTRUCTIONS`, a line each.
const KNOWN: &str = include_str!("known.txt");
/// Share by which a figure may differ.
const TOLERATED: f64 = 0.02;

/// What is wrong with a figure of xbr, if something is.
pub(super) fn fault(kernel: Option<(u32, u32)>, case: &str, figure: f64) -> Option<String> {
    let (major, minor) = kernel?;
    let name = format!("{major}.{minor} {case}");
    let Some(known) = lines().find(|(line, _)| *line == name).map(|(_, known)| known) else {
        return Some(format!("{name}: {figure:.0} instructions per frame, and known.txt has no line for it"));
    };
    let change = figure / known - 1.0;
    (change.abs() > TOLERATED).then(|| {
        format!(
            "{name}: {figure:.0} instructions per frame, {:+.1} % of the {known:.0} in known.txt: find out why, or \
             write the new figure there",
            change * 100.0
        )
    })
}

/// Name and figure of each line.
fn lines() -> impl Iterator<Item = (&'static str, f64)> {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).filter_map(|(name, figure)| Some((name, figure.parse().ok()?)))
}
