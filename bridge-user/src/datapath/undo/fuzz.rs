//! Files in the run folder, as a dead instance or anybody else left them.

use super::{Record, merge};

/// Reads a file: what it says is read as it was written, and taking it over twice adds nothing.
pub fn read(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(record) = Record::parse(text) else { return };
    let written = serde_json::to_string(&record).expect("a record can be written");
    let again = Record::parse(&written).expect("a record that was written can be read");
    assert_eq!((&record.boot, record.netns_cookie, record.pid), (&again.boot, again.netns_cookie, again.pid));
    assert_eq!(record.devices, again.devices);
    let mut merged = Vec::new();
    for device in record.devices.iter().chain(&again.devices) {
        merge(&mut merged, device.clone());
    }
    for device in &record.devices {
        let known = merged.iter().filter(|known| known.ifindex == device.ifindex && known.name == device.name);
        assert!(known.map(|known| known.changes.is_superset(&device.changes)).eq([true]), "{device:?} in {merged:?}");
    }
    let before = merged.clone();
    assert!(!again.devices.into_iter().any(|device| merge(&mut merged, device)) && merged == before);
}
