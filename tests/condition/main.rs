//! `Condition` between processes: with both kinds of lock, with time, and with processes that die.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{Condition, ConditionError, Event, Lock, LockGuard, Shm, Wait, shared};

mod deaths;
#[path = "../forked/mod.rs"]
mod forked;
mod locks;
mod slices;

use forked::{PATIENCE, fork, join_all, wait_until, wait_until_asleep};

shared! {
    struct Store {
        items: Lock<u32>,
        arrived: Condition,
        woken: AtomicU32,
        go_on: Event,
    }
}

fn store() -> Shm<Store> {
    Shm::new(Store {
        items: Lock::new(0),
        arrived: Condition::new(),
        woken: AtomicU32::new(0),
        go_on: Event::new(),
    })
    .unwrap()
}

fn lock(lock: &Lock<u32>) -> LockGuard<'_, u32> {
    lock.lock_timeout(PATIENCE).unwrap()
}

/// Returns a process that waits once for a notification, and counts it.
fn waiter(store: &Shm<Store>) -> Child {
    let store = store.clone();
    let child = fork(move || {
        let mut items = lock(&store.items);
        store.arrived.wait(&mut items).unwrap();
        drop(items);
        store.woken.fetch_add(1, Relaxed);
    });
    wait_until_asleep(&child);
    child
}

#[test]
fn each_item_is_taken_once() {
    const ITEMS: u32 = 2_000;
    let all = store();
    let consumers = [(); 3].map(|()| {
        let all = all.clone();
        fork(move || {
            for _ in 0..ITEMS {
                let mut items = lock(&all.items);
                all.arrived.wait_while(&mut items, |items| *items == 0).unwrap();
                *items -= 1;
            }
        })
    });
    for _ in 0..3 * ITEMS {
        *lock(&all.items) += 1;
        all.arrived.notify_one();
    }
    join_all(consumers);
    assert_eq!(*lock(&all.items), 0);
}

#[test]
fn a_notification_wakes_as_many_as_it_says() {
    let all = store();
    let waiters: Vec<_> = (0..6).map(|_| waiter(&all)).collect();
    for (count, woken) in [(1, 1), (3, 4), (1, 5)] {
        all.arrived.notify(count);
        wait_until("as many return", || all.woken.load(Relaxed) == woken);
        // The others are asleep, and stay asleep.
        let asleep = waiters.iter().filter(|child| child.is_alive().unwrap()).count();
        assert!(asleep as u32 >= 6 - woken);
    }
    all.arrived.notify(0);
    assert_eq!(all.woken.load(Relaxed), 5);
    // This is more than there are waiters.
    all.arrived.notify(7);
    join_all(waiters);
    assert_eq!(all.woken.load(Relaxed), 6);
    all.arrived.notify_all();
}

/// Returns whether the process sleeps on a word of the lock, by `futex`.
fn waits_for_lock(all: &Shm<Store>, child: &Child) -> bool {
    sleeps_on(&all.items, child)
}

fn call_of(child: &Child) -> String {
    std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default()
}

/// Returns whether the process is in `futex` with a word of `what`, which the child has at the same
/// address as this process.
fn sleeps_on<T>(what: &T, child: &Child) -> bool {
    let call = call_of(child);
    let mut parts = call.split(' ');
    let is_futex = parts.next() == Some(libc::SYS_futex.to_string().as_str());
    let word =
        parts.next().and_then(|word| usize::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let begin = std::ptr::from_ref(what).addr();
    is_futex && word.is_some_and(|word| (begin..begin + size_of::<T>()).contains(&word))
}

#[test]
fn a_time_out_has_the_lock_again() {
    let all = store();
    let mut items = lock(&all.items);
    for wait in [Wait::NONE, Wait::timeout(Duration::from_millis(20))] {
        assert_eq!(all.arrived.wait_with(&mut items, wait), Err(ConditionError::TimedOut));
        assert!(all.items.is_owned());
    }
    assert_eq!(all.arrived.wait_timeout(&mut items, Duration::ZERO), Err(ConditionError::TimedOut));
    assert_eq!(
        all.arrived.wait_deadline(&mut items, Instant::now()),
        Err(ConditionError::TimedOut)
    );
    let began = Instant::now();
    let never = |items: &mut u32| *items == 0;
    assert_eq!(
        all.arrived.wait_while_timeout(&mut items, Duration::from_millis(30), never),
        Err(ConditionError::TimedOut)
    );
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!(all.arrived.wait_while_deadline(&mut items, began, |_| false), Ok(()));
    *items += 1;
}
