//! `Lock` between processes: exclusion, owners that die in every way, time.

#![allow(unsafe_code)]

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{Event, Lock, LockError, LockGuard, Semaphore, Shm, Wait, shared};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

/// Returns the guard, and whether the last owner had died. It declares the value whole.
fn recovered(lock: &Lock<u64>) -> (LockGuard<'_, u64>, bool) {
    let mut died = false;
    (lock.lock_or_repair_timeout(PATIENCE, |_| died = true).unwrap(), died)
}

#[test]
fn four_processes_count_without_losing_one() {
    const ROUNDS: u64 = 20_000;
    let count = Shm::new(Lock::new(0_u64)).unwrap();
    join_all([(); 4].map(|()| {
        let count = count.clone();
        fork(move || {
            for _ in 0..ROUNDS {
                *count.lock().unwrap() += 1;
            }
        })
    }));
    assert_eq!(*count.lock().unwrap(), 4 * ROUNDS);
}

shared! {
    struct Handover {
        lock: Lock<u64>,
        held: Event,
        got: Semaphore,
        /// When a waiter got OwnerDied, in nanoseconds of CLOCK_MONOTONIC.
        reported_at: AtomicU64,
        reports: AtomicU32,
    }
}

/// Kills the owner while four processes sleep on its lock. Returns how long it took until one of
/// them was told.
fn kill_an_owner_with_four_waiters() -> Duration {
    let all = Shm::new(Handover {
        lock: Lock::new(0),
        held: Event::new(),
        got: Semaphore::new(0),
        reported_at: AtomicU64::new(0),
        reports: AtomicU32::new(0),
    })
    .unwrap();
    let owner = {
        let all = all.clone();
        fork(move || -> () {
            let _guard = all.lock.lock().unwrap();
            all.held.set();
            loop {
                thread::park();
            }
        })
    };
    all.held.wait_timeout(PATIENCE).unwrap();
    assert_eq!(all.lock.owner(), Some(owner.id()));
    let waiters = [(); 4].map(|()| {
        let all = all.clone();
        fork(move || {
            let (mut guard, had_died) = recovered(&all.lock);
            if had_died {
                all.reported_at.store(crossproc_sys::clock::now(), Relaxed);
                all.reports.fetch_add(1, Relaxed);
            }
            *guard += 1;
            all.got.release().unwrap();
        })
    });
    waiters.iter().for_each(wait_until_asleep);
    let killed_at = crossproc_sys::clock::now();
    kill(&owner);
    for _ in &waiters {
        all.got.acquire_timeout(PATIENCE).unwrap();
    }
    join_all(waiters);
    assert_eq!(all.reports.load(Relaxed), 1, "one is told, and nobody after it has recovered");
    assert_eq!(*all.lock.lock().unwrap(), 4);
    Duration::from_nanos(all.reported_at.load(Relaxed) - killed_at)
}

#[test]
fn a_killed_owner_is_reported_to_one_waiter_within_10_ms_and_the_others_go_on() {
    let mut delays: Vec<_> = (0..11).map(|_| kill_an_owner_with_four_waiters()).collect();
    delays.sort();
    println!("from SIGKILL to OwnerDied: median {:?}, worst {:?}", delays[5], delays[10]);
    assert!(delays[5] < Duration::from_millis(10), "{delays:?}");
}

#[test]
fn a_death_is_passed_on_until_someone_recovers() {
    let lock = Shm::new(Lock::new(0_u64)).unwrap();
    let theirs = lock.clone();
    let owner = fork(move || std::mem::forget(theirs.lock()));
    owner.join_timeout(PATIENCE).unwrap();
    for _ in 0..3 {
        assert_eq!(lock.lock().map(drop), Err(LockError::OwnerDied));
        assert_eq!(lock.owner(), None, "the error holds nothing");
        assert!(lock.lock_unrepaired(Wait::FOREVER).unwrap().is_inconsistent());
    }
    let by_question_mark = || -> Result<(), Box<dyn std::error::Error>> {
        *lock.lock()? = 1;
        Ok(())
    };
    assert_eq!(by_question_mark().unwrap_err().to_string(), LockError::OwnerDied.to_string());
    let guard = lock.lock_unrepaired(Wait::NONE).unwrap();
    drop(guard.recover());
    assert!(!lock.lock().unwrap().is_inconsistent());
}

