//! Messages of every length, in each way to receive them.

use crossproc::{Connection, ConnectionError, pipe, simplex};
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::{INLINE, pattern};

#[test]
fn messages_of_every_length_arrive_whole() {
    let (one, other) = pipe().unwrap();
    let mut buffer = vec![0xee; 3 * INLINE];
    for len in [
        0,
        1,
        2,
        63,
        64,
        65,
        4_095,
        65_536,
        65_537,
        200_000,
        425_984,
        INLINE - 1,
        INLINE,
        INLINE + 1,
        3 * INLINE - 1,
    ] {
        let sent = pattern(len, len);
        // Both ends are in this thread: one message has room, whatever its length.
        one.send(&sent).unwrap();
        assert_eq!(other.recv().unwrap(), sent[..], "{len} bytes by recv");
        other.send(&sent).unwrap();
        assert_eq!(one.recv_into(&mut buffer).unwrap(), len, "{len} bytes by recv_into");
        assert_eq!(buffer[..len], sent);
        one.send(&sent).unwrap();
        assert_eq!(other.recv().unwrap().into_vec(), sent, "{len} bytes as a vector");
    }
}

#[test]
fn two_gigabytes_are_a_message_and_more_are_none() {
    let (sender, receiver) = simplex().unwrap();
    // The message is of zeros, which take no memory here.
    let mut long = vec![0; Connection::MAX_LEN + 1];
    match sender.send(&long) {
        Err(ConnectionError::TooLong { len, max }) => {
            assert_eq!((len, max), (Connection::MAX_LEN + 1, Connection::MAX_LEN));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(receiver.try_recv(), Err(ConnectionError::WouldBlock)));
    long.pop();
    long[Connection::MAX_LEN - 1] = 7;
    sender.send(&long).unwrap();
    let message = receiver.recv().unwrap();
    assert_eq!(
        (message.len(), message[0], message[Connection::MAX_LEN - 1]),
        (Connection::MAX_LEN, 0, 7)
    );
}

#[test]
fn a_message_becomes_bytes_in_each_way() {
    let (sender, receiver) = simplex().unwrap();
    let again = receiver.try_clone().unwrap();
    let other = sender.try_clone().unwrap();
    for len in [3, INLINE + 1] {
        let sent = pattern(len, 9);
        sender.send(&sent).unwrap();
        other.send(&sent).unwrap();
        let message = again.recv().unwrap();
        assert_eq!(message.as_ref(), sent);
        assert_eq!(Vec::from(message), sent);
        assert_eq!(receiver.recv().unwrap().into_vec(), sent, "each of two clones gets one");
    }
    // The end exists while any of its clones does.
    drop(sender);
    other.send(b"still").unwrap();
    drop(again);
    assert_eq!(receiver.recv().unwrap(), b"still");
}

#[test]
fn a_short_buffer_loses_nothing() {
    let (sender, receiver) = simplex().unwrap();
    for (len, room) in [(1, 0), (100, 99), (INLINE, 10), (INLINE + 1, INLINE)] {
        let sent = pattern(len, 1);
        sender.send(&sent).unwrap();
        match receiver.recv_into(&mut vec![0; room]) {
            Err(ConnectionError::TooShort { max, message }) => {
                assert_eq!((max, message.into_vec()), (room, sent));
            }
            other => panic!("{other:?}"),
        }
    }
    sender.send(b"next").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(receiver.recv_into(&mut buffer).unwrap(), 4);
}

#[test]
fn what_a_small_socket_buffer_does_not_take_goes_another_way() {
    let (one, other) = pipe().unwrap();
    set_socket_send_buffer_size(&one, 4_608).unwrap();
    for len in [100, 9_000, 20_000, 500_000] {
        let sent = pattern(len, 3);
        one.send(&sent).unwrap();
        assert_eq!(other.recv().unwrap(), sent[..]);
        one.send_both(&sent, &one).unwrap();
        assert_eq!(other.recv().unwrap(), sent[..]);
    }
}
