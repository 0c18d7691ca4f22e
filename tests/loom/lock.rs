//! Models of `Lock`.

use std::time::Duration;

use crossproc::{Lock, LockError, LockGuard};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{expire, participant};

use crate::{Watched, join, join_all, kill_model, model, sampled_kill_model, share, spawn};

/// Locks in any state. The second value says whether the last owner had died.
fn lock(lock: &Lock<u64>) -> (LockGuard<'_, u64>, bool) {
    let mut died = false;
    (lock.lock_or_repair(|_| died = true).unwrap(), died)
}

fn add_one(shared: &Lock<u64>) {
    *lock(shared).0 += 1;
}

fn add_two(shared: &Lock<u64>) {
    add_one(shared);
    add_one(shared);
}

fn add_one_watched((shared, data): &(Lock<u64>, Watched)) {
    let _guard = lock(shared);
    data.add(1);
}

fn watched() -> std::sync::Arc<(Lock<u64>, Watched)> {
    share((Lock::new(0), Watched::default()))
}

#[test]
fn an_owner_sees_what_its_predecessor_wrote() {
    model("lock: an_owner_sees_what_its_predecessor_wrote", Look, None, || {
        let shared = watched();
        join_all([1, 2].map(|tid| spawn(tid, None, &shared, add_one_watched)));
        assert_eq!(shared.1.get(), 2);
    });
}

#[test]
fn three_owners_see_what_their_predecessors_wrote() {
    model("lock: three_owners_see_what_their_predecessors_wrote", Look, Some(1), || {
        let shared = watched();
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, add_one_watched)));
        assert_eq!(shared.1.get(), 3);
    });
}

#[test]
fn a_try_lock_that_succeeds_sees_what_its_predecessor_wrote() {
    model("lock: a_try_lock_that_succeeds_sees_what_its_predecessor_wrote", Look, None, || {
        let shared = watched();
        let threads = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |(shared, data)| match shared.try_lock() {
                Ok(_guard) => data.add(1),
                Err(LockError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            })
        });
        join_all(threads);
    });
}

#[test]
fn nobody_sleeps_on_a_free_lock() {
    model("lock: nobody_sleeps_on_a_free_lock", Sleep, Some(3), || {
        let shared = share(Lock::new(0));
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, add_one)));
        participant(9, None, || assert_eq!(*lock(&shared).0, 3));
    });
}

#[test]
fn nobody_sleeps_on_a_free_lock_after_two_rounds() {
    model("lock: nobody_sleeps_on_a_free_lock_after_two_rounds", Sleep, Some(2), || {
        let shared = share(Lock::new(0));
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, add_two)));
    });
}

#[test]
fn a_time_out_strands_nobody() {
    model("lock: a_time_out_strands_nobody", Sleep, Some(2), || {
        let shared = share(Lock::new(0));
        let impatient = spawn(1, None, &shared, |shared| {
            match shared.lock_timeout(Duration::from_secs(3600)) {
                Ok(mut guard) => *guard += 1,
                Err(LockError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
            }
        });
        let others = [2, 3].map(|tid| spawn(tid, None, &shared, add_one));
        expire();
        join(impatient);
        join_all(others);
    });
}

#[test]
fn a_participant_killed_anywhere_strands_nobody() {
    kill_model("lock: a_participant_killed_anywhere_strands_nobody", Some(2), |killed_at| {
        let shared = watched();
        let victim = spawn(1, Some(killed_at), &shared, add_one_watched);
        let survivors = [2, 3].map(|tid| spawn(tid, None, &shared, add_one_watched));
        let end = join(victim);
        join_all(survivors);
        end
    });
}

#[test]
fn two_participants_killed_anywhere_strand_nobody() {
    // The second victim's steps are sampled: every third one.
    for second in (0..20).step_by(3) {
        let name =
            format!("lock: two_participants_killed_anywhere_strand_nobody, the second at {second}");
        kill_model(&name, Some(1), move |killed_at| {
            let shared = share(Lock::new(0));
            let victim = spawn(1, Some(killed_at), &shared, add_one);
            let others = [(2, Some(second)), (3, None), (4, None)]
                .map(|(tid, at)| spawn(tid, at, &shared, add_one));
            let end = join(victim);
            join_all(others);
            end
        });
    }
}

#[test]
fn an_owner_killed_inside_is_reported_once() {
    kill_model("lock: an_owner_killed_inside_is_reported_once", None, |killed_at| {
        let shared = share(Lock::new(0));
        let victim = spawn(1, Some(killed_at), &shared, |shared| {
            let mut guard = lock(shared).0;
            *guard = 1;
            // One more step, at which the thread is certain to hold the lock.
            assert!(!guard.is_inconsistent());
            *guard = 2;
        });
        let end = join(victim);
        participant(2, None, || {
            let (guard, had_died) = lock(&shared);
            assert!(had_died || *guard != 1, "an owner died halfway and nobody was told");
        });
        participant(3, None, || assert!(!lock(&shared).1, "told twice, though recovered"));
        end
    });
}

#[test]
fn a_guard_that_is_not_recovered_passes_the_death_on() {
    model("lock: a_guard_that_is_not_recovered_passes_the_death_on", Sleep, Some(3), || {
        let shared = share(Lock::new(0_u64));
        participant(1, None, || std::mem::forget(shared.lock()));
        let passers = [2, 3].map(|tid| {
            spawn(tid, None, &shared, |shared| {
                assert!(matches!(shared.lock(), Err(LockError::OwnerDied)));
            })
        });
        join_all(passers);
        participant(4, None, || assert!(lock(&shared).1));
    });
}

/// In the models a waiter starves after one lost lock.
#[test]
fn a_starving_waiter_killed_anywhere_strands_nobody() {
    sampled_kill_model(
        "lock: a_starving_waiter_killed_anywhere_strands_nobody",
        Some(2),
        4,
        |killed_at| {
            let shared = share(Lock::new(0));
            let victim = spawn(1, Some(killed_at), &shared, add_one);
            let other = spawn(2, None, &shared, add_two);
            participant(3, None, || add_two(&shared));
            let end = join(victim);
            join(other);
            end
        },
    );
}

#[test]
fn one_killed_while_another_starves_strands_nobody() {
    kill_model("lock: one_killed_while_another_starves_strands_nobody", Some(2), |killed_at| {
        let shared = share(Lock::new(0));
        let victim = spawn(1, Some(killed_at), &shared, add_two);
        let starving = spawn(2, None, &shared, add_one);
        participant(3, None, || add_one(&shared));
        let end = join(victim);
        join(starving);
        end
    });
}

#[test]
fn a_starving_waiters_time_out_strands_nobody() {
    model("lock: a_starving_waiters_time_out_strands_nobody", Sleep, Some(2), || {
        let shared = share(Lock::new(0));
        let impatient = spawn(1, None, &shared, |shared| {
            match shared.lock_timeout(Duration::from_secs(3600)) {
                Ok(mut guard) => *guard += 1,
                Err(LockError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
            }
        });
        let others = [2, 3].map(|tid| spawn(tid, None, &shared, add_two));
        expire();
        join(impatient);
        join_all(others);
    });
}
