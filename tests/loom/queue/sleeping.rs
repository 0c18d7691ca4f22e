//! Waiting for items and for room.

use std::sync::Arc;

use crossproc_sys::atomic::Ordering::Acquire;
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::participant;
use loom::thread;

use super::{Plot, me, queue};
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::{Failure, Side};
use crate::ring::words::CLOSED;
use crate::{join, join_all, kill_model, model, spawn};

const VICTIM: usize = 0;

#[test]
fn a_getter_is_woken_by_a_put() {
    model("queue: a_getter_is_woken_by_a_put", Sleep, Some(3), || {
        let plot = queue(2, 2);
        let getter =
            spawn(1, None, &plot, |plot| assert_eq!(plot.get_waiting(&plot.participant(0)), Ok(1)));
        participant(2, None, || plot.put_and_wake(&plot.participant(1), 1).unwrap());
        join(getter);
    });
}

#[test]
fn a_getter_that_waited_sees_what_was_put() {
    model("queue: a_getter_that_waited_sees_what_was_put", Look, Some(3), || {
        let plot = queue(2, 2);
        let getter =
            spawn(1, None, &plot, |plot| assert_eq!(plot.get_waiting(&plot.participant(0)), Ok(1)));
        participant(2, None, || plot.put_and_wake(&plot.participant(1), 1).unwrap());
        join(getter);
    });
}

#[test]
fn a_putter_is_woken_by_a_get() {
    model("queue: a_putter_is_woken_by_a_get", Sleep, Some(3), || {
        let plot = queue(1, 2);
        plot.fill_with([1]);
        let putter = spawn(1, None, &plot, |plot| {
            assert_eq!(plot.put_waiting(&plot.participant(0), 2), Ok(()));
        });
        participant(2, None, || assert_eq!(plot.get_and_wake(&plot.participant(1)), Ok(1)));
        join(putter);
    });
}

#[test]
fn a_putter_that_waited_writes_what_was_read() {
    model("queue: a_putter_that_waited_writes_what_was_read", Look, Some(1), || {
        let plot = queue(1, 2);
        plot.fill_with([1]);
        let putter = spawn(1, None, &plot, |plot| {
            let me = plot.participant(0);
            assert_eq!(plot.put_waiting(&me, 2), Ok(()));
            assert_eq!(plot.put_waiting(&me, 3), Ok(()));
        });
        participant(2, None, || {
            let me = plot.participant(1);
            assert_eq!([(); 2].map(|()| plot.get_waiting(&me)), [Ok(1), Ok(2)]);
        });
        join(putter);
    });
}

/// The second item finds the getters awake, asleep, or on the way.
#[test]
fn two_puts_wake_two_getters() {
    model("queue: two_puts_wake_two_getters", Sleep, Some(1), || {
        let plot = queue(2, 3);
        let getters = [1, 2].map(|tid| {
            spawn(tid, None, &plot, move |plot| {
                _ = plot.get_waiting(&plot.participant(tid as usize - 1)).unwrap();
            })
        });
        participant(3, None, || {
            let me = plot.participant(2);
            plot.put_and_wake(&me, 1).unwrap();
            plot.put_and_wake(&me, 2).unwrap();
        });
        join_all(getters);
    });
}

/// Puts two items at once, with one wake for both.
fn put_two(plot: &Plot, participant: &Participant) {
    let put = |ring: super::Ring<'_>| {
        let mut flags = 0;
        for value in [1, 2] {
            let place = plot.write(participant, value);
            flags |= ring.put(participant, place)?;
        }
        Ok((flags, 2))
    };
    plot.memory.at_once(me(), Side::Putters, put).unwrap();
}

#[test]
fn a_put_of_two_wakes_two_getters() {
    model("queue: a_put_of_two_wakes_two_getters", Sleep, Some(1), || {
        let plot = queue(2, 3);
        let getters = [1, 2].map(|tid| {
            spawn(tid, None, &plot, move |plot| {
                _ = plot.get_waiting(&plot.participant(tid as usize - 1)).unwrap();
            })
        });
        participant(3, None, || put_two(&plot, &plot.participant(2)));
        join_all(getters);
    });
}

/// The items go through one entry, with a sleeper on either side.
#[test]
fn two_puts_and_two_gets_that_wait_for_each_other() {
    model("queue: two_puts_and_two_gets_that_wait_for_each_other", Sleep, Some(1), || {
        let plot = queue(1, 2);
        let putter = spawn(1, None, &plot, |plot| {
            let me = plot.participant(0);
            assert_eq!([1, 2, 3].map(|value| plot.put_waiting(&me, value)), [Ok(()); 3]);
        });
        participant(2, None, || {
            let me = plot.participant(1);
            assert_eq!([(); 3].map(|()| plot.get_waiting(&me)), [Ok(1), Ok(2), Ok(3)]);
        });
        join(putter);
    });
}

