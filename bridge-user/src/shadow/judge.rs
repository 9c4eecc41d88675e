//! One frame: did the bridge do what the fast path would have done?

use std::fmt::Write as _;

use bridge_common::shadow::{Flight, HEAD, Sight, edit_kind};

/// What became of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement<'a> {
    /// One copy left, by the expected port, with the expected bytes.
    Agreed,
    /// Something else happened.
    Disagreed(Difference<'a>),
    /// Nobody could have seen it.
    Unknown,
}

/// Kinds of disagreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It left by another port, and not by the expected one.
    OtherPort,
    /// It left by the expected port, and differed.
    OtherBytes,
    /// It left by the expected port, and once more: there, by another port, or up to the bridge.
    ExtraCopy,
    /// It left by no port: dropped, taken by somebody else, or held back.
    NeverLeft,
    /// It went up to the bridge device and left by no port.
    WentUp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::OtherPort, Kind::OtherBytes, Kind::ExtraCopy, Kind::NeverLeft, Kind::WentUp];

    /// The published name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherPort => "other_port",
            Self::OtherBytes => "other_bytes",
            Self::ExtraCopy => "extra_copy",
            Self::NeverLeft => "never_left",
            Self::WentUp => "went_up",
        }
    }
}

/// How the bridge differed.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference<'a> {
    /// In which way.
    pub kind: Kind,
    /// The copy that shows it, if there is one.
    pub seen: Option<&'a Sight>,
    /// What differs between the copy that left by the expected port and what was expected.
    pub bytes: Option<String>,
}

/// Judges a flight. `watched`: whether what left the expected port was looked at all the time.
pub fn judge(flight: &Flight, watched: bool) -> Judgement<'_> {
    let differs = |kind, seen, bytes| Judgement::Disagreed(Difference { kind, seen, bytes });
    let strayed = flight.wrong + flight.up > 0;
    match flight.right {
        // Whatever else was seen, the copy that matters may have left unseen.
        0 if !watched => Judgement::Unknown,
        0 if flight.wrong > 0 => differs(Kind::OtherPort, Some(&flight.strayed), None),
        0 if flight.up > 0 => differs(Kind::WentUp, Some(&flight.strayed), None),
        0 => differs(Kind::NeverLeft, None, None),
        1 if !strayed => match difference(flight) {
            Compared::Same => Judgement::Agreed,
            Compared::Unreadable => Judgement::Unknown,
            Compared::Other(text) => differs(Kind::OtherBytes, Some(&flight.left), Some(text)),
        },
        _ => differs(Kind::ExtraCopy, Some(if strayed { &flight.strayed } else { &flight.left }), None),
    }
}

/// A frame as it would lie on the wire: the tag of the metadata is in the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Length of all of it in bytes.
    pub length: u32,
    /// Its first bytes.
    pub head: Vec<u8>,
}

impl Wire {
    /// A frame as it was seen.
    pub fn of(sight: &Sight) -> Self {
        Self::new(sight, (sight.tpid != 0).then_some((sight.tpid, sight.tci)))
    }

    /// The frame as the fast path would have sent it.
    pub fn expected(flight: &Flight) -> Self {
        let arrived = &flight.arrived;
        match flight.edit {
            edit_kind::PUSH | edit_kind::RETAG => Self::new(arrived, Some((flight.tpid, flight.tci))),
            edit_kind::POP => Self::new(arrived, None),
            _ => Self::of(arrived),
        }
    }

    fn new(sight: &Sight, tag: Option<(u16, u16)>) -> Self {
        let kept = HEAD.min(sight.len as usize);
        let mut head = sight.head[..kept].to_vec();
        let mut length = sight.len;
        if let Some((tpid, tci)) = tag
            && kept >= 12
        {
            let [p0, p1] = tpid.to_be_bytes();
            let [c0, c1] = tci.to_be_bytes();
            head.splice(12..12, [p0, p1, c0, c1]);
            length += 4;
        }
        head.truncate(HEAD);
        Self { length, head }
    }

    /// The first bytes in hexadecimal.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(2 * self.head.len());
        for byte in &self.head {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

enum Compared {
    Same,
    Unreadable,
    Other(String),
}

/// Compares the copy that left by the expected port with what was expected: length, the first bytes, a window further
/// behind, and how a super-frame will be cut.
fn difference(flight: &Flight) -> Compared {
    let (arrived, left) = (&flight.arrived, &flight.left);
    if arrived.complete == 0 || left.complete == 0 {
        return Compared::Unreadable;
    }
    let (expected, actual) = (Wire::expected(flight), Wire::of(left));
    if expected.length != actual.length {
        return Compared::Other(format!("{} bytes instead of {}", actual.length, expected.length));
    }
    if let Some(at) = (0..expected.head.len().min(actual.head.len())).find(|at| expected.head[*at] != actual.head[*at])
    {
        let (is, should) = (actual.head[at], expected.head[at]);
        return Compared::Other(format!("byte {at} is {is:02x} instead of {should:02x}"));
    }
    // With a tag in the bytes on one side alone the windows lie elsewhere; the heads and the length have been compared.
    if flight.window_at != 0 && arrived.len == left.len {
        let unlike = (0..arrived.window.len()).find(|at| arrived.window[*at] != left.window[*at]);
        if let Some(at) = unlike {
            let (is, should) = (left.window[at], arrived.window[at]);
            let at = flight.window_at as usize + at;
            return Compared::Other(format!("byte {at} (without the tag) is {is:02x} instead of {should:02x}"));
        }
    }
    let cut = |sight: &Sight| (sight.gso_size, sight.gso_segs);
    if cut(arrived) != cut(left) {
        return Compared::Other(format!(
            "to be cut into {} segments of {} bytes instead of {} of {}",
            left.gso_segs, left.gso_size, arrived.gso_segs, arrived.gso_size
        ));
    }
    Compared::Same
}

/// What the fast path would have done to the tag.
pub fn tag_change(flight: &Flight) -> String {
    let vid = flight.tci & 0x0fff;
    match flight.edit {
        edit_kind::PUSH => format!("push VLAN {vid}"),
        edit_kind::POP => "pop".to_owned(),
        edit_kind::RETAG => format!("retag to VLAN {vid}"),
        _ => "keep".to_owned(),
    }
}

impl Difference<'_> {
    /// One sentence without a full stop.
    pub fn describe(&self, flight: &Flight, expected: &str, actual: Option<&str>) -> String {
        let actual = actual.unwrap_or("nowhere");
        match self.kind {
            Kind::OtherPort => format!("left by {actual} instead of {expected}"),
            Kind::OtherBytes => format!("left by {expected} with {}", self.bytes.as_deref().unwrap_or("other bytes")),
            Kind::ExtraCopy if flight.right > 1 => format!("left by {expected} {} times", flight.right),
            Kind::ExtraCopy if flight.wrong == 0 => format!("left by {expected}, and went up to {actual} as well"),
            Kind::ExtraCopy => format!("left by {expected}, and by {actual} as well"),
            Kind::NeverLeft => format!("left by no port instead of {expected}"),
            Kind::WentUp => format!("went up to {actual} instead of leaving by {expected}"),
        }
    }
}
