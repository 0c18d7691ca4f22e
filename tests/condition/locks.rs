//! Who holds a lock waits with it, in every form, and holds it again as before.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{Condition, ConditionError, Lock, RLock, Shm, Wait, shared};

use crate::forked::{PATIENCE, fork, join_all, wait_until_asleep};

#[test]
fn who_does_not_hold_the_lock_does_not_wait_in_any_form() {
    let (condition, lock, rlock) = (Condition::new(), Lock::new(()), RLock::new(()));
    let is_refused = |mut lock: &Lock<()>, mut rlock: &RLock<()>| {
        assert_eq!(condition.wait(&mut lock), Err(ConditionError::NotOwner));
        assert_eq!(condition.wait_timeout(&mut rlock, PATIENCE), Err(ConditionError::NotOwner));
        assert_eq!(
            condition.wait_while(&mut lock, |_| panic!("it is not looked at")),
            Err(ConditionError::NotOwner)
        );
        let result = condition
            .wait_while_deadline(&mut rlock, Instant::now(), |_| panic!("it is not looked at"));
        assert_eq!(result, Err(ConditionError::NotOwner));
    };
    is_refused(&lock, &rlock);
    // Nor does a thread that sees that another one holds the lock.
    assert!(!lock.acquire(Wait::FOREVER).unwrap().owner_died);
    assert!(!rlock.acquire(Wait::FOREVER).unwrap().owner_died);
    thread::scope(|scope| {
        scope.spawn(|| is_refused(&lock, &rlock));
    });
    assert_eq!(
        condition.wait_while_timeout(&mut &lock, Duration::ZERO, |_| true),
        Err(ConditionError::TimedOut)
    );
    lock.release().unwrap();
    rlock.release().unwrap();
}

#[test]
fn an_rlock_is_released_whole_and_held_as_often_again() {
    shared! {
        struct Nested {
            lock: RLock<u32>,
            changed: Condition,
        }
    }
    let all = Shm::new(Nested { lock: RLock::new(0), changed: Condition::new() }).unwrap();
    let theirs = all.clone();
    let waiter = fork(move || {
        let _outer = theirs.lock.lock().unwrap();
        let _middle = theirs.lock.lock().unwrap();
        let mut inner = theirs.lock.lock().unwrap();
        theirs.changed.wait_while(&mut inner, |value| value.get() == 0).unwrap();
        assert_eq!((theirs.lock.depth(), inner.get()), (3, 7));
    });
    wait_until_asleep(&waiter);
    all.lock.lock_timeout(PATIENCE).unwrap().set(7);
    all.changed.notify_one();
    join_all([waiter]);
    assert!(all.lock.try_lock().is_ok());
}

#[test]
fn a_lock_without_a_guard_can_be_waited_with_by_its_owner() {
    shared! {
        struct Bare {
            lock: Lock<()>,
            nested: RLock<()>,
            changed: Condition,
            is_so: AtomicU32,
        }
    }
    let all = Shm::new(Bare {
        lock: Lock::new(()),
        nested: RLock::new(()),
        changed: Condition::new(),
        is_so: AtomicU32::new(0),
    })
    .unwrap();
    assert_eq!(all.changed.wait(&mut &all.lock), Err(ConditionError::NotOwner));
    assert_eq!(all.changed.wait(&mut &all.nested), Err(ConditionError::NotOwner));
    let theirs = all.clone();
    let waiters = [false, true].map(|nested| {
        let all = theirs.clone();
        let child = fork(move || {
            if nested {
                let _ = (
                    all.nested.acquire(Wait::FOREVER).unwrap(),
                    all.nested.acquire(Wait::FOREVER).unwrap(),
                );
                all.changed.wait_while(&mut &all.nested, |_| all.is_so.load(Relaxed) == 0).unwrap();
                assert_eq!(all.nested.depth(), 2);
            } else {
                let _ = all.lock.acquire(Wait::FOREVER).unwrap();
                all.changed.wait_while(&mut &all.lock, |_| all.is_so.load(Relaxed) == 0).unwrap();
                all.lock.release().unwrap();
            }
        });
        wait_until_asleep(&child);
        child
    });
    for acquired in [all.lock.acquire(Wait::FOREVER), all.nested.acquire(Wait::FOREVER)] {
        assert!(!acquired.unwrap().owner_died);
    }
    all.is_so.store(1, Relaxed);
    all.lock.release().unwrap();
    all.nested.release().unwrap();
    all.changed.notify_all();
    join_all(waiters);
}
