//! Explorations of `Lock`.

use crossproc::{Event, Lock, LockError, LockGuard, Wait, Waitable, wait_any};
use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::explorer::{End, Fate, Script};

use crate::{explore, in_time};

/// A lock, and what it protects: whether an owner is inside.
type Room = (Lock<()>, AtomicU32);

fn room() -> Room {
    (Lock::new(()), AtomicU32::new(0))
}

fn script() -> Script<Room, ()> {
    Script::new(())
}

type Locked<'a> = Result<LockGuard<'a, ()>, LockError>;

/// Enters and leaves, if the lock was acquired. No other owner is inside, unless it died there.
fn enter(locked: Locked<'_>, inside: &AtomicU32) -> u64 {
    let _guard = match locked {
        Ok(guard) if guard.is_inconsistent() => guard.recover(),
        Ok(guard) => {
            assert_eq!(inside.load(Relaxed), 0, "two are inside, or a death was not told");
            guard
        }
        Err(LockError::TimedOut) => return 0,
        Err(error) => panic!("{error:?}"),
    };
    inside.store(1, Relaxed);
    assert_eq!(inside.swap(0, Relaxed), 1, "two were inside");
    1
}

fn lock((lock, inside): &Room, _: &mut ()) -> u64 {
    enter(lock.lock_unrepaired(Wait::FOREVER), inside)
}

fn lock_in_time() -> impl Fn(&Room, &mut ()) -> u64 {
    let wait = in_time();
    move |(lock, inside), ()| enter(lock.lock_unrepaired(wait), inside)
}

/// Acquires and releases the lock, and does nothing else, which makes far fewer states.
fn hold((lock, _): &Room, _: &mut ()) -> u64 {
    drop(lock.lock_or_repair(|()| ()).unwrap());
    1
}

fn acquire((lock, _): &Room, _: &mut ()) -> u64 {
    let acquired = lock.acquire(Wait::FOREVER).unwrap();
    assert!(!acquired.owner_died || lock.recover().is_ok());
    1
}

fn release((lock, _): &Room, _: &mut ()) -> u64 {
    lock.release().unwrap();
    0
}

/// Asserts that no thread sleeps, and that the lock is free.
fn nobody_is_left_out(end: &mut End<'_, Room, ()>) {
    end.assert_nobody_sleeps();
    end.look(|(lock, inside)| {
        let locked = lock.try_lock_or_repair(|()| inside.store(0, Relaxed));
        assert!(!locked.as_ref().is_ok_and(LockGuard::is_inconsistent), "a death was not told");
        assert!(!matches!(locked, Err(LockError::WouldBlock)));
        enter(locked, inside);
    });
}

#[test]
fn nobody_sleeps_on_a_free_lock() {
    explore("lock: nobody_sleeps_on_a_free_lock", room())
        .thread(script().then(lock))
        .thread(script().then(lock))
        .thread(script().then(lock))
        .check(nobody_is_left_out)
        .run();
}

#[test]
fn a_time_out_strands_nobody() {
    explore("lock: a_time_out_strands_nobody", room())
        .thread(script().then(lock))
        .thread(script().then(lock))
        .thread(script().then(lock_in_time()))
        .check(nobody_is_left_out)
        .run();
}

#[test]
fn two_killed_anywhere_strand_nobody() {
    explore("lock: two_killed_anywhere_strand_nobody", room())
        .thread(script().then(lock).killable())
        .thread(script().then(lock).killable())
        .thread(script().then(lock))
        .kills(2)
        .check(nobody_is_left_out)
        .run();
}

#[test]
fn an_owner_among_four_killed_anywhere_strands_nobody() {
    explore("lock: an_owner_among_four_killed_anywhere_strands_nobody", room())
        .thread(script().then(hold))
        .thread(script().then(acquire).then(release).killable_from(1))
        .thread(script().then(hold))
        .thread(script().then(hold))
        .kills(1)
        .check(nobody_is_left_out)
        .run();
}

