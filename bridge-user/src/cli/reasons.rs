//! `xbr reasons`: every name that the counters use, and what it means.

use bridge_common::reason::{Class, Reason};
use clap::Args;
use serde_json::json;

use super::{
    emit,
    format::{Align, Table},
};
use crate::{config::overrulable, error::Failure};

/// Options of `xbr reasons`.
#[derive(Debug, Args)]
pub(super) struct ReasonsArgs {
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

pub(super) fn execute(args: &ReasonsArgs) -> Result<(), Failure> {
    emit(&if args.json { as_json() } else { as_table() }).map(drop)
}

/// What becomes of frames that are counted under `class`.
fn class_name(class: Class) -> &'static str {
    match class {
        Class::Fast => "fast",
        Class::Slow => "slow",
        Class::Dropped => "dropped",
    }
}

fn as_table() -> String {
    let mut table = Table::new(&[("REASON", Align::Left), ("CLASS", Align::Left), ("MEANING", Align::Left)]);
    for reason in Reason::ALL {
        table.row(&[reason.name().into(), class_name(reason.class()).into(), reason.describe().trim().into()]);
    }
    table.render(0)
}

fn as_json() -> String {
    let list: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| {
            json!({
                "name": reason.name(),
                "class": class_name(reason.class()),
                "description": reason.describe().trim(),
                "overrulable": overrulable(*reason),
            })
        })
        .collect();
    format!("{}\n", json!({ "version": 1, "reasons": list }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once() {
        let table = as_table();
        assert_eq!(table.lines().count(), Reason::ALL.len() + 1);
        let mut lines = table.lines();
        assert_eq!(lines.next(), Some("REASON               CLASS    MEANING"));
        assert_eq!(lines.next(), Some("forwarded_tc         fast     Forwarded by the tc program."));
        let parsed: serde_json::Value = serde_json::from_str(&as_json()).unwrap();
        let list = parsed["reasons"].as_array().unwrap();
        assert_eq!(list.len(), Reason::ALL.len());
        let netfilter = list.iter().find(|reason| reason["name"] == "netfilter").unwrap();
        assert_eq!(netfilter["class"], "slow");
        assert_eq!(netfilter["overrulable"], true);
    }
}
