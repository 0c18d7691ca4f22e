//! `RLock` between processes, and the calls of both locks that return no guard.

#![allow(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use crossproc::{Event, Lock, LockError, NotOwner, RLock, RLockGuard, Shm, Wait, shared};

mod forked;
use forked::{PATIENCE, fork, join_all, kill};

shared! {
    struct Held {
        lock: RLock<u64>,
        held: Event,
        go_on: Event,
        released: Event,
    }
}

fn held() -> Shm<Held> {
    Shm::new(Held {
        lock: RLock::new(0),
        held: Event::new(),
        go_on: Event::new(),
        released: Event::new(),
    })
    .unwrap()
}

fn lock(lock: &RLock<u64>) -> RLockGuard<'_, u64> {
    lock.lock_timeout(PATIENCE).unwrap()
}

#[test]
fn the_owner_locks_again_and_others_wait_for_the_last_unlock() {
    let all = held();
    let theirs = all.clone();
    let owner = fork(move || {
        let outer = lock(&theirs.lock);
        {
            let inner = theirs.lock.try_lock().unwrap();
            inner.set(inner.get() + 1);
            assert_eq!(theirs.lock.depth(), 2);
        }
        assert_eq!((theirs.lock.depth(), theirs.lock.is_owned()), (1, true));
        theirs.held.set();
        theirs.go_on.wait();
        drop(outer);
        assert_eq!((theirs.lock.depth(), theirs.lock.is_owned()), (0, false));
    });
    all.held.wait();
    assert!(matches!(all.lock.try_lock(), Err(LockError::WouldBlock)));
    assert!(matches!(all.lock.lock_timeout(Duration::from_millis(5)), Err(LockError::TimedOut)));
    assert_eq!((all.lock.depth(), all.lock.owner()), (0, Some(owner.id())));
    all.go_on.set();
    assert_eq!(lock(&all.lock).get(), 1);
    join_all([owner]);
}

#[test]
fn guards_may_be_dropped_in_any_order() {
    let all = RLock::new(0_u64);
    let (one, two, three) = (lock(&all), lock(&all), lock(&all));
    drop(one);
    drop(three);
    assert!(all.is_owned());
    drop(two);
    assert!(!all.is_owned());
}

#[test]
fn a_dead_owner_takes_its_depth_with_it() {
    let all = held();
    let theirs = all.clone();
    let owner = fork(move || {
        let _guards = [lock(&theirs.lock), lock(&theirs.lock), lock(&theirs.lock)];
        theirs.held.set();
        theirs.go_on.wait();
    });
    all.held.wait();
    kill(&owner);
    let guard = all.lock.lock_unrepaired(Wait::FOREVER).unwrap();
    assert!(guard.is_inconsistent());
    assert_eq!(all.lock.depth(), 1);
    // The value is still not whole, also for another call.
    assert_eq!(all.lock.lock().map(drop), Err(LockError::OwnerDied));
    assert_eq!(all.lock.depth(), 1, "the error holds nothing");
    let guard = guard.recover();
    assert!(all.lock.lock().is_ok());
    drop(guard);
    let theirs = all.clone();
    join_all([fork(move || lock(&theirs.lock).set(3))]);
    assert_eq!(lock(&all.lock).get(), 3);
}

#[test]
fn a_lock_without_a_guard_is_released_by_its_owner_alone() {
    static LOCK: Lock<()> = Lock::new(());
    assert!(matches!(LOCK.release(), Err(NotOwner)));
    assert!(!LOCK.acquire(Wait::FOREVER).unwrap().owner_died);
    thread::spawn(|| {
        assert!(matches!(LOCK.release(), Err(NotOwner)));
        assert!(matches!(LOCK.recover(), Err(NotOwner)));
        assert!(matches!(LOCK.acquire(Wait::NONE), Err(LockError::TimedOut)));
        assert!(!LOCK.is_owned());
    })
    .join()
    .unwrap();
    assert!(matches!(LOCK.acquire(Wait::FOREVER), Err(LockError::Deadlock)));
    LOCK.release().unwrap();
    assert!(matches!(LOCK.release(), Err(NotOwner)));
}

