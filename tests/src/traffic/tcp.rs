//! A TCP stream between two guests, by their kernels' own stacks, with every byte checked.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{net::Guest, wait};

/// What is sent over and over; its length is no power of two, so that a lost or doubled segment shifts it.
const PATTERN: usize = 65_521;
/// How long a connection may take, and how long a stream may stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// A finished stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Bytes that arrived, all of them right.
    pub bytes: u64,
    /// From the connection's start to the last byte.
    pub time: Duration,
}

impl Stream {
    /// Megabits per second.
    pub fn megabits(&self) -> f64 {
        let bits = f64::from(u32::try_from(self.bytes / 1000).unwrap_or(u32::MAX)) * 8.0;
        bits / 1000.0 / self.time.as_secs_f64().max(1e-6)
    }
}

/// Sends `bytes` bytes from one guest to another; an error if they do not all arrive, in order and unchanged.
pub fn tcp(from: &Guest, to: &Guest, bytes: u64) -> Result<Stream> {
    let patience = PATIENCE * wait::slowness();
    let listener = to.space.enter(|| TcpListener::bind(SocketAddr::from((to.ip, 0))))?.context("listen")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || receive(&listener, patience));
    let start = Instant::now();
    let sent = from.space.enter(|| send(address, bytes, patience))?;
    if sent.is_err() {
        // Wakes a server that never got its connection.
        drop(to.space.enter(|| TcpStream::connect_timeout(&address, patience))?);
    }
    let received = server.join().map_err(|_panic| anyhow!("the receiving thread panicked"))?;
    let context = || format!("TCP from {} to {}", from.name, to.name);
    sent.with_context(context)?;
    let received = received.with_context(context)?;
    ensure!(received == bytes, "{}: {received} of {bytes} bytes arrived", context());
    Ok(Stream { bytes, time: start.elapsed() })
}

fn pattern() -> Vec<u8> {
    (0..PATTERN).map(|index| u8::try_from((index * 31 + index / 251) % 256).unwrap_or(0)).collect()
}

fn send(address: SocketAddr, bytes: u64, patience: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, patience).context("connect")?;
    stream.set_write_timeout(Some(patience))?;
    let pattern = pattern();
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(PATTERN);
        stream.write_all(&pattern[..part]).context("write")?;
        left -= u64::try_from(part)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The other side closes when it has everything.
    stream.set_read_timeout(Some(patience * 4))?;
    drop(stream.read(&mut [0]));
    Ok(())
}

fn receive(listener: &TcpListener, patience: Duration) -> Result<u64> {
    let (mut stream, _peer) = listener.accept()?;
    stream.set_read_timeout(Some(patience))?;
    let pattern = pattern();
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0_u64;
    let mut at = 0;
    loop {
        let length = stream.read(&mut buffer).with_context(|| format!("read after {total} bytes"))?;
        if length == 0 {
            return Ok(total);
        }
        let mut left = &buffer[..length];
        while !left.is_empty() {
            let (part, rest) = left.split_at(left.len().min(PATTERN - at));
            ensure!(part == &pattern[at..at + part.len()], "wrong bytes at {total}");
            total += u64::try_from(part.len())?;
            at = (at + part.len()) % PATTERN;
            left = rest;
        }
    }
}
