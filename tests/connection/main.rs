//! Connections: messages and the handles in them arrive whole, whichever processes share an end,
//! and whichever die.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossproc::process::Handle;
use crossproc::{
    Connection, ConnectionError, Event, Message, Receiver, Sender, Shm, Wait, pipe, simplex,
};

#[path = "../forked/mod.rs"]
mod forked;
mod handles;
mod messages;

use forked::{PATIENCE, fork, join_all, wait_until};

/// Runs a test in a process of its own, in which nothing else forks, with copies of its
/// descriptors, or opens descriptors.
fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

/// Returns bytes that differ from place to place, so that a shift shows.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7) as u8).collect()
}

const INLINE: usize = 1 << 20;

#[test]
fn waits_end_at_their_deadline_in_every_form() {
    let (one, other) = pipe().unwrap();
    assert!(matches!(one.try_recv(), Err(ConnectionError::WouldBlock)));
    assert!(!one.poll().unwrap());
    let brief = Duration::from_millis(30);
    let within = |result: Result<Message, ConnectionError>, began: Instant| {
        assert!(matches!(result, Err(ConnectionError::TimedOut)), "{result:?}");
        assert!(began.elapsed() >= brief);
    };
    let began = Instant::now();
    within(one.recv_timeout(brief), began);
    let began = Instant::now();
    within(one.recv_deadline(began + brief), began);
    let began = Instant::now();
    within(one.recv_with(Wait::timeout(brief)), began);
    let began = Instant::now();
    assert!(!one.poll_timeout(brief).unwrap());
    assert!(began.elapsed() >= brief);
    let began = Instant::now();
    assert!(!one.poll_deadline(began + brief).unwrap());
    assert!(began.elapsed() >= brief);
    assert!(!one.poll_deadline(began).unwrap() && !one.poll_with(Wait::NONE).unwrap());
    assert!(matches!(one.recv_with(Wait::NONE), Err(ConnectionError::TimedOut)));
    // Sends until there is no more room.
    let message = pattern(10_000, 0);
    let sent = (0..).take_while(|_| one.try_send(&message).is_ok()).count();
    assert!(sent > 10, "{sent}");
    assert!(matches!(one.try_send(&message), Err(ConnectionError::WouldBlock)));
    assert!(matches!(one.send_timeout(&message, brief), Err(ConnectionError::TimedOut)));
    assert!(matches!(one.send_handle_timeout(&one, brief), Err(ConnectionError::TimedOut)));
    assert!(other.poll().unwrap());
    assert!(
        other.poll_deadline(began).unwrap(),
        "what is there is there, though the deadline has passed"
    );
    assert!(other.poll_deadline(Instant::now() + PATIENCE).unwrap());
    for _ in 0..sent {
        assert_eq!(other.recv().unwrap(), message[..]);
    }
    assert!(
        matches!(other.try_recv(), Err(ConnectionError::WouldBlock)),
        "what was not sent does not come"
    );
}

#[test]
fn a_sender_without_room_goes_on_when_there_is_some() {
    alone(|| {
        for timeout in [Duration::MAX, PATIENCE] {
            let (sender, receiver) = simplex().unwrap();
            let child = fork(move || {
                for number in 0..2_000 {
                    sender.send_timeout(&pattern(5_000, number), timeout).unwrap();
                }
            });
            for number in 0..2_000 {
                assert_eq!(
                    receiver.recv_timeout(PATIENCE).unwrap(),
                    pattern(5_000, number)[..],
                    "in order"
                );
            }
            assert!(matches!(receiver.recv(), Err(ConnectionError::EndOfStream)));
            join_all([child]);
        }
    });
}

#[test]
fn the_end_of_the_stream_and_the_broken_pipe_are_told_apart() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        other.send(b"last words").unwrap();
        one.send(b"never received").unwrap();
        drop(other);
        assert!(one.poll().unwrap());
        assert_eq!(
            one.recv().unwrap(),
            b"last words",
            "also though something was not received on the other side"
        );
        assert!(matches!(one.recv(), Err(ConnectionError::EndOfStream)));
        assert!(matches!(one.recv_into(&mut [0; 8]), Err(ConnectionError::EndOfStream)));
        assert!(matches!(one.recv_timeout(PATIENCE), Err(ConnectionError::EndOfStream)));
        assert!(matches!(one.send(b"x"), Err(ConnectionError::BrokenPipe)));
        assert!(matches!(one.send(b""), Err(ConnectionError::BrokenPipe)));
        assert!(matches!(one.send(&pattern(INLINE + 1, 0)), Err(ConnectionError::BrokenPipe)));
        assert!(matches!(one.send_handle(&one), Err(ConnectionError::BrokenPipe)));
        assert!(matches!(one.try_send(b"x"), Err(ConnectionError::BrokenPipe)));
    });
}

#[test]
fn a_broken_pipe_is_an_error_and_no_signal() {
    alone(|| {
        // The test harness ignores SIGPIPE; by default, a program dies of it.
        // SAFETY: sets a default action.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (sender, receiver) = simplex().unwrap();
        drop(receiver);
        assert!(matches!(sender.send(b"x"), Err(ConnectionError::BrokenPipe)));
        assert!(matches!(sender.send_handle(&sender), Err(ConnectionError::BrokenPipe)));
    });
}

