//! Tasks: taking, finishing and returning them, and waiting until all are done.

use std::cell::Cell;
use std::sync::Arc;

use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::participant;

use super::{Plot, config, me, plot, plot_of};
use crate::ring::ends::Ring;
use crate::ring::layout::Config;
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::Side;
use crate::ring::watching::WORDS_FOR_LETTER;
use crate::wait::source::{Armed, Words};
use crate::wait::{Wait, Waiter};
use crate::{join, join_all, kill_model, model, sampled_kill_model, share, spawn};

/// Makes a queue of tasks with all its participants. They need no token: none dies.
fn tasks(capacity: u32, ids: u32) -> Arc<Plot> {
    let plot = plot(capacity, ids, true);
    plot.furnish();
    share(plot)
}

fn attach(plot: &Plot) -> Participant {
    plot.memory.attach(me(), false, |_| Ok(())).unwrap()
}

impl Plot {
    /// Takes a task. Returns the place of the task, and its value.
    fn take(&self, participant: &Participant) -> Result<(usize, u64), Refused> {
        if let Some(place) = self.memory.retake(me(), participant) {
            return Ok((place, self.read(participant, place)));
        }
        let place = self.memory.occupy(participant).unwrap();
        let taken = self.memory.at_once(me(), Side::Getters, |ring| {
            self.memory.take_task(participant, ring, place, None)
        });
        match taken {
            Ok(()) => Ok((place, self.read(participant, place))),
            Err(refused) => {
                self.memory.vacate(participant, place);
                Err(refused)
            }
        }
    }

    fn take_waiting(&self, participant: &Participant) -> (usize, u64) {
        if let Some(place) = self.memory.retake(me(), participant) {
            return (place, self.read(participant, place));
        }
        let place = self.memory.occupy(participant).unwrap();
        let take = |ring: Ring<'_>| self.memory.take_task(participant, ring, place, None);
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| {
            self.memory.sleep_for_task(participant, ring, waiter)
        };
        self.memory
            .waiting(me(), Side::Getters, &mut Waiter::new(Wait::FOREVER), take, sleep)
            .unwrap();
        (place, self.read(participant, place))
    }

    fn finish(&self, participant: &Participant, place: usize) {
        me().begin(&self.memory.control().roster.0);
        self.memory.finish_task(participant, place);
        me().end();
        self.memory.vacate(participant, place);
    }

    fn give_back(&self, participant: &Participant, place: usize) {
        me().begin(&self.memory.control().roster.0);
        self.memory.return_task(participant, place);
        me().end();
        participant.returned.set(participant.returned.get() | 1 << place);
    }

    fn join(&self, participant: &Participant) {
        self.memory.join(me(), participant, &mut Waiter::new(Wait::FOREVER)).unwrap();
    }
}

#[test]
fn a_task_in_the_ring_or_in_hand_is_unfinished() {
    model("queue: a_task_in_the_ring_or_in_hand_is_unfinished", Look, Some(3), || {
        let plot = tasks(2, 2);
        plot.fill_with([1]);
        let taker =
            spawn(1, None, &plot, |plot| assert_eq!(plot.take(&plot.participant(0)).unwrap().1, 1));
        assert!(plot.memory.has_unfinished(None), "it is not done");
        join(taker);
        plot.assert_whole();
    });
}

#[test]
fn a_task_that_comes_back_is_unfinished() {
    model("queue: a_task_that_comes_back_is_unfinished", Look, Some(3), || {
        let plot = tasks(2, 3);
        plot.fill_with([1]);
        participant(3, None, || {
            let me = plot.participant(2);
            let (place, _) = plot.take(&me).unwrap();
            plot.give_back(&me, place);
        });
        let taker =
            spawn(1, None, &plot, |plot| assert_eq!(plot.take(&plot.participant(0)).unwrap().1, 1));
        assert!(plot.memory.has_unfinished(None), "it is not done");
        join(taker);
    });
}

#[test]
fn a_task_that_is_given_back_while_others_look_is_unfinished() {
    model(
        "queue: a_task_that_is_given_back_while_others_look_is_unfinished",
        Look,
        Some(2),
        || {
            let plot = tasks(2, 3);
            plot.fill_with([1]);
            let taker = spawn(1, None, &plot, |plot| {
                let me = plot.participant(0);
                if let Ok((place, _)) = plot.take(&me) {
                    plot.give_back(&me, place);
                }
            });
            let other = spawn(2, None, &plot, |plot| _ = plot.take(&plot.participant(1)));
            assert!(plot.memory.has_unfinished(None), "it is not done");
            join_all([taker, other]);
        },
    );
}

