//! How long waits take, in spite of signals.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{
    Barrier, BarrierError, BoundedSemaphore, Condition, ConditionError, Event, EventError, Lock,
    LockError, Once, OnceError, Permits, PermitsError, RLock, RwLock, Semaphore, SemaphoreError,
    Shm, Wait, set_recheck_interval, shared,
};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, slowness};

shared! {
    struct All {
        lock: Lock<()>,
        rlock: RLock<()>,
        read: RwLock<u32, 1>,
        write: RwLock<u32, 2>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<2>,
        event: Event,
        condition: Condition,
        with: Lock<()>,
        barrier: Barrier,
        once: Once,
        held: Event,
        signals: AtomicU32,
        took: [AtomicU64; WAITS],
    }
}

/// How a wait ended that was not to succeed.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    TimedOut,
    Interrupted,
}

/// A wait that does not succeed, because another process holds everything.
type Waiting = fn(&All, Wait) -> Ended;

const WAITS: usize = 11;

/// A wait on each primitive.
const EVERY_WAIT: [(&str, Waiting); WAITS] = [
    ("Lock", |all, wait| of_lock(all.lock.lock_with(wait).map(drop))),
    ("RLock", |all, wait| of_lock(all.rlock.lock_with(wait).map(drop))),
    ("RwLock, reading", |all, wait| of_lock(all.read.read_with(wait).map(drop))),
    ("RwLock, writing", |all, wait| of_lock(all.write.write_with(wait).map(drop))),
    ("Once", |all, wait| match all.once.call_once_with(wait, |_| ()) {
        Err(OnceError::TimedOut) => Ended::TimedOut,
        Err(OnceError::Interrupted) => Ended::Interrupted,
        other => panic!("{other:?}"),
    }),
    ("Semaphore", |all, wait| of_semaphore(all.semaphore.acquire_with(wait))),
    ("BoundedSemaphore", |all, wait| of_semaphore(all.bounded.acquire_with(wait))),
    ("Permits", |all, wait| match all.permits.acquire_with(wait) {
        Err(PermitsError::TimedOut) => Ended::TimedOut,
        Err(PermitsError::Interrupted) => Ended::Interrupted,
        other => panic!("{other:?}"),
    }),
    ("Event", |all, wait| match all.event.wait_with(wait) {
        Err(EventError::TimedOut) => Ended::TimedOut,
        Err(EventError::Interrupted) => Ended::Interrupted,
        other => panic!("{other:?}"),
    }),
    ("Condition", |all, wait| {
        let mut guard = all.with.lock_timeout(PATIENCE).unwrap();
        match all.condition.wait_with(&mut guard, wait) {
            Err(ConditionError::TimedOut) => Ended::TimedOut,
            Err(ConditionError::Interrupted) => Ended::Interrupted,
            other => panic!("{other:?}"),
        }
    }),
    ("Barrier", |all, wait| match all.barrier.wait_with(wait) {
        Err(BarrierError::TimedOut) => Ended::TimedOut,
        Err(BarrierError::Interrupted(_)) => Ended::Interrupted,
        other => panic!("{other:?}"),
    }),
];

fn of_lock(result: Result<(), LockError>) -> Ended {
    match result {
        Err(LockError::TimedOut) => Ended::TimedOut,
        Err(LockError::Interrupted) => Ended::Interrupted,
        other => panic!("{other:?}"),
    }
}

fn of_semaphore(result: Result<(), SemaphoreError>) -> Ended {
    match result {
        Err(SemaphoreError::TimedOut) => Ended::TimedOut,
        Err(SemaphoreError::Interrupted) => Ended::Interrupted,
        other => panic!("{other:?}"),
    }
}

fn all() -> Shm<All> {
    Shm::new(All {
        lock: Lock::new(()),
        rlock: RLock::new(()),
        read: RwLock::new(0),
        write: RwLock::new(0),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(0),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        with: Lock::new(()),
        barrier: Barrier::new(2),
        once: Once::new(),
        held: Event::new(),
        signals: AtomicU32::new(0),
        took: Default::default(),
    })
    .unwrap()
}

/// Returns all primitives, and a process that holds whatever can be held.
fn all_held() -> (Shm<All>, crossproc::process::Child) {
    let all = all();
    let theirs = all.clone();
    let holder = fork(move || {
        let _locks = (
            theirs.lock.lock().unwrap(),
            theirs.rlock.lock().unwrap(),
            theirs.read.write().unwrap(),
            theirs.write.read().unwrap(),
        );
        let _permits = [theirs.permits.acquire().unwrap(), theirs.permits.acquire().unwrap()];
        theirs
            .once
            .call_once(|_| {
                theirs.held.set();
                thread::park();
            })
            .unwrap();
    });
    all.held.wait();
    (all, holder)
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Relaxed);
}

/// Starts a signal every millisecond, in this process of one thread.
fn storm(flags: libc::c_int) {
    // SAFETY: zeroes are valid for every field.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = count_signal as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = flags;
    // SAFETY: the handler adds to an atomic, which any context may do.
    assert_eq!(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) }, 0);
    let each = libc::timeval { tv_sec: 0, tv_usec: 1_000 };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: reads the timer.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) }, 0);
}

const TIMEOUT: Duration = Duration::from_millis(300);
const TOLERANCE: Duration = Duration::from_millis(20);

