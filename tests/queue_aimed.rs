//! A hostile peer aims at each word of a queue in turn. The word holds a wrong value, for good or
//! changing all the time, while other participants perform every operation. They get values or
//! errors, in time.

#![allow(unsafe_code)]

use core::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossproc::{JoinableQueue, Queue, QueueError, QueueOptions, Shm, wait_any_timeout};

mod forked;
mod spoiled;
use forked::{fork, kill, patience, slowness, wait_until, waited_for_processor};
use spoiled::*;

const SIZES: Sizes = Sizes { entries: 6, ids: 8, places: 3 };
/// The lengths of header and payload together: of a task of 8 bytes, and of an item.
const TASK_STRIDE: usize = 24;
const ITEM_STRIDE: usize = 16;
const SHORT: Duration = Duration::from_millis(1);
/// How far a call may overrun its deadline, beside other tests and without optimisation.
const SLACK: Duration = Duration::from_millis(1_500);
/// The ids of the queue's creator and of the next participant.
const MAKER: usize = 0;
const NEXT: usize = 1;

/// The values that a peer writes in turn into one word, or one half of a word.
struct Word {
    name: &'static str,
    at: usize,
    is_half: bool,
    values: Vec<u64>,
}

/// Values that are meaningful as a position, an entry, a place or an announcement, and near misses.
fn telling() -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX, 1 << 63, INDEX, FULL, RETURNED, FULL | RETURNED];
    for cycle in [1, 2, 1 << 40] {
        for flags in [0, FULL, RETURNED, FULL | RETURNED] {
            values.extend([0, 5, 30].map(|index| (cycle * ROUND) | flags | index));
        }
    }
    values
}

/// Values that are meaningful as a number, a TID or flags.
fn numbers() -> Vec<u64> {
    let own = u64::from(std::process::id());
    [
        0,
        1,
        2,
        7,
        8,
        9,
        40,
        1 << 30,
        1 << 31,
        3 << 30,
        own,
        own | 1 << 30,
        own | 1 << 31,
        u64::from(u32::MAX),
    ]
    .into()
}

/// Values for a site: an entry or a place, and the participant's own place.
fn sites() -> Vec<u64> {
    [0, 5, 6, 20, 30, u64::from(u32::MAX)]
        .into_iter()
        .flat_map(|at| [0, 2, 3, 1 << 31].map(|place| at | place << 32))
        .collect()
}

/// Values for a life: every kind of the first few, and the last ones.
fn lives() -> Vec<u64> {
    (0..12).chain([u64::MAX - 3, u64::MAX - 2, u64::MAX - 1, u64::MAX]).collect()
}

fn word(name: &'static str, at: usize) -> Word {
    Word { name, at, is_half: false, values: telling() }
}

fn half(name: &'static str, at: usize) -> Word {
    Word { name, at, is_half: true, values: numbers() }
}

/// One or two words of every kind that a queue has.
fn words(spoiler: &Spoiler, stride: usize) -> Vec<Word> {
    let mut words: Vec<Word> = (0..8).map(|index| word("shape", SHAPE + index * 8)).collect();
    words.extend([
        word("tail", TAIL),
        half("tail watched", TAIL + WATCHED),
        word("head", HEAD),
        half("head watched", HEAD + WATCHED),
        word("letters' tail", LETTERS_TAIL),
        half("letters' tail watched", LETTERS_TAIL + WATCHED),
        word("letters' head", LETTERS_HEAD),
        half("letters' head watched", LETTERS_HEAD + WATCHED),
        word("roster", ROSTER),
        half("used", USED),
        word("returned", RETURNS),
        word("moves", MOVES),
        word("joins", JOINS),
    ]);
    for id in [MAKER, NEXT] {
        let record = spoiler.record(id);
        words.extend([
            half("token", record + TOKEN),
            half("starving", record + STARVING),
            half("watchers", record + WATCHERS),
            word("seen", record + SEEN),
            Word { values: sites(), ..word("site", record + SITE) },
            Word { values: lives(), ..word("life", record + LIFE) },
            word("first place", spoiler.place(id, 0)),
            word("last place", spoiler.place(id, SIZES.places - 1)),
        ]);
    }
    words.extend([0, 1, SIZES.entries - 1].map(|entry| word("entry", spoiler.entry(entry))));
    for slot in [0, SIZES.entries] {
        let slot = spoiler.slot(slot, stride);
        words.push(word("taker", slot + TAKER));
        // In an item, these bytes are the payload.
        words.extend([
            half("payload length", slot + PAYLOAD_LEN),
            half("attempts", slot + ATTEMPTS),
        ]);
    }
    words
}

