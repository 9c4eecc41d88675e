//! `cargo xtask vm`: a command in a virtual machine with another kernel.
//!
//! The virtual machine has the host's own files, read-only below an overlay in memory, so whatever was built on the host
//! runs there as it is. It has no network. Nothing that the command writes reaches the host, except below `/out`.

mod initramfs;

use std::{
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache::Scratch,
    lab, proc,
    setup::{
        self,
        kernel::{Installed, Kernel},
    },
};

/// Second stage in the virtual machine.
const MAIN: &str = include_str!("vm/main.sh");

/// Exit code of a command that ran into the timeout, as of timeout(1).
pub(crate) const TIMED_OUT: i32 = 124;

/// Arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Series of the kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Virtual processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory, as qemu takes it
    #[arg(long, default_value = "2G")]
    memory: String,
    /// Seconds until the virtual machine is killed (exit code 124). Without it: 600, or never with --tty
    #[arg(long)]
    timeout: Option<u64>,
    /// Give the command this terminal
    #[arg(long)]
    tty: bool,
    /// A folder of the host that is writable as `/out` [default: `$XBR_VM_OUT`]
    #[arg(long)]
    out: Option<PathBuf>,
    /// A variable for the command, NAME=VALUE. `PATH`, `HOME`, `TERM`, `LANG`, `RUST_*` and `XBR_*` are taken over anyway
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs `cargo xtask vm`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let timeout = args.timeout.or((!args.tty).then_some(600));
    let mut vm = Vm {
        kernel: args.kernel,
        cpus: args.cpus,
        memory: args.memory.clone(),
        timeout: timeout.map(Duration::from_secs),
        tty: args.tty,
        counted: false,
        out: args.out.clone().or_else(|| env::var_os("XBR_VM_OUT").map(PathBuf::from)),
        env: Vec::new(),
    };
    for variable in &args.env {
        let Some((name, value)) = variable.split_once('=') else {
            bail!("--env {variable}: give it as NAME=VALUE");
        };
        vm.env.push((name.to_owned(), value.to_owned()));
    }
    let dir = env::current_dir().context("no current folder")?;
    let ended = vm.run(&dir, &args.command, std::io::stdout(), std::io::stderr())?;
    ended.report();
    Ok(lab::code(ended.code))
}

/// How a virtual machine ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The command's exit code, or [`TIMED_OUT`].
    pub(crate) code: i32,
    /// Lines of its kernel log that tell of a bug: a warning with a backtrace, a reference that was never given back.
    pub(crate) complaints: Vec<String>,
}

impl Ended {
    /// Shows what its kernel complained about.
    pub(crate) fn report(&self) {
        for line in &self.complaints {
            eprintln!("vm: kernel log: {line}");
        }
    }
}

/// A virtual machine to be started.
pub(crate) struct Vm {
    /// Series of the kernel.
    pub(crate) kernel: Kernel,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// Memory, as qemu takes it.
    pub(crate) memory: String,
    /// When it is killed.
    pub(crate) timeout: Option<Duration>,
    /// Whether the command gets the caller's terminal.
    pub(crate) tty: bool,
    /// Whether its clock counts instructions, one for each nanosecond, and runs ahead while the processor is idle. Takes
    /// one processor and is slow.
    pub(crate) counted: bool,
    /// Folder of the host that is writable as `/out`.
    pub(crate) out: Option<PathBuf>,
    /// Variables for the command, beside those that are taken over.
    pub(crate) env: Vec<(String, String)>,
}

impl Vm {
    /// Boots, runs `command` in `dir`, and gives its exit code ([`TIMED_OUT`] if it had to be killed).
    ///
    /// # Errors
    /// Something is missing on the host, or the virtual machine ended without a result (a panic, for instance); the
    /// end of its console is then part of the error.
    pub(crate) fn run(
        &self,
        dir: &Path,
        command: &[String],
        mut stdout: impl Write + Send,
        mut stderr: impl Write + Send,
    ) -> Result<Ended> {
        let kernel = setup::vm(self.kernel)?;
        // Under emulation a kernel now and then panics while it boots, before it has run anything of ours.
        match self.attempt(&kernel, dir, command, &mut stdout, &mut stderr)? {
            Some(ended) => Ok(ended),
            None => self
                .attempt(&kernel, dir, command, &mut stdout, &mut stderr)?
                .context("the virtual machine did not boot, twice in a row"),
        }
    }

