//! The bypass inventory against a real kernel: each policy is made with the tool that operators use, found, named, and
//! gone after its removal. Every test works in a network namespace of its own, which ends with its thread.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its lab fails")]

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bridge_user::{
    bypass::{Device, Inventory, Watch, ethtool, features},
    model::{Bypass, IfIndex},
    netlink::Requests,
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

/// The ports of the bridge `br0`; `q0` and `q1` are the other ends of the cables.
const PORTS: [&str; 2] = ["p0", "p1"];

/// A namespace with a bridge, and the inventory that looks at it.
struct Lab {
    inventory: Inventory,
    ports: Vec<(IfIndex, String)>,
}

impl Lab {
    fn collect(&mut self) -> Bypass {
        self.collect_with(&[])
    }

    fn collect_with(&mut self, own_programs: &[u32]) -> Bypass {
        let own: BTreeSet<_> = own_programs.iter().copied().collect();
        let links = Requests::new().unwrap().links().unwrap();
        let ports: Vec<Device> =
            self.ports.iter().filter_map(|(index, _)| links.get(index)).map(Device::from).collect();
        let found = self.inventory.collect(&ports, &own).unwrap();
        // What is asked about a few devices alone is the same.
        let mut again = found.clone();
        again.forget(&self.ports.iter().map(|(index, _)| *index).collect());
        self.inventory.update(&mut again, &ports, &own).unwrap();
        assert_eq!(again, found);
        found
    }

    /// What was found on the ingress and on the egress of a port.
    fn filters(&mut self, port: usize) -> [Option<String>; 2] {
        let found = self.collect();
        let index = self.ports[port].0;
        [found.ingress_filters, found.egress_filters].map(|mut side| side.remove(&index))
    }

    fn ingress(&mut self, port: usize) -> Option<String> {
        let [ingress, egress] = self.filters(port);
        assert_eq!(egress, None);
        ingress
    }
}

/// Runs a test in a namespace of its own.
fn lab(test: impl FnOnce(&mut Lab) + Send + 'static) {
    if !Uid::effective().is_root() {
        println!("skipped: needs root");
        return;
    }
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link add br0 up type bridge");
        for (port, end) in PORTS.iter().zip(["q0", "q1"]) {
            run(&format!("ip link add {port} up type veth peer name {end}"));
            run(&format!("ip link set {end} up"));
            run(&format!("ip link set {port} master br0"));
        }
        let ports = PORTS.map(|name| (index(name), name.to_owned())).into();
        test(&mut Lab { inventory: Inventory::new().unwrap(), ports });
    };
    if let Err(panic) = thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

fn index(name: &str) -> IfIndex {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// Runs a command in the namespace; a tilde stands for a space within a word. Returns whether the tool is there and succeeded.
fn try_run(command: &str) -> Result<(), String> {
    let words: Vec<_> = command.split(' ').map(|word| word.replace('~', " ")).collect();
    let output = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("failed")))
}

fn run(command: &str) {
    try_run(command).unwrap();
}

/// Runs a command that needs what this machine may lack; says so and ends the test then.
macro_rules! run_or_skip {
    ($command:expr) => {
        if let Err(reason) = try_run($command) {
            println!("skipped: {reason}");
            return;
        }
    };
}

#[test]
fn a_fresh_bridge_has_no_policy() {
    lab(|lab| {
        let ports = lab.ports.clone();
        let found = lab.collect();
        assert_eq!((found.netfilter, found.inet_rules), (None, None));
        assert!(found.ingress_filters.is_empty() && found.egress_filters.is_empty());
        if fs::exists("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap() {
            assert_eq!(found.br_netfilter, Some((true, true, true)));
            fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0").unwrap();
            assert_eq!(lab.collect().br_netfilter, Some((true, false, true)));
        } else {
            assert_eq!(found.br_netfilter, None);
        }
        assert_eq!(
            found.rx_vlan_offload.keys().collect::<Vec<_>>(),
            ports.iter().map(|port| &port.0).collect::<Vec<_>>()
        );
    });
}

