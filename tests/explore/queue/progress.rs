//! Watchers of tasks: nobody sleeps while there is a dead letter, or once all tasks are done.

use super::Op::{Attach, Finish, GiveBack, Put, Take, TakeLetter, WatchAll, WatchLetter};
use super::working::{explore_tasks_in, worker};
use super::{config, part};
use crate::ring::layout::Config;

/// Tasks have one attempt, and there is room for one dead letter.
fn with_letters(capacity: u32, ids: u32) -> Config {
    Config { letters: 1, attempts: 1, ..config(capacity, ids) }
}

#[test]
fn a_task_that_is_given_up_is_told() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Take]).killable(),
        worker(1, [WatchLetter, TakeLetter]),
    ];
    explore_tasks_in(
        "queue: a_task_that_is_given_up_is_told",
        with_letters(1, 2),
        1,
        parts,
        [1, 0],
    );
}

#[test]
fn a_watcher_of_letters_that_dies_strands_no_other() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Take]),
        worker(1, [WatchLetter]).killable(),
        worker(2, [WatchLetter]),
    ];
    explore_tasks_in(
        "queue: a_watcher_of_letters_that_dies_strands_no_other",
        with_letters(1, 3),
        1,
        parts,
        [1, 0],
    );
}

#[test]
fn one_who_gives_up_and_dies_strands_no_watcher_of_letters() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Take]).killable(),
        worker(1, [WatchLetter]),
        worker(2, [WatchLetter]),
    ];
    explore_tasks_in(
        "queue: one_who_gives_up_and_dies_strands_no_watcher_of_letters",
        with_letters(1, 3),
        1,
        parts,
        [1, 0],
    );
}

#[test]
fn a_worker_killed_anywhere_strands_no_watcher() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1)]).killable(),
        worker(1, [Take, Finish]),
        worker(2, [WatchAll]),
    ];
    explore_tasks_in(
        "queue: a_worker_killed_anywhere_strands_no_watcher",
        config(1, 3),
        1,
        parts,
        [1, 0],
    );
}

#[test]
fn one_who_gives_back_strands_no_watcher() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Take]),
        worker(1, [Take, Finish]),
        worker(2, [WatchAll]),
    ];
    explore_tasks_in(
        "queue: one_who_gives_back_strands_no_watcher",
        config(1, 3),
        1,
        parts,
        [0; 2],
    );
}

#[test]
fn what_is_a_letter_is_not_waited_for() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Put(2), Take]).killable(),
        part(1, [Finish]).prepared([Attach, Take]),
        worker(2, [WatchAll]),
    ];
    explore_tasks_in(
        "queue: what_is_a_letter_is_not_waited_for",
        with_letters(2, 3),
        2,
        parts,
        [1, 0],
    );
}

#[test]
fn a_letter_without_room_is_waited_for() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Put(2), Take, GiveBack, Take]),
        part(1, [TakeLetter]).prepared([Attach]),
        worker(2, [WatchAll]),
    ];
    explore_tasks_in(
        "queue: a_letter_without_room_is_waited_for",
        with_letters(2, 3),
        2,
        parts,
        [0; 2],
    );
}

#[test]
fn two_letters_have_room_for_one() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Put(2), Take]).killable(),
        part(1, [GiveBack]).prepared([Attach, Take]),
        worker(2, [WatchAll]),
    ];
    explore_tasks_in("queue: two_letters_have_room_for_one", with_letters(2, 3), 2, parts, [1, 0]);
}

#[test]
fn a_letter_without_room_is_told_once_the_other_is_gone() {
    let parts = [
        part(0, [GiveBack]).prepared([Attach, Put(1), Put(2), Take, GiveBack, Take]),
        part(1, [TakeLetter]).prepared([Attach]),
        worker(2, [WatchLetter]),
    ];
    explore_tasks_in(
        "queue: a_letter_without_room_is_told_once_the_other_is_gone",
        with_letters(2, 3),
        2,
        parts,
        [0; 2],
    );
}

/// Its last attempt begins while a watcher looks at it.
#[test]
fn a_task_that_is_taken_again_is_not_done() {
    let parts =
        [part(0, [Take, Finish]).prepared([Attach, Put(1), Take, GiveBack]), worker(1, [WatchAll])];
    explore_tasks_in(
        "queue: a_task_that_is_taken_again_is_not_done",
        Config { attempts: 2, ..with_letters(1, 2) },
        1,
        parts,
        [0; 2],
    );
}

#[test]
fn a_task_that_another_takes_is_not_done() {
    let parts = [
        part(0, []).prepared([Attach, Put(1), Take, GiveBack]),
        worker(1, [Take, Finish]),
        worker(2, [WatchAll]),
    ];
    explore_tasks_in(
        "queue: a_task_that_another_takes_is_not_done",
        Config { attempts: 2, ..with_letters(1, 3) },
        1,
        parts,
        [0; 2],
    );
}

#[test]
fn a_task_that_is_taken_again_is_no_letter() {
    let parts = [
        part(0, [Take, GiveBack]).prepared([Attach, Put(1), Take, GiveBack]),
        worker(1, [WatchLetter, TakeLetter]),
    ];
    explore_tasks_in(
        "queue: a_task_that_is_taken_again_is_no_letter",
        Config { attempts: 2, ..with_letters(1, 2) },
        1,
        parts,
        [0; 2],
    );
}
