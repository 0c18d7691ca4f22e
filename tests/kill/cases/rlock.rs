//! `RLock`.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

use crossproc::{LockError, RLock, RLockGuard, Wait};

use super::{EXPIRES, WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Me, Mode, Subject};

/// A lock, and an independent account of its value.
struct Board {
    /// Both halves are equal whenever the value is whole. They are the number of sections.
    lock: RLock<[u64; 2]>,
    sections: AtomicU64,
    inside: AtomicU32,
    deaths: AtomicU32,
}

type Outcome<'a> = Result<RLockGuard<'a, [u64; 2]>, LockError>;

impl Board {
    /// Makes the value whole, which a dead owner may have left half written.
    fn repair(&self, value: &Cell<[u64; 2]>) {
        self.deaths.fetch_add(1, SeqCst);
        value.set([self.sections.load(SeqCst); 2]);
    }

    fn acquire(&self) -> Outcome<'_> {
        self.lock.lock_unrepaired(Wait::FOREVER)
    }

    /// Runs one more section, which excludes all others, and in which the lock is locked once more.
    fn section(&self, outcome: Outcome<'_>) {
        let guard = match outcome {
            Ok(guard) => guard,
            Err(LockError::TimedOut) => return,
            Err(error) => panic!("{error}"),
        };
        let guard = if guard.is_inconsistent() {
            self.repair(&guard);
            guard.recover()
        } else {
            guard
        };
        assert_eq!(self.inside.swap(1, SeqCst), 0, "two owners at once");
        let [first, second] = guard.get();
        assert_eq!(
            [first, second],
            [self.sections.load(SeqCst); 2],
            "the value was lost, or is half written and nobody said so"
        );
        let depth = self.lock.depth();
        guard.set([first + 1, second]);
        thread::yield_now();
        let again = self.lock.lock().expect("it is this thread's");
        assert_eq!(self.lock.depth(), depth + 1, "the lock has lost count");
        again.set([first + 1, second + 1]);
        drop(again);
        assert_eq!(self.lock.depth(), depth, "the lock has lost count");
        self.sections.fetch_add(1, SeqCst);
        self.inside.store(0, SeqCst);
    }
}

/// Returns a case whose survivors lock the lock twice. If the victim died as the owner, one of them
/// is told of its death. Otherwise none is.
fn case(name: &str) -> Case<Board> {
    let make = || Board {
        lock: RLock::new([0; 2]),
        sections: AtomicU64::new(0),
        inside: AtomicU32::new(0),
        deaths: AtomicU32::new(0),
    };
    Case::new(format!("rlock: {name}"), make)
        .survivor(|board, _| {
            for _ in 0..2 {
                let guard = board.acquire();
                assert_eq!(
                    board.lock.depth(),
                    1,
                    "a new owner has inherited the depth of the one before"
                );
                board.section(guard);
            }
        })
        .may_wait(|board, now| now.is_stopped && board.lock.owner() == Some(now.victim))
        .observe(|board, victim| u64::from(board.lock.owner() == Some(victim)))
        .check(|board, end| check(board, end, 0))
}

/// `known`: how many are told of a death in any case.
fn check(board: &Board, end: &End, known: u64) -> Result<(), String> {
    let died_as_owner = if end.was_killed { end.observed } else { 0 };
    let expected = died_as_owner | known;
    let deaths = board.deaths.load(SeqCst);
    if u64::from(deaths) != expected {
        return Err(format!("{deaths} were told that the owner died, and not {expected}"));
    }
    board.lock.owner().map_or(Ok(()), |owner| Err(format!("owned by {owner} at the end")))
}

fn sleeper(board: &Board, _: &Me) {
    board.section(board.acquire());
}

fn later_sleeper(board: &Board, me: &Me) {
    me.pause();
    sleeper(board, me);
}

/// Holds the lock, twice, until the victim sleeps.
fn holder(board: &Board, me: &Me) {
    let guard = board.acquire();
    let again = board.lock.lock();
    me.pause();
    drop(again);
    board.section(guard);
}

/// Dies as the owner, three deep.
fn die(board: &Board) {
    for _ in 0..3 {
        core::mem::forget(board.lock.lock());
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    locking().into_iter().chain(unlocking()).collect()
}

fn locking() -> Vec<Box<dyn Subject>> {
    let locks = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            board.section(operation.step(|| board.acquire()));
        })
    };
    let locks_again = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            let _first = board.lock.lock();
            board.section(operation.step(|| board.acquire()));
        })
    };
    vec![
        Box::new(locks(case("lock, free"))),
        Box::new(locks_again(case("lock, owned already"))),
        Box::new(
            locks_again(case("lock, owned already, 2 sleep").companions(2, sleeper))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            locks(case("lock, its owner died, 3 deep").before(die))
                .check(|board, end| check(board, end, 1)),
        ),
        Box::new(locks(case("lock, held").companion(holder))),
        Box::new(locks(
            case("lock, held, 2 sleep before").companion(holder).companions(2, sleeper),
        )),
        Box::new(
            locks(
                case("lock, held, 2 sleep behind").companions(2, later_sleeper).companion(holder),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            locks(
                case("lock, held 2 deep by one that dies, 2 sleep behind")
                    .companions(2, later_sleeper)
                    .dying(
                        |board, operation| {
                            warm_up();
                            let _guards = [board.lock.lock(), board.lock.lock()];
                            operation.step(|| ());
                        },
                        |_| true,
                    ),
            )
            .check(|board, end| {
                // A living process is told. It may be the victim, which then died as an owner that
                // had not recovered.
                check(board, end, 1)
            })
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(case("lock_timeout, held, expires").expires().companion(holder).victim(
            |board, operation| {
                warm_up();
                board.section(operation.step(|| board.lock.lock_timeout(EXPIRES)));
            },
        )),
    ]
}

fn unlocking() -> Vec<Box<dyn Subject>> {
    let unlocks = |case: Case<Board>, depth: usize| {
        case.victim(move |board, operation| {
            warm_up();
            let mut guards: Vec<_> =
                (0..depth).map(|_| board.lock.lock_unrepaired(Wait::FOREVER)).collect();
            let guard = guards.pop();
            operation.step(|| drop(guard));
        })
    };
    vec![
        Box::new(unlocks(case("unlock, of 2"), 2)),
        Box::new(
            unlocks(case("unlock, of 2, 2 sleep").companions(2, sleeper), 2)
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(unlocks(case("unlock"), 1)),
        Box::new(
            unlocks(case("unlock, 2 sleep").companions(2, sleeper), 1)
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            unlocks(case("unlock, not recovered, 2 sleep").before(die).companions(2, sleeper), 1)
                .check(|board, end| check(board, end, 1))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(case("recover, 2 sleep").before(die).companions(2, sleeper).victim(
            |board, operation| {
                warm_up();
                let guard = board.lock.lock_unrepaired(Wait::FOREVER).unwrap();
                assert!(guard.is_inconsistent(), "the owner died");
                let guard = operation.step(|| guard.recover());
                guard.set([0; 2]);
            },
        )),
        Box::new(case("lock, lock, unlock, unlock").victim(|board, operation| {
            warm_up();
            operation.step(|| {
                let first = board.lock.lock();
                drop(board.lock.lock());
                drop(first);
            });
        })),
    ]
}
