//! Models of `Condition`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crossproc::{Condition, ConditionError, Lock, LockError, LockGuard, RLock, Wait};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{be_first, expire, participant};
use loom::thread;

use crate::{Watched, join, join_all, kill_model, model, share, spawn};

/// Waits for ever, in slices. The models run without slices, but an interruptible wait ends and
/// begins anew as a wait with slices does.
const SLICES: Wait = Wait::FOREVER.interruptible();
const LONG: Duration = Duration::from_secs(3600);

/// Items, of which each waiter takes one.
#[derive(Debug)]
struct Box {
    items: Lock<u64>,
    changed: Condition,
}

fn empty() -> Arc<Box> {
    share(Box { items: Lock::new(0), changed: Condition::new() })
}

fn lock(lock: &Lock<u64>) -> LockGuard<'_, u64> {
    lock.lock_or_repair(|_| ()).unwrap()
}

/// Waits for an item and takes it, whichever participant dies.
fn take(shared: &Box) {
    let mut items = lock(&shared.items);
    while *items == 0 {
        match shared.changed.wait(&mut items) {
            Ok(()) => {}
            Err(ConditionError::OwnerDied) => {
                items = items.recover();
                // This is due: the dead owner may have been notified.
                shared.changed.notify_one();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    *items -= 1;
}

fn put(shared: &Box, count: u64) {
    *lock(&shared.items) += count;
}

#[test]
fn a_waiter_sees_what_the_notifier_wrote() {
    model("condition: a_waiter_sees_what_the_notifier_wrote", Look, Some(2), || {
        let shared = share((Lock::new(0_u64), Condition::new(), Watched::default()));
        let waiter = spawn(1, None, &shared, |(lock, changed, data)| {
            let mut guard = lock.lock().unwrap();
            changed.wait_while(&mut guard, |done| *done == 0).unwrap();
            assert_eq!(data.get(), 1);
        });
        let notifier = spawn(2, None, &shared, |(lock, changed, data)| {
            data.add(1);
            *lock.lock().unwrap() = 1;
            changed.notify_all();
        });
        join_all([waiter, notifier]);
    });
}

#[test]
fn a_notification_after_the_lock_is_not_lost() {
    model("condition: a_notification_after_the_lock_is_not_lost", Sleep, Some(3), || {
        let shared = empty();
        let waiter = spawn(1, None, &shared, take);
        let notifier = spawn(2, None, &shared, |shared| {
            put(shared, 1);
            shared.changed.notify_one();
        });
        join_all([waiter, notifier]);
    });
}

#[test]
fn a_notification_with_the_lock_is_not_lost() {
    model("condition: a_notification_with_the_lock_is_not_lost", Sleep, Some(3), || {
        let shared = empty();
        let waiter = spawn(1, None, &shared, take);
        let notifier = spawn(2, None, &shared, |shared| {
            let mut items = lock(&shared.items);
            *items += 1;
            shared.changed.notify_one();
        });
        join_all([waiter, notifier]);
    });
}

#[test]
fn two_notifications_of_one_reach_two() {
    model("condition: two_notifications_of_one_reach_two", Sleep, Some(2), || {
        let shared = empty();
        let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, take));
        join(spawn(3, None, &shared, |shared| {
            for _ in 0..2 {
                put(shared, 1);
                shared.changed.notify_one();
            }
        }));
        join_all(waiters);
    });
}

#[test]
fn a_notification_of_two_reaches_two() {
    model("condition: a_notification_of_two_reaches_two", Sleep, Some(2), || {
        let shared = empty();
        let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, take));
        join(spawn(3, None, &shared, |shared| {
            put(shared, 2);
            shared.changed.notify(2);
        }));
        join_all(waiters);
    });
}

#[test]
fn a_notification_of_all_reaches_all() {
    model("condition: a_notification_of_all_reaches_all", Sleep, Some(2), || {
        let shared = empty();
        let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, take));
        join(spawn(3, None, &shared, |shared| {
            put(shared, 2);
            shared.changed.notify_all();
        }));
        join_all(waiters);
    });
}

