//! `BatchQueue`: batches of up to three.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crossproc::{BatchQueue, QueueError, QueueOptions};

use super::{WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Mode, Operation, Subject};

/// Those that get.
const VICTIM: u64 = 1;
const COMPANION: u64 = 2;
const SURVIVOR: u64 = 4;
const JUDGE: u64 = 6;

const LOGGED: usize = 256;
/// The first number of each producer's items: those of the start, the victim's, the survivors'.
const OF_VICTIM: u64 = 100;
const OF_SURVIVORS: u64 = 200;
const PRODUCERS: usize = 3;

/// The queue, and an account of it. Numbers below `OF_VICTIM` were there at the start.
struct Board {
    queue: BatchQueue<u64>,
    /// How many items each producer has put, as far as it knows.
    put: [AtomicU64; PRODUCERS],
    /// Who got which item, in order for each of them.
    got: [AtomicU64; LOGGED],
    logged: AtomicUsize,
    /// How many survivors have gone round.
    rounds: AtomicU32,
}

/// How many items the operation under test puts, or gets.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Puts(u64),
    Gets(u64),
}

impl Board {
    fn note(&self, who: u64, items: &[u64]) {
        for item in items {
            self.got[self.logged.fetch_add(1, SeqCst)].store(who << 32 | item, SeqCst);
        }
    }

    fn note_put(&self, producer: usize, count: usize) {
        self.put[producer].fetch_add(count as u64, SeqCst);
    }

    /// Puts a survivor's batch. Those that sleep are at most three, and so they get an item each.
    fn put_batch(&self, lap: u64) {
        let first = OF_SURVIVORS + 3 * lap;
        self.queue.try_put_many(&[first, first + 1, first + 2]).expect("there is room");
        self.note_put(2, 3);
    }