#[test]
fn an_rlock_without_a_guard_is_released_as_often_as_acquired() {
    static LOCK: RLock<()> = RLock::new(());
    for depth in 1..=3 {
        assert!(!LOCK.acquire(Wait::NONE).unwrap().owner_died);
        assert_eq!(LOCK.depth(), depth);
    }
    thread::spawn(|| assert!(matches!(LOCK.release(), Err(NotOwner)))).join().unwrap();
    for _ in 0..3 {
        LOCK.release().unwrap();
    }
    assert!(matches!(LOCK.release(), Err(NotOwner)));
}

#[test]
fn an_acquisition_without_a_guard_tells_of_a_dead_owner() {
    let lock = Shm::new(Lock::new(())).unwrap();
    let theirs = lock.clone();
    // The owner ends while it holds the lock.
    let owner = fork(move || assert!(!theirs.acquire(Wait::FOREVER).unwrap().owner_died));
    owner.join().unwrap();
    assert!(lock.acquire(Wait::FOREVER).unwrap().owner_died);
    lock.release().unwrap();
    assert!(lock.acquire(Wait::FOREVER).unwrap().owner_died, "nobody had recovered");
    lock.recover().unwrap();
    lock.release().unwrap();
    assert!(!lock.acquire(Wait::FOREVER).unwrap().owner_died);
}

#[test]
fn an_rlock_without_a_guard_tells_of_a_dead_owner_until_it_is_recovered() {
    let lock = Shm::new(RLock::new(())).unwrap();
    let theirs = lock.clone();
    let owner = fork(move || {
        for _ in 0..2 {
            assert!(!theirs.acquire(Wait::FOREVER).unwrap().owner_died);
        }
    });
    owner.join().unwrap();
    assert!(matches!(lock.recover(), Err(NotOwner)), "it is nobody's");
    assert!(lock.acquire(Wait::FOREVER).unwrap().owner_died);
    assert!(lock.acquire(Wait::FOREVER).unwrap().owner_died, "also the second time");
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(lock.recover(), Err(NotOwner)), "it is another thread's");
        });
    });
    lock.release().unwrap();
    lock.release().unwrap();
    assert!(lock.acquire(Wait::FOREVER).unwrap().owner_died, "nobody had recovered");
    lock.recover().unwrap();
    assert!(!lock.acquire(Wait::FOREVER).unwrap().owner_died);
    lock.release().unwrap();
    lock.release().unwrap();
    let theirs = lock.clone();
    join_all([fork(move || {
        assert!(!theirs.acquire(Wait::FOREVER).unwrap().owner_died);
        theirs.release().unwrap();
    })]);
}

#[test]
fn a_value_is_reached_without_a_guard_by_who_has_acquired_its_lock() {
    let lock = Shm::new(Lock::new(5_u64)).unwrap();
    assert!(!lock.acquire(Wait::FOREVER).unwrap().owner_died);
    // SAFETY: this thread holds the lock, and there is no other reference.
    *unsafe { &mut *lock.data_ptr() } += 1;
    // SAFETY: as above; no reference is left.
    unsafe { lock.force_release() }.unwrap();
    let theirs = lock.clone();
    join_all([fork(move || assert_eq!(*theirs.lock().unwrap(), 6))]);
}

#[test]
fn a_lock_with_a_value_can_be_released_by_force() {
    let lock = Lock::new(5_u64);
    std::mem::forget(lock.lock().unwrap());
    // SAFETY: the guard was forgotten, and there is no reference.
    unsafe { lock.force_release() }.unwrap();
    // SAFETY: as above; the lock is not held.
    assert!(matches!(unsafe { lock.force_release() }, Err(NotOwner)));
    assert_eq!(*lock.lock().unwrap(), 5);
}

#[test]
fn locking_times_out_in_every_form() {
    let all = held();
    let theirs = all.clone();
    let owner = fork(move || {
        let _guard = lock(&theirs.lock);
        theirs.held.set();
        theirs.go_on.wait();
    });
    all.held.wait();
    let began = Instant::now();
    assert!(matches!(all.lock.lock_timeout(Duration::ZERO), Err(LockError::TimedOut)));
    assert!(matches!(all.lock.lock_deadline(began), Err(LockError::TimedOut)));
    assert!(matches!(
        all.lock.lock_with(Wait::timeout(Duration::from_millis(30))),
        Err(LockError::TimedOut)
    ));
    assert!(began.elapsed() >= Duration::from_millis(30));
    all.go_on.set();
    assert!(all.lock.lock_timeout(Duration::MAX).is_ok());
    join_all([owner]);
}
