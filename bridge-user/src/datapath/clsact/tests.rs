//! In a network namespace of a thread's own, with `tc` to check the results. They need root.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    thread,
};

use netlink_packet_route::tc::{TcBpfFlags, TcFilterBpfOption, TcOption};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `test` in a new namespace with a veth pair v0 and v1; given the index of v0. Dies with the thread.
fn in_namespace(test: impl FnOnce(IfIndex) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link add v0 type veth peer name v1");
            test(nix::net::if_::if_nametoindex("v0").unwrap());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn run(line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn qdiscs() -> String {
    run("tc qdisc show dev v0")
}

/// Loads a program that leaves each frame alone: `r0 = -1; exit`.
fn program() -> OwnedFd {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: *const [u64; 2],
        license: *const u8,
        rest: [u64; 4],
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    let instructions = [0xffff_ffff_0000_00b7_u64, 0x95];
    let load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: 2,
        instructions: &raw const instructions,
        license: c"GPL".as_ptr().cast(),
        rest: [0; 4],
    };
    // SAFETY: the kernel reads `load` and what it points to, all of which live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel made this descriptor for us, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// Attaches a program as a filter, as a BPF loader does.
fn attach(ifindex: IfIndex, side: TcHandle, name: &str, priority: u32, chain: u32) {
    let program = program();
    let mut message = tc_message(ifindex, side);
    message.header.info = priority << 16 | u32::from(0x0003_u16.to_be());
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName(name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes = vec![
        TcAttribute::Kind(BPF.to_owned()),
        TcAttribute::Chain(chain),
        TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()),
    ];
    let request = RouteNetlinkMessage::NewTrafficFilter(message);
    Rtnl::open().unwrap().change(request, NLM_F_CREATE | NLM_F_EXCL).unwrap();
}

#[test]
fn clsact_is_added_once_and_removed() {
    in_namespace(|v0| {
        assert!(ensure(v0).unwrap());
        assert!(qdiscs().contains("qdisc clsact ffff: parent ffff:fff1"), "{}", qdiscs());
        assert!(!ensure(v0).unwrap());
        remove_if_empty(v0).unwrap();
        assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
        remove_if_empty(v0).unwrap();
        run("tc qdisc add dev v0 clsact");
        assert!(!ensure(v0).unwrap());
    });
}

#[test]
fn an_ingress_qdisc_is_in_the_way_and_stays() {
    in_namespace(|v0| {
        run("tc qdisc add dev v0 ingress");
        let error = ensure(v0).unwrap_err();
        assert!(matches!(error, ClsactError::Ingress { .. }));
        assert!(error.to_string().starts_with("v0: an ingress qdisc is where clsact has to go; remove it"), "{error}");
        remove_if_empty(v0).unwrap();
        remove_leftovers(v0).unwrap();
        assert!(qdiscs().contains("qdisc ingress"), "{}", qdiscs());
    });
}

#[test]
fn clsact_stays_while_either_side_has_a_filter() {
    in_namespace(|v0| {
        // Byte code of the classic kind has no name; its text is one argument with spaces in it.
        let filters: [&[&str]; 3] = [
            &["u32", "match", "u32", "0", "0", "classid", "1:1"],
            &["u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", "v1"],
            &["bpf", "da", "bytecode", "1,6 0 0 0"],
        ];
        for (side, filter) in ["ingress", "egress"].into_iter().flat_map(|side| filters.map(|filter| (side, filter))) {
            assert!(ensure(v0).unwrap());
            let mut tc = Command::new("tc");
            tc.args(["filter", "add", "dev", "v0", side, "protocol", "all", "prio", "7"]).args(filter);
            assert!(tc.status().unwrap().success(), "{tc:?}");
            remove_leftovers(v0).unwrap();
            remove_if_empty(v0).unwrap();
            assert!(qdiscs().contains("clsact"), "{tc:?}");
            run(&format!("tc filter del dev v0 {side} protocol all prio 7"));
            remove_if_empty(v0).unwrap();
            assert!(!qdiscs().contains("clsact"), "{tc:?}");
        }
    });
}

#[test]
fn only_filters_of_our_name_are_removed() {
    in_namespace(|v0| {
        assert_eq!(leftovers(v0).unwrap(), []);
        remove_leftovers(v0).unwrap();
        ensure(v0).unwrap();
        assert_eq!(leftovers(v0).unwrap(), []);
        attach(v0, INGRESS_SIDE, "xbr_stub", 0xbb00, 0);
        attach(v0, INGRESS_SIDE, "xbr_stub", 0xbb00, 0);
        attach(v0, INGRESS_SIDE, "somebodys", 0xbb00, 0);
        attach(v0, INGRESS_SIDE, "xbr_tc", 0xbb01, 5);
        attach(v0, EGRESS_SIDE, "xbr_stub_out", 0xbb00, 0);
        attach(v0, EGRESS_SIDE, "somebodys_too", 0xbb00, 0);
        run("tc filter add dev v0 ingress protocol ip prio 3 u32 match u32 0 0 action mirred egress redirect dev v1");
        run("tc filter add dev v0 ingress protocol ip prio 4 u32 match u32 0 0 classid 1:4");

        let found = leftovers(v0).unwrap();
        let names: Vec<_> = found.iter().map(|leftover| leftover.name.as_str()).collect();
        assert_eq!(names, ["xbr_stub", "xbr_stub", "xbr_tc", "xbr_stub_out"]);
        let both_sides = || run("tc filter show dev v0 ingress") + &run("tc filter show dev v0 egress");
        let shown = both_sides();
        for leftover in &found {
            let id = leftover.program.unwrap();
            assert!(shown.contains(&format!("{} direct-action", leftover.name)), "{shown}");
            assert!(shown.contains(&format!("id {id} ")), "{shown}");
        }

        remove_leftovers(v0).unwrap();
        assert_eq!(leftovers(v0).unwrap(), []);
        let shown = both_sides();
        assert!(!shown.contains("xbr_"), "{shown}");
        for left in ["somebodys", "mirred", "1:4", "somebodys_too"] {
            assert!(shown.contains(left), "{left}: {shown}");
        }
        remove_if_empty(v0).unwrap();
        assert!(qdiscs().contains("clsact"));
        for line in ["tc filter del dev v0 ingress", "tc filter del dev v0 egress"] {
            run(line);
        }
        remove_if_empty(v0).unwrap();
        assert!(!qdiscs().contains("clsact"));
    });
}

#[test]
fn the_qdisc_goes_once_our_filter_was_the_last() {
    in_namespace(|v0| {
        ensure(v0).unwrap();
        for priority in 1..=100 {
            attach(v0, INGRESS_SIDE, "xbr_stub", priority, 0);
        }
        assert_eq!(leftovers(v0).unwrap().len(), 100, "in more than one datagram");
        remove_if_empty(v0).unwrap();
        assert_eq!(leftovers(v0).unwrap().len(), 100);
        remove_leftovers(v0).unwrap();
        remove_if_empty(v0).unwrap();
        assert!(!qdiscs().contains("clsact"));
    });
}

#[test]
fn filters_of_a_shared_block_are_not_touched() {
    in_namespace(|v0| {
        run("tc qdisc add dev v0 ingress_block 22 clsact");
        run("tc qdisc add dev v1 ingress_block 22 clsact");
        run("tc filter add block 22 protocol all u32 match u32 0 0 classid 1:1");
        assert_eq!(leftovers(v0).unwrap(), []);
        remove_leftovers(v0).unwrap();
        remove_if_empty(v0).unwrap();
        assert!(qdiscs().contains("clsact"));
    });
}

#[test]
fn other_devices_are_not_looked_at() {
    in_namespace(|v0| {
        run("tc qdisc add dev v1 clsact");
        assert!(ensure(v0).unwrap());
        attach(v0, INGRESS_SIDE, "xbr_stub", 1, 0);
        let v1 = nix::net::if_::if_nametoindex("v1").unwrap();
        assert_eq!(leftovers(v1).unwrap(), []);
        remove_leftovers(v1).unwrap();
        remove_if_empty(v1).unwrap();
        assert_eq!(leftovers(v0).unwrap().len(), 1);
        assert!(!run("tc qdisc show dev v1").contains("clsact"));
    });
}

#[test]
fn a_device_that_is_gone_has_nothing_to_remove() {
    in_namespace(|v0| {
        run("ip link del v0");
        remove_leftovers(v0).unwrap();
        remove_if_empty(v0).unwrap();
        assert_eq!(leftovers(v0).unwrap(), []);
        let error = ensure(v0).unwrap_err().to_string();
        assert_eq!(error, format!("device {v0}: cannot add a clsact qdisc: No such device (os error 19)"));
    });
}

#[test]
fn truncated_rows_do_not_panic() {
    let mut row = vec![0; 20];
    row[4..8].copy_from_slice(&3_i32.to_ne_bytes());
    row[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    row.extend([8, 0, 1, 0, b'b', b'p', b'f', 0]);
    row.extend([24, 0, 2, 0, 11, 0, 7, 0, b'x', b'b', b'r', b'_', b't', b'c', 0, 0, 8, 0, 11, 0, 9, 0, 0, 0]);
    let whole = own_filter(3, &row).unwrap().unwrap();
    assert_eq!(whole.name, "xbr_tc");
    assert_eq!(own_filter(4, &row).unwrap(), None);
    for end in 0..row.len() {
        assert!(!matches!(own_filter(3, &row[..end]), Ok(Some(_))), "{end}");
    }
}
