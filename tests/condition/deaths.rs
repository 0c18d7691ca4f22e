//! Waiters, notifiers and owners that die, or are stopped.

use std::ptr::null_mut;
use std::sync::atomic::Ordering::*;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{ConditionError, set_recheck_interval};

use super::{lock, store, waiter, waits_for_lock};
use crate::forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

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
    another_has_what_one_leaves_that_dies(Duration::from_millis(10), || ());
}

/// Handlers of signals interrupt sleeps, and slices end all the same.
#[test]
fn it_is_another_ones_beside_signals_that_come_more_often_than_slices_end() {
    another_has_what_one_leaves_that_dies(Duration::from_millis(200), || {
        extern "C" fn handle(_: i32) {}
        // SAFETY: integers, and a handler, for which zero is none.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // Without SA_RESTART.
        action.sa_sigaction = handle as extern "C" fn(i32) as usize;
        let every = libc::timeval { tv_sec: 0, tv_usec: 2_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: the handler does nothing.
        assert_eq!(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, null_mut()) }, 0);
        // SAFETY: it ends with the process.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()) }, 0);
    });
}

fn another_has_what_one_leaves_that_dies(slice: Duration, prepare: fn()) {
    let all = store();
    let waiters = [(); 2].map(|()| {
        let all = all.clone();
        let child = fork(move || {
            set_recheck_interval(Some(slice));
            prepare();
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
