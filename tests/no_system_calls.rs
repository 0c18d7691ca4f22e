//! Uncontended operations make no system call: in a child in seccomp's strict mode, the first one
//! would kill it.

#![allow(unsafe_code)]

use crossproc::{
    Barrier, BatchQueue, BoundedSemaphore, Broadcast, ByteQueue, Condition, Event, JoinableQueue,
    Lock, Once, Permits, Queue, RLock, RwLock, Semaphore, Shm, shared,
};

mod forked;
use forked::{fork, join_all, wait_until_asleep};

shared! {
    struct All {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<4>,
        event: Event,
        condition: Condition,
        barrier: Barrier,
        once: Once,
    }
}

shared! {
    struct Woken {
        count: Lock<u32>,
        changed: Condition,
    }
}

/// Allows read, write, exit and sigreturn; any other call kills the process.
fn enter_strict_mode() {
    // SAFETY: it only changes what this process may do.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) }, 0);
}

/// Ends the process in the one way that strict mode allows. `_exit` would end all threads, by
/// another call.
fn exit(code: i64) -> ! {
    loop {
        // SAFETY: ends the only thread.
        unsafe { libc::syscall(libc::SYS_exit, code) };
    }
}

/// Each has at least seven operations, or items: together a million.
const ROUNDS: u64 = 150_000;

#[test]
fn a_million_uncontended_operations_make_no_system_call() {
    let all = Shm::new(All {
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        semaphore: Semaphore::new(1),
        bounded: BoundedSemaphore::new(1),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        barrier: Barrier::new(1),
        once: Once::new(),
    })
    .unwrap();
    let theirs = all.clone();
    join_all([fork(move || -> () {
        // A thread's first lock makes a few system calls.
        drop(theirs.lock.lock());
        enter_strict_mode();
        for _ in 0..ROUNDS {
            *theirs.lock.lock().unwrap() += 1;
            let rlock = theirs.rlock.lock().unwrap();
            theirs.rlock.lock().unwrap().set(rlock.get() + 1);
            drop(rlock);
            *theirs.rwlock.write().unwrap() += 1;
            drop((theirs.rwlock.read().unwrap(), theirs.rwlock.read().unwrap()));
            theirs.semaphore.acquire();
            theirs.semaphore.release().unwrap();
            drop(theirs.bounded.access());
            assert!(theirs.bounded.release().is_err());
            drop((theirs.permits.acquire().unwrap(), theirs.permits.acquire().unwrap()));
            theirs.condition.notify_one();
            theirs.condition.notify_all();
            theirs.barrier.wait().unwrap();
            theirs.once.call_once(|_| ()).unwrap();
            theirs.event.set();
            theirs.event.wait();
            theirs.event.clear();
        }
        exit(0)
    })]);
    assert_eq!(
        (*all.lock.lock().unwrap(), all.rlock.lock().unwrap().get(), *all.rwlock.read().unwrap()),
        (ROUNDS, ROUNDS, ROUNDS)
    );
}

/// The mark that a sleeper has left went with the notification that woke it. Otherwise threads that
/// wait for each other in turns would sleep each time, once they have.
#[test]
fn where_the_only_sleeper_was_woken_a_notification_makes_no_system_call() {
    let shared = Shm::new(Woken { count: Lock::new(0), changed: Condition::new() }).unwrap();
    let theirs = shared.clone();
    let sleeper = fork(move || {
        let mut guard = theirs.count.lock().unwrap();
        theirs.changed.wait_while(&mut guard, |woken| *woken == 0).unwrap();
    });
    wait_until_asleep(&sleeper);
    *shared.count.lock().unwrap() = 1;
    shared.changed.notify_one();
    join_all([sleeper]);
    join_all([fork(move || -> () {
        enter_strict_mode();
        shared.changed.notify_one();
        shared.changed.notify_all();
        exit(0)
    })]);
}

#[test]
fn a_million_items_make_no_system_call() {
    let (numbers, messages, tasks) = (
        Queue::<u64>::new(100).unwrap(),
        ByteQueue::with_max_len(3, 16).unwrap(),
        JoinableQueue::<u64>::new(7).unwrap(),
    );
    let batches = BatchQueue::<u64>::with_max_batch(3, 4).unwrap();
    let broadcast = Broadcast::<u64>::new(3).unwrap();
    join_all([fork(move || -> () {
        // A thread's first operation on a queue makes a few system calls.
        numbers.put(0).unwrap();
        numbers.get().unwrap();
        messages.put(b"").unwrap();
        drop(messages.receive().unwrap());
        tasks.put(0).unwrap();
        tasks.get().unwrap().done();
        batches.put(0).unwrap();
        batches.get().unwrap();
        let mut subscribers = [broadcast.subscribe().unwrap(), broadcast.subscribe().unwrap()];
        broadcast.send(0).unwrap();
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.recv().unwrap(), 0);
        }
        let mut some = Vec::with_capacity(100);
        enter_strict_mode();
        for round in 0..ROUNDS {
            numbers.put(round).unwrap();
            numbers.try_put_many(&[1, 2, 3]).unwrap();
            assert_eq!(numbers.get().unwrap(), round);
            numbers.get_many(&mut some, 3).unwrap();
            some.clear();
            assert!(numbers.try_get().is_err());
            // They take longer without optimisation.
            if round % 8 == 0 {
                batches.put_many(&[1, 2, 3, 4, 5]).unwrap();
                assert_eq!(batches.get().unwrap(), 1);
                assert_eq!(batches.receive().unwrap().len(), 3);
                batches.get_many(&mut some, 3).unwrap();
                some.clear();
            }
            messages.put(b"hello").unwrap();
            assert_eq!(*messages.receive().unwrap(), *b"hello");
            let mut loan = messages.loan(1).unwrap();
            loan[0] = 1;
            loan.send().unwrap();
            drop(messages.receive().unwrap());
            tasks.put(round).unwrap();
            tasks.get().unwrap().done();
            tasks.join().unwrap();
            broadcast.send(round).unwrap();
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.recv().unwrap(), round);
                assert!(subscriber.try_recv().is_err());
            }
        }
        exit(0)
    })]);
}

#[test]
fn strict_mode_would_have_noticed() {
    let child = fork(|| -> () {
        enter_strict_mode();
        let _ = rustix::process::getpid();
        exit(0)
    });
    assert!(!child.join().unwrap().success());
}
