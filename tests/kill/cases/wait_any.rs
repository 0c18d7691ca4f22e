//! `wait_any`, beside processes that wait in the ordinary way for the same thing.

use core::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crossproc::{
    Event, Lock, Queue, QueueOptions, Semaphore, Waitable, try_wait_any, wait_any, wait_any_timeout,
};

use super::{EXPIRES, warm_up};
use crate::harness::{Case, End, Me, Mode, Operation, Subject};

struct Board {
    event: Event,
    semaphore: Semaphore,
    queue: Queue<u64>,
    lock: Lock<u64>,
    /// Released less acquired, and put less got, by all but the operation under test.
    balance: AtomicI64,
    /// What the operation under test has added, if it has returned.
    victims: AtomicI64,
    /// How many processes are about to lock.
    lockers: AtomicI64,
}

/// What the others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Permit,
    Item,
    Lock,
}

const WAKER_STOPPED: &str = "the stopped one has released and woken nobody yet, or was woken for \
    one that has died and has not woken the others; the next to release wakes";

impl Board {
    fn new() -> Self {
        Board {
            event: Event::new(),
            semaphore: Semaphore::new(0),
            queue: QueueOptions::new().participants(12).create(32).expect("there is memory"),
            lock: Lock::new(0),
            balance: AtomicI64::new(0),
            victims: AtomicI64::new(0),
            lockers: AtomicI64::new(0),
        }
    }

    fn take(&self, kind: Kind) {
        match kind {
            Kind::Permit => self.semaphore.acquire(),
            Kind::Item => assert_eq!(self.queue.get().expect("an item"), 7),
            Kind::Lock => {
                self.lockers.fetch_add(1, SeqCst);
                self.pass();
                self.lockers.fetch_sub(1, SeqCst);
                return;
            }
        }
        self.balance.fetch_sub(1, SeqCst);
    }

    fn give(&self, kind: Kind) {
        if kind != Kind::Lock {
            self.balance.fetch_add(1, SeqCst);
            self.add(kind);
        }
    }

    fn add(&self, kind: Kind) {
        match kind {
            Kind::Permit => self.semaphore.release().expect("few permits"),
            _ => self.queue.put(7).expect("there is room"),
        }
    }

    /// Locks and unlocks.
    fn pass(&self) {
        drop(self.lock.lock_or_repair(|_| ()).unwrap());
    }

    fn count(&self) -> i64 {
        i64::from(self.semaphore.value()) + self.queue.len() as i64
    }

    fn is_there(&self, kind: Kind) -> bool {
        match kind {
            Kind::Permit => self.semaphore.value() != 0,
            Kind::Item => !self.queue.is_empty(),
            // A watcher of an owner's death waits on while there is no owner.
            Kind::Lock => {
                self.lock.owner().is_none()
                    && (self.lockers.load(SeqCst) != 0
                        || try_wait_any(&[&self.lock.owner_death()]).is_ok())
            }
        }
    }

    /// Waits for all of it, beginning with what the others wait for.
    fn wait(&self, kind: Kind) {
        let death = self.lock.owner_death();
        let mut all: [&dyn Waitable; 4] = [&self.semaphore, &self.queue, &death, &self.event];
        all[..2].rotate_left(usize::from(kind == Kind::Item));
        // A lock among them would be the pending word, so it is left out where it is not the
        // subject.
        let all = if kind == Kind::Lock { &all[..] } else { &[all[0], all[1], &self.event] };
        drop(wait_any(all).expect("there is memory"));
    }
}

/// Returns a case whose operation adds all of `effect` or nothing. The survivors give what sleepers
/// still wait for, set the event, and give and take one more each.
fn case(name: &str, kind: Kind, effect: i64) -> Case<Board> {
    Case::new(format!("wait_any: {name}"), Board::new)
        .survivor(move |board, me| {
            if me.index == 0 {
                for _ in 0..=me.unfinished() {
                    board.give(kind);
                }
                board.event.set();
            }
            board.give(kind);
            board.take(kind);
        })
        .may_wait(move |board, _| !board.is_there(kind))
        .check(move |board, end| check(board, end, effect))
}

fn check(board: &Board, end: &End, effect: i64) -> Result<(), String> {
    let done = board.count() - board.balance.load(SeqCst);
    let is_right = match (end.was_killed, end.had_not_begun, end.was_completed) {
        (false, _, _) => done == board.victims.load(SeqCst),
        (true, true, _) => done == 0,
        (true, false, true) => done == effect,
        (true, false, false) => done == effect || done == 0,
    };
    if is_right {
        Ok(())
    } else {
        Err(format!("{} there at the end, {done} too many; {end:?}", board.count()))
    }
}

