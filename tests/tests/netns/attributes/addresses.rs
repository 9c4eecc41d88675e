//! Frames that are special by their addresses or their protocol.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    frame::{ETHERTYPE_ARP, Frame, Mac},
    measure::Reading,
    net::Guest,
    packet::Capture,
    probe::Need,
    setting, wait,
};

use super::{
    super::{
        observe::compare,
        scene::warm,
        settings::{Change, Setting, follow, host},
    },
    STATION, probes, scene,
};

/// ARP and neighbour discovery, to all and to one: the bridge answers some of them itself.
pub(super) fn neighbour_suppression() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    scene.host("ip addr add 10.77.0.254/24 dev br0")?;
    for guest in [one, two, three] {
        let mac = xbr_tests::frame::mac(guest.mac);
        scene.host(&format!("ip neigh replace {} lladdr {mac} dev br0 nud permanent", guest.ip))?;
    }
    let probes = probes(&scene, |[one_mac, two_mac, _]| {
        let request = Frame::arp_request(one_mac, one.ip, two.ip);
        let mut to_one = request.clone();
        to_one.dst = two_mac;
        let mut gratuitous = Frame::arp_request(one_mac, one.ip, one.ip);
        gratuitous.ethertype = ETHERTYPE_ARP;
        let discovery = |kind| Frame::ipv6(one_mac, two_mac, 58, kind);
        vec![(0, request), (0, to_one), (0, gratuitous), (0, discovery(135)), (0, discovery(136)), (0, discovery(128))]
    });
    let counted = &[("g1", "control_protocol"), ("g1", "neighbour_discovery"), ("g1", "forwarded_tc")];
    let option = |what, on: &'static [&'static str], off: &'static [&'static str]| {
        Setting::new(what, host(on), host(off), counted)
    };
    let mut settings = vec![
        option(
            "neigh_suppress",
            &["bridge link set dev g2 neigh_suppress on"],
            &["bridge link set dev g2 neigh_suppress off"],
        ),
        option(
            "proxy_arp_wifi",
            &["ip link set dev g2 type bridge_slave proxy_arp_wifi on"],
            &["ip link set dev g2 type bridge_slave proxy_arp_wifi off"],
        ),
        option(
            "proxy_arp",
            &["ip link set dev g1 type bridge_slave proxy_arp on"],
            &["ip link set dev g1 type bridge_slave proxy_arp off"],
        ),
    ];
    if Need::Kernel(6, 4).met() {
        let by_vlan = |on: u8| -> Change {
            Box::new(move |scene| setting::set_port(&scene.net.host, "g2", setting::NEIGH_VLAN_SUPPRESS, &[on]))
        };
        settings.push(Setting::new("neigh_vlan_suppress", by_vlan(1), by_vlan(0), counted).without_effect());
    }
    follow(&scene, &[], &probes, &settings)
}

