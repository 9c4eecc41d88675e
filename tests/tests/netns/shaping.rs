//! Rate limits of hypervisors keep limiting: the commands that Proxmox VE and libvirt run, and flows that are measured
//! with and without xbr. Limits are low and bounds wide, so that a slow machine measures the limit and not itself.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use xbr_tests::{
    frame::Frame,
    net::{Guest, Kind},
    probe::Need,
    traffic::{flow_number, tcp},
    wait,
    xbr::Xbr,
};

use super::{
    Test,
    scene::{Scene, warm},
    test,
};

pub(crate) const TESTS: &[Test] = &[
    test("shaping::htb_towards_a_guest", || towards(Kind::Tap, &[]), &[Need::Tun]),
    test("shaping::htb_towards_a_guest_from_xdp", || towards(Kind::Tap, &["--hook", "eth0=xdp"]), &[Need::Tun]),
    test("shaping::proxmox_rate_of_a_tap", || proxmox(Kind::Tap), &[Need::Tun, Need::Police]),
    test("shaping::proxmox_rate_of_a_veth", || proxmox(Kind::Veth), &[Need::Police]),
    test("shaping::libvirt_bandwidth", libvirt, &[Need::Tun, Need::Police]),
];

/// The limit: 500 kB/s. What comes in is twice that.
const LIMIT: u64 = 500_000;
const FRAME: u32 = 1000;
const OFFERED: u32 = 1000;
/// How much more than the limit may come through: buckets fill, clocks are coarse.
const SLACK: f64 = 1.3;
/// How long a flow lasts.
const TIME: Duration = Duration::from_secs(2);