impl Word {
    fn spoil(&self, spoiler: &Spoiler, number: u64) {
        let value = self.values[number as usize % self.values.len()];
        if self.is_half {
            spoiler.write_half(self.at, value as u32);
        } else {
            spoiler.write(self.at, value);
        }
    }
}

fn options() -> QueueOptions {
    QueueOptions::new().participants(SIZES.ids).loans(SIZES.places - 1)
}

fn in_time<R>(what: &str, call: impl FnOnce() -> R) -> R {
    let (start, waited) = (Instant::now(), waited_for_processor());
    let result = call();
    let took = start.elapsed().saturating_sub(waited_for_processor() - waited);
    assert!(took < SHORT + SLACK * slowness(), "{what} took {took:?}");
    result
}

fn operate_on_items(queue: &Queue<u64>) {
    let _ = in_time("try_put", || queue.try_put(1));
    let _ = in_time("put_timeout", || queue.put_timeout(2, SHORT));
    let _ = in_time("put_many_timeout", || queue.put_many_timeout(&[3; 3], SHORT));
    let loan = in_time("loan", || queue.loan());
    let received = in_time("receive_timeout", || queue.receive_timeout(SHORT));
    if let (Ok(loan), Ok(received)) = (&loan, &received) {
        assert_ne!(&raw const **loan, &raw const **received, "two hold one slot");
    }
    let _ = loan.map(|loan| in_time("send_timeout", || loan.send_timeout(SHORT).is_ok()));
    drop(received);
    let _ = in_time("try_get", || queue.try_get());
    let _ = in_time("get_timeout", || queue.get_timeout(SHORT));
    let _ = in_time("get_many_timeout", || queue.get_many_timeout(&mut Vec::new(), 9, SHORT));
    let _ = in_time("wait_any_timeout", || wait_any_timeout(&[queue, &queue.room()], SHORT));
    let _ = in_time("len", || format!("{queue:?}"));
    let again =
        in_time("attach", || Queue::<u64>::attach(queue.as_fd().try_clone_to_owned().unwrap()));
    let _ = again.map(|again| in_time("try_put by a newcomer", || again.try_put(4)));
}

fn operate_on_tasks(queue: &JoinableQueue<u64>) {
    let _ = in_time("try_put", || queue.try_put(1));
    let _ = in_time("put_timeout", || queue.put_timeout(2, SHORT));
    let one = in_time("try_get", || queue.try_get());
    let two = in_time("get_timeout", || queue.get_timeout(SHORT));
    if let (Ok(one), Ok(two)) = (&one, &two) {
        assert_ne!(&raw const **one, &raw const **two, "two hold one slot");
    }
    let _ = one.map(|task| (*task, task.attempts(), task.done()));
    drop(two);
    let _ = in_time("join_timeout", || queue.join_timeout(SHORT));
    let letter = in_time("dead_letter", || queue.dead_letter());
    let _ = letter.map(|letter| (*letter, letter.attempts()));
    let _ = in_time("wait_any_timeout", || wait_any_timeout(&[queue, &queue.room()], SHORT));
    let _ = in_time("unfinished", || format!("{queue:?} {}", queue.dead_letters()));
    let again = in_time("attach", || {
        JoinableQueue::<u64>::attach(queue.as_fd().try_clone_to_owned().unwrap())
    });
    let _ = again.map(|again| in_time("try_get by a newcomer", || again.try_get().map(drop)));
}

