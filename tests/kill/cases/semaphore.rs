//! `Semaphore`.

use core::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crossproc::{Semaphore, SemaphoreError};

use super::{EXPIRES, warm_up};
use crate::harness::{Case, End, Me, Mode, Subject};

struct Board {
    semaphore: Semaphore,
    /// The permits at the start, plus those released, less those acquired, by all but the operation
    /// under test.
    balance: AtomicI64,
    /// What the operation under test has added, if it has returned; negative if it has taken
    /// permits.
    victims: AtomicI64,
}

impl Board {
    fn acquire(&self) {
        self.semaphore.acquire();
        self.balance.fetch_sub(1, SeqCst);
    }

    fn release(&self, count: u32) {
        self.balance.fetch_add(count.into(), SeqCst);
        self.semaphore.release_many(count).expect("few permits");
    }
}

const WAKER_STOPPED: &str = "the stopped one has released and woken nobody yet, or was woken and \
    has not acquired; the next to release wakes";

/// Returns a case that begins with `permits`. Its operation takes all of `effect`, or adds it if
/// positive, or does nothing. The survivors release what sleepers still wait for, and then release
/// and acquire one more each.
fn case(name: &str, permits: u32, effect: i64) -> Case<Board> {
    let make = move || Board {
        semaphore: Semaphore::new(permits),
        balance: AtomicI64::new(permits.into()),
        victims: AtomicI64::new(0),
    };
    Case::new(format!("semaphore: {name}"), make)
        .survivor(|board, me| {
            if me.index == 0 {
                // One is for the victim, if it is still there.
                for _ in 0..=me.unfinished() {
                    board.release(1);
                }
            }
            board.release(1);
            board.acquire();
        })
        .may_wait(|board, _| board.semaphore.value() == 0)
        .observe(|board, _| board.semaphore.value().into())
        .check(move |board, end| check(board, end, effect))
}

fn check(board: &Board, end: &End, effect: i64) -> Result<(), String> {
    let value = i64::from(board.semaphore.value());
    let done = value - board.balance.load(SeqCst);
    let returned = board.victims.load(SeqCst);
    let is_right = match (end.was_killed, end.had_not_begun, end.was_completed) {
        (false, _, _) => done == returned,
        (true, true, _) => done == 0,
        (true, false, true) => done == effect,
        (true, false, false) => done == effect || done == 0,
    };
    if is_right {
        Ok(())
    } else {
        Err(format!("{value} permits at the end, {done} too many; {end:?}"))
    }
}

fn sleeper(board: &Board, _: &Me) {
    board.acquire();
}

fn later_sleeper(board: &Board, me: &Me) {
    me.pause();
    board.acquire();
}

/// Releases `count` permits when the victim sleeps.
fn releaser(count: u32) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        me.pause();
        board.release(count);
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    acquiring().into_iter().chain(releasing()).collect()
}

fn acquiring() -> Vec<Box<dyn Subject>> {
    let acquires = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            operation.step(|| board.semaphore.acquire());
            board.victims.store(-1, SeqCst);
        })
    };
    let tries = |case: Case<Board>, acquire: fn(&Semaphore) -> Result<(), SemaphoreError>| {
        case.victim(move |board, operation| {
            warm_up();
            if operation.step(|| acquire(&board.semaphore)).is_ok() {
                board.victims.store(-1, SeqCst);
            }
        })
    };
    let until: fn(&Semaphore) -> _ = |semaphore| semaphore.acquire_timeout(EXPIRES);
    let until_late: fn(&Semaphore) -> _ = |semaphore| semaphore.acquire_timeout(EXPIRES * 100);
    vec![
        Box::new(acquires(case("acquire, 1 permit", 1, -1))),
        Box::new(acquires(case("acquire, then released", 0, -1).companion(releaser(1)))),
        Box::new(
            acquires(
                case("acquire, then released, 2 sleep behind", 0, -1)
                    .companions(2, later_sleeper)
                    .companion(releaser(1)),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            acquires(
                case("acquire, then 3 released, 2 sleep behind", 0, -1)
                    .companions(2, later_sleeper)
                    .companion(releaser(3)),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            acquires(
                case("acquire, then 3 released, 2 sleep before", 0, -1)
                    .companions(2, sleeper)
                    .companion(releaser(3)),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            acquires(
                case("acquire, then 3 released by one that dies, 2 sleep behind", 0, -1)
                    .companions(2, later_sleeper)
                    .dying(
                        |board, operation| {
                            warm_up();
                            board.balance.fetch_add(3, SeqCst);
                            operation
                                .step(|| board.semaphore.release_many(3))
                                .expect("few permits");
                        },
                        |board| board.semaphore.value() != 0,
                    ),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(case("acquire, the first operation of a thread", 1, -1).victim(
            |board, operation| {
                operation.step(|| board.semaphore.acquire());
                board.victims.store(-1, SeqCst);
            },
        )),
        Box::new(tries(case("try_acquire, 1 permit", 1, -1), Semaphore::try_acquire)),
        Box::new(tries(case("try_acquire, none", 0, 0), Semaphore::try_acquire)),
        Box::new(tries(
            case("acquire_timeout, then released", 0, -1).companion(releaser(1)),
            until_late,
        )),
        Box::new(tries(case("acquire_timeout, expires", 0, 0).expires(), until)),
        Box::new(tries(
            case("acquire_timeout, 2 sleep, expires", 0, 0).expires().companions(2, sleeper),
            until,
        )),
    ]
}

fn releasing() -> Vec<Box<dyn Subject>> {
    let releases = |case: Case<Board>, count: u32| {
        case.victim(move |board, operation| {
            warm_up();
            operation.step(|| board.semaphore.release_many(count)).expect("few permits");
            board.victims.store(count.into(), SeqCst);
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(releases(case("release", 0, 1), 1)),
        Box::new(releases(case("release, 1 sleeps", 0, 1).companion(sleeper), 1)),
        Box::new(releases(case("release, 3 sleep", 0, 1).companions(3, sleeper), 1)),
        Box::new(releases(case("release_many(3), 3 sleep", 0, 3).companions(3, sleeper), 3)),
        Box::new(releases(case("release_many(3), 1 sleeps", 0, 3).companion(sleeper), 3)),
    ]
}
