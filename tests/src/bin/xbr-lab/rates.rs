//! Frames per second through the bridge.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xbr_tests::{frame::Frame, net::Guest};

/// The discard port.
const DISCARD: u16 = 9;
/// Bytes of UDP payload: a small frame, as rates are about frames.
const PAYLOAD: usize = 64;

/// Floods UDP from one machine to another for `time`; frames per second that arrived.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn udp(from: &Guest, to: &Guest, time: Duration) -> Result<f64> {
    // Somebody listens, or every frame would be answered with an ICMP error.
    let _listener = to
        .space
        .enter(|| UdpSocket::bind(SocketAddr::from((to.ip, DISCARD))))?
        .context("listen on the discard port")?;
    let frame = Frame::udp(from.mac, to.mac, from.ip, to.ip, DISCARD, PAYLOAD).bytes();
    let frames = vec![frame; 256];
    let sender = from.sender()?;
    let arrived = || to.space.link_counter(&to.dev, "rx", "packets");
    let before = arrived()?;
    let start = Instant::now();
    while start.elapsed() < time {
        sender.send_all(&frames)?;
    }
    let elapsed = start.elapsed();
    // What is still in queues would have to be waited for; it is the same on both sides of the comparison.
    Ok((arrived()? - before) as f64 / elapsed.as_secs_f64())
}

/// A rate with a unit that keeps it short.
pub(crate) fn human(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.2} M/s", rate / 1e6) } else { format!("{:.1} k/s", rate / 1e3) }
}
