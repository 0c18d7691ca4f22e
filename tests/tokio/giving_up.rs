//! Futures that are dropped before they are done: nothing is lost, and nobody is forgotten.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crossproc::{Event, Queue, QueueError, Semaphore, Shm, set_recheck_interval};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::{in_time, poll_once, threads};
use crate::forked::{PATIENCE, fork, join_all, wait_until, wait_until_asleep};

#[test]
fn a_future_that_is_dropped_has_taken_and_put_nothing() {
    let queue = Queue::<u64>::new(1).unwrap();
    set_recheck_interval(None);
    {
        let mut get = pin!(queue.get_async());
        assert!(poll_once(get.as_mut()).is_pending());
        queue.put(1).unwrap();
    }
    {
        let mut put = pin!(queue.put_async(2));
        assert!(poll_once(put.as_mut()).is_pending());
        assert_eq!(queue.get().unwrap(), 1);
    }
    assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
    let permits = Semaphore::new(0);
    {
        let mut acquire = pin!(permits.acquire_async());
        assert!(poll_once(acquire.as_mut()).is_pending());
        permits.release().unwrap();
    }
    assert_eq!(permits.value(), 1);
}

/// Getters give up after a random time, until they have got all that several processes put.
#[test]
fn nothing_is_lost_by_getters_that_give_up() {
    const PRODUCERS: u64 = 3;
    const EACH: u64 = 4_000;
    let queue = Queue::<u64>::new(8).unwrap();
    let children: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let queue = queue.clone();
            fork(move || (0..EACH).for_each(|number| queue.put(producer * EACH + number).unwrap()))
        })
        .collect();
    let runtime = threads(3);
    let (sum, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut getters = JoinSet::new();
    for getter in 0..20 {
        let (queue, sum, count) = (queue.clone(), Arc::clone(&sum), Arc::clone(&count));
        let get = async move {
            loop {
                // Some getters never give up: if one of them sleeps on, something was lost.
                let patience = if getter % 5 == 0 {
                    PATIENCE
                } else {
                    Duration::from_micros(fastrand::u64(..2_000))
                };
                tokio::select! {
                    biased;
                    () = sleep(patience) => {}
                    number = queue.get_async() => match number {
                        Ok(number) => {
                            sum.fetch_add(number, SeqCst);
                            count.fetch_add(1, SeqCst);
                        }
                        Err(error) => return assert!(matches!(error, QueueError::Closed)),
                    },
                }
            }
        };
        getters.spawn_on(get, runtime.handle());
    }
    join_all(children);
    wait_until("all is got", || count.load(SeqCst) == PRODUCERS * EACH);
    queue.close().unwrap();
    runtime.block_on(in_time(getters.join_all()));
    assert_eq!(sum.load(SeqCst), (0..PRODUCERS * EACH).sum());
}

#[test]
fn nothing_is_lost_by_putters_that_give_up() {
    const ALL: u64 = 5_000;
    let queue = Queue::<u64>::new(2).unwrap();
    let theirs = queue.clone();
    let total = Shm::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let total = total.unwrap();
    let their_total = total.clone();
    let child = fork(move || {
        while let Ok(number) = theirs.get() {
            their_total[0].fetch_add(number, SeqCst);
        }
    });
    let runtime = threads(3);
    let mut putters = JoinSet::new();
    for _ in 0..10 {
        let (queue, total) = (queue.clone(), total.clone());
        let put = async move {
            while total[1].load(SeqCst) < ALL {
                let number = fastrand::u64(..1_000);
                let patience = Duration::from_micros(fastrand::u64(..1_000));
                // The sum of the numbers that were put, by the putters' own count.
                tokio::select! {
                    biased;
                    () = sleep(patience) => {}
                    put = queue.put_async(number) => {
                        put.unwrap();
                        total[1].fetch_add(1, SeqCst);
                        total[0].fetch_sub(number, SeqCst);
                    }
                }
            }
        };
        putters.spawn_on(put, runtime.handle());
    }
    runtime.block_on(in_time(putters.join_all()));
    queue.close().unwrap();
    join_all([child]);
    assert_eq!(total[0].load(SeqCst), 0);
}

#[test]
fn no_permit_is_lost_by_those_who_give_up() {
    const PERMITS: u32 = 3;
    let permits = Shm::new(Semaphore::new(PERMITS)).unwrap();
    let stop = Shm::new(Event::new()).unwrap();
    let children: Vec<_> = (0..2)
        .map(|_| {
            let (permits, stop) = (permits.clone(), stop.clone());
            fork(move || {
                while !stop.is_set() {
                    permits.acquire();
                    permits.release().unwrap();
                }
            })
        })
        .collect();
    let runtime = threads(2);
    let mut takers = JoinSet::new();
    for taker in 0..20 {
        let permits = permits.clone();
        let take = async move {
            for _ in 0..200 {
                let patience = if taker % 4 == 0 {
                    PATIENCE
                } else {
                    Duration::from_micros(fastrand::u64(..500))
                };
                tokio::select! {
                    biased;
                    () = sleep(patience) => assert!(taker % 4 != 0, "one that waits was forgotten"),
                    taken = permits.acquire_async() => {
                        taken.unwrap();
                        yield_now().await;
                        permits.release().unwrap();
                    }
                }
            }
        };
        takers.spawn_on(take, runtime.handle());
    }
    runtime.block_on(in_time(takers.join_all()));
    stop.set();
    join_all(children);
    assert_eq!(permits.value(), PERMITS);
}

#[test]
fn a_sleeper_elsewhere_is_not_forgotten_for_a_future_that_is_dropped() {
    let queue = Queue::<u64>::new(4).unwrap();
    set_recheck_interval(None);
    for round in 0..200 {
        let mut get = Box::pin(queue.get_async());
        assert!(poll_once(get.as_mut()).is_pending());
        let theirs = queue.clone();
        let child = fork(move || assert_eq!(theirs.get().unwrap(), round));
        wait_until_asleep(&child);
        // The thread of this process is the first sleeper. The wake may reach it before the drop,
        // or after it.
        if round % 2 == 0 {
            queue.put(round).unwrap();
            drop(get);
        } else {
            drop(get);
            queue.put(round).unwrap();
        }
        join_all([child]);
    }
}
