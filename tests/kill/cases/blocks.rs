//! `ByteQueue` with long messages, which lie in blocks: three units in all, and messages of one or
//! two.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crossproc::{ByteQueue, QueueError, QueueOptions};

use super::{WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Mode, Moment, Operation, Subject};

/// A message of one unit, and of two. The second is never copied: each of its bytes would be a
/// point.
const ONE: usize = 24;
const TWO: usize = 5_000;
const UNIT: usize = 4_096;
const UNITS: usize = 3;

/// The numbers of the messages: those of the start, the victim's, a companion's, the survivors'.
const OF_VICTIM: u64 = 100;
const OF_COMPANION: u64 = 200;
const OF_SURVIVORS: u64 = 300;
const PRODUCERS: usize = 4;
const LOGGED: usize = 256;

/// The queue, and an account of it. Each message has its number at the beginning and at the end.
struct Board {
    queue: ByteQueue,
    /// How many messages each producer has put, as far as it knows.
    put: [AtomicU64; PRODUCERS],
    /// How often each message was got.
    got: [AtomicU64; LOGGED],
    logged: AtomicUsize,
    /// How many survivors have gone round.
    rounds: AtomicU32,
    /// How many companions wait for memory.
    waiting: AtomicU32,
}

/// What the operation under test does.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Puts,
    Gets,
    Nothing,
}

fn producer_of(number: u64) -> usize {
    match number {
        0..OF_VICTIM => 0,
        OF_VICTIM..OF_COMPANION => 1,
        OF_COMPANION..OF_SURVIVORS => 2,
        _ => 3,
    }
}

fn write(message: &mut [u8], number: u64) {
    let bytes = number.to_le_bytes();
    *message.first_chunk_mut().expect("it is long enough") = bytes;
    *message.last_chunk_mut().expect("it is long enough") = bytes;
}

/// Returns the number of a message, which must be there as a whole.
fn number_of(message: &[u8]) -> u64 {
    let ends = (message.first_chunk(), message.last_chunk());
    let (Some(first), Some(last)) = ends else { panic!("it is too short") };
    assert_eq!(first, last, "a message of several");
    u64::from_le_bytes(*first)
}

