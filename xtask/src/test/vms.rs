//! The same test binaries in virtual machines, one for each kernel, all at the same time.

use std::{
    io::{self, Write},
    path::Path,
    sync::mpsc,
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

/// How long a virtual machine may take for all binaries.
const LIMIT: Duration = Duration::from_mins(40);

/// Starts a line that is of interest whatever the result: tests have to be kept short.
pub(crate) const SLOWEST: &str = "slowest: ";

/// Starts a line that says where in the script the virtual machine is.
const MARK: &str = "@xbr-test@ ";

/// Runs those binaries that `choose` picks, on every kernel. A virtual machine keeps one processor busy: `then` runs as soon
/// as the first is done.
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
    let mut ready = Vec::new();
    for kernel in Kernel::ALL {
        match setup::vm(kernel) {
            Ok(_installed) => ready.push(kernel),
            Err(error) => tally.skip(&format!("kernel {kernel}"), &format!("{error:#}")),
        }
    }
    let script = script(&binaries, filter);
    let parts = thread::scope(|scope| {
        let (script, binaries) = (&script, &binaries);
        let (done, first) = mpsc::channel();
        let threads: Vec<_> = ready
            .iter()
            .map(|kernel| {
                let done = done.clone();
                scope.spawn(move || {
                    let tally = one(*kernel, built, binaries, script);
                    // Only the first is waited for.
                    let _ = done.send(());
                    tally
                })
            })
            .collect();
        drop(done);
        // An error: no machine is left that could be waited for.
        let _ = first.recv();
        then();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_panic| panicked())).collect::<Vec<_>>()
    });
    for (kernel, part) in ready.iter().zip(parts) {
        tally.add(part, &format!("[{kernel}] "));
    }
    tally
}

/// Stands for the results of a thread that panicked; the panic has been printed.
fn panicked() -> Tally {
    let mut tally = Tally::default();
    tally.fail("xtask panicked");
    tally
}

/// Attach and detach so often, where the tests on the running kernel do it a hundred times.
const CYCLES: &str = "10";

/// Runs the script on one kernel.
fn one(kernel: Kernel, built: &Built, binaries: &[&Binary], script: &str) -> Tally {
    let start = Instant::now();
    let vm = Vm {
        kernel,
        cpus: 1,
        memory: "2G".to_owned(),
        timeout: Some(LIMIT),
        tty: false,
        counted: false,
        out: None,
        env: built.programs.iter().cloned().chain([("XBR_TEST_CYCLES".to_owned(), CYCLES.to_owned())]).collect(),
    };
    eprintln!("[{kernel}] booting …");
    let mut reader = Reader { kernel, binaries, line: Vec::new(), output: None, tally: Tally::default() };
    let command = ["sh", "-c", script].map(str::to_owned);
    let ended = vm.run(Path::new(&proc::repo()), &command, &mut reader, Prefixed { kernel, line: Vec::new() });
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
    eprintln!("[{kernel}] done ({:.1} s)", start.elapsed().as_secs_f32());
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
    kernel: Kernel,
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
                eprintln!("[{}] {line}", self.kernel);
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
        let kernel = self.kernel;
        if part.failed > 0 {
            let lines: Vec<String> = output.lines().map(|line| format!("[{kernel}] {line}")).collect();
            eprintln!("[{kernel}] ---- {name} ----\n{}\n[{kernel}] ---- end of {name} ----", lines.join("\n"));
        }
        if !part.is_empty() {
            eprintln!("[{kernel}] {} ({:.1} s)", part.line(&name), start.elapsed().as_secs_f32());
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
    kernel: Kernel,
    line: Vec<u8>,
}

impl Write for Prefixed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                eprintln!("[{}] {}", self.kernel, String::from_utf8_lossy(&self.line));
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
