//! The loop of the live view: keys, signals and samples in, frames out.

use std::{io, sync::mpsc::TryRecvError, time::Duration};

use crossterm::event::{Event, KeyEventKind};

use super::{
    TopArgs,
    app::{App, Effect},
    colours,
    sampler::Sampler,
    terminal::{Input, Screen, ended, stop_asked},
};
use crate::error::{Exit, Failure};

/// Longest time that a signal or a sample waits for being noticed.
const POLL: Duration = Duration::from_millis(50);

pub(super) fn run(args: &TopArgs) -> Result<(), Failure> {
    let sampler = Sampler::start(args.run_dir.path.clone(), args.delay);
    let mut app = App::new(args.bridge.clone(), args.sort, args.delay, colours());
    let broken = |reason: io::Error| {
        Failure::new(Exit::Failed, format!("cannot use the terminal: {reason}; xbr top -b needs none"))
    };
    let input = Input::open().map_err(broken)?;
    let mut screen = Screen::enter().map_err(broken)?;
    let mut redraw = true;
    loop {
        if redraw {
            screen.draw(&mut app).map_err(broken)?;
        }
        redraw = false;
        let mut stop = false;
        let Some(events) = input.events(POLL).map_err(broken)? else {
            // The terminal has gone, and with it whoever looked at it.
            return Ok(());
        };
        for event in events {
            redraw = true;
            let effect = match event {
                Event::Key(key) if key.kind != KeyEventKind::Release => app.key(key),
                Event::Key(_)
                | Event::Resize(..)
                | Event::FocusGained
                | Event::FocusLost
                | Event::Mouse(_)
                | Event::Paste(_) => Effect::Redraw,
            };
            match effect {
                Effect::Redraw => {}
                Effect::NewTick => sampler.set_tick(app.tick),
                Effect::Suspend => stop = true,
                Effect::Quit => return Ok(()),
            }
        }
        if ended() {
            return Ok(());
        }
        if stop_asked() || stop {
            screen.suspend().map_err(broken)?;
            redraw = true;
        }
        loop {
            match sampler.samples.try_recv() {
                Ok(Err(failure)) if failure.exit == Exit::Permission => return Err(failure),
                Ok(sample) => app.ingest(sample),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Failure::new(Exit::Failed, "the sampler has died")),
            }
            redraw = true;
        }
        if args.count.is_some_and(|count| app.intervals >= count) {
            return Ok(());
        }
    }
}