    /// As [`Self::run`]; `None` if the kernel did not get as far as the command.
    fn attempt(
        &self,
        kernel: &Installed,
        dir: &Path,
        command: &[String],
        stdout: &mut (impl Write + Send),
        stderr: &mut (impl Write + Send),
    ) -> Result<Option<Ended>> {
        let scratch = Scratch::new("vm")?;
        let job = scratch.path().join("job");
        self.prepare(&job, dir, command)?;
        let mut qemu = self.qemu(kernel, scratch.path(), &job)?;
        let started = Instant::now();
        let mut child = qemu.spawn().with_context(|| format!("cannot run {}", proc::show(&qemu)))?;
        let streams = (child.stdout.take(), child.stderr.take());
        let ended = thread::scope(|scope| {
            scope.spawn(|| streams.0.map(|from| copy(from, stdout)));
            scope.spawn(|| streams.1.map(|from| copy(from, stderr)));
            self.wait(&mut child, started)
        })?;
        let code = fs::read_to_string(job.join("code")).ok().and_then(|text| text.trim().parse().ok());
        let console = console(scratch.path());
        match code {
            Some(code) => Ok(Some(Ended { code, complaints: complaints(&console) })),
            None if ended && !job.join("started").exists() => {
                eprintln!("vm: the kernel ended before it had booted{}", tail(&console));
                Ok(None)
            }
            None if ended => bail!("the virtual machine ended without a result{}", tail(&console)),
            None => {
                eprintln!("vm: killed after {} s{}", started.elapsed().as_secs(), tail(&console));
                Ok(Some(Ended { code: TIMED_OUT, complaints: complaints(&console) }))
            }
        }
    }

