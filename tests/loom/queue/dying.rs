//! Participants that die in a put or a get. Others settle what they have left, while yet others go
//! on.

use std::cell::Cell;
use std::sync::Arc;

use crossproc_sys::atomic::Ordering::Acquire;
use crossproc_sys::model::Futexes::Look;
use crossproc_sys::model::{End, participant};
use loom::thread;

use super::{Plot, me, plot, queue};
use crate::ring::participant::Participant;
use crate::ring::words::LIVES;
use crate::{join, join_all, kill_model, model, sampled_kill_model, share, spawn};

const VICTIM: usize = 0;

/// Puts 1 as the victim, which is killed at a step. Each id is its TID minus 1.
fn put_one_and_die(plot: &Plot, killed_at: usize) -> End {
    participant(1, Some(killed_at), || plot.put(&plot.participant(VICTIM), 1).unwrap())
}

fn get_one_and_die(plot: &Plot, killed_at: usize) -> End {
    participant(1, Some(killed_at), || {
        plot.get(&plot.participant(VICTIM)).unwrap();
    })
}

/// Asserts that the values are all those that were put, in their order.
fn assert_in_order(values: &[u64], put: impl IntoIterator<Item = u64>) {
    assert!(values.iter().copied().eq(put), "{values:?} was got");
}

/// The settling thread reads its findings in the reverse of the order in which the survivor leaves
/// them. The survivor's order is: its announcement, the exchange, the taker, the end of the
/// announcement, the next announcement.
#[test]
fn a_dead_putter_is_settled_while_its_item_is_got() {
    kill_model("queue: a_dead_putter_is_settled_while_its_item_is_got", None, |killed_at| {
        let plot = queue(2, 3);
        let end = put_one_and_die(&plot, killed_at);
        let put = plot.puts();
        let survivor = spawn(2, None, &plot, |plot| {
            let me = plot.participant(1);
            let got = plot.get(&me);
            plot.put(&me, 2 + got.unwrap_or(0)).unwrap();
        });
        plot.write(&plot.take_over(VICTIM), 4);
        join(survivor);
        assert_in_order(&plot.drain(2), [2 + put]);
        plot.assert_whole();
        end
    });
}

/// As above, but the slot that the survivor got goes on to others.
#[test]
fn a_dead_putter_is_settled_while_its_item_goes_on() {
    kill_model("queue: a_dead_putter_is_settled_while_its_item_goes_on", Some(1), |killed_at| {
        let plot = queue(1, 3);
        let end = put_one_and_die(&plot, killed_at);
        let others = [1, 2].map(|id| {
            spawn(id + 1, None, &plot, move |plot| {
                let me = plot.participant(id as usize);
                let _ = plot.get(&me);
                let _ = plot.put(&me, 2);
            })
        });
        plot.write(&plot.take_over(VICTIM), 4);
        join_all(others);
        plot.drain(2);
        plot.assert_whole();
        end
    });
}

#[test]
fn a_dead_getter_is_settled_while_its_entry_is_filled() {
    kill_model("queue: a_dead_getter_is_settled_while_its_entry_is_filled", None, |killed_at| {
        let plot = queue(1, 3);
        plot.fill_with([1]);
        let end = get_one_and_die(&plot, killed_at);
        let survivor = spawn(2, None, &plot, |plot| {
            let me = plot.participant(1);
            let _ = plot.put(&me, 2);
            plot.get(&me).unwrap();
        });
        plot.write(&plot.take_over(VICTIM), 4);
        join(survivor);
        plot.drain(2);
        plot.assert_whole();
        end
    });
}

/// The next participant with the id is killed, too, while it settles.
#[test]
fn one_who_settles_may_die() {
    for second in 0..10 {
        let name = format!("queue: one_who_settles_may_die, at {second}");
        kill_model(&name, Some(3), move |killed_at| {
            let plot = queue(2, 3);
            let end = put_one_and_die(&plot, killed_at);
            let survivor = spawn(2, None, &plot, |plot| {
                let me = plot.participant(1);
                let _ = plot.get(&me);
                plot.put(&me, 2).unwrap();
            });
            participant(3, Some(second), || plot.settle(VICTIM));
            participant(4, None, || _ = plot.write(&plot.take_over(VICTIM), 4));
            join(survivor);
            plot.drain(2);
            plot.assert_whole();
            end
        });
    }
}

