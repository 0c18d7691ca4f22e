//! `Lock`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::hint;
use std::thread;

use crossproc::{Lock, LockError, LockGuard, Wait};

use super::{EXPIRES, WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Me, Mode, Subject};

const LOCKS: usize = 3;

/// A lock, and an independent account of its value.
struct Guarded {
    /// Both halves are equal whenever the value is whole. They are the number of sections.
    lock: Lock<[u64; 2]>,
    sections: AtomicU64,
    inside: AtomicU32,
    deaths: AtomicU32,
}

type Outcome<'a> = Result<LockGuard<'a, [u64; 2]>, LockError>;

impl Guarded {
    fn new() -> Self {
        Guarded {
            lock: Lock::new([0; 2]),
            sections: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            deaths: AtomicU32::new(0),
        }
    }

    /// Makes the value whole, which a dead owner may have left half written.
    fn repair(&self, value: &mut [u64; 2]) {
        self.deaths.fetch_add(1, SeqCst);
        self.inside.store(0, SeqCst);
        *value = [self.sections.load(SeqCst); 2];
    }

    fn acquire(&self) -> Outcome<'_> {
        self.lock.lock_unrepaired(Wait::FOREVER)
    }

    /// Runs one more section, which excludes all others.
    fn section(&self, outcome: Outcome<'_>) {
        let mut guard = match outcome {
            Ok(guard) => guard,
            Err(LockError::TimedOut | LockError::WouldBlock) => return,
            Err(error) => panic!("{error}"),
        };
        if guard.is_inconsistent() {
            self.repair(&mut guard);
            guard = guard.recover();
        }
        assert_eq!(self.inside.swap(1, SeqCst), 0, "two owners at once");
        assert_eq!(
            *guard,
            [self.sections.load(SeqCst); 2],
            "the value was lost, or is half written and nobody said so"
        );
        guard[0] += 1;
        hint::black_box(&mut guard);
        thread::yield_now();
        guard[1] += 1;
        self.sections.fetch_add(1, SeqCst);
        self.inside.store(0, SeqCst);
    }
}

struct Board([Guarded; LOCKS]);

impl Board {
    fn lock(&self) -> &Lock<[u64; 2]> {
        &self.0[0].lock
    }

    fn acquire(&self) -> Outcome<'_> {
        self.0[0].acquire()
    }

    fn section(&self, outcome: Outcome<'_>) {
        self.0[0].section(outcome);
    }

    /// Returns which of the locks the thread owns, with a bit for each.
    fn owned_by(&self, tid: u32) -> u64 {
        self.0
            .iter()
            .enumerate()
            .map(|(index, guarded)| u64::from(guarded.lock.owner() == Some(tid)) << index)
            .sum()
    }
}

/// Returns a case whose survivors lock all locks twice. If the victim died as an owner, exactly one
/// of them is told of its death. Otherwise none is.
fn case(name: &str) -> Case<Board> {
    Case::new(format!("lock: {name}"), || Board([(); LOCKS].map(|()| Guarded::new())))
        .survivor(|board, _| {
            for guarded in board.0.iter().chain(&board.0) {
                guarded.section(guarded.acquire());
            }
        })
        .may_wait(|board, now| now.is_stopped && board.owned_by(now.victim) != 0)
        .observe(Board::owned_by)
        .check(|board, end| check(board, end, 0))
}

/// `known`: the locks whose owner's death is reported in any case.
fn check(board: &Board, end: &End, known: u64) -> Result<(), String> {
    let died_with = if end.was_killed { end.observed } else { 0 };
    for (index, guarded) in board.0.iter().enumerate() {
        let expected = (died_with | known) >> index & 1;
        let deaths = guarded.deaths.load(SeqCst);
        if u64::from(deaths) != expected {
            return Err(format!(
                "{deaths} were told that the owner of lock {index} died, and not {expected}"
            ));
        }
        if let Some(owner) = guarded.lock.owner() {
            return Err(format!("lock {index} is owned by {owner} at the end"));
        }
    }
    Ok(())
}

/// Holds the lock until the victim sleeps.
fn holder(board: &Board, me: &Me) {
    let guard = board.acquire();
    me.pause();
    board.section(guard);
}

/// Frees the lock whenever the victim sleeps, and takes it again before the victim runs.
fn greedy(times: usize) -> impl Fn(&Board, &Me) {
    move |board, me| {
        for _ in 0..times {
            let guard = board.acquire();
            me.pause();
            board.section(guard);
        }
        holder(board, me);
    }
}

/// Comes after the victim has fallen asleep.
fn later_sleeper(board: &Board, me: &Me) {
    me.pause();
    sleeper(board, me);
}

fn sleeper(board: &Board, _: &Me) {
    board.section(board.acquire());
}

/// Dies as the owner.
fn die(board: &Board) {
    let mut guard = board.lock().lock().expect("nobody died yet");
    guard[0] += 7;
    core::mem::forget(guard);
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    [locking(), others(), expiring(), unlocking()].into_iter().flatten().collect()
}

