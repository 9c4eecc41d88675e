use crossterm::event::KeyModifiers;

use super::*;
use crate::{cli::fixture::snapshot, error::Exit};

fn app() -> App {
    let mut app = App::new(None, Column::InPackets, Duration::from_secs(1), false);
    app.ingest(Ok(answers(10)));
    app
}

fn answers(second: u64) -> Answers {
    let mut snapshot = snapshot();
    snapshot.at_nanoseconds = second * 1_000_000_000;
    let eth0 = &mut snapshot.bridges[0].ports[0];
    eth0.slow.packets += second;
    *eth0.reasons.get_mut("refresh").unwrap() += second;
    Answers { snapshots: vec![snapshot], silent: Vec::new() }
}

fn press(app: &mut App, keys: &str) -> Effect {
    let mut effect = Effect::Redraw;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            other => KeyCode::Char(other),
        };
        effect = app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    effect
}

fn names(app: &App) -> Vec<&str> {
    app.shown.rows.iter().map(|row| row.port.ifname.as_str()).collect()
}

#[test]
fn the_filter_narrows_while_it_is_typed() {
    let mut app = app();
    press(&mut app, "/TAP");
    assert_eq!(names(&app), ["tap100i0", "tap3"]);
    press(&mut app, "q");
    assert!(names(&app).is_empty() && app.selected().is_none());
    press(&mut app, "\u{8}3\n");
    assert_eq!(names(&app), ["tap3"]);
    assert!(!app.editing);
    press(&mut app, "\u{1b}");
    assert_eq!(names(&app).len(), 3);
    let quit = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut app, "/");
    assert_eq!(app.key(quit), Effect::Quit);
}

#[test]
fn the_selection_follows_its_port() {
    let mut app = app();
    app.ingest(Ok(answers(11)));
    assert_eq!(names(&app), ["eth0", "tap100i0", "tap3"]);
    assert_eq!(app.selected(), Some(0));
    press(&mut app, "jjjj");
    assert_eq!(app.selected(), Some(2));
    press(&mut app, "r");
    assert_eq!(names(&app), ["tap100i0", "tap3", "eth0"]);
    assert_eq!(app.selected(), Some(1));
    press(&mut app, "gkG");
    assert_eq!(app.selected(), Some(2));
    assert_eq!(app.visible(2), 1..3);
    press(&mut app, "g");
    assert_eq!(app.visible(2), 0..2);
    assert_eq!(app.visible(0), 0..0);
}

#[test]
fn a_pause_freezes_the_screen_and_not_the_sampling() {
    let mut app = app();
    press(&mut app, " ");
    app.ingest(Ok(answers(11)));
    app.ingest(Ok(answers(12)));
    press(&mut app, "/eth\n");
    assert_eq!(names(&app), ["eth0"]);
    assert_eq!(app.shown.total, None);
    press(&mut app, " ");
    assert_eq!(app.shown.total.as_ref().unwrap().in_packets.to_bits(), 1.0_f64.to_bits());
    assert_eq!(app.intervals, 2);
}

#[test]
fn the_tick_steps_within_its_bounds() {
    let mut app = app();
    assert_eq!(press(&mut app, "+"), Effect::NewTick);
    assert_eq!(app.tick, Duration::from_secs(2));
    press(&mut app, "----------");
    assert_eq!(app.tick, Duration::from_millis(100));
    assert_eq!(press(&mut app, "-"), Effect::Redraw);
    app.tick = Duration::from_secs(3);
    press(&mut app, "-");
    assert_eq!(app.tick, Duration::from_secs(2));
}

#[test]
fn it_waits_for_a_daemon_and_takes_up_again() {
    let mut app = app();
    app.ingest(Err(Failure::new(Exit::NoDaemon, "nobody")));
    assert_eq!(app.shown.waiting.as_deref(), Some("waiting for a daemon: nobody"));
    assert_eq!(app.shown.header, "xbr: no daemon");
    assert_eq!(app.selected(), None);
    press(&mut app, "jG");
    app.ingest(Ok(answers(20)));
    assert_eq!(app.shown.waiting, None);
    assert_eq!(app.shown.total, None);
    app.bridge = Some("br7".into());
    app.ingest(Ok(answers(21)));
    assert!(app.shown.waiting.as_ref().unwrap().contains("\"br7\" is not served"));
}

#[test]
fn the_header_tells_of_all_daemons() {
    let (one, mut two) = (snapshot(), snapshot());
    two.pid = 7;
    assert_eq!(header(&[&one], 3, 2), "xbr 0.1.0, up 1h 02m, fast path on, 3 ports, 2 accelerated, fdb 42/65536");
    two.active = false;
    let both = header(&[&one, &two], 3, 2);
    assert!(both.starts_with("xbr 0.1.0 (2 daemons), up 1h 02m, fast path SUSPENDED (pid 7), "), "{both}");
}
