//! The terminal: taken over, given back in every way that the process can end, lent to the shell at Ctrl-Z.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Stdout},
    mem::ManuallyDrop,
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossterm::{
    cursor::{Hide, Show},
    event::{self, Event},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use nix::{
    errno::Errno,
    libc::c_int,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    },
    unistd::{Pid, alarm},
};
use ratatui::{Terminal, backend::CrosstermBackend};

use super::{app::App, view};

static END: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// The terminal, ours until dropped.
pub(super) struct Screen {
    /// Never dropped: its own `drop` panics when the terminal has gone and stderr with it. [`leave`] does what is needed.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
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
        let screen = Self { terminal: ManuallyDrop::new(Terminal::new(CrosstermBackend::new(io::stdout()))?) };
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

/// Keys and changes of the size, as long as there is a terminal behind them.
pub(super) struct Input {
    epoll: Epoll,
    /// Kept open for `epoll`.
    _tty: Option<File>,
}

impl Input {
    /// Reads from where crossterm reads: stdin if it is a terminal, else the controlling terminal.
    pub(super) fn open() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        let stdin = io::stdin();
        let tty = if stdin.is_terminal() {
            epoll.add(stdin, readable)?;
            None
        } else {
            let tty = File::options().read(true).write(true).open("/dev/tty")?;
            epoll.add(&tty, readable)?;
            Some(tty)
        };
        Ok(Self { epoll, _tty: tty })
    }

    /// What came in, after at most `patience`; a signal cuts it short. `None`: the terminal has hung up.
    ///
    /// crossterm is asked only after looking here: on a terminal that has hung up, it would read for ever.
    pub(super) fn events(&self, patience: Duration) -> io::Result<Option<Vec<Event>>> {
        let mut ready = [EpollEvent::empty()];
        let timeout = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::ZERO);
        let count = match self.epoll.wait(&mut ready, timeout) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        if count > 0 && ready[0].events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return Ok(None);
        }
        let mut events = Vec::new();
        while event::poll(Duration::ZERO)? {
            events.push(event::read()?);
        }
        Ok(Some(events))
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
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP] {
        handle(signal, SigHandler::Handler(note))?;
    }
    Ok(())
}

fn handle(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `note` stores into atomics and calls `alarm`, both of which a signal handler may do (signal-safety(7)).
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

extern "C" fn note(signal: c_int) {
    let flag = if signal == Signal::SIGTSTP as c_int { &STOP } else { &END };
    flag.store(true, Ordering::Relaxed);
    if signal == Signal::SIGHUP as c_int {
        // Should the terminal go while crossterm reads, this ends its endless loop. Nothing is left to be restored then.
        alarm::set(2);
    }
}
