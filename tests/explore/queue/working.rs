//! Tasks: whichever participant dies, each task is done, by one participant.

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::explorer::{End, Fate};

use super::Op::{
    Attach, Close, Finish, GiveBack, Join, Put, PutWaiting, Take, TakeLetter, TakeWaiting,
    WatchAll, WatchLetter,
};
use super::{Me, Op, Part, Plot, config, output, part, plot};
use crate::explore;
use crate::ring::ends::End::Head;
use crate::ring::layout::Config;
use crate::ring::looks::Looks;
use crate::ring::tasks::Unfinished;
use crate::ring::words::{RETURNED, TASK, index};

impl Plot {
    /// Returns the tasks in places with any of these flags.
    fn in_places(&self, flags: u64) -> impl Iterator<Item = u64> {
        let words = (0..self.memory.used())
            .flat_map(|id| (0..2).map(move |place| (id, place)))
            .map(|(id, place)| self.memory.place(id, place));
        words
            .map(|word| word.load(Relaxed))
            .filter(move |word| word & flags != 0)
            .map(|word| self.payloads[index(word)].load(Relaxed))
    }

    /// Returns all unfinished tasks.
    fn unfinished(&self) -> Vec<u64> {
        let mut tasks = self.settled();
        tasks.extend(self.in_places(TASK | RETURNED));
        tasks
    }

    /// Returns whether a living participant has a task in hand.
    fn has_in_hand(&self) -> bool {
        let Plot { memory, .. } = self;
        let in_hand = |id| (0..2).any(|place| memory.place(id, place).load(Relaxed) & TASK != 0);
        (0..memory.used()).any(|id| !memory.is_dead(id) && in_hand(id))
    }

    /// Returns what one look of a join finds: whether all tasks are done.
    fn is_joined(&self) -> bool {
        self.memory.bury(None);
        !self.memory.has_unfinished(None)
    }

    /// Returns whether there is a dead letter, or will be once the dead are buried.
    fn has_letter(&self) -> bool {
        self.memory.bury(None);
        self.memory.has_letter() || self.memory.count_letters() != 0
    }

    /// Returns whether there is a task for a waiting participant, or the end.
    fn has_news(&self) -> bool {
        let Plot { memory, .. } = self;
        let in_ring = self.ring().find(Head).map_or(true, |found| {
            !found.is_empty() || (found.is_sealed() && !memory.has_unfinished(None))
        });
        let with_the_dead = (0..memory.used()).any(|id| {
            memory.is_dead(id) && memory.has_task(id, &mut Looks::new(0, None)) != Unfinished::None
        });
        in_ring || self.in_places(RETURNED).next().is_some() || with_the_dead
    }
}

/// Explores participants that have attached, with the tasks 1 to `tasks`. Asserts at each end that
/// only threads that must wait sleep. Each task must be in one place, or have been finished once.
fn explore_tasks<const N: usize>(
    name: &str,
    capacity: u32,
    ids: u32,
    tasks: u64,
    parts: [Part; N],
    kills: u32,
) {
    explore_tasks_in(name, config(capacity, ids), tasks, parts, [kills, 0]);
}

