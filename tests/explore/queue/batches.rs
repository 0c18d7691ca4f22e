//! Batches: some items of one are got while others take the rest, or put the slot to other uses.

use super::Op::{Close, GetBatched, GetBatchedWaiting, PutBatch, PutBatchWaiting, Settle};
use super::sequential::explore_parts;
use super::{Config, Plot, config, part, plot};

fn batches(capacity: u32, ids: u32) -> Plot {
    plot(Config { batch: 3, size: 24, ..config(capacity, ids) })
}

#[test]
fn one_batch_is_got_by_three() {
    let parts = [
        part(0, [GetBatched(1), GetBatched(1)]).prepared([PutBatch(1, 3)]),
        part(1, [GetBatched(2), GetBatched(1)]),
        part(2, [GetBatched(3)]),
    ];
    explore_parts("queue: one_batch_is_got_by_three", batches(1, 3), parts, 0);
}

#[test]
fn a_slot_is_filled_again_while_a_getter_copies() {
    let parts = [
        part(0, [GetBatched(1), GetBatched(1)]).prepared([PutBatch(1, 2)]),
        part(1, [GetBatched(3), PutBatch(11, 3), PutBatch(21, 2)]),
        part(2, [GetBatched(3)]),
    ];
    explore_parts("queue: a_slot_is_filled_again_while_a_getter_copies", batches(1, 3), parts, 0);
}

#[test]
fn batches_go_round() {
    let parts = [
        part(0, [PutBatch(1, 2), PutBatch(11, 3)]),
        part(1, [GetBatched(1), GetBatched(1), GetBatched(3)]),
        part(2, [GetBatched(2), PutBatch(21, 1)]),
    ];
    explore_parts("queue: batches_go_round", batches(2, 3), parts, 0);
}

#[test]
fn an_heir_knows_whether_the_dead_one_has_put_a_batch() {
    let parts = [
        part(0, [PutBatch(1, 2), PutBatch(11, 2)]).killable(),
        part(1, [GetBatched(1), GetBatched(3)]),
        part(2, [GetBatched(1), PutBatch(21, 2)]),
        part(0, [Settle, PutBatch(31, 2), GetBatched(1)]).after(0),
    ];
    explore_parts(
        "queue: an_heir_knows_whether_the_dead_one_has_put_a_batch",
        batches(1, 3),
        parts,
        1,
    );
}

#[test]
fn an_heir_knows_whether_the_dead_one_has_got_of_a_batch() {
    let parts = [
        part(0, [GetBatched(1), GetBatched(2)]).prepared([PutBatch(1, 3)]).killable(),
        part(1, [GetBatched(1), PutBatch(11, 2)]),
        part(2, [GetBatched(3), PutBatch(21, 2)]),
        part(0, [Settle, GetBatched(1), PutBatch(31, 2)]).after(0),
    ];
    explore_parts(
        "queue: an_heir_knows_whether_the_dead_one_has_got_of_a_batch",
        batches(1, 3),
        parts,
        1,
    );
}

#[test]
fn two_who_die_at_one_batch_are_told_apart() {
    let parts = [
        part(0, [PutBatch(1, 2), GetBatched(1)]).killable(),
        part(1, [GetBatched(1), GetBatched(2), PutBatch(11, 2)]).killable(),
        part(0, [Settle, GetBatched(1)]).after(0),
        part(1, [Settle, PutBatch(31, 2)]).after(1),
    ];
    explore_parts("queue: two_who_die_at_one_batch_are_told_apart", batches(1, 2), parts, 2);
}

#[test]
fn a_batch_wakes_a_getter_for_each_item() {
    let parts = [
        part(0, [PutBatchWaiting(1, 2)]),
        part(1, [GetBatchedWaiting(1)]),
        part(2, [GetBatchedWaiting(1)]),
    ];
    explore_parts("queue: a_batch_wakes_a_getter_for_each_item", batches(1, 3), parts, 0);
}

#[test]
fn one_killed_anywhere_strands_no_getter_of_a_batch() {
    let parts = [
        part(0, [PutBatchWaiting(1, 2)]).killable(),
        part(1, [GetBatchedWaiting(1)]).killable(),
        part(2, [GetBatchedWaiting(1)]),
    ];
    explore_parts(
        "queue: one_killed_anywhere_strands_no_getter_of_a_batch",
        batches(1, 3),
        parts,
        1,
    );
}

#[test]
fn the_last_item_makes_room() {
    let parts = [
        part(0, [PutBatchWaiting(11, 2)]).prepared([PutBatch(1, 2)]),
        part(1, [GetBatchedWaiting(1), GetBatchedWaiting(1)]),
        part(2, [GetBatchedWaiting(2)]),
    ];
    explore_parts("queue: the_last_item_makes_room", batches(1, 3), parts, 0);
}

#[test]
fn a_close_leaves_what_is_there() {
    let parts = [
        part(0, [PutBatchWaiting(1, 2), Close]),
        part(1, [GetBatchedWaiting(1), GetBatchedWaiting(1)]),
        part(2, [GetBatchedWaiting(1)]),
    ];
    explore_parts("queue: a_close_leaves_what_is_there", batches(1, 3), parts, 0);
}
