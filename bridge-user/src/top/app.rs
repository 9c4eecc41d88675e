//! The state of the live view: what was sampled, what is shown, and what the keys have changed. No terminal here.

#[cfg(test)]
mod tests;

use std::{ops::Range, time::Duration};

use crossterm::event::{KeyCode, KeyEvent};

use super::{
    columns::Column,
    keys::{self, Command},
    rates::{Rates, Row, Tracker, total},
};
use crate::{
    cli::{
        format::{plural, span},
        render::{fill, shadow::account},
        status::select,
    },
    error::Failure,
    ipc::Answers,
    status::{PortShadow, Snapshot},
};

/// The intervals that the keys step through, in milliseconds.
const TICKS: [u64; 10] = [100, 250, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000];
/// Longest filter.
const MAX_FILTER: usize = 64;

/// What the caller has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Draw.
    Redraw,
    /// Draw, and sample at the new tick.
    NewTick,
    /// Stop the process as Ctrl-Z does elsewhere.
    Suspend,
    /// End.
    Quit,
}

/// What is on the screen; a pause freezes it.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// About the daemons, one line.
    pub(super) header: String,
    /// Whether every daemon's fast path is on.
    pub(super) active: bool,
    /// What an operator should know, each one line.
    pub(super) notes: Vec<String>,
    /// Why there are no rows.
    pub(super) waiting: Option<String>,
    /// Every row.
    all: Vec<Row>,
    /// Those of `all` that pass the filter, sorted.
    pub(super) rows: Vec<Row>,
    /// The sum of `rows`.
    pub(super) total: Option<Rates>,
}

/// The live view.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own that a key turns")]
pub(super) struct App {
    bridge: Option<String>,
    tracker: Tracker,
    silent: Vec<String>,
    trouble: Option<String>,
    /// Intervals with rates so far.
    pub(super) intervals: u64,
    /// What is on the screen.
    pub(super) shown: Shown,
    /// Time between samples.
    pub(super) tick: Duration,
    /// Column that rows are sorted by.
    pub(super) sort: Column,
    /// Against the column's own order.
    pub(super) reversed: bool,
    /// The screen is frozen.
    pub(super) paused: bool,
    /// Text that a shown row contains, in lower case.
    pub(super) filter: String,
    /// Keys go to the filter.
    pub(super) editing: bool,
    /// The help page is open.
    pub(super) help: bool,
    /// The details are open.
    pub(super) details: bool,
    /// Whether colours are used.
    pub(super) colours: bool,
    selected: usize,
    /// Bridge and port that the selection stays with, once it was moved by hand.
    followed: Option<(String, String)>,
    offset: usize,
    page: usize,
}

impl App {
    /// A view that has not sampled yet.
    pub(super) fn new(bridge: Option<String>, sort: Column, tick: Duration, colours: bool) -> Self {
        let waiting = Some("asking the daemon …".to_owned());
        Self {
            bridge,
            tracker: Tracker::default(),
            silent: Vec::new(),
            trouble: None,
            intervals: 0,
            shown: Shown { active: true, waiting, header: "xbr".into(), ..Shown::default() },
            tick,
            sort,
            reversed: false,
            paused: false,
            filter: String::new(),
            editing: false,
            help: false,
            details: false,
            colours,
            selected: 0,
            followed: None,
            offset: 0,
            page: 1,
        }
    }

    /// Takes a sample, or the reason why there is none.
    pub(super) fn ingest(&mut self, sample: Result<Answers, Failure>) {
        let chosen = sample.and_then(|Answers { snapshots, silent }| match &self.bridge {
            Some(bridge) => Ok((select(snapshots, bridge)?, silent)),
            None => Ok((snapshots, silent)),
        });
        match chosen {
            Ok((snapshots, silent)) => {
                self.tracker.ingest(snapshots);
                self.silent = silent;
                self.trouble = None;
                self.intervals += u64::from(self.tracker.interval().is_some());
            }
            Err(failure) => {
                self.tracker.ingest(Vec::new());
                self.silent.clear();
                self.trouble = Some(failure.message);
            }
        }
        if !self.paused {
            self.refresh();
        }
    }

    /// The position of the selected row among those shown.
    pub(super) fn selected(&self) -> Option<usize> {
        (self.selected < self.shown.rows.len()).then_some(self.selected)
    }

    /// The rows that `height` lines have room for, scrolled so that the selected one is among them.
    pub(super) fn visible(&mut self, height: usize) -> Range<usize> {
        let count = self.shown.rows.len();
        self.page = height.max(1);
        self.offset = self.offset.min(count.saturating_sub(height));
        if self.selected < self.offset {
            self.offset = self.selected;
        } else if height > 0 && self.selected >= self.offset + height {
            self.offset = self.selected + 1 - height;
        }
        self.offset..count.min(self.offset + height)
    }