#[test]
fn a_returned_task_goes_to_one() {
    model("queue: a_returned_task_goes_to_one", Look, Some(3), || {
        let plot = tasks(1, 3);
        plot.fill_with([1]);
        let giver = plot.participant(2);
        participant(3, None, || {
            let (place, _) = plot.take(&giver).unwrap();
            plot.payloads[plot.memory.slot(&giver, place).unwrap()].set(2);
            plot.give_back(&giver, place);
        });
        let take = |plot: &Plot, id| {
            let taken = plot.take(&plot.participant(id));
            assert!(matches!(taken, Ok((_, 2)) | Err(Refused::Empty)));
            if taken.is_ok() {
                plot.payloads[0].add(1);
            }
        };
        let other = spawn(1, None, &plot, move |plot| take(plot, 0));
        participant(2, None, || take(&plot, 1));
        join(other);
    });
}

/// The work done for the task happens before the join.
#[test]
fn a_join_sees_what_was_done() {
    model("queue: a_join_sees_what_was_done", Look, Some(3), || {
        let plot = tasks(1, 2);
        plot.fill_with([1]);
        let worker = spawn(1, None, &plot, |plot| {
            let me = plot.participant(0);
            let (place, _) = plot.take(&me).unwrap();
            plot.payloads[plot.memory.slot(&me, place).unwrap()].set(7);
            plot.finish(&me, place);
        });
        participant(2, None, || plot.join(&plot.participant(1)));
        assert_eq!(plot.payloads[plot.memory.config.first_slot(1)].get(), 7);
        join(worker);
        plot.assert_whole();
    });
}

#[test]
fn a_join_is_woken_by_the_last_that_is_done() {
    model("queue: a_join_is_woken_by_the_last_that_is_done", Sleep, Some(3), || {
        let plot = tasks(1, 2);
        plot.fill_with([1]);
        let joiner = spawn(1, None, &plot, |plot| plot.join(&plot.participant(0)));
        participant(2, None, || {
            let me = plot.participant(1);
            let (place, _) = plot.take(&me).unwrap();
            plot.finish(&me, place);
        });
        join(joiner);
    });
}

#[test]
fn one_who_waits_for_a_task_is_woken_by_one_that_comes_back() {
    model(
        "queue: one_who_waits_for_a_task_is_woken_by_one_that_comes_back",
        Sleep,
        Some(2),
        || {
            let plot = tasks(1, 2);
            plot.fill_with([1]);
            let giver = plot.participant(1);
            participant(3, None, || _ = plot.take(&giver).unwrap());
            let taker = spawn(1, None, &plot, |plot| {
                assert_eq!(plot.take_waiting(&plot.participant(0)).1, 1);
            });
            participant(2, None, || plot.give_back(&giver, 0));
            join(taker);
        },
    );
}

#[test]
fn one_who_waits_for_a_task_is_woken_by_a_put() {
    model("queue: one_who_waits_for_a_task_is_woken_by_a_put", Sleep, Some(2), || {
        let plot = tasks(1, 2);
        let taker =
            spawn(1, None, &plot, |plot| assert_eq!(plot.take_waiting(&plot.participant(0)).1, 1));
        participant(2, None, || plot.put_and_wake(&plot.participant(1), 1).unwrap());
        join(taker);
    });
}

/// The victim takes the task and dies with it, or dies before. The other participant gets it in the
/// end.
#[test]
fn the_task_of_one_killed_anywhere_goes_to_one_who_waits() {
    kill_model(
        "queue: the_task_of_one_killed_anywhere_goes_to_one_who_waits",
        Some(1),
        |killed_at| {
            let plot = share(plot(1, 3, true));
            participant(4, None, || {
                let me = attach(&plot);
                plot.put(&me, 1).unwrap();
                plot.memory.detach(super::me(), &me);
            });
            let taker = spawn(2, None, &plot, |plot| {
                let me = attach(plot);
                assert_eq!(plot.take_waiting(&me).1, 1);
            });
            let end = participant(1, Some(killed_at), || {
                let me = attach(&plot);
                let _ = plot.take(&me);
            });
            join(taker);
            end
        },
    );
}