/// Bytes per second of UDP that arrive, of twice the limit.
fn rate(from: &Guest, to: &Guest) -> Result<f64> {
    let mut capture = to.capture()?;
    let sender = from.sender()?;
    let flow = flow_number();
    let mut frame = Frame::udp(from.mac, to.mac, from.ip, to.ip, 7, FRAME as usize - 42);
    let start = Instant::now();
    let thread = thread::spawn(move || -> Result<()> {
        let mut sent = 0;
        while start.elapsed() < TIME {
            let due = u32::try_from(start.elapsed().as_millis())? * OFFERED / 1000;
            for _ in 0..due.saturating_sub(sent).min(64) {
                frame.mark(xbr_tests::frame::Mark { flow, seq: sent });
                sender.send(&frame.bytes())?;
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let mut arrived = 0_u32;
    while start.elapsed() < TIME {
        if let Some(caught) = capture.next(Duration::from_millis(50))? {
            arrived += u32::from(caught.mark().is_some_and(|mark| mark.flow == flow));
        }
    }
    thread.join().map_err(|_panic| anyhow!("the sending thread panicked"))??;
    // What a queue still holds has gone before the next measurement.
    while capture.next(Duration::from_millis(300))?.is_some_and(|_| start.elapsed() < 4 * TIME) {}
    Ok(f64::from(arrived * FRAME) / TIME.as_secs_f64())
}

/// UDP and TCP between two guests, both limited.
fn limited(from: &Guest, to: &Guest, what: &str) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let limit = LIMIT as f64;
    let udp = rate(from, to)?;
    println!("{what}, {} to {}: UDP {:.0} kB/s of {:.0}", from.name, to.name, udp / 1e3, limit / 1e3);
    ensure!(udp <= SLACK * limit, "{what}: UDP at {udp:.0} B/s, the limit is {limit}");
    ensure!(udp >= 0.4 * limit, "{what}: UDP at {udp:.0} B/s is much less than the limit of {limit}");
    let stream = tcp(from, to, LIMIT)?;
    let speed = stream.megabits() * 1e6 / 8.0;
    println!("{what}, {} to {}: TCP {:.0} kB/s", from.name, to.name, speed / 1e3);
    ensure!(speed <= SLACK * limit, "{what}: TCP at {speed:.0} B/s, the limit is {limit}");
    Ok(())
}

/// What both hypervisors set up for the direction to the guest.
fn htb(scene: &Scene, port: &str) -> Result<()> {
    scene.host(&format!("tc qdisc add dev {port} root handle 1: htb default 1"))?;
    scene.host(&format!("tc class add dev {port} parent 1: classid 1:1 htb rate {LIMIT}bps burst 20000b")).map(drop)
}

/// And for the other one: a policer.
fn police(scene: &Scene, port: &str) -> Result<()> {
    scene.host(&format!("tc qdisc add dev {port} handle ffff: ingress"))?;
    scene
        .host(&format!(
            "tc filter add dev {port} parent ffff: protocol all prio 50 u32 match u32 0 0 police rate {LIMIT}bps \
             burst 20000b mtu 64kb drop flowid :1"
        ))
        .map(drop)
}

/// The queue alone: frames to the guest are fast and limited, also if the limit comes later and from an uplink by XDP.
fn towards(kind: Kind, args: &[&str]) -> Result<()> {
    let scene = Scene::new(&[kind, Kind::Wire])?;
    let [guest, far] = scene.first();
    let port = &guest.port;
    htb(&scene, port)?;
    limited(far, guest, "without xbr")?;
    let xbr = scene.xbr(args)?;
    warm(&xbr, guest, far)?;
    let fast = xbr.fast(&far.port)?;
    limited(far, guest, "limit before xbr")?;
    ensure!(xbr.fast(&far.port)? > fast + u64::from(OFFERED), "not by the fast path: {}", xbr.summary());
    scene.host(&format!("tc qdisc del dev {port} root"))?;
    wait::until("limit gone", Duration::from_secs(4), || {
        Ok(rate(far, guest)? > 0.8 * f64::from(OFFERED * FRAME) / f64::from(wait::slowness()))
    })?;
    htb(&scene, port)?;
    // An XDP redirect would go around the queue until the event is read.
    thread::sleep(Duration::from_secs(1));
    limited(far, guest, "limit after xbr")?;
    xbr.stop()
}

/// Both directions. The port with the policer is slow, the other one's frames to it are not.
fn both(scene: &Scene, what: &str) -> Result<()> {
    let [guest, far] = scene.first();
    let directions = |when: &str| -> Result<()> {
        limited(far, guest, &format!("{what} {when}"))?;
        limited(guest, far, &format!("{what} {when}"))
    };
    directions("without xbr")?;
    let xbr: Xbr = scene.xbr(&[])?;
    xbr.wait_slow(&guest.port, "tc_filter")?;
    let fast = xbr.fast(&far.port)?;
    directions("with xbr")?;
    ensure!(xbr.fast(&far.port)? > fast + 100, "frames to the guest are slow: {}", xbr.summary());
    scene.host(&format!("tc qdisc del dev {} ingress", guest.port))?;
    scene.host(&format!("tc qdisc del dev {} root", guest.port))?;
    warm(&xbr, guest, far).context("the limit is gone")?;
    xbr.stop()
}

/// As `setup_tc_rate_limit` of Proxmox VE does it, for virtual machines and for containers.
fn proxmox(kind: Kind) -> Result<()> {
    let scene = Scene::new(&[kind, Kind::Wire])?;
    htb(&scene, &scene.guests[0].port)?;
    police(&scene, &scene.guests[0].port)?;
    both(&scene, "rate=")
}

/// As `virNetDevBandwidthSet` of libvirt does it: a fair queue below the class, and a filter by mark on the root. The
/// bridge device of a libvirt network may be limited as well, which concerns what the host itself sends.
fn libvirt() -> Result<()> {
    let scene = Scene::new(&[Kind::Tap, Kind::Wire])?;
    let port = &scene.guests[0].port;
    htb(&scene, port)?;
    scene.host(&format!("tc qdisc add dev {port} parent 1:1 handle 2: sfq perturb 10"))?;
    scene.host(&format!("tc filter add dev {port} parent 1:0 protocol all prio 1 handle 1 fw flowid 1"))?;
    police(&scene, port)?;
    scene.host("tc qdisc add dev br0 root handle 1: htb default 1")?;
    scene.host("tc class add dev br0 parent 1: classid 1:1 htb rate 8kbit burst 2000b")?;
    both(&scene, "<bandwidth>")
}
