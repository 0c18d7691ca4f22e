//! Puts, gets and close; none of these operations waits.

use std::rc::Rc;
use std::sync::Arc;

use crossproc_sys::atomic::Ordering::{Acquire, Release};
use crossproc_sys::model::Futexes::Look;
use loom::sync::atomic::AtomicBool;
use loom::thread::{self, JoinHandle};

use super::{Plot, queue};
use crate::model;
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;

/// Spawns a participant that cannot be killed. Joining it returns the result of `body`.
fn spawn<T: 'static>(
    plot: &Arc<Plot>,
    id: usize,
    body: impl FnOnce(&Plot, &Participant) -> T + 'static,
) -> JoinHandle<T> {
    let plot = Arc::clone(plot);
    thread::spawn(move || body(&plot, &plot.participant(id)))
}

#[test]
fn a_get_sees_what_was_put() {
    model("queue: a_get_sees_what_was_put", Look, None, || {
        let plot = queue(2, 2);
        let putter = spawn(&plot, 0, |plot, me| plot.put(me, 7).unwrap());
        match plot.get(&plot.participant(1)) {
            Ok(value) => assert_eq!(value, 7),
            Err(refused) => assert_eq!(refused, Refused::Empty),
        }
        putter.join().unwrap();
        plot.drain(1);
        plot.assert_whole();
    });
}

#[test]
fn two_puts_and_two_gets_go_through_one_entry() {
    model("queue: two_puts_and_two_gets_go_through_one_entry", Look, Some(3), || {
        let plot = queue(1, 2);
        let putter = spawn(&plot, 0, |plot, me| [1, 2].map(|value| plot.put(me, value)));
        let me = plot.participant(1);
        let mut got: Vec<u64> = (0..2).filter_map(|_| plot.get(&me).ok()).collect();
        let put = putter.join().unwrap();
        assert_eq!(put[0], Ok(()));
        got.extend(plot.drain(1));
        assert_eq!(got, if put[1].is_ok() { vec![1, 2] } else { vec![1] });
        plot.assert_whole();
    });
}

#[test]
fn two_puts_at_once_and_a_get() {
    model("queue: two_puts_at_once_and_a_get", Look, Some(3), || {
        let plot = queue(2, 3);
        let putters =
            [0, 1].map(|id| spawn(&plot, id, move |plot, me| plot.put(me, id as u64).unwrap()));
        let mut got = Vec::from_iter(plot.get(&plot.participant(2)));
        for putter in putters {
            putter.join().unwrap();
        }
        got.extend(plot.drain(2));
        got.sort_unstable();
        assert_eq!(got, [0, 1]);
        plot.assert_whole();
    });
}

#[test]
fn two_gets_at_once_get_one_each() {
    model("queue: two_gets_at_once_get_one_each", Look, None, || {
        let plot = queue(2, 2);
        plot.fill_with([1, 2]);
        let other = spawn(&plot, 0, |plot, me| plot.get(me).unwrap());
        let mut got = [plot.get(&plot.participant(1)).unwrap(), other.join().unwrap()];
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        plot.assert_whole();
    });
}

#[test]
fn of_two_puts_into_the_last_entry_one_finds_it_full() {
    model("queue: of_two_puts_into_the_last_entry_one_finds_it_full", Look, None, || {
        let plot = queue(1, 2);
        let other = spawn(&plot, 0, |plot, me| plot.put(me, 1));
        let mine = plot.put(&plot.participant(1), 2);
        let theirs = other.join().unwrap();
        assert!(matches!(
            (mine, theirs),
            (Ok(()), Err(Refused::Full)) | (Err(Refused::Full), Ok(()))
        ));
        assert_eq!(plot.drain(1), [if mine.is_ok() { 2 } else { 1 }]);
        plot.assert_whole();
    });
}

/// The getter's second get leaves the slot that it has read before. The putter's third put writes
/// that slot again.
#[test]
fn a_slot_is_written_again_after_it_was_read() {
    model("queue: a_slot_is_written_again_after_it_was_read", Look, Some(2), || {
        let plot = queue(2, 2);
        plot.fill_with([1, 2]);
        let me = plot.participant(1);
        let getter =
            spawn(&plot, 0, |plot, me| [1, 2].map(|value| assert_eq!(plot.get(me), Ok(value))));
        let put =
            [3, 4, 5].into_iter().filter(|&value| plot.put(&me, value).is_ok()).collect::<Vec<_>>();
        getter.join().unwrap();
        assert_eq!(plot.drain(1), put);
        plot.assert_whole();
    });
}

#[test]
fn nothing_comes_after_closed() {
    model("queue: nothing_comes_after_closed", Look, Some(2), || {
        let plot = queue(1, 2);
        let putter = spawn(&plot, 0, |plot, me| plot.put(me, 1));
        let closer = spawn(&plot, 1, |plot, _| plot.close());
        let me = plot.participant(1);
        let got = plot.get(&me);
        let then = plot.get(&me);
        closer.join().unwrap();
        let put = putter.join().unwrap();
        let left = plot.drain(1);
        assert!(matches!(put, Ok(()) | Err(Refused::Closed)));
        let all = Vec::from_iter([got, then].into_iter().flatten().chain(left.iter().copied()));
        assert_eq!(all, if put.is_ok() { vec![1] } else { vec![] });
        if [got, then].contains(&Err(Refused::Closed)) {
            assert_eq!(left, []);
        }
        assert_eq!(plot.get(&me), Err(Refused::Closed));
    });
}

/// An operation that finds the queue closed sees what the closer did before.
#[test]
fn who_finds_it_closed_sees_what_came_before() {
    model("queue: who_finds_it_closed_sees_what_came_before", Look, None, || {
        let plot = queue(1, 2);
        let closer = spawn(&plot, 0, |plot, _| {
            // A slot that no participant has yet.
            plot.payloads[0].set(7);
            plot.close();
        });
        let found = [plot.put(&plot.participant(1), 1), plot.get(&plot.participant(1)).map(|_| ())];
        if found.contains(&Err(Refused::Closed)) {
            assert_eq!(plot.payloads[0].get(), 7);
        }
        closer.join().unwrap();
    });
}

#[test]
fn full_and_empty_are_exact_for_one_who_was_told() {
    model("queue: full_and_empty_are_exact_for_one_who_was_told", Look, Some(3), || {
        let plot = queue(1, 2);
        let told = Rc::new(AtomicBool::new(false));
        let tell = Rc::clone(&told);
        let other = spawn(&plot, 0, move |plot, me| {
            plot.put(me, 1).unwrap();
            tell.store(true, Release);
        });
        let me = plot.participant(1);
        if told.load(Acquire) {
            assert_eq!(plot.put(&me, 2), Err(Refused::Full));
            assert_eq!(plot.get(&me), Ok(1));
            assert_eq!(plot.get(&me), Err(Refused::Empty));
        }
        other.join().unwrap();
    });
}
