//! The victim does what is left to do for a dead participant of a joinable queue, and is stopped
//! at that: nobody waits for it. The others take the dead one's tasks, finish them, join, and come
//! into a table that is full but for the dead one.
//!
//! Nobody else sleeps before the victim is stopped, so no wake-up is owed to anybody: whoever is
//! asleep while the victim is stopped, with slices or without, waits for it.

use core::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::joinable::{
    BEFORE, Board, PEER, SURVIVOR, VICTIM, check, getting, joining, taken, trying_to_get, victim,
    with_peer,
};
use super::queue_words::Stage;
use super::warm_up;
use crate::harness::{Case, Fate, Me, Operation, Subject};

/// More than there are processes.
const MANY: usize = 12;
const CAPACITY: usize = 4;

/// What the one that has died was about.
#[derive(Debug, Clone, Copy)]
enum Dead {
    /// It had a task in hand.
    Held,
    /// It had two.
    HeldTwo,
    /// It was in the middle of getting one.
    Got(Stage),
}

impl Dead {
    /// How many tasks it is about.
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

/// A queue with as many tasks as the dead have had, or were getting: nothing is in anybody's way.
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

/// Comes when the victim sleeps, or has been stopped.
fn worker(board: &Board, me: &Me) {
    me.pause();
    work(board);
}

/// All are done before it returns.
fn join(board: &Board, _: &Me) {
    board.queue.join().expect("it has none in hand");
}

/// Its first operation is to become a participant.
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
        // It has nothing in hand itself at any time.
        cases.push(Box::new(victim(
            case("join", MANY, dead, 1).companion(worker).survivor(join),
            joining,
        )));
        cases.push(Box::new(victim(
            case("join", MANY, dead, 2).companions(2, worker).survivor(join),
            joining,
        )));
        // It takes one of two tasks, and the other one is there for whoever comes.
        cases.push(Box::new(victim(
            case("get", MANY, dead, 2).companion(worker).survivor(come),
            getting,
        )));
        // It takes over the dead one's id.
        cases.push(Box::new(
            case("the first operation", MANY, dead, 1).companion(worker).survivor(join).victim(
                |board, operation| {
                    warm_up();
                    entering(board, operation, VICTIM);
                },
            ),
        ));
        // Nobody else has an id: one of the two that come takes the dead one's.
        let full = case("join", 2, dead, 1).survivor(|board, me| {
            if me.index == 0 {
                work(board);
            }
        });
        cases.push(Box::new(victim(full.companion(|_, me| me.pause()), joining_in_time)));
    }
    cases
}

/// Looks whether all is done, and so buries the dead; does not wait for those who come later.
fn joining_in_time(board: &Board, operation: &Operation, _: usize) {
    let _ = operation.step(|| board.queue.join_timeout(Duration::ZERO));
}