#[test]
fn rules_of_the_bridge_family_are_found_and_forgotten() {
    lab(|lab| {
        run_or_skip!("nft add table bridge filter");
        run("nft add chain bridge filter forward { type filter hook forward priority 0 ; }");
        assert_eq!(lab.collect().netfilter, None, "a hook without rules");
        run("nft add rule bridge filter forward ether type arp counter");
        run("nft add rule bridge filter forward counter");
        let found = lab.collect();
        assert_eq!(found.netfilter.as_deref(), Some("nft table bridge filter, chain forward (hook forward)"));
        assert_eq!(found.inet_rules, None);
        run("nft add table bridge filter { flags dormant ; }");
        assert_eq!(lab.collect().netfilter, None, "a dormant table");
        run("nft add table bridge filter");
        assert!(lab.collect().netfilter.is_some());
        run("nft flush chain bridge filter forward");
        assert_eq!(lab.collect().netfilter, None);

        run("nft add chain bridge filter pre { type filter hook prerouting priority -300 ; policy drop ; }");
        let text = "nft table bridge filter, chain pre (hook prerouting, policy drop)";
        assert_eq!(lab.collect().netfilter.as_deref(), Some(text));
        run("nft delete chain bridge filter pre");
        run("nft add chain bridge filter input { type filter hook input priority 0 ; policy drop ; }");
        run("nft add chain bridge filter unused");
        run("nft add rule bridge filter unused drop");
        assert_eq!(lab.collect().netfilter, None, "chains that forwarded frames do not pass");
    });
}

#[test]
fn rules_that_br_netfilter_would_run_are_found() {
    lab(|lab| {
        if lab.collect().br_netfilter.is_none() {
            println!("skipped: br_netfilter is not loaded");
            return;
        }
        run_or_skip!("nft add table inet fw");
        run("nft add chain inet fw input { type filter hook input priority 0 ; policy drop ; }");
        run("nft add rule inet fw input ct state established accept");
        assert_eq!(lab.collect().inet_rules, None, "the host's own rules");
        run("nft add chain inet fw forward { type filter hook forward priority 0 ; }");
        assert_eq!(lab.collect().inet_rules, None);
        run("nft add rule inet fw forward tcp dport 25 drop");
        let found = lab.collect();
        assert_eq!(found.inet_rules.as_deref(), Some("nft table inet fw, chain forward (hook forward)"));
        assert_eq!(found.netfilter, None);
        run("nft delete table inet fw");
        assert_eq!(lab.collect().inet_rules, None);

        for family in ["ip", "ip6"] {
            run(&format!("nft add table {family} nat"));
            run(&format!("nft add chain {family} nat post {{ type nat hook postrouting priority 100 ; }}"));
            run(&format!("nft add rule {family} nat post masquerade"));
            let text = format!("nft table {family} nat, chain post (hook postrouting)");
            assert_eq!(lab.collect().inet_rules, Some(text));
            run(&format!("nft delete table {family} nat"));
        }
    });
}

#[test]
fn chains_on_a_device_belong_to_its_port() {
    lab(|lab| {
        run_or_skip!("nft add table netdev early");
        run("nft add chain netdev early c { type filter hook ingress devices = { p0, q1 } priority 0 ; }");
        assert_eq!(lab.ingress(0), None);
        run("nft add rule netdev early c counter");
        assert_eq!(lab.ingress(0).as_deref(), Some("nft table netdev early, chain c (hook ingress)"));
        assert_eq!(lab.ingress(1), None);
        run("nft delete table netdev early");
        assert_eq!(lab.ingress(0), None);

        run("nft add table inet early");
        run("nft add chain inet early c { type filter hook ingress device p1 priority 0 ; policy drop ; }");
        assert_eq!(lab.ingress(1).as_deref(), Some("nft table inet early, chain c (hook ingress, policy drop)"));
        run("nft delete table inet early");
        assert_eq!(lab.ingress(1), None);

        run("nft add table netdev late");
        run_or_skip!("nft add chain netdev late c { type filter hook egress device p0 priority 0 ; policy drop ; }");
        let text = "nft table netdev late, chain c (hook egress, policy drop)".to_owned();
        assert_eq!(lab.filters(0), [None, Some(text)]);
    });
}

