//! `Barrier` and `Once` between processes.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{Barrier, BarrierError, Event, Once, OnceError, Shm, Wait, shared};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

shared! {
    struct Phases {
        barrier: Barrier,
        arrived: [AtomicU64; 4],
        leaders: AtomicU32,
        indices: AtomicU32,
        broken: AtomicU32,
    }
}

fn phases(parties: u32) -> Shm<Phases> {
    Shm::new(Phases {
        barrier: Barrier::new(parties),
        arrived: Default::default(),
        leaders: AtomicU32::new(0),
        indices: AtomicU32::new(0),
        broken: AtomicU32::new(0),
    })
    .unwrap()
}

#[test]
fn nobody_goes_on_before_all_are_there() {
    const PHASES: u64 = 2_000;
    let all = phases(4);
    join_all([0, 1, 2, 3].map(|me: usize| {
        let all = all.clone();
        fork(move || {
            for phase in 1..=PHASES {
                // Relaxed: the barrier provides the ordering.
                all.arrived[me].store(phase, Relaxed);
                let passed = all.barrier.wait().unwrap();
                for arrived in &all.arrived {
                    let seen = arrived.load(Relaxed);
                    assert!(seen == phase || seen == phase + 1, "{seen} in phase {phase}");
                }
                all.leaders.fetch_add(u32::from(passed.is_leader()), Relaxed);
                all.indices.fetch_add(1 << (8 * passed.index()), Relaxed);
                all.barrier.wait().unwrap();
                if passed.is_leader() {
                    assert_eq!(
                        all.indices.swap(0, Relaxed),
                        0x0101_0101,
                        "each index is one party's"
                    );
                }
                all.barrier.wait().unwrap();
            }
        })
    }));
    assert_eq!(u64::from(all.leaders.load(Relaxed)), PHASES);
    assert_eq!((all.barrier.n_waiting(), all.barrier.parties()), (0, 4));
}

/// Returns `N` processes that wait, and that count it if the barrier breaks.
fn waiters<const N: usize>(all: &Shm<Phases>) -> [crossproc::process::Child; N] {
    let waiters = [(); N].map(|()| {
        let all = all.clone();
        fork(move || {
            if all.barrier.wait() == Err(BarrierError::Broken) {
                all.broken.fetch_add(1, Relaxed);
            }
        })
    });
    waiters.iter().for_each(wait_until_asleep);
    waiters
}

#[test]
fn a_time_out_breaks_it_for_all() {
    let all = phases(4);
    let waiters = waiters::<2>(&all);
    assert_eq!(all.barrier.n_waiting(), 2);
    let began = Instant::now();
    assert_eq!(all.barrier.wait_timeout(Duration::from_millis(20)), Err(BarrierError::TimedOut));
    assert!(began.elapsed() >= Duration::from_millis(20));
    join_all(waiters);
    assert_eq!(all.broken.load(Relaxed), 2);
    assert!(all.barrier.is_broken());
    assert_eq!(
        (all.barrier.wait(), all.barrier.try_wait()),
        (Err(BarrierError::Broken), Err(BarrierError::Broken))
    );
    assert_eq!(all.barrier.arrive().map(drop), Err(BarrierError::Broken));
    all.barrier.reset();
    assert!(!all.barrier.is_broken());
    let waiters = self::waiters::<3>(&all);
    assert!(all.barrier.wait_timeout(PATIENCE).unwrap().is_leader());
    join_all(waiters);
    assert_eq!(all.broken.load(Relaxed), 2);
}

#[test]
fn abort_and_reset_break_it_for_those_who_wait() {
    let all = phases(3);
    let breaking: [fn(&Barrier); 2] = [Barrier::abort, Barrier::reset];
    for (break_it, is_broken) in breaking.into_iter().zip([true, false]) {
        let waiters = waiters::<2>(&all);
        break_it(&all.barrier);
        join_all(waiters);
        assert_eq!(all.broken.swap(0, Relaxed), 2);
        assert_eq!((all.barrier.is_broken(), all.barrier.n_waiting()), (is_broken, 0));
        all.barrier.reset();
    }
    let waiters = waiters::<2>(&all);
    all.barrier.wait_deadline(Instant::now() + PATIENCE).unwrap();
    join_all(waiters);
    assert_eq!(all.broken.load(Relaxed), 0);
}

#[test]
fn trying_is_for_the_last_one() {
    let all = phases(2);
    assert_eq!(all.barrier.try_wait(), Err(BarrierError::WouldBlock));
    assert_eq!(all.barrier.n_waiting(), 0);
    let waiters = waiters::<1>(&all);
    assert!(all.barrier.try_wait().unwrap().is_leader());
    join_all(waiters);
}

#[test]
fn past_deadlines_break_it_and_endless_ones_do_not() {
    let all = phases(2);
    for wait in [Wait::NONE, Wait::deadline(Instant::now())] {
        assert_eq!(all.barrier.wait_with(wait), Err(BarrierError::TimedOut));
        assert!(all.barrier.is_broken());
        all.barrier.reset();
    }
    let theirs = all.clone();
    let waiter =
        fork(move || assert!(!theirs.barrier.wait_timeout(Duration::MAX).unwrap().is_leader()));
    wait_until_asleep(&waiter);
    // The last one passes, whatever its deadline.
    assert!(all.barrier.wait_timeout(Duration::ZERO).is_ok());
    join_all([waiter]);
}

