//! `Condition`.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crossproc::{Condition, ConditionError, Lock, RLock, Wait};

use super::{EXPIRES, WAKER_STOPPED, warm_up, word};
use crate::harness::{Case, End, Me, Mode, Moment, Operation, Subject};

/// The bits of the condition's word that count how often some waiters were notified, and how often
/// all. See `condition::state`.
const SOME: u64 = 0x1fff << 35;
const ALL: u64 = !0 << 48;

/// A condition, and a lock for it.
struct Board {
    changed: Condition,
    lock: Lock<()>,
    reentrant: RLock<()>,
    /// Whether the lock is the reentrant one.
    reenters: bool,
    /// How often a wait other than the victim's has returned, and not by its time-out.
    returned: AtomicU32,
    /// The same count, when the survivors came.
    judged: AtomicU32,
    /// Whether there is no need to wait any longer. Stored before the notification, provided that
    /// no process is between looking at it and waiting.
    is_set: AtomicU32,
    /// Whether the notification has come to its end.
    is_done: AtomicU32,
    /// Whether the notification has taken place, though its notifier may not have come to its end.
    is_notified: AtomicU32,
    /// Whether the victim was killed or stopped as the lock's owner.
    was_owner: AtomicU32,
    /// Whether the case is over: no process waits from now on. Written with the lock, and all are
    /// notified then.
    is_over: AtomicU32,
    deaths: AtomicU32,
}

impl Board {
    fn new(reenters: bool) -> Self {
        let zero = || AtomicU32::new(0);
        Board {
            changed: Condition::new(),
            lock: Lock::new(()),
            reentrant: RLock::new(()),
            reenters,
            returned: zero(),
            judged: zero(),
            is_set: zero(),
            is_done: zero(),
            is_notified: zero(),
            was_owner: zero(),
            is_over: zero(),
            deaths: zero(),
        }
    }

    fn acquire(&self) {
        let acquired = if self.reenters {
            self.reentrant.acquire(Wait::FOREVER)
        } else {
            self.lock.acquire(Wait::FOREVER)
        };
        if acquired.expect("nothing is in the way").owner_died {
            self.recover();
        }
    }

    fn recover(&self) {
        self.deaths.fetch_add(1, SeqCst);
        let recovered = if self.reenters { self.reentrant.recover() } else { self.lock.recover() };
        recovered.expect("this thread's");
    }

    fn release(&self) {
        let released = if self.reenters { self.reentrant.release() } else { self.lock.release() };
        released.expect("this thread's");
    }

    fn wait(&self, wait: Wait) -> Result<(), ConditionError> {
        if self.reenters {
            self.changed.wait_with(&mut &self.reentrant, wait)
        } else {
            self.changed.wait_with(&mut &self.lock, wait)
        }
    }

    /// Does what there is to do after a wait.
    fn after(&self, outcome: Result<(), ConditionError>) {
        assert!(
            if self.reenters { self.reentrant.is_owned() } else { self.lock.is_owned() },
            "without the lock after a wait"
        );
        match outcome {
            Ok(()) | Err(ConditionError::TimedOut) => {}
            Err(ConditionError::OwnerDied) => self.recover(),
            Err(error) => panic!("{error}"),
        }
    }

    fn owner(&self) -> Option<u32> {
        if self.reenters { self.reentrant.owner() } else { self.lock.owner() }
    }

    /// Returns whether a notification has taken place, though perhaps no process was woken yet.
    fn is_notified(&self) -> bool {
        self.is_notified.load(SeqCst) != 0 || self.is_done.load(SeqCst) != 0
    }

    /// Checks whether a notification has taken place. It can tell as long as no waiter has died:
    /// after that, a process that was woken for nothing notifies all.
    fn look_for_notification(&self) -> bool {
        let is_notified = word(&self.changed) & (SOME | ALL) != 0;
        self.is_notified.store(is_notified.into(), SeqCst);
        is_notified
    }

    fn has_returned(&self, least: u32) -> bool {
        self.returned.load(SeqCst) >= least
    }
}

/// Returns a case whose survivors notify all, after which no process waits any longer. Until then
/// `may_wait` says when waiting is fine. Waiting for the lock is fine, too.
fn case(name: &str, may_wait: impl Fn(&Board, &Moment) -> bool + 'static) -> Case<Board> {
    reentrant_case(name, false, may_wait)
}

