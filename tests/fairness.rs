//! A waiter gets the lock, whatever the others do.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{Lock, Shm, shared};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, slowness, wait_until, wait_until_asleep};

shared! {
    struct Contest {
        lock: Lock<()>,
        /// The number of times that the rivals have had the lock.
        hands: AtomicU64,
        over: AtomicU32,
    }
}

fn contest() -> Shm<Contest> {
    Shm::new(Contest { lock: Lock::new(()), hands: AtomicU64::new(0), over: AtomicU32::new(0) })
        .unwrap()
}

/// The number of times that a waiter may lose a lock before others yield to it:
/// `crossproc_sys::futex::MAX_LOSSES`.
const LOSSES: u64 = 8;

/// How long the others yield to it.
const STAND_BACK: Duration = Duration::from_millis(10);

/// Returns the word of a lock that names the starving waiter: the first spare one of its
/// `RobustWord`.
fn starving(lock: &Lock<()>) -> &AtomicU32 {
    const SPARE: usize = 12;
    // SAFETY: inside the lock.
    let word = unsafe { core::ptr::from_ref(lock).byte_add(SPARE) };
    // SAFETY: as above, and aligned; all accesses are atomic.
    unsafe { AtomicU32::from_ptr(word.cast::<u32>().cast_mut()) }
}

