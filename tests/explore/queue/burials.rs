//! Burials: several at once, some of them late, stopped or killed. Meanwhile others take what is
//! returned, and the dead participant's id.

use super::Op::{
    Attach, Bury, Finish, Get, Join, OnlySettle, Put, Settle, Take, TakeLetter, TakeToken,
    TakeWaiting,
};
use super::Part;
use super::sequential::explore_parts;
use super::working::{explore_tasks_in, worker};
use super::{Op, config, part, plot};
use crate::ring::layout::Config;

/// Makes a participant that takes and finishes the only task, and may be killed at any step.
fn victim() -> Part {
    part(0, [Take, Finish]).prepared([Attach, Put(1)]).killable()
}

/// Makes a participant that has the only task in hand.
fn holder() -> Part {
    part(0, [Finish]).prepared([Attach, Put(1), Take]).killable()
}

/// Makes a burier: another thread, which is not a participant.
fn burier() -> Part {
    part(0, [Bury]).after(0)
}

/// Makes a participant that takes the dead one's id.
fn newcomer<const N: usize>(ops: [Op; N]) -> Part {
    part(0, ops).after(0)
}

/// The only room for a newcomer is in the dead participant's place.
#[test]
fn a_burier_that_is_stopped_keeps_the_id_from_nobody() {
    let parts = [victim(), burier().stoppable(), newcomer([Attach, Take, Finish])];
    explore_tasks_in(
        "queue: a_burier_that_is_stopped_keeps_the_id_from_nobody",
        config(1, 1),
        1,
        parts,
        [1, 1],
    );
}

#[test]
fn a_burier_that_is_stopped_keeps_the_task_from_nobody() {
    let parts = [victim(), burier().stoppable(), worker(1, [TakeWaiting, Finish])];
    explore_tasks_in(
        "queue: a_burier_that_is_stopped_keeps_the_task_from_nobody",
        config(1, 2),
        1,
        parts,
        [1, 1],
    );
}

#[test]
fn a_newcomer_that_is_stopped_keeps_the_task_from_nobody() {
    let parts =
        [holder(), newcomer([Attach]).stoppable(), worker(1, [Bury, Take, Finish]).after(0)];
    explore_tasks_in(
        "queue: a_newcomer_that_is_stopped_keeps_the_task_from_nobody",
        config(1, 2),
        1,
        parts,
        [1, 1],
    );
}

/// The worker that has finished the last task joins at once.
#[test]
fn a_burier_that_is_stopped_strands_no_join() {
    let parts = [victim(), burier().stoppable(), worker(1, [Bury, Take, Finish, Join]).after(0)];
    explore_tasks_in(
        "queue: a_burier_that_is_stopped_strands_no_join",
        config(1, 2),
        1,
        parts,
        [1, 1],
    );
}

/// The newcomer gets what is returned in the dead one's place, and then another task there.
#[test]
fn a_late_burier_does_not_return_a_living_ones_task() {
    let victim = part(0, [Take, Finish]).prepared([Attach, Put(1), Put(2)]).killable();
    let parts = [victim, burier(), newcomer([Attach, Take, Finish, Take, Finish])];
    explore_tasks_in(
        "queue: a_late_burier_does_not_return_a_living_ones_task",
        config(2, 1),
        2,
        parts,
        [1, 0],
    );
}

/// Another worker looks for tasks at the same time.
#[test]
fn a_late_burier_does_not_give_a_living_ones_task_to_another() {
    let parts =
        [holder(), burier(), newcomer([Attach, Take, Finish]), worker(1, [Take, Finish]).after(0)];
    explore_tasks_in(
        "queue: a_late_burier_does_not_give_a_living_ones_task_to_another",
        config(1, 2),
        1,
        parts,
        [1, 0],
    );
}

/// The newcomer dies with the task, too.
#[test]
fn a_late_burier_does_not_end_a_living_ones_life() {
    let parts = [holder(), burier(), newcomer([Attach, Take, Finish]).killable()];
    explore_tasks_in(
        "queue: a_late_burier_does_not_end_a_living_ones_life",
        config(1, 1),
        1,
        parts,
        [2, 0],
    );
}

/// The newcomer dies before it knows what is in its places. By then one of them has a slot of
/// another participant.
#[test]
fn a_newcomer_does_not_inherit_what_the_dead_one_announced() {
    let parts = [victim(), worker(1, [Bury, Take, Finish]).after(0), newcomer([Attach]).killable()];
    explore_tasks_in(
        "queue: a_newcomer_does_not_inherit_what_the_dead_one_announced",
        config(1, 2),
        1,
        parts,
        [2, 0],
    );
}

