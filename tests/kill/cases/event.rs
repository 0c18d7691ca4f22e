//! `Event`.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crossproc::Event;

use super::{EXPIRES, warm_up};
use crate::harness::{Case, Me, Mode, Subject};

struct Board {
    event: Event,
    /// 1 before the event is set and cleared: a wait may return though the event is not set.
    is_pulsed: AtomicU32,
}

const WAKER_STOPPED: &str = "the stopped one has set the event and woken nobody yet, or was \
    woken and has not woken the others; any `set` does";

/// Returns a case whose survivors set the event and wait for it. No process waits for a set event.
fn case(name: &str) -> Case<Board> {
    let make = || Board { event: Event::new(), is_pulsed: AtomicU32::new(0) };
    Case::new(format!("event: {name}"), make)
        .survivor(|board, me| {
            if me.index == 0 {
                board.event.set();
            }
            board.event.wait();
            assert!(board.event.is_set(), "the event was cleared by nobody");
        })
        .may_wait(|board, _| !board.event.is_set())
        .observe(|board, _| u64::from(board.event.is_set()))
        .check(|board, _| {
            if board.event.is_set() {
                Ok(())
            } else {
                Err("the event was cleared by nobody".into())
            }
        })
}

fn sleeper(board: &Board, _: &Me) {
    board.event.wait();
    assert!(
        board.event.is_set() || board.is_pulsed.load(SeqCst) == 1,
        "a wait returned though nobody had set the event"
    );
}

fn later_sleeper(board: &Board, me: &Me) {
    me.pause();
    sleeper(board, me);
}

fn setter(board: &Board, me: &Me) {
    me.pause();
    board.event.set();
}

/// Sets and clears the event at once, when the victim sleeps: the victim must return all the same.
fn pulse(board: &Board, me: &Me) {
    me.pause();
    board.is_pulsed.store(1, SeqCst);
    board.event.set();
    board.event.clear();
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    setting().into_iter().chain(waiting()).collect()
}

fn setting() -> Vec<Box<dyn Subject>> {
    let sets = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            operation.step(|| board.event.set());
        })
        .check(|board, end| match (end.observed, end.had_not_begun, end.was_completed) {
            (1, true, _) => Err("set before it began".into()),
            (0, _, true) => Err("set has returned, and the event was not set".into()),
            _ if board.event.is_set() => Ok(()),
            _ => Err("the event was cleared by nobody".into()),
        })
    };
    vec![
        Box::new(sets(case("set"))),
        Box::new(
            sets(case("set, 1 sleeps").companion(sleeper)).known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            sets(case("set, 3 sleep").companions(3, sleeper))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(case("set, already set").before(|board| board.event.set()).victim(
            |board, operation| {
                warm_up();
                operation.step(|| board.event.set());
            },
        )),
        Box::new(
            case("set, the first operation of a thread, 3 sleep")
                .companions(3, sleeper)
                .victim(|board, operation| operation.step(|| board.event.set()))
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(case("clear").before(|board| board.event.set()).victim(|board, operation| {
            warm_up();
            operation.step(|| board.event.clear());
            // The survivors may have run before it.
            board.event.set();
        })),
    ]
}

fn waiting() -> Vec<Box<dyn Subject>> {
    let waits = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            operation.step(|| board.event.wait());
        })
    };
    let waits_until = |case: Case<Board>, timeout| {
        case.victim(move |board, operation| {
            warm_up();
            let _ = operation.step(|| board.event.wait_timeout(timeout));
        })
    };
    vec![
        Box::new(waits(case("wait, set").before(|board| board.event.set()))),
        Box::new(waits(case("wait, unset, then set").companion(setter))),
        Box::new(waits(
            case("wait, unset, then set, 2 sleep behind")
                .companions(2, later_sleeper)
                .companion(setter),
        )),
        Box::new(waits(
            case("wait, unset, then set, 2 sleep before").companions(2, sleeper).companion(setter),
        )),
        Box::new(
            waits(
                case("wait, unset, then set by one that dies, 2 sleep behind")
                    .companions(2, later_sleeper)
                    .dying(
                        |board, operation| {
                            warm_up();
                            operation.step(|| board.event.set());
                        },
                        |board| board.event.is_set(),
                    ),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(waits(case("wait, unset, then set and cleared").companion(pulse))),
        Box::new(waits(
            case("wait, unset, then set and cleared, 2 sleep behind")
                .companions(2, later_sleeper)
                .companion(pulse),
        )),
        Box::new(waits_until(
            case("wait_timeout, unset, then set").companion(setter),
            EXPIRES * 100,
        )),
        Box::new(waits_until(case("wait_timeout, expires").expires(), EXPIRES)),
        Box::new(waits_until(
            case("wait_timeout, 2 sleep, expires").expires().companions(2, sleeper),
            EXPIRES,
        )),
    ]
}