fn reentrant_case(
    name: &str,
    reenters: bool,
    may_wait: impl Fn(&Board, &Moment) -> bool + 'static,
) -> Case<Board> {
    Case::new(format!("condition: {name}"), move || Board::new(reenters))
        .survivor(|board, _| {
            board.acquire();
            if board.is_over.load(SeqCst) == 0 {
                board.judged.store(board.returned.load(SeqCst), SeqCst);
            }
            board.is_over.store(1, SeqCst);
            board.changed.notify_all();
            board.release();
        })
        .observe(|board, victim| {
            board.look_for_notification();
            let is_owner = board.owner() == Some(victim);
            board.was_owner.store(is_owner.into(), SeqCst);
            is_owner.into()
        })
        .may_wait(move |board, now| {
            let is_owner = now.is_stopped && board.owner() == Some(now.victim);
            is_owner || board.is_over.load(SeqCst) == 0 && may_wait(board, now)
        })
        .check(|board, end| check(board, end, u32::MAX, 0))
}

/// `most`: the most waits of others that return. `known`: how many owners died before the victim.
fn check(board: &Board, end: &End, most: u32, known: u32) -> Result<(), String> {
    let [judged, deaths] = [&board.judged, &board.deaths].map(|count| count.load(SeqCst));
    let expected = known + u32::from(end.was_killed && end.observed == 1);
    if deaths != expected {
        return Err(format!("{deaths} were told that the owner died, and not {expected}"));
    }
    if judged > most {
        return Err(format!("{judged} waits have returned, and not {most}; {end:?}"));
    }
    Ok(())
}

/// Waits once, unless it is too late for that.
fn waiter(board: &Board, _: &Me) {
    board.acquire();
    if board.is_set.load(SeqCst) == 0 && board.is_over.load(SeqCst) == 0 {
        let outcome = board.wait(Wait::FOREVER);
        board.after(outcome);
        board.returned.fetch_add(1, SeqCst);
    }
    board.release();
}

fn later_waiter(board: &Board, me: &Me) {
    me.pause();
    waiter(board, me);
}

/// Notifies when the victim sleeps.
fn notifier(notify: fn(&Condition)) -> impl Fn(&Board, &Me) {
    move |board, me| {
        me.pause();
        board.acquire();
        board.is_set.store(1, SeqCst);
        board.release();
        notify(&board.changed);
        board.is_done.store(1, SeqCst);
    }
}

/// Notifies one when the victim sleeps, and keeps the lock until the victim sleeps again.
fn owning_notifier(board: &Board, me: &Me) {
    me.pause();
    board.acquire();
    board.is_set.store(1, SeqCst);
    board.changed.notify_one();
    board.is_done.store(1, SeqCst);
    me.pause();
    board.release();
}

const NOTIFIER_STOPPED: &str =
    "the stopped one has notified and woken nobody yet; the end of a slice finds it";
const NOTIFIED_DIED: &str = "it was notified and has died as it waited for the lock: what it is \
    owed others find after two slices";

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    notifying().into_iter().chain(waiting()).collect()
}

fn notifying() -> Vec<Box<dyn Subject>> {
    let notifies = |name: &str,
                    waiters: usize,
                    least: u32,
                    most: u32,
                    notify: fn(&Condition)|
     -> Box<dyn Subject> {
        let name = format!("{name}, {waiters} wait");
        // At least `least` waiters return. If the victim has died on the way, at least one does. If
        // the victim is stopped there, the waiters are not notified yet, unless it notifies all at
        // once.
        let may_wait = move |board: &Board, now: &Moment| {
            let is_done = board.is_done.load(SeqCst) != 0 || most == u32::MAX;
            !board.is_notified()
                || now.is_stopped && !is_done
                || board.has_returned(if is_done { least } else { least.min(1) })
        };
        let case = case(&name, may_wait)
            .companions(waiters, waiter)
            .victim(move |board, operation| {
                warm_up();
                operation.step(|| {
                    notify(&board.changed);
                    board.is_done.store(1, SeqCst);
                });
            })
            .check(move |board, end| {
                // If the victim dies on the way, one waiter is woken for nothing, and notifies all.
                let is_whole = end.was_completed || end.had_not_begun || !end.was_killed;
                check(board, end, if is_whole { most } else { u32::MAX }, 0)
            })
            .known_strand(Mode::Stop, NOTIFIER_STOPPED);
        Box::new(case)
    };
    let one: fn(&Condition) = Condition::notify_one;
    let two: fn(&Condition) = |condition| condition.notify(2);
    let all: fn(&Condition) = Condition::notify_all;
    vec![
        notifies("notify_one", 0, 0, 0, one),
        notifies("notify_one", 1, 1, 1, one),
        notifies("notify_one", 3, 1, 1, one),
        notifies("notify(2)", 1, 1, 1, two),
        notifies("notify(2)", 3, 2, 2, two),
        notifies("notify_all", 0, 0, 0, all),
        notifies("notify_all", 1, 1, u32::MAX, all),
        notifies("notify_all", 3, 3, u32::MAX, all),
        Box::new(
            case("notify_all with the lock, 2 wait", |board, _| !board.is_notified())
                .companions(2, waiter)
                .victim(|board, operation| {
                    warm_up();
                    board.acquire();
                    operation.step(|| board.changed.notify_all());
                    board.release();
                })
                .known_strand(Mode::Stop, NOTIFIER_STOPPED),
        ),
    ]
}

