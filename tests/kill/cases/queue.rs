//! `Queue`.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crossproc::{Queue, QueueError, QueueOptions};

use self::checks::check;
use self::companions::getter;
use self::operations::{
    closing, getting, getting_in_time, getting_many, putting, putting_in_time, putting_many,
    receiving, sending, trying_to_get, trying_to_put, trying_to_put_many,
};
use self::peers::{adopting, beside_a_peer};
use self::sleepers::{blocked, closing_cases, waking};
use super::queue_words::Words;
use super::{WAKER_STOPPED, warm_up};
use crate::harness::{Case, Mode, Moment, Operation, Subject};

mod checks;
mod companions;
mod operations;
mod peers;
mod sleepers;

/// The numbers of those that put and get.
const BEFORE: usize = 0;
const VICTIM: usize = 1;
const PEER: usize = 2;
const DYING: usize = 4;
const COMPANION: usize = 6;
const SURVIVOR: usize = 10;
const JUDGE: usize = 12;
const ALL: usize = 13;

const LOGGED: usize = 512;
/// The most rounds without an end: more are no progress.
const MOST_ROUNDS: usize = 10_000;
/// At least as many participants as there are processes.
const PARTICIPANTS: usize = 12;

/// The queue, and an account of it. An item consists of its producer and its number among that
/// producer's items, from 1 on.
struct Board {
    queue: Queue<u64>,
    words: Words,
    /// How many items each producer has put.
    put: [AtomicU64; ALL],
    /// The participant and the item of each get, in order for each participant.
    got: [AtomicU64; LOGGED],
    logged: AtomicUsize,
    /// How many items are lost with peers and companions that died.
    gone: AtomicU64,
    /// How many survivors have gone round.
    rounds: AtomicU32,
    /// A flag that a peer waits for, or sets.
    flag: AtomicU32,
}

/// What the operation under test does if it comes to its end without having slept.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Puts(u64),
    Takes(u64),
    Closes,
    Nothing,
}

/// What the survivors leave for the processes that still sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// An item: each process that gets one puts one.
    Item,
    /// Room: each process that puts an item gets one.
    Room,
    Closed,
}

impl Effect {
    /// Returns what lets the operation go on if no other process wants anything.
    fn needs(self) -> Leaves {
        if matches!(self, Effect::Puts(_)) { Leaves::Room } else { Leaves::Item }
    }
}

impl Board {
    fn new(capacity: usize) -> Self {
        let queue = QueueOptions::new()
            .participants(PARTICIPANTS)
            .create(capacity)
            .expect("there is memory");
        Board {
            words: Words::of(&queue),
            queue,
            put: [const { AtomicU64::new(0) }; ALL],
            got: [const { AtomicU64::new(0) }; LOGGED],
            logged: AtomicUsize::new(0),
            gone: AtomicU64::new(0),
            rounds: AtomicU32::new(0),
            flag: AtomicU32::new(0),
        }
    }

    /// Returns the next item of a producer.
    fn item(&self, who: usize) -> u64 {
        (who as u64) << 32 | (self.put[who].load(SeqCst) + 1)
    }

    fn note_puts(&self, who: usize, count: usize) {
        self.put[who].fetch_add(count as u64, SeqCst);
    }

    fn note_got(&self, who: usize, item: u64) {
        let at = self.logged.fetch_add(1, SeqCst);
        self.got[at].store((who as u64) << 48 | item, SeqCst);
    }

