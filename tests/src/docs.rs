//! docs/semantics.md against the sources: the tests that it names exist, its reasons are xbr's, and none is dead.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bridge_common::reason::Reason;

/// A source file: its path below the repository, and its text.
struct Source {
    path: String,
    text: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file of the repository, unit tests apart from what they test.
fn sources() -> (Vec<Source>, Vec<Source>) {
    let (mut programs, mut tests) = (Vec::new(), Vec::new());
    let root = repository();
    let mut folders: Vec<PathBuf> =
        ["bridge-common", "bridge-ebpf", "bridge-user", "tests"].map(|name| root.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                if path == "tests/src/docs.rs" {
                    continue;
                }
                if path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs") {
                    tests.push(Source { path, text });
                } else {
                    let (code, unit_tests) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
                    tests.push(Source { path: path.clone(), text: unit_tests.to_owned() });
                    programs.push(Source { path, text: code.to_owned() });
                }
            }
        }
    }
    (programs, tests)
}

fn document() -> String {
    fs::read_to_string(repository().join("docs/semantics.md")).unwrap()
}

/// What stands between backticks.
fn quoted(document: &str) -> BTreeSet<&str> {
    document.split('`').skip(1).step_by(2).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[test]
fn the_tests_of_the_document_exist() {
    let document = document();
    let (_, tests) = sources();
    let mut named = 0;
    for name in quoted(&document) {
        let Some((group, test)) = name.split_once("::").filter(|(group, test)| is_word(group) && is_word(test)) else {
            continue;
        };
        if (group, test) == ("group", "name") {
            continue;
        }
        named += 1;
        let found = tests.iter().any(|source| {
            let here = source.path.split(['/', '.']).any(|part| part == group);
            source.text.contains(&format!("\"{name}\""))
                || here
                    && (source.text.contains(&format!("fn {test}(")) || source.text.contains(&format!("(\"{test}\"")))
        });
        assert!(found, "docs/semantics.md names the test {name}, which is nowhere");
    }
    assert!(named > 50, "only {named} tests are named");
}

#[test]
fn the_reasons_of_the_document_are_those_of_xbr() {
    let document = document();
    let quoted = quoted(&document);
    for reason in Reason::ALL {
        assert!(quoted.contains(reason.name()), "docs/semantics.md does not say when {} is counted", reason.name());
    }
    // In "slow (`a`, as egress `b`; `c`)" all three are reasons.
    for part in document.split("slow (`").skip(1) {
        let inside = format!("`{}", part.split(')').next().unwrap());
        // The legend has "reason" for any of them.
        for name in inside.split('`').skip(1).step_by(2).filter(|name| is_word(name) && *name != "reason") {
            assert!(Reason::ALL.iter().any(|reason| reason.name() == name), "docs/semantics.md: {name} is no reason");
        }
    }
}

#[test]
fn no_reason_is_dead() {
    let (programs, tests) = sources();
    let word = |text: &str, word: &str| {
        text.match_indices(word).any(|(at, _)| {
            let edge = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
            edge(at.checked_sub(1).and_then(|before| text.as_bytes().get(before)))
                && edge(text.as_bytes().get(at + word.len()))
        })
    };
    for reason in Reason::ALL {
        let variant = format!("{reason:?}");
        let produced = format!("Reason::{variant}");
        assert!(
            programs.iter().any(|source| source.path != "bridge-common/src/reason.rs" && word(&source.text, &produced)),
            "nothing produces {}",
            reason.name()
        );
        let published = format!("\"{}\"", reason.name());
        let tested = tests.iter().any(|source| word(&source.text, &variant) || source.text.contains(&published));
        assert!(tested, "no test expects {}", reason.name());
    }
}