impl Board {
    fn new() -> Self {
        let options = QueueOptions::new().participants(12).long_messages(TWO, UNITS * UNIT);
        Board {
            queue: options.create_bytes(2, 16).expect("there is memory"),
            put: [const { AtomicU64::new(0) }; PRODUCERS],
            got: [const { AtomicU64::new(0) }; LOGGED],
            logged: AtomicUsize::new(0),
            rounds: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    fn note_put(&self, number: u64) {
        self.put[producer_of(number)].fetch_add(1, SeqCst);
    }

    fn note_got(&self, number: u64) {
        self.got[self.logged.fetch_add(1, SeqCst)].store(number, SeqCst);
    }

    /// Gets all that is there, in both ways.
    fn drain(&self) {
        for round in 0.. {
            let got = match round % 2 {
                0 => self.queue.try_get().map(|bytes| number_of(&bytes)),
                _ => self.queue.try_receive().map(|bytes| number_of(&bytes)),
            };
            match got {
                Ok(number) => self.note_got(number),
                Err(QueueError::Empty) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn send(&self, number: u64, len: usize) -> Result<(), QueueError> {
        let mut loan = self.queue.loan(len)?;
        write(&mut loan, number);
        loan.send().map_err(|refused| refused.error)
    }

    /// Puts a message if there is room and memory.
    fn try_put(&self, number: u64, len: usize) {
        let put = self.queue.try_loan(len).and_then(|mut loan| {
            write(&mut loan, number);
            loan.try_send().map_err(|refused| refused.error)
        });
        match put {
            Ok(()) => self.note_put(number),
            Err(QueueError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns a case that begins with messages of these lengths, in a queue for two.
fn case(name: &str, lengths: &'static [usize], effect: Effect) -> Case<Board> {
    Case::new(format!("blocks: {name} {lengths:?}"), Board::new)
        .before(move |board| {
            for (number, &len) in lengths.iter().enumerate() {
                board.try_put(number as u64, len);
            }
        })
        .survivor(|board, me| {
            board.drain();
            if me.index == 0 {
                // A stopped victim may have some of the memory.
                for (lap, len) in [ONE, TWO, ONE, TWO, ONE].into_iter().enumerate() {
                    board.try_put(OF_SURVIVORS + lap as u64, len);
                    board.drain();
                }
            }
            board.rounds.fetch_add(1, SeqCst);
            if me.index == 0 {
                while board.rounds.load(SeqCst) < 2 {
                    thread::yield_now();
                }
                // For a victim that waits for a message.
                board.try_put(OF_SURVIVORS + 10, ONE);
            }
        })
        .may_wait(|board, moment| may_wait(board, *moment))
        .check(move |board, end| check(board, end, effect))
}

/// Whether a companion may wait for memory.
fn may_wait(board: &Board, moment: Moment) -> bool {
    !board.queue.is_empty() || moment.is_stopped || board.waiting.load(SeqCst) == 0
}

fn check(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    board.drain();
    let mut counts = [0; PRODUCERS];
    let mut seen = std::collections::BTreeSet::new();
    for number in &board.got[..board.logged.load(SeqCst)] {
        let number = number.load(SeqCst);
        if !seen.insert(number) {
            return Err(format!("{number} was got twice"));
        }
        counts[producer_of(number)] += 1;
    }
    let put = board.put.each_ref().map(|put| put.load(SeqCst));
    let missing = put.iter().sum::<u64>() as i64 - counts.iter().sum::<u64>() as i64;
    let is_right = match (effect, end.was_killed) {
        (Effect::Gets, true) => (0..=1).contains(&missing),
        // It may have put what it could not note.
        (Effect::Puts, true) => (-1..=0).contains(&missing) && counts[1] <= 1,
        _ => missing == 0,
    };
    if !is_right {
        return Err(format!("{missing} messages are missing: {counts:?} of {put:?}; {end:?}"));
    }
    // All of the memory is free.
    let loans: Vec<_> = (0..UNITS).map(|_| board.queue.try_loan(ONE)).collect();
    if let Some(Err(error)) = loans.iter().find(|loan| loan.is_err()) {
        return Err(format!("memory is lost: {error}"));
    }
    Ok(())
}

type Operate = fn(&Board, &Operation);

/// Returns the case with a victim that takes part before the operation.
fn by(case: Case<Board>, operate: Operate) -> Case<Board> {
    case.victim(move |board, operation| {
        warm_up();
        drop(board.queue.loan(0));
        operate(board, operation);
    })
}

fn put(board: &Board, operation: &Operation) {
    let mut message = [0; ONE];
    write(&mut message, OF_VICTIM);
    if operation.step(|| board.queue.put(&message)).is_ok() {
        board.note_put(OF_VICTIM);
    }
}

fn send(board: &Board, operation: &Operation) {
    if operation.step(|| board.send(OF_VICTIM, TWO)).is_ok() {
        board.note_put(OF_VICTIM);
    }
}

fn give_up_a_loan(board: &Board, operation: &Operation) {
    let _ = operation.step(|| board.queue.loan(TWO).map(drop));
}

fn get(board: &Board, operation: &Operation) {
    let bytes = operation.step(|| board.queue.get()).expect("there is one");
    board.note_got(number_of(&bytes));
}

fn receive(board: &Board, operation: &Operation) {
    operation.begin();
    let received = board.queue.receive().expect("there is one");
    let number = number_of(&received);
    drop(received);
    operation.end();
    board.note_got(number);
}

/// Two blocks are free, and each keeps something.
fn reclaim(board: &Board, operation: &Operation) {
    let loans = [board.queue.try_loan(ONE), board.queue.try_loan(ONE), board.queue.try_loan(ONE)];
    drop(loans);
    send(board, operation);
}

fn shrink(board: &Board, operation: &Operation) {
    drop(board.queue.try_loan(TWO));
    put(board, operation);
}

fn trim(board: &Board, operation: &Operation) {
    drop([board.queue.try_loan(ONE), board.queue.try_loan(TWO)]);
    operation.step(|| board.queue.trim()).expect("pages can be freed");
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let alone: [(&str, &[usize], Effect, Operate); 9] = [
        ("put", &[], Effect::Puts, put),
        ("loan, send", &[ONE], Effect::Puts, send),
        ("loan, drop", &[ONE], Effect::Nothing, give_up_a_loan),
        ("get", &[ONE], Effect::Gets, get),
        ("receive, drop", &[TWO, ONE], Effect::Gets, receive),
        ("loan, send, others keep the memory", &[], Effect::Puts, reclaim),
        ("put, the block keeps more", &[], Effect::Puts, shrink),
        ("trim", &[], Effect::Nothing, trim),
        ("try_loan, no memory", &[TWO], Effect::Nothing, |board, operation| {
            // There is some if another process has got the message, while this one was stopped.
            let _ = operation.step(|| board.queue.try_loan(TWO).map(drop));
        }),
    ];
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for (name, lengths, effect, operate) in alone {
        cases.push(Box::new(by(case(name, lengths, effect), operate)));
    }
    // One waits for the memory of the first message.
    let waker = case("receive, drop, 1 waits for memory", &[TWO], Effect::Gets);
    cases.push(Box::new(waiting(by(waker, receive)).known_strand(Mode::Stop, WAKER_STOPPED)));
    // The victim has the memory, and one waits for it.
    let holder = case("drop of a loan, 1 waits for memory", &[], Effect::Nothing);
    let holder = holder.victim(|board, operation| {
        warm_up();
        let loan = board.queue.try_loan(TWO).expect("there is memory");
        operation.step(|| drop(loan));
    });
    cases.push(Box::new(waiting(holder).known_strand(Mode::Stop, WAKER_STOPPED)));
    // The victim waits for it, until another process gets the message.
    let waiter = case("loan, send, sleeps", &[TWO], Effect::Puts).companion(|board, me| {
        me.pause();
        board.drain();
    });
    cases.push(Box::new(by(waiter, send)));
    cases
}

/// Returns the case with a companion that waits for memory.
fn waiting(case: Case<Board>) -> Case<Board> {
    case.companion(|board, _| {
        board.waiting.fetch_add(1, SeqCst);
        board.send(OF_COMPANION, TWO).expect("the queue is open");
        board.note_put(OF_COMPANION);
        board.waiting.fetch_sub(1, SeqCst);
    })
}
