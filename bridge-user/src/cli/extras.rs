//! What packagers need: completion scripts and manual pages, made from the command line's own description. And `undo`.

use std::{fs, io, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{args::RunDir, emit};
use crate::{
    datapath::guardian,
    error::{Exit, Failure},
};

/// Options of `xbr completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Options of `xbr man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder to write one page per verb into; without it the main page goes to stdout
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Options of `xbr undo`.
#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    #[command(flatten)]
    run_dir: RunDir,
    /// Wait until stdin ends; do nothing if it said a word first
    #[arg(long, hide = true)]
    after_stdin: bool,
}

pub(super) fn undo(args: &UndoArgs) -> Result<(), Failure> {
    let done = guardian::undo(&args.run_dir.path, args.after_stdin)?;
    if args.after_stdin { Ok(()) } else { emit(&format!("{done} changes put back\n")).map(drop) }
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "xbr", &mut script);
    emit(&String::from_utf8_lossy(&script)).map(drop)
}

pub(super) fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let pages =
        pages(command).map_err(|reason| Failure::new(Exit::Failed, format!("cannot write a page: {reason}")))?;
    let Some(folder) = &args.folder else {
        let main = pages.first().map(|(_, text)| String::from_utf8_lossy(text)).unwrap_or_default();
        return emit(&main).map(drop);
    };
    let failed =
        |reason: io::Error| Failure::new(Exit::Failed, format!("cannot write pages to {}: {reason}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    for (name, text) in pages {
        fs::write(folder.join(name), text).map_err(failed)?;
    }
    Ok(())
}

/// File name and text of each page, the main one first. Section 8: commands of administrators.
fn pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    // `xbr help` has no page of its own.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![page(command.clone(), "xbr")?];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("xbr-{}", verb.get_name());
        pages.push(page(verb.clone(), &name)?);
    }
    Ok(pages)
}

fn page(command: Command, name: &str) -> io::Result<(String, Vec<u8>)> {
    let mut text = Vec::new();
    let environment = environment(&command);
    Man::new(command.version(env!("CARGO_PKG_VERSION")))
        .title(name.to_uppercase())
        .section("8")
        .source(concat!("xbr ", env!("CARGO_PKG_VERSION")))
        .manual("System Administration")
        .render(&mut text)?;
    text.extend(environment.into_bytes());
    Ok((format!("{name}.8"), text))
}

/// The section about variables that stand for options.
fn environment(command: &Command) -> String {
    let entry = |option: &clap::Arg| {
        let (variable, long) = (option.get_env()?.to_string_lossy(), option.get_long()?.replace('-', "\\-"));
        Some(format!(".TP\n\\fB{variable}\\fR\nStands for \\fB\\-\\-{long}\\fR where that is not given.\n"))
    };
    let entries: String = command.get_arguments().filter_map(entry).collect();
    if entries.is_empty() { entries } else { format!(".SH ENVIRONMENT\n{entries}") }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn there_is_a_page_for_xbr_and_for_each_shown_verb() {
        let pages = pages(Cli::command()).unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["xbr.8", "xbr-run.8", "xbr-status.8", "xbr-top.8", "xbr-undo.8", "xbr-reasons.8"]);
        for (name, text) in &pages {
            let text = String::from_utf8_lossy(text);
            let title = name.trim_end_matches(".8").to_uppercase();
            assert!(
                text.contains(&format!(".TH {title} 8")) || text.contains(&format!(".TH \"{title}\" \"8\"")),
                "{text}"
            );
        }
        let main = String::from_utf8_lossy(&pages[0].1);
        assert!(main.contains("no daemon answers"), "{main}");
        assert!(!main.contains("help(8)"), "{main}");
        for (name, text) in &pages {
            let has = String::from_utf8_lossy(text).contains(".SH ENVIRONMENT\n.TP\n\\fBXBR_RUN_DIR\\fR\n");
            assert_eq!(has, !matches!(name.as_str(), "xbr.8" | "xbr-reasons.8"), "{name}");
        }
    }

    #[test]
    fn completions_know_the_verbs() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "xbr", &mut script);
        let script = String::from_utf8_lossy(&script);
        assert!(script.contains("--overrule"));
        assert!(script.contains("status"));
    }
}
