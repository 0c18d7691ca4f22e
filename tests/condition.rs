//! `Condition` between processes: with both kinds of lock, with time, and with processes that die.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    Condition, ConditionError, Event, Lock, LockGuard, RLock, Shm, Wait, set_recheck_interval,
    shared,
};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

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

/// Returns a process that waits once, as [`waiter`] does, in slices of the given length or without
/// slices.
fn sliced_waiter(all: &Shm<Store>, slice: Option<Duration>) -> Child {
    let store = all.clone();
    let child = fork(move || {
        set_recheck_interval(slice);
        let mut items = lock(&store.items);
        store.arrived.wait(&mut items).unwrap();
        drop(items);
        store.woken.fetch_add(1, Relaxed);
    });
    wait_until("a child waits for the condition", || waits_for_condition(all, &child));
    child
}

/// Returns whether the process sleeps on a word of the lock, by `futex`.
fn waits_for_lock(all: &Shm<Store>, child: &Child) -> bool {
    sleeps_on(&all.items, child)
}

/// Returns whether the process sleeps on words of the condition: by `futex_waitv`, or by `futex` on
/// kernels before 5.16.
fn waits_for_condition(all: &Shm<Store>, child: &Child) -> bool {
    call_of(child).starts_with(&format!("{} ", libc::SYS_futex_waitv))
        || sleeps_on(&all.arrived, child)
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

/// Fails if the process has returned from its wait and waits for the lock. The process may run for
/// a moment at the end of a slice of either wait.
fn assert_still_waits(all: &Shm<Store>, child: &Child) {
    let mut waits = false;
    wait_until("a child sleeps", || {
        waits = waits_for_condition(all, child);
        waits || waits_for_lock(all, child)
    });
    assert!(waits, "it has returned");
}

/// Returns how often the process has gone to sleep.
fn sleeps(child: &Child) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

fn all_sleeps(children: &[Child]) -> Vec<u64> {
    children.iter().map(sleeps).collect()
}

fn wait_for_sleeps(children: &[Child], more: u64) {
    let before = all_sleeps(children);
    wait_until("slices are over", || {
        all_sleeps(children).iter().zip(&before).all(|(now, before)| *now >= before + more)
    });
}

/// The slice of processes of which the tests await many slices.
const SHORT: Duration = Duration::from_millis(4);

/// Starts a waiter without slices, and others with slices. Then notifies one, which is the first:
/// the others queue behind it again after each slice. `take` may take the lock before the
/// notification.
///
/// A waiter that is about to sleep when the notification comes may return, too. So this makes sure
/// that the others slept during the notification: each was asleep after it, and had gone to sleep
/// as often after it as before it.
fn notified_beside_slices<'a, G, const N: usize>(
    all: &'a Shm<Store>,
    slices: [Duration; N],
    take: impl Fn(&'a Lock<u32>) -> G,
) -> (Child, [Child; N], G) {
    loop {
        let first = sliced_waiter(all, None);
        let others = slices.map(|slice| sliced_waiter(all, Some(slice)));
        let guard = take(&all.items);
        let slept_before = all_sleeps(&others);
        all.arrived.notify_one();
        if others.iter().all(|other| waits_for_condition(all, other))
            && all_sleeps(&others) == slept_before
        {
            return (first, others, guard);
        }
        drop(guard);
        all.arrived.notify_all();
        join_all(others.into_iter().chain([first]));
        all.woken.store(0, Relaxed);
    }
}

/// Sleeps are cut into slices, but no caller notices it.
#[test]
fn slices_do_not_show() {
    let all = store();
    let (first, others, ()) = notified_beside_slices(&all, [SHORT; 3], |_| ());
    wait_until("one returns", || all.woken.load(Relaxed) == 1);
    wait_for_sleeps(&others, 20);
    assert_eq!(all.woken.load(Relaxed), 1);
    all.arrived.notify_all();
    join_all(others.into_iter().chain([first]));
}

/// A notified waiter that waits for the lock for many slices is not taken for dead.
#[test]
fn a_notification_under_a_lock_that_is_held_for_long_wakes_one() {
    let all = store();
    let (first, others, items) = notified_beside_slices(&all, [SHORT; 3], lock);
    wait_until("the first waits for the lock", || waits_for_lock(&all, &first));
    wait_for_sleeps(&others, 20);
    others.iter().for_each(|other| assert_still_waits(&all, other));
    // The others do not look meanwhile: how long the hand-over takes is not tested here.
    for other in &others {
        other.stop().unwrap();
    }
    drop(items);
    join_all([first]);
    for other in &others {
        other.resume().unwrap();
    }
    wait_for_sleeps(&others, 20);
    assert_eq!(all.woken.load(Relaxed), 1);
    all.arrived.notify_all();
    join_all(others);
}

/// A lock that was held for long may be found free only for a moment. The notified waiter has a
/// whole slice to take it.
#[test]
fn one_that_was_notified_has_a_slice_to_take_a_lock_that_became_free() {
    const SLICE: Duration = Duration::from_secs(1);
    loop {
        let all = store();
        let (first, other, items) = notified_beside_slices(&all, [SLICE], lock);
        wait_until("the first waits for the lock", || waits_for_lock(&all, &first));
        // The stop prolongs the moment between the wake-up and the lock, until the other has
        // looked.
        first.stop().unwrap();
        wait_for_sleeps(&other, 1);
        let before = sleeps(&other[0]);
        drop(items);
        let mut not_before = Instant::now();
        wait_until("the other looks", || {
            let now = Instant::now();
            let has_looked = sleeps(&other[0]) != before;
            if !has_looked {
                not_before = now;
            }
            has_looked
        });
        first.resume().unwrap();
        join_all([first]);
        // Otherwise the other may have looked a second time, because this process or the first did
        // not run.
        let is_in_time = not_before.elapsed() < SLICE;
        if is_in_time {
            assert_eq!(all.woken.load(Relaxed), 1);
            assert_still_waits(&all, &other[0]);
        }
        all.arrived.notify_all();
        join_all(other);
        if is_in_time {
            return;
        }
    }
}

#[test]
fn notify_all_does_not_wait_for_the_dead_or_the_stopped() {
    let all = store();
    let mut waiters: Vec<_> = (0..4).map(|_| waiter(&all)).collect();
    kill(&waiters.remove(0));
    waiters[0].stop().unwrap();
    let began = Instant::now();
    all.arrived.notify_all();
    assert!(began.elapsed() < Duration::from_secs(1));
    wait_until("the others return", || all.woken.load(Relaxed) == 2);
    waiters[0].resume().unwrap();
    join_all(waiters);
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

#[test]
fn a_waiter_learns_that_an_owner_died_meanwhile() {
    let all = store();
    let theirs = all.clone();
    let waiter = fork(move || {
        let mut items = lock(&theirs.items);
        assert_eq!(theirs.arrived.wait(&mut items), Err(ConditionError::OwnerDied));
        assert!(items.is_inconsistent());
        *items.recover() = 3;
    });
    wait_until_asleep(&waiter);
    let theirs = all.clone();
    let owner = fork(move || {
        let _items = lock(&theirs.items);
        theirs.go_on.set();
        thread::park();
    });
    all.go_on.wait();
    all.arrived.notify_one();
    kill(&owner);
    join_all([waiter]);
    assert_eq!(*lock(&all.items), 3);
}

/// A notified waiter dies before it has the lock. The other waiter gets the notification: here
/// within two slices, since the first dies while it waits for the lock.
#[test]
fn a_notification_of_one_that_dies_is_another_ones() {
    let all = store();
    let waiters = [(); 2].map(|()| {
        let all = all.clone();
        let child = fork(move || {
            set_recheck_interval(Some(Duration::from_millis(10)));
            let mut items = lock(&all.items);
            all.arrived.wait_while(&mut items, |items| *items == 0).unwrap();
            *items -= 1;
        });
        wait_until_asleep(&child);
        child
    });
    let mut items = lock(&all.items);
    *items = 1;
    all.arrived.notify_one();
    let mut notified = None;
    wait_until("the one that was notified waits for the lock", || {
        notified = waiters.iter().position(|waiter| waits_for_lock(&all, waiter));
        notified.is_some()
    });
    let notified = notified.unwrap();
    kill(&waiters[notified]);
    drop(items);
    assert!(waiters[1 - notified].join_timeout(PATIENCE).unwrap().success());
    assert_eq!(*lock(&all.items), 0);
}

/// Notifiers and waiters are killed at random moments. In the end, the living have received every
/// item that is there.
#[test]
fn participants_killed_at_random_moments_strand_nobody() {
    let all = store();
    let survivors = [(); 2].map(|()| {
        let all = all.clone();
        fork(move || {
            set_recheck_interval(Some(Duration::from_millis(10)));
            while all.woken.load(Relaxed) == 0 {
                let mut items = all.items.lock_or_repair(|_| ()).unwrap();
                match all
                    .arrived
                    .wait_while(&mut items, |items| *items == 0 && all.woken.load(Relaxed) == 0)
                {
                    Ok(()) => *items = items.saturating_sub(1),
                    Err(ConditionError::OwnerDied) => drop(items.recover()),
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for round in 0..200 {
        let theirs = all.clone();
        let victim = fork(move || -> () {
            loop {
                let mut items = theirs.items.lock_or_repair(|_| ()).unwrap();
                *items += 1;
                if *items % 3 == 0 {
                    let _ = theirs.arrived.wait_timeout(&mut items, Duration::from_micros(50));
                }
                drop(items);
                theirs.arrived.notify(1 + round % 2);
            }
        });
        let until = Instant::now() + Duration::from_micros(fastrand::u64(100..2_000));
        while Instant::now() < until {
            thread::yield_now();
        }
        kill(&victim);
    }
    all.woken.store(1, Relaxed);
    wait_until("the survivors return", || {
        all.arrived.notify_all();
        survivors.iter().all(|child| !child.is_alive().unwrap())
    });
    join_all(survivors);
}