#[test]
fn an_heir_gets_the_lock_of_the_dead() {
    explore("lock: an_heir_gets_the_lock_of_the_dead", room())
        .thread(script().prepared(acquire).then(release).then(lock).killable())
        .thread(script().then(lock))
        .thread(script().after_death_of(0).then(lock))
        .kills(1)
        .check(|end| {
            nobody_is_left_out(end);
            let heirs = if end.fate(0) == Fate::Killed { Fate::Finished } else { Fate::NotBegun };
            assert_eq!(end.fate(2), heirs);
        })
        .run();
}

/// Waits until an owner has died. Returns only if one does.
fn watch((lock, _): &Room, _: &mut ()) -> u64 {
    wait_on(&[&lock.owner_death()]);
    1
}

/// As [`watch`], and waits for something that never happens as well.
fn watch_more((lock, _): &Room, _: &mut ()) -> u64 {
    static NEVER: Event = Event::new();
    wait_on(&[&NEVER, &lock.owner_death()]);
    1
}

fn wait_on(on: &[&dyn Waitable]) {
    drop(wait_any(on).unwrap());
}

/// Acquires the lock and leaves its state as it is.
fn pass((lock, _): &Room, _: &mut ()) -> u64 {
    drop(lock.lock());
    1
}

/// Asserts that only watchers sleep, and that none sleeps if an owner's death has not been
/// reported.
fn only_watchers_sleep(watchers: &'static [usize]) -> impl Fn(&mut End<'_, Room, ()>) {
    move |end| {
        let asleep: Vec<usize> =
            (0..end.threads()).filter(|&thread| end.fate(thread) == Fate::Asleep).collect();
        let is_left = end.look(|(lock, _)| matches!(lock.try_lock(), Err(LockError::OwnerDied)));
        assert!(
            asleep.iter().all(|thread| watchers.contains(thread) && !is_left),
            "{asleep:?} sleep; an owner has died: {is_left}"
        );
    }
}

#[test]
fn watchers_take_no_wake_from_those_who_lock() {
    explore("lock: watchers_take_no_wake_from_those_who_lock", room())
        .thread(script().then(watch_more))
        .thread(script().then(hold))
        .thread(script().then(hold))
        .check(only_watchers_sleep(&[0]))
        .run();
}

#[test]
fn watchers_of_a_free_lock_do_not_wake_each_other_for_ever() {
    explore("lock: watchers_of_a_free_lock_do_not_wake_each_other_for_ever", room())
        .thread(script().then(watch))
        .thread(script().then(watch))
        .thread(script().prepared(acquire).then(release).killable())
        .kills(1)
        .check(only_watchers_sleep(&[0, 1]))
        .run();
}

#[test]
fn a_watcher_killed_anywhere_strands_nobody_who_locks() {
    explore("lock: a_watcher_killed_anywhere_strands_nobody_who_locks", room())
        .thread(script().then(watch_more).killable())
        .thread(script().prepared(acquire).then(release))
        .thread(script().then(pass))
        .kills(1)
        .check(only_watchers_sleep(&[0]))
        .run();
}

#[test]
fn an_owner_killed_anywhere_is_told_to_watchers_and_strands_nobody() {
    explore("lock: an_owner_killed_anywhere_is_told_to_watchers_and_strands_nobody", room())
        .thread(script().then(watch_more))
        .thread(script().prepared(acquire).then(release).then(pass).killable())
        .thread(script().then(pass))
        .kills(1)
        .check(only_watchers_sleep(&[0]))
        .run();
}

#[test]
fn a_watcher_and_an_owner_killed_anywhere_strand_nobody() {
    // The lock's word is pending while the watcher sleeps.
    explore("lock: a_watcher_and_an_owner_killed_anywhere_strand_nobody", room())
        .thread(script().then(watch_more).killable())
        .thread(script().prepared(acquire).then(release).killable())
        .thread(script().then(pass))
        .kills(2)
        .check(only_watchers_sleep(&[0]))
        .run();
}

/// In a stand-in's entry the lock's word would mean nothing while the lock has an owner. That owner
/// dies later.
#[test]
fn a_process_with_a_watcher_and_an_owner_strands_nobody() {
    explore("lock: a_process_with_a_watcher_and_an_owner_strands_nobody", room())
        .thread(script().then(watch_more).of_process(0))
        .thread(script().prepared(acquire).then(release).of_process(0))
        .thread(script().then(pass))
        .kills(1)
        .check(only_watchers_sleep(&[0]))
        .run();
}