/// Runs `body` in a process of its own. The test fails if that process never ends or is killed.
/// Each of its many calls has a bound of its own.
fn in_a_process(what: &str, body: impl FnOnce() + Send) {
    let status =
        fork(body).join_timeout(patience() * 10).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(status.success(), "{what}: {status}");
}

/// Writes the word's values in turn, for ever.
fn attack(begun: &Shm<AtomicU32>, spoiler: &Spoiler, word: &Word) -> ! {
    let mut number = 0;
    loop {
        word.spoil(spoiler, number);
        begun.store(1, Relaxed);
        number += 1;
    }
}

/// Returns a queue with items in it, put by a participant.
fn items() -> (Queue<u64>, Spoiler) {
    let queue: Queue<u64> = options().create(SIZES.entries).unwrap();
    let spoiler = Spoiler::new(&queue, SIZES);
    queue.try_put_many(&[1, 2]).unwrap();
    (queue, spoiler)
}

fn tasks() -> (JoinableQueue<u64>, Spoiler) {
    let queue: JoinableQueue<u64> =
        options().attempts(NonZeroU32::new(1), 2).create_joinable(SIZES.entries - 2).unwrap();
    let spoiler = Spoiler::new(&queue, SIZES);
    queue.try_put_many(&[1, 2, 3]).unwrap();
    (queue, spoiler)
}

/// Runs the test for each word; the test makes a queue of its own.
fn for_each_word(stride: usize, spoiler: &Spoiler, test: impl FnMut(&Word)) {
    words(spoiler, stride).iter().for_each(test);
}

#[test]
fn a_word_of_a_queue_that_is_wrong_for_good_stops_nobody() {
    for_each_word(ITEM_STRIDE, &items().1, |word| {
        in_a_process(word.name, || {
            let (queue, spoiler) = items();
            for number in 0..word.values.len() as u64 {
                word.spoil(&spoiler, number);
                operate_on_items(&queue);
            }
            let _ = in_time("close", || queue.close());
            operate_on_items(&queue);
        });
    });
}

#[test]
fn a_word_of_a_joinable_queue_that_is_wrong_for_good_stops_nobody() {
    for_each_word(TASK_STRIDE, &tasks().1, |word| {
        in_a_process(word.name, || {
            let (queue, spoiler) = tasks();
            for number in 0..word.values.len() as u64 {
                word.spoil(&spoiler, number);
                operate_on_tasks(&queue);
            }
            let _ = in_time("close", || queue.close());
            operate_on_tasks(&queue);
        });
    });
}

/// Runs `operate` while a word changes, also in threads that come and go, and then on the closed
/// queue.
fn beside<Q: AsFd + Send + Sync>(
    word: &Word,
    queue: &Q,
    spoiler: &Spoiler,
    operate: fn(&Q),
    close: fn(&Q) -> Result<(), QueueError>,
) {
    let begun: Shm<AtomicU32> = Shm::new(AtomicU32::new(0)).unwrap();
    let attacker = fork(|| -> () { attack(&begun, spoiler, word) });
    wait_until("it attacks", || begun.load(Relaxed) == 1);
    in_a_process(word.name, || {
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            operate(queue);
            std::thread::scope(|scope| _ = scope.spawn(|| operate(queue)));
        }
        let _ = in_time("close", || close(queue));
        operate(queue);
    });
    kill(&attacker);
}

#[test]
fn a_word_of_a_queue_that_changes_all_the_time_stops_nobody() {
    for_each_word(ITEM_STRIDE, &items().1, |word| {
        let (queue, spoiler) = items();
        beside(word, &queue, &spoiler, operate_on_items, Queue::close);
    });
}

#[test]
fn a_word_of_a_joinable_queue_that_changes_all_the_time_stops_nobody() {
    for_each_word(TASK_STRIDE, &tasks().1, |word| {
        let (queue, spoiler) = tasks();
        beside(word, &queue, &spoiler, operate_on_tasks, JoinableQueue::close);
    });
}