#[test]
fn flowtables_are_found_on_their_devices() {
    lab(|lab| {
        run_or_skip!("nft add table inet fast");
        run_or_skip!("nft add flowtable inet fast f { hook ingress priority 0 ; devices = { p0 } ; }");
        assert_eq!(lab.ingress(0).as_deref(), Some("nft table inet fast, flowtable f"));
        assert_eq!(lab.ingress(1), None);
        run("nft delete table inet fast");
        assert_eq!(lab.ingress(0), None);
    });
}

#[test]
fn tc_filters_are_found_on_both_sides() {
    lab(|lab| {
        run("tc qdisc add dev p0 ingress");
        assert_eq!(lab.ingress(0), None, "a qdisc without filters");
        run_or_skip!("tc filter add dev p0 parent ffff: protocol all u32 match u32 0 0 flowid :1");
        assert_eq!(lab.ingress(0).as_deref(), Some("tc filter on ingress: u32"));
        assert_eq!(lab.ingress(1), None);
        run("tc filter del dev p0 parent ffff:");
        assert_eq!(lab.ingress(0), None);
        run("tc qdisc del dev p0 ingress");

        run("tc qdisc add dev p0 clsact");
        run("tc filter add dev p0 egress protocol all chain 7 u32 match u32 0 0 action mirred egress redirect dev q1");
        assert_eq!(lab.filters(0), [None, Some("tc filter on egress: u32 (mirred)".to_owned())]);
        run("tc qdisc del dev p0 clsact");

        run("tc qdisc add dev p1 ingress_block 22 clsact");
        run("tc qdisc add dev p0 ingress_block 22 clsact");
        run("tc filter add block 22 protocol all u32 match u32 0 0 flowid :1");
        assert_eq!([lab.ingress(0), lab.ingress(1)], [0, 1].map(|_| Some("tc filter on ingress: u32".to_owned())));
        run("tc qdisc del dev p0 clsact");
        assert_eq!(lab.ingress(0), None);
    });
}

#[test]
fn queues_that_somebody_set_up_are_found_on_egress() {
    lab(|lab| {
        run("ip link add w0 numtxqueues 2 numrxqueues 2 type veth peer name w1 numtxqueues 2 numrxqueues 2");
        lab.ports[0] = (index("w0"), "w0".to_owned());
        assert_eq!(lab.filters(0), [None, None]);
        run("tc qdisc add dev w0 root handle 1: htb default 1");
        assert_eq!(lab.filters(0), [None, Some("qdisc htb 1: (root)".to_owned())]);
        run("tc qdisc del dev w0 root");
        assert_eq!(lab.filters(0), [None, None]);
        // A limit below a root that is none by itself.
        run_or_skip!("tc qdisc add dev w0 root handle 1: mq");
        run("tc qdisc add dev w0 parent 1:2 handle 2: tbf rate 1mbit burst 10k latency 50ms");
        let [ingress, egress] = lab.filters(0);
        assert_eq!(ingress, None);
        assert!(egress.is_some_and(|found| found.contains("qdisc tbf 2: (parent 1:2)")));
        run("tc qdisc del dev w0 root");
        assert_eq!(lab.filters(0), [None, None]);
    });
}

#[test]
fn chains_on_egress_are_missed_by_redirected_frames() {
    lab(|lab| {
        run_or_skip!("nft add table netdev late");
        run_or_skip!("nft add chain netdev late c { type filter hook egress device p0 priority 0 ; }");
        assert!(lab.collect().egress_missed.is_empty(), "a hook without rules");
        run("nft add rule netdev late c drop");
        let missed = lab.collect().egress_missed;
        assert_eq!(missed.len(), 1);
        assert_eq!(missed[&lab.ports[0].0], "nft table netdev late, chain c (hook egress)");
    });
}

