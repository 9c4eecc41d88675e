//! The course of a dump, message by message, without a socket.

use netlink_packet_core::{NLM_F_MULTIPART, NLMSG_NOOP};

use super::*;
use crate::netlink::wire::tests::message;

/// The sequence number that [`message`] gives.
const SEQUENCE: u32 = 7;
const OBJECT: u16 = 16;

/// What a dump of these messages comes to: the number of objects, or the error.
fn dump(parts: &[Vec<u8>]) -> std::result::Result<(usize, Progress), Malformed> {
    let datagram = parts.concat();
    let (mut objects, mut progress) = (0, Progress::new(SEQUENCE));
    for message in messages(&datagram) {
        progress.take(&message?, |_| objects += 1)?;
    }
    Ok((objects, progress))
}

fn object(flags: u16) -> Vec<u8> {
    message(OBJECT, NLM_F_MULTIPART | flags, &[0; 16])
}

fn done(status: i32) -> Vec<u8> {
    message(NLMSG_DONE, NLM_F_MULTIPART, &status.to_ne_bytes())
}

#[test]
fn a_dump_ends_with_done() {
    let (objects, progress) = dump(&[object(0), object(0)]).unwrap();
    assert!(objects == 2 && progress.end.is_none() && progress.consistent);
    let (objects, progress) = dump(&[object(0), done(0), object(0)]).unwrap();
    assert!(objects == 1 && progress.end == Some(Ok(())) && progress.consistent, "nothing counts after the end");
}

#[test]
fn an_interruption_is_seen_in_any_message_of_the_dump() {
    let interrupted_end = message(NLMSG_DONE, NLM_F_MULTIPART | NLM_F_DUMP_INTR, &[0; 4]);
    for parts in [
        vec![object(NLM_F_DUMP_INTR), object(0), done(0)],
        vec![object(0), object(NLM_F_DUMP_INTR), done(0)],
        vec![object(0), interrupted_end],
        vec![object(0), message(NLMSG_OVERRUN, 0, &[]), done(0)],
    ] {
        let progress = dump(&parts).unwrap().1;
        assert!(!progress.consistent && progress.end == Some(Ok(())));
    }
}

#[test]
fn other_exchanges_and_empty_messages_count_for_nothing() {
    let mut foreign = [object(NLM_F_DUMP_INTR), done(-libc::EPERM)].concat();
    for at in [8, 8 + 32] {
        foreign[at] = 6;
    }
    let (objects, progress) = dump(&[foreign, message(NLMSG_NOOP, 0, &[]), object(0), done(0)]).unwrap();
    assert!(objects == 1 && progress.consistent && progress.end == Some(Ok(())));
}

#[test]
fn a_refusal_ends_a_dump_and_an_end_without_status_is_malformed() {
    for kind in [NLMSG_DONE, NLMSG_ERROR] {
        let refused = message(kind, 0, &(-libc::EOPNOTSUPP).to_ne_bytes());
        let progress = dump(&[object(0), refused]).unwrap().1;
        let errno = progress.end.and_then(std::result::Result::err).map(|refusal| refusal.errno);
        assert_eq!(errno, Some(libc::EOPNOTSUPP));
        for length in 0..4 {
            assert!(dump(&[object(0), message(kind, 0, &vec![0; length])]).is_err(), "{kind}, {length} bytes");
        }
    }
}

#[test]
fn an_interrupted_dump_is_made_again_from_the_start() {
    let mut attempts = 0;
    let result = until_consistent("a test", || {
        attempts += 1;
        Ok((attempts == 3).then_some(attempts))
    });
    assert!(matches!(result, Ok(3)) && attempts == 3);
}

#[test]
fn a_dump_that_is_always_interrupted_is_an_error_after_some_attempts() {
    let mut attempts = 0;
    let result = until_consistent::<()>("a test", || {
        attempts += 1;
        Ok(None)
    });
    assert!(matches!(result, Err(NetlinkError::Interrupted { request: "a test" })) && attempts == ATTEMPTS);
    let result = until_consistent::<()>("a test", || {
        attempts += 1;
        Err(NetlinkError::Timeout { request: "a test" })
    });
    assert!(
        matches!(result, Err(NetlinkError::Timeout { .. })) && attempts == ATTEMPTS + 1,
        "errors are not tried again"
    );
}