/// Does what a thread does at its first operations only.
fn prepare(board: &Board) {
    warm_up();
    drop(board.queue.loan());
    drop(wait_any_timeout(
        &[&board.semaphore, &board.queue, &board.lock.owner_death()],
        core::time::Duration::from_micros(50),
    ));
}

fn taker(kind: Kind) -> impl Fn(&Board, &Me) + Clone {
    move |board, _| board.take(kind)
}

fn later_taker(kind: Kind) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        me.pause();
        board.take(kind);
    }
}

/// Holds the lock until the victim sleeps, if that is the kind. Otherwise, gives `count` then.
fn giver(kind: Kind, count: u32) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        let guard = (kind == Kind::Lock).then(|| board.lock.lock());
        drop(board.queue.loan());
        me.pause();
        (0..count).for_each(|_| board.give(kind));
        if guard.is_some() {
            drop(guard);
            // Otherwise nothing that watchers wait for happens.
            board.event.set();
        }
    }
}

fn watcher(kind: Kind) -> impl Fn(&Board, &Me) + Clone {
    move |board, _| board.wait(kind)
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    [Kind::Permit, Kind::Item, Kind::Lock]
        .into_iter()
        .flat_map(|kind| waiting(kind).into_iter().chain(giving(kind)))
        .collect()
}

fn waiting(kind: Kind) -> Vec<Box<dyn Subject>> {
    let waits = |case: Case<Board>| {
        case.victim(move |board, operation| {
            prepare(board);
            operation.step(|| board.wait(kind));
        })
    };
    let named = |name: &str| case(&format!("{kind:?}, {name}"), kind, 0);
    // One more is given than is taken: the watchers see that one.
    let mut cases: Vec<Box<dyn Subject>> = vec![
        Box::new(waits(
            named("then given, 2 sleep before")
                .companion(giver(kind, 3))
                .companions(2, taker(kind)),
        )),
        Box::new(waits(
            named("then given, 2 sleep behind")
                .companion(giver(kind, 3))
                .companions(2, later_taker(kind)),
        )),
        Box::new(waits(
            named("then given, another watches, 1 sleeps")
                .companion(giver(kind, 2))
                .companion(watcher(kind))
                .companion(taker(kind)),
        )),
        Box::new(
            named("expires, 2 sleep")
                .expires()
                .companion(giver(kind, 1))
                .companions(2, taker(kind))
                .victim(move |board, operation| {
                    prepare(board);
                    let all: [&dyn Waitable; 3] = [&board.event, &board.semaphore, &board.queue];
                    drop(operation.step(|| wait_any_timeout(&all, EXPIRES)));
                }),
        ),
    ];
    if kind != Kind::Lock {
        let dies = move |board: &Board, operation: &Operation| {
            prepare(board);
            board.balance.fetch_add(1, SeqCst);
            operation.step(|| board.add(kind));
        };
        cases.push(Box::new(
            waits(
                named("then given by one that dies, another watches")
                    .companion(watcher(kind))
                    .dying(dies, move |board| board.is_there(kind)),
            )
            .known_strand(Mode::Stop, WAKER_STOPPED),
        ));
    }
    cases
}

fn giving(kind: Kind) -> Vec<Box<dyn Subject>> {
    let gives = move |case: Case<Board>| -> Box<dyn Subject> {
        let case = case.victim(move |board, operation| {
            prepare(board);
            match kind {
                Kind::Lock => {
                    let guard = board.lock.lock();
                    operation.step(|| drop(guard));
                    board.event.set();
                }
                _ => {
                    operation.step(|| board.add(kind));
                    board.victims.store(1, SeqCst);
                }
            }
        });
        Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
    };
    let named =
        |name: &str| case(&format!("{kind:?}, {name}"), kind, i64::from(kind != Kind::Lock));
    vec![
        gives(named("given, 1 watches").companion(watcher(kind))),
        gives(
            named("given, 1 watches before 1 that sleeps")
                .companion(watcher(kind))
                .companion(taker(kind)),
        ),
        gives(
            named("given, 1 sleeps before 1 that watches")
                .companion(taker(kind))
                .companion(watcher(kind)),
        ),
    ]
}
