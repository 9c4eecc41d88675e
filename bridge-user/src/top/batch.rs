//! Plain batches, as `top -b`: for pipes, logs and terminals that cannot move their cursor.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::Instant,
};

use log::warn;

use super::{
    TopArgs, app, batches,
    columns::Column,
    rates::{Row, Tracker, total},
};
use crate::{
    cli::{
        emit,
        format::{Align, Table},
        status::select,
    },
    error::Failure,
    ipc,
    status::Snapshot,
};

/// Prints batches. The first needs two readings, so it comes one interval after the start.
///
/// # Errors
/// No daemon answers at the start, or in the last batch; in between, a daemon may be restarted.
pub(super) fn run(args: &TopArgs) -> Result<(), Failure> {
    let wanted = batches(args, io::stdout().is_terminal());
    let mut tracker = Tracker::default();
    tracker.ingest(ask(args)?);
    let mut next = Instant::now();
    let mut done = 0;
    loop {
        next = (next + args.delay).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
        done += 1;
        let last = wanted.is_some_and(|wanted| done >= wanted);
        match ask(args) {
            Ok(snapshots) => {
                tracker.ingest(snapshots);
                let separator = if done > 1 { "\n" } else { "" };
                if !emit(&format!("{separator}{}", text(&tracker, args.sort)))? {
                    return Ok(());
                }
            }
            Err(failure) if last => return Err(failure),
            Err(failure) => {
                tracker.ingest(Vec::new());
                warn!("{failure}");
            }
        }
        if last {
            return Ok(());
        }
    }
}

fn ask(args: &TopArgs) -> Result<Vec<Snapshot>, Failure> {
    let snapshots = ipc::snapshots(&args.run_dir.path)?;
    match &args.bridge {
        Some(bridge) => select(snapshots, bridge),
        None => Ok(snapshots),
    }
}

/// One batch: the header, the table, the total.
pub(super) fn text(tracker: &Tracker, sort: Column) -> String {
    let snapshots: Vec<_> = tracker.snapshots().collect();
    let mut rows = tracker.rows();
    rows.sort_by(|one, other| sort.order(one, other, false));
    let accelerated = rows.iter().filter(|row| row.port.ready()).count();
    let interval = tracker.interval().map_or_else(|| "-".into(), |seconds| format!("{seconds:.2} s"));
    let header = app::header(&snapshots, rows.len(), accelerated);
    format!("{header}, interval {interval}\n{}", table(&rows))
}

fn table(rows: &[Row]) -> String {
    let columns =
        Column::ALL.map(|column| (column.title(), if column.is_number() { Align::Right } else { Align::Left }));
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(&Column::ALL.map(|column| column.cell(row)));
    }
    let total = total(rows.iter());
    // In the first column here, where a line can be picked by its first word.
    let cells = Column::ALL.map(|column| match column {
        Column::Bridge => "TOTAL".into(),
        Column::Port | Column::Hook => "-".into(),
        Column::InPackets | Column::InBits | Column::OutPackets | Column::OutBits | Column::Fast | Column::Slow => {
            column.total_cell(total.as_ref())
        }
    });
    table.row(&cells);
    table.render(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::{port, snapshot};

    #[test]
    fn a_batch_is_a_table_with_a_total() {
        let mut tracker = Tracker::default();
        tracker.ingest(vec![snapshot()]);
        let mut later = snapshot();
        later.at_nanoseconds += 500_000_000;
        let ports = &mut later.bridges[0].ports;
        ports[0] = port(
            "eth0",
            2,
            "xdp+tcx",
            &[("forwarded_tc", 234_567), ("forwarded_xdp", 1_049_500), ("refresh", 1300), ("broadcast", 40)],
            5000,
        );
        ports[2].slow.packets += 100;
        *ports[2].reasons.get_mut("tc_filter").unwrap() += 100;
        ports.push(port("veth1", 30, "tcx", &[], 0));
        tracker.ingest(vec![later]);
        let expected = "\
xbr 0.1.0, up 1h 02m, fast path on, 4 ports, 3 accelerated, fdb 42/65536, interval 0.50 s
BRIDGE  PORT      HOOK     IN_PPS  IN_b/s  OUT_PPS  OUT_b/s  FAST%  SLOW_BY_REASON
br0     eth0      xdp+tcx    100k   80.0M        0        0  99.0%  refresh 1.00k
br0     tap3      tcx         200       0        0        0   0.0%  !tc_filter (ingress qdisc, u32 police)
br0     tap100i0  tcx           0       0        0        0      -
br0     veth1     tcx           -       -        -        -      -
TOTAL   -         -          100k   80.0M        0        0  98.8%  refresh 1.00k tc_filter 200
";
        assert_eq!(text(&tracker, Column::InPackets), expected);
    }

    #[test]
    fn without_ports_there_is_a_heading_and_a_total() {
        let text = text(&Tracker::default(), Column::Port);
        assert!(text.starts_with("xbr: no daemon, interval -\nBRIDGE"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
