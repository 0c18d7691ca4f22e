//! Timed calls end near their deadline, and all other calls end, whatever a peer writes meanwhile.
//! That also holds in a table of 256,000 participants that all seem to be in the middle of an
//! operation.

#![allow(unsafe_code)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crossproc::{
    JoinableQueue, Queue, QueueError, QueueOptions, Shm, try_wait_any, wait_any_timeout,
};
use rustix::time::{ClockId, clock_gettime};

mod forked;
mod spoiled;
use forked::{PATIENCE, fork, kill, wait_until};
use spoiled::{
    FULL, HEAD, INDEX, LIFE, LIVES, MOVES, RETURNED, RETURNS, ROUND, SEEN, SITE, Sizes, Spoiler,
    TAIL, TOKEN, USED,
};

const SHORT: Duration = Duration::from_millis(10);
/// How long a call may be busy beyond its deadline. Debug builds get more.
const SLACK: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 500 });
const OWNER_DIED: u32 = 0x4000_0000;

/// A table of many participants, of which only the records are touched.
const MANY: Sizes = Sizes { entries: 4, ids: 256_000, places: 2 };
const SOME: Sizes = Sizes { entries: 4, ids: 1_024, places: 4 };

fn joinable(sizes: Sizes) -> (JoinableQueue<u64>, Spoiler) {
    let options = QueueOptions::new().participants(sizes.ids).loans(sizes.places - 1);
    let queue = options.create_joinable(sizes.entries).unwrap();
    let spoiler = Spoiler::new(&queue, sizes);
    (queue, spoiler)
}

/// Returns the call's result, and asserts that the call took no longer than `most` and the slack.
///
/// The thread's CPU time counts, so the thread may share its processor with other programs. The
/// assertion is about calls that are busy for too long. The test's patience ends calls that sleep
/// for too long.
fn in_time<R>(what: &str, most: Duration, call: impl FnOnce() -> R) -> R {
    let own_time = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let start = own_time();
    let result = call();
    let took = own_time() - start;
    println!("{what}: {took:?}");
    assert!(took < most + SLACK, "{what} took {took:?}, and had {most:?}");
    result
}

/// Performs every operation of a participant in turn, in a process of its own. The test fails if
/// that process never ends.
fn operate_in_time(queue: &JoinableQueue<u64>, setup: impl FnOnce() + Send) {
    let queue = queue.clone();
    let victim = fork(move || {
        // The victim becomes a participant before the words are spoilt.
        let _ = queue.try_put(1).map(|()| queue.try_get().map(crossproc::Task::done));
        setup();
        for _ in 0..2 {
            let _ = in_time("join_timeout", SHORT, || queue.join_timeout(SHORT));
            let _ = in_time("get_timeout", SHORT, || queue.get_timeout(SHORT).map(drop));
            let _ = in_time("put_timeout", SHORT, || queue.put_timeout(1, SHORT));
            let _ = in_time("try_get", Duration::ZERO, || queue.try_get().map(drop));
            let _ = in_time("unfinished", Duration::ZERO, || black_box(queue.unfinished()));
            let _ = in_time("wait_any_timeout", SHORT, || wait_any_timeout(&[&queue], SHORT));
            let _ = in_time("try_wait_any", Duration::ZERO, || try_wait_any(&[&queue]));
            let _ = in_time("for all", SHORT, || wait_any_timeout(&[&queue.all_done()], SHORT));
            let _ = in_time("is all", Duration::ZERO, || try_wait_any(&[&queue.all_done()]));
            let letter = queue.next_dead_letter();
            let _ = in_time("for a letter", SHORT, || wait_any_timeout(&[&letter], SHORT));
            let _ = in_time("is a letter", Duration::ZERO, || try_wait_any(&[&letter]));
            let _ = in_time("close", Duration::ZERO, || queue.close());
        }
    });
    let status = victim.join_timeout(PATIENCE).expect("every call ends");
    assert!(status.success(), "{status}");
}

/// Runs `victim` while two processes call `attack` for ever. There are two so that one runs while
/// the other does not.
fn beside(attack: impl Fn(u64) + Send + Sync, victim: impl FnOnce()) {
    let begun: Shm<AtomicU32> = Shm::new(AtomicU32::new(0)).unwrap();
    let attackers = [0, 1].map(|first| {
        let (begun, attack) = (begun.clone(), &attack);
        fork(move || -> () {
            attack(first);
            begun.fetch_add(1, Relaxed);
            let mut number = first;
            loop {
                attack(number);
                number = number.wrapping_add(2);
            }
        })
    });
    wait_until("both attack", || begun.load(Relaxed) == 2);
    victim();
    attackers.iter().for_each(kill);
}

