//! Processes that are killed beside futures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crossproc::{Event, JoinableQueue, QueueOptions, Shm};
use tokio::task::yield_now;

use super::{in_time, threads};
use crate::forked::{fork, join_all, kill, wait_until};

#[test]
fn tasks_of_a_killed_worker_come_to_a_future() {
    let queue = JoinableQueue::<u64>::new(8).unwrap();
    let runtime = threads(2);
    for round in 1..=20 {
        queue.put(round).unwrap();
        let theirs = queue.clone();
        let has_it = Shm::new(Event::new()).unwrap();
        let told = has_it.clone();
        let worker = fork(move || {
            let _task = theirs.get().unwrap();
            told.set();
            Event::new().wait();
        });
        has_it.wait();
        let ours = queue.clone();
        let got = runtime.spawn(async move {
            let task = ours.get_async().await.unwrap();
            let got = (*task, task.attempts());
            task.done();
            got
        });
        if round % 2 == 0 {
            // Most likely the future has found no task by then, and waits when the worker dies.
            runtime.block_on(async { yield_now().await });
        }
        kill(&worker);
        assert_eq!(runtime.block_on(in_time(got)).unwrap(), (round, 2));
    }
    queue.join().unwrap();
}

#[test]
fn killed_producers_lose_nothing_of_others_and_futures_go_on() {
    let queue = QueueOptions::new().participants(8).create::<u64>(4).unwrap();
    let runtime = threads(2);
    let (got, stop) = (Arc::new(AtomicU64::new(0)), Shm::new(Event::new()).unwrap());
    // The survivor's items all come, in order.
    let (theirs, their_stop) = (queue.clone(), stop.clone());
    let survivor = fork(move || {
        let mut number = 0;
        while !their_stop.is_set() {
            number += 1;
            theirs.put(number).unwrap();
        }
        theirs.put(number | 1 << 63).unwrap();
    });
    let (ours, counted) = (queue.clone(), Arc::clone(&got));
    let getter = runtime.spawn(async move {
        let mut last = 0;
        loop {
            match ours.get_async().await.unwrap() {
                0 => {}
                end if end >> 63 != 0 => return assert_eq!(end & !(1 << 63), last),
                number => {
                    assert_eq!(number, last + 1);
                    last = number;
                }
            }
            counted.fetch_add(1, SeqCst);
        }
    });
    for _ in 0..50 {
        let theirs = queue.clone();
        let victim = fork(move || -> () {
            loop {
                theirs.put(0).unwrap();
            }
        });
        let before = got.load(SeqCst);
        let more = fastrand::u64(1..200);
        wait_until("items are got", || got.load(SeqCst) > before + more);
        kill(&victim);
    }
    stop.set();
    runtime.block_on(in_time(getter)).unwrap();
    join_all([survivor]);
}
