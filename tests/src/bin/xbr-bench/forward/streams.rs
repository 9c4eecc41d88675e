//! Loads of TCP between two containers, both ends on the measured processor.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    load::{Load, Times, Worker},
    processor::Processor,
    stage::{Stage, TARGET_IP},
};

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A thread looks whether it should stop at least so often.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of one call.
const CHUNK: usize = 128 << 10;

/// A connection from the source to the target.
fn connect(stage: &Stage) -> Result<(TcpStream, TcpStream)> {
    let listener = stage.target.enter(|| TcpListener::bind(SocketAddr::from((TARGET_IP, 0))))?.context("listen")?;
    let address = listener.local_addr()?;
    let client = stage.source.enter(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    let client = client.context("the containers cannot connect")?;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
    }
    Ok((client, server))
}

/// Whether a call is to be made again, as it ran into its tick or a signal.
fn again(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Bytes in `count` streams, without end.
pub(crate) fn bulk(stage: &Stage, count: usize, processor: Processor) -> Result<Load> {
    let total = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::new();
    for _ in 0..count {
        let (mut client, mut server) = connect(stage)?;
        workers.push(Worker::start(&stage.source, processor, move |stop| {
            let chunk = vec![0x5a; CHUNK];
            until(stop, || client.write(&chunk).map(drop)).context("send TCP")
        })?);
        let total = Arc::clone(&total);
        workers.push(Worker::start(&stage.target, processor, move |stop| {
            let mut buffer = vec![0; CHUNK];
            until(stop, || {
                let length = server.read(&mut buffer)?;
                total.fetch_add(length as u64, Ordering::Relaxed);
                Ok(())
            })
            .context("receive TCP")
        })?);
    }
    let mut measured: Vec<i32> = workers.iter().map(|worker| worker.thread).collect();
    measured.push(processor.softirq_thread()?);
    let arrived = Box::new(move || Ok(total.load(Ordering::Relaxed)));
    Ok(Load { measured, beside: Vec::new(), arrived, workers, times: None })
}

/// Requests of one byte, each sent when the one before was answered.
pub(crate) fn requests(stage: &Stage, processor: Processor) -> Result<Load> {
    let (mut client, mut server) = connect(stage)?;
    let (total, times) = (Arc::new(AtomicU64::new(0)), Times::default());
    let answering = Worker::start(&stage.target, processor, move |stop| {
        while one_byte(&mut server, stop)? {
            server.write_all(&[1]).context("answer")?;
        }
        Ok(())
    })?;
    let (count, taken) = (Arc::clone(&total), Arc::clone(&times));
    let asking = Worker::start(&stage.source, processor, move |stop| {
        loop {
            let begin = Instant::now();
            client.write_all(&[1]).context("ask")?;
            if !one_byte(&mut client, stop)? {
                return Ok(());
            }
            let time = u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX);
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(time);
            count.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    let measured = vec![asking.thread, answering.thread, processor.softirq_thread()?];
    let arrived = Box::new(move || Ok(total.load(Ordering::Relaxed)));
    Ok(Load { measured, beside: Vec::new(), arrived, workers: vec![asking, answering], times: Some(times) })
}

/// Waits for a byte; false if it is time to stop, or the other side has ended.
fn one_byte(stream: &mut TcpStream, stop: &AtomicBool) -> Result<bool> {
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut [0]) {
            Ok(length) => return Ok(length == 1),
            Err(error) if again(&error) => {}
            // The other side ended while an answer was on its way.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error).context("receive TCP"),
        }
    }
    Ok(false)
}

/// Repeats a call until told to stop.
fn until(stop: &AtomicBool, mut call: impl FnMut() -> std::io::Result<()>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match call() {
            Err(error) if !again(&error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