#[test]
fn locking_twice_is_a_deadlock_and_not_a_hang() {
    let lock = Lock::new(1_u64);
    let guard = lock.lock().unwrap();
    assert!(matches!(lock.lock(), Err(LockError::Deadlock)));
    assert!(matches!(lock.try_lock(), Err(LockError::Deadlock)));
    assert!(matches!(lock.lock_timeout(Duration::MAX), Err(LockError::Deadlock)));
    drop(guard);
    assert_eq!(*lock.lock().unwrap(), 1);
}

#[test]
fn a_held_lock_times_out_in_every_form() {
    let lock = Lock::new(0_u64);
    let _guard = lock.lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
            assert!(matches!(lock.lock_timeout(Duration::ZERO), Err(LockError::TimedOut)));
            assert!(matches!(lock.lock_deadline(Instant::now()), Err(LockError::TimedOut)));
            let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            assert!(matches!(lock.lock_deadline(past), Err(LockError::TimedOut)));
            for timeout in [1, 30, 150].map(Duration::from_millis) {
                let began = Instant::now();
                assert!(matches!(lock.lock_timeout(timeout), Err(LockError::TimedOut)));
                let took = began.elapsed();
                assert!(
                    took >= timeout && took < timeout + Duration::from_millis(500),
                    "{timeout:?} took {took:?}"
                );
            }
        });
    });
}

#[test]
fn a_very_long_time_out_waits() {
    let lock = Lock::new(0_u64);
    let guard = lock.lock().unwrap();
    let waiting = AtomicU32::new(0);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            waiting.store(1, Relaxed);
            *lock.lock_timeout(Duration::MAX).unwrap() += 1;
        });
        wait_until("the waiter begins", || waiting.load(Relaxed) == 1);
        assert!(!waiter.is_finished());
        drop(guard);
    });
    assert_eq!(*lock.lock().unwrap(), 1);
}

#[test]
fn a_thread_that_ends_frees_what_it_has_acquired_without_a_guard() {
    let lock = Shm::new(Lock::new(0_u64)).unwrap();
    let _ =
        thread::scope(|scope| scope.spawn(|| lock.acquire(Wait::FOREVER).unwrap()).join().unwrap());
    // The kernel frees the lock when it has finished with the thread, which is after `join`
    // returns.
    assert!(recovered(&lock).1);
}

#[test]
fn unlocking_in_any_order_keeps_the_rest_recoverable() {
    let locks: Shm<[Lock<u64>]> = Shm::from_fn(5, |_| Lock::new(0)).unwrap();
    // Which two of the five to unlock: every pair, in both orders.
    for (first, second) in
        (0..5).flat_map(|first| (0..5).map(move |second| (first, second))).filter(|(a, b)| a != b)
    {
        let theirs = locks.clone();
        let child = fork(move || -> () {
            let mut guards: [_; 5] = std::array::from_fn(|index| theirs[index].lock().ok());
            drop(guards[first].take());
            drop(guards[second].take());
            std::process::abort();
        });
        assert_eq!(child.join_timeout(PATIENCE).unwrap().signal(), Some(libc::SIGABRT));
        for (index, lock) in locks.iter().enumerate() {
            let (_guard, had_died) = recovered(lock);
            assert_eq!(
                had_died,
                index != first && index != second,
                "lock {index} after unlocking {first}, {second}"
            );
        }
    }
}

