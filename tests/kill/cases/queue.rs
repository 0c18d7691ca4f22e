//! `Queue`.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::os::fd::AsFd;
use std::thread;

use crossproc::{Queue, QueueError, QueueOptions};

use super::queue_words::{Stage, Words};
use super::{EXPIRES, WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Fate, Me, Mode, Moment, Operation, Subject};

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

fn check(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    // As many participants as there ever were take over all that the dead have left.
    let all: Vec<Queue<u64>> = (0..board.words.used())
        .map(|_| {
            let queue: Queue<u64> =
                Queue::attach(board.queue.as_fd().try_clone_to_owned().expect("descriptors"))
                    .expect("it is a queue");
            drop(queue.loan().expect("nobody else takes part"));
            queue
        })
        .collect();
    board.words.check_slots()?;
    drop(all);
    if board.queue.is_closed() && board.flag.load(SeqCst) != 0 && !board.queue.is_empty() {
        return Err("there is an item, though somebody was told that there never will be".into());
    }
    check_capacity(board)?;
    if matches!(effect, Effect::Closes)
        && (!end.was_killed || end.was_completed)
        && !board.queue.is_closed()
    {
        return Err(format!("it is not closed; {end:?}"));
    }
    check_items(board, end, effect)
}

/// Checks that nothing obstructs the queue, and that as many items fit as ever.
fn check_capacity(board: &Board) -> Result<(), String> {
    let capacity = board.queue.capacity();
    for _ in 0..3 {
        if !board.queue.is_closed() {
            for _ in 0..=capacity {
                board.try_put(JUDGE);
            }
            if board.queue.len() != capacity || board.try_put(JUDGE) {
                return Err(format!("{} items when full", board.queue.len()));
            }
        }
        let count = board.drain(JUDGE);
        let expected = if board.queue.is_closed() { board.queue.len() + count } else { capacity };
        if count != expected || !board.queue.is_empty() {
            return Err(format!("{count} items of {expected}, {} left", board.queue.len()));
        }
    }
    Ok(())
}

/// Checks that no item of the living is lost, doubled or out of order, and that the operation under
/// test was done as a whole or not at all.
fn check_items(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    let mut last = [[0; ALL]; ALL];
    let mut counts = [0_u64; ALL];
    let mut seen = std::collections::BTreeSet::new();
    for logged in &board.got[..board.logged.load(SeqCst)] {
        let logged = logged.load(SeqCst);
        let (who, producer, number) =
            ((logged >> 48) as usize, (logged >> 32) as usize & 0xffff, logged & 0xffff_ffff);
        if producer >= ALL || number == 0 || !seen.insert((producer, number)) {
            return Err(format!(
                "{who} got {number} of {producer}, which was got before or never put"
            ));
        }
        if number <= last[who][producer] {
            return Err(format!("{who} got {number} of {producer} after {}", last[who][producer]));
        }
        last[who][producer] = number;
        counts[producer] += 1;
    }
    let mut missing = 0;
    for (producer, &count) in counts.iter().enumerate() {
        let put = board.put[producer].load(SeqCst);
        let highest = last.iter().map(|of| of[producer]).max().unwrap_or(0);
        match effect {
            Effect::Puts(most) if producer == VICTIM && end.was_killed => {
                let is_right = match (end.had_not_begun, end.was_completed) {
                    (true, _) => count == 0,
                    (_, true) => count == most,
                    _ => count <= most,
                };
                if !is_right || highest != count {
                    return Err(format!("{count} of the victim's items, up to {highest}; {end:?}"));
                }
            }
            _ if highest > put => {
                return Err(format!("{highest} of {producer}, who has put {put}"));
            }
            _ => missing += put - count,
        }
    }
    let taken = missing.wrapping_sub(board.gone.load(SeqCst)) as i64;
    let is_right = match (effect, end.was_killed) {
        (Effect::Takes(most), true) => match (end.had_not_begun, end.was_completed) {
            (true, _) => taken == 0,
            (_, true) => taken == most as i64,
            _ => (0..=most as i64).contains(&taken),
        },
        _ => taken == 0,
    };
    if is_right { Ok(()) } else { Err(format!("{taken} items are missing; {end:?}")) }
}