fn waits(case: Case<Board>) -> Case<Board> {
    case.victim(|board, operation| {
        warm_up();
        board.acquire();
        let outcome = operation.step(|| board.wait(Wait::FOREVER));
        board.after(outcome);
        board.release();
    })
}

/// Returns whether processes may wait. One of the others must return if the victim has died without
/// the lock, in a wait for which there was one notification.
fn until_one_returns(board: &Board, now: &Moment) -> bool {
    let has_victim_got_it = now.is_stopped || board.was_owner.load(SeqCst) != 0;
    !board.is_notified() || has_victim_got_it || board.has_returned(1)
}

fn until_notified(board: &Board, _: &Moment) -> bool {
    !board.is_notified()
}

/// Adds a companion that notifies when the victim sleeps, and dies as soon as it has done so: with
/// the lock, if it `owns` it then.
fn with_dying_notifier(case: Case<Board>, owns: bool, notify: fn(&Condition)) -> Case<Board> {
    let dies = move |board: &Board, operation: &Operation| {
        warm_up();
        operation.step(|| {
            if owns {
                // If the victim has the lock, this companion does without.
                let _ = board.lock.acquire(Wait::NONE);
            }
            board.is_set.store(1, SeqCst);
            notify(&board.changed);
            // Nothing was left to notify.
            board.is_done.store(1, SeqCst);
        });
    };
    case.dying(dies, |board| {
        board.is_set.load(SeqCst) != 0 && board.look_for_notification()
            || board.is_done.load(SeqCst) != 0
    })
}

fn waiting() -> Vec<Box<dyn Subject>> {
    let one: fn(&Condition) = Condition::notify_one;
    let all: fn(&Condition) = Condition::notify_all;
    vec![
        Box::new(waits(case("wait, notify_one", until_one_returns).companion(notifier(one)))),
        Box::new(
            waits(
                case("wait, notify_one, 2 wait behind", until_one_returns)
                    .companions(2, later_waiter)
                    .companion(notifier(one)),
            )
            .known_strand(Mode::Kill, NOTIFIED_DIED),
        ),
        Box::new(
            waits(
                case("wait, notify(3), 2 wait before", |board, _| {
                    !board.is_notified() || board.has_returned(2)
                })
                .companions(2, waiter)
                .companion(notifier(|condition| condition.notify(3))),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            waits(
                case("wait, notify_one with the lock, 2 wait behind", until_one_returns)
                    .companions(2, later_waiter)
                    .companion(owning_notifier),
            )
            .known_strand(Mode::Kill, NOTIFIED_DIED)
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            waits(
                case("wait, notify_all, 2 wait behind", until_notified)
                    .companions(2, later_waiter)
                    .companion(notifier(all)),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            waits(with_dying_notifier(
                case("wait, notify_one by one that dies, 2 wait behind", until_one_returns)
                    .companions(2, later_waiter),
                false,
                one,
            ))
            .known_strand(Mode::Kill, NOTIFIED_DIED),
        ),
        Box::new(
            waits(with_dying_notifier(
                case("wait, notify_all by one that dies, 2 wait behind", until_notified)
                    .companions(2, later_waiter),
                false,
                all,
            ))
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            waits(with_dying_notifier(
                case("wait, notify_all by an owner that dies, 2 wait behind", until_notified)
                    .companions(2, later_waiter),
                true,
                all,
            ))
            .check(|board, end| match check(board, end, u32::MAX, 1) {
                // The victim may have been told, and died before it had recovered. Then one report
                // stands for two deaths.
                Err(_) if end.observed == 1 => check(board, end, u32::MAX, 0),
                result => result,
            })
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
        Box::new(
            reentrant_case("wait, 2 deep, notify_one, 2 wait behind", true, until_one_returns)
                .companions(2, later_waiter)
                .companion(notifier(one))
                .victim(|board, operation| {
                    warm_up();
                    board.acquire();
                    board.acquire();
                    let outcome = operation.step(|| board.wait(Wait::FOREVER));
                    board.after(outcome);
                    assert_eq!(board.reentrant.depth(), 2, "the depth was lost");
                    board.release();
                    board.release();
                })
                .known_strand(Mode::Kill, NOTIFIED_DIED),
        ),
        Box::new(
            case("wait_timeout, 2 wait, expires", |_, _| true)
                .expires()
                .companions(2, waiter)
                .victim(|board, operation| {
                    warm_up();
                    board.acquire();
                    let outcome = operation.step(|| board.wait(Wait::timeout(EXPIRES)));
                    board.after(outcome);
                    board.release();
                }),
        ),
    ]
}