/// As [`explore_tasks`], with the given numbers of kills and stops.
pub(super) fn explore_tasks_in<const N: usize>(
    name: &str,
    config: Config,
    tasks: u64,
    parts: [Part; N],
    [kills, stops]: [u32; 2],
) {
    let plot = plot(Config { is_joinable: true, ..config });
    let memory = plot.memory;
    let mut exploration = explore::<Plot, Me>(name, plot).solo(300);
    for (number, part) in parts.iter().enumerate() {
        let setup: fn(&Plot) = |plot| plot.memory.fill();
        exploration = exploration.thread(part.script(&memory, (number == 0).then_some(setup)));
    }
    let parts = parts.map(|part| part.ops).to_vec();
    let check = move |end: &mut End<'_, Plot, Me>| {
        let left = end.look(Plot::unfinished);
        assert!(
            !end.look(Plot::has_in_hand),
            "one has a task, and does not know it: none keeps any"
        );
        let was_stopped = (0..parts.len()).any(|thread| end.fate(thread) == Fate::Stopped);
        let mut times = vec![0; tasks as usize + 1];
        let mut may_be_done = vec![false; tasks as usize + 1];
        left.iter().for_each(|&task| times[task as usize] += 1);
        for (thread, ops) in parts.iter().enumerate() {
            let outputs = end.outputs(thread).to_vec();
            for (op, &output) in ops.iter().zip(&outputs) {
                match op {
                    Finish | TakeLetter if (1..=tasks).contains(&output) => {
                        times[output as usize] += 1;
                    }
                    // The output is the number of tasks that had been done.
                    Join if memory.config.letters == 0 => {
                        assert_eq!(output, tasks, "a join returned too early");
                    }
                    // What is done stays so: nothing is put.
                    WatchAll => {
                        let all = end.look(|plot| {
                            let left = plot.memory.unfinished(None, None);
                            left == Unfinished::None && plot.count_done() == output
                        });
                        assert!(all, "a watcher was told too early");
                    }
                    _ => {}
                }
            }
            // Where nobody else takes letters, nor moves any.
            for (pair, outputs) in ops.windows(2).zip(outputs.windows(2)) {
                assert!(
                    *pair != [WatchLetter, TakeLetter] || outputs[1] != output::EMPTY,
                    "one was told of a letter, and there is none"
                );
            }
            let Some(op) = ops.get(outputs.len()) else { continue };
            match (end.fate(thread), op) {
                (Fate::Killed, Finish) => {
                    // A task that it took before the exploration began is the first one.
                    let task = outputs.last().copied().unwrap_or(1);
                    may_be_done[if task <= tasks { task as usize } else { 0 }] = true;
                }
                (Fate::Asleep, Join) => {
                    let count = end.look(|plot| {
                        plot.unfinished();
                        plot.memory.count_unfinished()
                    });
                    // Slices exist for a thread that is stopped in the middle of its wakes.
                    let ends_by_slice = was_stopped && end.look(Plot::is_joined);
                    assert!(
                        count != 0 || ends_by_slice,
                        "thread {thread} waits for no task to be finished"
                    );
                }
                (Fate::Asleep, TakeWaiting) => assert!(
                    !end.look(Plot::has_news),
                    "thread {thread} sleeps, and {left:?} are unfinished"
                ),
                (Fate::Asleep, WatchLetter) => assert!(
                    !end.look(Plot::has_letter),
                    "thread {thread} sleeps, and there is a letter"
                ),
                (Fate::Asleep, WatchAll) => assert!(
                    end.look(|plot| {
                        let can_move = plot.memory.find_given_up().is_some()
                            && plot.memory.has_room_for_letter();
                        plot.memory.unfinished(None, None) == Unfinished::Some && !can_move
                    }),
                    "thread {thread} sleeps, and all is done, or will be once it is moved"
                ),
                (Fate::Asleep, op) => panic!("thread {thread} sleeps in {op:?}"),
                _ => {}
            }
        }
        for task in 1..=tasks as usize {
            let times = times[task];
            assert!(
                times == 1 || (times == 0 && may_be_done[task]),
                "task {task} is there, or was finished, {times} times"
            );
        }
    };
    exploration.kills(kills).stops(stops).check(check).run();
}

/// Makes a participant that has attached, after the tasks were put.
pub(super) fn worker<const N: usize>(id: usize, ops: [Op; N]) -> Part {
    part(id, ops).prepared([Attach])
}

#[test]
fn a_task_that_is_given_back_is_in_one_hand() {
    let parts = [
        part(0, [Take, GiveBack, Take, Finish]).prepared([Attach, Put(1)]),
        worker(1, [Take, Finish]),
        worker(2, [Take, GiveBack]),
    ];
    explore_tasks("queue: a_task_that_is_given_back_is_in_one_hand", 1, 3, 1, parts, 0);
}

