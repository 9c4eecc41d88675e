//! `xbr run`: turns kernel events into table writes, keeps the lease, and answers questions.

mod gone;
mod lock;
mod shadow;
mod snapshot;
mod world;

use std::time::{Duration, Instant};

use aya_log::EbpfLogger;
use log::{info, warn};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::world::World;
use crate::{
    bypass::Watch,
    config::RunConfig,
    error::{Exit, Failure},
    ipc,
    netlink::Events,
};

/// How often the lease is renewed and cancelled entries are asked about.
const RENEW: Duration = Duration::from_millis(250);
/// How often the policy that sends no events is looked for.
const POLL: Duration = Duration::from_secs(1);

/// How long a question may wait for events that come without a pause. The lease is not renewed meanwhile.
const CATCH_UP: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT; on return, nothing is attached any more.
pub fn run(config: RunConfig) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start the event loop: {error}")))?
        .block_on(serve(config))
}

async fn serve(config: RunConfig) -> Result<(), Failure> {
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let events = Events::new().map_err(|error| failed("subscribe to netlink events", &error))?;
    let mut world = World::new(config, events)?;
    let mut watch = Watch::new();
    if !world.listen(&watch) {
        hurry();
    }
    let server = ipc::Server::bind(world.run_dir())
        .map_err(|error| failed(&format!("open a socket in {}", world.run_dir().display()), &error))?;
    let (queries, mut asked) = mpsc::channel(16);
    let answers = tokio::spawn(server.serve(queries));
    let told = world.programs.logger.take().map(|logger| tokio::spawn(tell(logger)));
    world.start();

    let mut renew = interval(RENEW);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Before the events, which come without a pause when a bridge is busy learning.
            _ = renew.tick() => world.renew(),
            () = watch.changed() => world.policy_changed(),
            _ = poll.tick() => world.poll(),
            Some(query) = asked.recv() => {
                catch_up(&mut world);
                query.answer(world.snapshot());
            }
            heard = world.events.next() => world.hear(heard),
        }
        world.settle();
    }
    info!("stopping: taking the programs off");
    world.stop();
    answers.abort();
    if let Some(told) = told {
        told.abort();
    }
    if let Err(error) = answers.await
        && error.is_panic()
    {
        warn!("the status socket had stopped answering: {error}");
    }
    Ok(())
}

/// Deals with what the kernel has announced up to now, so that an answer tells of a change that was made before the question.
fn catch_up(world: &mut World) {
    let start = Instant::now();
    while start.elapsed() < CATCH_UP {
        let heard = world.events.there();
        if matches!(&heard, Ok(batch) if batch.is_empty()) {
            break;
        }
        world.hear(heard);
        world.settle();
    }
    world.settle_all();
}

/// Passes on what the programs log.
async fn tell(logger: EbpfLogger<&'static dyn log::Log>) {
    // SAFETY: the logger owns its descriptor: open until it is dropped, and always the same.
    let mut logger = match unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) } {
        Ok(logger) => logger,
        Err(error) => return warn!("the log of the BPF programs cannot be read: {}", std::io::Error::from(error)),
    };
    while let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// Where nothing is taken away inside the kernel, old tables count for as long as the scheduler lets this process wait on a
/// busy machine. So it goes ahead of others, unless somebody has chosen a priority for it.
fn hurry() {
    const NICE: i32 = -15;
    // SAFETY: system calls on this process, without pointers.
    let refused =
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) == 0 && libc::setpriority(libc::PRIO_PROCESS, 0, NICE) != 0 };
    if refused {
        warn!(
            "cannot take priority {NICE}: {}; on a busy machine changes are followed late",
            std::io::Error::last_os_error()
        );
    }
}

fn catch(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| failed("catch signals", &error))
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {what}: {error}"))
}