/// 01:80:c2:00:00:00 to 0f, under every option that says where they go. What is not forwarded reaches the port itself.
pub(super) fn link_local() -> Result<()> {
    let scene = scene()?;
    let probes =
        probes(&scene, |[one, ..]| (0..16).map(|last| (0, Frame::new(one, [0x01, 0x80, 0xc2, 0, 0, last]))).collect());
    let counted = &[("g1", "multicast"), ("g1", "forwarded_tc")];
    let settings = [
        Setting::new(
            "group_fwd_mask of the bridge",
            host(&["ip link set br0 type bridge group_fwd_mask 0xfff8"]),
            host(&["ip link set br0 type bridge group_fwd_mask 0"]),
            counted,
        ),
        Setting::new(
            "group_fwd_mask of the port",
            host(&["ip link set dev g1 type bridge_slave group_fwd_mask 0x4005"]),
            host(&["ip link set dev g1 type bridge_slave group_fwd_mask 0"]),
            counted,
        ),
        // Bridges with the group address of 802.1ad forward the other one.
        Setting::new(
            "group address and STP by user space",
            host(&["ip link set br0 type bridge group_address 01:80:c2:00:00:0a group_fwd_mask 0x100"]),
            host(&["ip link set br0 type bridge group_address 01:80:c2:00:00:00 group_fwd_mask 0"]),
            counted,
        ),
    ];
    follow(&scene, &[], &probes, &settings)?;
    let xbr = scene.xbr(&[])?;
    let [one, two, _three] = scene.first();
    warm(&xbr, one, two)?;
    let mut at_the_port = Capture::of_protocol(&scene.net.host, &one.port, 0x88cc)?;
    let mut discovery = Frame::new(one.mac, [0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    discovery.ethertype = 0x88cc;
    one.sender()?.send(&discovery.numbered(1, 1).bytes())?;
    ensure!(at_the_port.next(Duration::from_secs(1) * wait::slowness())?.is_some(), "LLDP did not reach the port");
    xbr.stop()
}

/// Protocols between neighbours, 802.3 frames, and addresses that no station has.
pub(super) fn protocols() -> Result<()> {
    let scene = scene()?;
    let types = [
        (0x0806, "control_protocol"),
        (0x8035, "control_protocol"),
        (0x888e, "control_protocol"),
        (0x88cc, "control_protocol"),
        (0x88e3, "control_protocol"),
        (0x8902, "control_protocol"),
        (0x8809, "control_protocol"),
        (0x88f7, "control_protocol"),
        (46, "llc"),
        (0x05ff, "llc"),
        (0x0600, "forwarded_tc"),
        (0x88b5, "forwarded_tc"),
        (0x88e5, "forwarded_tc"),
        (0xffff, "forwarded_tc"),
    ];
    let [one, two, _three] = scene.first();
    let of_type = |kind: u16| {
        let mut frame = Frame::new(one.mac, two.mac);
        frame.ethertype = kind;
        frame
    };
    let all = probes(&scene, |[one, two, _]| {
        let mut frames: Vec<(usize, Frame)> = types.iter().map(|(kind, _)| (0, of_type(*kind))).collect();
        frames.push((0, Frame::new([0; 6], two)));
        frames.push((0, Frame::new([3, 0, 0, 0, 0, 1], two)));
        frames.push((0, Frame::new([0xff; 6], two)));
        frames.push((0, Frame::new(one, [0; 6])));
        frames
    });
    compare(&scene, &[], &all, 8)?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let sender = one.sender()?;
    let invalid = (Frame::new([0; 6], two.mac), "invalid_source");
    for (frame, reason) in types.iter().map(|(kind, reason)| (of_type(*kind), *reason)).chain([invalid]) {
        let before = xbr.reason("g1", reason)?;
        let frame = frame.numbered(7, 7).bytes();
        sender.send(&frame)?;
        wait::until(reason, Duration::from_secs(1), || Ok(xbr.reason("g1", reason)? > before))
            .with_context(|| format!("{}: {}", xbr_tests::frame::describe(&frame), xbr.summary()))?;
    }
    xbr.stop()
}

/// Addresses of the bridge and of its ports: up to br0 as destination, forwarded and not learnt as source; also after
/// the bridge's has changed to one that a station had.
pub(super) fn own_addresses() -> Result<()> {
    let scene = scene()?;
    let own = |device: &str| -> Result<Mac> {
        let links = scene.net.host.json(&format!("ip -j link show dev {device}"))?;
        let text = links[0]["address"].as_str().context("address")?;
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(hex, 16)?;
        }
        Ok(mac)
    };
    let (bridge, port) = (own("br0")?, own("g2")?);
    let probes = probes(&scene, |[one, two, _]| {
        vec![
            (0, Frame::new(one, bridge)),
            (0, Frame::new(one, port)),
            (0, Frame::new(bridge, two)),
            (0, Frame::new(port, two)),
            (1, Frame::new(STATION, one)),
            (0, Frame::new(one, STATION)),
        ]
    });
    let restore = format!("ip link set br0 address {}", xbr_tests::frame::mac(bridge));
    let change = Setting::new(
        "address of the bridge",
        host(&["ip link set br0 address 02:0b:00:00:00:70"]),
        Box::new(move |scene| scene.host(&restore).map(drop)),
        &[("g1", "local"), ("g1", "source_fixed"), ("g2", "source_fixed"), ("g1", "forwarded_tc")],
    );
    follow(&scene, &[], &probes, &[change])
}

/// TCP, UDP, echo and neighbour discovery over IPv6.
pub(super) fn ipv6() -> Result<()> {
    let scene = scene()?;
    let [one, two, three] = scene.first();
    let address = |guest: &Guest| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(guest.mac[5]));
    for guest in [one, two] {
        guest.space.sysctl("ipv6/conf/eth0/disable_ipv6", "0")?;
        guest.space.cmd(&format!("ip addr add {}/64 dev eth0 nodad", address(guest)))?;
    }
    let probes = probes(&scene, |[one, two, _]| {
        (0..=255).step_by(3).chain(133..=137).map(|kind| (0, Frame::ipv6(one, two, 58, kind))).collect()
    });
    compare(&scene, &[], &probes, 80)?;
    let xbr = scene.xbr(&[])?;
    warm(&xbr, one, two)?;
    let reading = Reading::take(&xbr)?;
    one.space.cmd(&format!("ping -6 -c 5 -i 0.2 -W 2 {}", address(two)))?;
    let bytes: Vec<u8> = (0..4_u32 << 20).map(|index| (index % 251) as u8).collect();
    let listener = two.space.enter(|| TcpListener::bind((address(two), 7000)))??;
    let received = std::thread::scope(|threads| -> Result<Vec<u8>> {
        let server = threads.spawn(move || -> std::io::Result<Vec<u8>> {
            let mut all = Vec::new();
            listener.accept()?.0.read_to_end(&mut all)?;
            Ok(all)
        });
        one.space.enter(|| TcpStream::connect((address(two), 7000))?.write_all(&bytes))??;
        Ok(server.join().map_err(|_panic| anyhow::anyhow!("the server panicked"))??)
    })?;
    ensure!(received == bytes, "{} of {} bytes arrived as they were sent", received.len(), bytes.len());
    let (here, there) = (
        one.space.enter(|| UdpSocket::bind((address(one), 7001)))??,
        two.space.enter(|| UdpSocket::bind((address(two), 7001)))??,
    );
    there.set_read_timeout(Some(Duration::from_secs(2) * wait::slowness()))?;
    for size in [1, 1400, 4000] {
        here.send_to(&bytes[..size], (address(two), 7001))?;
        let mut buffer = vec![0; 5000];
        let (length, _) = there.recv_from(&mut buffer)?;
        ensure!(buffer[..length] == bytes[..size], "a datagram of {size} bytes changed");
    }
    let deltas = reading.since(&xbr)?;
    for guest in [one, two] {
        let delta = deltas.get(&guest.port).context("port")?;
        ensure!(delta.fast > 0 && delta.share() > Some(0.9), "{delta:?}");
    }
    ensure!(deltas.get(&three.port).context("port")?.fast == 0, "{deltas:?}");
    xbr.stop()
}
