//! The operations of victims, peers and those that die, `who` being one of them. Afterwards, they
//! help the processes that still sleep, as these help each other.

use crossproc::QueueError;

use super::Board;
use crate::cases::EXPIRES;
use crate::harness::Operation;

pub(super) fn putting(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.put(item));
    if board.after_put(who, result) {
        board.try_get(who);
    }
}

pub(super) fn trying_to_put(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.try_put(item));
    board.after_put(who, result);
}

pub(super) fn putting_in_time(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.put_timeout(item, EXPIRES));
    board.after_put(who, result);
}

pub(super) fn getting(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.get());
    if board.after_get(who, result) {
        board.try_put(who);
    }
}

pub(super) fn trying_to_get(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.try_get());
    board.after_get(who, result);
}

pub(super) fn getting_in_time(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.get_timeout(EXPIRES));
    board.after_get(who, result);
}

pub(super) fn putting_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let first = board.item(who);
    let items: [u64; N] = core::array::from_fn(|index| first + index as u64);
    match operation.step(|| board.queue.put_many(&items)) {
        Ok(()) => board.note_puts(who, N),
        Err(refused) => board.note_puts(who, refused.put),
    }
    board.try_get(who);
}

pub(super) fn trying_to_put_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let first = board.item(who);
    let items: [u64; N] = core::array::from_fn(|index| first + index as u64);
    match operation.step(|| board.queue.try_put_many(&items)) {
        Ok(()) => board.note_puts(who, N),
        Err(refused) => board.note_puts(who, refused.put),
    }
}

pub(super) fn trying_to_get_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let mut items = Vec::with_capacity(N);
    let _ = operation.step(|| board.queue.try_get_many(&mut items, N));
    items.into_iter().for_each(|item| board.note_got(who, item));
}

pub(super) fn getting_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let mut items = Vec::with_capacity(N);
    let _ = operation.step(|| board.queue.get_many(&mut items, N));
    let any = !items.is_empty();
    items.into_iter().for_each(|item| board.note_got(who, item));
    if any {
        board.try_put(who);
    }
}

pub(super) fn sending(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| {
        let mut loan = board.queue.loan().expect("few loans");
        *loan = item;
        // Not the loan, which would be dropped later.
        loan.send().map_err(|refused| refused.error)
    });
    match result {
        Ok(()) => board.note_puts(who, 1),
        Err(QueueError::Closed) => return,
        Err(error) => panic!("{error}"),
    }
    board.try_get(who);
}

pub(super) fn trying_to_send(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| {
        let mut loan = board.queue.loan().expect("few loans");
        *loan = item;
        loan.try_send().map_err(|refused| refused.error)
    });
    if result.is_ok() {
        board.note_puts(who, 1);
    }
}

pub(super) fn trying_to_receive(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.try_receive().map(|received| *received));
    board.after_get(who, result);
}

pub(super) fn receiving(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.receive().map(|received| *received));
    if board.after_get(who, result) {
        board.try_put(who);
    }
}

/// Prepares for the processes that come after it.
pub(super) fn loaning(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| drop(board.queue.loan().expect("few loans")));
}

pub(super) fn closing(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| board.queue.close()).expect("a participant");
}
