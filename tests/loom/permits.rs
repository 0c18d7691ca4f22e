//! Models of `Permits`.

use std::time::Duration;

use crossproc::{Barrier, Permits, PermitsError};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{expire, participant};

use crate::{Watched, join, join_all, kill_model, model, sampled_kill_model, share, spawn};

fn acquire_and_release<const N: usize>(shared: &Permits<N>) {
    drop(shared.acquire().unwrap());
}

fn add_one_watched((shared, data): &(Permits<1>, Watched)) {
    let _permit = shared.acquire().unwrap();
    data.add(1);
}

fn hold_for_ever<const N: usize>(shared: &Permits<N>) {
    std::mem::forget(shared.acquire().unwrap());
}

#[test]
fn one_permit_excludes() {
    model("permits: one_permit_excludes", Look, Some(3), || {
        let shared = share((Permits::new(), Watched::default()));
        join_all([1, 2].map(|tid| spawn(tid, None, &shared, add_one_watched)));
        assert_eq!((shared.1.get(), shared.0.value()), (2, 1));
    });
}

#[test]
fn a_try_acquire_that_succeeds_sees_what_the_releaser_wrote() {
    model("permits: a_try_acquire_that_succeeds_sees_what_the_releaser_wrote", Look, None, || {
        let shared = share((Permits::<1>::new(), Watched::default()));
        let threads = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |(shared, data)| match shared.try_acquire() {
                Ok(_permit) => data.add(1),
                Err(PermitsError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            })
        });
        join_all(threads);
    });
}

#[test]
fn nobody_sleeps_while_the_permit_is_free() {
    model("permits: nobody_sleeps_while_the_permit_is_free", Sleep, Some(2), || {
        let shared = share(Permits::<1>::new());
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, acquire_and_release)));
        assert_eq!(shared.value(), 1);
    });
}

#[test]
fn nobody_sleeps_while_one_of_two_is_free() {
    model("permits: nobody_sleeps_while_one_of_two_is_free", Sleep, Some(2), || {
        let shared = share(Permits::<2>::new());
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, acquire_and_release)));
        assert_eq!(shared.value(), 2);
    });
}

#[test]
fn two_permits_that_are_released_wake_two() {
    model("permits: two_permits_that_are_released_wake_two", Sleep, Some(1), || {
        let shared = share(Permits::<2>::new());
        participant(1, None, || {
            let permits = [shared.acquire().unwrap(), shared.acquire().unwrap()];
            let waiters = [2, 3].map(|tid| spawn(tid, None, &shared, hold_for_ever));
            drop(permits);
            join_all(waiters);
        });
        // The waiters have ended, as their threads have: their permits are back.
        assert_eq!(shared.value(), 2);
    });
}

#[test]
fn a_time_out_strands_nobody_and_takes_nothing() {
    model("permits: a_time_out_strands_nobody_and_takes_nothing", Sleep, Some(2), || {
        let shared = share(Permits::<1>::new());
        let impatient = spawn(1, None, &shared, |shared| {
            match shared.acquire_timeout(Duration::from_secs(3600)) {
                Ok(_permit) => {}
                Err(PermitsError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
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
fn a_holder_killed_anywhere_gives_its_permit_back() {
    kill_model("permits: a_holder_killed_anywhere_gives_its_permit_back", Some(1), |killed_at| {
        let shared = share((Permits::new(), Watched::default()));
        let victim = spawn(1, Some(killed_at), &shared, add_one_watched);
        let survivors = [2, 3].map(|tid| spawn(tid, None, &shared, add_one_watched));
        let end = join(victim);
        join_all(survivors);
        assert_eq!(shared.0.value(), 1);
        end
    });
}

#[test]
fn a_waiter_killed_anywhere_strands_nobody() {
    kill_model("permits: a_waiter_killed_anywhere_strands_nobody", Some(1), |killed_at| {
        let shared = share(Permits::<1>::new());
        let mut end = None;
        participant(3, None, || {
            let permit = shared.acquire().unwrap();
            let victim = spawn(1, Some(killed_at), &shared, hold_for_ever);
            let survivor = spawn(2, None, &shared, acquire_and_release);
            drop(permit);
            end = Some(join(victim));
            join(survivor);
        });
        assert_eq!(shared.value(), 1);
        end.unwrap()
    });
}

#[test]
fn a_waiter_for_one_of_two_killed_anywhere_strands_nobody() {
    kill_model(
        "permits: a_waiter_for_one_of_two_killed_anywhere_strands_nobody",
        Some(1),
        |killed_at| {
            let shared = share(Permits::<2>::new());
            let mut end = None;
            participant(3, None, || {
                let permits = [shared.acquire().unwrap(), shared.acquire().unwrap()];
                let victim = spawn(1, Some(killed_at), &shared, acquire_and_release);
                let survivor = spawn(2, None, &shared, acquire_and_release);
                let [permit, kept] = permits;
                drop(permit);
                end = Some(join(victim));
                join(survivor);
                drop(kept);
            });
            assert_eq!(shared.value(), 2);
            end.unwrap()
        },
    );
}

#[test]
fn two_permits_of_one_killed_anywhere_wake_two() {
    sampled_kill_model(
        "permits: two_permits_of_one_killed_anywhere_wake_two",
        Some(1),
        4,
        |killed_at| {
            let shared = share(Permits::<2>::new());
            let victim = spawn(1, Some(killed_at), &shared, |shared| {
                let _permits = [shared.acquire().unwrap(), shared.acquire().unwrap()];
            });
            let waiters = [2, 3].map(|tid| spawn(tid, None, &shared, acquire_and_release));
            let end = join(victim);
            join_all(waiters);
            assert_eq!(shared.value(), 2);
            end
        },
    );
}

#[test]
fn two_permits_of_one_that_ends_wake_two_who_keep_them() {
    model("permits: two_permits_of_one_that_ends_wake_two_who_keep_them", Sleep, Some(1), || {
        let shared = share((Permits::<2>::new(), Barrier::new(2)));
        let waiters = std::cell::Cell::new(None);
        participant(1, None, || {
            hold_for_ever(&shared.0);
            hold_for_ever(&shared.0);
            // Neither releases its permit before both have one.
            waiters.set(Some([2, 3].map(|tid| {
                spawn(tid, None, &shared, |(shared, both)| {
                    let _permit = shared.acquire().unwrap();
                    both.wait().unwrap();
                })
            })));
        });
        join_all(waiters.take().unwrap());
    });
}
