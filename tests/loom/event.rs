//! Models of `Event`.

use std::time::Duration;

use crossproc::Event;
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{expire, participant};
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Watched, join, join_all, kill_model, model, share, spawn};

fn watched() -> std::sync::Arc<(Event, Watched)> {
    share((Event::new(), Watched::default()))
}

fn write_and_set((shared, data): &(Event, Watched)) {
    data.add(1);
    shared.set();
}

fn wait_and_read((shared, data): &(Event, Watched)) {
    shared.wait();
    assert_eq!(data.get(), 1);
}

#[test]
fn a_waiter_sees_what_the_setter_wrote() {
    model("event: a_waiter_sees_what_the_setter_wrote", Look, None, || {
        let shared = watched();
        join_all([spawn(1, None, &shared, write_and_set), spawn(2, None, &shared, wait_and_read)]);
    });
}

#[test]
fn is_set_sees_what_the_setter_wrote() {
    model("event: is_set_sees_what_the_setter_wrote", Look, None, || {
        let shared = watched();
        let looker = spawn(1, None, &shared, |(shared, data)| {
            if shared.is_set() {
                assert_eq!(data.get(), 1);
            }
        });
        join_all([looker, spawn(2, None, &shared, write_and_set)]);
    });
}

/// A consumer clears the event and then looks for work. It must see the work of every `set` that
/// its `clear` undid, including a `set` that found the event set.
#[test]
fn clear_sees_what_the_setters_it_undoes_wrote() {
    model("event: clear_sees_what_the_setters_it_undoes_wrote", Look, None, || {
        let shared = share((Event::new(), AtomicU64::new(0), AtomicU64::new(0)));
        participant(1, None, || shared.0.set());
        let setter = spawn(2, None, &shared, |(shared, work, _)| {
            work.store(1, Relaxed);
            shared.set();
        });
        let clearer = spawn(3, None, &shared, |(shared, work, seen)| {
            shared.clear();
            seen.store(work.load(Relaxed), Relaxed);
        });
        join_all([setter, clearer]);
        let (shared, _, seen) = &*shared;
        assert!(
            shared.is_set() || seen.load(Relaxed) == 1,
            "the event is clear, and the work was not seen"
        );
    });
}

#[test]
fn all_who_wait_return() {
    model("event: all_who_wait_return", Sleep, Some(2), || {
        let shared = share(Event::new());
        let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, Event::wait));
        join(spawn(3, None, &shared, Event::set));
        join_all(waiters);
    });
}

#[test]
fn a_waiter_returns_from_a_set_that_is_undone_at_once() {
    model("event: a_waiter_returns_from_a_set_that_is_undone_at_once", Look, Some(2), || {
        let shared = watched();
        let waiter = spawn(1, None, &shared, |(shared, data)| {
            if shared.wait_timeout(Duration::from_secs(3600)).is_ok() {
                assert_eq!(data.get(), 1);
            }
        });
        let pulse = spawn(2, None, &shared, |(shared, data)| {
            data.add(1);
            shared.set();
            shared.clear();
        });
        join(pulse);
        // For a waiter that begins to wait after all that.
        expire();
        join(waiter);
    });
}

#[test]
fn two_setters_and_a_clear_strand_nobody() {
    model("event: two_setters_and_a_clear_strand_nobody", Sleep, Some(1), || {
        let shared = share(Event::new());
        let waiter = spawn(1, None, &shared, Event::wait);
        let pulse = spawn(2, None, &shared, |shared| {
            shared.set();
            shared.clear();
        });
        let other = spawn(3, None, &shared, |shared| {
            shared.wait();
            shared.wait();
        });
        join(pulse);
        participant(4, None, || shared.set());
        join_all([waiter, other]);
    });
}

#[test]
fn a_setter_killed_anywhere_has_set_or_has_not() {
    kill_model("event: a_setter_killed_anywhere_has_set_or_has_not", Some(1), |killed_at| {
        let shared = share(Event::new());
        let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, Event::wait));
        let end = join(spawn(3, Some(killed_at), &shared, Event::set));
        if end.writes == 0 {
            participant(4, None, || shared.set());
        }
        join_all(waiters);
        end
    });
}

#[test]
fn a_setter_killed_anywhere_before_a_clear_strands_nobody() {
    kill_model(
        "event: a_setter_killed_anywhere_before_a_clear_strands_nobody",
        Some(1),
        |killed_at| {
            let shared = share(Event::new());
            let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, Event::wait));
            let end = join(spawn(3, Some(killed_at), &shared, Event::set));
            participant(4, None, || {
                shared.clear();
                shared.set();
            });
            join_all(waiters);
            end
        },
    );
}

#[test]
fn a_waiter_killed_anywhere_strands_nobody() {
    kill_model("event: a_waiter_killed_anywhere_strands_nobody", Some(1), |killed_at| {
        let shared = share(Event::new());
        let victim = spawn(1, Some(killed_at), &shared, Event::wait);
        let survivor = spawn(2, None, &shared, Event::wait);
        join(spawn(3, None, &shared, Event::set));
        join(survivor);
        join(victim)
    });
}

#[test]
fn a_setter_and_a_waiter_killed_anywhere_strand_nobody() {
    // The waiter's steps are sampled: every fourth one.
    for second in (0..12).step_by(4) {
        let name = format!(
            "event: a_setter_and_a_waiter_killed_anywhere_strand_nobody, the waiter at {second}"
        );
        kill_model(&name, Some(1), move |killed_at| {
            let shared = share(Event::new());
            let waiters = [(1, Some(second)), (2, None)]
                .map(|(tid, at)| spawn(tid, at, &shared, Event::wait));
            let end = join(spawn(3, Some(killed_at), &shared, Event::set));
            if end.writes == 0 {
                participant(4, None, || shared.set());
            }
            join_all(waiters);
            end
        });
    }
}
