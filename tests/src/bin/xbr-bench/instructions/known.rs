//! The committed figures of xbr.

/// `MAJOR.MINOR CASE INSTRUCTIONS`, a line each.
const KNOWN: &str = include_str!("known.txt");
/// Share by which a figure may differ.
const TOLERATED: f64 = 0.02;

/// The committed figure of a case, in instructions per frame.
pub(super) fn figure(kernel: Option<(u32, u32)>, case: &str) -> Option<f64> {
    let (major, minor) = kernel?;
    let name = format!("{major}.{minor} {case} ");
    KNOWN.lines().find_map(|line| line.strip_prefix(&name)).and_then(|figure| figure.trim().parse().ok())
}

/// What is wrong with a figure of xbr, if something is.
pub(super) fn fault(kernel: Option<(u32, u32)>, case: &str, measured: f64) -> Option<String> {
    let known = figure(kernel, case)?;
    let change = measured / known - 1.0;
    (change.abs() > TOLERATED).then(|| {
        format!(
            "{case}: {measured:.0} instructions per frame, {:+.1} % of the {known:.0} in known.txt: find out why, or \
             write the new figure there",
            change * 100.0
        )
    })
}
