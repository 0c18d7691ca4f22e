//! Every way to wait.

use std::io;
use std::thread;

use crossproc::directory::{Address, DirectoryClient};
use crossproc::process::Child;
use crossproc::{
    Broadcast, ByteQueue, Event, JoinableQueue, LockError, Queue, Readable, Shm, Wait, pipe,
    simplex, wait_any_with,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::{All, all};
use crate::forked::{fork, wait_until};
use crate::served::{Folder, abstract_address, client};

/// A wait that nobody ends, again and again.
pub(super) type Waiting = Box<dyn FnMut(Wait) -> io::ErrorKind>;
/// Makes a case, in the process that waits.
type Make = Box<dyn FnOnce() -> Waiting + Send>;

/// Returns how a wait ended that was not to succeed.
pub(super) fn ended<T, E: Into<io::Error>>(result: Result<T, E>) -> io::ErrorKind {
    result.map_or_else(|error| error.into().kind(), |_| panic!("nothing has ended it"))
}

fn polled<E: Into<io::Error>>(result: Result<bool, E>) -> io::ErrorKind {
    match result {
        Ok(false) => io::ErrorKind::TimedOut,
        result => ended(result),
    }
}

fn of_lock<T>(result: Result<T, LockError>) -> io::ErrorKind {
    ended(result.map(|_| ()))
}

/// Makes a case for something shared.
fn shared(all: &Shm<All>, wait: impl Fn(&All, Wait) -> io::ErrorKind + Send + 'static) -> Make {
    let all = all.clone();
    Box::new(move || Box::new(move |with| wait(&all, with)))
}

/// Makes a case for something of the process's own.
fn own<T: 'static>(
    make: impl FnOnce() -> T + Send + 'static,
    wait: impl Fn(&mut T, Wait) -> io::ErrorKind + Send + 'static,
) -> Make {
    Box::new(move || {
        let mut of = make();
        Box::new(move |with| wait(&mut of, with))
    })
}

fn full() -> Queue<u64> {
    let queue: Queue<u64> = Queue::new(2).unwrap();
    while queue.try_put(0).is_ok() {}
    queue
}

fn unfinished() -> JoinableQueue<u64> {
    let queue: JoinableQueue<u64> = JoinableQueue::new(2).unwrap();
    while queue.try_put(0).is_ok() {}
    queue
}

/// Returns a broadcast without room, and its subscriber, which does not read.
fn unread() -> (Broadcast<u64>, Child) {
    let broadcast: Broadcast<u64> = Broadcast::new(2).unwrap();
    let theirs = broadcast.clone();
    let subscriber = fork(move || -> () {
        let _subscriber = theirs.subscribe().unwrap();
        loop {
            thread::park();
        }
    });
    wait_until("it has subscribed", || broadcast.subscribers() == 1);
    while broadcast.try_send(0).is_ok() {}
    (broadcast, subscriber)
}

/// Returns a connection without room for more, and its other end.
fn crammed() -> (crossproc::Connection, crossproc::Connection) {
    let (one, other) = pipe().unwrap();
    while one.try_send(&[0; 1_000]).is_ok() {}
    (one, other)
}

/// Fills the queue of a listener that nobody accepts from. Returns the listener, and what is in its
/// queue.
fn crowded(path: &std::path::Path) -> Vec<std::os::fd::OwnedFd> {
    let place = SocketAddrUnix::new(path).unwrap();
    let socket =
        |flags| socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let listener = socket(SocketFlags::CLOEXEC);
    bind(&listener, &place).unwrap();
    listen(&listener, 1).unwrap();
    let mut all = vec![listener];
    loop {
        let one = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        if connect(&one, &place).is_err() {
            return all;
        }
        all.push(one);
    }
}

