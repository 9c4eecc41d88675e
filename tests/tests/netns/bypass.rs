//! Each sort of policy through its life: there before xbr, gone, there again while frames are fast, and gone again. Real
//! frames show each time whether it acts, first of all without xbr.

use std::{any::Any, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xbr_tests::{
    bpf::{TCX_INGRESS, foreign},
    frame::Frame,
    net::{Guest, Kind},
    probe::Need,
    traffic::Flow,
    wait,
    xbr::Xbr,
};

use super::{
    Test, alone,
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("bypass::nft_bridge_rules", || life("netfilter", nft_bridge, tables_away), &[Need::NftBridge]),
    test("bypass::nft_netdev_ingress", || life("tc_filter", nft_netdev, tables_away), &[Need::NftBridge]),
    test("bypass::nft_netdev_egress", || life("egress_policy", nft_egress, tables_away), &[Need::NftEgress]),
    test("bypass::tcx_programs", || life("tc_filter", tcx, let_go), &[Need::Tcx]),
    test("bypass::filters_of_clsact", || life("tc_filter", clsact, clsact_away), &[]),
    test("bypass::filters_of_ingress", || life("tc_filter", ingress, ingress_away), &[Need::Tcx]),
    test("bypass::native_xdp", || life("foreign_xdp", xdp_native, let_go), &[]),
    test("bypass::generic_xdp", || life("foreign_xdp", xdp_generic, let_go), &[]),
    test("bypass::generic_xdp_at_the_far_end", || life("egress_policy", xdp_far, let_go), &[]),
    test("bypass::rules_by_the_sysctl_of_br_netfilter", || sysctl_or_option(false), BR_NETFILTER),
    test("bypass::rules_by_the_option_of_the_bridge", || sysctl_or_option(true), BR_NETFILTER),
    // A netfilter link does not say of which namespace it is, so that every bridge of the machine goes slow.
    alone(
        "bypass::netfilter_programs",
        || life("netfilter", netfilter, let_go),
        &[Need::BrNetfilter, Need::NetfilterBpf],
    ),
    test("bypass::legacy_ebtables", || life("netfilter", ebtables, ebtables_away), &[Need::Ebtables]),
    test("bypass::legacy_ebtables_policy", || life("netfilter", ebtables_policy, ebtables_away), &[Need::Ebtables]),
    test(
        "bypass::nft_rules_hold_while_the_daemon_is_stopped",
        || at_once("suspended", nft_bridge, tables_away),
        &[Need::NftBridge],
    ),
    test(
        "bypass::ebtables_hold_while_the_daemon_is_stopped",
        || at_once("suspended", ebtables, ebtables_away),
        &[Need::Ebtables],
    ),
    test(
        "bypass::tc_filters_hold_while_the_daemon_is_stopped",
        || at_once("unconfirmed", clsact, clsact_away),
        &[Need::Tcx],
    ),
    test(
        "bypass::filters_of_a_shared_block_hold_while_the_daemon_is_stopped",
        || at_once("suspended", shared_block, shared_block_away),
        &[Need::Tcx],
    ),
];

const BR_NETFILTER: &[Need] = &[Need::BrNetfilter, Need::NftBridge];
/// The hook that forwarded packets pass, of the IP families.
const NF_INET_FORWARD: u32 = 2;

const THREE: [Kind; 3] = [Kind::Veth, Kind::Veth, Kind::Veth];

/// Whatever has to live as long as a policy.
type Policy = Box<dyn Any>;

fn nothing() -> Policy {
    Box::new(())
}

/// How many of `count` UDP packets arrive.
fn arriving(from: &Guest, to: &Guest, count: u32) -> Result<u32> {
    let frame = Frame::udp(from.mac, to.mac, from.ip, to.ip, 7, 64);
    Ok(Flow::start(from, &[to], &[], frame, 2000 / wait::slowness(), count)?.finish()?.received)
}

/// A policy that drops what the first guest sends to the second.
fn life(reason: &str, set: fn(&Scene) -> Result<Policy>, clear: fn(&Scene, Policy) -> Result<()>) -> Result<()> {
    let scene = Scene::new(&THREE)?;
    let [one, two, three] = scene.first();
    let policy = set(&scene)?;
    ensure!(arriving(one, two, 50)? == 0, "it does not act on the bridge alone");

    let xbr = scene.xbr(&[])?;
    for _ in 0..2 {
        named(&scene, &xbr, reason)?;
        ensure!(arriving(one, two, 50)? == 0, "it was there before xbr, and frames go around it");
    }
    clear(&scene, policy)?;
    scene.greet()?;
    warm(&xbr, one, two).context("it is gone")?;
    scene.steady(&xbr, one, two, 100)?;

    let policy = set(&scene)?;
    // At most a second without an event, and the time that the machine takes for it.
    wait::until("it acts", Duration::from_secs(4), || Ok(arriving(one, two, 20)? == 0)).context("it came later")?;
    named(&scene, &xbr, reason)?;
    ensure!(arriving(one, two, 50)? == 0, "it came later, and frames go around it");
    clear(&scene, policy)?;
    scene.greet()?;
    warm(&xbr, one, two).context("it is gone again")?;
    warm(&xbr, two, three)?;
    xbr.stop()
}

/// A policy that comes while frames are fast acts on the very first frame after the tool that set it has returned: the
/// daemon is stopped meanwhile, so nothing hangs on how soon it hears of it. They are counted under `reason`.
fn at_once(reason: &str, set: fn(&Scene) -> Result<Policy>, clear: fn(&Scene, Policy) -> Result<()>) -> Result<()> {
    const TIMES: u32 = 4;
    let scene = Scene::new(&THREE)?;
    let [one, two, _] = scene.first();
    // Once, so that whatever module it takes is there: the daemon does not make the kernel load one.
    let policy = set(&scene)?;
    clear(&scene, policy)?;
    let xbr = scene.xbr(&[])?;
    for time in 0..TIMES {
        scene.greet()?;
        warm(&xbr, one, two).with_context(|| format!("before time {time}"))?;
        let before = xbr.reason(&one.port, reason)?;
        xbr.signal(Signal::SIGSTOP)?;
        let policy = set(&scene)?;
        let around = arriving(one, two, 20)?;
        xbr.signal(Signal::SIGCONT)?;
        ensure!(around == 0, "time {time}: {around} of 20 frames went around it\n{}", xbr.summary());
        ensure!(xbr.reason(&one.port, reason)? >= before + 20, "time {time}: {}", xbr.summary());
        clear(&scene, policy)?;
    }
    xbr.stop()
}

/// The status says why: at the port, at the bridge, or by counting frames under the reason.
fn named(scene: &Scene, xbr: &Xbr, reason: &str) -> Result<()> {
    let [one, two] = scene.first();
    wait::until(&format!("slow with reason {reason}"), Duration::from_secs(5), || {
        if reason == "egress_policy" {
            let before = xbr.reason(&one.port, reason)?;
            arriving(one, two, 2)?;
            return Ok(xbr.reason(&one.port, reason)? > before);
        }
        let status = xbr.status()?;
        let port = xbr_tests::xbr::find_port(&status, &one.port).map(|port| &port["slow_reason"]);
        Ok(port.is_some_and(|port| port == reason) || status["bridges"][0]["slow_reason"] == reason)
    })
    .with_context(|| xbr.summary())
}

#[expect(clippy::unnecessary_wraps, reason = "one of several ways to end a policy")]
fn let_go(_scene: &Scene, policy: Policy) -> Result<()> {
    drop(policy);
    Ok(())
}

fn nft(scene: &Scene, lines: &[&str]) -> Result<Policy> {
    for line in lines {
        scene.host(&format!("nft {line}"))?;
    }
    Ok(nothing())
}

fn tables_away(scene: &Scene, _policy: Policy) -> Result<()> {
    scene.host("nft flush ruleset").map(drop)
}

/// Ahead of `br_netfilter`: where that is on, some kernels show IP packets to no chain of its own priority (0)
/// (`br_nf_hook_thresh`).
fn nft_bridge(scene: &Scene) -> Result<Policy> {
    let rule = format!("add rule bridge t f ether saddr {} drop", xbr_tests::frame::mac(scene.guests[0].mac));
    nft(scene, &["add table bridge t", "add chain bridge t f { type filter hook forward priority -200 ; }", &rule])
}

fn nft_netdev(scene: &Scene) -> Result<Policy> {
    let port = &scene.guests[0].port;
    let chain = format!("add chain netdev t i {{ type filter hook ingress device {port} priority 0 ; }}");
    nft(scene, &["add table netdev t", &chain, "add rule netdev t i drop"])
}

/// On the way out to the second guest: a tc redirect skips this hook, so that frames there are left to the bridge.
fn nft_egress(scene: &Scene) -> Result<Policy> {
    scene.host("nft add table netdev t")?;
    scene.host(&format!(
        "nft add chain netdev t e {{ type filter hook egress device {} priority 0 ; policy drop ; }}",
        scene.guests[1].port
    ))?;
    Ok(nothing())
}

fn tcx(scene: &Scene) -> Result<Policy> {
    Ok(Box::new(scene.net.host.enter(|| foreign::tcx_drop(&scene.guests[0].port, TCX_INGRESS))??))
}

/// Sends everything to a device that leads nowhere, which every kernel can.
fn away(scene: &Scene, place: &str) -> Result<Policy> {
    if !scene.net.host.output("ip link show dev nowhere")?.status.success() {
        scene.host("ip link add nowhere type veth peer name nobody")?;
    }
    let port = &scene.guests[0].port;
    scene.host(&format!(
        "tc filter add dev {port} {place} protocol all prio 7 u32 match u32 0 0 action mirred egress redirect dev nowhere"
    ))?;
    Ok(nothing())
}

fn clsact(scene: &Scene) -> Result<Policy> {
    // On kernels without tcx the qdisc may be there already, and is shared.
    scene.net.host.output(&format!("tc qdisc add dev {} clsact", scene.guests[0].port))?;
    away(scene, "ingress")
}

fn clsact_away(scene: &Scene, _policy: Policy) -> Result<()> {
    scene.host(&format!("tc filter del dev {} ingress prio 7", scene.guests[0].port)).map(drop)
}

/// A block of filters that any device may share, told of without naming one.
fn shared_block(scene: &Scene) -> Result<Policy> {
    let port = &scene.guests[0].port;
    if !scene.host(&format!("tc qdisc show dev {port}"))?.contains("clsact") {
        scene.host("ip link add nowhere type veth peer name nobody")?;
        scene.host(&format!("tc qdisc add dev {port} ingress_block 7 clsact"))?;
    }
    scene.host(
        "tc filter add block 7 protocol all prio 7 u32 match u32 0 0 action mirred egress redirect dev nowhere",
    )?;
    Ok(nothing())
}

fn shared_block_away(scene: &Scene, _policy: Policy) -> Result<()> {
    scene.host("tc filter del block 7 prio 7").map(drop)
}

fn ingress(scene: &Scene) -> Result<Policy> {
    scene.host(&format!("tc qdisc add dev {} handle ffff: ingress", scene.guests[0].port))?;
    away(scene, "parent ffff:")
}

fn ingress_away(scene: &Scene, _policy: Policy) -> Result<()> {
    scene.host(&format!("tc qdisc del dev {} ingress", scene.guests[0].port)).map(drop)
}

fn xdp_native(scene: &Scene) -> Result<Policy> {
    Ok(Box::new(scene.net.host.enter(|| foreign::xdp_native_drop(&scene.guests[0].port))??))
}

fn xdp_generic(scene: &Scene) -> Result<Policy> {
    Ok(Box::new(scene.net.host.enter(|| foreign::xdp_generic_drop(&scene.guests[0].port))??))
}

/// In the second guest: what was sent to it, it does not get. A capture there sees what the program lets through.
fn xdp_far(scene: &Scene) -> Result<Policy> {
    let two = &scene.guests[1];
    Ok(Box::new(two.space.enter(|| foreign::xdp_generic_drop(&two.dev))??))
}

fn netfilter(scene: &Scene) -> Result<Policy> {
    scene.net.host.sysctl("bridge/bridge-nf-call-iptables", "1")?;
    Ok(Box::new(scene.net.host.enter(|| foreign::netfilter_drop(NF_INET_FORWARD))??))
}

fn ebtables(scene: &Scene) -> Result<Policy> {
    let source = xbr_tests::frame::mac(scene.guests[0].mac);
    scene.host(&format!("ebtables-legacy -A FORWARD -s {source} -j DROP"))?;
    Ok(nothing())
}

fn ebtables_policy(scene: &Scene) -> Result<Policy> {
    scene.host("ebtables-legacy -P FORWARD DROP")?;
    Ok(nothing())
}

fn ebtables_away(scene: &Scene, _policy: Policy) -> Result<()> {
    scene.host("ebtables-legacy -P FORWARD ACCEPT")?;
    scene.host("ebtables-legacy -F FORWARD").map(drop)
}

/// The rule stays; what turns it on for bridged frames comes and goes, without any event in the case of the sysctl.
fn sysctl_or_option(option: bool) -> Result<()> {
    fn rule(scene: &Scene) -> Result<()> {
        if !scene.host("nft list tables")?.contains("ip t") {
            let chain = "add chain ip t f { type filter hook forward priority 0 ; policy drop ; }";
            nft(scene, &["add table ip t", chain])?;
        }
        Ok(())
    }
    fn turn(scene: &Scene, sysctl: &str, option: &str) -> Result<()> {
        for family in ["ip6", "arp"] {
            scene.net.host.sysctl(&format!("bridge/bridge-nf-call-{family}tables"), "0")?;
        }
        scene.net.host.sysctl("bridge/bridge-nf-call-iptables", sysctl)?;
        scene.host(&format!("ip link set br0 type bridge nf_call_iptables {option}")).map(drop)
    }
    fn by_sysctl(scene: &Scene) -> Result<Policy> {
        rule(scene)?;
        turn(scene, "1", "0").map(|()| nothing())
    }
    fn by_option(scene: &Scene) -> Result<Policy> {
        rule(scene)?;
        turn(scene, "0", "1").map(|()| nothing())
    }
    life("netfilter", if option { by_option } else { by_sysctl }, |scene, _policy| turn(scene, "0", "0"))
}
