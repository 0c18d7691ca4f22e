//! What `{:?}` shows.

use core::num::NonZeroU32;
use std::fmt::Debug;
use std::sync::atomic::AtomicU32;

use crossproc::directory::{Address, Directory, DirectoryClient};
use crossproc::{
    Barrier, BoundedSemaphore, ByteQueue, Condition, Event, Fixed, JoinableQueue, Lock, Once,
    Permits, Queue, QueueOptions, RLock, RwLock, Semaphore, Shm, pipe,
};

fn shows(value: impl Debug, expected: &str) {
    assert_eq!(format!("{value:?}"), expected);
}

/// A primitive shows its state, and not what it protects: it takes nothing for that.
#[test]
fn what_is_shown_takes_nothing_and_waits_for_nobody() {
    let tid = rustix::thread::gettid().as_raw_nonzero();
    let lock = Lock::new(7_u64);
    shows(&lock, "Lock { owner: None, .. }");
    let guard = lock.lock().unwrap();
    shows(&guard, "7");
    assert_eq!(guard.to_string(), "7");
    shows(&lock, &format!("Lock {{ owner: Some({tid}), .. }}"));
    drop(guard);
    let rlock = RLock::new(7_u64);
    let guard = rlock.lock().unwrap();
    shows(&guard, "7");
    shows(&rlock, &format!("RLock {{ owner: Some({tid}), .. }}"));
    drop(guard);
    let rwlock: RwLock<u64> = RwLock::new(7);
    let guard = rwlock.read().unwrap();
    shows(&guard, "7");
    shows(&rwlock, "RwLock { writer: None, readers: 1, .. }");
    drop(guard);
    let guard = rwlock.write().unwrap();
    shows(&guard, "7");
    shows(&rwlock, &format!("RwLock {{ writer: Some({tid}), readers: 0, .. }}"));
    drop(guard);
    let semaphore = Semaphore::new(3);
    let guard = semaphore.access();
    shows((&semaphore, &guard), "(Semaphore { value: 2, .. }, SemaphoreGuard { .. })");
    let bounded = BoundedSemaphore::new(3);
    let guard = bounded.access();
    shows(
        (&bounded, &guard),
        "(BoundedSemaphore { value: 2, bound: 3, .. }, SemaphoreGuard { .. })",
    );
    let permits: Permits<3> = Permits::new();
    let permit = permits.acquire().unwrap();
    shows((&permits, &permit), "(Permits { value: 2, of: 3, .. }, Permit { .. })");
    let event = Event::new();
    event.set();
    shows(&event, "Event { is_set: true, .. }");
    shows(Condition::new(), "Condition { .. }");
    let once = Once::new();
    shows(&once, "Once { is_completed: false, .. }");
    once.call_once(|_| ()).unwrap();
    shows(&once, "Once { is_completed: true, .. }");
    let barrier = Barrier::new(2);
    let _arrival = barrier.arrive().unwrap();
    let shown = format!("{barrier:?}");
    assert!(
        shown.starts_with("Barrier { ") && shown.contains("2") && shown.contains("1"),
        "{shown}"
    );
    shows(Fixed::new(7_u64), "Fixed(7)");
    shows(Shm::new(AtomicU32::new(7)).unwrap(), "7");
}

#[test]
fn a_queue_shows_how_full_it_is_and_a_guard_what_it_is() {
    let queue: Queue<u64> = Queue::new(4).unwrap();
    queue.put_many(&[1, 2]).unwrap();
    shows(&queue, "Queue { len: 2, capacity: 4, is_closed: false }");
    shows(queue.loan().unwrap(), "Loan { .. }");
    shows(queue.receive().unwrap(), "Received { .. }");
    queue.close().unwrap();
    shows(&queue, "Queue { len: 1, capacity: 4, is_closed: true }");
    shows(
        ByteQueue::with_max_len(3, 8).unwrap(),
        "Queue { len: 0, capacity: 3, is_closed: false }",
    );
    let tasks: JoinableQueue<u64> =
        QueueOptions::new().attempts(NonZeroU32::new(1), 1).create_joinable(4).unwrap();
    tasks.put_many(&[1, 2]).unwrap();
    let task = tasks.get().unwrap();
    shows(&task, "Task { attempts: 1, .. }");
    shows(&tasks, "JoinableQueue { len: 1, unfinished: 2, capacity: 4, is_closed: false }");
    drop(task);
    shows(tasks.dead_letter().unwrap(), "DeadLetter { attempts: 1, .. }");
    assert_eq!(tasks.dead_letters(), 0);
}

#[test]
fn ends_of_connections_and_messages_show_what_they_are() {
    let (one, other) = pipe().unwrap();
    let shown = format!("{one:?}");
    assert!(shown.starts_with("Connection { socket: ") && shown.ends_with(", .. }"), "{shown}");
    one.send(b"abc").unwrap();
    shows(other.recv().unwrap(), "Message { len: 3, handle: None, .. }");
    let address = Address::abstract_name(format!("crossproc errors {}", std::process::id()));
    let directory = Directory::bind(&address).unwrap();
    directory.put("one", &one).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| directory.serve().unwrap());
        let shown = format!("{:?}", DirectoryClient::connect(&address).unwrap());
        assert!(
            shown.starts_with("DirectoryClient { socket: ") && shown.ends_with(", .. }"),
            "{shown}"
        );
        directory.close();
    });
    let shown = format!("{directory:?}");
    assert!(
        shown.starts_with("Directory { address: ") && shown.contains("names: [\"one\"]"),
        "{shown}"
    );
}
