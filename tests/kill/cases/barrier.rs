//! `Barrier`.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crossproc::{Arrival, Barrier, BarrierError, BarrierPassed, Wait};

use super::{EXPIRES, warm_up};
use crate::harness::{Case, End, Me, Mode, Operation, Subject};

struct Board {
    barrier: Barrier,
    /// How the companions' waits have ended.
    passed: AtomicU32,
    broken: AtomicU32,
    /// Whether the dying companion has arrived.
    has_dying_arrived: AtomicU32,
}

impl Board {
    fn count(&self, outcome: Result<BarrierPassed, BarrierError>) {
        match outcome {
            Ok(_) => self.passed.fetch_add(1, SeqCst),
            Err(BarrierError::Broken | BarrierError::TimedOut) => self.broken.fetch_add(1, SeqCst),
            Err(error) => panic!("{error}"),
        };
    }

    /// Returns how many processes wait, or have passed.
    fn arrived(&self) -> u32 {
        self.barrier.n_waiting() + self.passed.load(SeqCst)
    }
}

const BREAKER_STOPPED: &str = "the stopped one has ended the phase, or broken the barrier, and \
    woken nobody yet; the end of a slice finds it";

/// Returns a case of a barrier for `parties`. The survivors break it, and find it whole after a
/// reset. Then they leave it broken, for processes that come late. A process only waits in a phase
/// that has not ended.
///
/// `has_done` says whether the victim's operation is done, as far as others can tell. All
/// `companions` must then end accordingly: by `passing`, or with an error.
fn case(
    name: &str,
    parties: u32,
    passing: bool,
    companions: u32,
    has_done: fn(&Board) -> bool,
) -> Case<Board> {
    let make = move || Board {
        barrier: Barrier::new(parties),
        passed: AtomicU32::new(0),
        broken: AtomicU32::new(0),
        has_dying_arrived: AtomicU32::new(0),
    };
    Case::new(format!("barrier: {name}"), make)
        .survivor(|board, me| {
            if me.index != 0 {
                return;
            }
            board.barrier.abort();
            board.barrier.reset();
            let arrivals: Vec<Arrival> = (0..board.barrier.parties())
                .map(|_| board.barrier.arrive().expect("it was reset, and nobody comes"))
                .collect();
            for arrival in arrivals {
                let passed = board.barrier.wait_for(arrival, Wait::FOREVER);
                passed.expect("all have arrived");
            }
            board.barrier.abort();
        })
        .may_wait(|board, _| board.barrier.n_waiting() != 0)
        .observe(move |board, _| has_done(board).into())
        .check(move |board, end| check(board, end, passing, companions))
        .known_strand(Mode::Stop, BREAKER_STOPPED)
}

fn check(board: &Board, end: &End, passing: bool, companions: u32) -> Result<(), String> {
    let [passed, broken] = [&board.passed, &board.broken].map(|count| count.load(SeqCst));
    let expected = if passing && end.observed == 1 { (companions, 0) } else { (0, companions) };
    if end.was_completed && end.observed == 0 {
        return Err(format!("it has returned and nothing has happened; {end:?}"));
    }
    if (passed, broken) != expected {
        return Err(format!(
            "{passed} have passed and {broken} have not, instead of {expected:?}; {end:?}"
        ));
    }
    Ok(())
}

fn party(board: &Board, _: &Me) {
    board.count(board.barrier.wait());
}

fn later_party(board: &Board, me: &Me) {
    me.pause();
    party(board, me);
}

/// Adds a companion that arrives when the victim sleeps. It dies while it lets the others pass, or
/// when it has done so.
fn with_dying(case: Case<Board>) -> Case<Board> {
    let dies = |board: &Board, operation: &Operation| {
        warm_up();
        operation.step(|| {
            let _ = board.barrier.arrive();
            board.has_dying_arrived.store(1, SeqCst);
        });
    };
    case.dying(dies, |board| {
        board.barrier.n_waiting() == 0 || board.has_dying_arrived.load(SeqCst) != 0
    })
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    waiting().into_iter().chain(others()).collect()
}