/// Returns a case whose victim takes part before the operation.
fn on(case: Case<Board>, operate: impl Fn(&Board, &Operation) + 'static) -> Case<Board> {
    case.victim(move |board, operation| {
        board.take_part();
        operate(board, operation);
    })
}

// The operations of victims, peers and those that die, `who` being one of them. Afterwards, they
// help the processes that still sleep, as these help each other.

fn putting(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.put(item));
    if board.after_put(who, result) {
        board.try_get(who);
    }
}

fn trying_to_put(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.try_put(item));
    board.after_put(who, result);
}

fn putting_in_time(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.put_timeout(item, EXPIRES));
    board.after_put(who, result);
}

fn getting(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.get());
    if board.after_get(who, result) {
        board.try_put(who);
    }
}

fn trying_to_get(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.try_get());
    board.after_get(who, result);
}

fn getting_in_time(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.get_timeout(EXPIRES));
    board.after_get(who, result);
}

fn putting_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let first = board.item(who);
    let items: [u64; N] = core::array::from_fn(|index| first + index as u64);
    match operation.step(|| board.queue.put_many(&items)) {
        Ok(()) => board.note_puts(who, N),
        Err(refused) => board.note_puts(who, refused.put),
    }
    board.try_get(who);
}

fn trying_to_put_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let first = board.item(who);
    let items: [u64; N] = core::array::from_fn(|index| first + index as u64);
    match operation.step(|| board.queue.try_put_many(&items)) {
        Ok(()) => board.note_puts(who, N),
        Err(refused) => board.note_puts(who, refused.put),
    }
}

fn trying_to_get_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let mut items = Vec::with_capacity(N);
    let _ = operation.step(|| board.queue.try_get_many(&mut items, N));
    items.into_iter().for_each(|item| board.note_got(who, item));
}

fn getting_many<const N: usize>(board: &Board, operation: &Operation, who: usize) {
    let mut items = Vec::with_capacity(N);
    let _ = operation.step(|| board.queue.get_many(&mut items, N));
    let any = !items.is_empty();
    items.into_iter().for_each(|item| board.note_got(who, item));
    if any {
        board.try_put(who);
    }
}

fn sending(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| {
        let mut loan = board.queue.loan().expect("few loans");
        *loan = item;
        // Not the loan, which would be dropped later.
        loan.send().map_err(|refused| refused.error)
    });
    match result {
        Ok(()) => board.note_puts(who, 1),
        Err(QueueError::Closed) => return,
        Err(error) => panic!("{error}"),
    }
    board.try_get(who);
}

fn trying_to_send(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| {
        let mut loan = board.queue.loan().expect("few loans");
        *loan = item;
        loan.try_send().map_err(|refused| refused.error)
    });
    if result.is_ok() {
        board.note_puts(who, 1);
    }
}

fn trying_to_receive(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.try_receive().map(|received| *received));
    board.after_get(who, result);
}

fn receiving(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.receive().map(|received| *received));
    if board.after_get(who, result) {
        board.try_put(who);
    }
}

/// Prepares for the processes that come after it.
fn loaning(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| drop(board.queue.loan().expect("few loans")));
}

fn closing(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| board.queue.close()).expect("a participant");
}

type Operate = fn(&Board, &Operation, usize);

// The companions.

fn getter(board: &Board, me: &Me) {
    if board.get(COMPANION + me.index) {
        board.try_put(COMPANION + me.index);
    }
}

fn putter(board: &Board, me: &Me) {
    if board.put(COMPANION + me.index) {
        board.try_get(COMPANION + me.index);
    }
}

fn later_getter(board: &Board, me: &Me) {
    me.pause();
    getter(board, me);
}

fn later_putter(board: &Board, me: &Me) {
    me.pause();
    putter(board, me);
}

/// Puts `count` items, if there is room, when the victim sleeps.
fn supplier(count: usize) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        board.take_part();
        me.pause();
        (0..count).for_each(|_| {
            board.try_put(COMPANION + me.index);
        });
    }
}