/// The newcomer has come between the sleeper's look for the dead and its sleep.
#[test]
fn nobody_sleeps_on_the_token_of_a_newcomer_that_has_not_buried() {
    let parts = [holder(), newcomer([TakeToken]), worker(1, [TakeWaiting, Finish])];
    explore_tasks_in(
        "queue: nobody_sleeps_on_the_token_of_a_newcomer_that_has_not_buried",
        config(1, 2),
        1,
        parts,
        [1, 0],
    );
}

/// A survivor takes the task from the dead one's place while others are still burying.
#[test]
fn what_is_taken_from_the_dead_is_not_settled_again() {
    let parts = [victim(), burier(), burier(), worker(1, [Take, Finish]).after(0)];
    explore_tasks_in(
        "queue: what_is_taken_from_the_dead_is_not_settled_again",
        config(1, 2),
        1,
        parts,
        [1, 0],
    );
}

#[test]
fn buriers_and_those_whom_they_bury_may_be_killed() {
    let parts = [victim(), burier().killable(), worker(1, [TakeWaiting, Finish])];
    explore_tasks_in(
        "queue: buriers_and_those_whom_they_bury_may_be_killed",
        config(1, 2),
        1,
        parts,
        [2, 0],
    );
}

/// The dead participant had the task in its last attempt, or was about to give it up.
#[test]
fn a_join_gives_up_what_a_stopped_burier_returns() {
    let config = Config { letters: 1, attempts: 1, ..config(1, 2) };
    let parts = [
        part(0, [Op::GiveBack]).prepared([Attach, Put(1), Take]).killable(),
        burier().stoppable(),
        worker(1, [Join]),
    ];
    explore_tasks_in(
        "queue: a_join_gives_up_what_a_stopped_burier_returns",
        config,
        1,
        parts,
        [1, 1],
    );
}

/// The letters are full. The participant that takes one makes room for the task that a join waits
/// for.
#[test]
fn a_join_gives_up_what_there_is_room_for_later() {
    let config = Config { letters: 1, attempts: 1, ..config(1, 3) };
    let worker_of_two =
        part(0, [Op::GiveBack]).prepared([Attach, Put(1), Take, Op::GiveBack, Put(2), Take]);
    let parts = [worker_of_two, worker(1, [Join]), worker(2, [TakeLetter])];
    explore_tasks_in(
        "queue: a_join_gives_up_what_there_is_room_for_later",
        config,
        2,
        parts,
        [0, 0],
    );
}

/// The joining participant has no place other than that of the task.
#[test]
fn a_join_gives_up_its_own() {
    let config = Config { letters: 1, attempts: 1, places: 2, ..config(1, 2) };
    let joins =
        part(0, [Join]).prepared([Attach, Put(1), Take, Op::GiveBack, Put(2), Take, Op::GiveBack]);
    let parts = [joins, worker(1, [TakeLetter])];
    explore_tasks_in("queue: a_join_gives_up_its_own", config, 2, parts, [0, 0]);
}

#[test]
fn a_letter_is_one_wherever_it_is() {
    let config = Config { letters: 1, attempts: 1, ..config(1, 3) };
    let parts = [
        part(0, [Op::GiveBack]).prepared([Attach, Put(1), Take]).killable(),
        worker(1, [TakeLetter]),
        worker(2, [Bury, Take]),
    ];
    explore_tasks_in("queue: a_letter_is_one_wherever_it_is", config, 1, parts, [1, 0]);
}

/// A late burier's exchanges come when the slots have gone round.
#[test]
fn a_late_burier_does_not_settle_a_put_again() {
    let parts = [
        part(0, [Put(1)]).killable(),
        part(1, [Get, Put(11)]),
        part(0, [OnlySettle]).after(0),
        part(0, [Settle, Put(21), Get]).after(0),
    ];
    explore_parts("queue: a_late_burier_does_not_settle_a_put_again", plot(config(1, 2)), parts, 1);
}

#[test]
fn a_late_burier_does_not_settle_a_get_again() {
    let parts = [
        part(0, [Get]).prepared([Put(7)]).killable(),
        part(1, [Put(11), Get]),
        part(0, [OnlySettle]).after(0),
        part(0, [Settle, Put(21), Get]).after(0),
    ];
    explore_parts("queue: a_late_burier_does_not_settle_a_get_again", plot(config(1, 2)), parts, 1);
}

/// The newcomer announces something that looks like the dead one's announcement, and is killed,
/// too.
#[test]
fn a_late_burier_does_not_take_back_what_a_living_one_announces() {
    let parts = [
        part(0, [Get]).prepared([Put(7)]).killable(),
        part(0, [OnlySettle]).after(0),
        part(0, [Settle, Put(21), Get]).after(0).killable(),
        part(0, [Settle, Get]).after(2),
    ];
    explore_parts(
        "queue: a_late_burier_does_not_take_back_what_a_living_one_announces",
        plot(config(2, 1)),
        parts,
        2,
    );
}
