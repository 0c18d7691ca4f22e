//! The companions: some sleep, some act when the victim sleeps, and some die.

use core::sync::atomic::Ordering::SeqCst;

use crossproc::wait_any;

use super::operations::{taken, unfinished_of_before};
use super::{Board, COMPANION, Operate, PEER};
use crate::cases::queue_words::{RETURNED, Stage};
use crate::harness::{Case, Fate, Me, Operation};

pub(super) fn getter(board: &Board, me: &Me) {
    board.waiting.fetch_add(1, SeqCst);
    if let Some(task) = board.hold(board.queue.get()) {
        board.finish(task);
        board.try_put(COMPANION + me.index);
    }
    board.waiting.fetch_sub(1, SeqCst);
}

/// Gets tasks until the queue is closed.
pub(super) fn worker(board: &Board, _: &Me) {
    board.waiting.fetch_add(1, SeqCst);
    while let Some(task) = board.hold(board.queue.get()) {
        board.finish(task);
    }
    board.waiting.fetch_sub(1, SeqCst);
}

pub(super) fn joiner(board: &Board, _: &Me) {
    board.joining.fetch_add(1, SeqCst);
    board.queue.join().expect("it has none in hand");
    assert_eq!(unfinished_of_before(board), 0, "joined, and not all are done");
    board.joining.fetch_sub(1, SeqCst);
}

/// Waits until all is done, as one of several things.
pub(super) fn watcher(board: &Board, _: &Me) {
    board.joining.fetch_add(1, SeqCst);
    wait_any(&[&board.queue.all_done()]).expect("it has none in hand");
    assert_eq!(unfinished_of_before(board), 0, "told, and not all are done");
    board.joining.fetch_sub(1, SeqCst);
}

pub(super) fn letter_watcher(board: &Board, _: &Me) {
    board.take_part();
    board.watching.fetch_add(1, SeqCst);
    wait_any(&[&board.queue.next_dead_letter()]).expect("there is memory");
    board.watching.fetch_sub(1, SeqCst);
}

pub(super) fn later_watcher(board: &Board, me: &Me) {
    me.pause();
    watcher(board, me);
}

pub(super) fn later_letter_watcher(board: &Board, me: &Me) {
    me.pause();
    letter_watcher(board, me);
}

pub(super) fn later_getter(board: &Board, me: &Me) {
    me.pause();
    getter(board, me);
}

pub(super) fn later_worker(board: &Board, me: &Me) {
    me.pause();
    worker(board, me);
}

pub(super) fn later_joiner(board: &Board, me: &Me) {
    me.pause();
    joiner(board, me);
}

/// Puts `count` tasks when the victim sleeps.
pub(super) fn supplier(count: usize) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        board.take_part();
        me.pause();
        (0..count).for_each(|_| {
            board.try_put(COMPANION + me.index);
        });
    }
}

/// Holds a task until the victim sleeps, and then finishes it.
pub(super) fn finisher(board: &Board, me: &Me) {
    let task = board.hold(board.queue.try_get());
    me.pause();
    task.into_iter().for_each(|task| board.finish(task));
}

/// Holds a task until the victim sleeps, and then gives it back.
pub(super) fn returner(board: &Board, me: &Me) {
    let task = board.hold(board.queue.try_get());
    me.pause();
    if let Some(task) = task {
        board.let_go(&task);
        drop(task);
    }
}

/// Adds a companion that holds a task, and dies with it when the victim sleeps.
pub(super) fn with_dying_holder(case: Case<Board>) -> Case<Board> {
    let script = |board: &Board, operation: &Operation| {
        board.take_part();
        let task = taken(board, PEER);
        operation.step(|| drop(task));
    };
    case.dying(script, |_| true)
}

/// Adds a companion that holds a task, and dies while giving it back when the victim sleeps.
pub(super) fn with_dying_returner(case: Case<Board>) -> Case<Board> {
    let script = |board: &Board, operation: &Operation| {
        board.take_part();
        let task = taken(board, PEER);
        operation.step(|| drop(task));
    };
    case.dying(script, |board| {
        (0..board.words.used())
            .any(|id| (0..4).any(|place| board.words.place(id, place) & RETURNED != 0))
    })
}

pub(crate) fn with_peer(
    case: Case<Board>,
    index: usize,
    fate: Fate,
    stage: Stage,
    puts: u64,
    operate: Operate,
) -> Case<Board> {
    let script = move |board: &Board, operation: &Operation| {
        board.take_part();
        if fate == Fate::Dies && puts != 0 && stage != Stage::Announced {
            // Accounted for beforehand: the item will be there, and nothing reads the account
            // before that.
            let item = board.item(PEER + index);
            board.put[PEER + index].fetch_add(puts, SeqCst);
            let _ = operation.step(|| board.queue.try_put(item));
            return;
        }
        operate(board, operation, PEER + index);
    };
    case.peer(fate, script, move |board| board.words.has_come_to(index, stage))
}

/// Adds a peer that has given back a task, and then does nothing.
pub(super) fn with_idle_peer(case: Case<Board>) -> Case<Board> {
    case.peer(
        Fate::Stops,
        |board, operation| {
            board.take_part();
            drop(taken(board, PEER));
            operation.step(|| board.flag.store(1, SeqCst));
        },
        |board| board.flag.load(SeqCst) == 1,
    )
}
