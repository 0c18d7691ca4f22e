//! `Event` between processes.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{Event, EventError, Semaphore, Shm, shared};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

#[test]
fn all_who_sleep_return_and_those_who_come_later_do_not_wait() {
    let event = Shm::new(Event::new()).unwrap();
    let waiters = [(); 4].map(|()| {
        let event = event.clone();
        fork(move || event.wait())
    });
    waiters.iter().for_each(wait_until_asleep);
    event.set();
    join_all(waiters);
    event.wait();
    assert_eq!(event.try_wait(), Ok(()));
    event.clear();
    assert_eq!(event.try_wait(), Err(EventError::WouldBlock));
}

#[test]
fn a_set_that_is_cleared_at_once_releases_all_who_slept() {
    let event = Shm::new(Event::new()).unwrap();
    for _ in 0..20 {
        let waiters = [(); 3].map(|()| {
            let event = event.clone();
            fork(move || event.wait())
        });
        waiters.iter().for_each(wait_until_asleep);
        event.set();
        event.clear();
        join_all(waiters);
    }
}

/// The kernel puts a waiter that was stopped back to sleep if the futex word looks as it did
/// before.
#[test]
fn a_waiter_that_was_stopped_returns_from_a_set_that_was_cleared_meanwhile() {
    let event = Shm::new(Event::new()).unwrap();
    let waiter = || {
        let event = event.clone();
        fork(move || event.wait())
    };
    let stopped = waiter();
    wait_until_asleep(&stopped);
    stopped.stop().unwrap();
    let state = format!("/proc/{}/stat", stopped.id());
    wait_until("it is stopped", || std::fs::read_to_string(&state).unwrap().contains(") T "));
    event.set();
    event.clear();
    let later = waiter();
    wait_until_asleep(&later);
    stopped.resume().unwrap();
    join_all([stopped]);
    event.set();
    join_all([later]);
}

#[test]
fn waiting_times_out_in_every_form() {
    let event = Event::new();
    assert_eq!(event.wait_timeout(Duration::ZERO), Err(EventError::TimedOut));
    assert_eq!(event.wait_deadline(Instant::now()), Err(EventError::TimedOut));
    for timeout in [1, 30, 150].map(Duration::from_millis) {
        let began = Instant::now();
        assert_eq!(event.wait_timeout(timeout), Err(EventError::TimedOut));
        let took = began.elapsed();
        assert!(
            took >= timeout && took < timeout + Duration::from_millis(500),
            "{timeout:?} took {took:?}"
        );
    }
    event.set();
    assert_eq!(event.wait_timeout(Duration::ZERO), Ok(()));
    assert_eq!(event.wait_timeout(Duration::MAX), Ok(()));
}

shared! {
    struct Rally {
        to: Event,
        back: Event,
        rounds: AtomicU64,
    }
}

#[test]
fn a_ping_pong_loses_no_wake_up() {
    const ROUNDS: u64 = 20_000;
    let rally = Shm::new(Rally { to: Event::new(), back: Event::new(), rounds: AtomicU64::new(0) })
        .unwrap();
    let theirs = rally.clone();
    let child = fork(move || {
        for _ in 0..ROUNDS {
            theirs.to.wait();
            theirs.to.clear();
            theirs.rounds.fetch_add(1, Relaxed);
            theirs.back.set();
        }
    });
    for round in 1..=ROUNDS {
        rally.to.set();
        rally.back.wait_timeout(PATIENCE).unwrap();
        rally.back.clear();
        assert_eq!(rally.rounds.load(Relaxed), round);
    }
    join_all([child]);
}

shared! {
    struct Setting {
        event: Event,
        seen: Semaphore,
        sets: AtomicU32,
    }
}

/// A setter that sets and clears for ever is killed at random moments. Once it has cleared for the
/// last time, or died, a last `set` releases all waiters.
#[test]
fn setters_killed_at_random_strand_nobody() {
    let all =
        Shm::new(Setting { event: Event::new(), seen: Semaphore::new(0), sets: AtomicU32::new(0) })
            .unwrap();
    let waiters = [(); 3].map(|()| {
        let all = all.clone();
        fork(move || -> () {
            loop {
                all.event.wait();
                all.seen.release().unwrap();
                thread::yield_now();
            }
        })
    });
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..300 {
        let theirs = all.clone();
        let setter = fork(move || -> () {
            loop {
                theirs.event.set();
                theirs.sets.fetch_add(1, Relaxed);
                theirs.event.clear();
            }
        });
        for _ in 0..random.u32(..20_000) {
            std::hint::spin_loop();
        }
        kill(&setter);
        while all.seen.try_acquire().is_ok() {}
        all.event.set();
        for _ in 0..waiters.len() {
            all.seen
                .acquire_timeout(PATIENCE)
                .expect("each kill is followed by waiters that return");
        }
        all.event.clear();
    }
    waiters.iter().for_each(kill);
}
