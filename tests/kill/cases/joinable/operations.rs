//! The operations of victims, peers and those that die.

use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;

use crossproc::{Task, wait_any};

use super::{BEFORE, Board, PEER, VICTIM};
use crate::harness::Operation;

pub(super) fn trying_to_put(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.try_put(item));
    board.after_put(who, result.map_err(|refused| refused.error));
}

pub(crate) fn getting(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.get());
    if let Some(task) = board.hold(result) {
        board.finish(task);
        board.try_put(who);
    }
}

pub(crate) fn trying_to_get(board: &Board, operation: &Operation, _: usize) {
    let result = operation.step(|| board.queue.try_get());
    if let Some(task) = board.hold(result) {
        board.finish(task);
    }
}

/// Takes a task in hand: the first one, if this is the first process to come.
pub(crate) fn taken<'a>(board: &'a Board, who: usize) -> Task<'a, u64> {
    let task = board.hold(board.queue.try_get()).expect("there is a task");
    board.let_go(&task);
    if who == VICTIM {
        board.account(*task).is_doing.store(1, SeqCst);
    }
    task
}

pub(super) fn finishing(board: &Board, operation: &Operation, who: usize) {
    let task = taken(board, who);
    let item = *task;
    if who == VICTIM {
        board.victims.store(item + 1, SeqCst);
    }
    operation.step(|| task.done());
    board.account(item).done.fetch_add(1, SeqCst);
}

pub(super) fn giving_back(board: &Board, operation: &Operation, _: usize) {
    let task = taken(board, PEER);
    operation.step(|| drop(task));
    board.drain();
}

/// Like [`giving_back`], with a task that is thereby given up.
pub(super) fn giving_up(board: &Board, operation: &Operation, _: usize) {
    let task = taken(board, VICTIM);
    operation.step(|| drop(task));
    board.drain();
}

pub(crate) fn joining(board: &Board, operation: &Operation, _: usize) {
    let result = operation.step(|| board.queue.join());
    result.expect("it has none in hand");
    assert_eq!(unfinished_of_before(board), 0, "joined, and not all are done");
}

pub(super) fn watching_all(board: &Board, operation: &Operation, _: usize) {
    let all = board.queue.all_done();
    operation.step(|| wait_any(&[&all])).expect("it has none in hand");
    assert_eq!(unfinished_of_before(board), 0, "told, and not all are done");
}

pub(super) fn watching_letters(board: &Board, operation: &Operation, _: usize) {
    let letter = board.queue.next_dead_letter();
    operation.step(|| wait_any(&[&letter])).expect("there is memory");
}

pub(super) fn looking_for_the_end(board: &Board, operation: &Operation, _: usize) {
    let _ = operation.step(|| board.queue.join_timeout(Duration::ZERO));
    board.drain();
}

pub(super) fn taking_a_letter(board: &Board, operation: &Operation, _: usize) {
    let result = operation.step(|| board.queue.dead_letter());
    if let Ok(letter) = result {
        board.account(*letter).done.fetch_add(1, SeqCst);
    }
}

pub(super) fn closing(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| board.queue.close()).expect("a participant");
}

pub(super) fn unfinished_of_before(board: &Board) -> usize {
    let tasks = &board.tasks[BEFORE][..board.put[BEFORE].load(SeqCst) as usize];
    tasks.iter().filter(|task| task.is_doing.load(SeqCst) == 0).count()
}