#[test]
fn moves_that_never_stop_hold_nobody_up() {
    const TIMES: u32 = 8;
    let (queue, spoiler) = joinable(MANY);
    spoiler.write_half(USED, u32::MAX);
    let victim = || {
        let queue = queue.clone();
        let victim = fork(move || {
            let all = TIMES * SHORT;
            in_time("joins", all, || {
                (0..TIMES).for_each(|_| _ = black_box(queue.join_timeout(SHORT)));
            });
            queue.close().unwrap();
            in_time("gets", all, || {
                (0..TIMES).for_each(|_| _ = black_box(queue.get_timeout(SHORT).map(drop)));
            });
            in_time("looks", all, || {
                (0..TIMES / 4).for_each(|_| _ = black_box(queue.try_get().map(drop)));
            });
        });
        let status = victim.join_timeout(PATIENCE).expect("every call ends");
        assert!(status.success(), "{status}");
    };
    beside(|number| spoiler.write(MOVES, number), victim);
}

#[test]
fn a_count_of_returns_that_never_stops_holds_nobody_up() {
    let (queue, spoiler) = joinable(SOME);
    beside(|number| spoiler.write(RETURNS, number), || operate_in_time(&queue, || ()));
}

#[test]
fn positions_that_never_stop_hold_nobody_up() {
    let (queue, spoiler) = joinable(SOME);
    let positions = |number: u64| {
        let position = (number % 7 * ROUND) | (number % 4);
        spoiler.write(TAIL, position);
        spoiler.write(HEAD, position | ((number % 3) << 21));
    };
    beside(positions, || operate_in_time(&queue, || ()));
}

#[test]
fn entries_that_never_stop_hold_nobody_up() {
    let (queue, spoiler) = joinable(SOME);
    let entries = |number: u64| {
        let entry = number as usize % SOME.entries;
        spoiler.write(
            spoiler.entry(entry),
            (number % 7 * ROUND) | ((number % 5) << 21) | (number % 11),
        );
    };
    beside(entries, || operate_in_time(&queue, || ()));
}

#[test]
fn an_announcement_that_never_stops_holds_nobody_up() {
    let (queue, spoiler) = joinable(SOME);
    spoiler.write_half(USED, 64);
    spoiler.write(spoiler.record(40) + LIFE, LIVES);
    // No entry holds any of these values, and each is of a task.
    let announce =
        |number: u64| spoiler.write(spoiler.record(40) + SEEN, (number << 24) | FULL | 3);
    beside(announce, || operate_in_time(&queue, || ()));
}

/// Announces a get for every participant. Only a look at all other participants can settle one.
fn announce_for_all(spoiler: &Spoiler) {
    for id in 0..MANY.ids {
        let record = spoiler.record(id);
        let slot = MANY.entries + id * MANY.places;
        spoiler.write(spoiler.place(id, 0), ROUND | slot as u64);
        // The slot is known as the participant's own, so that the last look says no.
        spoiler.write_half(spoiler.slot(slot, 24), id as u32 + 1);
        spoiler.write(record + LIFE, LIVES);
        spoiler.write(record + SITE, 1);
        spoiler.write(record + SEEN, (9 * ROUND) | FULL | 2);
    }
    spoiler.write_half(USED, MANY.ids as u32);
}

#[test]
fn announcements_of_all_participants_hold_nobody_up() {
    let (queue, spoiler) = joinable(MANY);
    operate_in_time(&queue, || announce_for_all(&spoiler));
}

#[test]
fn returns_that_are_nowhere_to_be_found_hold_nobody_up() {
    let (queue, spoiler) = joinable(MANY);
    spoiler.write_half(USED, MANY.ids as u32);
    beside(|number| spoiler.write(RETURNS, (number << 1) | 1), || operate_in_time(&queue, || ()));
}

/// Each participant seems to be dead, in the middle of an operation, with tasks in hand.
#[test]
fn participants_that_all_seem_dead_hold_nobody_up() {
    let (queue, spoiler) = joinable(MANY);
    let died = || {
        announce_for_all(&spoiler);
        // All tokens except the victim's own.
        (1..MANY.ids).for_each(|id| spoiler.write_half(spoiler.record(id) + TOKEN, OWNER_DIED));
    };
    operate_in_time(&queue, died);
}