/// Two waiters that wait until they are notified, once. Bits tell which of them have begun to wait,
/// and which were notified.
#[derive(Debug)]
struct Pair {
    has_happened: Lock<u64>,
    changed: Condition,
    begun: AtomicU32,
    notified: AtomicU32,
    /// How many of the victim and the notifier have ended.
    ended: AtomicU32,
}

fn pair() -> Arc<Pair> {
    share(Pair {
        has_happened: Lock::new(0),
        changed: Condition::new(),
        begun: AtomicU32::new(0),
        notified: AtomicU32::new(0),
        ended: AtomicU32::new(0),
    })
}

impl Pair {
    /// Waits, unless the event has happened.
    fn wait(&self, bit: u32, wait: Wait) {
        let mut guard = lock(&self.has_happened);
        if *guard != 0 {
            return;
        }
        self.begun.fetch_or(bit, Relaxed);
        match self.changed.wait_with(&mut guard, wait) {
            Ok(()) => _ = self.notified.fetch_or(bit, Relaxed),
            Err(ConditionError::TimedOut | ConditionError::OwnerDied) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    fn notify_one(&self) {
        let mut guard = lock(&self.has_happened);
        *guard = 1;
        self.changed.notify_one();
    }

    /// Ends all slices once the victim and the notifier have ended.
    fn end_slices(&self) {
        if self.ended.fetch_add(1, Relaxed) == 1 {
            expire();
        }
    }
}

/// The notification reaches at least one of the waiters that had begun to wait. If they slept, it
/// reaches only one.
#[test]
fn a_notification_of_one_reaches_one() {
    static REACHED_ONE: AtomicBool = AtomicBool::new(false);
    model("condition: a_notification_of_one_reaches_one", Sleep, Some(2), || {
        let shared = pair();
        let waiters = [1, 2].map(|tid| {
            spawn(tid, None, &shared, move |shared| shared.wait(tid, Wait::timeout(LONG)))
        });
        participant(3, None, || shared.notify_one());
        expire();
        join_all(waiters);
        let (begun, notified) = (shared.begun.load(Relaxed), shared.notified.load(Relaxed));
        assert!(notified != 0 || begun == 0, "nobody was notified");
        if begun == 3 && notified != 3 {
            REACHED_ONE.store(true, Relaxed);
        }
    });
    assert!(REACHED_ONE.load(Relaxed), "a notification of one always reached two");
}

#[test]
fn a_time_out_takes_no_notification() {
    model("condition: a_time_out_takes_no_notification", Sleep, Some(2), || {
        let shared = empty();
        let impatient = spawn(1, None, &shared, |shared| {
            let mut items = lock(&shared.items);
            match shared.changed.wait_timeout(&mut items, LONG) {
                // It takes nothing, so it has to pass the notification on.
                Ok(()) => shared.changed.notify_one(),
                Err(ConditionError::TimedOut) => {}
                Err(error) => panic!("{error:?}"),
            }
        });
        let other = spawn(2, None, &shared, take);
        expire();
        participant(3, None, || {
            put(&shared, 1);
            shared.changed.notify_one();
        });
        join_all([impatient, other]);
    });
}

/// The survivor's slices end after the victim's end and the notification. A victim that dies after
/// its sleep, but before it has the lock, leaves its notification owed. No other waiter is woken
/// then.
#[test]
fn a_waiter_killed_anywhere_hands_its_notification_on() {
    kill_model(
        "condition: a_waiter_killed_anywhere_hands_its_notification_on",
        Some(2),
        |killed_at| {
            let shared = pair();
            let victim = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let end = participant(1, Some(killed_at), || shared.wait(1, Wait::FOREVER));
                    shared.end_slices();
                    end
                })
            };
            let survivor = spawn(2, None, &shared, |shared| {
                shared.wait(2, SLICES);
                shared.changed.notify_all();
            });
            participant(3, None, || shared.notify_one());
            shared.end_slices();
            let end = join(victim);
            participant(4, None, || {
                // The victim may have come back with the notification, or have died with the lock
                // after it may have done so. Then it is for others to notify the survivor.
                let result = shared.has_happened.try_lock();
                if matches!(result, Err(LockError::OwnerDied))
                    || shared.notified.load(Relaxed) & 1 != 0
                {
                    shared.changed.notify_all();
                }
                // An unlock would repair the word, in which a dead waiter may have left its flag.
                std::mem::forget(result);
            });
            join(survivor);
            end
        },
    );
}

