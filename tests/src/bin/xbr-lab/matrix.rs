//! Who can reach whom.

use std::{fmt::Write as _, thread, time::Duration};

use anyhow::{Result, anyhow};
use xbr_tests::traffic::ping;

use crate::topology::{Lab, Member};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often a machine is asked before it counts as unreachable.
const TRIES: u16 = 2;

/// The result of pings from every member to every other.
pub(crate) struct Matrix {
    names: Vec<(String, u16)>,
    reached: Vec<Vec<bool>>,
}

impl Matrix {
    /// Pings all pairs, both ways.
    pub(crate) fn measure(lab: &Lab) -> Result<Self> {
        let pair = |from: &Member, to: &Member| -> Result<bool> {
            for _ in 0..TRIES {
                if to.guest.name != from.guest.name && ping(&from.guest, to.guest.ip, 1, PATIENCE)? > 0 {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        // All pairs at once: the silence between tenants is waited for only once.
        let reached: Result<Vec<Vec<bool>>> = thread::scope(|scope| {
            let row = |from| lab.members.iter().map(|to| scope.spawn(move || pair(from, to))).collect::<Vec<_>>();
            let rows: Vec<_> = lab.members.iter().map(row).collect();
            let join = |thread: thread::ScopedJoinHandle<Result<bool>>| {
                thread.join().map_err(|_panic| anyhow!("a pinging thread panicked"))?
            };
            rows.into_iter().map(|row| row.into_iter().map(join).collect()).collect()
        });
        let names = lab.members.iter().map(|member| (member.guest.name.clone(), member.tenant)).collect();
        Ok(Self { names, reached: reached? })
    }

    /// Pairs that reached each other across tenants, and pairs of one tenant that did not.
    pub(crate) fn wrong(&self) -> (Vec<String>, Vec<String>) {
        let (mut crossed, mut missing) = (Vec::new(), Vec::new());
        for (row, (from, here)) in self.names.iter().enumerate() {
            for (column, (to, there)) in self.names.iter().enumerate() {
                match (here == there, self.reached[row][column]) {
                    (false, true) => crossed.push(format!("{from} to {to}")),
                    (true, false) if row != column => missing.push(format!("{from} to {to}")),
                    _ => {}
                }
            }
        }
        (crossed, missing)
    }

    /// The picture: rows send, columns answer, a line between tenants.
    pub(crate) fn draw(&self) -> String {
        let mut text = format!("{:>12}", "");
        let mut tenant = None;
        let bar = |tenant: Option<u16>, next: u16| {
            if tenant.is_some_and(|last| last != next) { " │" } else { "" }
        };
        for (name, next) in &self.names {
            text.push_str(bar(tenant, *next));
            tenant = Some(*next);
            // Writing to a string cannot fail.
            let _ = write!(text, "{name:>7}");
        }
        let mut above = None;
        for (row, (from, here)) in self.names.iter().enumerate() {
            if above.is_some_and(|last| last != *here) {
                let _ = write!(text, "\n{:>12}{}", "", "─".repeat(7 * self.names.len() + 2));
            }
            above = Some(*here);
            let _ = write!(text, "\n{from:>12}");
            let mut left = None;
            for (column, (_, there)) in self.names.iter().enumerate() {
                text.push_str(bar(left, *there));
                left = Some(*there);
                let mark = match (row == column, here == there, self.reached[row][column]) {
                    (true, ..) => " ",
                    (false, true, true) => "✓",
                    (false, true, false) => "!",
                    (false, false, true) => "X",
                    (false, false, false) => "·",
                };
                let _ = write!(text, "{mark:>7}");
            }
        }
        text.push_str("\n    ✓ answered   · kept apart   ! no answer within a tenant   X crossed a tenant border");
        text
    }
}
