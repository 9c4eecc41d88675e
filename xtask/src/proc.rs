//! Running other programs.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The root of the repository.
pub(crate) fn repo() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// The search path: the caller's, then cargo's own programs and the administrator's, which a user's path often lacks.
pub(crate) fn search_path() -> OsString {
    let mut dirs: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let extra = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    for dir in cargo_bin().into_iter().chain(extra.map(PathBuf::from)) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    env::join_paths(dirs).unwrap_or_default()
}

/// The folder that `cargo install` writes to.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"))).map(|home| home.join("bin"))
}

/// The file that `program` stands for on the search path.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|dir| dir.join(program))
        .find(|path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// A command with the extended search path, free of what `cargo run` set for this process.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    let mut command = match program.to_str().and_then(which) {
        Some(path) => Command::new(path),
        None => Command::new(program),
    };
    command.env("PATH", search_path());
    // cargo puts its own and rustc's libraries first; other programs shall not load them.
    command.env_remove("LD_LIBRARY_PATH");
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(leaks) {
            command.env_remove(key);
        }
    }
    command
}

/// Whether `cargo run` set this variable for the program it runs, so that an inner cargo must not see it.
fn leaks(key: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| key.starts_with(prefix))
        || ["CARGO", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&key)
}

/// The cargo that runs this program, for builds of the host's crates.
pub(crate) fn cargo() -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repo());
    command
}

/// Runs to the end with inherited output. An exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", show(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", show(command));
    }
    Ok(())
}

/// Runs to the end with output caught. An exit code other than 0 is an error that carries the last lines of it.
pub(crate) fn run_quiet(command: &mut Command) -> Result<String> {
    let output = capture(command)?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n  ");
        bail!("{} failed: {}\n  {tail}", show(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end with output caught, whatever the exit code.
pub(crate) fn capture(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", show(command)))
}

/// The command as one would type it, for messages.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|meta| meta.uid() == 0)
}

/// `program` run as root: as it is for root, else by sudo with the environment kept.
///
/// # Errors
/// Neither root nor a sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>, why: &str) -> Result<Command> {
    if is_root() {
        return Ok(command(program));
    }
    if which("sudo").is_none() {
        bail!("{why} needs root, and there is no sudo: run it as root");
    }
    let mut sudo = command("sudo");
    // sudo replaces PATH even with -E.
    let mut path = OsString::from("PATH=");
    path.push(search_path());
    sudo.args(["-E", "env"]).arg(path).arg(program);
    Ok(sudo)
}

/// Quotes a word for a POSIX shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_survive_the_shell() {
        for word in ["", "plain", "two words", "it's", "$HOME `id` \"x\"", "a\\b", "line\nbreak"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .expect("sh runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