/// Runs the calling process on that CPU alone, if there is one. A process that is woken there does
/// not displace the rivals from theirs.
fn pin(cpu: usize) {
    // SAFETY: an array of integers: zeroes are a valid value, the empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: sets a bit below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: reads as many bytes as `set` has. It fails where there is no such CPU, and then the
    // test is less hard.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Returns a process that takes the lock for 100 µs again and again, with nothing in between.
fn rival(contest: &Shm<Contest>) -> Child {
    let contest = contest.clone();
    fork(move || {
        pin(0);
        while contest.over.load(Relaxed) == 0 {
            // A starving waiter was killed when it had got the lock.
            let _guard = contest.lock.lock_or_repair(|_| ()).unwrap();
            contest.hands.fetch_add(1, Relaxed);
            let until = Instant::now() + Duration::from_micros(100);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
    })
}

/// Waits until the child has stopped or ended.
fn wait_until_stopped(child: &Child) {
    let state = format!("/proc/{}/stat", child.id());
    wait_until("it has stopped or ended", || {
        std::fs::read_to_string(&state)
            .is_ok_and(|stat| [") T ", ") Z "].iter().any(|state| stat.contains(state)))
    });
}

/// Returns how often this thread has gone to sleep.
fn sleeps() -> u64 {
    // SAFETY: integers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: writes the usage of the calling thread.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_nvcsw as u64
}

#[test]
fn a_waiter_gets_the_lock_after_a_bounded_number_of_wake_ups() {
    const ROUNDS: usize = 100;
    for rivals in [1, 3] {
        let contest = contest();
        let children: Vec<_> = (0..rivals).map(|_| rival(&contest)).collect();
        let theirs = contest.clone();
        let waiter = fork(move || {
            pin(1);
            let mut times = Vec::new();
            let mut counts: Vec<_> = (0..ROUNDS)
                .map(|_| {
                    let (began, before) = (Instant::now(), theirs.hands.load(Relaxed));
                    wait_until("a rival has the lock", || theirs.hands.load(Relaxed) != before);
                    times.push(began.elapsed());
                    let (slept, hands) = (sleeps(), theirs.hands.load(Relaxed));
                    let _guard = theirs.lock.lock_timeout(PATIENCE).unwrap();
                    (sleeps() - slept, theirs.hands.load(Relaxed) - hands)
                })
                .collect();
            counts.sort_unstable();
            let (median, worst) = (counts[ROUNDS / 2], counts[ROUNDS - 1]);
            println!(
                "{rivals} rivals: sleeps and other owners until it had the lock, median \
                 {median:?}, worst {worst:?}"
            );
            // The waiter sleeps once for each loss, and once more for the owner that has the lock
            // when it announces that it starves. On a busy machine, it sometimes wakes up after the
            // others have stopped yielding.
            assert!(median.0 <= LOSSES + 2, "median {median:?}");
            assert!(worst.0 <= 4 * LOSSES, "worst {worst:?}");
            // Once it has had the lock, the others do not yield to it.
            times.sort_unstable();
            assert!(
                times[ROUNDS / 2] < STAND_BACK / 2 * slowness(),
                "{:?} until a rival has it again",
                times[ROUNDS / 2]
            );
        });
        join_all([waiter]);
        contest.over.store(1, Relaxed);
        join_all(children);
    }
}

/// A starving waiter may be stopped or killed while the others yield to it. That costs them ten
/// milliseconds, once.
#[test]
fn a_starving_waiter_that_stops_or_dies_holds_nobody_up() {
    for is_killed in [false, true] {
        let contest = contest();
        let rivals = [(); 2].map(|()| rival(&contest));
        wait_until("the rivals are at it", || contest.hands.load(Relaxed) > 10);
        for _ in 0..20 {
            let theirs = contest.clone();
            let starving = fork(move || drop(theirs.lock.lock()));
            // This is long enough for some losses, whose number differs each time.
            let losses = contest.hands.load(Relaxed) + fastrand::u64(..2 * LOSSES);
            wait_until("it has lost some", || contest.hands.load(Relaxed) >= losses);
            if is_killed {
                kill(&starving);
            } else {
                starving.stop().unwrap();
                wait_until_stopped(&starving);
                if contest.lock.owner() == Some(starving.id()) {
                    // It has the lock by this time: a stopped owner is another matter.
                    kill(&starving);
                    continue;
                }
            }
            let before = contest.hands.load(Relaxed);
            let began = Instant::now();
            wait_until("the rivals go on", || contest.hands.load(Relaxed) > before + 20);
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{:?} for twenty owners",
                began.elapsed()
            );
            kill(&starving);
        }
        contest.over.store(1, Relaxed);
        join_all(rivals);
    }
}

/// A wake-up that reaches another waiter belongs to the starving one.
#[test]
fn a_waiter_that_stands_back_passes_its_wake_up_on() {
    const ROUNDS: usize = 20;
    let is_first = (0..ROUNDS).filter(|_| {
        let contest = contest();
        let guard = contest.lock.lock().unwrap();
        let waiters = [(); 2].map(|()| {
            let theirs = contest.clone();
            let waiter = fork(move || {
                let _guard = theirs.lock.lock().unwrap();
                let _ = theirs.over.compare_exchange(0, std::process::id(), Relaxed, Relaxed);
            });
            wait_until_asleep(&waiter);
            waiter
        });
        let second = waiters[1].id();
        starving(&contest.lock).store(second, Relaxed);
        drop(guard);
        join_all(waiters);
        assert_eq!(starving(&contest.lock).load(Relaxed), 0);
        contest.over.load(Relaxed) == second
    });
    let is_first = is_first.count();
    // On a busy machine, the starving waiter sometimes wakes up after the other has stopped
    // yielding.
    assert!(
        is_first >= ROUNDS / 2,
        "the starving one had the lock first {is_first} times of {ROUNDS}"
    );
}

/// The waiters also yield to a starving one that is awake, and so in no queue.
#[test]
fn others_stand_back_for_a_starving_waiter_that_does_not_sleep() {
    let contest = contest();
    let guard = contest.lock.lock().unwrap();
    let theirs = contest.clone();
    let waiter = fork(move || drop(theirs.lock.lock().unwrap()));
    wait_until_asleep(&waiter);
    starving(&contest.lock).store(waiter.id(), Relaxed);
    // A signal ends the waiter's sleep.
    waiter.stop().unwrap();
    wait_until_stopped(&waiter);
    drop(guard);
    let began = Instant::now();
    let guard = contest.lock.lock().unwrap();
    assert!(began.elapsed() >= STAND_BACK / 2, "{:?}", began.elapsed());
    waiter.resume().unwrap();
    drop(guard);
    join_all([waiter]);
}

/// Sleepers are served in the order in which they went to sleep, if no other thread takes the lock
/// in between.
#[test]
fn sleepers_are_served_in_order() {
    shared! {
        struct Queue {
            lock: Lock<u32>,
            order: [AtomicU32; 4],
        }
    }
    let queue = Shm::new(Queue { lock: Lock::new(0), order: Default::default() }).unwrap();
    let guard = queue.lock.lock().unwrap();
    let sleepers = [0, 1, 2, 3].map(|me: usize| {
        let queue = queue.clone();
        let child = fork(move || {
            let mut served = queue.lock.lock().unwrap();
            *served += 1;
            queue.order[me].store(*served, Relaxed);
        });
        wait_until_asleep(&child);
        child
    });
    drop(guard);
    join_all(sleepers);
    assert_eq!(queue.order.each_ref().map(|place| place.load(Relaxed)), [1, 2, 3, 4]);
}