#[test]
fn a_close_wakes_all() {
    model("queue: a_close_wakes_all", Sleep, Some(1), || {
        let plot = queue(1, 3);
        let closed = |result| assert_eq!(result, Err(Failure::Refused(Refused::Closed)));
        let getters = [1, 2].map(|tid| {
            spawn(tid, None, &plot, move |plot| {
                closed(plot.get_waiting(&plot.participant(tid as usize - 1)));
            })
        });
        participant(3, None, || plot.memory.close(me()));
        join_all(getters);
    });
}

#[test]
fn a_close_wakes_one_who_waits_for_room() {
    model("queue: a_close_wakes_one_who_waits_for_room", Sleep, Some(3), || {
        let plot = queue(1, 2);
        plot.fill_with([1]);
        let putter = spawn(1, None, &plot, |plot| {
            assert_eq!(
                plot.put_waiting(&plot.participant(0), 2),
                Err(Failure::Refused(Refused::Closed))
            );
        });
        participant(2, None, || plot.memory.close(me()));
        join(putter);
    });
}

/// The putter wakes the sleeper; or it dies, and the kernel wakes a thread that does so.
#[test]
fn a_putter_killed_anywhere_strands_no_getter() {
    kill_model("queue: a_putter_killed_anywhere_strands_no_getter", Some(2), |killed_at| {
        let plot = queue(2, 3);
        let getter =
            spawn(2, None, &plot, |plot| _ = plot.get_waiting(&plot.participant(1)).unwrap());
        let end = participant(1, Some(killed_at), || {
            plot.put_and_wake(&plot.participant(VICTIM), 1).unwrap();
        });
        if plot.puts() == 0 {
            participant(3, None, || plot.put_and_wake(&plot.participant(2), 2).unwrap());
        }
        join(getter);
        end
    });
}

#[test]
fn a_putter_of_two_killed_anywhere_strands_no_getter() {
    kill_model("queue: a_putter_of_two_killed_anywhere_strands_no_getter", Some(1), |killed_at| {
        let plot = queue(2, 4);
        let getters = [2, 3].map(|tid| {
            spawn(tid, None, &plot, move |plot| {
                _ = plot.get_waiting(&plot.participant(tid as usize - 1)).unwrap();
            })
        });
        let end = participant(1, Some(killed_at), || put_two(&plot, &plot.participant(VICTIM)));
        for value in plot.puts()..2 {
            participant(4, None, || plot.put_and_wake(&plot.participant(3), value).unwrap());
        }
        join_all(getters);
        end
    });
}

#[test]
fn a_getter_killed_anywhere_strands_no_putter() {
    kill_model("queue: a_getter_killed_anywhere_strands_no_putter", Some(2), |killed_at| {
        let plot = queue(1, 3);
        plot.fill_with([1]);
        let putter =
            spawn(2, None, &plot, |plot| plot.put_waiting(&plot.participant(1), 2).unwrap());
        let end = participant(1, Some(killed_at), || {
            assert_eq!(plot.get_and_wake(&plot.participant(VICTIM)), Ok(1));
        });
        participant(3, None, || _ = plot.get_and_wake(&plot.participant(2)));
        join(putter);
        end
    });
}

/// A getter that was woken for an item, or was about to sleep, leaves the item to another getter.
#[test]
fn a_waiting_getter_killed_anywhere_strands_no_other() {
    kill_model("queue: a_waiting_getter_killed_anywhere_strands_no_other", Some(1), |killed_at| {
        let plot = queue(2, 3);
        let victim = spawn(1, Some(killed_at), &plot, |plot| {
            _ = plot.get_waiting(&plot.participant(VICTIM));
        });
        let theirs = Arc::clone(&plot);
        let survivor = thread::spawn(move || {
            participant(2, None, || _ = theirs.get_waiting(&theirs.participant(1)).unwrap())
        });
        participant(3, None, || {
            let me = plot.participant(2);
            plot.put_and_wake(&me, 1).unwrap();
            plot.put_and_wake(&me, 2).unwrap();
        });
        let end = join(victim);
        survivor.join().unwrap();
        end
    });
}

#[test]
fn a_closer_killed_anywhere_has_closed_or_has_not() {
    kill_model("queue: a_closer_killed_anywhere_has_closed_or_has_not", Some(2), |killed_at| {
        let plot = queue(1, 2);
        let getter = spawn(2, None, &plot, |plot| _ = plot.get_waiting(&plot.participant(1)));
        let end = participant(1, Some(killed_at), || plot.memory.close(me()));
        // It may have begun without any effect. Then the queue is still open.
        if plot.ring().tail().load(Acquire) & CLOSED == 0 {
            participant(3, None, || plot.memory.close(me()));
        }
        join(getter);
        end
    });
}
