//! Loads of frames: the generator, and UDP from a container.

use std::{
    fs::File,
    io::{self, Read as _},
    net::UdpSocket,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, poll};
use xbr_tests::bpf::{
    Attached,
    cells::Counter,
    generator::{Generator, Vary},
    steer,
};

use super::{
    case::{End, Frames, Work},
    load::{Load, Worker},
    processor::{Processor, first_in_first_out},
    stage::{PORT, Stage, TARGET_IP},
};

/// What counts at the end of a stage, as long as the stage is there.
pub(crate) struct Sink {
    _programs: Vec<Attached>,
    /// The count.
    pub(crate) counter: Arc<Counter>,
}

impl Sink {
    /// Puts it where the frames of this stage end. Where a tap or a socket is read, the reader counts.
    pub(crate) fn new(stage: &Stage) -> Result<Self> {
        type Attach = fn(&str, &Counter) -> Result<Attached>;
        let attach: Option<Attach> = match stage.work {
            Work::Frames(Frames { end: End::Drop, .. }) => Some(steer::xdp_sink),
            Work::Frames(Frames { end: End::Stack, .. }) | Work::Udp(..) => Some(steer::tc_sink),
            Work::Frames(Frames { end: End::Tap, .. }) | Work::Tcp(_) | Work::Requests => None,
        };
        let counter = Arc::new(Counter::new()?);
        let programs = stage.target.enter(|| {
            let all = attach.into_iter().flat_map(|attach| (0..stage.outs()).map(move |number| (attach, number)));
            all.map(|(attach, number)| attach(&format!("eth{number}"), &counter)).collect::<Result<Vec<_>>>()
        })??;
        Ok(Self { _programs: programs, counter })
    }
}

/// Frames that come in as from a NIC, without end.
pub(crate) fn from_nic(stage: &Stage, frames: &Frames, sink: &Sink, processor: Processor) -> Result<Load> {
    let vary = if frames.addresses > 1 && frames.known { Vary::Destination(frames.addresses) } else { Vary::Nothing };
    let bytes = Stage::frame(frames);
    let generator = stage.source.enter(|| Generator::new("eth0", &bytes, vary))??;
    let mut workers = vec![Worker::start(&stage.source, processor, move |stop| {
        while !stop.load(Ordering::Relaxed) {
            generator.run(u32::MAX)?;
        }
        Ok(())
    })?];
    let arrived: Box<dyn Fn() -> Result<u64>> = match &stage.tap {
        None => {
            let counter = Arc::clone(&sink.counter);
            Box::new(move || counter.sum())
        }
        Some(tap) => {
            let (tap, count) = (Arc::clone(tap), Arc::new(AtomicU64::new(0)));
            let counted = Arc::clone(&count);
            workers.push(Worker::start(stage.host(), processor, move |stop| {
                // Before the generator, or the queue would run over.
                first_in_first_out(0)?;
                read(&tap, &counted, stop)
            })?);
            Box::new(move || Ok(count.load(Ordering::Relaxed)))
        }
    };
    let measured = vec![stage.napi.context("no NAPI thread")?];
    let mut beside: Vec<i32> = workers.iter().map(|worker| worker.thread).collect();
    beside.push(processor.softirq_thread()?);
    Ok(Load { measured, beside, arrived, workers, times: None })
}

/// Reads a tap to the end of each burst and counts.
fn read(mut tap: &File, count: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match tap.read(&mut buffer) {
            Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Interrupted at the end.
                let _ = poll(&mut [PollFd::new(tap.as_fd(), PollFlags::POLLIN)], 50_u16);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read the tap"),
        }
    }
    Ok(())
}

/// UDP from one container to the other; the whole way is in the sender's thread.
pub(crate) fn udp(stage: &Stage, payload: usize, sink: &Sink, processor: Processor) -> Result<Load> {
    let worker = Worker::start(&stage.source, processor, move |stop| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).context("UDP socket")?;
        socket.connect((TARGET_IP, PORT)).context("UDP socket")?;
        let payload = vec![0x5a; payload];
        while !stop.load(Ordering::Relaxed) {
            match socket.send(&payload) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error).context("send UDP"),
            }
        }
        Ok(())
    })?;
    let counter = Arc::clone(&sink.counter);
    Ok(Load {
        measured: vec![worker.thread, processor.softirq_thread()?],
        beside: Vec::new(),
        arrived: Box::new(move || counter.sum()),
        workers: vec![worker],
        times: None,
    })
}
