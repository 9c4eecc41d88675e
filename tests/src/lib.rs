//! A lab for xbr: real bridges in network namespaces, guests behind veth and tap, an uplink on a wire, traffic that is
//! numbered so that every frame can be accounted for, and a handle on the daemon under test.
//!
//! [`net`] builds the topology, [`frame`] and [`packet`] make and catch frames, [`traffic`] sends flows and keeps the
//! account, [`xbr`] runs the daemon, [`leak`] looks for what it left behind. Nothing here touches the namespace that
//! the process was started in.

pub mod bpf;
pub mod differential;
#[cfg(test)]
mod docs;
pub mod frame;
pub mod leak;
pub mod measure;
pub mod net;
pub mod netns;
pub mod ovs;
pub mod packet;
pub mod part;
pub mod probe;
pub mod rtnl;
pub mod setting;
pub mod tap;
pub mod traffic;
pub mod wait;
pub mod xbr;
