//! The first root file system of the virtual machine: busybox, a few modules, and a script that goes on to the
//! machine's own files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::setup::kernel::Installed;

/// First process. It stacks a writable overlay on the host's files and goes on there.
const INIT: &str = include_str!("init.sh");

/// A cpio archive in the "newc" format, which the kernel unpacks.
pub(crate) fn archive(kernel: &Installed, busybox: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut cpio = Cpio::default();
    for dir in ["bin", "dev", "host", "modules", "proc", "root", "rw", "sys"] {
        cpio.entry(dir, 0o040_755, &[]);
    }
    cpio.entry("init", 0o100_755, INIT.as_bytes());
    cpio.entry("bin/busybox", 0o100_755, &read(busybox)?);
    let mut modules: Vec<_> = fs::read_dir(&kernel.early)
        .with_context(|| format!("cannot read {}", kernel.early.display()))?
        .collect::<Result<_, _>>()?;
    modules.sort_by_key(fs::DirEntry::file_name);
    for module in modules {
        cpio.entry(&format!("modules/{}", module.file_name().to_string_lossy()), 0o100_644, &read(&module.path())?);
    }
    Ok(cpio.finish())
}

/// Writes the archive entry by entry.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    inode: usize,
}

impl Cpio {
    /// Appends a file or folder, owned by root. `mode` has the type in it, as in stat(2).
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        let (inode, size, name_size) = (self.inode, data.len(), name.len() + 1);
        // Magic, inode, mode, uid, gid, links, mtime, size, device (major, minor), rdev (major, minor), name size, check
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Every header and every content starts at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive, closed.
    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
