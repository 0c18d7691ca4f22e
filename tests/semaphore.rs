//! `Semaphore` between processes.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

use crossproc::{
    BoundedSemaphore, OverRelease, Semaphore, SemaphoreError, SemaphoreGuard, Shm, Wait, shared,
};

mod forked;
use forked::{PATIENCE, fork, is_asleep, join_all, kill, wait_until, wait_until_asleep};

shared! {
    struct Room {
        places: Semaphore,
        inside: AtomicU32,
        most: AtomicU32,
    }
}

#[test]
fn no_more_than_its_value_are_inside() {
    const PLACES: u32 = 2;
    let room = Shm::new(Room {
        places: Semaphore::new(PLACES),
        inside: AtomicU32::new(0),
        most: AtomicU32::new(0),
    })
    .unwrap();
    join_all([(); 5].map(|()| {
        let room = room.clone();
        fork(move || {
            for _ in 0..5_000 {
                room.places.acquire();
                let inside = room.inside.fetch_add(1, Relaxed) + 1;
                room.most.fetch_max(inside, Relaxed);
                room.inside.fetch_sub(1, Relaxed);
                room.places.release().unwrap();
            }
        })
    }));
    assert_eq!(room.places.value(), PLACES);
    assert!((1..=PLACES).contains(&room.most.load(Relaxed)), "{:?}", room.most);
}

#[test]
fn releasing_many_wakes_as_many() {
    let semaphore = Shm::new(Semaphore::new(0)).unwrap();
    let waiters = [(); 4].map(|()| {
        let semaphore = semaphore.clone();
        fork(move || semaphore.acquire())
    });
    waiters.iter().for_each(wait_until_asleep);
    semaphore.release_many(3).unwrap();
    wait_until("three have ended", || {
        waiters.iter().filter(|waiter| !waiter.is_alive().unwrap()).count() == 3
    });
    assert_eq!(semaphore.value(), 0);
    semaphore.release().unwrap();
    join_all(waiters);
}

#[test]
fn too_many_permits_are_an_error_that_changes_nothing() {
    let semaphore = Semaphore::new(Semaphore::MAX - 1);
    assert_eq!(semaphore.release_many(2), Err(OverRelease { bound: Semaphore::MAX }));
    assert_eq!(semaphore.release_many(0), Ok(()));
    assert_eq!(semaphore.value(), Semaphore::MAX - 1);
    assert_eq!(semaphore.release(), Ok(()));
    assert_eq!(semaphore.release(), Err(OverRelease { bound: Semaphore::MAX }));
    assert_eq!(semaphore.release_many(u32::MAX), Err(OverRelease { bound: Semaphore::MAX }));
    assert_eq!(semaphore.value(), Semaphore::MAX);
    assert_eq!(semaphore.try_acquire(), Ok(()));
    assert_eq!(semaphore.value(), Semaphore::MAX - 1);
}

#[test]
fn acquiring_times_out_in_every_form() {
    let semaphore = Semaphore::new(0);
    assert_eq!(semaphore.try_acquire(), Err(SemaphoreError::WouldBlock));
    assert_eq!(semaphore.acquire_timeout(Duration::ZERO), Err(SemaphoreError::TimedOut));
    assert_eq!(semaphore.acquire_deadline(Instant::now()), Err(SemaphoreError::TimedOut));
    for timeout in [1, 30, 150].map(Duration::from_millis) {
        let began = Instant::now();
        assert_eq!(semaphore.acquire_timeout(timeout), Err(SemaphoreError::TimedOut));
        let took = began.elapsed();
        assert!(
            took >= timeout && took < timeout + Duration::from_millis(500),
            "{timeout:?} took {took:?}"
        );
    }
    semaphore.release_many(2).unwrap();
    assert_eq!(semaphore.acquire_timeout(Duration::ZERO), Ok(()));
    assert_eq!(semaphore.acquire_timeout(Duration::MAX), Ok(()));
    assert_eq!(semaphore.value(), 0);
}

type Access<S> = fn(&S) -> Result<SemaphoreGuard<'_>, SemaphoreError>;

