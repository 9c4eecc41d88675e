use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    cli::fixture::{port, snapshot},
    error::{Exit, Failure},
    ipc::Answers,
};

/// An app with one interval of traffic.
fn app() -> App {
    let mut app = App::new(None, Column::InPackets, Duration::from_secs(1), false);
    app.ingest(Ok(Answers { snapshots: vec![snapshot()], silent: Vec::new() }));
    let mut later = snapshot();
    later.at_nanoseconds += 1_000_000_000;
    let ports = &mut later.bridges[0].ports;
    let reasons = [("forwarded_tc", 234_567), ("forwarded_xdp", 1_099_000), ("refresh", 1700), ("broadcast", 140)];
    ports[0] = port("eth0", 2, "xdp+tcx", &reasons, 5500);
    ports[0].hook_why = "a physical NIC".into();
    later.warnings.clear();
    app.ingest(Ok(Answers { snapshots: vec![later], silent: Vec::new() }));
    app
}

fn draw(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(app, frame.area(), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn press(app: &mut App, key: char) {
    app.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
}

#[test]
fn at_80x24_everything_is_there() {
    let text = draw(&mut app(), 80, 24);
    let expected = "\
xbr 0.1.0, up 1h 02m, fast path on, 3 ports, 2 accelerated, fdb 42/65536
every 1s
 BRIDGE  PORT     HOOK    vIN_PPS  IN_b/s  OUT_PPS  OUT_b/s  FAST% SLOW_BY_REASO
>br0     eth0     xdp+tcx    100k   80.0M      500     400k  99.0% refresh 900 ~
 br0     tap100i0 tcx           0       0        0        0      -
 br0     tap3     tcx           0       0        0        0      - !tc_filter (~
";
    assert!(text.starts_with(expected), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 24);
    assert_eq!(lines[22], "         TOTAL               100k   80.0M      500     400k  99.0% refresh 900 ~");
    assert_eq!(lines[23], "q quit  h help  s sort  r reverse  space pause  +/- tick  / filter  d details");
}

#[test]
fn at_120x40_reasons_have_room() {
    let text = draw(&mut app(), 120, 40);
    assert!(text.contains("99.0% refresh 900 broadcast 100"), "{text}");
    assert!(text.contains("- !tc_filter (ingress qdisc, u32 police)"), "{text}");
    assert_eq!(text.lines().count(), 40);
}

#[test]
fn at_40x10_what_matters_most_stays() {
    let text = draw(&mut app(), 40, 10);
    let expected = "\
xbr 0.1.0, up 1h 02m, fast path on, 3 po
every 1s
 PORT     vIN_PPS  FAST% SLOW_BY_REASON
>eth0        100k  99.0% refresh 900 br~
 tap100i0       0      -
 tap3           0      - !tc_filter (in~


 TOTAL       100k  99.0% refresh 900 br~
q quit  h help  s sort  r reverse  space";
    assert_eq!(text, expected);
}

#[test]
fn no_size_is_too_small() {
    for (width, height) in [(1, 1), (1, 24), (80, 1), (2, 2), (5, 3), (14, 4), (80, 5), (10, 6), (300, 100)] {
        for keys in ["", "d", "h", "/", "/x", " d", "jd"] {
            let mut app = app();
            keys.chars().for_each(|key| press(&mut app, key));
            draw(&mut app, width, height);
        }
        let mut empty = App::new(None, Column::Port, Duration::from_millis(250), true);
        draw(&mut empty, width, height);
    }
    assert_eq!(draw(&mut app(), 1, 1), "x");
}

#[test]
fn details_show_every_reason_with_its_rate() {
    let mut app = app();
    press(&mut app, 'd');
    let text = draw(&mut app, 80, 24);
    let expected = "\
-- br0/eth0 --------------------------------------------------------------------
state forwarding, hook xdp+tcx: a physical NIC
   PPS        PACKETS  REASON               MEANING
 99.0k        1099000  forwarded_xdp        Forwarded by the XDP program.
   900           1700  refresh              One frame in a while goes to the bri
   100            140  broadcast            Broadcast destination.
     0         234567  forwarded_tc         Forwarded by the tc program.
";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("\n         TOTAL "), "{text}");
    press(&mut app, 'j');
    press(&mut app, 'j');
    let text = draw(&mut app, 80, 10);
    assert!(text.contains("\nNOT ACCELERATED: tc_filter (ingress qdisc, u32 police)\n"), "{text}");
}

#[test]
fn the_second_line_tells_what_is_special() {
    let mut app = app();
    for key in "/tap".chars() {
        press(&mut app, key);
    }
    assert!(draw(&mut app, 80, 24).ends_with("filter: tap_   Enter keeps it, Esc drops it"));
    app.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
    app.ingest(Ok(Answers { snapshots: vec![snapshot()], silent: vec!["pid 7 hangs".into()] }));
    press(&mut app, ' ');
    let text = draw(&mut app, 100, 24);
    let line = text.lines().nth(1).unwrap();
    assert_eq!(line, "PAUSED   every 1s   filter \"tap\"   ! pid 7 hangs (and 1 more: xbr status)");
}

#[test]
fn waiting_is_said_and_wrapped() {
    let mut app = app();
    app.ingest(Err(Failure::new(Exit::NoDaemon, "no daemon serves this network namespace in /run/xbr")));
    let text = draw(&mut app, 40, 10);
    assert!(text.contains("\nwaiting for a daemon: no daemon serves\nthis network namespace in /run/xbr\n"), "{text}");
}

#[test]
fn help_lists_the_keys() {
    let mut app = app();
    press(&mut app, '?');
    let text = draw(&mut app, 120, 40);
    assert!(text.contains("\n  space      pause and go on\n"), "{text}");
    assert!(text.contains("!reason: the port is not accelerated"), "{text}");
    press(&mut app, 'h');
    assert!(!draw(&mut app, 120, 40).contains("pause and go on"));
}

#[test]
fn colour_is_never_alone() {
    let mut plain = app();
    let mut coloured = app();
    coloured.colours = true;
    assert_eq!(draw(&mut plain, 100, 20), draw(&mut coloured, 100, 20));
    let mut terminal = Terminal::new(TestBackend::new(100, 20)).unwrap();
    terminal.draw(|frame| render(&mut plain, frame.area(), frame.buffer_mut())).unwrap();
    assert!(terminal.backend().buffer().content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}