#[test]
fn a_simplex_pipe_goes_one_way() {
    let (sender, receiver) = simplex().unwrap();
    sender.send(b"there").unwrap();
    assert_eq!(receiver.recv().unwrap(), b"there");
    // The other direction cannot be forced either.
    let back = Connection::from_fd(receiver.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert!(matches!(back.send(b"back"), Err(ConnectionError::BrokenPipe)));
}

#[test]
fn ends_that_many_share_keep_messages_whole() {
    alone(|| {
        const EACH: u32 = 3_000;
        let (one, other) = pipe().unwrap();
        let total = Shm::from_fn(4, |_| crossproc::Semaphore::new(0)).unwrap();
        let mut producers = Vec::new();
        let mut consumers = Vec::new();
        for producer in 0..4_u32 {
            let one = one.try_clone().unwrap();
            producers.push(fork(move || {
                for number in 0..EACH {
                    let len = 8
                        + (number as usize * 37) % 3_000
                        + if number % 500 == 0 { INLINE } else { 0 };
                    let mut message = pattern(len, number as usize);
                    message[..4].copy_from_slice(&producer.to_ne_bytes());
                    message[4..8].copy_from_slice(&number.to_ne_bytes());
                    one.send(&message).unwrap();
                }
            }));
        }
        for _ in 0..4 {
            let other = other.try_clone().unwrap();
            let total = total.clone();
            consumers.push(fork(move || {
                loop {
                    let message = other.recv().unwrap();
                    if message.is_empty() {
                        return;
                    }
                    let producer = u32::from_ne_bytes(message[..4].try_into().unwrap());
                    let number = u32::from_ne_bytes(message[4..8].try_into().unwrap());
                    assert_eq!(
                        message[8..],
                        pattern(message.len(), number as usize)[8..],
                        "not mixed"
                    );
                    total[producer as usize].release().unwrap();
                }
            }));
        }
        join_all(producers);
        for _ in 0..4 {
            one.send(b"").unwrap();
        }
        join_all(consumers);
        assert_eq!([0, 1, 2, 3].map(|producer| total[producer].value()), [EACH; 4]);
    });
}

#[test]
fn a_signal_interrupts_what_may_be_interrupted() {
    extern "C" fn nothing(_: libc::c_int) {}
    let (one, _other) = pipe().unwrap();
    let parked = Shm::new(Event::new()).unwrap();
    let theirs = parked.clone();
    let child = fork(move || {
        // SAFETY: installs a handler that does nothing.
        unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
        theirs.set();
        let result = one.recv_with(Wait::timeout(PATIENCE).interruptible());
        assert!(matches!(result, Err(ConnectionError::Interrupted)), "{result:?}");
        theirs.clear();
        // A wait that is not interruptible is not interrupted.
        let result = one.recv_timeout(Duration::from_millis(200));
        assert!(matches!(result, Err(ConnectionError::TimedOut)), "{result:?}");
    });
    parked.wait();
    wait_until("the child is interrupted", || {
        // SAFETY: signals a child that has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
        !parked.is_set()
    });
    join_all([child]);
}

/// At a thread's end, thread-locals that were made later are dropped first: here, what receiving
/// keeps for the thread.
#[test]
fn a_thread_may_receive_at_its_end() {
    struct Last(Receiver, Sender);
    impl Drop for Last {
        fn drop(&mut self) {
            for _ in 0..2 {
                let message = self.0.recv().unwrap();
                self.1.send(&message).unwrap();
            }
        }
    }
    thread_local! {
        static LAST: core::cell::RefCell<Option<Last>> = const { core::cell::RefCell::new(None) };
    }
    alone(|| {
        let (sender, receiver) = simplex().unwrap();
        let (back, returned) = simplex().unwrap();
        sender.send(b"first").unwrap();
        let thread = std::thread::spawn(move || {
            LAST.set(Some(Last(receiver, back)));
            LAST.with_borrow(|last| last.as_ref().map(|last| last.0.recv().unwrap()))
        });
        sender.send(b"in its destructor").unwrap();
        sender.send(&[7; 10_000]).unwrap();
        assert_eq!(thread.join().unwrap().unwrap(), b"first");
        assert_eq!(returned.recv_timeout(PATIENCE).unwrap(), b"in its destructor");
        assert_eq!(returned.recv_timeout(PATIENCE).unwrap(), [7; 10_000][..]);
    });
}

#[test]
fn a_connection_error_is_an_io_error_of_its_kind() {
    let kind = |error: ConnectionError| io::Error::from(error).kind();
    assert_eq!(kind(ConnectionError::WouldBlock), io::ErrorKind::WouldBlock);
    assert_eq!(kind(ConnectionError::TimedOut), io::ErrorKind::TimedOut);
    assert_eq!(kind(ConnectionError::EndOfStream), io::ErrorKind::UnexpectedEof);
    assert_eq!(kind(ConnectionError::BrokenPipe), io::ErrorKind::BrokenPipe);
}