    /// Fills the folder that the virtual machine gets its job from.
    fn prepare(&self, job: &Path, dir: &Path, command: &[String]) -> Result<()> {
        let variables = env::vars().filter(|(name, _)| inherited(name));
        let path = proc::search_path().to_string_lossy().into_owned();
        let mut own = vec![("PATH".to_owned(), path), ("XBR_VM".to_owned(), self.kernel.to_string())];
        if self.out.is_some() {
            own.push(("XBR_VM_OUT".to_owned(), "/out".to_owned()));
        }
        let all = variables.chain(own).chain(self.env.iter().cloned());
        let mut script: Vec<String> =
            all.map(|(name, value)| format!("export {name}={}", proc::quote(&value))).collect();
        script.push(format!("cd {} || exit 125", proc::quote(&dir.to_string_lossy())));
        let words: Vec<String> = command.iter().map(|word| proc::quote(word)).collect();
        script.push(format!("exec {}\n", words.join(" ")));

        fs::create_dir_all(job).with_context(|| format!("cannot create {}", job.display()))?;
        let write = |name: &str, text: &str| {
            let path = job.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("main", MAIN)?;
        write("job", &script.join("\n"))?;
        if self.tty {
            // "rows columns"
            let size = proc::command("stty").arg("size").stdin(Stdio::inherit()).output();
            let size = size.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
            let set = size.split_once(' ').map(|(rows, columns)| format!("stty rows {rows} cols {columns}\n"));
            write("tty", &set.unwrap_or_default())?;
        }
        Ok(())
    }

    /// The command that starts it.
    fn qemu(&self, kernel: &Installed, scratch: &Path, job: &Path) -> Result<Command> {
        let busybox = proc::which("busybox").context("no busybox: run `cargo xtask setup`")?;
        let initramfs = scratch.join("initramfs");
        fs::write(&initramfs, initramfs::archive(kernel, &busybox)?)
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        // Zeroing a page takes an emulated processor long, and by one string instruction it would count as thousands.
        let mut append = format!(
            "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off apparmor=0 audit=0 tsc=reliable \
             no_timer_check cryptomgr.notests nowatchdog init_on_alloc=0 rcupdate.rcu_expedited=1 xbr_release={} xbr_modules={}",
            kernel.release,
            kernel.modules.display()
        );

        // qemu dies with this process, however that ends.
        let mut qemu = if proc::which("setpriv").is_some() {
            let mut setpriv = proc::command("setpriv");
            setpriv.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
            setpriv
        } else {
            proc::command("qemu-system-x86_64")
        };
        let accelerator = match () {
            () if self.counted => "tcg,thread=single",
            () if kvm_works() => "kvm",
            () => "tcg,thread=multi",
        };
        qemu.args(["-accel", accelerator, "-cpu", "max", "-smp", &self.cpus.to_string(), "-m", &self.memory]);
        if self.counted {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        let mut share = |tag: &str, dir: &Path, options: &str| {
            let path = dir.to_string_lossy().replace(',', ",,");
            qemu.args(["-fsdev", &format!("local,id={tag},path={path},security_model=none,multidevs=remap{options}")]);
            qemu.args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
        };
        share("xbr-root", Path::new("/"), ",readonly=on");
        share("xbr-job", job, "");
        if let Some(out) = &self.out {
            let out = out.canonicalize().with_context(|| format!("no folder {}", out.display()))?;
            share("xbr-out", &out, "");
            append += " xbr_out=1";
        }
        qemu.args(["-append", &append]);
        qemu.arg("-serial").arg(format!("file:{}", scratch.join("console").display()));
        qemu.args(["-device", "virtio-serial-pci"]);
        if self.tty {
            qemu.args(["-chardev", "stdio,id=tty,signal=off", "-device", "virtconsole,nr=0,chardev=tty"]);
        } else {
            qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            for (n, name) in [(1, "out"), (2, "err")] {
                qemu.args(["-chardev", &format!("file,id={name},path=/dev/fd/{n}")]);
                qemu.args(["-device", &format!("virtserialport,nr={n},chardev={name},name=xbr.{name}")]);
            }
        }
        Ok(qemu)
    }

    /// Waits for the end; false if it had to be killed.
    fn wait(&self, child: &mut Child, started: Instant) -> Result<bool> {
        let mut pause = Duration::from_millis(5);
        while child.try_wait().context("cannot wait for qemu")?.is_none() {
            if self.timeout.is_some_and(|timeout| started.elapsed() > timeout) {
                child.kill().context("cannot kill qemu")?;
                child.wait().context("cannot wait for qemu")?;
                return Ok(false);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(true)
    }
}

/// Copies as it comes, until the end. A caller that reads no more does not stop the virtual machine.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 65536];
    let mut open = true;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        open = open && to.write_all(&buffer[..n]).and_then(|()| to.flush()).is_ok();
    }
}

/// Whether the command in the virtual machine gets this variable of the caller.
fn inherited(name: &str) -> bool {
    let names =
        ["HOME", "USER", "LOGNAME", "LANG", "TERM", "COLORTERM", "NO_COLOR", "CARGO_TARGET_DIR", "COLUMNS", "LINES"];
    names.contains(&name) || ["LC_", "RUST_", "XBR_", "PROPTEST_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The lines of the virtual machine's console.
fn console(scratch: &Path) -> Vec<String> {
    let bytes = fs::read(scratch.join("console")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The end of the console, for messages.
fn tail(console: &[String]) -> String {
    if console.is_empty() {
        return "; its console is empty".to_owned();
    }
    format!("; the end of its console:\n  {}", console[console.len().saturating_sub(60)..].join("\n  "))
}

/// Lines of the console that tell of a bug in the kernel, or of one that we caused. Stalls are none: emulation is slow.
fn complaints(console: &[String]) -> Vec<String> {
    const SIGNS: [&str; 6] = ["WARNING: CPU", "BUG: ", "Oops", "UBSAN", "refcount_t", "unregister_netdevice: waiting"];
    let bug = |line: &&String| SIGNS.iter().any(|sign| line.contains(sign)) && !line.contains("soft lockup");
    console.iter().filter(bug).cloned().collect()
}

/// Whether hardware virtualisation works: a device node says little (nested, it may be there and fail).
fn kvm_works() -> bool {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let mut qemu = proc::command("qemu-system-x86_64");
    qemu.args(["-accel", "kvm", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none", "-S"]);
    qemu.args(["-monitor", "stdio"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = qemu.spawn() else { return false };
    let asked = child.stdin.take().map(|mut stdin| stdin.write_all(b"quit\n"));
    let ended = child.wait();
    matches!(asked, Some(Ok(()))) && ended.is_ok_and(|status| status.success())
}