    /// Gets all that is there, in all ways.
    fn drain(&self, who: u64) {
        for round in 0.. {
            let mut items = Vec::new();
            let result = match round % 3 {
                0 => self.queue.try_get().map(|item| items.push(item)),
                1 => self.queue.try_get_many(&mut items, 2).map(drop),
                _ => self.queue.try_receive().map(|batch| items.extend_from_slice(&batch)),
            };
            self.note(who, &items);
            match result {
                Ok(()) => {}
                Err(QueueError::Empty) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Returns a case that begins with batches of these lengths, in a queue for two.
fn case(name: &str, lengths: &'static [u64], effect: Effect) -> Case<Board> {
    let make = || Board {
        queue: QueueOptions::new().participants(12).create_batches(2, 3).expect("there is memory"),
        put: [const { AtomicU64::new(0) }; PRODUCERS],
        got: [const { AtomicU64::new(0) }; LOGGED],
        logged: AtomicUsize::new(0),
        rounds: AtomicU32::new(0),
    };
    Case::new(format!("batches: {name} {lengths:?}"), make)
        .before(move |board| {
            let mut next = 1;
            for length in lengths {
                let batch: Vec<u64> = (next..next + length).collect();
                board.queue.try_put_many(&batch).expect("there is room");
                next += length;
                board.note_put(0, batch.len());
            }
        })
        .survivor(|board, me| {
            let who = SURVIVOR + me.index as u64;
            board.drain(who);
            if me.index == 0 {
                // Two laps.
                for lap in 0..4 {
                    board.put_batch(lap);
                    board.drain(who);
                }
            }
            board.rounds.fetch_add(1, SeqCst);
            if me.index == 0 {
                while board.rounds.load(SeqCst) < 2 {
                    thread::yield_now();
                }
                // For the victim, and for those that still sleep.
                board.put_batch(4);
            }
        })
        .may_wait(|board, _| board.queue.is_empty())
        .check(move |board, end| check(board, end, effect))
}

fn check(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    board.drain(JUDGE);
    let mut last = [[0; PRODUCERS]; JUDGE as usize + 1];
    let mut counts = [0; PRODUCERS];
    let mut seen = std::collections::BTreeSet::new();
    for logged in &board.got[..board.logged.load(SeqCst)] {
        let logged = logged.load(SeqCst);
        let (who, item) = ((logged >> 32) as usize, logged & 0xffff_ffff);
        let producer = match item {
            1..OF_VICTIM => 0,
            OF_VICTIM..OF_SURVIVORS => 1,
            _ => 2,
        };
        if !seen.insert(item) {
            return Err(format!("{who} got {item}, which was got before"));
        }
        if item <= last[who][producer] {
            return Err(format!("{who} got {item} after {}", last[who][producer]));
        }
        last[who][producer] = item;
        counts[producer] += 1;
    }
    let mut missing = 0;
    for (producer, count) in counts.into_iter().enumerate() {
        let put = board.put[producer].load(SeqCst);
        match effect {
            // Its one batch is there as a whole, or not at all.
            Effect::Puts(all) if producer == 1 && end.was_killed => {
                let is_right = match (end.had_not_begun, end.was_completed) {
                    (true, _) => count == 0,
                    (_, true) => count == all,
                    _ => count == 0 || count == all,
                };
                if !is_right {
                    return Err(format!("{count} of the victim's items; {end:?}"));
                }
            }
            _ if count > put => return Err(format!("{count} items of {put}")),
            _ => missing += put - count,
        }
    }
    let is_right = match (effect, end.was_killed) {
        (Effect::Gets(all), true) => match (end.had_not_begun, end.was_completed) {
            (true, _) => missing == 0,
            (_, true) => missing == all,
            _ => missing <= all,
        },
        _ => missing == 0,
    };
    if is_right { Ok(()) } else { Err(format!("{missing} items are missing; {end:?}")) }
}

type Operate = fn(&Board, &Operation);

/// Returns the case with a victim that takes part before the operation.
fn by(case: Case<Board>, operate: Operate) -> Case<Board> {
    case.victim(move |board, operation| {
        warm_up();
        assert!(board.queue.try_get_many(&mut Vec::new(), 0).is_ok());
        operate(board, operation);
    })
}

fn get(board: &Board, operation: &Operation) {
    let item = operation.step(|| board.queue.get()).expect("there is one");
    board.note(VICTIM, &[item]);
}

fn get_many<const N: usize>(board: &Board, operation: &Operation) {
    let mut items = Vec::with_capacity(8);
    let _ = operation.step(|| board.queue.get_many(&mut items, N));
    board.note(VICTIM, &items);
}

fn receive(board: &Board, operation: &Operation) {
    let batch = operation.step(|| board.queue.receive()).expect("there is one");
    board.note(VICTIM, &batch);
}

fn put_many(board: &Board, operation: &Operation) {
    let batch = [OF_VICTIM, OF_VICTIM + 1, OF_VICTIM + 2];
    if operation.step(|| board.queue.put_many(&batch)).is_ok() {
        board.note_put(1, 3);
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let alone: [(&str, &[u64], Effect, Operate); 8] = [
        ("get", &[3], Effect::Gets(1), get),
        ("get, the last", &[1, 2], Effect::Gets(1), get),
        ("get_many(2)", &[3], Effect::Gets(2), get_many::<2>),
        ("get_many(2)", &[2, 3], Effect::Gets(2), get_many::<2>),
        ("get_many(4)", &[3, 3], Effect::Gets(4), get_many::<4>),
        ("receive", &[3, 1], Effect::Gets(3), receive),
        ("put_many(3)", &[], Effect::Puts(3), put_many),
        ("put_many(3)", &[2], Effect::Puts(3), put_many),
    ];
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for (name, lengths, effect, operate) in alone {
        cases.push(Box::new(by(case(name, lengths, effect), operate)));
    }
    // Each of those that sleep gets an item of the batch.
    cases.push(Box::new(
        by(case("put_many(3), 2 sleep", &[], Effect::Puts(3)), put_many)
            .companions(2, |board, me| {
                let item = board.queue.get().expect("there is one");
                board.note(COMPANION + me.index as u64, &[item]);
            })
            .known_strand(Mode::Stop, WAKER_STOPPED),
    ));
    cases
}
