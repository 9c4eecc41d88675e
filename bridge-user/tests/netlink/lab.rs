//! What the tests share: namespaces, commands, a small bridge, waiting.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bridge_user::{
    model::{IfIndex, Link},
    netlink::{Event, Events},
};
use nix::sched::{CloneFlags, unshare};

/// Runs a test inside a new network namespace.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(|| {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no new network namespace: {errno}");
            return;
        }
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command and says whether it succeeded.
pub(crate) fn try_run(line: &str) -> bool {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).stderr(Stdio::null()).status().unwrap().success()
}

/// Runs commands, one a line; all of them have to succeed.
pub(crate) fn run(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(try_run(line), "failed: {line}");
    }
}

/// Feeds commands to `tool -batch -`.
pub(crate) fn batch(tool: &str, commands: &str) {
    let mut child = Command::new(tool).args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "failed: {tool} -batch");
}

/// A bridge br0 with the ports p0 and p1, whose peers are q0 and q1; all up.
pub(crate) fn bridge(options: &str) {
    run(&format!(
        "ip link add br0 type bridge {options}
         ip link add p0 type veth peer name q0
         ip link add p1 type veth peer name q1
         ip link set p0 master br0
         ip link set p1 master br0"
    ));
    for device in ["br0", "p0", "p1", "q0", "q1"] {
        run(&format!("ip link set {device} up"));
    }
}

/// Entries of the bridge of [`bridge`] from 02:00:00:00:01:01 on: static, dynamic, sticky, `extern_learn`, local.
pub(crate) fn entries_of_every_kind() {
    run("bridge fdb add 02:00:00:00:01:01 dev p0 master static
         bridge fdb add 02:00:00:00:01:02 dev p0 master dynamic
         bridge fdb add 02:00:00:00:01:03 dev p1 master static sticky
         bridge fdb add 02:00:00:00:01:04 dev p1 master dynamic extern_learn
         bridge fdb add 02:00:00:00:01:05 dev br0 self local");
}

pub(crate) fn named<'a>(links: &'a BTreeMap<IfIndex, Link>, name: &str) -> &'a Link {
    links.values().find(|link| link.name == name).unwrap_or_else(|| panic!("no link {name}"))
}

pub(crate) fn index(name: &str) -> IfIndex {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// Makes a VLAN-aware bridge; `false` where the kernel cannot.
pub(crate) fn vlan_bridge(options: &str) -> bool {
    bridge(options);
    let possible = try_run("ip link set br0 type bridge vlan_filtering 1");
    if !possible {
        println!("skipped: this kernel has no bridge VLAN filtering");
    }
    possible
}

/// Repeats until `check` is satisfied, for two seconds: ports get their state when the carrier change is processed.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(5), "{what}: not within 5 s");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, last]
}

/// Everything that arrives until `wanted` has, at most for five seconds.
pub(crate) async fn until(events: &mut Events, wanted: Event) -> Vec<Event> {
    let mut all = Vec::new();
    while !all.contains(&wanted) {
        let next = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
        all.extend(next.unwrap_or_else(|_| panic!("{wanted:?} never came; {all:?}")).unwrap());
    }
    all
}

/// What comes within `time`.
pub(crate) async fn within(events: &mut Events, time: Duration) -> Vec<Event> {
    let mut all = Vec::new();
    while let Ok(next) = tokio::time::timeout(time, events.next()).await {
        all.extend(next.unwrap());
    }
    all
}

pub(crate) fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

/// A named namespace, for what has to be elsewhere. Gone with the value.
pub(crate) struct Elsewhere(pub(crate) String);

impl Elsewhere {
    pub(crate) fn new(purpose: &str) -> Self {
        let name = format!("xbr-nl-{purpose}-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        Self(name)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        try_run(&format!("ip netns del {}", self.0));
    }
}
