//! Models of `RLock`.

use crossproc::{RLock, RLockGuard};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::participant;

use crate::{Watched, join, join_all, kill_model, model, share, spawn};

/// Locks in any state. The second value says whether the last owner had died.
fn lock(lock: &RLock<u64>) -> (RLockGuard<'_, u64>, bool) {
    let mut died = false;
    (lock.lock_or_repair(|_| died = true).unwrap(), died)
}

/// Adds one before, during and after the second lock.
fn add_three_watched((shared, data): &(RLock<u64>, Watched)) {
    let _outer = lock(shared);
    data.add(1);
    {
        let _inner = lock(shared);
        assert_eq!(shared.depth(), 2);
        data.add(1);
    }
    assert_eq!(shared.depth(), 1);
    data.add(1);
}

fn watched() -> std::sync::Arc<(RLock<u64>, Watched)> {
    share((RLock::new(0), Watched::default()))
}

#[test]
fn others_are_excluded_until_the_last_release() {
    model("rlock: others_are_excluded_until_the_last_release", Look, Some(2), || {
        let shared = watched();
        join_all([1, 2].map(|tid| spawn(tid, None, &shared, add_three_watched)));
        assert_eq!((shared.1.get(), shared.0.owner()), (6, None));
    });
}

#[test]
fn nobody_sleeps_on_a_free_lock() {
    model("rlock: nobody_sleeps_on_a_free_lock", Sleep, Some(1), || {
        let shared = watched();
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, add_three_watched)));
        assert_eq!((shared.1.get(), shared.0.depth()), (9, 0));
    });
}

#[test]
fn an_owner_killed_at_any_depth_strands_nobody_and_leaves_no_depth() {
    kill_model(
        "rlock: an_owner_killed_at_any_depth_strands_nobody_and_leaves_no_depth",
        Some(1),
        |killed_at| {
            let shared = watched();
            let victim = spawn(1, Some(killed_at), &shared, add_three_watched);
            let survivors = [2, 3].map(|tid| spawn(tid, None, &shared, add_three_watched));
            let end = join(victim);
            join_all(survivors);
            end
        },
    );
}

#[test]
fn an_owner_killed_inside_is_reported_once() {
    kill_model("rlock: an_owner_killed_inside_is_reported_once", None, |killed_at| {
        let shared = share(RLock::new(0));
        let end = join(spawn(1, Some(killed_at), &shared, |shared| {
            let outer = lock(shared).0;
            outer.set(1);
            // Steps at which the thread is certain to hold the lock.
            drop(lock(shared));
            outer.set(2);
        }));
        participant(2, None, || {
            let (guard, had_died) = lock(&shared);
            assert!(had_died || guard.get() != 1, "an owner died halfway and nobody was told");
            assert_eq!(shared.depth(), 1, "the dead one's depth");
        });
        participant(3, None, || assert!(!lock(&shared).1, "told twice, though recovered"));
        end
    });
}
