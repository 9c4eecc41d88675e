//! Which key does what: one table for the dispatch, the help page and the footer.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    Suspend,
    Help,
    NextSort,
    PreviousSort,
    Reverse,
    Pause,
    Slower,
    Faster,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Filter,
    Details,
    Back,
}

/// The keys of one command, how the help page calls them, and what it says.
struct Binding {
    keys: &'static [KeyCode],
    command: Command,
    label: &'static str,
    help: &'static str,
}

const fn bind(keys: &'static [KeyCode], command: Command, label: &'static str, help: &'static str) -> Binding {
    Binding { keys, command, label, help }
}

const BINDINGS: &[Binding] = &[
    bind(&[KeyCode::Char('q')], Command::Quit, "q, Ctrl-C", "quit"),
    bind(&[KeyCode::Char('h'), KeyCode::Char('?'), KeyCode::F(1)], Command::Help, "h, ?", "this page"),
    bind(
        &[KeyCode::Char('s'), KeyCode::F(6), KeyCode::Char('>')],
        Command::NextSort,
        "s, F6, >",
        "sort by the next column",
    ),
    bind(&[KeyCode::Char('<')], Command::PreviousSort, "<", "sort by the column before"),
    bind(&[KeyCode::Char('r')], Command::Reverse, "r", "reverse the order"),
    bind(&[KeyCode::Char(' ')], Command::Pause, "space", "pause and go on"),
    bind(&[KeyCode::Char('+')], Command::Slower, "+", "longer interval"),
    bind(&[KeyCode::Char('-')], Command::Faster, "-", "shorter interval"),
    bind(&[KeyCode::Char('j'), KeyCode::Down], Command::Down, "j, down", "next port"),
    bind(&[KeyCode::Char('k'), KeyCode::Up], Command::Up, "k, up", "previous port"),
    bind(&[KeyCode::PageDown], Command::PageDown, "PgDn", "one page down"),
    bind(&[KeyCode::PageUp], Command::PageUp, "PgUp", "one page up"),
    bind(&[KeyCode::Home, KeyCode::Char('g')], Command::First, "Home, g", "first port"),
    bind(&[KeyCode::End, KeyCode::Char('G')], Command::Last, "End, G", "last port"),
    bind(
        &[KeyCode::Char('/'), KeyCode::Char('\\'), KeyCode::F(4)],
        Command::Filter,
        "/",
        "show only bridges, ports and hooks that contain a text",
    ),
    bind(&[KeyCode::Char('d'), KeyCode::Enter], Command::Details, "d, Enter", "all reasons of the selected port"),
    bind(&[KeyCode::Esc], Command::Back, "Esc", "close this page or the details, then drop the filter"),
];

/// The command that a key stands for, outside of the filter's input line.
pub(super) fn command(key: KeyEvent) -> Option<Command> {
    if let Some(command) = control(key) {
        return Some(command);
    }
    if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        return None;
    }
    BINDINGS.iter().find(|binding| binding.keys.contains(&key.code)).map(|binding| binding.command)
}

/// What works everywhere, in the input line too. The terminal is in raw mode: these keys raise no signals.
pub(super) fn control(key: KeyEvent) -> Option<Command> {
    if !key.modifiers.contains(KeyModifiers::CONTROL) {
        return None;
    }
    if key.code == KeyCode::Char('c') {
        Some(Command::Quit)
    } else if key.code == KeyCode::Char('z') {
        Some(Command::Suspend)
    } else {
        None
    }
}

/// The lines of the help page: keys and what they do.
pub(super) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    BINDINGS.iter().map(|binding| (binding.label, binding.help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_bound_twice() {
        let keys: Vec<_> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{key:?}");
        }
    }

    #[test]
    fn modifiers_count() {
        let press = |code, modifiers| command(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Command::Quit));
        assert_eq!(press(KeyCode::Char('z'), KeyModifiers::CONTROL), Some(Command::Suspend));
        assert_eq!(press(KeyCode::Char('d'), KeyModifiers::CONTROL), None);
        assert_eq!(press(KeyCode::Char('d'), KeyModifiers::NONE), Some(Command::Details));
        assert_eq!(press(KeyCode::Char('G'), KeyModifiers::SHIFT), Some(Command::Last));
        assert_eq!(press(KeyCode::Char('x'), KeyModifiers::NONE), None);
    }
}
