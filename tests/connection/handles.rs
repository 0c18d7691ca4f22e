//! Handles that are sent, alone or with bytes.

use std::os::fd::{AsFd, OwnedFd};

use crossproc::process::HandleError;
use crossproc::{
    Connection, ConnectionError, Event, JoinableQueue, Queue, Receiver, RegionError, Sender, Shm,
    pipe, simplex,
};

use super::{INLINE, alone, pattern};
use crate::forked::{fork, join_all, wait_until};

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
