//! `Permits` and `BoundedSemaphore` between processes: what is exact, and what comes back.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    BoundedSemaphore, Event, Lock, OverRelease, Permits, PermitsError, Semaphore, Shm, Wait,
    set_recheck_interval, shared,
};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

#[test]
fn there_are_as_many_as_it_says() {
    let permits: Permits<3> = Permits::new();
    let mut held: Vec<_> = (0..3).map(|_| permits.try_acquire().unwrap()).collect();
    assert_eq!(permits.value(), 0);
    assert!(matches!(permits.try_acquire(), Err(PermitsError::WouldBlock)));
    // This thread would wait for itself.
    assert!(matches!(permits.acquire(), Err(PermitsError::Deadlock)));
    drop(held.remove(1));
    assert_eq!(permits.value(), 1);
    held.push(permits.acquire().unwrap());
    drop(held);
    assert_eq!(permits.value(), 3);
}

shared! {
    struct Counted {
        permits: Permits<2>,
        inside: AtomicU32,
        most: AtomicU32,
    }
}

#[test]
fn no_more_are_inside_than_there_are_permits() {
    let all = Shm::new(Counted {
        permits: Permits::new(),
        inside: AtomicU32::new(0),
        most: AtomicU32::new(0),
    })
    .unwrap();
    join_all([(); 5].map(|()| {
        let all = all.clone();
        fork(move || {
            for _ in 0..2_000 {
                let _permit = all.permits.acquire().unwrap();
                let inside = all.inside.fetch_add(1, SeqCst) + 1;
                all.most.fetch_max(inside, SeqCst);
                all.inside.fetch_sub(1, SeqCst);
            }
        })
    }));
    assert!(all.most.load(SeqCst) <= 2);
    assert_eq!(all.permits.value(), 2);
}

/// Kills a holder of all `N` permits while other processes wait, or while they acquire and release.
/// Returns how long it took until all permits were back.
fn kill_a_holder<const N: usize>(sliced: bool) -> Duration {
    shared! {
        struct Flags {
            holds: Event,
            over: AtomicU32,
            acquired: AtomicU32,
        }
    }
    let permits: Shm<Permits<N>> = Shm::new(Permits::new()).unwrap();
    let flags = Shm::new(Flags {
        holds: Event::new(),
        over: AtomicU32::new(0),
        acquired: AtomicU32::new(0),
    })
    .unwrap();
    let (theirs, of_holder) = (permits.clone(), flags.clone());
    let holder = fork(move || {
        let _held: Vec<_> = (0..N).map(|_| theirs.acquire().unwrap()).collect();
        of_holder.holds.set();
        thread::park();
    });
    flags.holds.wait();
    let others = [(); 3].map(|()| {
        let (permits, flags) = (permits.clone(), flags.clone());
        let child = fork(move || {
            set_recheck_interval(sliced.then_some(Duration::from_millis(100)));
            while flags.over.load(Relaxed) == 0 {
                let _permit = permits.acquire().unwrap();
                flags.acquired.fetch_add(1, Relaxed);
            }
        });
        wait_until_asleep(&child);
        child
    });
    assert_eq!(permits.value(), 0);
    holder.kill().unwrap();
    let began = Instant::now();
    // One process holds all of them at once, while the others come and go.
    let mut held = Vec::new();
    while held.len() < N {
        held.push(permits.acquire_timeout(PATIENCE).unwrap());
    }
    let took = began.elapsed();
    drop(held);
    wait_until("the others have had some", || flags.acquired.load(Relaxed) >= 3);
    flags.over.store(1, Relaxed);
    join_all(others);
    assert_eq!(permits.value(), N);
    took
}

#[test]
fn the_permits_of_a_killed_holder_are_back_at_once() {
    for sliced in [false, true] {
        for (count, took) in [
            (1, kill_a_holder::<1>(sliced)),
            (10, kill_a_holder::<10>(sliced)),
            (64, kill_a_holder::<64>(sliced)),
        ] {
            println!(
                "{count} permits of a killed holder were back, with 3 others who acquire and \
                 release, after {took:?}"
            );
            assert!(took < Duration::from_secs(5), "{count} took {took:?}");
        }
    }
}

/// As many sleepers as permits: the kernel may find the same sleeper for several permits. Each
/// still gets one.
#[test]
fn every_sleeper_gets_one_of_several_permits_of_a_killed_holder() {
    for _ in 0..20 {
        let permits: Shm<Permits<4>> = Shm::new(Permits::new()).unwrap();
        let holds = Shm::new(Event::new()).unwrap();
        let (theirs, held) = (permits.clone(), holds.clone());
        let holder = fork(move || {
            let _held: Vec<_> = (0..4).map(|_| theirs.acquire().unwrap()).collect();
            held.set();
            thread::park();
        });
        holds.wait();
        let go_on = Shm::new(Event::new()).unwrap();
        let sleepers = [(); 4].map(|()| {
            let (permits, go_on) = (permits.clone(), go_on.clone());
            let child = fork(move || {
                let _permit = permits.acquire().unwrap();
                go_on.wait();
            });
            wait_until_asleep(&child);
            child
        });
        kill(&holder);
        // No sleeper gives its permit back before all have one.
        let is_held = || permits.value() == 0;
        let owners_are_gone = AtomicBool::new(false);
        wait_until("all four are held by the living", || {
            owners_are_gone.store(!holder.is_alive().unwrap(), Relaxed);
            owners_are_gone.load(Relaxed) && is_held()
        });
        go_on.set();
        join_all(sleepers);
    }
}