/// Waits once on each primitive, in a storm of signals. Returns how late each wait ended.
fn wait_in_a_storm(flags: libc::c_int, slice: Option<Duration>) -> [Duration; WAITS] {
    let (all, holder) = all_held();
    let mut index = 0;
    let waiters = EVERY_WAIT.map(|(name, waiting)| {
        let all = all.clone();
        let mine = index;
        index += 1;
        fork(move || {
            set_recheck_interval(slice);
            storm(flags);
            let began = Instant::now();
            let ended = waiting(&all, Wait::timeout(TIMEOUT));
            let took = began.elapsed();
            assert_eq!(ended, Ended::TimedOut, "{name}");
            assert!(took >= TIMEOUT, "{name} waited for {took:?} only");
            all.took[mine].store((took - TIMEOUT).as_nanos() as u64, Relaxed);
            all.signals.fetch_add(SIGNALS.load(Relaxed), Relaxed);
        })
    });
    join_all(waiters);
    kill(&holder);
    // A busy machine delays some of the signals, never all.
    let signals = all.signals.load(Relaxed);
    assert!(signals > 100 * WAITS as u32 / slowness(), "there was no storm: {signals} signals");
    all.took.each_ref().map(|took| Duration::from_nanos(took.load(Relaxed)))
}

#[test]
fn a_storm_of_signals_neither_shortens_nor_lengthens_a_wait() {
    for (flags, flags_name) in [(0, "without SA_RESTART"), (libc::SA_RESTART, "with SA_RESTART")] {
        for slice in [None, Some(Duration::from_millis(100))] {
            let mut best = [Duration::MAX; WAITS];
            // The loop repeats waits, as another process may have made them late. Lateness from
            // signals would stay.
            for _ in 0..5 {
                let late = wait_in_a_storm(flags, slice);
                best.iter_mut().zip(late).for_each(|(best, late)| *best = late.min(*best));
                if best.iter().all(|late| *late < TOLERANCE) {
                    break;
                }
            }
            for ((name, _), late) in EVERY_WAIT.iter().zip(best) {
                println!("{name}, {flags_name}, slices {slice:?}: {late:?} late");
                assert!(late < TOLERANCE, "{name}, {flags_name}, slices {slice:?}: {late:?} late");
            }
        }
    }
}

#[test]
fn an_interruptible_wait_ends_with_the_first_signal_and_goes_on_to_the_same_deadline() {
    for slice in [None, Some(Duration::from_millis(100))] {
        let (all, holder) = all_held();
        join_all(EVERY_WAIT.map(|(name, waiting)| {
            let all = all.clone();
            fork(move || {
                set_recheck_interval(slice);
                storm(0);
                let began = Instant::now();
                let wait = Wait::timeout(Duration::from_millis(150)).interruptible();
                let mut interruptions = 0;
                // A barrier's wait is continued in another way: see below.
                while waiting(&all, wait) == Ended::Interrupted && name != "Barrier" {
                    interruptions += 1;
                }
                let took = began.elapsed();
                assert!(
                    name == "Barrier" || took >= Duration::from_millis(150),
                    "{name} waited for {took:?} only"
                );
                assert!(
                    name == "Barrier" || interruptions >= (10 / slowness()).max(1),
                    "{name}: {interruptions} interruptions"
                );
            })
        }));
        kill(&holder);
    }
}

#[test]
fn an_interrupted_party_has_arrived_and_goes_on() {
    let all = all();
    let theirs = all.clone();
    let party = fork(move || {
        storm(0);
        let wait = Wait::timeout(PATIENCE).interruptible();
        let Err(BarrierError::Interrupted(arrival)) = theirs.barrier.wait_with(wait) else {
            panic!("nobody else is there")
        };
        assert_eq!(theirs.barrier.n_waiting(), 1);
        theirs.held.set();
        let passed = loop {
            match theirs.barrier.wait_for(arrival, wait) {
                Err(BarrierError::Interrupted(_)) => {}
                result => break result.unwrap(),
            }
        };
        assert_eq!((passed.index(), passed.is_leader()), (0, false));
    });
    all.held.wait();
    assert!(all.barrier.wait_timeout(PATIENCE).unwrap().is_leader());
    join_all([party]);
}

/// An interruptible wait for a 32-bit word always has some time-out. So even a handler with
/// `SA_RESTART` interrupts it.
#[test]
fn an_interruptible_lock_notices_handlers_with_sa_restart() {
    let (all, holder) = all_held();
    let theirs = all.clone();
    join_all([fork(move || {
        storm(libc::SA_RESTART);
        assert!(matches!(
            theirs.lock.lock_with(Wait::FOREVER.interruptible()),
            Err(LockError::Interrupted)
        ));
        assert_eq!(
            theirs.semaphore.acquire_with(Wait::FOREVER.interruptible()),
            Err(SemaphoreError::Interrupted)
        );
    })]);
    kill(&holder);
}

#[test]
fn time_outs_of_zero_in_the_past_and_for_ever_behave() {
    let (all, holder) = all_held();
    let longest = [Wait::timeout(Duration::ZERO), Wait::deadline(Instant::now()), Wait::NONE];
    for (name, waiting) in EVERY_WAIT {
        for wait in longest {
            let began = Instant::now();
            assert_eq!(waiting(&all, wait), Ended::TimedOut, "{name}");
            assert!(began.elapsed() < Duration::from_secs(1), "{name}");
            // A time-out breaks the barrier.
            all.barrier.reset();
        }
    }
    let forever = [
        Wait::timeout(Duration::MAX),
        Wait::deadline(Instant::now() + Duration::from_secs(1 << 33)),
        Wait::FOREVER,
    ];
    for (name, waiting) in EVERY_WAIT {
        for wait in forever {
            let all = all.clone();
            // Only the signal ends it.
            join_all([fork(move || {
                storm(0);
                assert_eq!(waiting(&all, wait.interruptible()), Ended::Interrupted, "{name}");
                // The interrupted party has arrived, and still counts.
                all.barrier.reset();
            })]);
        }
    }
    kill(&holder);
}