fn locking() -> Vec<Box<dyn Subject>> {
    let locks = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            board.section(operation.step(|| board.acquire()));
        })
    };
    vec![
        Box::new(locks(case("lock, free"))),
        Box::new(locks(case("lock, its owner died").before(die).check(|board, end| {
            // A living process is told; a killed one may have been told.
            check(board, end, 1)
        }))),
        Box::new(
            case("lock_or_repair, its owner died")
                .before(die)
                .victim(|board, operation| {
                    warm_up();
                    let repair = |value: &mut [u64; 2]| {
                        *value = [board.0[0].sections.load(SeqCst); 2];
                    };
                    operation.step(|| drop(board.lock().lock_or_repair(repair)));
                })
                .check(|board, end| {
                    // One that dies before it has declared the value whole has not repaired it.
                    let deaths = board.0[0].deaths.load(SeqCst);
                    let is_right = if end.was_completed { deaths == 0 } else { deaths <= 1 };
                    if is_right && board.lock().owner().is_none() {
                        Ok(())
                    } else {
                        Err(format!("{deaths} were told that the owner died; {end:?}"))
                    }
                }),
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
        Box::new(locks(case("lock, held, lost 20 times").companion(greedy(20)))),
        Box::new(
            locks(
                case("lock, held by a greedy one, 2 sleep behind")
                    .companions(2, later_sleeper)
                    .companion(greedy(60)),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            locks(
                case("lock, held by one that dies as it unlocks, 2 sleep behind")
                    .companions(2, later_sleeper)
                    .dying(
                        |board, operation| {
                            warm_up();
                            let guard = board.lock().lock();
                            operation.step(|| drop(guard));
                        },
                        |board| board.lock().owner().is_none(),
                    ),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
    ]
}

fn others() -> Vec<Box<dyn Subject>> {
    vec![
        Box::new(case("lock, write, unlock, free").victim(|board, operation| {
            warm_up();
            operation.step(|| board.section(board.acquire()));
        })),
        Box::new(case("lock, the first operation of a thread").victim(|board, operation| {
            board.section(operation.step(|| board.acquire()));
        })),
        Box::new(case("try_lock, free").victim(|board, operation| {
            warm_up();
            board.section(operation.step(|| board.lock().try_lock()));
        })),
        Box::new(case("try_lock, held").companion(holder).victim(|board, operation| {
            warm_up();
            board.section(operation.step(|| board.lock().try_lock()));
        })),
    ]
}

fn expiring() -> Vec<Box<dyn Subject>> {
    vec![
        Box::new(case("lock_timeout, held, then unlocked").companion(holder).victim(
            |board, operation| {
                warm_up();
                board.section(operation.step(|| board.lock().lock_timeout(EXPIRES * 100)));
            },
        )),
        Box::new(case("lock_timeout, held, expires").expires().companion(holder).victim(
            |board, operation| {
                warm_up();
                board.section(operation.step(|| board.lock().lock_timeout(EXPIRES)));
            },
        )),
        Box::new(
            case("lock_timeout, held, 2 sleep, expires")
                .expires()
                .companion(holder)
                .companions(2, sleeper)
                .victim(|board, operation| {
                    warm_up();
                    board.section(operation.step(|| board.lock().lock_timeout(EXPIRES)));
                }),
        ),
    ]
}

fn unlocking() -> Vec<Box<dyn Subject>> {
    let unlocks = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            let guard = board.lock().lock_unrepaired(Wait::FOREVER);
            operation.step(|| drop(guard));
        })
    };
    vec![
        Box::new(unlocks(case("unlock"))),
        Box::new(
            unlocks(case("unlock, 1 sleeps").companion(sleeper))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            unlocks(case("unlock, 2 sleep").companions(2, sleeper))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            unlocks(case("unlock, not recovered, 2 sleep").before(die).companions(2, sleeper))
                .check(|board, end| check(board, end, 1))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(case("recover, 2 sleep").before(die).companions(2, sleeper).victim(
            |board, operation| {
                warm_up();
                let guard = board.lock().lock_unrepaired(Wait::FOREVER).unwrap();
                assert!(guard.is_inconsistent(), "the owner died");
                let mut guard = operation.step(|| guard.recover());
                *guard = [0; 2];
            },
        )),
        Box::new(case("3 locks locked").victim(|board, operation| {
            warm_up();
            let outcomes =
                operation.step(|| [0, 1, 2].map(|index: usize| board.0[index].acquire()));
            for (guarded, outcome) in board.0.iter().zip(outcomes) {
                guarded.section(outcome);
            }
        })),
        Box::new(
            case("3 locks unlocked, the middle one first, 2 sleep")
                .companions(2, sleeper)
                .victim(|board, operation| {
                    warm_up();
                    let [first, middle, last] =
                        [0, 1, 2].map(|index: usize| board.0[index].lock.lock());
                    operation.step(|| {
                        drop(middle);
                        drop(last);
                        drop(first);
                    });
                })
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
    ]
}