#[test]
fn participants_killed_at_random_moments_take_no_permit_with_them() {
    let permits: Shm<Permits<3>> = Shm::new(Permits::new()).unwrap();
    let over = Shm::new(Event::new()).unwrap();
    let work = |permits: &Permits<3>, over: &Event| {
        while !over.is_set() {
            let _one = permits.acquire().unwrap();
            if let Ok(other) = permits.try_acquire() {
                drop(other);
            }
        }
    };
    let start = || {
        let (permits, over) = (permits.clone(), over.clone());
        fork(move || work(&permits, &over))
    };
    let survivors = [(); 3].map(|()| start());
    for _ in 0..300 {
        let victim = start();
        let until = Instant::now() + Duration::from_micros(fastrand::u64(50..1_500));
        while Instant::now() < until {
            thread::yield_now();
        }
        kill(&victim);
    }
    over.set();
    join_all(survivors);
    assert_eq!(permits.value(), 3);
}

#[test]
fn waiting_for_a_permit_times_out_in_every_form() {
    let permits: Shm<Permits<2>> = Shm::new(Permits::new()).unwrap();
    let holds = Shm::new(Event::new()).unwrap();
    let (theirs, held) = (permits.clone(), holds.clone());
    let holder: Child = fork(move || {
        let _held = [theirs.acquire().unwrap(), theirs.acquire().unwrap()];
        held.set();
        thread::park();
    });
    holds.wait();
    let began = Instant::now();
    assert!(matches!(permits.acquire_timeout(Duration::ZERO), Err(PermitsError::TimedOut)));
    assert!(matches!(permits.acquire_deadline(began), Err(PermitsError::TimedOut)));
    assert!(matches!(
        permits.acquire_with(Wait::timeout(Duration::from_millis(20))),
        Err(PermitsError::TimedOut)
    ));
    assert!(began.elapsed() >= Duration::from_millis(20));
    kill(&holder);
    assert!(permits.acquire_timeout(Duration::MAX).is_ok());
}

/// A waiter wakes the next one if it is woken but cannot take the permit, because its thread
/// already holds all that a thread may hold.
#[test]
fn a_waiter_that_fails_passes_its_wake_up_on() {
    let permits: Shm<Permits<1>> = Shm::new(Permits::new()).unwrap();
    let permit = permits.acquire().unwrap();
    let theirs = permits.clone();
    let full = fork(move || {
        let locks: Vec<Lock<u8>> = (0..1_000).map(|_| Lock::new(0)).collect();
        let _guards: Vec<_> = locks.iter().map(|lock| lock.lock().unwrap()).collect();
        assert!(matches!(theirs.acquire(), Err(PermitsError::TooManyHeld)));
        thread::park();
    });
    wait_until_asleep(&full);
    let theirs = permits.clone();
    let next = fork(move || drop(theirs.acquire().unwrap()));
    wait_until_asleep(&next);
    drop(permit);
    join_all([next]);
    kill(&full);
}

#[test]
fn more_than_the_kernel_watches_can_be_waited_for() {
    let permits: Shm<Permits<200>> = Shm::new(Permits::new()).unwrap();
    let all: Vec<_> = (0..200).map(|_| permits.acquire().unwrap()).collect();
    let theirs = permits.clone();
    let waiter = fork(move || drop(theirs.acquire().unwrap()));
    wait_until_asleep(&waiter);
    drop(all);
    join_all([waiter]);
}

#[test]
fn a_permit_that_was_carried_into_a_child_stays_the_parents() {
    let permits: Shm<Permits<1>> = Shm::new(Permits::new()).unwrap();
    let permit = permits.acquire().unwrap();
    // SAFETY: the child only makes async-signal-safe calls: it drops the permit, which is the point
    // of the test, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(permit);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(permits.value() != 0)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was forked above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!((status, permits.value()), (0, 0));
    drop(permit);
    assert_eq!(permits.value(), 1);
}

#[test]
fn a_release_too_many_is_an_error_and_changes_nothing() {
    let semaphore = BoundedSemaphore::new(2);
    let too_many = Err(OverRelease { bound: 2 });
    assert_eq!(semaphore.release(), too_many);
    semaphore.acquire();
    assert_eq!(semaphore.release_many(2), too_many);
    assert_eq!(semaphore.value(), 1);
    assert_eq!(semaphore.release_many(1), Ok(()));
    let guard = semaphore.access_with(Wait::NONE).unwrap();
    assert_eq!(semaphore.value(), 1);
    drop(guard);
    assert_eq!((semaphore.value(), semaphore.bound()), (2, 2));
    assert_eq!(BoundedSemaphore::new(0).release(), Err(OverRelease { bound: 0 }));
    assert_eq!(
        BoundedSemaphore::new(Semaphore::MAX).release(),
        Err(OverRelease { bound: Semaphore::MAX })
    );
}

#[test]
fn the_bound_is_exact_however_many_release_at_once() {
    const BOUND: u32 = 3;
    shared! {
        struct Bounded {
            semaphore: BoundedSemaphore,
            released: AtomicU32,
            refused: AtomicU32,
        }
    }
    for _ in 0..20 {
        let all = Shm::new(Bounded {
            semaphore: BoundedSemaphore::new(BOUND),
            released: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        })
        .unwrap();
        for _ in 0..BOUND {
            all.semaphore.acquire();
        }
        join_all([(); 4].map(|()| {
            let all = all.clone();
            fork(move || {
                for _ in 0..100 {
                    let count =
                        if all.semaphore.release().is_ok() { &all.released } else { &all.refused };
                    count.fetch_add(1, Relaxed);
                    assert!(all.semaphore.value() <= BOUND);
                }
            })
        }));
        assert_eq!((all.released.load(Relaxed), all.refused.load(Relaxed)), (BOUND, 400 - BOUND));
        assert_eq!(all.semaphore.value(), BOUND);
    }
}
