//! The victim does what is left to do for a dead participant of a joinable queue, and is stopped at
//! that: no other process waits for it. The others take the dead participant's tasks, finish them,
//! join, and enter a table that is full but for the dead participant.
//!
//! No other process sleeps before the victim is stopped, so no wake-up is owed to any of them. A
//! process that is asleep while the victim is stopped, with slices or without, waits for the
//! victim.

use core::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::joinable::checks::check;
use super::joinable::companions::with_peer;
use super::joinable::operations::{getting, joining, taken, trying_to_get};
use super::joinable::{BEFORE, Board, PEER, SURVIVOR, VICTIM, victim};
use super::queue_words::Stage;
use super::warm_up;
use crate::harness::{Case, Fate, Me, Operation, Subject};

/// More participants than there are processes.
const MANY: usize = 12;
const CAPACITY: usize = 4;

/// What the dead participant was doing.
#[derive(Debug, Clone, Copy)]
enum Dead {
    /// It held a task.
    Held,
    /// It held two tasks.
    HeldTwo,
    /// It was in the middle of getting a task.
    Got(Stage),
}

impl Dead {
    /// Returns how many tasks are concerned.
    fn tasks(self) -> usize {
        if matches!(self, Dead::HeldTwo) { 2 } else { 1 }
    }
}

const DEAD: [Dead; 5] = [
    Dead::Held,
    Dead::Got(Stage::Announced),
    Dead::Got(Stage::Exchanged),
    Dead::Got(Stage::Taken),
    Dead::Got(Stage::Placed),
];

/// A queue with as many tasks as the dead have held, or were getting: nothing obstructs the others.
fn case(name: &str, participants: usize, dead: Dead, deaths: usize) -> Case<Board> {
    let name =
        format!("stopped burials: {name}, {deaths} died, {dead:?} [{participants} take part]");
    let case = Case::new(name, move || Board::among(participants, CAPACITY, 0))
        .before(move |board| {
            (0..deaths * dead.tasks())
                .for_each(|_| assert!(board.try_put(BEFORE), "there is room"));
        })
        .may_wait(|_, _| false)
        .check(check);
    (0..deaths).fold(case, |case, index| match dead {
        Dead::Held | Dead::HeldTwo => case.peer(
            Fate::Dies,
            move |board, operation| {
                board.take_part();
                let _tasks: Vec<_> =
                    (0..dead.tasks()).map(|_| taken(board, PEER + index)).collect();
                operation.step(|| board.flag.fetch_add(1, SeqCst));
            },
            move |board| board.flag.load(SeqCst) == index as u32 + 1,
        ),
        Dead::Got(stage) => with_peer(case, index, Fate::Dies, stage, 0, trying_to_get),
    })
}

/// Gets a task, and finishes it.
fn work(board: &Board) {
    let task = board.hold(board.queue.get()).expect("it is not closed");
    board.finish(task);
}

/// A worker that comes when the victim sleeps, or has been stopped.
fn worker(board: &Board, me: &Me) {
    me.pause();
    work(board);
}

/// Joins: all tasks are done before it returns.
fn join(board: &Board, _: &Me) {
    board.queue.join().expect("it has none in hand");
}

/// Becomes a participant with its first operation.
fn come(board: &Board, me: &Me) {
    assert!(board.try_put(SURVIVOR + me.index), "there is room");
}

fn entering(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| drop(board.queue.loan().expect("there is one that died")));
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    cases.push(Box::new(victim(
        case("get", MANY, Dead::HeldTwo, 1).companion(worker).survivor(come),
        getting,
    )));
    for dead in DEAD {
        // The victim holds no task at any time.
        cases.push(Box::new(victim(
            case("join", MANY, dead, 1).companion(worker).survivor(join),
            joining,
        )));
        cases.push(Box::new(victim(
            case("join", MANY, dead, 2).companions(2, worker).survivor(join),
            joining,
        )));
        // The victim takes one of two tasks. The other one is there for the processes that come.
        cases.push(Box::new(victim(
            case("get", MANY, dead, 2).companion(worker).survivor(come),
            getting,
        )));
        // The victim takes over the dead participant's id.
        cases.push(Box::new(
            case("the first operation", MANY, dead, 1).companion(worker).survivor(join).victim(
                |board, operation| {
                    warm_up();
                    entering(board, operation, VICTIM);
                },
            ),
        ));
        // No other id is left: one of the two processes that come takes the dead participant's.
        let full = case("join", 2, dead, 1).survivor(|board, me| {
            if me.index == 0 {
                work(board);
            }
        });
        cases.push(Box::new(victim(full.companion(|_, me| me.pause()), joining_in_time)));
    }
    cases
}

/// Checks whether all is done, and so buries the dead. Does not wait for those that come later.
fn joining_in_time(board: &Board, operation: &Operation, _: usize) {
    let _ = operation.step(|| board.queue.join_timeout(Duration::ZERO));
}
