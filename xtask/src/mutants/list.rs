//! `tests/mutants.toml`: mutants that change nothing that anybody could see, each with its reason.
//!
//! Only a small part of TOML is read: tables `[[equivalent]]` with the strings `mutant` and `reason`, one a line.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// The list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct List(Vec<Entry>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    mutant: String,
    reason: String,
}

impl List {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            let string = |key: &str| {
                let value = line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
                Some(value.strip_prefix('"')?.strip_suffix('"')?.to_owned())
            };
            let entry = entries.last_mut();
            match (entry, string("mutant"), string("reason")) {
                _ if line.is_empty() || line.starts_with('#') => {}
                _ if line == "[[equivalent]]" => entries.push(Entry::default()),
                (Some(entry), Some(mutant), _) => entry.mutant = mutant,
                (Some(entry), _, Some(reason)) => entry.reason = reason,
                _ => bail!("line {number} is neither [[equivalent]] nor mutant = \"…\" nor reason = \"…\""),
            }
        }
        if let Some(entry) = entries.iter().find(|entry| entry.mutant.is_empty() || entry.reason.is_empty()) {
            bail!("an entry lacks its mutant or its reason: {entry:?}");
        }
        Ok(Self(entries))
    }

    /// Parts the mutants that were missed into those that are listed and those that are not. An entry stands for one
    /// mutant, wherever in its file that is now: of two alike, one may be equivalent and the other not.
    pub(super) fn part<'a>(&self, missed: &'a [String]) -> (Vec<&'a str>, Vec<&'a str>) {
        let mut left: Vec<&str> = self.0.iter().map(|entry| entry.mutant.as_str()).collect();
        missed.iter().map(String::as_str).partition(|mutant| {
            let found = left.iter().position(|listed| *listed == placeless(mutant));
            found.map(|index| left.swap_remove(index)).is_some()
        })
    }

    /// What is listed and not among those that were missed.
    pub(super) fn stale(&self, missed: &[String]) -> Vec<&str> {
        let mut missed: Vec<String> = missed.iter().map(|mutant| placeless(mutant)).collect();
        let mut stale = Vec::new();
        for entry in &self.0 {
            match missed.iter().position(|mutant| *mutant == entry.mutant) {
                Some(index) => drop(missed.swap_remove(index)),
                None => stale.push(entry.mutant.as_str()),
            }
        }
        stale
    }
}

/// `src/decide.rs:176:31: replace | with ^ in classify` without line and column, which move with every change.
fn placeless(mutant: &str) -> String {
    let (place, change) = mutant.split_once(": ").unwrap_or(("", mutant));
    let file = place.split(':').next().unwrap_or_default();
    format!("{file}: {change}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# why\n\n[[equivalent]]\nmutant = \"src/a.rs: replace | with ^ in f\"\nreason = \"disjoint\"\n";

    fn owned(mutants: &[&str]) -> Vec<String> {
        mutants.iter().map(|mutant| (*mutant).to_owned()).collect()
    }

    #[test]
    fn a_listed_mutant_is_known_wherever_it_is_but_once() {
        let list = List::parse(TEXT).unwrap();
        let missed = owned(&[
            "src/a.rs:176:31: replace | with ^ in f",
            "src/a.rs:176:31: replace | with & in f",
            "src/b.rs:1:1: replace | with ^ in f",
            "src/a.rs:200:31: replace | with ^ in f",
        ]);
        let (listed, unlisted) = list.part(&missed);
        assert_eq!((listed, unlisted.len()), (vec![missed[0].as_str()], 3));
        assert_eq!(list.stale(&missed), [""; 0]);
        assert_eq!(list.stale(&missed[1..3]), ["src/a.rs: replace | with ^ in f"]);
    }

    #[test]
    fn a_list_without_reasons_is_refused() {
        assert!(List::parse(&TEXT.replace("reason = \"disjoint\"", "")).is_err());
        assert!(List::parse(&TEXT.replace("[[equivalent]]", "")).is_err());
        assert!(List::parse(&TEXT.replace("reason = \"disjoint\"", "reason = disjoint")).is_err());
        assert_eq!(List::parse("").unwrap(), List::default());
    }
}
