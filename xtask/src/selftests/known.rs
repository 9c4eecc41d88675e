//! What is known, and written down with its reason, of tests that differ or that send nothing by the fast path.

/// The file, in the order of its lines.
const TEXT: &str = include_str!("known.txt");

/// What stands in place of a case for "no frame takes the fast path".
const SLOW: &str = "slow";

/// What stands there for "so few frames that at times none takes the fast path".
const FEW: &str = "few";

/// The lines about one test.
pub(crate) struct Known<'a> {
    lines: Vec<(&'a str, &'a str)>,
}

impl Known<'static> {
    /// What the file says of the test at `path`.
    pub(crate) fn of(path: &str) -> Self {
        Self::parse(TEXT, path)
    }
}

impl<'a> Known<'a> {
    pub(super) fn parse(text: &'a str, path: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let mut fields = line.splitn(3, " | ");
            let (about, what, why) = (fields.next()?, fields.next()?, fields.next()?);
            (about == path).then_some((what, why))
        });
        Self { lines: lines.collect() }
    }

    /// Why no frame takes the fast path.
    pub(crate) fn slow(&self) -> Option<&'a str> {
        self.lines.iter().find(|(what, _)| *what == SLOW).map(|(_, why)| *why)
    }

    /// Why there may be no frame that takes the fast path.
    pub(crate) fn few(&self) -> Option<&'a str> {
        self.lines.iter().find(|(what, _)| *what == FEW).map(|(_, why)| *why)
    }

    /// Why a case ends otherwise.
    pub(crate) fn case(&self, name: &str) -> Option<&'a str> {
        self.lines.iter().find(|(what, _)| ![SLOW, FEW].contains(what) && *what == name).map(|(_, why)| *why)
    }

    /// The cases that are said to end otherwise.
    pub(crate) fn cases(&self) -> impl Iterator<Item = &'a str> {
        self.lines.iter().map(|(what, _)| *what).filter(|what| ![SLOW, FEW].contains(what))
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, TEXT};

    #[test]
    fn lines_are_found_by_test_and_case() {
        let text = "# a | b | c\na.sh | slow | floods only\na.sh | Case (x) | because | of that\nb.sh | slow | no\n";
        let known = Known::parse(text, "a.sh");
        assert_eq!(known.slow(), Some("floods only"));
        assert_eq!(known.case("Case (x)"), Some("because | of that"));
        assert_eq!(known.case("slow"), None);
        assert_eq!(known.cases().collect::<Vec<_>>(), ["Case (x)"]);
        assert!(Known::parse(text, "c.sh").slow().is_none());
    }

    #[test]
    fn the_file_is_well_formed() {
        for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.splitn(3, " | ").collect();
            assert!(fields.len() == 3 && fields.iter().all(|field| !field.trim().is_empty()), "{line}");
            assert_eq!(std::path::Path::new(fields[0]).extension(), Some("sh".as_ref()), "{line}");
        }
    }
}
