//! No participant starves: each of four consumers, and each of four producers, has at least half of
//! its share.
//!
//! A contest lasts 2 s, or as many seconds as `FAIRNESS_SECONDS` says.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::time::Instant;

use crossproc::{Queue, QueueError, Shm};

mod forked;
use forked::{fork, join_all};

const OF_EACH: usize = 4;

fn seconds() -> Duration {
    let seconds = std::env::var("FAIRNESS_SECONDS")
        .map_or(2, |seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// Returns how many items each has put or got: producers first, then consumers.
fn contest(capacity: usize) -> Vec<u64> {
    let queue = Queue::<u64>::new(capacity).unwrap();
    let counts: Shm<[AtomicU64]> = Shm::from_fn(2 * OF_EACH, |_| AtomicU64::new(0)).unwrap();
    let end = Instant::now() + seconds();
    let members = (0..2 * OF_EACH).map(|index| {
        let (queue, counts) = (queue.clone(), counts.clone());
        fork(move || -> Result<(), QueueError> {
            while Instant::now() < end {
                let result = match index < OF_EACH {
                    true => queue.put_deadline(1, end).map_err(QueueError::from),
                    false => queue.get_deadline(end).map(|_| ()),
                };
                match result {
                    Ok(()) => counts[index].fetch_add(1, Relaxed),
                    Err(QueueError::TimedOut) => break,
                    Err(error) => return Err(error),
                };
            }
            Ok(())
        })
    });
    join_all(members.collect::<Vec<_>>());
    counts.iter().map(|count| count.load(Relaxed)).collect()
}

#[test]
fn each_of_four_producers_and_consumers_has_at_least_half_its_share() {
    for capacity in [16, 1024] {
        let counts = contest(capacity);
        println!("capacity {capacity}: {counts:?}");
        for side in counts.chunks(OF_EACH) {
            let share = side.iter().sum::<u64>() / OF_EACH as u64;
            assert!(
                side.iter().all(|&count| count >= share / 2),
                "capacity {capacity}: {counts:?}"
            );
        }
    }
}