#[test]
fn a_thread_may_hold_a_thousand_and_all_are_recovered() {
    const MOST: usize = crossproc_sys::robust::MAX_HELD;
    let locks: Shm<[Lock<u64>]> = Shm::from_fn(MOST + 1, |_| Lock::new(0)).unwrap();
    let theirs = locks.clone();
    let child = fork(move || {
        let held: Vec<_> = theirs[..MOST].iter().map(|lock| lock.lock().unwrap()).collect();
        assert!(matches!(theirs[MOST].lock(), Err(LockError::TooManyHeld)));
        assert!(matches!(theirs[MOST].try_lock(), Err(LockError::TooManyHeld)));
        std::mem::forget(held);
    });
    join_all([child]);
    for lock in &locks[..MOST] {
        assert!(recovered(lock).1);
    }
    assert!(!recovered(&locks[MOST]).1);
}

#[test]
fn a_forked_child_holds_nothing_and_its_copy_of_a_guard_does_nothing() {
    let lock = Shm::new(Lock::new(0_u64)).unwrap();
    let guard = lock.lock().unwrap();
    // SAFETY: the child uses the crate and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(guard);
        let held_by_parent = matches!(lock.try_lock(), Err(LockError::WouldBlock));
        crossproc_sys::process::exit_now(if held_by_parent { 0 } else { 1 });
    }
    let mut status = 0;
    // SAFETY: waits for the child above and writes its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "dropped in the child, the guard must not unlock");
    drop(guard);
    assert!(!recovered(&lock).1);
}

#[test]
fn what_a_forked_child_takes_is_recovered_when_it_dies_also_if_its_parent_held_locks() {
    let locks: Shm<[Lock<u64>]> = Shm::from_fn(3, |_| Lock::new(0)).unwrap();
    let _parents = locks[0].lock().unwrap();
    for _ in 0..3 {
        let theirs = locks.clone();
        let ready = Shm::new(Event::new()).unwrap();
        let tell = ready.clone();
        let child = fork(move || -> () {
            let _guards = [theirs[1].lock().unwrap(), theirs[2].lock().unwrap()];
            tell.set();
            loop {
                thread::park();
            }
        });
        ready.wait_timeout(PATIENCE).unwrap();
        kill(&child);
        assert!(recovered(&locks[1]).1 && recovered(&locks[2]).1);
    }
}

#[test]
fn a_lock_that_is_held_keeps_its_memory_so_that_later_locks_are_still_freed() {
    let outer = Shm::new(Lock::new(0_u64)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let gone = Shm::new(Lock::new(0_u64)).unwrap();
            let _ = gone.acquire(Wait::FOREVER).unwrap();
            let _ = outer.acquire(Wait::FOREVER).unwrap();
            // If the mapping were gone, the kernel's walk would stop there, before `outer`.
            drop(gone);
        });
    });
    assert!(recovered(&outer).1);
}

#[test]
fn memory_of_a_lock_whose_guard_was_leaked_is_not_written_any_more() {
    // A process of its own, which is not ended for the leak before its thread ends.
    join_all([fork(|| {
        let older = Lock::new(0_u64);
        let guard = older.lock().unwrap();
        let mut reused = Box::new(Lock::new(0_u64));
        std::mem::forget(reused.lock());
        // From here on the memory holds another value.
        *reused = Lock::new(0);
        drop(guard);
        let fresh = Lock::new(0_u64);
        let bytes = |lock: *const Lock<u64>| lock.cast::<[u8; size_of::<Lock<u64>>()]>();
        // SAFETY: all of it was initialised, and no other thread has it.
        let now = unsafe { bytes(&raw const *reused).read() };
        // SAFETY: as above.
        assert_eq!(now, unsafe { bytes(&raw const fresh).read() });
    })]);
}