#[test]
fn the_task_of_one_killed_anywhere_goes_to_one_who_waits() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1)]).killable(),
        worker(1, [TakeWaiting, Finish]),
    ];
    explore_tasks(
        "queue: the_task_of_one_killed_anywhere_goes_to_one_who_waits",
        1,
        2,
        1,
        parts,
        1,
    );
}

#[test]
fn a_worker_killed_anywhere_strands_no_join() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1)]).killable(),
        worker(1, [Take, Finish]),
        worker(2, [Join]),
    ];
    explore_tasks("queue: a_worker_killed_anywhere_strands_no_join", 1, 3, 1, parts, 1);
}

#[test]
fn one_who_gives_back_strands_no_join() {
    let parts = [
        part(0, [Take, GiveBack]).prepared([Attach, Put(1)]),
        worker(1, [TakeWaiting, Finish]),
        worker(2, [Join]),
    ];
    explore_tasks("queue: one_who_gives_back_strands_no_join", 1, 3, 1, parts, 0);
}

#[test]
fn an_heir_gives_back_what_the_dead_one_had() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1)]).killable(),
        worker(1, [Join]),
        part(0, [Attach, Take, Finish]).after(0),
    ];
    explore_tasks("queue: an_heir_gives_back_what_the_dead_one_had", 1, 3, 1, parts, 1);
}

#[test]
fn two_tasks_are_done_by_whoever_lives() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1), Put(2)]).killable(),
        worker(1, [Take, Finish]).killable(),
        worker(2, [TakeWaiting, Finish]),
    ];
    explore_tasks("queue: two_tasks_are_done_by_whoever_lives", 2, 3, 2, parts, 2);
}

#[test]
fn the_end_comes_when_all_is_done() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1), Close]).killable(),
        worker(1, [TakeWaiting, Finish, TakeWaiting]),
    ];
    explore_tasks("queue: the_end_comes_when_all_is_done", 1, 2, 1, parts, 1);
}

#[test]
fn what_is_put_for_a_task_is_joined_too() {
    let parts = [
        part(0, [PutWaiting(2), Finish]).prepared([Attach, Put(1), Take]),
        worker(1, [TakeWaiting, Finish]),
        worker(2, [Join]),
    ];
    explore_tasks("queue: what_is_put_for_a_task_is_joined_too", 1, 3, 2, parts, 0);
}

#[test]
fn one_killed_while_it_takes_what_was_given_back_strands_nobody() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1), Take, GiveBack]),
        worker(1, [Take, Finish]).killable(),
        worker(2, [TakeWaiting, Finish]),
    ];
    explore_tasks(
        "queue: one_killed_while_it_takes_what_was_given_back_strands_nobody",
        1,
        3,
        1,
        parts,
        1,
    );
}

#[test]
fn one_killed_while_it_gives_up_a_task_strands_no_join() {
    let parts = [
        part(0, [GiveBack, TakeWaiting]).prepared([Attach, Put(1), Take]).killable(),
        worker(1, [Join]),
        part(0, [Attach, Join]).after(0),
    ];
    let config = Config { letters: 1, attempts: 1, ..config(1, 3) };
    explore_tasks_in(
        "queue: one_killed_while_it_gives_up_a_task_strands_no_join",
        config,
        1,
        parts,
        [1, 0],
    );
}

#[test]
fn a_task_that_moves_is_waited_for() {
    let parts = [
        part(0, [Take, Finish]).prepared([Attach, Put(1)]),
        part(1, []).prepared([Attach, Take, GiveBack]),
        worker(2, [Join]),
    ];
    explore_tasks("queue: a_task_that_moves_is_waited_for", 1, 3, 1, parts, 0);
}
