//! Connections: messages and the handles in them arrive whole, whichever processes share an end,
//! and whichever die.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crossproc::process::{Handle, HandleError};
use crossproc::{
    Connection, ConnectionError, Event, JoinableQueue, Message, Queue, Receiver, RegionError,
    Sender, Shm, Wait, pipe, simplex,
};
use rustix::net::sockopt::set_socket_send_buffer_size;

mod forked;
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

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn handles_of_every_kind_are_handed_over() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        let numbers: Queue<u64> = Queue::new(4).unwrap();
        let tasks: JoinableQueue<[u8]> = JoinableQueue::with_max_len(4, 100).unwrap();
        let (sender, receiver) = simplex().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
        one.send(b"").unwrap();
        other.recv().unwrap();
        let before = open_descriptors();
        for round in 0..100 {
            one.send_handle(&event).unwrap();
            let theirs: Shm<Event> = other.recv_handle().unwrap();
            theirs.set();
            assert!(event.is_set());
            event.clear();
            one.send_handle(&numbers).unwrap();
            other.recv_handle::<Queue<u64>>().unwrap().put(round).unwrap();
            assert_eq!(numbers.get().unwrap(), round);
            one.send_handle(&tasks).unwrap();
            other.recv_handle::<JoinableQueue<[u8]>>().unwrap().put(b"task").unwrap();
            tasks.get().unwrap().done();
            one.send_handle(&sender).unwrap();
            one.send_handle(&receiver).unwrap();
            let (their_sender, their_receiver): (Sender, Receiver) =
                (other.recv_handle().unwrap(), other.recv_handle().unwrap());
            their_sender.send(b"by another hand").unwrap();
            assert_eq!(their_receiver.recv().unwrap(), b"by another hand");
            one.send_handle(&other).unwrap();
            let again: Connection = other.recv_handle().unwrap();
            one.send(b"to the same end").unwrap();
            assert_eq!(again.recv().unwrap(), b"to the same end");
            one.send_handle(&file).unwrap();
            let _file: OwnedFd = other.recv_handle().unwrap();
            // With bytes: few, none, and many.
            for len in [0, 10, INLINE - 100, INLINE, INLINE + 1] {
                let sent = pattern(len, 5);
                one.send_both(&sent, &event).unwrap();
                let mut message = other.recv().unwrap();
                assert_eq!(message, sent[..]);
                assert!(message.handle_kind().unwrap().contains("Event"), "{message:?}");
                let _theirs: Shm<Event> = message.take_handle().unwrap();
                assert!(message.handle_kind().is_none());
                if round > 3 {
                    break;
                }
            }
        }
        assert_eq!(open_descriptors(), before, "nothing leaks");
    });
}

#[test]
fn a_handle_of_another_kind_is_an_error_that_loses_nothing() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        let before = open_descriptors();
        one.send_handle(&event).unwrap();
        let error = other.recv_handle::<Queue<u64>>().unwrap_err();
        let text = format!("{error}");
        let ConnectionError::OtherHandle { kind, source, mut message } = error else {
            panic!("{error:?}")
        };
        assert!(kind.contains("Event") && text.contains("Event"), "{text}");
        assert!(
            matches!(source, HandleError::Region(RegionError::OtherLayout { .. })),
            "{source:?}"
        );
        message.take_handle::<Shm<Event>>().unwrap().set();
        assert!(event.is_set());
        // A socket is no shared memory, an end of a pipe is not an end of another kind, and a
        // message without a handle has none.
        one.send_handle(&one).unwrap();
        let error = other.recv_handle::<Shm<Event>>().unwrap_err();
        assert!(
            matches!(
                error,
                ConnectionError::OtherHandle {
                    source: HandleError::Region(RegionError::NotMemfd),
                    ..
                }
            ),
            "{error:?}"
        );
        drop(error);
        one.send_handle(&one).unwrap();
        let error = other.recv_handle::<Receiver>().unwrap_err();
        assert!(
            matches!(
                error,
                ConnectionError::OtherHandle { source: HandleError::OtherKind { .. }, .. }
            ),
            "{error:?}"
        );
        drop(error);
        one.send_handle(&OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap())).unwrap();
        let error = other.recv_handle::<Connection>().unwrap_err();
        assert!(
            matches!(
                error,
                ConnectionError::OtherHandle { source: HandleError::NotConnected { .. }, .. }
            ),
            "{error:?}"
        );
        drop(error);
        one.send(b"bytes").unwrap();
        let error = other.recv_handle::<Connection>().unwrap_err();
        assert!(
            matches!(&error, ConnectionError::NoHandle { message } if **message == b"bytes"),
            "{error:?}"
        );
        drop(error);
        one.send_handle(&event).unwrap();
        match other.recv_into(&mut [0; 100]) {
            Err(ConnectionError::UnexpectedHandle { mut message }) => {
                drop(message.take_handle::<Shm<Event>>().unwrap());
            }
            result => panic!("{result:?}"),
        }
        // A handle that is not taken is closed with its message.
        one.send_handle(&event).unwrap();
        drop(other.recv().unwrap());
        assert_eq!(open_descriptors(), before, "nothing leaks");
    });
}

