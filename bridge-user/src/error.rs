//! Errors that end a command: each is one line that names the object and the remedy, and has an exit code.

use std::{fmt, process::ExitCode};

/// The documented exit codes of `xbr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The operation failed.
    Failed = 1,
    /// The command line is wrong (the number is clap's).
    Usage = 2,
    /// No daemon answers.
    NoDaemon = 3,
    /// `status --check`: something is not accelerated.
    Degraded = 4,
    /// Not enough privileges.
    Permission = 5,
    /// The kernel lacks something that xbr needs.
    Kernel = 6,
    /// Another `xbr run` serves the bridge.
    Busy = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error with its exit code. Displays as one line.
#[derive(Debug)]
pub struct Failure {
    /// The code that the process ends with.
    pub exit: Exit,
    /// What failed and what helps, without a trailing newline.
    pub message: String,
}

impl Failure {
    /// A failure with this code and line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
