//! One instance per bridge: a locked file in the run folder, which the kernel unlocks when the process ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    error::{Exit, Failure},
    ipc,
};

/// The right to serve one bridge of this network namespace. The file stays when it is given up: removing it could let two
/// instances lock two files of one name.
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of `bridge`, or says who has it.
    pub(super) fn take(run_dir: &Path, bridge: &str) -> Result<Self, Failure> {
        let broken = |path: &Path, error: &io::Error| {
            Failure::new(Exit::Failed, format!("cannot lock {}: {error}", path.display()))
        };
        let namespace = ipc::namespace_inode().map_err(|error| broken(run_dir, &error))?;
        let path = run_dir.join(format!("{namespace}-{bridge}.lock"));
        std::fs::create_dir_all(run_dir).map_err(|error| broken(run_dir, &error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|error| broken(&path, &error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                sign(&mut file).map_err(|error| broken(&path, &error))?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::Error::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let holder =
                    file.read_to_string(&mut holder).map_or_else(|_| String::new(), |_| holder.trim().to_owned());
                Err(Failure::new(
                    Exit::Busy,
                    format!("bridge {bridge}: another xbr run (pid {holder}) serves it; stop that one first"),
                ))
            }
            Err((_, error)) => Err(broken(&path, &error.into())),
        }
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