#[test]
fn who_has_arrived_counts_when_dead() {
    let all = phases(3);
    let [dead] = waiters::<1>(&all);
    kill(&dead);
    let [waiter] = waiters::<1>(&all);
    assert_eq!(all.barrier.n_waiting(), 2);
    assert_eq!(all.barrier.wait_timeout(PATIENCE).unwrap().index(), 2);
    join_all([waiter]);
}

#[test]
fn a_party_arrives_first_and_waits_later() {
    let all = phases(2);
    let arrival = all.barrier.arrive().unwrap();
    let theirs = all.clone();
    join_all([fork(move || assert!(theirs.barrier.wait().unwrap().is_leader()))]);
    // Another phase has begun and is broken: the arrival's own phase is not.
    all.barrier.abort();
    let passed = all.barrier.wait_for(arrival, Wait::NONE).unwrap();
    assert_eq!((passed.index(), passed.is_leader()), (0, false));
}

#[test]
fn a_phase_that_was_reset_stays_so_however_late_one_looks() {
    let barrier = Barrier::new(3);
    let arrivals = [(); 2].map(|()| barrier.arrive().unwrap());
    for resets in 1..20 {
        barrier.reset();
        for arrival in arrivals {
            assert_eq!(
                barrier.wait_for(arrival, Wait::NONE),
                Err(BarrierError::Broken),
                "after {resets} resets"
            );
        }
    }
}

#[test]
fn one_party_never_waits() {
    let barrier = Barrier::new(1);
    for _ in 0..3 {
        let passed = barrier.wait().unwrap();
        assert_eq!((passed.index(), passed.is_leader()), (0, true));
    }
}

#[test]
#[should_panic(expected = "at least one party")]
fn no_parties_are_refused() {
    drop(Barrier::new(0));
}

#[test]
#[should_panic(expected = "65,535 parties at most")]
fn too_many_parties_are_refused() {
    drop(Barrier::new(Barrier::MAX_PARTIES + 1));
}

shared! {
    struct Table {
        filled: Once,
        begun: Event,
        go_on: Event,
        times: AtomicU32,
        value: AtomicU64,
    }
}

fn table() -> Shm<Table> {
    Shm::new(Table {
        filled: Once::new(),
        begun: Event::new(),
        go_on: Event::new(),
        times: AtomicU32::new(0),
        value: AtomicU64::new(0),
    })
    .unwrap()
}

#[test]
fn the_work_is_done_once_and_everybody_sees_it() {
    for _ in 0..50 {
        let all = table();
        join_all([(); 4].map(|()| {
            let all = all.clone();
            fork(move || {
                all.filled
                    .call_once(|state| {
                        assert!(!state.predecessor_died());
                        all.times.fetch_add(1, Relaxed);
                        all.value.store(42, Relaxed);
                    })
                    .unwrap();
                assert!(all.filled.is_completed());
                assert_eq!(all.value.load(Relaxed), 42);
            })
        }));
        assert_eq!(all.times.load(Relaxed), 1);
    }
}

#[test]
fn a_killed_initialiser_hands_the_work_to_the_next() {
    let all = table();
    let theirs = all.clone();
    let first = fork(move || {
        theirs.filled.call_once(|_| {
            theirs.begun.set();
            theirs.go_on.wait();
        })
    });
    all.begun.wait();
    assert!(matches!(all.filled.try_call_once(|_| ()), Err(OnceError::WouldBlock)));
    assert!(matches!(
        all.filled.call_once_timeout(Duration::from_millis(5), |_| ()),
        Err(OnceError::TimedOut)
    ));
    assert!(matches!(
        all.filled.call_once_deadline(Instant::now(), |_| ()),
        Err(OnceError::TimedOut)
    ));
    let theirs = all.clone();
    let next = fork(move || {
        theirs.filled.call_once(|state| {
            assert!(state.predecessor_died());
            theirs.value.store(7, Relaxed);
        })
    });
    wait_until_asleep(&next);
    kill(&first);
    join_all([next]);
    all.filled.call_once(|_| panic!("it is done")).unwrap();
    assert_eq!(all.value.load(Relaxed), 7);
}

#[test]
fn a_panicking_initialiser_hands_the_work_to_the_next() {
    static ONCE: Once = Once::new();
    let panicked = thread::spawn(|| ONCE.call_once(|_| panic!("on purpose"))).join();
    assert!(panicked.is_err() && !ONCE.is_completed());
    ONCE.call_once(|state| assert!(state.predecessor_died())).unwrap();
    assert!(ONCE.is_completed());
}

#[test]
fn an_initialiser_that_calls_itself_is_told() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|_| assert!(matches!(ONCE.call_once(|_| ()), Err(OnceError::Deadlock))))
        .unwrap();
}

#[test]
fn all_who_wait_for_the_work_return() {
    let all = table();
    let theirs = all.clone();
    let first = fork(move || {
        theirs.filled.call_once(|_| {
            theirs.begun.set();
            theirs.go_on.wait();
        })
    });
    all.begun.wait();
    let others = [(); 5].map(|()| {
        let all = all.clone();
        fork(move || all.filled.call_once(|_| panic!("it is being done")))
    });
    others.iter().for_each(wait_until_asleep);
    all.go_on.set();
    join_all(others.into_iter().chain([first]));
    wait_until("it is done", || all.filled.is_completed());
}
