//! Models of `Semaphore`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crossproc::{BoundedSemaphore, Semaphore};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{expire, participant};

use crate::{Watched, join, join_all, kill_model, model, share, spawn};

fn acquire_and_release(shared: &Semaphore) {
    shared.acquire();
    shared.release().unwrap();
}

#[test]
fn an_acquirer_sees_what_the_releaser_wrote() {
    model("semaphore: an_acquirer_sees_what_the_releaser_wrote", Look, None, || {
        let shared = share((Semaphore::new(0), Watched::default()));
        let releaser = spawn(1, None, &shared, |(shared, data)| {
            data.add(1);
            shared.release().unwrap();
        });
        let acquirer = spawn(2, None, &shared, |(shared, data)| {
            shared.acquire();
            assert_eq!(data.get(), 1);
        });
        join_all([releaser, acquirer]);
    });
}

#[test]
fn one_permit_excludes() {
    model("semaphore: one_permit_excludes", Look, Some(3), || {
        let shared = share((Semaphore::new(1), Watched::default()));
        let threads = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |(shared, data)| {
                shared.acquire();
                data.add(1);
                shared.release().unwrap();
            })
        });
        join_all(threads);
        assert_eq!((shared.1.get(), shared.0.value()), (2, 1));
    });
}

#[test]
fn nobody_sleeps_while_there_are_permits() {
    model("semaphore: nobody_sleeps_while_there_are_permits", Sleep, Some(2), || {
        let shared = share(Semaphore::new(1));
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, acquire_and_release)));
        assert_eq!(shared.value(), 1);
    });
}

#[test]
fn several_permits_wake_several() {
    model("semaphore: several_permits_wake_several", Sleep, Some(1), || {
        let shared = share(Semaphore::new(0));
        let acquirers = [1, 2, 3].map(|tid| spawn(tid, None, &shared, Semaphore::acquire));
        participant(4, None, || {
            shared.release_many(2).unwrap();
            shared.release().unwrap();
        });
        join_all(acquirers);
        assert_eq!(shared.value(), 0);
    });
}

#[test]
fn a_time_out_strands_nobody_and_takes_nothing() {
    model("semaphore: a_time_out_strands_nobody_and_takes_nothing", Sleep, Some(2), || {
        let shared = share(Semaphore::new(1));
        let impatient = spawn(1, None, &shared, |shared| {
            if shared.acquire_timeout(Duration::from_secs(3600)).is_ok() {
                shared.release().unwrap();
            }
        });
        let others = [2, 3].map(|tid| spawn(tid, None, &shared, acquire_and_release));
        expire();
        join(impatient);
        join_all(others);
        assert_eq!(shared.value(), 1);
    });
}

#[test]
fn a_releaser_killed_anywhere_has_released_or_has_not() {
    kill_model(
        "semaphore: a_releaser_killed_anywhere_has_released_or_has_not",
        Some(1),
        |killed_at| {
            let shared = share(Semaphore::new(0));
            let acquirers = [1, 2].map(|tid| spawn(tid, None, &shared, Semaphore::acquire));
            let end =
                join(spawn(3, Some(killed_at), &shared, |shared| shared.release_many(2).unwrap()));
            if end.writes == 0 {
                participant(4, None, || shared.release_many(2).unwrap());
            }
            join_all(acquirers);
            assert_eq!(shared.value(), 0);
            end
        },
    );
}

#[test]
fn an_acquirer_killed_anywhere_has_one_permit_or_none() {
    kill_model(
        "semaphore: an_acquirer_killed_anywhere_has_one_permit_or_none",
        Some(1),
        |killed_at| {
            let shared = share(Semaphore::new(0));
            let victim = spawn(1, Some(killed_at), &shared, Semaphore::acquire);
            let survivor = spawn(2, None, &shared, Semaphore::acquire);
            let releaser = spawn(3, None, &shared, |shared| {
                shared.release().unwrap();
                shared.release().unwrap();
            });
            join_all([survivor, releaser]);
            let end = join(victim);
            assert!(shared.value() <= 1 && (end.killed || shared.value() == 0));
            end
        },
    );
}

#[test]
fn a_releaser_and_an_acquirer_killed_anywhere_strand_nobody() {
    // The acquirer's steps are sampled: every fourth one.
    for second in (0..12).step_by(4) {
        let name = format!(
            "semaphore: a_releaser_and_an_acquirer_killed_anywhere_strand_nobody, the acquirer \
             at {second}"
        );
        kill_model(&name, Some(1), move |killed_at| {
            let shared = share(Semaphore::new(0));
            let acquirers = [(1, Some(second)), (2, None)]
                .map(|(tid, at)| spawn(tid, at, &shared, Semaphore::acquire));
            let end =
                join(spawn(3, Some(killed_at), &shared, |shared| shared.release_many(2).unwrap()));
            if end.writes == 0 {
                participant(4, None, || shared.release_many(2).unwrap());
            }
            join_all(acquirers);
            end
        });
    }
}

/// Releases a permit, and counts the release unless it is one too many.
fn release_and_count((shared, released): &(BoundedSemaphore, AtomicU32)) {
    if shared.release().is_ok() {
        released.fetch_add(1, Relaxed);
    }
}

#[test]
fn of_two_releases_at_once_the_bound_allows_one() {
    model("semaphore: of_two_releases_at_once_the_bound_allows_one", Sleep, None, || {
        let shared = share((BoundedSemaphore::new(2), AtomicU32::new(0)));
        participant(1, None, || shared.0.acquire());
        join_all([2, 3].map(|tid| spawn(tid, None, &shared, release_and_count)));
        assert_eq!((shared.1.load(Relaxed), shared.0.value()), (1, 2));
    });
}

#[test]
fn releases_that_find_a_sleeper_keep_to_the_bound() {
    model("semaphore: releases_that_find_a_sleeper_keep_to_the_bound", Sleep, Some(2), || {
        let shared = share((BoundedSemaphore::new(1), AtomicU32::new(0)));
        participant(1, None, || shared.0.acquire());
        let acquirer = spawn(2, None, &shared, |(shared, _)| shared.acquire());
        join_all([3, 4].map(|tid| spawn(tid, None, &shared, release_and_count)));
        join(acquirer);
        // The second release is one too many if it comes before the acquirer.
        let released = shared.1.load(Relaxed);
        assert!(released >= 1, "a release that the bound allows was refused");
        assert_eq!(shared.0.value(), released - 1);
    });
}

#[test]
fn a_release_too_many_leaves_the_acquirers_as_they_are() {
    model("semaphore: a_release_too_many_leaves_the_acquirers_as_they_are", Sleep, Some(2), || {
        let shared = share((BoundedSemaphore::new(1), AtomicU32::new(0)));
        let acquirers = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |(shared, released)| {
                shared.acquire();
                // Refused if the surplus release came before it.
                if shared.release().is_err() {
                    released.fetch_sub(1, Relaxed);
                }
            })
        });
        participant(3, None, || release_and_count(&shared));
        join_all(acquirers);
        assert_eq!((shared.1.load(Relaxed), shared.0.value()), (0, 1));
    });
}