/// Takes a guard in each form, from a semaphore of this type with one permit.
macro_rules! is_accessed_in_every_form {
    ($semaphore:ty) => {
        let semaphore = <$semaphore>::new(1);
        let brief = Duration::from_millis(30);
        let forms: [(&str, Access<$semaphore>); 5] = [
            ("access", |semaphore| Ok(semaphore.access())),
            ("try_access", |semaphore| semaphore.try_access()),
            ("access_timeout", |semaphore| semaphore.access_timeout(PATIENCE)),
            ("access_deadline", |semaphore| semaphore.access_deadline(Instant::now() + PATIENCE)),
            ("access_with", |semaphore| semaphore.access_with(Wait::timeout(PATIENCE))),
        ];
        for (form, access) in forms {
            let guard = access(&semaphore).unwrap();
            assert_eq!(semaphore.value(), 0, "{form}");
            assert_eq!(semaphore.try_access().map(drop), Err(SemaphoreError::WouldBlock), "{form}");
            let began = Instant::now();
            assert_eq!(semaphore.access_deadline(began).map(drop), Err(SemaphoreError::TimedOut));
            assert_eq!(
                semaphore.access_timeout(Duration::ZERO).map(drop),
                Err(SemaphoreError::TimedOut)
            );
            assert_eq!(semaphore.access_with(Wait::NONE).map(drop), Err(SemaphoreError::TimedOut));
            assert_eq!(
                semaphore.access_deadline(began + brief).map(drop),
                Err(SemaphoreError::TimedOut)
            );
            assert!(began.elapsed() >= brief, "{form}");
            assert_eq!(semaphore.value(), 0, "what was refused gives nothing back");
            drop(guard);
            assert_eq!(semaphore.value(), 1, "{form}");
        }
    };
}

#[test]
fn a_guard_of_every_form_gives_its_permit_back() {
    is_accessed_in_every_form!(Semaphore);
    is_accessed_in_every_form!(BoundedSemaphore);
}

#[test]
fn a_guard_that_is_dropped_wakes_who_waits_for_one() {
    let semaphore = Shm::new(Semaphore::new(1)).unwrap();
    let guard = semaphore.access();
    let theirs = semaphore.clone();
    let waiter = fork(move || drop(theirs.access_deadline(Instant::now() + PATIENCE).unwrap()));
    wait_until_asleep(&waiter);
    drop(guard);
    join_all([waiter]);
    assert_eq!(semaphore.value(), 1);
}

/// One permit goes round among acquirers that are killed at random. If the permit died with its
/// taker, the test releases it again. No acquirer sleeps while there is a permit.
#[test]
fn acquirers_killed_at_random_strand_nobody() {
    let room = Shm::new(Room {
        places: Semaphore::new(1),
        inside: AtomicU32::new(0),
        most: AtomicU32::new(0),
    })
    .unwrap();
    let worker = || {
        let room = room.clone();
        fork(move || -> () {
            loop {
                room.places.acquire();
                room.most.fetch_add(1, Relaxed);
                room.places.release().unwrap();
            }
        })
    };
    let mut workers = [(); 3].map(|()| worker());
    let mut random = fastrand::Rng::with_seed(13);
    let mut lost = 0;
    for _ in 0..120 {
        for _ in 0..random.u32(..20_000) {
            std::hint::spin_loop();
        }
        let victim = random.usize(..workers.len());
        kill(&workers[victim]);
        workers[victim] = worker();
        let before = room.most.load(Relaxed);
        let began = Instant::now();
        while room.most.load(Relaxed) == before {
            assert!(began.elapsed() < PATIENCE, "there is a permit and everybody sleeps");
            // No worker makes progress for a while, and there is no permit: it died with the
            // victim. While there is a permit, releasing another would hide that a worker sleeps in
            // spite of it.
            let are_idle = || room.places.value() == 0 && workers.iter().all(is_asleep);
            if began.elapsed() > Duration::from_millis(100) && are_idle() {
                room.places.release().unwrap();
                lost += 1;
                wait_until("someone takes the new permit", || room.most.load(Relaxed) != before);
            }
        }
        assert!(began.elapsed() < PATIENCE);
    }
    println!("{lost} permits died with their takers");
    workers.iter().for_each(kill);
}