fn waiting() -> Vec<Box<dyn Subject>> {
    let waits = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            let _ = operation.step(|| board.barrier.wait());
        })
    };
    let is_there: fn(&Board) -> bool = |board| board.arrived() != 0;
    let is_next_phase: fn(&Board) -> bool = |board| board.barrier.n_waiting() == 0;
    vec![
        Box::new(waits(case("wait, the first of 2", 2, true, 1, is_there).companion(later_party))),
        Box::new(waits(
            case("wait, the first of 3", 3, true, 2, is_there).companions(2, later_party),
        )),
        Box::new(waits(
            case("wait, the second of 3", 3, true, 2, |board| board.barrier.n_waiting() != 1)
                .companion(party)
                .companion(later_party),
        )),
        Box::new(waits(case("wait, the last of 2", 2, true, 1, is_next_phase).companion(party))),
        Box::new(waits(
            case("wait, the last of 3", 3, true, 2, is_next_phase).companions(2, party),
        )),
        Box::new(waits(case("wait, the only one", 1, true, 0, |_| true))),
        Box::new(with_dying(
            waits(case("wait, the second of 3, the last dies", 3, true, 1, |board| {
                board.barrier.n_waiting() != 1
            }))
            .companion(party),
        )),
    ]
}

fn others() -> Vec<Box<dyn Subject>> {
    let steps = |case: Case<Board>, operation: fn(&Barrier)| {
        case.victim(move |board, stepped| {
            warm_up();
            stepped.step(|| operation(&board.barrier));
        })
    };
    let is_broken: fn(&Board) -> bool = |board| board.barrier.is_broken();
    let is_empty: fn(&Board) -> bool = |board| board.barrier.n_waiting() == 0;
    let arrive: fn(&Barrier) = |barrier| {
        let _ = barrier.arrive();
    };
    let arrive_and_wait: fn(&Barrier) = |barrier| {
        let _ = barrier.arrive().map(|arrival| barrier.wait_for(arrival, Wait::FOREVER));
    };
    let wait_briefly: fn(&Barrier) = |barrier| {
        let _ = barrier.wait_timeout(EXPIRES);
    };
    vec![
        Box::new(
            steps(
                case("wait_timeout, the second of 3, expires", 3, false, 1, is_broken)
                    .companion(party),
                wait_briefly,
            )
            .expires(),
        ),
        Box::new(
            steps(
                case("wait_timeout, the third of 4, expires", 4, false, 2, is_broken)
                    .companions(2, party),
                wait_briefly,
            )
            .expires(),
        ),
        Box::new(steps(
            case("arrive, the first of 2", 2, true, 1, |board| board.arrived() != 0)
                .companion(later_party),
            arrive,
        )),
        Box::new(steps(
            case("arrive, the last of 3", 3, true, 2, is_empty).companions(2, party),
            arrive,
        )),
        Box::new(steps(
            case("arrive and wait, the first of 2", 2, true, 1, |board| board.arrived() != 0)
                .companion(later_party),
            arrive_and_wait,
        )),
        Box::new(steps(
            case("try_wait, the last of 3", 3, true, 2, is_empty).companions(2, party),
            |barrier| {
                let _ = barrier.try_wait();
            },
        )),
        Box::new(steps(case("abort", 2, false, 0, is_broken), Barrier::abort)),
        Box::new(steps(
            case("abort, 1 waits", 3, false, 1, is_broken).companion(party),
            Barrier::abort,
        )),
        Box::new(steps(
            case("abort, 2 wait", 3, false, 2, is_broken).companions(2, party),
            Barrier::abort,
        )),
        Box::new(steps(
            case("reset, 1 waits", 3, false, 1, is_empty).companion(party),
            Barrier::reset,
        )),
        Box::new(steps(
            case("reset, 2 wait", 3, false, 2, is_empty).companions(2, party),
            Barrier::reset,
        )),
        Box::new(steps(
            case("reset, broken", 2, false, 0, |board| !board.barrier.is_broken())
                .before(|board| board.barrier.abort()),
            Barrier::reset,
        )),
    ]
}
