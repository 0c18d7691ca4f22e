//! `Permits`.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use crossproc::{Permit, Permits, PermitsError};

use super::{EXPIRES, WAKER_STOPPED, warm_up};
use crate::harness::{Case, Me, Mode, Operation, Subject};

struct Board<const N: usize> {
    permits: Permits<N>,
    /// How many processes hold a permit and use it.
    inside: AtomicU32,
}

impl<const N: usize> Board<N> {
    fn use_up(&self, outcome: Result<Permit<'_, N>, PermitsError>) {
        match outcome {
            Ok(_permit) => {
                let inside = self.inside.fetch_add(1, SeqCst);
                assert!((inside as usize) < N, "more holders than permits");
                thread::yield_now();
                self.inside.fetch_sub(1, SeqCst);
            }
            Err(PermitsError::TimedOut | PermitsError::WouldBlock) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns a case whose survivors acquire and release twice. No process waits while a permit is
/// free, and all are free at the end.
fn case<const N: usize>(name: &str) -> Case<Board<N>> {
    let make = || Board { permits: Permits::new(), inside: AtomicU32::new(0) };
    Case::new(format!("permits: {name}"), make)
        .survivor(|board, _| (0..2).for_each(|_| board.use_up(board.permits.acquire())))
        .may_wait(|board, now| now.is_stopped && board.permits.value() == 0)
        .check(|board, _| match board.permits.value() {
            value if value == N => Ok(()),
            value => Err(format!("{value} permits of {N} at the end")),
        })
}

fn sleeper<const N: usize>(board: &Board<N>, _: &Me) {
    board.use_up(board.permits.acquire());
}

fn later_sleeper<const N: usize>(board: &Board<N>, me: &Me) {
    me.pause();
    sleeper(board, me);
}

/// Holds a permit until the victim sleeps.
fn holder<const N: usize>(board: &Board<N>, me: &Me) {
    let permit = board.permits.acquire();
    me.pause();
    board.use_up(permit);
}

/// Holds a permit while others go on once.
fn long_holder<const N: usize>(board: &Board<N>, me: &Me) {
    let permit = board.permits.acquire();
    me.pause();
    me.pause();
    board.use_up(permit);
}

/// Adds a companion that holds a permit, and dies when the victim sleeps: while holding the permit,
/// or while releasing it.
fn with_dying<const N: usize>(case: Case<Board<N>>, when: fn(&Board<N>) -> bool) -> Case<Board<N>> {
    let dies = |board: &Board<N>, operation: &Operation| {
        warm_up();
        let permit = board.permits.acquire();
        operation.step(|| drop(permit));
    };
    case.dying(dies, when)
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    acquiring().into_iter().chain(releasing()).collect()
}

fn acquires<const N: usize>(case: Case<Board<N>>) -> Box<dyn Subject> {
    let case = case.victim(|board, operation| {
        warm_up();
        board.use_up(operation.step(|| board.permits.acquire()));
    });
    Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
}

fn expires<const N: usize>(case: Case<Board<N>>) -> Box<dyn Subject> {
    let case = case.expires().victim(|board, operation| {
        warm_up();
        board.use_up(operation.step(|| board.permits.acquire_timeout(EXPIRES)));
    });
    Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
}

/// Releases one of the permits that the victim holds, and keeps the others.
fn releases<const N: usize>(case: Case<Board<N>>, held: usize) -> Box<dyn Subject> {
    let case = case.victim(move |board, operation| {
        warm_up();
        let mut permits: Vec<_> = (0..held).map(|_| board.permits.acquire()).collect();
        let permit = permits.pop();
        operation.step(|| drop(permit));
    });
    Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
}

fn acquiring() -> Vec<Box<dyn Subject>> {
    vec![
        acquires(case::<1>("acquire, free")),
        acquires(case::<4>("acquire, free, of 4")),
        acquires(case::<2>("acquire, the last of 2").companion(holder)),
        acquires(case::<4>("acquire, the last of 4").companions(3, holder)),
        acquires(case::<1>("acquire, none").companion(holder)),
        acquires(
            case::<1>("acquire, none, 2 sleep before").companion(holder).companions(2, sleeper),
        ),
        acquires(
            case::<1>("acquire, none, 2 sleep behind")
                .companions(2, later_sleeper)
                .companion(holder),
        ),
        acquires(
            case::<2>("acquire, none of 2, 2 sleep behind")
                .companions(2, later_sleeper)
                .companions(2, holder),
        ),
        acquires(
            case::<4>("acquire, none of 4, 2 sleep behind")
                .companions(2, later_sleeper)
                .companions(4, holder),
        ),
        acquires(with_dying(
            case::<1>("acquire, none, the holder dies, 2 sleep behind")
                .companions(2, later_sleeper),
            |_| true,
        )),
        acquires(with_dying(
            case::<2>("acquire, none of 2, a holder dies, 2 sleep behind")
                .companions(2, later_sleeper)
                .companion(long_holder),
            |_| true,
        )),
        acquires(with_dying(
            with_dying(
                case::<2>("acquire, none of 2, both holders die, 2 sleep behind")
                    .companions(2, later_sleeper),
                |_| true,
            ),
            |_| true,
        )),
        acquires(with_dying(
            case::<1>("acquire, none, the holder dies as it releases, 2 sleep behind")
                .companions(2, later_sleeper),
            |board| board.permits.value() != 0,
        )),
        expires(case::<1>("acquire_timeout, none, expires").companion(holder)),
        expires(
            case::<2>("acquire_timeout, none of 2, 2 sleep, expires")
                .companions(2, holder)
                .companions(2, sleeper),
        ),
    ]
}

fn releasing() -> Vec<Box<dyn Subject>> {
    vec![
        releases(case::<1>("release"), 1),
        releases(case::<1>("release, 1 sleeps").companion(sleeper), 1),
        releases(case::<1>("release, 2 sleep").companions(2, sleeper), 1),
        releases(case::<2>("release, of 2, 1 sleeps").companion(holder).companion(sleeper), 1),
        releases(case::<2>("release, 1 of the victim's 2, 2 sleep").companions(2, sleeper), 2),
        releases(
            case::<4>("release, of 4, 2 sleep").companions(3, holder).companions(2, sleeper),
            1,
        ),
        releases(case::<4>("release, 1 of the victim's 4, 2 sleep").companions(2, sleeper), 4),
        Box::new(
            case::<2>("release both, 2 sleep")
                .companions(2, sleeper)
                .victim(|board, operation| {
                    warm_up();
                    let both = [board.permits.acquire(), board.permits.acquire()];
                    operation.step(|| drop(both));
                })
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            case::<1>("acquire and release, 2 sleep behind")
                .companions(2, later_sleeper)
                .companion(holder)
                .victim(|board, operation| {
                    warm_up();
                    operation.step(|| drop(board.permits.acquire()));
                })
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
    ]
}
