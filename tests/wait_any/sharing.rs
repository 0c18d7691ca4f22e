//! Watchers, and others that wait in the ordinary way, take all that is given.

use std::sync::atomic::Ordering::*;

use crossproc::{Queue, Semaphore, Shm, wait_any};

use super::{Board, board};
use crate::forked::{fork, kill, wait_until, wait_until_asleep};

/// Asserts that `watchers` and `others` together take everything that is given. Watchers wait for
/// any of several things, and others wait in the ordinary way.
fn share(
    watchers: usize,
    others: usize,
    watch: impl Fn(&Board) + Sync,
    wait: impl Fn(&Board) + Sync,
    give: impl Fn(usize),
    most: u64,
) {
    let board = board();
    let count = || board.counts[0].fetch_add(1, SeqCst);
    let watchers: Vec<_> = (0..watchers)
        .map(|_| {
            fork(|| -> () {
                loop {
                    watch(&board);
                    count();
                }
            })
        })
        .collect();
    let others: Vec<_> = (0..others)
        .map(|_| {
            fork(|| -> () {
                loop {
                    wait(&board);
                    count();
                }
            })
        })
        .collect();
    watchers.iter().chain(&others).for_each(wait_until_asleep);
    let mut given = 0;
    while given < most {
        let count = fastrand::usize(1..4);
        give(count);
        given += count as u64;
        if fastrand::bool() {
            wait_until("all is taken", || board.counts[0].load(SeqCst) == given);
        }
    }
    wait_until("all is taken", || board.counts[0].load(SeqCst) == given);
    watchers.iter().chain(&others).for_each(kill);
}

#[test]
fn watchers_and_others_take_all_permits() {
    let semaphore = &Shm::new(Semaphore::new(0)).unwrap();
    let watch = |board: &Board| {
        while semaphore.try_acquire().is_err() {
            wait_any(&[&board.event, &**semaphore]).unwrap();
        }
    };
    share(
        4,
        4,
        watch,
        |_| semaphore.acquire(),
        |count| semaphore.release_many(count as u32).unwrap(),
        5_000,
    );
}

#[test]
fn watchers_and_others_take_all_items() {
    let queue = &Queue::<u64>::new(8).unwrap();
    let watch = |board: &Board| {
        while queue.try_get().is_err() {
            wait_any(&[&board.event, queue]).unwrap();
        }
    };
    share(
        4,
        4,
        watch,
        |_| assert_eq!(queue.get().unwrap(), 7),
        |count| queue.put_many(&vec![7; count]).unwrap(),
        5_000,
    );
}

#[test]
fn watchers_and_others_use_all_room() {
    let queue = &Queue::<u64>::new(2).unwrap();
    queue.put_many(&[7, 7]).unwrap();
    let watch = |board: &Board| {
        while queue.try_put(7).is_err() {
            wait_any(&[&board.event, &queue.room()]).unwrap();
        }
    };
    share(
        4,
        4,
        watch,
        |_| queue.put(7).unwrap(),
        |count| (0..count).for_each(|_| _ = queue.get().unwrap()),
        5_000,
    );
}
