//! Loads the BPF object that is embedded in the binary.

use std::collections::BTreeSet;

use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{ProgramError, SchedClassifier, Xdp},
    util::{KernelVersion, nr_cpus},
};
use aya_log::EbpfLogger;
use bridge_common::flow::{CELLS, Flow};
use log::debug;

use super::{
    btf::Btf,
    census::Census,
    holes::{KernelContext, complete},
    shadow::FLIGHTS,
    tables::{Addressed, FdbShape},
    tracing::Tracing,
};
use crate::error::{Exit, Failure};

/// The object that `build.rs` made of the crate `bridge-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xbr-bpf"));

/// The XDP program, and the one behind it.
const XDP: &str = "xbr_xdp";
const XDP_FULL: &str = "xbr_xdp_full";
/// The program behind that of tc.
const TC_FULL: &str = "xbr_tc_full";

/// The loaded object.
pub struct Programs {
    /// The programs and whatever maps were not taken out.
    pub ebpf: Ebpf,
    /// The shape of the FDB table.
    pub fdb: FdbShape,
    /// The kernel has tcx links (6.6); otherwise clsact filters.
    pub tcx: bool,
    /// What is attached to hear of the kernel's changes while they happen.
    pub tracing: Tracing,
    /// Reads whole FDBs.
    pub census: Census,
    /// The tc programs in use.
    pub entries: Entries,
    /// What the programs log, until somebody takes it to read it.
    pub logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Maps until [`super::Tables`] takes them.
    pub(super) addressed: Option<Addressed>,
    /// Held so that tail calls find their targets for as long as this process lives.
    _tails: Vec<ProgramArray<aya::maps::MapData>>,
}

/// The tc programs that an instance uses, each with the stub that stands in front of it where tc has no links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// The fast path.
    Fast,
    /// Shadow mode ([`super::shadow`]): one in `sample` of the frames that it would forward is compared.
    Shadow {
        /// At least 1.
        sample: u32,
    },
}

impl Entries {
    /// Program, its stub, and the cell of the tail-call map that joins them. First the one on the ingress of ports.
    const fn programs(self) -> &'static [(&'static str, &'static str, u32)] {
        match self {
            Self::Fast => &[("xbr_tc", "xbr_stub", 0)],
            Self::Shadow { .. } => &[
                ("xbr_shadow_in", "xbr_stub", 0),
                ("xbr_shadow_out", "xbr_stub_out", 1),
                ("xbr_shadow_up", "xbr_stub_up", 2),
            ],
        }
    }

    /// The program on the ingress of ports.
    pub const fn ingress(self) -> &'static str {
        self.programs()[0].0
    }

    /// Whether nothing is forwarded.
    pub const fn is_shadow(self) -> bool {
        matches!(self, Self::Shadow { .. })
    }
}

impl Programs {
    /// Loads the programs of the fast path with an FDB table of `fdb_size` entries.
    pub fn load(fdb_size: u32) -> Result<Self, Failure> {
        Self::load_entries(FdbShape::new(fdb_size), Entries::Fast)
    }

    /// Loads these programs with such an FDB table.
    pub fn load_entries(fdb: FdbShape, entries: Entries) -> Result<Self, Failure> {
        require_kernel()?;
        // An advantage, not a need.
        let btf = Btf::load("bridge").inspect_err(|error| debug!("{error}")).ok();
        let context = btf.as_ref().filter(|_| at_least(6, 2)).and_then(|btf| KernelContext::find(btf).ok());
        let loaded = match (Self::load_with(fdb, entries, context), context) {
            (Err(error), Some(_)) => {
                debug!("not with the kernel's own description of a frame: {error}");
                Self::load_with(fdb, entries, None)
            }
            (loaded, _) => loaded,
        };
        loaded.map(|mut programs| {
            programs.tracing.btf = btf;
            programs
        })
    }

