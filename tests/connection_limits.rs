//! Connections where something is short: descriptors in flight, file sizes, descriptors, room.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use crossproc::{Connection, ConnectionError, Event, Receiver, Sender, Shm, pipe, simplex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod forked;
use forked::{PATIENCE, fork, join_all, wait_until};

/// Runs a test in a process of its own, whose limits it may change.
fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

fn limit(resource: Resource, current: u64) {
    setrlimit(resource, Rlimit { current: Some(current), ..getrlimit(resource) }).unwrap();
}

#[test]
fn a_user_with_too_many_descriptors_on_their_way_gets_an_error_and_goes_on() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        one.send(b"").unwrap();
        other.recv().unwrap();
        // The user differs from the one that runs the other tests. It has no privileges: the limit
        // does not apply to privileged users. An unprivileged process keeps its user, since the
        // call fails.
        // SAFETY: takes a number.
        unsafe { libc::setuid(64_999) };
        limit(Resource::Nofile, 40);
        let is_refused = |result: Result<(), ConnectionError>| match result {
            Ok(()) => false,
            Err(ConnectionError::Os { source, .. }) => {
                assert_eq!(Errno::from_io_error(&source), Some(Errno::TOOMANYREFS));
                true
            }
            Err(error) => panic!("{error:?}"),
        };
        let sent = (0..1_000).take_while(|_| !is_refused(one.try_send_handle(&event))).count();
        assert!((1..=41).contains(&sent), "{sent}");
        // Then neither an empty message nor a long one can be sent, but a short one can.
        assert!(is_refused(one.send(b"")));
        assert!(is_refused(one.send(&vec![1; (1 << 20) + 1])));
        one.send(b"short").unwrap();
        for _ in 0..sent {
            other.recv_handle::<Shm<Event>>().unwrap();
        }
        assert_eq!(other.recv().unwrap(), b"short");
        assert!(
            matches!(other.try_recv(), Err(ConnectionError::WouldBlock)),
            "what was refused was not sent"
        );
        one.send_handle(&event).unwrap();
        other.recv_handle::<Shm<Event>>().unwrap().set();
        assert!(event.is_set());
    });
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        limit(Resource::Fsize, 1 << 20);
        let long = vec![3; (1 << 20) + 1];
        for _ in 0..2 {
            match one.send(&long) {
                Err(ConnectionError::Os { source, .. }) => {
                    assert_eq!(Errno::from_io_error(&source), Some(Errno::FBIG));
                }
                result => panic!("{result:?}"),
            }
        }
        assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)));
        limit(Resource::Fsize, 0);
        for short in [&b"short"[..], b""] {
            one.send(short).unwrap();
            assert_eq!(other.recv().unwrap(), short[..]);
        }
        // Without room in the buffer, the message goes by memfd.
        set_socket_send_buffer_size(&one, 0).unwrap();
        assert!(matches!(one.send(&[0; 10_000]), Err(ConnectionError::Os { .. })));
        one.send(&[0; 1_000]).unwrap();
        assert_eq!(other.recv().unwrap(), [0; 1_000]);
    });
}

#[test]
fn what_is_received_is_closed_on_exec() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/").unwrap());
        one.send_handle(&file).unwrap();
        one.send_handle(&one).unwrap();
        let received: OwnedFd = other.recv_handle().unwrap();
        assert!(fcntl_getfd(&received).unwrap().contains(FdFlags::CLOEXEC));
        let received: Connection = other.recv_handle().unwrap();
        assert!(fcntl_getfd(received.as_fd()).unwrap().contains(FdFlags::CLOEXEC));
        for end in [one.as_fd(), other.as_fd()] {
            assert!(fcntl_getfd(end).unwrap().contains(FdFlags::CLOEXEC));
        }
    });
}

/// Returns whether `poll` reports room, and so wakes a process that waits for it.
fn has_room(sender: &Sender) -> bool {
    let mut ends = [PollFd::new(sender, PollFlags::OUT)];
    poll(&mut ends, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn a_sender_that_waits_goes_on_when_most_of_the_buffer_is_free() {
    alone(|| {
        for timeout in [std::time::Duration::MAX, PATIENCE] {
            let (sender, receiver) = simplex().unwrap();
            set_socket_send_buffer_size(&sender, 20_000).unwrap();
            let sent = (0..).take_while(|_| sender.try_send(&[1; 100]).is_ok()).count();
            assert!(sent >= 8, "{sent}");
            let (theirs, done) = (sender.try_clone().unwrap(), Shm::new(Event::new()).unwrap());
            let child_done = done.clone();
            let child = fork(move || {
                theirs.send_timeout(&[2; 100], timeout).unwrap();
                child_done.set();
            });
            wait_until("the child waits for room", || {
                let call = std::fs::read_to_string(format!("/proc/{}/syscall", child.id()))
                    .unwrap_or_default();
                [libc::SYS_sendto, libc::SYS_ppoll]
                    .iter()
                    .any(|number| call.starts_with(&format!("{number} ")))
            });
            let mut received = 0;
            while !has_room(&sender) {
                assert_eq!(receiver.recv().unwrap(), [1; 100]);
                received += 1;
            }
            done.wait_timeout(PATIENCE).unwrap();
            assert!(2 * received > sent && received < sent, "{received} of {sent}");
            join_all([child]);
        }
    });
}

/// The kernel reports room when three quarters of the buffer are free.
#[test]
fn a_sender_with_a_deadline_goes_on_where_there_is_room_though_the_kernel_does_not_say_so() {
    let brief = std::time::Duration::from_millis(10);
    for (slice, timeout) in [(Some(brief), PATIENCE), (None, 200 * brief)] {
        alone(|| {
            let (sender, receiver) = simplex().unwrap();
            set_socket_send_buffer_size(&sender, 20_000).unwrap();
            let sent = (0..).take_while(|_| sender.try_send(&[1; 100]).is_ok()).count();
            let theirs = sender.try_clone().unwrap();
            let child = fork(move || {
                crossproc::set_recheck_interval(slice);
                theirs.send_timeout(&[2; 100], timeout).unwrap();
            });
            wait_until("the child waits for room", || {
                let call = std::fs::read_to_string(format!("/proc/{}/syscall", child.id()))
                    .unwrap_or_default();
                call.starts_with(&format!("{} ", libc::SYS_ppoll))
            });
            for _ in 0..sent / 2 {
                receiver.recv().unwrap();
            }
            assert!(!has_room(&sender));
            join_all([child]);
        });
    }
}

#[test]
fn the_end_of_the_stream_can_be_polled() {
    alone(|| {
        let (sender, receiver): (_, Receiver) = simplex().unwrap();
        assert!(!receiver.poll().unwrap());
        drop(sender);
        assert!(receiver.poll().unwrap() && receiver.poll_timeout(PATIENCE).unwrap());
        assert!(matches!(receiver.try_recv(), Err(ConnectionError::EndOfStream)));
    });
}

#[test]
fn a_long_message_that_is_dropped_leaves_no_mapping() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let mapped = || {
            std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:crossproc").count()
        };
        one.send(&vec![1; (1 << 20) + 1]).unwrap();
        let message = other.recv().unwrap();
        assert_eq!(mapped(), 1);
        drop(message);
        assert_eq!(mapped(), 0);
    });
}