#[test]
fn a_policer_is_named() {
    lab(|lab| {
        run("tc qdisc add dev p0 handle ffff: ingress");
        run_or_skip!(
            "tc filter add dev p0 parent ffff: protocol all u32 match u32 0 0 police rate 1mbit burst 10k drop"
        );
        assert_eq!(lab.ingress(0).as_deref(), Some("tc filter on ingress: u32 (police)"));
        run("tc filter del dev p0 parent ffff:");
        run_or_skip!(
            "tc filter add dev p0 parent ffff: matchall action police rate 1mbit burst 10k conform-exceed drop"
        );
        assert_eq!(lab.ingress(0).as_deref(), Some("tc filter on ingress: matchall (police)"));
    });
}

#[test]
fn classic_bpf_filters_are_foreign() {
    lab(|lab| {
        run("tc qdisc add dev p0 clsact");
        run_or_skip!("tc filter add dev p0 ingress bpf bytecode 1,6~0~0~4294967295,");
        assert_eq!(lab.ingress(0).as_deref(), Some("tc filter on ingress: bpf"));
    });
}

/// A BPF program that leaves every frame alone, loaded but attached to nothing.
struct Program {
    descriptor: OwnedFd,
    id: u32,
}

impl Program {
    fn load(name: &str) -> Self {
        // r0 = TCX_NEXT (-1); exit
        let code: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
        let license = c"GPL";
        let mut attributes = [0_u64; 16];
        attributes[0] = 3 | 2 << 32; // BPF_PROG_TYPE_SCHED_CLS, two instructions
        attributes[1] = code.as_ptr().expose_provenance() as u64;
        attributes[2] = license.as_ptr().expose_provenance() as u64;
        let mut words = [[0; 8]; 2];
        words.as_flattened_mut()[..name.len()].copy_from_slice(name.as_bytes());
        attributes[6..8].copy_from_slice(&words.map(u64::from_ne_bytes));
        let descriptor = bpf(5, &mut attributes).unwrap();

        let mut info = [0_u64; 32];
        let raw = u64::try_from(descriptor.as_raw_fd()).unwrap();
        let mut attributes = [raw | 256 << 32, info.as_mut_ptr().expose_provenance() as u64];
        assert!(bpf(15, &mut attributes).is_none());
        Self { descriptor, id: u32::try_from(info[0] >> 32).unwrap() }
    }

    /// Attaches to a tcx hook. The link lasts as long as the descriptor.
    fn attach(&self, device: IfIndex, hook: u64) -> Option<OwnedFd> {
        let raw = u64::try_from(self.descriptor.as_raw_fd()).unwrap();
        bpf(28, &mut [raw | u64::from(device) << 32, hook, 0, 0, 0, 0])
    }

    fn pin(&self, path: &str) {
        let path = CString::new(path).unwrap();
        let raw = u64::try_from(self.descriptor.as_raw_fd()).unwrap();
        let mut attributes = [path.as_ptr().expose_provenance() as u64, raw];
        assert!(bpf(6, &mut attributes).is_none());
        // SAFETY: errno is the calling thread's own.
        assert_eq!(unsafe { *libc::__errno_location() }, 0, "{path:?}");
    }
}

/// Calls bpf(2). Returns the descriptor, if the call succeeded with one.
fn bpf(command: libc::c_int, attributes: &mut [u64]) -> Option<OwnedFd> {
    // SAFETY: the attributes are as long as the size says, and what they point to outlives the call.
    let result = unsafe {
        *libc::__errno_location() = 0;
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes))
    };
    let descriptor = i32::try_from(result).ok().filter(|descriptor| *descriptor > 0)?;
    // SAFETY: the kernel just handed out this descriptor, and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[test]