/// Gets `count` items, if they are there, when the victim sleeps.
fn consumer(count: usize) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        board.take_part();
        me.pause();
        (0..count).for_each(|_| {
            board.try_get(COMPANION + me.index);
        });
    }
}

/// Closes the queue, and drains it until nothing more can come.
fn finisher(board: &Board, me: &Me) {
    board.take_part();
    me.pause();
    board.queue.close().expect("a participant");
    board.drain(COMPANION + me.index);
    board.flag.store(u32::from(matches!(board.queue.try_get(), Err(QueueError::Closed))), SeqCst);
}

fn closer(board: &Board, me: &Me) {
    board.take_part();
    me.pause();
    board.queue.close().expect("a participant");
}

/// Adds a peer that takes part, and comes to a stage of an operation. If it dies, what it has put
/// is there. What it has got is lost, unless it has only announced the get.
fn with_peer(
    case: Case<Board>,
    index: usize,
    fate: Fate,
    stage: Stage,
    effect: Effect,
    operate: Operate,
) -> Case<Board> {
    let script = move |board: &Board, operation: &Operation| {
        board.take_part();
        if fate == Fate::Dies && stage != Stage::Announced {
            // Accounted for beforehand: nothing reads the account before the item is there.
            let item = board.item(PEER + index);
            match effect {
                Effect::Puts(count) => board.note_puts(PEER + index, count as usize),
                Effect::Takes(count) => _ = board.gone.fetch_add(count, SeqCst),
                Effect::Closes | Effect::Nothing => {}
            }
            match effect {
                Effect::Puts(_) => _ = operation.step(|| board.queue.try_put(item)),
                _ => operate(board, operation, PEER + index),
            }
            return;
        }
        operate(board, operation, PEER + index);
    };
    case.peer(fate, script, move |board| board.words.has_come_to(index, stage))
}

/// Adds a companion that dies when the victim sleeps, as soon as its exchange is done.
fn with_dying(case: Case<Board>, effect: Effect) -> Case<Board> {
    let script = move |board: &Board, operation: &Operation| {
        board.take_part();
        let item = board.item(DYING);
        match effect {
            Effect::Puts(_) => {
                board.note_puts(DYING, 1);
                let _ = operation.step(|| board.queue.try_put(item));
            }
            _ => {
                board.gone.fetch_add(1, SeqCst);
                let _ = operation.step(|| board.queue.try_get());
            }
        }
    };
    case.dying(script, |board| board.words.has_any_come_to(Stage::Exchanged))
}

/// Adds a companion that puts three items at once when the victim sleeps, and dies before it wakes
/// any process.
fn with_dying_putter_of_three(case: Case<Board>) -> Case<Board> {
    let script = |board: &Board, operation: &Operation| {
        board.take_part();
        let first = board.item(DYING);
        board.note_puts(DYING, 3);
        let _ = operation.step(|| board.queue.try_put_many(&[first, first + 1, first + 2]));
    };
    case.dying(script, |board| board.queue.len() == 3)
}

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

