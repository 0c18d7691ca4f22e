//! Sleeps are cut into slices, beside notifications and locks that are held for long.

use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{Lock, Shm, set_recheck_interval};

use super::{Store, call_of, lock, sleeps_on, store, waits_for_lock};
use crate::forked::{fork, join_all, wait_until};

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

/// Returns whether the process sleeps on words of the condition: by `futex_waitv`, or by `futex` on
/// kernels before 5.16.
fn waits_for_condition(all: &Shm<Store>, child: &Child) -> bool {
    call_of(child).starts_with(&format!("{} ", libc::SYS_futex_waitv))
        || sleeps_on(&all.arrived, child)
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
    loop {
        let all = store();
        let (first, others, ()) = notified_beside_slices(&all, [SHORT; 3], |_| ());
        let before = all_sleeps(&others);
        wait_until("one returns", || all.woken.load(Relaxed) != 0);
        // One that does not get to run for two slices may be passed over.
        let was_in_time = all_sleeps(&others).iter().zip(&before).all(|(now, then)| now - then < 2);
        if was_in_time {
            wait_for_sleeps(&others, 20);
            assert_eq!(all.woken.load(Relaxed), 1);
        }
        all.arrived.notify_all();
        join_all(others.into_iter().chain([first]));
        if was_in_time {
            return;
        }
    }
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
