//! `ip` and `bridge` that stay running and take line after line: a process for each command would cost more than all
//! the rest, above all under an emulator.

use std::{
    env,
    io::{BufRead as _, BufReader, PipeReader, Write as _, pipe},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::netns::Netns;

/// A running `ip -force -batch -` or `bridge -force -batch -`.
#[derive(Debug)]
pub struct Tool {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<PipeReader>,
    /// Lines written up to now: the tool names a failed line by its number.
    lines: usize,
    /// Where the lines that are not read back yet begin.
    pending: usize,
}

/// What lines came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What was printed.
    pub output: Vec<String>,
    /// The lines that failed: place among the lines given, and the message.
    pub failed: Vec<(usize, String)>,
}

impl Tool {
    /// Starts the tool in a namespace; the one below the folder that `XBR_IPROUTE2` names, if there is one.
    pub fn start(name: &'static str, space: &Netns) -> Result<Self> {
        let (reader, writer) = pipe()?;
        let errors = writer.try_clone()?;
        let folder = env::var_os("XBR_IPROUTE2").map(PathBuf::from);
        let own = folder.and_then(|folder| {
            ["bin", "sbin"].map(|part| folder.join(part).join(name)).into_iter().find(|path| path.exists())
        });
        let program = own.unwrap_or_else(|| name.into());
        let spawn = move || {
            Command::new("stdbuf")
                .arg("-oL")
                .arg(program)
                .args(["-force", "-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(writer)
                .stderr(errors)
                .spawn()
        };
        let mut child = space.enter(spawn)?.with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, output: BufReader::new(reader), lines: 0, pending: 0 })
    }

    /// Hands lines over without waiting; [`Tool::finish`] waits.
    pub fn tell<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the tool has ended")?;
        let mut text = String::new();
        for line in lines {
            text.push_str(line.as_ref());
            text.push('\n');
        }
        self.lines += lines.len();
        stdin.write_all(text.as_bytes()).with_context(|| format!("write to {}", self.name))
    }

    /// Waits until all lines are done.
    pub fn finish(&mut self) -> Result<Said> {
        // A line that surely fails is the end mark: its number comes back on stderr, which is never held back.
        let first = self.pending;
        self.tell(&["end-of-these-lines"])?;
        self.pending = self.lines;
        let mark = format!("Command failed -:{}", self.lines);
        let (mut said, mut text) = (Said::default(), Vec::new());
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                bail!("{} ended by itself: {}", self.name, text.join("; "));
            }
            let line = line.trim_end();
            if line == mark {
                break;
            }
            match line.strip_prefix("Command failed -:").and_then(|number| number.parse::<usize>().ok()) {
                Some(number) => said.failed.push((number.saturating_sub(first + 1), text.split_off(0).join("; "))),
                None if line.starts_with("Error:") || line.starts_with("RTNETLINK") || is_complaint(line) => {
                    text.push(line.to_owned());
                }
                None => said.output.push(line.to_owned()),
            }
        }
        Ok(said)
    }

    /// Runs lines to their end.
    pub fn run<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<Said> {
        self.tell(lines)?;
        self.finish()
    }

    /// Runs lines that must not fail.
    pub fn must<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<Vec<String>> {
        let said = self.run(lines)?;
        if let Some((index, message)) = said.failed.first() {
            let line = lines.get(*index).map_or("?", AsRef::as_ref);
            bail!("{} {line}: {message}", self.name);
        }
        Ok(said.output)
    }
}

/// Messages of the tools that begin with neither of the usual words.
fn is_complaint(line: &str) -> bool {
    ["Cannot", "Object", "Invalid", "Unknown", "Usage", "Failed", "Device", "Must", "argument", "Argument", "\""]
        .iter()
        .any(|start| line.starts_with(start))
        || line.contains("is unknown")
}

impl Drop for Tool {
    fn drop(&mut self) {
        // End of input ends the tool.
        self.stdin.take();
        drop(self.child.wait());
    }
}
