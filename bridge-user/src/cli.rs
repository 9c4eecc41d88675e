//! The command line: verbs, options, help texts and exit codes.

mod args;
mod extras;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod logging;
mod reasons;
pub(crate) mod render;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

pub(crate) use self::args::{RunDir, interface_name};
use self::{
    args::{RunArgs, Verbosity},
    extras::{CompletionsArgs, ManArgs, UndoArgs},
    reasons::ReasonsArgs,
    status::StatusArgs,
};
use crate::{
    daemon,
    error::{Exit, Failure},
    top::TopArgs,
};

const ABOUT: &str = "A fast path in front of the Linux bridge";

const LONG_ABOUT: &str = "\
xbr makes an existing Linux bridge fast. eBPF programs on the bridge's ports deliver the frames whose way the bridge
has already learnt; every other frame goes to the bridge untouched. When xbr stops, the bridge carries on alone.";

const AFTER_HELP: &str = "\
Examples:
  xbr run br0              accelerate br0 until stopped
  xbr status               what is fast, what is not, and why
  xbr top                  live rates of every port
  xbr status br0 --check   exit code 4 unless every port of br0 is accelerated

A verb may be shortened as long as it is clear: xbr st

Exit codes:
  0  done
  1  the operation failed
  2  the command line is wrong
  3  no daemon answers
  4  status --check: something is not accelerated
  5  not enough privileges
  6  the kernel lacks something that xbr needs
  7  another xbr run serves the bridge";

#[derive(Debug, Parser)]
#[command(
    name = "xbr",
    bin_name = "xbr",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    infer_subcommands = true,
    subcommand_required = true,
    arg_required_else_help = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Accelerate bridges, in the foreground, until stopped
    Run(Box<RunArgs>),
    /// Show bridges, ports, tables and what takes the slow path
    Status(StatusArgs),
    /// Watch the rates of every port
    Top(TopArgs),
    /// Put back what an instance that was killed had changed on its ports
    Undo(UndoArgs),
    /// List the reasons that counters, status and top use
    Reasons(ReasonsArgs),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all verbs into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// The whole of `xbr`: reads the command line, runs the verb, prints at most one line about what failed.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    logging::init(&cli.verbosity, matches!(cli.verb, Verb::Run(_)));
    match execute(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.message);
            failure.exit.into()
        }
    }
}

fn execute(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Run(run) => daemon::run(run.config()?),
        Verb::Status(status) => status::execute(&status),
        Verb::Top(top) => crate::top::execute(&top),
        Verb::Undo(undo) => extras::undo(&undo),
        Verb::Reasons(reasons) => reasons::execute(&reasons),
        Verb::Completions(completions) => extras::completions(&completions, Cli::command()),
        Verb::Man(man) => extras::man(&man, Cli::command()),
    }
}

/// Help and version go to stdout as clap wrote them; an error becomes one line.
fn not_parsed(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    if !error.use_stderr() {
        return match emit(&text) {
            Ok(_) => ExitCode::SUCCESS,
            Err(failure) => failure.exit.into(),
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nothing is left to do when stderr is closed.
        drop(io::stderr().lock().write_all(text.as_bytes()));
    } else {
        complain(&one_line(&text));
    }
    Exit::Usage.into()
}

/// clap's message without its headings, its usage text and its line breaks.
fn one_line(message: &str) -> String {
    let mut parts = Vec::new();
    for paragraph in message.split("\n\n") {
        let paragraph = paragraph.trim();
        if paragraph.is_empty() || paragraph.starts_with("Usage:") || paragraph.starts_with("For more information") {
            continue;
        }
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        let line = words.join(" ");
        let line = line.strip_prefix("error: ").or_else(|| line.strip_prefix("tip: ")).unwrap_or(&line);
        parts.push(line.trim_end_matches('.').to_owned());
    }
    format!("{} (try --help)", parts.join("; "))
}

fn complain(message: &str) {
    // Nothing is left to do when stderr is closed.
    drop(writeln!(io::stderr().lock(), "xbr: {message}"));
}

/// Writes `text` to stdout. False: the reader has gone, which ends the output without being an error.
///
/// # Errors
/// stdout cannot be written for another reason, such as a full disk.
pub(crate) fn emit(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(reason) if reason.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(reason) => Err(Failure::new(Exit::Failed, format!("cannot write to stdout: {reason}"))),
    }
}