/// Returns an ended child that nobody can reap before its tracer lets go of it, and the tracer.
fn held_by_a_debugger() -> (Child, Child) {
    let events: Shm<[Event; 2]> = Shm::new([Event::new(), Event::new()]).unwrap();
    let [may_be_traced, is_traced] = &*events;
    let theirs = events.clone();
    let child = fork(move || {
        // SAFETY: says who may trace this process. The call is refused where it is not needed.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        theirs[0].set();
        theirs[1].wait();
    });
    may_be_traced.wait();
    let (theirs, pid) = (events.clone(), child.id() as libc::pid_t);
    let tracer = fork(move || -> () {
        // SAFETY: writes to no memory of this process.
        let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0_usize, 0_usize) };
        assert_eq!(traced, 0, "{}", io::Error::last_os_error());
        theirs[1].set();
        loop {
            thread::park();
        }
    });
    is_traced.wait();
    wait_until("the child has ended", || {
        rustix::event::poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&Timespec::default()))
            == Ok(1)
    });
    assert!(child.try_join().unwrap().is_none(), "it was reaped in spite of its tracer");
    (child, tracer)
}

/// Returns a case for each way to wait.
pub(super) fn every_wait(
    all: &Shm<All>,
    served: &Address,
    folder: &Folder,
) -> Vec<(&'static str, Make)> {
    let (server, other_server, elsewhere) = (served.clone(), served.clone(), abstract_address());
    let (nobody, crowd) =
        (Address::from(folder.path().join("nobody")), folder.path().join("crowd"));
    let of_crowd = Address::from(&crowd);
    vec![
        ("lock", shared(all, |all, wait| of_lock(all.lock.lock_with(wait)))),
        ("lock, without a guard", shared(all, |all, wait| of_lock(all.lock.acquire(wait)))),
        ("rlock", shared(all, |all, wait| of_lock(all.rlock.lock_with(wait)))),
        (
            "rwlock, reading while another writes",
            shared(all, |all, wait| of_lock(all.read.read_with(wait))),
        ),
        (
            "rwlock, reading where there is no cell",
            shared(all, |all, wait| of_lock(all.all_reading.read_with(wait))),
        ),
        ("rwlock, writing", shared(all, |all, wait| of_lock(all.write.write_with(wait)))),
        ("once", shared(all, |all, wait| ended(all.once.call_once_with(wait, |_| ())))),
        ("semaphore", shared(all, |all, wait| ended(all.semaphore.acquire_with(wait)))),
        ("bounded semaphore", shared(all, |all, wait| ended(all.bounded.access_with(wait)))),
        ("permits", shared(all, |all, wait| ended(all.permits.acquire_with(wait)))),
        ("event", shared(all, |all, wait| ended(all.event.wait_with(wait)))),
        (
            "condition",
            shared(all, |all, wait| {
                let mut guard = all.with.lock().unwrap();
                ended(all.condition.wait_with(&mut guard, wait))
            }),
        ),
        (
            "condition, of an rlock",
            shared(all, |all, wait| {
                let mut guard = all.with_rlock.lock().unwrap();
                ended(all.condition.wait_while_with(&mut guard, wait, |_| true))
            }),
        ),
        (
            "barrier",
            shared(all, |all, wait| {
                let ended = ended(all.barrier.wait_with(wait));
                // Takes back the party that has arrived.
                all.barrier.reset();
                ended
            }),
        ),
        (
            "queue, getting",
            own(|| Queue::<u64>::new(2).unwrap(), |queue, wait| ended(queue.get_with(wait))),
        ),
        (
            "queue, getting many",
            own(
                || Queue::<u64>::new(2).unwrap(),
                |queue, wait| ended(queue.get_many_with(&mut Vec::new(), 2, wait)),
            ),
        ),
        (
            "queue, receiving",
            own(|| Queue::<u64>::new(2).unwrap(), |queue, wait| ended(queue.receive_with(wait))),
        ),
        ("queue, putting", own(full, |queue, wait| ended(queue.put_with(1, wait)))),
        ("queue, putting many", own(full, |queue, wait| ended(queue.put_many_with(&[1, 2], wait)))),
        (
            "queue of bytes, getting",
            own(
                || ByteQueue::with_max_len(2, 8).unwrap(),
                |queue, wait| ended(queue.get_with(wait)),
            ),
        ),
        (
            "queue of tasks, getting",
            own(
                || JoinableQueue::<u64>::new(2).unwrap(),
                |queue, wait| ended(queue.get_with(wait)),
            ),
        ),
        ("queue of tasks, putting", own(unfinished, |queue, wait| ended(queue.put_with(1, wait)))),
        ("queue of tasks, joining", own(unfinished, |queue, wait| ended(queue.join_with(wait)))),
        (
            "queue of tasks, waiting until all is done",
            own(unfinished, |queue, wait| ended(wait_any_with(&[&queue.all_done()], wait))),
        ),
        (
            "queue of tasks, waiting for a dead letter",
            own(unfinished, |queue, wait| ended(wait_any_with(&[&queue.next_dead_letter()], wait))),
        ),
        (
            "broadcast, sending",
            own(unread, |(broadcast, _), wait| ended(broadcast.send_with(1, wait))),
        ),
        (
            "broadcast, waiting for room",
            own(unread, |(broadcast, _), wait| ended(wait_any_with(&[&broadcast.room()], wait))),
        ),
        (
            "subscriber",
            own(
                || Broadcast::<u64>::new(2).unwrap().subscribe().unwrap(),
                |subscriber, wait| ended(subscriber.recv_with(wait)),
            ),
        ),
        (
            "subscriber, waiting for an item",
            own(
                || Broadcast::<u64>::new(2).unwrap().subscribe().unwrap(),
                |subscriber, wait| ended(wait_any_with(&[&subscriber.next_item()], wait)),
            ),
        ),
        (
            "connection, receiving",
            own(|| pipe().unwrap(), |(one, _), wait| ended(one.recv_with(wait))),
        ),
        (
            "receiver, into a buffer",
            own(
                || simplex().unwrap(),
                |(_, other), wait| ended(other.recv_into_with(&mut [0; 8], wait)),
            ),
        ),
        (
            "connection, receiving a handle",
            own(|| pipe().unwrap(), |(one, _), wait| ended(one.recv_handle_with::<Shm<All>>(wait))),
        ),
        (
            "connection, polling",
            own(|| pipe().unwrap(), |(one, _), wait| polled(one.poll_with(wait))),
        ),
        (
            "connection, sending",
            own(crammed, |(one, _), wait| ended(one.send_with(&[0; 1_000], wait))),
        ),
        (
            "connection, sending a handle",
            own(crammed, |(one, _), wait| {
                ended(one.send_handle_with(&Shm::new(Event::new()).unwrap(), wait))
            }),
        ),
        (
            "several events",
            shared(all, |all, wait| ended(wait_any_with(&[&all.event, &all.semaphore], wait))),
        ),
        (
            "several descriptors",
            own(
                || (pipe().unwrap(), pipe().unwrap()),
                |(a, b), wait| ended(wait_any_with(&[&a.0, &b.0], wait)),
            ),
        ),
        (
            "events and descriptors",
            own(
                || (pipe().unwrap(), self::all()),
                |(a, all), wait| {
                    ended(wait_any_with(&[&a.0, &all.event, &Readable(&a.1), &all.semaphore], wait))
                },
            ),
        ),
        (
            "a process",
            own(
                || {
                    fork(|| -> () {
                        loop {
                            thread::park();
                        }
                    })
                },
                |child, wait| ended(child.join_with(wait)),
            ),
        ),
        (
            "a process that has ended, and that a debugger holds",
            own(held_by_a_debugger, |(child, _), wait| ended(child.join_with(wait))),
        ),
        (
            "directory, for a name",
            own(
                move || client(&server),
                |client, wait| ended(client.wait_for_with::<Shm<Event>>("nothing", wait)),
            ),
        ),
        (
            "directory, for a change",
            own(
                move || client(&other_server),
                |client, wait| {
                    let revision = client.list("").unwrap().revision;
                    ended(client.wait_for_change_with(revision, wait))
                },
            ),
        ),
        (
            "directory, for a server at a path",
            own(|| (), move |(), wait| ended(DirectoryClient::connect_with(&nobody, wait))),
        ),
        (
            "directory, for a server at a name",
            own(|| (), move |(), wait| ended(DirectoryClient::connect_with(&elsewhere, wait))),
        ),
        (
            "directory, for a server with a crowd",
            own(
                move || crowded(&crowd),
                move |_, wait| ended(DirectoryClient::connect_with(&of_crowd, wait)),
            ),
        ),
    ]
}
