//! Models of `Once`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crossproc::{Once, OnceError, OnceState};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{expire, participant};

use crate::{Watched, join, join_all, kill_model, model, share, spawn};

/// A `Once`, the data that its work writes, and how often the work was begun and ended.
#[derive(Debug, Default)]
struct Work {
    once: Once,
    data: Watched,
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Work {
    fn work(&self, state: OnceState) {
        // `predecessor_died` also counts a predecessor that died just before or just after its
        // work.
        let died_within = self.begun.fetch_add(1, Relaxed) != self.ended.load(Relaxed);
        assert!(state.predecessor_died() || !died_within);
        self.data.add(1);
        // A step at which the thread is certain to hold the lock.
        assert!(!self.once.is_completed());
        self.ended.fetch_add(1, Relaxed);
    }
}

fn call_and_read(shared: &Work) {
    shared.once.call_once(|state| shared.work(state)).unwrap();
    assert!(shared.data.get() >= 1);
}

#[test]
fn what_the_initialiser_wrote_is_seen() {
    model("once: what_the_initialiser_wrote_is_seen", Look, Some(3), || {
        let shared = share(Work::default());
        join_all([1, 2].map(|tid| spawn(tid, None, &shared, call_and_read)));
        assert_eq!((shared.begun.load(Relaxed), shared.data.get()), (1, 1));
    });
}

#[test]
fn is_completed_sees_what_the_initialiser_wrote() {
    model("once: is_completed_sees_what_the_initialiser_wrote", Look, None, || {
        let shared = share(Work::default());
        let looker = spawn(1, None, &shared, |shared| {
            if shared.once.is_completed() {
                assert_eq!(shared.data.get(), 1);
            }
        });
        join_all([looker, spawn(2, None, &shared, call_and_read)]);
    });
}

#[test]
fn all_who_wait_return() {
    model("once: all_who_wait_return", Sleep, Some(1), || {
        let shared = share(Work::default());
        join_all([1, 2, 3].map(|tid| spawn(tid, None, &shared, call_and_read)));
        assert_eq!((shared.begun.load(Relaxed), shared.data.get()), (1, 1));
    });
}

#[test]
fn a_time_out_leaves_the_work_to_the_other() {
    model("once: a_time_out_leaves_the_work_to_the_other", Sleep, Some(2), || {
        let shared = share(Work::default());
        let impatient = spawn(1, None, &shared, |shared| {
            match shared
                .once
                .call_once_timeout(Duration::from_secs(3600), |state| shared.work(state))
            {
                Ok(()) => assert_eq!(shared.data.get(), 1),
                Err(OnceError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
            }
        });
        let other = spawn(2, None, &shared, call_and_read);
        expire();
        join_all([impatient, other]);
        assert_eq!(shared.data.get(), 1);
    });
}

#[test]
fn an_initialiser_killed_anywhere_hands_the_work_on() {
    kill_model("once: an_initialiser_killed_anywhere_hands_the_work_on", Some(1), |killed_at| {
        let shared = share(Work::default());
        let victim = spawn(1, Some(killed_at), &shared, call_and_read);
        let survivors = [2, 3].map(|tid| spawn(tid, None, &shared, call_and_read));
        let end = join(victim);
        join_all(survivors);
        assert!(shared.once.is_completed());
        // A victim that died after its work, but before it could say so, has left it to be done
        // again.
        let (begun, ended) = (shared.begun.load(Relaxed), shared.ended.load(Relaxed));
        assert!(ended >= 1 && begun <= if end.killed { 2 } else { 1 });
        participant(9, None, || call_and_read(&shared));
        assert_eq!(shared.begun.load(Relaxed), begun, "done again, though it was done");
        end
    });
}