    /// Reacts to a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Effect {
        if self.editing {
            return match keys::control(key) {
                Some(command) => self.obey(command),
                None => self.edit(key.code),
            };
        }
        keys::command(key).map_or(Effect::Redraw, |command| self.obey(command))
    }

    fn obey(&mut self, command: Command) -> Effect {
        match command {
            Command::Quit => return Effect::Quit,
            Command::Suspend => return Effect::Suspend,
            Command::Slower => return self.change_tick(true),
            Command::Faster => return self.change_tick(false),
            Command::Help => self.help = !self.help,
            Command::Details => self.details = !self.details,
            Command::NextSort => self.sort = self.sort.neighbour(true),
            Command::PreviousSort => self.sort = self.sort.neighbour(false),
            Command::Reverse => self.reversed = !self.reversed,
            Command::Pause => self.paused = !self.paused,
            Command::Up => self.select(self.selected.saturating_sub(1)),
            Command::Down => self.select(self.selected + 1),
            Command::PageUp => self.select(self.selected.saturating_sub(self.page)),
            Command::PageDown => self.select(self.selected + self.page),
            Command::First => self.select(0),
            Command::Last => self.select(usize::MAX),
            Command::Filter => self.editing = true,
            Command::Back => self.back(),
        }
        if command == Command::Pause && !self.paused {
            self.refresh();
        } else {
            self.arrange();
        }
        Effect::Redraw
    }

    fn back(&mut self) {
        if self.help {
            self.help = false;
        } else if self.details {
            self.details = false;
        } else {
            self.filter.clear();
        }
    }

    fn edit(&mut self, code: KeyCode) -> Effect {
        if code == KeyCode::Enter {
            self.editing = false;
        } else if code == KeyCode::Esc {
            self.editing = false;
            self.filter.clear();
        } else if code == KeyCode::Backspace {
            self.filter.pop();
        } else if let KeyCode::Char(character) = code
            && self.filter.len() < MAX_FILTER
        {
            self.filter.extend(character.to_lowercase());
        }
        self.arrange();
        Effect::Redraw
    }

    fn change_tick(&mut self, slower: bool) -> Effect {
        let ticks = TICKS.map(Duration::from_millis);
        let next = if slower {
            ticks.iter().find(|tick| **tick > self.tick)
        } else {
            ticks.iter().rfind(|tick| **tick < self.tick)
        };
        match next {
            Some(tick) => {
                self.tick = *tick;
                Effect::NewTick
            }
            None => Effect::Redraw,
        }
    }

    fn select(&mut self, position: usize) {
        self.selected = position.min(self.shown.rows.len().saturating_sub(1));
        self.followed = self.shown.rows.get(self.selected).map(|row| (row.bridge.clone(), row.port.ifname.clone()));
    }

    /// Filters and sorts what is on the screen.
    fn arrange(&mut self) {
        let (sort, reversed) = (self.sort, self.reversed);
        let passes = |row: &&Row| {
            let hook = row.port.hook_and_device();
            let texts = [&row.bridge, &row.port.ifname, &hook];
            texts.iter().any(|text| text.to_lowercase().contains(&self.filter))
        };
        self.shown.rows = self.shown.all.iter().filter(passes).cloned().collect();
        self.shown.total = total(self.shown.rows.iter());
        self.shown.rows.sort_by(|one, other| sort.order(one, other, reversed));
        let is_followed = |row: &Row| {
            self.followed.as_ref().is_some_and(|(bridge, port)| *bridge == row.bridge && *port == row.port.ifname)
        };
        let position = self.shown.rows.iter().position(is_followed).unwrap_or(self.selected);
        self.selected = position.min(self.shown.rows.len().saturating_sub(1));
    }

    /// Puts what is known now on the screen.
    fn refresh(&mut self) {
        let snapshots: Vec<_> = self.tracker.snapshots().collect();
        let all = self.tracker.rows();
        let accelerated = all.iter().filter(|row| row.port.ready()).count();
        let mut notes = self.silent.clone();
        notes.extend(snapshots.iter().flat_map(|snapshot| &snapshot.warnings).cloned());
        let waiting = match &self.trouble {
            Some(trouble) => Some(format!("waiting for a daemon: {trouble}")),
            None if all.is_empty() => Some("no bridge port to show yet".into()),
            None => None,
        };
        self.shown = Shown {
            header: header(&snapshots, all.len(), accelerated),
            active: snapshots.iter().all(|snapshot| snapshot.running()),
            notes,
            waiting,
            all,
            ..Shown::default()
        };
        self.arrange();
    }
}

/// "xbr 0.1.0, up 3s, fast path on, 5 ports, 4 accelerated, fdb 42/65536".
pub(super) fn header(snapshots: &[&Snapshot], ports: usize, accelerated: usize) -> String {
    let Some(first) = snapshots.first() else {
        return "xbr: no daemon".into();
    };
    let daemons = if snapshots.len() == 1 { String::new() } else { format!(" ({} daemons)", snapshots.len()) };
    let suspended: Vec<_> =
        snapshots.iter().filter(|snapshot| !snapshot.running()).map(|snapshot| snapshot.pid.to_string()).collect();
    let mut shadows = PortShadow::default();
    snapshots.iter().filter_map(|snapshot| snapshot.shadow.as_ref()).for_each(|shadow| shadows.add(&shadow.total));
    let all_shadow = snapshots.iter().all(|snapshot| snapshot.shadow.is_some());
    let mode = if all_shadow { "shadow mode" } else { "fast path" };
    let path = match (suspended.as_slice(), all_shadow) {
        ([], true) => String::new(),
        ([], false) => " on".to_owned(),
        (pids, _) => format!(" SUSPENDED (pid {})", pids.join(", ")),
    };
    let fdb = snapshots.iter().flat_map(|snapshot| &snapshot.tables).filter(|table| table.name == "fdb").map(fill);
    let mut texts = vec![
        format!("xbr {}{daemons}", first.daemon),
        format!("up {}", span(first.uptime_seconds)),
        format!("{mode}{path}"),
        plural(ports, "port"),
        format!("{accelerated} {}accelerated", if all_shadow { "would be " } else { "" }),
    ];
    if snapshots.iter().any(|snapshot| snapshot.shadow.is_some()) {
        texts.push(account(&shadows));
    }
    texts.extend(fdb);
    texts.join(", ")
}
