//! What the bridge learns before frames come.

use std::{io::Write as _, sync::atomic::Ordering, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xbr_tests::{
    bpf::generator::{Generator, Vary},
    frame::{BROADCAST, Frame, Mac, Tag},
    packet::Sender,
};

use super::{
    case::{Vlans, Work},
    stage::{SOURCE, Stage, VLAN, out, target},
};

impl Stage {
    /// Lets the bridge learn where everybody is.
    pub(crate) fn teach(&self) -> Result<()> {
        let tagged = |frame: Frame, tagged| if tagged { frame.tag(Tag::q(VLAN)).bytes() } else { frame.bytes() };
        let vlans = self.work.vlans();
        let bytes = |mac: Mac| tagged(Frame::new(mac, BROADCAST), vlans == Vlans::Push);
        let first = tagged(Frame::new(SOURCE, BROADCAST), vlans == Vlans::Pop);
        Sender::open(&self.source, "eth0")?.send(&first)?;
        let Work::Frames(frames) = self.work else {
            return Sender::open(&self.target, "eth0")?.send(&bytes(target(0)));
        };
        if !frames.known {
            return Ok(());
        }
        if let Some(tap) = &self.tap {
            // virtio_net_hdr: nothing is left to do.
            let frame = [vec![0; 10], bytes(target(0))].concat();
            return (&**tap).write_all(&frame).context("write to the tap");
        }
        if frames.ports == 1 && frames.addresses > 1 {
            // They do not age while it is measured.
            return if self.taught.swap(true, Ordering::Relaxed) { Ok(()) } else { self.teach_many(frames.addresses) };
        }
        (0..frames.ports)
            .try_for_each(|number| Sender::open(&self.target, &format!("eth{number}"))?.send(&bytes(target(number))))
    }

    /// Frames from `count` addresses behind the first port.
    fn teach_many(&self, count: u32) -> Result<()> {
        self.host().cmd(&format!("ethtool -K {} gro on", out(0)))?;
        let frame = Frame::new(target(0), SOURCE).bytes();
        self.target.enter(|| crowd("eth0", &frame, count))??;
        let learnt = self.learnt()?;
        ensure!(learnt >= count as usize, "the bridge has learnt {learnt} of {count} addresses");
        Ok(())
    }

    /// Entries of the FDB that belong to targets.
    fn learnt(&self) -> Result<usize> {
        let text = self.host().cmd("bridge fdb show br br0")?;
        Ok(text.lines().filter(|line| line.starts_with("02:bb:") && line.contains("master br0")).count())
    }
}

/// Sends frames from `count` addresses out of a device of this thread's namespace, in parts that the queue at its other end can
/// hold.
pub(crate) fn crowd(device: &str, frame: &[u8], count: u32) -> Result<()> {
    let generator = Generator::new(device, frame, Vary::Source(count))?;
    // Twice: a frame that was lost the first time is not the second time.
    for _ in 0..2 {
        let mut left = count;
        while left > 0 {
            let part = left.min(100_000);
            generator.run(part)?;
            left -= part;
            sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