/// The worker finishes the task, or dies before it can. Then the next worker does.
#[test]
fn a_worker_killed_anywhere_strands_no_join() {
    sampled_kill_model(
        "queue: a_worker_killed_anywhere_strands_no_join",
        Some(0),
        8,
        |killed_at| {
            let plot = share(plot(1, 3, true));
            participant(4, None, || {
                let me = attach(&plot);
                plot.put(&me, 1).unwrap();
                plot.memory.detach(super::me(), &me);
            });
            let joiner = spawn(2, None, &plot, |plot| plot.join(&attach(plot)));
            let work = || {
                let me = attach(&plot);
                if let Ok((place, _)) = plot.take(&me) {
                    plot.finish(&me, place);
                }
            };
            let end = participant(1, Some(killed_at), work);
            participant(3, None, work);
            join(joiner);
            end
        },
    );
}

/// Makes a queue of tasks as [`tasks`] does, whose tasks have so many attempts, with room for one
/// dead letter.
fn tasks_with_a_letter(capacity: u32, ids: u32, attempts: u32) -> Arc<Plot> {
    let plot = plot_of(Config { letters: 1, attempts, ..config(capacity, ids, true) });
    plot.furnish();
    share(plot)
}

impl Plot {
    /// Takes a task, and counts that. Returns its place.
    fn take_last(&self, participant: &Participant) -> usize {
        let (place, _) = self.take(participant).unwrap();
        self.memory.count_attempt(participant, place);
        place
    }

    /// Waits for a dead letter as a watcher does.
    fn watch_for_letter(&self) {
        let waiter = &mut Waiter::new(Wait::FOREVER);
        while !self.memory.has_letter() {
            let mut words = [None; WORDS_FOR_LETTER];
            let mut words = Words::new(&mut words);
            if self.memory.arm_for_letter(&mut words) == Armed::Asleep {
                words.sleep_as_watcher::<WORDS_FOR_LETTER>(waiter);
            }
        }
    }
}

#[test]
fn one_who_waits_for_a_letter_is_woken_by_one_who_gives_up() {
    model("queue: one_who_waits_for_a_letter_is_woken_by_one_who_gives_up", Sleep, Some(3), || {
        let plot = tasks_with_a_letter(1, 2, 1);
        plot.fill_with([1]);
        let giver = plot.participant(1);
        let place = Cell::new(0);
        participant(3, None, || place.set(plot.take_last(&giver)));
        let watcher = spawn(1, None, &plot, Plot::watch_for_letter);
        participant(2, None, || plot.give_back(&giver, place.get()));
        join(watcher);
    });
}

#[test]
fn one_who_waits_for_a_letter_is_woken_by_one_that_had_no_room() {
    model(
        "queue: one_who_waits_for_a_letter_is_woken_by_one_that_had_no_room",
        Sleep,
        Some(2),
        || {
            let plot = tasks_with_a_letter(2, 3, 1);
            plot.fill_with([1, 2]);
            let (giver, taker) = (plot.participant(1), plot.participant(2));
            let place = Cell::new(0);
            participant(3, None, || {
                let first = plot.take_last(&giver);
                plot.give_back(&giver, first);
                place.set(plot.take_last(&giver));
            });
            let giving = spawn(1, None, &plot, move |plot| plot.give_back(&giver, place.get()));
            participant(2, None, || {
                me().begin(&plot.memory.control().roster.0);
                let letter = plot.memory.occupy(&taker).unwrap();
                plot.memory.take_letter(&taker, letter).unwrap();
                me().end();
                plot.watch_for_letter();
            });
            join(giving);
        },
    );
}

#[test]
fn one_that_is_taken_for_the_last_time_is_no_letter() {
    model("queue: one_that_is_taken_for_the_last_time_is_no_letter", Look, Some(2), || {
        let plot = tasks_with_a_letter(2, 3, 2);
        plot.fill_with([1]);
        participant(3, None, || {
            let me = plot.participant(2);
            let place = plot.take_last(&me);
            plot.give_back(&me, place);
        });
        let taker = spawn(1, None, &plot, |plot| _ = plot.take_last(&plot.participant(0)));
        assert!(!plot.memory.has_letter(), "it is in hand, or may be taken once more");
        join(taker);
    });
}