#[test]
fn locks_that_are_passed_along_hand_over_hand_are_recoverable_at_any_point() {
    const LINKS: usize = 5_000;
    let chain: Shm<[Lock<u64>]> = Shm::from_fn(LINKS, |_| Lock::new(0)).unwrap();
    let theirs = chain.clone();
    join_all([fork(move || {
        // One lock stays below the others, so that the record is never empty.
        std::mem::forget(theirs[0].lock());
        let mut held = theirs[1].lock().unwrap();
        for link in &theirs[2..] {
            let next = link.lock().unwrap();
            drop(std::mem::replace(&mut held, next));
        }
        std::mem::forget(held);
    })]);
    let died = chain.iter().map(|lock| recovered(lock).1);
    assert!(died.enumerate().all(|(index, died)| died == [0, LINKS - 1].contains(&index)));
}

#[test]
fn a_guards_copy_in_a_forked_child_does_not_free_what_the_child_has_taken() {
    let lock = Shm::new(Lock::new(0_u64)).unwrap();
    let freed = Shm::new(Event::new()).unwrap();
    let guard = lock.lock().unwrap();
    // SAFETY: the child uses the crate and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        freed.wait();
        let own = lock.lock();
        drop(guard);
        let still_held = matches!(lock.try_lock(), Err(LockError::Deadlock));
        drop(own);
        crossproc_sys::process::exit_now(if still_held { 0 } else { 1 });
    }
    drop(guard);
    freed.set();
    let mut status = 0;
    // SAFETY: waits for the child above and writes its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

#[test]
fn records_of_threads_that_are_gone_are_used_again() {
    let lock = Lock::new(0_u64);
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let in_a_thread =
        || thread::scope(|scope| scope.spawn(|| *recovered(&lock).0 += 1).join().unwrap());
    for _ in 0..50 {
        in_a_thread();
    }
    let before = mappings();
    for _ in 0..500 {
        in_a_thread();
    }
    assert!(mappings() < before + 100, "{before} mappings have become {}", mappings());
}

shared! {
    struct Halves {
        /// Both halves are equal whenever the value is whole.
        lock: Lock<[u64; 2]>,
        deaths: AtomicU64,
    }
}

impl Halves {
    fn repair(&self, both: &mut [u64; 2]) {
        self.deaths.fetch_add(1, Relaxed);
        both[1] = both[0];
    }
}

#[test]
fn processes_killed_at_random_strand_nobody_and_lose_nothing_whole() {
    let shared = Shm::new(Halves { lock: Lock::new([0; 2]), deaths: AtomicU64::new(0) }).unwrap();
    let worker = || {
        let shared = shared.clone();
        fork(move || -> () {
            loop {
                let mut guard = shared.lock.lock_or_repair(|both| shared.repair(both)).unwrap();
                assert_eq!(guard[0], guard[1]);
                guard[0] += 1;
                guard[1] += 1;
            }
        })
    };
    let mut workers = [(); 3].map(|()| worker());
    let mut random = fastrand::Rng::with_seed(7);
    let until = Instant::now() + Duration::from_secs(3);
    let (mut kills, mut last) = (0, 0);
    while Instant::now() < until {
        let victim = random.usize(..workers.len());
        for _ in 0..random.u32(..3000) {
            std::hint::spin_loop();
        }
        kill(&workers[victim]);
        kills += 1;
        workers[victim] = worker();
        // The other workers, or the new one, must make progress.
        wait_until("someone gets the lock after a kill", || {
            let now = recovered_halves(&shared);
            std::mem::replace(&mut last, now) != now
        });
    }
    println!("{kills} kills, {} owners died, {last} sections", shared.deaths.load(Relaxed));
    workers.iter().for_each(kill);
}

/// Returns the first half, read under the lock. Recovers the lock if its owner has died.
fn recovered_halves(shared: &Halves) -> u64 {
    let guard = shared.lock.lock_or_repair_timeout(PATIENCE, |both| shared.repair(both)).unwrap();
    assert_eq!(guard[0], guard[1]);
    guard[0]
}
