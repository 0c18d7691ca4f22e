//! Waiting for items and for room, and the end of a queue.

use super::Op::{Close, Get, GetWaiting, Put, PutTwoWaiting, PutWaiting, Watch, WatchMore};
use super::Side::{Getters, Putters};
use super::sequential::explore_parts;
use super::{config, part, plot};

#[test]
fn getters_are_woken() {
    let parts =
        [part(0, [GetWaiting]), part(1, [GetWaiting]), part(2, [PutWaiting(1), PutWaiting(2)])];
    explore_parts("queue: getters_are_woken", plot(config(2, 3)), parts, 0);
}

#[test]
fn a_putter_killed_anywhere_strands_no_getter() {
    let parts = [
        part(0, [GetWaiting]),
        part(1, [GetWaiting]),
        part(2, [PutWaiting(1), PutWaiting(2)]).killable(),
    ];
    explore_parts(
        "queue: a_putter_killed_anywhere_strands_no_getter",
        plot(config(2, 3)),
        parts,
        1,
    );
}

#[test]
fn a_batch_wakes_as_many_as_it_is_for() {
    let parts =
        [part(0, [GetWaiting]), part(1, [GetWaiting]), part(2, [PutTwoWaiting(1)]).killable()];
    explore_parts("queue: a_batch_wakes_as_many_as_it_is_for", plot(config(2, 3)), parts, 1);
}

#[test]
fn a_getter_killed_anywhere_strands_no_other() {
    let parts = [part(0, [GetWaiting]).killable(), part(1, [GetWaiting]), part(2, [PutWaiting(1)])];
    explore_parts("queue: a_getter_killed_anywhere_strands_no_other", plot(config(2, 3)), parts, 1);
}

#[test]
fn a_getter_killed_anywhere_strands_no_putter() {
    let parts = [
        part(0, [PutWaiting(1)]).prepared([Put(7)]),
        part(1, [PutWaiting(2)]),
        part(2, [GetWaiting]).killable(),
    ];
    explore_parts(
        "queue: a_getter_killed_anywhere_strands_no_putter",
        plot(config(1, 3)),
        parts,
        1,
    );
}

#[test]
fn nothing_is_lost_at_the_end() {
    let parts = [part(0, [Put(1), Put(2)]), part(1, [Close]).killable(), part(2, [Get, Get, Get])];
    explore_parts("queue: nothing_is_lost_at_the_end", plot(config(2, 3)), parts, 1);
}

#[test]
fn a_closer_killed_anywhere_strands_nobody() {
    let parts = [part(0, [GetWaiting]), part(1, [Close]).killable(), part(2, [Put(1), Close])];
    explore_parts("queue: a_closer_killed_anywhere_strands_nobody", plot(config(1, 3)), parts, 1);
}

#[test]
fn a_close_tells_those_who_wait_for_room() {
    let parts = [
        part(0, [PutWaiting(1)]).prepared([Put(7)]),
        part(1, [Close]).killable(),
        part(2, [Close]),
    ];
    explore_parts("queue: a_close_tells_those_who_wait_for_room", plot(config(1, 3)), parts, 1);
}

#[test]
fn two_killed_anywhere_strand_nobody() {
    let parts = [
        part(0, [GetWaiting]),
        part(1, [GetWaiting]).killable(),
        part(2, [PutWaiting(1)]).killable(),
    ];
    explore_parts("queue: two_killed_anywhere_strand_nobody", plot(config(1, 3)), parts, 2);
}

#[test]
fn a_watcher_killed_anywhere_strands_no_getter() {
    let parts =
        [part(0, [Watch(Getters)]).killable(), part(1, [GetWaiting]), part(2, [PutWaiting(1)])];
    explore_parts(
        "queue: a_watcher_killed_anywhere_strands_no_getter",
        plot(config(1, 3)),
        parts,
        1,
    );
}

#[test]
fn a_watcher_killed_anywhere_strands_no_putter() {
    let parts = [
        part(0, [Watch(Putters)]).prepared([Put(7)]).killable(),
        part(1, [PutWaiting(2)]),
        part(2, [GetWaiting]),
    ];
    explore_parts(
        "queue: a_watcher_killed_anywhere_strands_no_putter",
        plot(config(1, 3)),
        parts,
        1,
    );
}

#[test]
fn a_putter_killed_anywhere_strands_neither_getter_nor_watcher() {
    let parts =
        [part(0, [Watch(Getters)]), part(1, [GetWaiting]), part(2, [PutWaiting(1)]).killable()];
    explore_parts(
        "queue: a_putter_killed_anywhere_strands_neither_getter_nor_watcher",
        plot(config(1, 3)),
        parts,
        1,
    );
}

#[test]
fn a_putter_and_a_watcher_killed_anywhere_strand_no_getter() {
    let parts = [
        part(0, [Watch(Getters)]).killable(),
        part(1, [PutWaiting(1)]).killable(),
        part(2, [GetWaiting]),
    ];
    explore_parts(
        "queue: a_putter_and_a_watcher_killed_anywhere_strand_no_getter",
        plot(config(1, 3)),
        parts,
        2,
    );
}

/// The watcher's own entry names the other thing.
#[test]
fn a_putter_and_a_watcher_of_two_killed_anywhere_strand_no_getter() {
    let parts = [
        part(0, [WatchMore(Getters)]).killable(),
        part(1, [PutWaiting(1)]).killable(),
        part(2, [GetWaiting]),
    ];
    explore_parts(
        "queue: a_putter_and_a_watcher_of_two_killed_anywhere_strand_no_getter",
        plot(config(1, 3)),
        parts,
        2,
    );
}

#[test]
fn a_process_with_a_putter_and_a_watcher_of_two_strands_no_getter() {
    let parts = [
        part(0, [WatchMore(Getters)]).of_process(0),
        part(1, [PutWaiting(1)]).of_process(0),
        part(2, [GetWaiting]),
    ];
    explore_parts(
        "queue: a_process_with_a_putter_and_a_watcher_of_two_strands_no_getter",
        plot(config(1, 3)),
        parts,
        1,
    );
}

#[test]
fn a_closer_killed_anywhere_strands_no_watcher() {
    let parts = [
        part(0, [Watch(Putters)]).prepared([Put(7)]),
        part(1, [Close]).killable(),
        part(2, [Close]),
    ];
    explore_parts(
        "queue: a_closer_killed_anywhere_strands_no_watcher",
        plot(config(1, 3)),
        parts,
        1,
    );
}
