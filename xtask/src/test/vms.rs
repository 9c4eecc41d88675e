//! The same test binaries in virtual machines: some for each kernel, two at a time, as each keeps one processor busy.

use std::{
    fmt,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    proc,
    setup::{self, kernel::Kernel},
    test::{
        binaries::{Binary, Built},
        tally::Tally,
    },
    vm::Vm,
};

/// Virtual machines at a time.
const AT_A_TIME: usize = 2;

/// How long a virtual machine may take for all binaries.
const LIMIT: Duration = Duration::from_mins(40);

/// Starts a line that is of interest whatever the result: tests have to be kept short.
pub(crate) const SLOWEST: &str = "slowest: ";

/// Starts a line that says where in the script the virtual machine is.
const MARK: &str = "@xbr-test@ ";

/// One virtual machine: every `of`th test of the binaries, from the one with this number on.
#[derive(Clone, Copy)]
struct Share {
    kernel: Kernel,
    number: usize,
    of: usize,
}

impl Share {
    /// All that there is to run on this kernel: few tests are not worth two starts of a virtual machine.
    fn all(kernel: Kernel, few: bool) -> impl Iterator<Item = Self> {
        let of = if few { 1 } else { 2 };
        (1..=of).map(move |number| Self { kernel, number, of })
    }

    /// Whether it runs this binary: one that cannot be divided is the first's.
    fn has(self, binary: &Binary) -> bool {
        self.number == 1 || binary.is_divisible()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, number, of } = self;
        if *of == 1 { write!(f, "{kernel}") } else { write!(f, "{kernel} {number}/{of}") }
    }
}