fn foreign_tcx_programs_are_found_and_own_ones_are_not() {
    lab(|lab| {
        let program = Program::load("meter");
        let device = lab.ports[0].0;
        for (hook, side) in [(46, 0), (47, 1)] {
            let Some(link) = program.attach(device, hook) else {
                println!("skipped: the kernel has no tcx (6.6)");
                return;
            };
            let mut expected = [None, None];
            expected[side] = Some(format!("tcx program {} \"meter\"", program.id));
            assert_eq!(lab.filters(0), expected);
            assert_eq!(lab.filters(1), [None, None]);
            let found = lab.collect_with(&[program.id]);
            assert!(found.ingress_filters.is_empty() && found.egress_filters.is_empty());
            drop(link);
            // A process that another test starts at this moment may hold the link until it runs its program.
            let deadline = Instant::now() + Duration::from_secs(5);
            while lab.filters(0) != [None, None] {
                assert!(Instant::now() < deadline, "the link is gone, the finding is not");
            }
        }
    });
}

#[test]
fn own_cls_bpf_programs_are_known_by_id_and_by_name() {
    lab(|lab| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        run("mount --make-rprivate /");
        let folder = std::env::temp_dir().join(format!("bypass-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let folder = folder.to_str().unwrap().to_owned();
        run(&format!("mount -t bpf bpf {folder}"));
        run("tc qdisc add dev p0 clsact");
        for (name, own) in [("meter", false), ("xbr_tc", true)] {
            let program = Program::load(name);
            program.pin(&format!("{folder}/{name}"));
            run_or_skip!(&format!("tc filter add dev p0 ingress bpf da object-pinned {folder}/{name}"));
            let found = lab.ingress(0);
            if !own {
                let text = format!("tc filter on ingress: bpf (program {} \"{name}", program.id);
                assert!(found.as_ref().is_some_and(|found| found.starts_with(&text)), "{found:?}");
            }
            assert_eq!(found.is_none(), own, "{found:?}");
            assert!(lab.collect_with(&[program.id]).ingress_filters.is_empty());
            run("tc filter del dev p0 ingress");
        }
        run(&format!("umount {folder}"));
        fs::remove_dir(&folder).unwrap();
    });
}

#[test]
fn legacy_iptables_rules_are_found_without_making_tables() {
    lab(|lab| {
        let names = || fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        lab.collect();
        assert_eq!(names(), "", "asking made a table");
        if lab.collect().br_netfilter.is_none() {
            println!("skipped: br_netfilter is not loaded");
            return;
        }
        for (tool, protocol) in [("iptables-legacy", "udp"), ("ip6tables-legacy", "udp")] {
            run_or_skip!(&format!("{tool} -L"));
            let tool_name = tool.trim_end_matches("-legacy");
            run(&format!("{tool} -t mangle -L"));
            run(&format!("{tool} -P INPUT DROP"));
            run(&format!("{tool} -A INPUT -p {protocol} -j ACCEPT"));
            assert_eq!(lab.collect().inet_rules, None, "the host's own rules");
            run(&format!("{tool} -A FORWARD -p {protocol} -j DROP"));
            assert_eq!(lab.collect().inet_rules, Some(format!("{tool_name} table filter, chain FORWARD")));
            run(&format!("{tool} -F FORWARD"));
            assert_eq!(lab.collect().inet_rules, None);
            run(&format!("{tool} -P FORWARD DROP"));
            assert_eq!(
                lab.collect().inet_rules,
                Some(format!("{tool_name} table filter, chain FORWARD (policy drop)"))
            );
            run(&format!("{tool} -P FORWARD ACCEPT"));
            run(&format!("{tool} -t mangle -A PREROUTING -p {protocol} -j ACCEPT"));
            assert_eq!(lab.collect().inet_rules, Some(format!("{tool_name} table mangle, chain PREROUTING")));
            run(&format!("{tool} -t mangle -F"));
            assert_eq!(lab.collect().inet_rules, None);
        }
        run_or_skip!("arptables-legacy -A FORWARD -j DROP");
        assert_eq!(lab.collect().inet_rules.as_deref(), Some("arptables table filter, chain FORWARD"));
    });
}

#[test]
fn legacy_ebtables_rules_are_found_without_making_tables() {
    lab(|lab| {
        assert_eq!(lab.collect().netfilter, None);
        run_or_skip!("ebtables-legacy -L");
        assert_eq!(lab.collect().netfilter, None);
        run("ebtables-legacy -A INPUT -p arp -j DROP");
        assert_eq!(lab.collect().netfilter, None, "the host's own rules");
        for (table, chain) in
            [("filter", "FORWARD"), ("nat", "PREROUTING"), ("nat", "POSTROUTING"), ("broute", "BROUTING")]
        {
            run(&format!("ebtables-legacy -t {table} -A {chain} -p arp -j DROP"));
            assert_eq!(lab.collect().netfilter, Some(format!("ebtables table {table}, chain {chain}")));
            run(&format!("ebtables-legacy -t {table} -F {chain}"));
            assert_eq!(lab.collect().netfilter, None);
        }
        run("ebtables-legacy -P FORWARD DROP");
        assert_eq!(lab.collect().netfilter.as_deref(), Some("ebtables table filter, chain FORWARD (policy drop)"));
    });
}

#[test]
fn tag_stripping_is_switched_and_put_back() {
    lab(|lab| {
        let found = ethtool::rx_vlan("p0").unwrap().unwrap();
        assert_eq!(ethtool::rx_vlan_offload("p0").unwrap(), Some(found.any()));
        ethtool::set_rx_vlan_offload("p0", false).unwrap();
        let port = lab.ports[0].0;
        assert_eq!(lab.collect().rx_vlan_offload.get(&port), Some(&false));
        assert_eq!(ethtool::rx_vlan("p0").unwrap(), Some(ethtool::RxVlan::default()));
        ethtool::set_rx_vlan("p0", found).unwrap();
        assert_eq!(ethtool::rx_vlan("p0").unwrap(), Some(found));
        assert_eq!(lab.collect().rx_vlan_offload.get(&port), Some(&found.any()));
        assert_eq!(ethtool::driver("p0").unwrap().as_deref(), Some("veth"));

        let error = ethtool::set_rx_vlan_offload("lo", true).unwrap_err();
        assert_eq!(error.to_string(), "the driver of lo does not switch rx-vlan-offload");
        assert_eq!(ethtool::rx_vlan_offload("absent").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    });
}

#[test]
fn a_veth_takes_frames_from_xdp_while_its_peer_can_receive_them() {
    lab(|lab| {
        let port = lab.ports[0].0;
        let Some(before) = lab.collect().xdp_features.remove(&port) else {
            println!("skipped: the kernel has no netdev family (6.3)");
            return;
        };
        run_or_skip!("ethtool -K q0 gro on");
        let after = features::xdp_features(&[port]).unwrap();
        assert_eq!(after.keys().collect::<Vec<_>>(), [&port]);
        assert_eq!((before & features::NDO_XMIT, after[&port] & features::NDO_XMIT), (0, features::NDO_XMIT));
        assert_eq!(lab.collect().xdp_features.get(&port), after.get(&port));
    });
}

#[test]
fn changes_of_nftables_are_announced() {
    lab(|_| {
        run_or_skip!("nft list tables");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = Watch::new();
            let quiet = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
            assert!(quiet.is_err(), "nothing has changed");
            run("nft add table bridge t");
            run("nft delete table bridge t");
            tokio::time::timeout(Duration::from_secs(3), watch.changed()).await.unwrap();
            let quiet = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
            assert!(quiet.is_err(), "one call answers for all that has come");
        });
    });
}

#[test]
fn fifty_ports_take_a_few_milliseconds_and_gone_ones_nothing() {
    lab(|lab| {
        for number in 0..50 {
            run(&format!("ip link add v{number} type veth peer name w{number}"));
            run(&format!("tc qdisc add dev v{number} clsact"));
        }
        lab.ports = (0..50).map(|number| (index(&format!("v{number}")), format!("v{number}"))).collect();
        let mut times: Vec<_> = (0..11)
            .map(|_| {
                let start = Instant::now();
                lab.collect();
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("50 ports: median {:?}, best {:?}", times[5], times[0]);
        // The aim is 5 ms. The bound is for emulated machines, and for one that runs other tests meanwhile.
        assert!(times[0] < Duration::from_secs(1), "{times:?}");

        run("ip link del v7");
        let found = lab.collect();
        assert_eq!(found.rx_vlan_offload.len(), 49);
    });
}