    fn load_with(fdb: FdbShape, entries: Entries, context: Option<KernelContext>) -> Result<Self, Failure> {
        let addressed = Addressed::create(fdb)?;
        let incomplete = || Failure::new(Exit::Failed, "the embedded BPF object lacks an instruction to be completed");
        let object = complete(OBJECT, |hole| addressed.filling(hole), context).ok_or_else(incomplete)?;
        let mut loader = EbpfLoader::new();
        // Nothing in the object is relocated by the kernel's types, so that there is no need to read them all.
        loader.btf(None);
        loader.override_global("XBR_FDB_FIRST", &fdb.placing.multipliers[0], true);
        loader.override_global("XBR_FDB_SECOND", &fdb.placing.multipliers[1], true);
        loader.override_global("XBR_FDB_BUCKETS", &fdb.placing.buckets, true);
        loader.override_global("XBR_GENS_MULTIPLIER", &fdb.generations.multiplier, true);
        loader.override_global("XBR_GENS_SHIFT", &fdb.generations.shift, true);
        loader.map_max_entries("xbr_census", fdb.entries + 1);
        let sample = match entries {
            Entries::Fast => 1,
            Entries::Shadow { sample } => {
                loader.map_max_entries("xbr_flights", FLIGHTS);
                loader.map_max_entries("xbr_free", FLIGHTS);
                sample
            }
        };
        loader.override_global("XBR_SAMPLE", &sample, true);
        let remembers = u32::from(!is_realtime());
        loader.override_global("XBR_CACHE", &remembers, true);
        // What is not to be logged is no longer in the programs once the verifier has seen this constant.
        let level = log::max_level() as u8;
        loader.override_global(aya_log::LEVEL, &level, true);
        let mut ebpf = loader.load(object.bytes()).map_err(|error| refused("BPF maps", &chain(&error)))?;
        let tcx = at_least(6, 6);
        for (program, _, _) in entries.programs() {
            load_classifier(&mut ebpf, program)?;
        }
        let mut tails = Vec::new();
        if !entries.is_shadow() {
            load_classifier(&mut ebpf, TC_FULL)?;
            for name in [XDP, XDP_FULL] {
                xdp_named(&mut ebpf, name)?.load().map_err(|error| refused(name, &chain(&error)))?;
            }
            tails.push(arm(&mut ebpf, "xbr_tc_next", &[(TC_FULL, 0)])?);
            tails.push(arm(&mut ebpf, "xbr_xdp_next", &[(XDP_FULL, 0)])?);
        }
        let tracing = Tracing::load(&mut ebpf)?;
        let census = Census::load(&mut ebpf, fdb.entries)?;
        if !tcx {
            tails.push(arm_stubs(&mut ebpf, entries)?);
        }
        let logger = EbpfLogger::init(&mut ebpf).map_err(|error| refused("AYA_LOGS", &chain(&error)))?;
        Ok(Self {
            ebpf,
            fdb,
            tcx,
            tracing,
            census,
            entries,
            logger: Some(logger),
            addressed: Some(addressed),
            _tails: tails,
        })
    }

    /// What is attached to the ingress of ports (0), and in shadow mode to their egress (1) and to bridges (2): the
    /// program itself, or its stub.
    pub fn entry(&mut self, number: usize) -> Result<&mut SchedClassifier, Failure> {
        let Some((program, stub, _)) = self.entries.programs().get(number) else {
            return Err(Failure::new(Exit::Failed, format!("there is no tc program {number} in this mode")));
        };
        classifier(&mut self.ebpf, if self.tcx { program } else { stub })
    }

    /// The ids of our own programs, to tell them from foreign ones.
    pub fn ids(&self) -> BTreeSet<u32> {
        self.ebpf.programs().filter_map(|(_, program)| program.info().ok().map(|info| info.id())).collect()
    }
}

/// Whether this is a kernel with `PREEMPT_RT`: there, the softirqs of one CPU interrupt each other unless
/// `PREEMPT_RT_NEEDS_BH_LOCK` forbids it, so what the programs keep per CPU is not theirs alone.
fn is_realtime() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/version").is_ok_and(|version| version.contains("PREEMPT_RT"))
}

/// CPUs that have a flow cache: those that there may be, but for so many that the verifier would not follow (`BPF_MAX_VAR_OFF`).
fn cpus() -> u32 {
    const MOST: usize = (1 << 29) / (CELLS as usize * size_of::<Flow>()) - 1;
    nr_cpus().ok().and_then(|cpus| u32::try_from(cpus.clamp(1, MOST)).ok()).unwrap_or(1)
}