#[test]
fn one_killed_while_it_notifies_all_has_woken_all_or_nobody() {
    kill_model(
        "condition: one_killed_while_it_notifies_all_has_woken_all_or_nobody",
        Some(2),
        |killed_at| {
            let shared = empty();
            let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, take));
            participant(3, None, || put(&shared, 2));
            let end = participant(4, Some(killed_at), || shared.changed.notify_all());
            if end.writes == 0 {
                participant(5, None, || shared.changed.notify_all());
            }
            join_all(waiters);
            end
        },
    );
}

#[test]
fn one_killed_while_it_notifies_one_leaves_a_condition_that_works() {
    kill_model(
        "condition: one_killed_while_it_notifies_one_leaves_a_condition_that_works",
        Some(1),
        |killed_at| {
            let shared = empty();
            let waiters = [1, 2].map(|tid| spawn(tid, None, &shared, take));
            let end = participant(3, Some(killed_at), || shared.changed.notify_one());
            participant(4, None, || {
                put(&shared, 2);
                shared.changed.notify(2);
            });
            join_all(waiters);
            end
        },
    );
}

/// The kernel wakes a waiter for a dead notifier. The waiter finds nothing changed, and wakes the
/// next. Meanwhile there is a notification, and another waiter begins to wait.
#[test]
fn a_notification_after_a_wake_up_for_nothing_is_not_lost() {
    model(
        "condition: a_notification_after_a_wake_up_for_nothing_is_not_lost",
        Sleep,
        Some(3),
        || {
            let shared = empty();
            let waiter = spawn(1, None, &shared, |shared| {
                take(shared);
                shared.changed.notify_all();
            });
            let theirs = Arc::clone(&shared);
            let notifiers = thread::spawn(move || {
                // Its fourth step would change the word, which is pending.
                let end = participant(2, Some(3), || theirs.changed.notify_one());
                assert_eq!(end.writes, 0);
                participant(3, None, || {
                    put(&theirs, 1);
                    theirs.changed.notify_all();
                });
            });
            notifiers.join().unwrap();
            participant(4, None, || {
                let mut items = lock(&shared.items);
                shared.changed.wait_while(&mut items, |items| *items != 0).unwrap();
            });
            join(waiter);
        },
    );
}

/// The marks of two whose time was over make a notifier say that it wakes. A waiter that begins
/// meanwhile is woken for nothing, and the word is another one by then.
#[test]
fn one_that_is_woken_for_nothing_waits_on() {
    model("condition: one_that_is_woken_for_nothing_waits_on", Sleep, Some(2), || {
        let shared = empty();
        let impatient = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |shared| {
                let mut items = lock(&shared.items);
                let waited = shared.changed.wait_timeout(&mut items, LONG);
                assert!(matches!(waited, Err(ConditionError::TimedOut)));
            })
        });
        expire();
        join_all(impatient);
        let waiter = spawn(3, None, &shared, take);
        participant(4, None, || shared.changed.notify_all());
        participant(4, None, || {
            put(&shared, 1);
            shared.changed.notify_one();
        });
        join(waiter);
    });
}

/// Leaves the marks of two sleepers whose time is over: a notifier says that it wakes one of them.
fn leave_marks(lock: &Lock<u64>, changed: &Condition) {
    expire();
    for tid in [1, 2] {
        participant(tid, None, || {
            let mut guard = lock.lock().unwrap();
            let waited = changed.wait_timeout(&mut guard, LONG);
            assert!(matches!(waited, Err(ConditionError::TimedOut)));
        });
    }
}