/// Runs those binaries that `choose` picks, on every kernel. `then` runs as soon as no virtual machine waits to be started.
pub(crate) fn run(
    built: &Built,
    choose: impl Fn(&Binary) -> bool,
    filter: Option<&str>,
    then: impl FnOnce() + Send,
) -> Tally {
    let binaries: Vec<&Binary> = built.tests.iter().filter(|binary| choose(binary)).collect();
    let mut tally = Tally::default();
    if binaries.is_empty() {
        return tally;
    }
    let mut shares = Vec::new();
    for kernel in Kernel::ALL {
        match setup::vm(kernel) {
            Ok(_installed) => shares.extend(Share::all(kernel, filter.is_some())),
            Err(error) => tally.skip(&format!("kernel {kernel}"), &format!("{error:#}")),
        }
    }
    let (waiting, then) = (Mutex::new(shares.into_iter()), Mutex::new(Some(then)));
    let parts = thread::scope(|scope| {
        let work = || {
            let mut parts = Vec::new();
            while let Some(share) = next(&waiting) {
                let part = panic::catch_unwind(AssertUnwindSafe(|| one(share, built, &binaries, filter)));
                parts.push((share, part.unwrap_or_else(|_panic| panicked())));
            }
            let then = then.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(then) = then {
                then();
            }
            parts
        };
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for part in parts {
        match part {
            Ok(parts) => {
                for (share, part) in parts {
                    tally.add(part, &format!("[{}] ", share.kernel));
                }
            }
            Err(_panic) => tally.add(panicked(), ""),
        }
    }
    tally
}

/// The next that waits.
fn next(waiting: &Mutex<impl Iterator<Item = Share>>) -> Option<Share> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Stands for the results of a thread that panicked; the panic has been printed.
fn panicked() -> Tally {
    let mut tally = Tally::default();
    tally.fail("xtask panicked");
    tally
}

/// Attach and detach so often, where the tests on the running kernel do it a hundred times.
const CYCLES: &str = "10";

/// Runs its share in one virtual machine.
fn one(share: Share, built: &Built, binaries: &[&Binary], filter: Option<&str>) -> Tally {
    let Share { kernel, number, of } = share;
    let start = Instant::now();
    let binaries: Vec<&Binary> = binaries.iter().copied().filter(|binary| share.has(binary)).collect();
    let own =
        [("XBR_TEST_CYCLES".to_owned(), CYCLES.to_owned()), ("XBR_TEST_PART".to_owned(), format!("{number}/{of}"))];
    let vm = Vm {
        kernel,
        cpus: 1,
        memory: "2G".to_owned(),
        timeout: Some(LIMIT),
        tty: false,
        counted: false,
        out: None,
        env: built.programs.iter().cloned().chain(own).collect(),
    };
    eprintln!("[{share}] booting …");
    let mut reader = Reader { share, binaries: &binaries, line: Vec::new(), output: None, tally: Tally::default() };
    let command = ["sh", "-c", &script(&binaries, filter)].map(str::to_owned);
    let ended = vm.run(Path::new(&proc::repo()), &command, &mut reader, Prefixed { share, line: Vec::new() });
    let mut tally = reader.end();
    match ended {
        Err(error) => tally.fail(&format!("{error:#}")),
        Ok(ended) => {
            if ended.code != 0 {
                tally.fail(&format!("the virtual machine's script ended with code {}", ended.code));
            }
            for line in ended.complaints {
                tally.fail(&format!("kernel log: {line}"));
            }
        }
    }
    eprintln!("[{share}] done ({:.1} s)", start.elapsed().as_secs_f32());
    tally
}

/// A shell script that runs the binaries one by one, with marks around the output of each.
fn script(binaries: &[&Binary], filter: Option<&str>) -> String {
    let mut script = String::new();
    for (number, binary) in binaries.iter().enumerate() {
        let word = |path: &Path| proc::quote(&path.to_string_lossy());
        let (dir, path) = (word(&binary.dir), word(&binary.path));
        let filter = filter.map(proc::quote).unwrap_or_default();
        script += &[
            &format!("echo '{MARK}start {number}'\n"),
            &format!("cd {dir} && CARGO_MANIFEST_DIR={dir} {path} --show-output {filter} 2>&1\n"),
            // The output need not end with a line feed.
            &format!("printf '\\n{MARK}end %s\\n' $?\n"),
        ]
        .map(String::as_str)
        .concat();
    }
    script
}

/// Reads the script's output as it comes.
struct Reader<'a> {
    share: Share,
    binaries: &'a [&'a Binary],
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// The binary that runs, since when, and what it said so far.
    output: Option<(&'a Binary, Instant, String)>,
    tally: Tally,
}

impl Reader<'_> {
    /// Takes one line.
    fn line(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix(MARK).and_then(|mark| mark.strip_prefix("start ")) {
            let binary = number.parse().ok().and_then(|number: usize| self.binaries.get(number));
            self.output = binary.map(|binary| (*binary, Instant::now(), String::new()));
        } else if let Some(code) = line.strip_prefix(MARK).and_then(|mark| mark.strip_prefix("end ")) {
            self.close(code.parse().ok());
        } else if let Some((_, _, output)) = &mut self.output {
            if line.starts_with(SLOWEST) {
                eprintln!("[{}] {line}", self.share);
            }
            output.push_str(line);
            output.push('\n');
        }
    }

    /// Counts what the binary that ran said.
    fn close(&mut self, code: Option<i32>) {
        let Some((binary, start, output)) = self.output.take() else {
            return;
        };
        let name = binary.to_string();
        let part = Tally::read(&output, &name, code);
        let share = self.share;
        if part.failed > 0 {
            let lines: Vec<String> = output.lines().map(|line| format!("[{share}] {line}")).collect();
            eprintln!("[{share}] ---- {name} ----\n{}\n[{share}] ---- end of {name} ----", lines.join("\n"));
        }
        if !part.is_empty() {
            eprintln!("[{share}] {} ({:.1} s)", part.line(&name), start.elapsed().as_secs_f32());
        }
        self.tally.add(part, "");
    }

    /// The results, at the end of all output. A binary that still runs then was cut off.
    fn end(mut self) -> Tally {
        self.close(None);
        self.tally
    }
}

impl Write for Reader<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let rest = self.line.split_off(end + 1);
            let line = std::mem::replace(&mut self.line, rest);
            self.line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes whole lines to stderr, with the kernel before each.
struct Prefixed {
    share: Share,
    line: Vec<u8>,
}

impl Write for Prefixed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                eprintln!("[{}] {}", self.share, String::from_utf8_lossy(&self.line));
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
