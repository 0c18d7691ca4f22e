//! `BoundedSemaphore`.

use core::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crossproc::{BoundedSemaphore, SemaphoreError};

use super::{EXPIRES, WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Me, Mode, Subject};

struct Board {
    semaphore: BoundedSemaphore,
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

    /// Returns whether there was room for the permit.
    fn release(&self) -> bool {
        let is_released = self.semaphore.release().is_ok();
        self.balance.fetch_add(is_released.into(), SeqCst);
        assert!(self.semaphore.value() <= self.semaphore.bound(), "above the bound");
        is_released
    }
}

/// Returns a case that begins with `permits` of `bound`. Its operation takes all of `effect`, or
/// adds it if positive, or does nothing. The survivors release up to the bound, and then acquire
/// and release one more each.
fn case(name: &str, permits: u32, bound: u32, effect: i64) -> Case<Board> {
    let make = move || {
        let board = Board {
            semaphore: BoundedSemaphore::new(bound),
            balance: AtomicI64::new(bound.into()),
            victims: AtomicI64::new(0),
        };
        (permits..bound).for_each(|_| board.acquire());
        board
    };
    Case::new(format!("bounded: {name}"), make)
        .survivor(|board, me| {
            // Permits that the dead have acquired are lost, so a survivor, which knows of it,
            // releases them.
            while me.index == 0 && board.release() {}
            board.acquire();
            board.release();
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
    let is_bounded = value <= board.semaphore.bound().into();
    if is_right && is_bounded {
        Ok(())
    } else {
        Err(format!("{value} permits at the end, {done} too many; {end:?}"))
    }
}

fn sleeper(board: &Board, _: &Me) {
    board.acquire();
    board.release();
}

fn later_sleeper(board: &Board, me: &Me) {
    me.pause();
    sleeper(board, me);
}

fn releaser(board: &Board, me: &Me) {
    me.pause();
    board.release();
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    acquiring().into_iter().chain(releasing()).collect()
}

fn acquiring() -> Vec<Box<dyn Subject>> {
    let tries = |case: Case<Board>,
                 acquire: fn(&BoundedSemaphore) -> Result<(), SemaphoreError>| {
        case.victim(move |board, operation| {
            warm_up();
            if operation.step(|| acquire(&board.semaphore)).is_ok() {
                board.victims.store(-1, SeqCst);
            }
        })
    };
    let for_ever: fn(&BoundedSemaphore) -> _ = |semaphore| {
        semaphore.acquire();
        Ok(())
    };
    let until: fn(&BoundedSemaphore) -> _ = |semaphore| semaphore.acquire_timeout(EXPIRES);
    vec![
        Box::new(tries(case("acquire, 1 permit", 1, 2, -1), for_ever)),
        Box::new(tries(case("acquire, then released", 0, 2, -1).companion(releaser), for_ever)),
        Box::new(
            tries(
                case("acquire, then released, 2 sleep behind", 0, 1, -1)
                    .companions(2, later_sleeper)
                    .companion(releaser),
                for_ever,
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            tries(
                case("acquire, then released by one that dies, 2 sleep behind", 0, 1, -1)
                    .companions(2, later_sleeper)
                    .dying(
                        |board, operation| {
                            warm_up();
                            board.balance.fetch_add(1, SeqCst);
                            operation.step(|| board.semaphore.release()).expect("there is room");
                        },
                        |board| board.semaphore.value() != 0,
                    ),
                for_ever,
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(tries(
            case("acquire_timeout, 2 sleep, expires", 0, 1, 0).expires().companions(2, sleeper),
            until,
        )),
    ]
}

fn releasing() -> Vec<Box<dyn Subject>> {
    let releases = |case: Case<Board>, count: u32| {
        case.victim(move |board, operation| {
            warm_up();
            if operation.step(|| board.semaphore.release_many(count)).is_ok() {
                board.victims.store(count.into(), SeqCst);
            }
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(releases(case("release, to the bound", 1, 2, 1), 1)),
        Box::new(releases(case("release, beyond the bound", 2, 2, 0), 1)),
        Box::new(releases(case("release_many(2), beyond the bound", 1, 2, 0), 2)),
        Box::new(releases(
            case("release_many(2), beyond the bound, 2 sleep", 0, 1, 0).companions(2, sleeper),
            2,
        )),
        Box::new(releases(case("release, 1 sleeps", 0, 1, 1).companion(sleeper), 1)),
        Box::new(releases(case("release, 3 sleep", 0, 1, 1).companions(3, sleeper), 1)),
        Box::new(releases(case("release_many(2), 3 sleep", 0, 2, 2).companions(3, sleeper), 2)),
    ]
}
