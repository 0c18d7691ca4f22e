//! Explorations of `Condition`.

use crossproc::{Condition, ConditionError, Lock, LockGuard};
use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::explorer::{End, Fate, Script};

use crate::{explore, in_time};

/// Items, of which each waiter takes one.
#[derive(Debug)]
struct Store {
    lock: Lock<()>,
    changed: Condition,
    items: AtomicU32,
}

fn store() -> Store {
    Store { lock: Lock::new(()), changed: Condition::new(), items: AtomicU32::new(0) }
}

fn script() -> Script<Store, ()> {
    Script::new(())
}

fn lock(shared: &Store) -> LockGuard<'_, ()> {
    shared.lock.lock_or_repair(|()| ()).unwrap()
}

fn take_one(shared: &Store) -> u64 {
    shared.items.store(shared.items.load(Relaxed) - 1, Relaxed);
    1
}

/// Waits for an item and takes it.
fn take(shared: &Store, _: &mut ()) -> u64 {
    let mut guard = lock(shared);
    while shared.items.load(Relaxed) == 0 {
        shared.changed.wait(&mut guard).unwrap();
    }
    take_one(shared)
}

/// Takes an item if one comes in time.
fn take_in_time() -> impl Fn(&Store, &mut ()) -> u64 {
    let wait = in_time();
    move |shared, ()| {
        let mut guard = lock(shared);
        while shared.items.load(Relaxed) == 0 {
            match shared.changed.wait_with(&mut guard, wait) {
                Ok(()) => {}
                Err(ConditionError::TimedOut) => return 0,
                Err(error) => panic!("{error:?}"),
            }
        }
        take_one(shared)
    }
}

/// Puts so many items, and notifies as many waiters, without the lock.
fn put(count: u32) -> impl Fn(&Store, &mut ()) -> u64 {
    move |shared, ()| {
        let guard = lock(shared);
        shared.items.store(shared.items.load(Relaxed) + count, Relaxed);
        drop(guard);
        shared.changed.notify(count);
        0
    }
}

fn notify_all(shared: &Store, _: &mut ()) -> u64 {
    shared.changed.notify_all();
    0
}

/// Asserts that no thread sleeps while there are items.
fn who_sleeps_has_nothing_to_take(end: &mut End<'_, Store, ()>) {
    let items = end.look(|shared| shared.items.load(Relaxed));
    let sleepers = (0..end.threads()).filter(|&thread| end.fate(thread) == Fate::Asleep).count();
    assert!(items == 0 || sleepers == 0, "{sleepers} sleep beside {items} items");
}

#[test]
fn one_item_reaches_one_of_two() {
    explore("condition: one_item_reaches_one_of_two", store())
        .thread(script().then(take))
        .thread(script().then(take_in_time()))
        .thread(script().then(put(1)))
        .check(who_sleeps_has_nothing_to_take)
        .run();
}

#[test]
fn two_items_reach_two() {
    explore("condition: two_items_reach_two", store())
        .thread(script().then(take))
        .thread(script().then(take))
        .thread(script().then(put(2)))
        .check(who_sleeps_has_nothing_to_take)
        .run();
}

#[test]
fn a_notifier_of_all_killed_anywhere_has_notified_all_or_nobody() {
    explore("condition: a_notifier_of_all_killed_anywhere_has_notified_all_or_nobody", store())
        .thread(script().then(take))
        .thread(script().then(notify_all).killable())
        .thread(script().then(put(1)))
        .kills(1)
        .check(who_sleeps_has_nothing_to_take)
        .run();
}
