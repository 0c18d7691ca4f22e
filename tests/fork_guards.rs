//! No guard reaches a forked child.

use core::mem;
use core::num::NonZeroU32;
use std::io;

use crossproc::{
    Broadcast, JoinableQueue, Lock, LockGuard, Once, Permits, Queue, RLock, RwLock, Semaphore, Shm,
    Subscriber, Wait, process, shared,
};

mod forked;
use forked::{fork, join_all};

shared! {
    struct Board {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 4>,
        semaphore: Semaphore,
        permits: Permits<2>,
    }
}

struct All {
    board: Shm<Board>,
    queue: Queue<u64>,
    tasks: JoinableQueue<u64>,
    broadcast: Broadcast<u64>,
}

/// Returns a subscriber that has an item to read.
fn subscriber(all: &All) -> &'static mut Subscriber<u64> {
    let subscriber = all.broadcast.subscribe().unwrap();
    all.broadcast.send(1).unwrap();
    Box::leak(Box::new(subscriber))
}

fn all() -> All {
    let board = Board {
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        semaphore: Semaphore::new(1),
        permits: Permits::new(),
    };
    let options = crossproc::QueueOptions::new().attempts(NonZeroU32::new(1), 2);
    let all = All {
        board: Shm::new(board).unwrap(),
        queue: Queue::new(4).unwrap(),
        tasks: options.create_joinable(4).unwrap(),
        broadcast: Broadcast::new(4).unwrap(),
    };
    for item in 0..2 {
        all.queue.put(item).unwrap();
        all.tasks.put(item).unwrap();
    }
    all
}

/// Forks in a process without other threads that holds what `hold` returns. Returns whether the
/// fork is allowed.
fn may_fork<G>(hold: fn(&'static All) -> G) -> bool {
    let (refused, allowed) = (3, 4);
    let child = fork(move || {
        let all: &'static All = Box::leak(Box::new(all()));
        let held = hold(all);
        let forked = process::fork(|| 0);
        drop(held);
        let code = match forked {
            Ok(child) => {
                assert!(child.join().unwrap().success());
                allowed
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
                assert!(error.to_string().contains("drop them before the fork"), "{error}");
                refused
            }
        };
        // What was dropped prevents no fork.
        if code == refused && !mem::needs_drop::<G>() {
            return code;
        }
        assert!(process::fork(|| 0).unwrap().join().unwrap().success());
        code
    });
    let code = child.join_timeout(forked::PATIENCE).unwrap().code();
    assert!(code == Some(refused) || code == Some(allowed), "{code:?}");
    code == Some(allowed)
}

#[test]
fn a_process_that_holds_a_guard_cannot_fork() {
    assert!(!may_fork(|all| all.board.lock.lock().unwrap()));
    assert!(!may_fork(|all| all.board.rlock.lock().unwrap()));
    assert!(!may_fork(|all| all.board.rwlock.read().unwrap()));
    assert!(!may_fork(|all| all.board.rwlock.write().unwrap()));
    assert!(!may_fork(|all| (all.board.rwlock.read().unwrap(), all.board.lock.lock().unwrap())));
}

#[test]
fn nor_one_that_has_a_loan_a_received_item_or_a_task() {
    assert!(!may_fork(|all| all.queue.loan().unwrap()));
    assert!(!may_fork(|all| all.queue.receive().unwrap()));
    assert!(!may_fork(|all| all.tasks.loan().unwrap()));
    assert!(!may_fork(|all| all.tasks.get().unwrap()));
    assert!(!may_fork(|all| {
        drop(all.tasks.get().unwrap());
        let letter = all.tasks.dead_letter().unwrap();
        (letter, ())
    }));
    assert!(!may_fork(|all| subscriber(all).view().unwrap()));
}

#[test]
fn nor_one_that_has_leaked_one() {
    assert!(!may_fork(|all| mem::forget(all.board.lock.lock().unwrap())));
    assert!(!may_fork(|all| -> &'static mut u64 {
        let guard: &'static mut LockGuard<'static, u64> =
            Box::leak(Box::new(all.board.lock.lock().unwrap()));
        &mut *guard
    }));
    assert!(!may_fork(|all| mem::forget(all.queue.receive().unwrap())));
    assert!(!may_fork(|all| mem::forget(subscriber(all).view().unwrap())));
    assert!(!may_fork(|all| mem::forget(all.queue.loan().unwrap())));
    assert!(!may_fork(|all| mem::forget(all.tasks.get().unwrap())));
}

#[test]
fn what_leads_to_nothing_may_be_held() {
    assert!(may_fork(|all| all.board.permits.acquire().unwrap()));
    assert!(may_fork(|all| all.board.lock.acquire(Wait::FOREVER).unwrap()));
    assert!(may_fork(|all| all.board.rlock.acquire(Wait::FOREVER).unwrap()));
    assert!(may_fork(|all| all.board.semaphore.access()));
    assert!(may_fork(|all| subscriber(all).recv().unwrap()));
    // Here everything was given back, or is done.
    assert!(may_fork(|all| {
        drop((all.board.lock.lock().unwrap(), all.board.rwlock.read().unwrap()));
        all.queue.loan().unwrap().send().unwrap();
        drop(all.queue.receive().unwrap());
        all.tasks.get().unwrap().done();
        drop(all.tasks.get().unwrap());
    }));
}

#[test]
fn the_work_of_a_once_may_fork() {
    static ONCE: Once = Once::new();
    join_all([fork(|| {
        let work = |_| assert!(process::fork(|| ()).unwrap().join().unwrap().success());
        ONCE.call_once(work).unwrap();
    })]);
}

#[test]
fn a_child_of_one_that_has_dropped_its_guard_forks_in_turn() {
    join_all([fork(|| {
        let lock = Shm::new(Lock::new(0_u64)).unwrap();
        drop(lock.lock().unwrap());
        let child = process::fork(move || {
            *lock.lock().unwrap() += 1;
            let theirs = lock.clone();
            let grandchild = process::fork(move || *theirs.lock().unwrap() += 1).unwrap();
            assert!(grandchild.join().unwrap().success());
            assert_eq!(*lock.lock().unwrap(), 2);
        });
        assert!(child.unwrap().join().unwrap().success());
    })]);
}
