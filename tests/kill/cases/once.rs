//! `Once`.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use crossproc::{Once, OnceError, OnceState};

use super::{EXPIRES, WAKER_STOPPED, warm_up, word};
use crate::harness::{Case, End, Me, Mode, Operation, Subject};

/// The bits of a TID, in both halves of the word: the robust lock may have it in either.
const TID: u64 = 0x3fff_ffff_3fff_ffff;

struct Board {
    once: Once,
    begun: AtomicU32,
    ended: AtomicU32,
    /// How often a process was told that its predecessor had died.
    told: AtomicU32,
}

impl Board {
    fn begin(&self, state: OnceState) {
        self.told.fetch_add(state.predecessor_died().into(), SeqCst);
        let before = self.begun.fetch_add(1, SeqCst);
        assert!(before == 0 || state.predecessor_died(), "begun again though nobody died");
    }

    fn end(&self) {
        thread::yield_now();
        self.ended.fetch_add(1, SeqCst);
    }

    fn work(&self, state: OnceState) {
        self.begin(state);
        self.end();
    }

    fn call(&self) -> Result<(), OnceError> {
        self.once.call_once(|state| self.work(state))
    }

    fn expect_done(&self, outcome: Result<(), OnceError>) {
        match outcome {
            Ok(()) => {
                assert!(self.once.is_completed() && self.ended.load(SeqCst) != 0, "it is not done");
            }
            Err(OnceError::TimedOut | OnceError::WouldBlock) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn is_done_by(&self, tid: u32) -> bool {
        let tid = u64::from(tid);
        word(&self.once) & TID == tid || word(&self.once) & TID == tid << 32
    }
}

/// Returns a case whose survivors do the work or find it done. The work begins again if a process
/// that had begun it died before it was done, and only then.
fn case(name: &str) -> Case<Board> {
    let make = || Board {
        once: Once::new(),
        begun: AtomicU32::new(0),
        ended: AtomicU32::new(0),
        told: AtomicU32::new(0),
    };
    Case::new(format!("once: {name}"), make)
        .survivor(|board, _| board.expect_done(board.call()))
        .may_wait(|board, now| now.is_stopped && board.is_done_by(now.victim))
        .observe(|board, victim| {
            u64::from(board.once.is_completed()) << 1 | u64::from(board.is_done_by(victim))
        })
        .check(|board, end| check(board, end, 0))
}

/// `known`: how many processes died at the work before the victim.
fn check(board: &Board, end: &End, known: u32) -> Result<(), String> {
    let [begun, ended, told] =
        [&board.begun, &board.ended, &board.told].map(|count| count.load(SeqCst));
    let (was_done, was_in) = (end.observed & 2 != 0, end.observed & 1 != 0);
    // With the work done, no process is told: none begins.
    let died = u32::from(end.was_killed && was_in && !was_done);
    let is_right = match known {
        0 => {
            told == died
                && (begun == 1 || begun == 2 && died == 1)
                && (ended == 1 || ended == 2 && died == 1)
        }
        // The victim may have been told before it died.
        known => (known..=known + died).contains(&told) && begun <= 1 + known + died && ended >= 1,
    };
    if is_right && board.once.is_completed() {
        Ok(())
    } else {
        Err(format!(
            "begun {begun} times, ended {ended} times, {told} told of a death, completed: {}; \
             {end:?}",
            board.once.is_completed()
        ))
    }
}

fn caller(board: &Board, _: &Me) {
    board.expect_done(board.call());
}

fn later_caller(board: &Board, me: &Me) {
    me.pause();
    caller(board, me);
}

/// Does the work until the victim sleeps.
fn worker(board: &Board, me: &Me) {
    let outcome = board.once.call_once(|state| {
        board.begin(state);
        me.pause();
        board.end();
    });
    board.expect_done(outcome);
}

/// Adds a companion that dies at the work when the victim sleeps.
fn with_dying(case: Case<Board>) -> Case<Board> {
    let dies = |board: &Board, operation: &Operation| {
        warm_up();
        let outcome = board.once.call_once(|state| {
            board.begin(state);
            operation.step(|| ());
        });
        board.expect_done(outcome);
    };
    case.dying(dies, |_| true)
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let calls = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            let outcome = operation.step(|| board.call());
            board.expect_done(outcome);
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(calls(case("call_once, not done"))),
        Box::new(calls(case("call_once, done").before(|board| board.expect_done(board.call())))),
        Box::new(calls(case("call_once, another does it").companion(worker))),
        Box::new(calls(
            case("call_once, another does it, 2 sleep before")
                .companion(worker)
                .companions(2, caller),
        )),
        Box::new(calls(
            case("call_once, another does it, 2 sleep behind")
                .companions(2, later_caller)
                .companion(worker),
        )),
        Box::new(
            calls(case("call_once, one died of it").before(|board| {
                let outcome = board.once.call_once(|state| {
                    board.begin(state);
                    crossproc_sys::process::exit_now(0);
                });
                board.expect_done(outcome);
            }))
            .check(|board, end| check(board, end, 1)),
        ),
        Box::new(
            calls(with_dying(
                case("call_once, another does it and dies, 2 sleep behind")
                    .companions(2, later_caller),
            ))
            .check(|board, end| check(board, end, 1)),
        ),
        Box::new(
            case("end of the work, 2 sleep")
                .companions(2, caller)
                .victim(|board, operation| {
                    warm_up();
                    let outcome = board.once.call_once(|state| {
                        board.begin(state);
                        operation.begin();
                        board.end();
                    });
                    operation.end();
                    board.expect_done(outcome);
                })
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            case("call_once_timeout, another does it, expires").expires().companion(worker).victim(
                |board, operation| {
                    warm_up();
                    board.expect_done(
                        operation.step(|| {
                            board.once.call_once_timeout(EXPIRES, |state| board.work(state))
                        }),
                    );
                },
            ),
        ),
    ]
}