#[test]
fn a_process_without_free_descriptors_gets_an_error_and_goes_on() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        one.send_handle(&event).unwrap();
        one.send_handle(&event).unwrap();
        one.send(b"next").unwrap();
        one.send_handle(&event).unwrap();
        let hoard: Vec<OwnedFd> =
            core::iter::from_fn(|| one.as_fd().try_clone_to_owned().ok()).collect();
        assert!(matches!(other.recv(), Err(ConnectionError::NoDescriptor)));
        assert!(matches!(other.recv_into(&mut [0; 1_000]), Err(ConnectionError::NoDescriptor)));
        assert_eq!(other.recv().unwrap(), b"next");
        drop(hoard);
        other.recv_handle::<Shm<Event>>().unwrap();
    });
}

#[test]
fn one_free_descriptor_is_enough_for_a_handle() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        one.send_handle(&event).unwrap();
        one.send_handle(&event).unwrap();
        let mut hoard: Vec<OwnedFd> =
            core::iter::from_fn(|| one.as_fd().try_clone_to_owned().ok()).collect();
        hoard.pop();
        let theirs = other.recv_handle::<Shm<Event>>().unwrap();
        theirs.set();
        assert!(event.is_set());
        drop(theirs);
        // To give the handle back after an error takes a second descriptor.
        let error = other.recv_handle::<Queue<u64>>().unwrap_err();
        let ConnectionError::OtherHandle { message, .. } = error else { panic!("{error:?}") };
        assert!(message.handle_kind().is_none());
        assert!(one.as_fd().try_clone_to_owned().is_ok(), "nothing leaks");
    });
}

#[test]
fn a_receiver_is_handed_on_with_what_its_dead_sender_has_sent() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let (sender, receiver) = simplex().unwrap();
        let child = fork(move || {
            for number in 0..10_u8 {
                sender.send(&[number]).unwrap();
            }
        });
        join_all([child]);
        one.send_handle(&receiver).unwrap();
        drop(receiver);
        let receiver: Receiver = other.recv_handle().unwrap();
        for number in 0..10_u8 {
            assert_eq!(receiver.recv().unwrap(), [number]);
        }
        assert!(matches!(receiver.recv(), Err(ConnectionError::EndOfStream)));
        // This also holds at the end of the stream.
        one.send_handle(&receiver).unwrap();
        let receiver: Receiver = other.recv_handle().unwrap();
        assert!(matches!(receiver.recv(), Err(ConnectionError::EndOfStream)));
    });
}

#[test]
fn what_is_on_its_way_to_nobody_is_closed() {
    alone(|| {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (one, other) = pipe().unwrap();
        // Each end is on its way to the other, and no process has either: only the kernel can find
        // that out.
        one.send_handle(&read).unwrap();
        one.send_handle(&other).unwrap();
        other.send_handle(&one).unwrap();
        drop((one, other, read));
        wait_until("the pipe has no reader", || {
            // The kernel looks for sockets that no process has when some socket is closed.
            drop(pipe().unwrap());
            let mut end = [rustix::event::PollFd::new(&write, rustix::event::PollFlags::empty())];
            rustix::event::poll(&mut end, Some(&rustix::time::Timespec::default())).unwrap();
            end[0].revents().contains(rustix::event::PollFlags::ERR)
        });
    });
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