/// The second of two settling threads comes when the next participant with that id is at work.
#[test]
fn two_settle_a_dead_putter_at_once() {
    kill_model("queue: two_settle_a_dead_putter_at_once", Some(2), |killed_at| {
        let plot = queue(1, 3);
        let end = put_one_and_die(&plot, killed_at);
        let put = plot.puts();
        let other = spawn(2, None, &plot, |plot| {
            let record = plot.memory.record(VICTIM);
            if record.life.load(Acquire) == LIVES {
                plot.memory.settle(VICTIM, LIVES);
            }
        });
        let me = plot.take_over(VICTIM);
        let got = plot.get(&me);
        assert_eq!(
            got.is_ok(),
            put == 1,
            "it was put, and settled as if not, or the other way round"
        );
        plot.put(&me, 5).unwrap();
        join(other);
        assert_in_order(&plot.drain(2), [5]);
        plot.assert_whole();
        end
    });
}

/// The victim runs beside the survivor, which finds the victim's operation at every stage. Another
/// participant settles.
#[test]
fn a_putter_killed_anywhere_loses_nothing_of_others() {
    kill_model("queue: a_putter_killed_anywhere_loses_nothing_of_others", Some(2), |killed_at| {
        let plot = queue(1, 3);
        let victim = spawn(1, Some(killed_at), &plot, |plot| {
            let _ = plot.put(&plot.participant(VICTIM), 1);
        });
        let survivor = spawn(2, None, &plot, |plot| {
            let me = plot.participant(1);
            let got = plot.get(&me);
            match (got, plot.put(&me, 2)) {
                (Ok(1), put) => assert_eq!(put, Ok(())),
                (Err(_), Ok(())) => assert_eq!(plot.get(&me), Ok(2)),
                (Err(_), Err(_)) => assert_eq!(plot.get(&me), Ok(1)),
                (Ok(_), _) => panic!("nobody has put that"),
            }
        });
        let end = join(victim);
        plot.write(&plot.take_over(VICTIM), 4);
        join(survivor);
        plot.drain(2);
        plot.assert_whole();
        end
    });
}

#[test]
fn a_getter_killed_anywhere_loses_nothing_of_others() {
    kill_model("queue: a_getter_killed_anywhere_loses_nothing_of_others", Some(2), |killed_at| {
        let plot = queue(2, 3);
        plot.fill_with([1, 2]);
        let victim = spawn(1, Some(killed_at), &plot, |plot| {
            plot.get(&plot.participant(VICTIM)).unwrap();
        });
        let survivor = spawn(2, None, &plot, |plot| {
            let me = plot.participant(1);
            plot.get(&me).unwrap();
            plot.put(&me, 3).unwrap();
        });
        let end = join(victim);
        plot.write(&plot.take_over(VICTIM), 4);
        join(survivor);
        let left = plot.drain(2);
        assert!(left == [3] || end.killed && left == [2, 3], "{left:?} is left");
        plot.assert_whole();
        end
    });
}

/// Attaches with any id that is to be had.
fn attach(plot: &Plot) -> Participant {
    plot.memory.attach(me(), false, |_| Ok(())).unwrap()
}

/// From the token to the end: the next participant takes the dead one's id, or an id of its own.
#[test]
fn the_id_of_one_killed_anywhere_is_taken_over() {
    sampled_kill_model(
        "queue: the_id_of_one_killed_anywhere_is_taken_over",
        Some(1),
        5,
        |killed_at| {
            let plot = share(plot(2, 3, false));
            let victim = spawn(1, Some(killed_at), &plot, |plot| {
                let me = attach(plot);
                let _ = plot.put(&me, 1);
            });
            let theirs = Arc::clone(&plot);
            let survivor = thread::spawn(move || {
                participant(2, None, || {
                    let me = attach(&theirs);
                    let _ = theirs.get(&me);
                    theirs.put(&me, 2).unwrap();
                });
            });
            let end = join(victim);
            participant(3, None, || {
                let me = attach(&plot);
                plot.write(&me, 4);
            });
            survivor.join().unwrap();
            participant(4, None, || {
                for _ in 0..3 {
                    let _ = plot.get(&attach(&plot));
                }
            });
            plot.assert_whole();
            end
        },
    );
}

#[test]
fn two_who_attach_at_once_are_two() {
    model("queue: two_who_attach_at_once_are_two", Look, Some(3), || {
        let plot = share(plot(2, 2, false));
        let other = spawn(1, None, &plot, |plot| plot.put(&attach(plot), 1).unwrap());
        let id = Cell::new(None);
        participant(2, None, || {
            let me = attach(&plot);
            plot.put(&me, 2).unwrap();
            id.set(Some(me.id));
        });
        join(other);
        let mut got = plot.drain(id.get().unwrap());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        plot.assert_whole();
    });
}