/// The waiter need not be asleep yet when the notifier dies.
#[test]
fn one_killed_while_it_notifies_one_of_several_has_notified_it_or_has_not() {
    kill_model(
        "condition: one_killed_while_it_notifies_one_of_several_has_notified_it_or_has_not",
        Some(3),
        |killed_at| {
            let shared = empty();
            leave_marks(&shared.items, &shared.changed);
            let waiter = spawn(3, None, &shared, take);
            participant(4, None, || put(&shared, 1));
            let end = participant(5, Some(killed_at), || shared.changed.notify_one());
            // The first is that it is owed.
            if end.writes < 2 {
                participant(6, None, || shared.changed.notify_one());
            }
            join(waiter);
            end
        },
    );
}

/// One that begins after a notification, and is woken by it, leaves it to one that began before.
#[test]
fn a_notification_is_not_lost_to_one_that_begins_after_it() {
    /// Instead of how many have waited.
    const OVER: u64 = u64::MAX;
    /// Waits once, unless all is over, and ends it for all others.
    fn wait_once((waits, changed): &(Lock<u64>, Condition)) {
        let mut waits = waits.lock().unwrap();
        if *waits != OVER {
            *waits += 1;
            changed.wait(&mut waits).unwrap();
            *waits = OVER;
        }
        drop(waits);
        changed.notify_all();
    }
    model(
        "condition: a_notification_is_not_lost_to_one_that_begins_after_it",
        Sleep,
        Some(1),
        || {
            let shared = share((Lock::new(0), Condition::new()));
            leave_marks(&shared.0, &shared.1);
            let former = spawn(3, None, &shared, wait_once);
            let latter = spawn(4, None, &shared, |shared| {
                be_first();
                wait_once(shared);
            });
            participant(5, None, || {
                let (waits, changed) = &*shared;
                let mut waits = waits.lock().unwrap();
                // If nobody waits yet, nobody is owed a notification, and nobody need wait.
                if *waits == 0 {
                    *waits = OVER;
                }
                drop(waits);
                changed.notify_one();
            });
            join_all([former, latter]);
        },
    );
}

#[test]
fn one_killed_while_it_notifies_one_has_notified_it_or_has_not() {
    kill_model(
        "condition: one_killed_while_it_notifies_one_has_notified_it_or_has_not",
        Some(3),
        |killed_at| {
            let shared = empty();
            let waiter = spawn(1, None, &shared, take);
            participant(2, None, || put(&shared, 1));
            let end = participant(3, Some(killed_at), || shared.changed.notify_one());
            if end.writes == 0 {
                participant(4, None, || shared.changed.notify_one());
            }
            join(waiter);
            end
        },
    );
}

/// Once the time is over, a wait in slices never sleeps again: it stays between two slices.
#[test]
fn a_notification_between_two_slices_is_not_lost() {
    model("condition: a_notification_between_two_slices_is_not_lost", Sleep, Some(2), || {
        let shared = empty();
        let waiter = spawn(1, None, &shared, |shared| {
            let mut items = lock(&shared.items);
            while *items == 0 {
                shared.changed.wait_with(&mut items, SLICES).unwrap();
            }
        });
        expire();
        participant(2, None, || {
            put(&shared, 1);
            shared.changed.notify_one();
        });
        join(waiter);
    });
}

#[test]
fn a_recursive_lock_is_released_whole_and_held_as_deep_again() {
    model(
        "condition: a_recursive_lock_is_released_whole_and_held_as_deep_again",
        Sleep,
        Some(2),
        || {
            let shared = share((RLock::new(0_u64), Condition::new()));
            let waiter = spawn(1, None, &shared, |(lock, changed)| {
                let _outer = lock.lock().unwrap();
                let mut inner = lock.lock().unwrap();
                changed.wait_while(&mut inner, |items| items.get() == 0).unwrap();
                assert_eq!((inner.get(), lock.depth()), (1, 2));
            });
            let notifier = spawn(2, None, &shared, |(lock, changed)| {
                lock.lock().unwrap().set(1);
                changed.notify_one();
            });
            join_all([waiter, notifier]);
            assert_eq!(shared.0.owner(), None);
        },
    );
}