/// Cells of the flow cache, of all CPUs that there may be.
pub(super) fn flow_cells() -> u32 {
    CELLS * cpus()
}

fn require_kernel() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() && !has_capabilities() {
        return Err(Failure::new(
            Exit::Permission,
            "cannot load BPF programs: not enough privileges; run xbr as root or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN",
        ));
    }
    if !at_least(6, 1) {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        let release = release.unwrap_or_default();
        return Err(Failure::new(Exit::Kernel, format!("kernel {release} is too old: xbr needs 6.1 or newer")));
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Failure::new(
            Exit::Kernel,
            "the kernel has no BTF (/sys/kernel/btf/vmlinux): boot one built with CONFIG_DEBUG_INFO_BTF",
        ));
    }
    Ok(())
}

/// Whether the running kernel is this new.
pub(super) fn at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|current| current >= KernelVersion::new(major, minor, 0))
}

/// `CAP_NET_ADMIN` (12), `CAP_SYS_ADMIN` (21, to tell foreign programs from our own), `CAP_PERFMON` (38) and `CAP_BPF`
/// (39) among the effective capabilities.
fn has_capabilities() -> bool {
    const NEEDED: u64 = 1 << 12 | 1 << 21 | 1 << 38 | 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|effective| effective & NEEDED == NEEDED)
}

fn load_classifier(ebpf: &mut Ebpf, name: &str) -> Result<(), Failure> {
    classifier(ebpf, name)?.load().map_err(|error| refused(name, &chain(&error)))
}

/// The classifier `name` of the object.
pub fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Failure> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no tc program {name}")))
}

/// The XDP program of the object.
pub fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Failure> {
    xdp_named(ebpf, XDP)
}

fn xdp_named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Failure> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no XDP program {name}")))
}

fn arm_stubs(ebpf: &mut Ebpf, entries: Entries) -> Result<ProgramArray<aya::maps::MapData>, Failure> {
    for (_, stub, _) in entries.programs() {
        load_classifier(ebpf, stub)?;
    }
    let targets: Vec<_> = entries.programs().iter().map(|(program, _, cell)| (*program, *cell)).collect();
    arm(ebpf, "xbr_tail", &targets)
}

/// Makes tail calls through the map `name` reach these programs.
fn arm(ebpf: &mut Ebpf, name: &str, targets: &[(&str, u32)]) -> Result<ProgramArray<aya::maps::MapData>, Failure> {
    let mut tail: ProgramArray<_> = ebpf
        .take_map(name)
        .and_then(|map| map.try_into().ok())
        .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no tail-call map {name}")))?;
    for (program, cell) in targets {
        let loaded = ebpf
            .program(program)
            .map(|program| program.fd())
            .ok_or_else(|| Failure::new(Exit::Failed, format!("the embedded BPF object has no program {program}")))?;
        let target = loaded
            .and_then(|fd| fd.try_clone().map_err(ProgramError::from))
            .map_err(|error| refused(program, &chain(&error)))?;
        tail.set(*cell, &target, 0).map_err(|error| refused(name, &chain(&error)))?;
    }
    Ok(tail)
}

pub(super) fn refused(what: &str, why: &str) -> Failure {
    let exit = if why.contains("EPERM") || why.contains("not permitted") { Exit::Permission } else { Exit::Kernel };
    Failure::new(exit, format!("the kernel refused {what}: {why}"))
}

/// An error and what is behind it, in one line. Of a verifier's log, the end is kept: there it says what it refused; all of
/// it goes to the debug log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > 8 {
        debug!("{text}");
        lines.drain(1..lines.len() - 7);
    }
    // A kernel that refuses a program before the verifier has looked at it has no log.
    lines.join("; ").trim_end_matches(". Verifier output:").to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::chain;

    #[test]
    fn a_refusal_is_one_line() {
        let said = |text: &str| chain(&Error::other(text));
        assert_eq!(said("it returned EINVAL. Verifier output: "), "it returned EINVAL");
        assert_eq!(
            said("it returned EACCES. Verifier output: 0: r0\n  1: r1\n"),
            "it returned EACCES. Verifier output: 0: r0; 1: r1"
        );
        let long: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(said(&long.join("\n")), "0; 93; 94; 95; 96; 97; 98; 99");
    }
}
