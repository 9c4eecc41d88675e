//! The test binaries: built once, on the host, and found in what cargo says about the build.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::proc;

/// A test binary.
#[derive(Clone, Debug)]
pub(crate) struct Binary {
    /// Folder of its package, which is where cargo runs it.
    pub(crate) dir: PathBuf,
    /// Name of the target.
    target: String,
    /// Whether it is an integration test, not the unit tests of a library or program.
    integration: bool,
    /// The file.
    pub(crate) path: PathBuf,
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let package = self.package();
        if self.integration {
            write!(f, "{package}/{}", self.target)
        } else {
            write!(f, "{package} unit tests of {}", self.target)
        }
    }
}

impl Binary {
    /// Folder of the package, as it is called in the repository.
    fn package(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Needs neither root nor a bridge: unit tests, and integration tests about the command line alone.
    pub(crate) fn is_pure(&self) -> bool {
        !self.integration
            || !matches!(self.package(), "tests" | "bridge-user")
            || (self.package() == "bridge-user" && self.target.starts_with("cli"))
    }

    /// Program tests: frames through the eBPF programs by `BPF_PROG_TEST_RUN`.
    pub(crate) fn is_program(&self) -> bool {
        !self.is_pure() && self.target == "program"
    }

    /// Runs a part of its tests where it is told so (`XBR_TEST_PART`).
    pub(crate) fn is_divisible(&self) -> bool {
        self.package() == "tests"
    }

    /// Tests with bridges in network namespaces.
    pub(crate) fn is_netns(&self) -> bool {
        !self.is_pure() && !self.is_program()
    }
}

/// What a build left.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// All test binaries.
    pub(crate) tests: Vec<Binary>,
    /// The programs under test, as variables for the tests: `XBR_BIN`, `XBR_LAB`.
    pub(crate) programs: Vec<(String, String)>,
}

/// Builds the programs and all test binaries.
pub(crate) fn build() -> Result<Built> {
    let mut built = Built::default();
    cargo(&["build", "--bins"], &mut built)?;
    cargo(&["test", "--no-run"], &mut built)?;
    built.tests.sort_by(|a, b| (&a.dir, &a.target).cmp(&(&b.dir, &b.target)));
    Ok(built)
}

/// Builds the programs as a user does, and gives them as variables for the lab: `XBR_BIN`, `XBR_LAB`.
pub(crate) fn release() -> Result<Vec<(String, String)>> {
    let mut built = Built::default();
    cargo(&["build", "--release", "--package", "bridge-user", "--package", "xbr-tests", "--bins"], &mut built)?;
    Ok(built.programs)
}

/// Builds the programs as the tests use them, and gives them as variables: `XBR_BIN`, `XBR_LAB`, `XBR_DIFFERENTIAL`.
pub(crate) fn programs() -> Result<Vec<(String, String)>> {
    let mut built = Built::default();
    cargo(&["build", "--package", "bridge-user", "--package", "xbr-tests", "--bins"], &mut built)?;
    Ok(built.programs)
}

/// Runs one build and notes what it made.
fn cargo(args: &[&str], built: &mut Built) -> Result<()> {
    let mut cargo = proc::cargo();
    cargo.args(args).arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let shown = proc::show(&cargo);
    let mut child = cargo.spawn().with_context(|| format!("cannot run {shown}"))?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(|| format!("cannot read what {shown} says"))?;
        if let Ok(message) = serde_json::from_str::<Value>(&line) {
            note(&message, built);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {shown}"))?;
    if !status.success() {
        bail!("{shown} failed: {status}");
    }
    Ok(())
}

/// Takes what is of interest from one message of cargo.
fn note(message: &Value, built: &mut Built) {
    let Some(path) = message["executable"].as_str() else {
        return;
    };
    let target = message["target"]["name"].as_str().unwrap_or_default();
    if message["profile"]["test"] == true {
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        built.tests.push(Binary {
            dir: manifest.parent().unwrap_or(manifest).to_path_buf(),
            target: target.to_owned(),
            integration: message["target"]["kind"][0] == "test",
            path: path.into(),
        });
    } else {
        let name = match target {
            "xbr" => "XBR_BIN",
            "xbr-lab" => "XBR_LAB",
            "xbr-bench" => "XBR_BENCH",
            "xbr-differential" => "XBR_DIFFERENTIAL",
            _ => return,
        };
        if !built.programs.iter().any(|(known, _)| known == name) {
            built.programs.push((name.to_owned(), path.to_owned()));
        }
    }
}