/// Calls without a deadline do not sleep in vain: the words make no sense, and the calls say so.
#[test]
fn a_join_without_a_deadline_ends_where_nothing_is_to_be_found_out() {
    let (queue, spoiler) = joinable(MANY);
    let victim = fork(move || {
        queue.put(1).unwrap();
        queue.get().unwrap().done();
        announce_for_all(&spoiler);
        let joined = queue.join();
        assert!(matches!(joined, Err(QueueError::Spoiled)), "{joined:?}");
        queue.close().unwrap();
        let got = queue.get().map(drop);
        assert!(matches!(got, Err(QueueError::Spoiled)), "{got:?}");
    });
    let status = victim.join_timeout(PATIENCE).expect("the join ends");
    assert!(status.success(), "{status}");
}

/// All tokens are taken, and the count of ids ever used says that none was.
#[test]
fn a_newcomer_who_is_told_that_there_are_none_ends() {
    const TAKEN: u32 = 1;
    let (queue, spoiler) = joinable(MANY);
    (0..MANY.ids).for_each(|id| spoiler.write_half(spoiler.record(id) + TOKEN, TAKEN));
    let newcomer = move || {
        let victim = fork(move || {
            for _ in 0..5 {
                let put = in_time("put_timeout", SHORT, || queue.put_timeout(1, SHORT));
                let error = put.unwrap_err().error;
                assert!(
                    matches!(error, QueueError::Spoiled | QueueError::TooManyParticipants { .. }),
                    "{error:?}"
                );
            }
        });
        let status = victim.join_timeout(PATIENCE).expect("it ends");
        assert!(status.success(), "{status}");
    };
    beside(|_| spoiler.write_half(USED, 0), newcomer);
}

/// A shared position that is far behind costs each look a long walk.
#[test]
fn a_position_far_behind_holds_nobody_up() {
    const LONG: Sizes = Sizes { entries: 1 << 20, ids: 2, places: 2 };
    let queue: Queue<u8> =
        QueueOptions::new().participants(LONG.ids).loans(1).create(LONG.entries).unwrap();
    let spoiler = Spoiler::new(&queue, LONG);
    let victim = fork(move || {
        queue.put(1).unwrap();
        queue.get().unwrap();
        // All entries before this one are empty in the next cycle: they were put and got.
        const FAR: u64 = (1 << 18) - 100;
        for entry in 0..FAR as usize {
            let at = spoiler.entry(entry);
            spoiler.write(at, (2 * ROUND) | (spoiler.read(at) & INDEX));
        }
        spoiler.write(HEAD, ROUND);
        spoiler.write(TAIL, ROUND);
        for _ in 0..20 {
            let _ = in_time("get_timeout", SHORT, || queue.get_timeout(SHORT));
            let _ = in_time("wait_any_timeout", SHORT, || wait_any_timeout(&[&queue], SHORT));
            spoiler.write(HEAD, ROUND);
        }
    });
    let status = victim.join_timeout(PATIENCE).expect("every call ends");
    assert!(status.success(), "{status}");
}

/// A batch ends although producers put as fast as it gets.
#[test]
fn a_batch_that_is_to_be_without_end_ends() {
    let queue: Queue<u64> = Queue::new(1_024).unwrap();
    let theirs = queue.clone();
    let put = move |number| _ = theirs.try_put(number);
    let victim = move || {
        let victim = fork(move || {
            for _ in 0..100 {
                let mut values = Vec::new();
                let _ = queue.get_many_timeout(&mut values, usize::MAX, SHORT);
                assert!(values.len() <= 1_024);
            }
        });
        let status = victim.join_timeout(PATIENCE).expect("every batch ends");
        assert!(status.success(), "{status}");
    };
    beside(put, victim);
}

/// A peer offers one place again and again as a place with a returned task.
#[test]
fn a_place_that_offers_tasks_without_end_holds_nobody_up() {
    let (queue, spoiler) = joinable(SOME);
    spoiler.write_half(USED, 16);
    spoiler.write(RETURNS, 1);
    let offer = |number: u64| spoiler.write(spoiler.place(9, 1), (number << 23) | RETURNED | 77);
    beside(offer, || operate_in_time(&queue, || ()));
}