    /// Returns whether the item was put. A refusal without a valid reason is a failure.
    fn after_put<V>(&self, who: usize, result: Result<(), crossproc::PutError<V>>) -> bool {
        match result.map_err(|refused| refused.error) {
            Ok(()) => {
                self.note_puts(who, 1);
                true
            }
            Err(QueueError::Full | QueueError::Closed | QueueError::TimedOut) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn after_get(&self, who: usize, result: Result<u64, QueueError>) -> bool {
        match result {
            Ok(item) => {
                self.note_got(who, item);
                true
            }
            Err(QueueError::Empty | QueueError::Closed | QueueError::TimedOut) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn put(&self, who: usize) -> bool {
        self.after_put(who, self.queue.put(self.item(who)))
    }

    fn try_put(&self, who: usize) -> bool {
        self.after_put(who, self.queue.try_put(self.item(who)))
    }

    fn get(&self, who: usize) -> bool {
        self.after_get(who, self.queue.get())
    }

    fn try_get(&self, who: usize) -> bool {
        self.after_get(who, self.queue.try_get())
    }

    fn drain(&self, who: usize) -> usize {
        (0..MOST_ROUNDS).take_while(|_| self.try_get(who)).count()
    }

    /// Becomes a participant, and does nothing else.
    fn take_part(&self) {
        warm_up();
        drop(self.queue.loan().expect("there are few participants"));
    }

    /// Makes two laps or more: as many puts as gets, if no other process is faster. The others may
    /// have died, or be stopped, anywhere: this does not wait for them.
    fn go_round(&self, who: usize) {
        let most = 2 * self.queue.capacity();
        let (mut puts, mut gets) = (0, 0);
        for _ in 0..MOST_ROUNDS {
            if self.queue.is_closed() {
                self.drain(who);
                return;
            }
            puts += usize::from(self.try_put(who));
            gets += usize::from(self.try_get(who));
            if puts >= most && gets >= most {
                return;
            }
        }
        panic!("no progress: {puts} puts, {gets} gets");
    }
}

/// Returns a case whose queue has gone round by `shift` puts and gets, and then has `items` items.
fn case(
    name: &str,
    capacity: usize,
    shift: usize,
    items: usize,
    effect: Effect,
    leaves: Leaves,
) -> Case<Board> {
    let name = format!(
        "queue: {name} [{items} of {capacity}{}]",
        if shift == 0 { "" } else { ", wrapped" }
    );
    Case::new(name, move || Board::new(capacity))
        .before(move |board| {
            for _ in 0..shift {
                board.put(BEFORE);
                board.get(BEFORE);
            }
            (0..items).for_each(|_| assert!(board.try_put(BEFORE), "there is room"));
        })
        .survivor(move |board, me| {
            board.go_round(SURVIVOR + me.index);
            board.rounds.fetch_add(1, SeqCst);
            if me.index == 0 {
                while board.rounds.load(SeqCst) < 2 {
                    thread::yield_now();
                }
                leave(board, leaves);
            }
        })
        .may_wait(move |board, now| may_wait(board, now, leaves))
        .check(move |board, end| check(board, end, effect))
}

fn leave(board: &Board, leaves: Leaves) {
    match leaves {
        Leaves::Item => {
            board.try_put(SURVIVOR);
        }
        Leaves::Room => {
            board.drain(SURVIVOR);
        }
        Leaves::Closed => {
            board.queue.close().expect("a participant");
            board.drain(SURVIVOR);
            // The sealed entry may lie before that of a put that is on its way. Then that put is
            // told.
            board
                .flag
                .store(u32::from(matches!(board.queue.try_get(), Err(QueueError::Closed))), SeqCst);
        }
    }
}

fn may_wait(board: &Board, _: &Moment, leaves: Leaves) -> bool {
    let (has_item, has_room) = (board.words.has_item(), board.words.has_room());
    let is_closed = board.queue.is_closed();
    !is_closed
        && match leaves {
            Leaves::Item => !has_item,
            Leaves::Room => !has_room,
            Leaves::Closed => !has_item || !has_room,
        }
}

/// Returns a case whose victim takes part before the operation.
fn on(case: Case<Board>, operate: impl Fn(&Board, &Operation) + 'static) -> Case<Board> {
    case.victim(move |board, operation| {
        board.take_part();
        operate(board, operation);
    })
}

type Operate = fn(&Board, &Operation, usize);

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    [alone(), blocked(), waking(), closing_cases(), beside_a_peer(), adopting()]
        .into_iter()
        .flatten()
        .collect()
}

fn victim(case: Case<Board>, operate: Operate) -> Case<Board> {
    on(case, move |board, operation| operate(board, operation, VICTIM))
}

/// No process sleeps, and no other process is in the middle of an operation.
fn alone() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    let mut add = |name: &str, operate: Operate, effect: fn(usize, usize) -> Effect| {
        for (capacity, shift, items) in
            [(1, 0, 0), (1, 0, 1), (2, 5, 1), (3, 7, 0), (3, 7, 3), (2, 1, 2)]
        {
            let effect = effect(capacity, items);
            let sleeps = matches!(effect, Effect::Nothing) && !name.starts_with("try");
            if !sleeps {
                cases.push(Box::new(victim(
                    case(name, capacity, shift, items, effect, effect.needs()),
                    operate,
                )));
            }
        }
    };
    let one_put =
        |capacity, items| if items < capacity { Effect::Puts(1) } else { Effect::Nothing };
    let one_got = |_, items| if items > 0 { Effect::Takes(1) } else { Effect::Nothing };
    add("put", putting, one_put);
    add("try_put", trying_to_put, one_put);
    add("get", getting, one_got);
    add("try_get", trying_to_get, one_got);
    add("put_many(2)", putting_many::<2>, |capacity, items| {
        if items + 2 <= capacity { Effect::Puts(2) } else { Effect::Nothing }
    });
    add("try_put_many(3)", trying_to_put_many::<3>, |capacity, items| {
        Effect::Puts((capacity - items).min(3) as u64)
    });
    add("get_many(2)", getting_many::<2>, |_, items| {
        if items > 0 { Effect::Takes(items.min(2) as u64) } else { Effect::Nothing }
    });
    add("send", sending, one_put);
    add("receive", receiving, one_got);
    add("close", closing, |_, _| Effect::Closes);
    // The first operation of a participant, with a new id, and with the id of a dead participant.
    for shift in [0, 1] {
        let case = case("put, the first operation", 2, shift, 0, Effect::Puts(1), Leaves::Room);
        cases.push(Box::new(case.victim(|board, operation| {
            warm_up();
            putting(board, operation, VICTIM);
        })));
    }
    cases.push(Box::new(
        case("put_timeout, expires", 1, 0, 1, Effect::Nothing, Leaves::Room)
            .expires()
            .victim(|board, operation| {
                board.take_part();
                putting_in_time(board, operation, VICTIM);
            })
            .known_strand(Mode::Stop, WAKER_STOPPED),
    ));
    cases.push(Box::new(
        case("get_timeout, 2 sleep, expires", 2, 1, 0, Effect::Nothing, Leaves::Item)
            .expires()
            .companions(2, getter)
            .victim(|board, operation| {
                board.take_part();
                getting_in_time(board, operation, VICTIM);
            })
            .known_strand(Mode::Stop, WAKER_STOPPED),
    ));
    cases
}
