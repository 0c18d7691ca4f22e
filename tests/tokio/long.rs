//! Futures that put long messages, and wait for memory.

use std::pin::pin;
use std::sync::Arc;

use crossproc::{ByteQueue, QueueError, QueueOptions, set_recheck_interval};
use tokio::task::{JoinHandle, yield_now};

use super::{in_time, one_thread, poll_once};
use crate::forked::{fork, join_all};

const UNIT: usize = 4_096;

/// Returns a queue with memory for so many units.
fn queue(capacity: usize, units: usize) -> ByteQueue {
    // Slices would hide a wait that nobody ends.
    set_recheck_interval(None);
    let options = QueueOptions::new().long_messages(units * UNIT, units * UNIT);
    options.create_bytes(capacity, 100).unwrap()
}

fn message(units: usize) -> Vec<u8> {
    vec![units as u8; units * UNIT]
}

/// Spawns a task that puts a message of so many units.
fn put(queue: &ByteQueue, units: usize) -> JoinHandle<()> {
    let queue = queue.clone();
    tokio::spawn(async move { queue.put_async(&message(units)).await.unwrap() })
}

#[test]
fn a_put_waits_for_the_memory_that_another_process_frees() {
    let queue = queue(8, 4);
    queue.put(&message(4)).unwrap();
    one_thread().block_on(in_time(async {
        let message = message(2);
        let mut put = pin!(queue.put_async(&message));
        assert!(poll_once(put.as_mut()).is_pending());
        let theirs = queue.clone();
        let child = fork(move || assert_eq!(theirs.get().unwrap().len(), 4 * UNIT));
        put.await.unwrap();
        join_all([child]);
    }));
}

/// What is released at once is enough for both.
#[test]
fn those_who_need_more_and_less_are_both_told() {
    one_thread().block_on(in_time(async {
        let queue = queue(8, 10);
        queue.put(&message(8)).unwrap();
        queue.put(&message(2)).unwrap();
        let both = [queue.receive().unwrap(), queue.receive().unwrap()];
        let puts = [put(&queue, 8), put(&queue, 2)];
        // Both wait.
        for _ in 0..10 {
            yield_now().await;
        }
        drop(both);
        for put in puts {
            put.await.unwrap();
        }
    }));
}

/// The first waits for room, and gets it, but for the memory that a second one waits for.
#[test]
fn one_who_waits_for_room_is_told_beside_one_who_waits_for_memory() {
    one_thread().block_on(in_time(async {
        for _ in 0..200 {
            let queue = Arc::new(queue(2, 10));
            queue.put(&message(6)).unwrap();
            let held = queue.receive().unwrap();
            queue.put(&[1]).unwrap();
            queue.put(&[2]).unwrap();
            let little = put(&queue, 1);
            let get = {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move { assert_eq!(queue.try_get().unwrap(), [1]) })
            };
            let much = put(&queue, 9);
            get.await.unwrap();
            little.await.unwrap();
            much.abort();
            drop(held);
        }
    }));
}

#[test]
fn a_close_ends_a_put_that_waits_for_memory() {
    let queue = queue(8, 4);
    queue.put(&message(4)).unwrap();
    one_thread().block_on(in_time(async {
        let message = message(2);
        let mut put = pin!(queue.put_async(&message));
        assert!(poll_once(put.as_mut()).is_pending());
        queue.close().unwrap();
        assert!(matches!(put.await, Err(QueueError::Closed)));
    }));
}
