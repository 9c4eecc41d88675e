//! What a daemon says of itself, shown.

use super::render::render;
use crate::{status::Snapshot, top};

/// Shows a snapshot in every form. What somebody named may not reach the terminal as anything but text.
pub(crate) fn show(snapshot: Snapshot) {
    let snapshots = [snapshot];
    let mut texts = vec![render(&snapshots, false), render(&snapshots, true)];
    let [snapshot] = snapshots;
    texts.push(top::fuzz::show(snapshot));
    for text in texts {
        assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{text:?}");
    }
}