/// The victim sleeps, and another process lets it go on.
fn blocked() -> Vec<Box<dyn Subject>> {
    let gets = |name: &str, capacity: usize, operate: Operate, takes: u64| {
        victim(case(name, capacity, capacity + 1, 0, Effect::Takes(takes), Leaves::Item), operate)
            .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    let puts = |name: &str, capacity: usize, operate: Operate, count: u64| {
        victim(
            case(name, capacity, capacity + 1, capacity, Effect::Puts(count), Leaves::Room),
            operate,
        )
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(gets("get, then put", 1, getting, 1).companion(supplier(1))),
        Box::new(
            gets("get, then put, 2 sleep before", 1, getting, 1)
                .companions(2, getter)
                .companion(supplier(3)),
        ),
        Box::new(
            gets("get, then put, 2 sleep behind", 3, getting, 1)
                .companions(2, later_getter)
                .companion(supplier(3)),
        ),
        Box::new(with_dying(
            gets("get, then put by one that dies", 1, getting, 1),
            Effect::Puts(1),
        )),
        Box::new(with_dying(
            gets("get, then put by one that dies, 2 sleep behind", 2, getting, 1)
                .companions(2, later_getter),
            Effect::Puts(1),
        )),
        Box::new(
            gets("get, then 1 put, 2 sleep behind", 2, getting, 1)
                .companions(2, later_getter)
                .companion(supplier(1)),
        ),
        Box::new(with_dying_putter_of_three(
            gets("get, then 3 put by one that dies, 2 sleep behind", 3, getting, 1)
                .companions(2, later_getter),
        )),
        Box::new(
            gets("receive, then put, 1 sleeps behind", 2, receiving, 1)
                .companion(later_getter)
                .companion(supplier(2)),
        ),
        Box::new(
            gets("get_many(2), then 2 put, 1 sleeps behind", 2, getting_many::<2>, 2)
                .companion(later_getter)
                .companion(supplier(2)),
        ),
        Box::new(puts("put, then got", 1, putting, 1).companion(consumer(1))),
        Box::new(
            puts("put, then got, 2 sleep before", 1, putting, 1)
                .companions(2, putter)
                .companion(consumer(3)),
        ),
        Box::new(
            puts("put, then got, 2 sleep behind", 3, putting, 1)
                .companions(2, later_putter)
                .companion(consumer(3)),
        ),
        Box::new(with_dying(
            puts("put, then got by one that dies", 1, putting, 1),
            Effect::Takes(1),
        )),
        Box::new(with_dying(
            puts("put, then got by one that dies, 2 sleep behind", 2, putting, 1)
                .companions(2, later_putter),
            Effect::Takes(1),
        )),
        Box::new(
            puts("send, then got, 1 sleeps behind", 2, sending, 1)
                .companion(later_putter)
                .companion(consumer(2)),
        ),
        Box::new(
            puts("put_many(2), then 2 got, 1 sleeps behind", 2, putting_many::<2>, 2)
                .companion(later_putter)
                .companion(consumer(2)),
        ),
    ]
}

/// Others sleep, and the victim lets them go on.
fn waking() -> Vec<Box<dyn Subject>> {
    let among_getters =
        |name: &str, capacity: usize, sleepers: usize, operate: Operate, count: u64| {
            let case = case(name, capacity, 1, 0, Effect::Puts(count), Leaves::Item);
            victim(case.companions(sleepers, getter), operate)
                .known_strand(Mode::Stop, WAKER_STOPPED)
        };
    let among_putters =
        |name: &str, capacity: usize, sleepers: usize, operate: Operate, count: u64| {
            let case = case(name, capacity, 1, capacity, Effect::Takes(count), Leaves::Room);
            victim(case.companions(sleepers, putter), operate)
                .known_strand(Mode::Stop, WAKER_STOPPED)
        };
    vec![
        Box::new(among_getters("try_put, 1 sleeps", 1, 1, trying_to_put, 1)),
        Box::new(among_getters("try_put, 3 sleep", 2, 3, trying_to_put, 1)),
        Box::new(among_getters("try_put_many(2), 2 sleep", 2, 2, trying_to_put_many::<2>, 2)),
        Box::new(among_getters("try_put_many(3), 1 sleeps", 3, 1, trying_to_put_many::<3>, 3)),
        Box::new(among_getters("try_send, 2 sleep", 2, 2, trying_to_send, 1)),
        Box::new(among_putters("try_get, 1 sleeps", 1, 1, trying_to_get, 1)),
        Box::new(among_putters("try_get, 3 sleep", 2, 3, trying_to_get, 1)),
        Box::new(among_putters("try_get_many(2), 2 sleep", 2, 2, trying_to_get_many::<2>, 2)),
        Box::new(among_putters("try_get_many(3), 1 sleeps", 3, 1, trying_to_get_many::<3>, 3)),
        Box::new(among_putters("try_receive, 2 sleep", 2, 2, trying_to_receive, 1)),
    ]
}

fn closing_cases() -> Vec<Box<dyn Subject>> {
    let known = |case: Case<Board>| -> Box<dyn Subject> {
        Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
    };
    let among = |name: &str, capacity: usize, items: usize| {
        case(name, capacity, 1, items, Effect::Closes, Leaves::Closed)
    };
    let until = |name: &str, capacity: usize, items: usize| {
        case(name, capacity, 1, items, Effect::Nothing, Leaves::Closed)
    };
    vec![
        known(victim(
            case("put, others close", 2, 1, 0, Effect::Puts(1), Leaves::Closed).companion(finisher),
            trying_to_put,
        )),
        known(victim(
            case("send, others close", 1, 1, 0, Effect::Puts(1), Leaves::Closed)
                .companion(finisher),
            trying_to_send,
        )),
        known(victim(
            case("get, others close", 2, 1, 1, Effect::Takes(1), Leaves::Closed)
                .companion(finisher),
            trying_to_get,
        )),
        known(victim(among("close, 2 getters sleep", 2, 0).companions(2, getter), closing)),
        known(victim(among("close, 2 putters sleep", 2, 2).companions(2, putter), closing)),
        known(victim(until("get, then closed", 1, 0).companion(closer), getting)),
        known(victim(
            until("get, then closed, 2 sleep behind", 2, 0)
                .companions(2, later_getter)
                .companion(closer),
            getting,
        )),
        known(victim(
            until("put, then closed, 2 sleep behind", 2, 2)
                .companions(2, later_putter)
                .companion(closer),
            putting,
        )),
    ]
}

/// A peer has died, or is stopped, between its exchange and what follows. The victim takes part
/// already.
fn beside_a_peer() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for fate in [Fate::Dies, Fate::Stops] {
        let does = if fate == Fate::Dies { "died" } else { "stopped" };
        // `items` is the number of items after the peer's operation; `by_putter` says whether the
        // peer puts or gets.
        let mut add = |name: &str,
                       operate: Operate,
                       capacity: usize,
                       items: usize,
                       by_putter: bool,
                       effect: Effect| {
            let (peers, its): (Operate, _) = if by_putter {
                (trying_to_put, Effect::Puts(1))
            } else {
                (trying_to_get, Effect::Takes(1))
            };
            let name = format!("{name}, a {} {does}", if by_putter { "putter" } else { "getter" });
            let case = with_peer(
                case(&name, capacity, capacity + 1, items, effect, effect.needs()),
                0,
                fate,
                Stage::Exchanged,
                its,
                peers,
            );
            cases.push(Box::new(victim(case, operate)));
        };
        add("put", putting, 2, 0, true, Effect::Puts(1));
        add("try_put", trying_to_put, 1, 0, true, Effect::Nothing);
        add("try_put", trying_to_put, 3, 2, true, Effect::Nothing);
        add("get", getting, 1, 0, true, Effect::Takes(1));
        add("get", getting, 2, 1, true, Effect::Takes(1));
        add("put_many(2)", putting_many::<2>, 3, 0, true, Effect::Puts(2));
        add("get_many(2)", getting_many::<2>, 2, 1, true, Effect::Takes(2));
        add("close", closing, 2, 0, true, Effect::Closes);
        add("put", putting, 1, 1, false, Effect::Puts(1));
        add("put", putting, 2, 2, false, Effect::Puts(1));
        add("try_get", trying_to_get, 1, 1, false, Effect::Nothing);
        add("get", getting, 3, 3, false, Effect::Takes(1));
        add("put_many(2)", putting_many::<2>, 2, 1, false, Effect::Puts(2));
        add("get_many(2)", getting_many::<2>, 3, 3, false, Effect::Takes(2));
        add("close", closing, 2, 2, false, Effect::Closes);
        add("loan", loaning, 2, 0, true, Effect::Nothing);
        add("loan", loaning, 2, 2, false, Effect::Nothing);
        add("loan", loaning, 3, 2, false, Effect::Nothing);
        // Two peers: the counters are far behind.
        let both = |name: &str, items: usize, effect: Effect, first: bool, second: bool| {
            let of = |is_putter: bool| {
                if is_putter {
                    (trying_to_put as Operate, Effect::Puts(1))
                } else {
                    (trying_to_get as Operate, Effect::Takes(1))
                }
            };
            let case = case(&format!("{name}, two {does}"), 2, 3, items, effect, effect.needs());
            let case = with_peer(case, 0, fate, Stage::Exchanged, of(first).1, of(first).0);
            with_peer(case, 1, fate, Stage::Exchanged, of(second).1, of(second).0)
        };
        cases.push(Box::new(victim(
            both("try_put, two puts", 0, Effect::Nothing, true, true),
            trying_to_put,
        )));
        cases.push(Box::new(victim(
            both("get, two puts", 0, Effect::Takes(1), true, true),
            getting,
        )));
        cases.push(Box::new(victim(
            both("try_get, two gets", 2, Effect::Nothing, false, false),
            trying_to_get,
        )));
        cases.push(Box::new(victim(
            both("put, two gets", 2, Effect::Puts(1), false, false),
            putting,
        )));
        cases.push(Box::new(victim(
            both("put, a put and its get", 0, Effect::Puts(1), true, false),
            putting,
        )));
        cases.push(Box::new(victim(
            both("try_get, a put and its get", 0, Effect::Nothing, true, false),
            trying_to_get,
        )));
    }
    cases
}

