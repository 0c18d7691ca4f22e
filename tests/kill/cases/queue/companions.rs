//! The companions: some sleep, some act when the victim sleeps, and some die.

use core::sync::atomic::Ordering::SeqCst;

use crossproc::QueueError;

use super::{Board, COMPANION, DYING, Effect, Operate, PEER};
use crate::cases::queue_words::Stage;
use crate::harness::{Case, Fate, Me, Operation};

pub(super) fn getter(board: &Board, me: &Me) {
    if board.get(COMPANION + me.index) {
        board.try_put(COMPANION + me.index);
    }
}

pub(super) fn putter(board: &Board, me: &Me) {
    if board.put(COMPANION + me.index) {
        board.try_get(COMPANION + me.index);
    }
}

pub(super) fn later_getter(board: &Board, me: &Me) {
    me.pause();
    getter(board, me);
}

pub(super) fn later_putter(board: &Board, me: &Me) {
    me.pause();
    putter(board, me);
}

/// Puts `count` items, if there is room, when the victim sleeps.
pub(super) fn supplier(count: usize) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        board.take_part();
        me.pause();
        (0..count).for_each(|_| {
            board.try_put(COMPANION + me.index);
        });
    }
}

/// Gets `count` items, if they are there, when the victim sleeps.
pub(super) fn consumer(count: usize) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        board.take_part();
        me.pause();
        (0..count).for_each(|_| {
            board.try_get(COMPANION + me.index);
        });
    }
}

/// Closes the queue, and drains it until nothing more can come.
pub(super) fn finisher(board: &Board, me: &Me) {
    board.take_part();
    me.pause();
    board.queue.close().expect("a participant");
    board.drain(COMPANION + me.index);
    board.flag.store(u32::from(matches!(board.queue.try_get(), Err(QueueError::Closed))), SeqCst);
}

pub(super) fn closer(board: &Board, me: &Me) {
    board.take_part();
    me.pause();
    board.queue.close().expect("a participant");
}

/// Adds a peer that takes part, and comes to a stage of an operation. If it dies, what it has put
/// is there. What it has got is lost, unless it has only announced the get.
pub(super) fn with_peer(
    case: Case<Board>,
    index: usize,
    fate: Fate,
    stage: Stage,
    effect: Effect,
    operate: Operate,
) -> Case<Board> {
    let script = move |board: &Board, operation: &Operation| {
        board.take_part();
        if fate == Fate::Dies && stage != Stage::Announced {
            // Accounted for beforehand: nothing reads the account before the item is there.
            let item = board.item(PEER + index);
            match effect {
                Effect::Puts(count) => board.note_puts(PEER + index, count as usize),
                Effect::Takes(count) => _ = board.gone.fetch_add(count, SeqCst),
                Effect::Closes | Effect::Nothing => {}
            }
            match effect {
                Effect::Puts(_) => _ = operation.step(|| board.queue.try_put(item)),
                _ => operate(board, operation, PEER + index),
            }
            return;
        }
        operate(board, operation, PEER + index);
    };
    case.peer(fate, script, move |board| board.words.has_come_to(index, stage))
}

/// Adds a companion that dies when the victim sleeps, as soon as its exchange is done.
pub(super) fn with_dying(case: Case<Board>, effect: Effect) -> Case<Board> {
    let script = move |board: &Board, operation: &Operation| {
        board.take_part();
        let item = board.item(DYING);
        match effect {
            Effect::Puts(_) => {
                board.note_puts(DYING, 1);
                let _ = operation.step(|| board.queue.try_put(item));
            }
            _ => {
                board.gone.fetch_add(1, SeqCst);
                let _ = operation.step(|| board.queue.try_get());
            }
        }
    };
    case.dying(script, |board| board.words.has_any_come_to(Stage::Exchanged))
}

/// Adds a companion that puts three items at once when the victim sleeps, and dies before it wakes
/// any process.
pub(super) fn with_dying_putter_of_three(case: Case<Board>) -> Case<Board> {
    let script = |board: &Board, operation: &Operation| {
        board.take_part();
        let first = board.item(DYING);
        board.note_puts(DYING, 3);
        let _ = operation.step(|| board.queue.try_put_many(&[first, first + 1, first + 2]));
    };
    case.dying(script, |board| board.queue.len() == 3)
}
