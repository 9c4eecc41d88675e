//! The terminal: taken over, given back in every way that the process can end, lent to the shell at Ctrl-Z.

use std::{
    io::{self, Stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, Show},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use nix::{
    libc::c_int,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};
use ratatui::{Terminal, backend::CrosstermBackend};

use super::{app::App, view};

static END: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// The terminal, ours until dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over and sees to it that a panic and signals give it back.
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // Before the message, or it would go away with the screen.
                leave();
                previous(info);
            }));
        });
        catch_signals()?;
        // Made first: when taking over fails half-way, it gives back.
        let screen = Self {
            terminal: Terminal::new(CrosstermBackend::new(io::stdout()))?,
        };
        take()?;
        Ok(screen)
    }

    /// Draws.
    pub(super) fn draw(&mut self, app: &mut App) -> io::Result<()> {
        self.terminal.draw(|frame| {
            let area = frame.area();
            view::render(app, area, frame.buffer_mut());
        })?;
        Ok(())
    }

    /// Gives the terminal back, stops the process as the shell expects it, and takes it over again when it goes on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        handle(Signal::SIGTSTP, SigHandler::SigDfl)?;
        // The whole process group, as the terminal driver does: a script that started us stops with us.
        kill(Pid::from_raw(0), Signal::SIGTSTP)?;
        handle(Signal::SIGTSTP, SigHandler::Handler(note))?;
        take()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether a signal asked for the end.
pub(super) fn ended() -> bool {
    END.load(Ordering::Relaxed)
}

/// Whether a signal asked to stop for a while; asks once.
pub(super) fn stop_asked() -> bool {
    STOP.swap(false, Ordering::Relaxed)
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Hide)
}

/// Safe to call twice. Errors are ignored: the terminal may have gone away.
fn leave() {
    drop(execute!(io::stdout(), Show, LeaveAlternateScreen));
    drop(disable_raw_mode());
}

fn catch_signals() -> io::Result<()> {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
    ] {
        handle(signal, SigHandler::Handler(note))?;
    }
    Ok(())
}

fn handle(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `note` only stores into atomics, which is allowed in a signal handler.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

extern "C" fn note(signal: c_int) {
    let flag = if signal == Signal::SIGTSTP as c_int {
        &STOP
    } else {
        &END
    };
    flag.store(true, Ordering::Relaxed);
}