/// The victim becomes a participant with the id of one that died in the middle of an operation.
fn adopting() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    let comes = |case: Case<Board>| -> Box<dyn Subject> {
        Box::new(case.victim(|board, operation| {
            warm_up();
            trying_to_put(board, operation, VICTIM);
        }))
    };
    for stage in [Stage::Announced, Stage::Exchanged, Stage::Taken, Stage::Placed] {
        for (is_put, capacity, items) in [(true, 1, 0), (true, 3, 1), (false, 1, 1), (false, 3, 2)]
        {
            let (operate, effect): (Operate, _) = if is_put {
                (trying_to_put, Effect::Puts(1))
            } else {
                (trying_to_get, Effect::Takes(1))
            };
            let after = match (stage, is_put) {
                (Stage::Announced, _) => items,
                (_, true) => items + 1,
                (_, false) => items - 1,
            };
            let victims = if after < capacity { Effect::Puts(1) } else { Effect::Nothing };
            let what = if is_put { "put" } else { "get" };
            // A dead peer that has only announced its operation finds slots that were never used
            // before.
            let shift = if stage == Stage::Announced { 0 } else { 4 };
            let alone = case(
                &format!("try_put as one that died, {what} {stage:?}"),
                capacity,
                shift,
                items,
                victims,
                Leaves::Item,
            );
            cases.push(comes(with_peer(alone, 0, Fate::Dies, stage, effect, operate)));
            // The word has gone on since. The next operation there is over, its participant is
            // stopped in the middle, or its participant is dead.
            for further in 0..3 {
                let how = ["went on", "by one stopped", "by one dead"][further];
                let name = format!("try_put as one that died, {what} {stage:?}, {how}");
                // The next operation at that word: of the same kind if the dead one was only
                // announced, otherwise of the other kind.
                let next_puts = is_put == (stage == Stage::Announced);
                let (next, its): (Operate, _) = if next_puts {
                    (trying_to_put, Effect::Puts(1))
                } else {
                    (trying_to_get, Effect::Takes(1))
                };
                // With one entry, it is that word's turn, whichever operation it is.
                if capacity != 1 {
                    continue;
                }
                let victims = if next_puts { Effect::Nothing } else { Effect::Puts(1) };
                let case = case(&name, capacity, shift, items, victims, Leaves::Item);
                let case = with_peer(case, 0, Fate::Dies, stage, effect, operate);
                cases.push(comes(match further {
                    0 => case.peer(
                        Fate::Stops,
                        move |board, operation| {
                            board.take_part();
                            operation.begin();
                            if next_puts {
                                board.try_put(PEER + 1)
                            } else {
                                board.try_get(PEER + 1)
                            };
                            board.flag.store(1, SeqCst);
                            operation.end();
                        },
                        |board| board.flag.load(SeqCst) == 1,
                    ),
                    1 => with_peer(case, 1, Fate::Stops, Stage::Exchanged, its, next),
                    _ => with_peer(case, 1, Fate::Dies, Stage::Exchanged, its, next),
                }));
            }
        }
    }
    cases
}
