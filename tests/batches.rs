//! Queues of batches.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::*};

use crossproc::bytemuck::Pod;
use crossproc::{BatchQueue, Queue, QueueError, QueueOptions, RegionError, Shm};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

fn queue<T: Pod + Send>(capacity: usize, max_batch: usize) -> BatchQueue<T> {
    BatchQueue::with_max_batch(capacity, max_batch).unwrap()
}

#[test]
fn items_come_in_order_however_they_are_got() {
    let queue = queue::<u64>(8, 4);
    queue.put_many(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    assert_eq!(queue.len(), 3);
    assert_eq!(queue.get().unwrap(), 0);
    assert_eq!(queue.receive().unwrap()[..], [1, 2, 3]);
    let mut numbers = Vec::new();
    assert_eq!(queue.get_many(&mut numbers, 3).unwrap(), 3);
    // The rest of one batch, and a part of the next.
    assert_eq!(queue.get_many(&mut numbers, 2).unwrap(), 2);
    assert_eq!(numbers, [4, 5, 6, 7, 8]);
    assert_eq!(queue.len(), 1);
    assert_eq!(queue.get_many(&mut numbers, 100).unwrap(), 1);
    assert_eq!(numbers[5..], [9]);
    assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
    assert!(matches!(queue.try_receive().map(drop), Err(QueueError::Empty)));
    assert!(matches!(queue.try_get_many(&mut numbers, 1), Err(QueueError::Empty)));
    assert_eq!(queue.try_get_many(&mut numbers, 0).unwrap(), 0);
}

#[test]
fn room_is_counted_in_batches() {
    let queue = queue::<u64>(2, 3);
    queue.put(1).unwrap();
    queue.put_many(&[2, 3, 4]).unwrap();
    assert!(queue.is_full());
    assert!(matches!(queue.try_put(5).unwrap_err().error, QueueError::Full));
    assert_eq!(queue.try_put_many(&[5, 6]).unwrap_err().put, 0);
    // Some items of a batch do not make room, the last does.
    assert_eq!(queue.get().unwrap(), 1);
    let refused = queue.try_put_many(&[5, 6, 7, 8]).unwrap_err();
    assert_eq!(refused.put, 3);
    assert_eq!(queue.get().unwrap(), 2);
    assert!(queue.try_put(8).is_err());
    assert_eq!(queue.receive().unwrap()[..], [3, 4]);
    queue.try_put(8).unwrap();
    queue.close().unwrap();
    let mut numbers = Vec::new();
    assert_eq!(queue.get_many(&mut numbers, 100).unwrap(), 4);
    assert_eq!(numbers, [5, 6, 7, 8]);
    assert!(matches!(queue.get(), Err(QueueError::Closed)));
    assert!(matches!(queue.put_many(&[9]).unwrap_err().error, QueueError::Closed));
}

/// Puts and gets items of one type in batches of many lengths, at many places of their batches.
fn goes_through<T: Pod + Send + PartialEq + core::fmt::Debug>(item: impl Fn(u64) -> T) {
    for max_batch in [1, 2, 7, 64] {
        let queue = queue::<T>(4, max_batch);
        let all: Vec<T> = (0..4 * max_batch as u64).map(item_of(&item)).collect();
        for most in [1, 2, 3, 5, 8, 63, 64, 300] {
            queue.put_many(&all).unwrap();
            let mut got = vec![queue.get().unwrap()];
            while got.len() < all.len() {
                queue.try_get_many(&mut got, most).unwrap();
            }
            assert_eq!(got, all, "batches of {max_batch}, got {most} at a time");
        }
        queue.put_many(&all[..max_batch]).unwrap();
        queue.get().unwrap();
        if max_batch > 1 {
            assert_eq!(queue.receive().unwrap()[..], all[1..max_batch]);
        }
    }
}

fn item_of<T>(item: &impl Fn(u64) -> T) -> impl Fn(u64) -> T + '_ {
    move |number| item(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn items_of_any_size_and_alignment_go_through() {
    goes_through(|bits| bits);
    goes_through(|bits| bits as u8);
    goes_through(|bits| bits as u32);
    goes_through(|bits| u128::from(bits) << 3);
    goes_through(|bits| [bits as u8, (bits >> 8) as u8, (bits >> 16) as u8]);
    goes_through(|bits| [bits as u16; 7]);
    goes_through(|bits| [bits; 9]);
    goes_through(|_| [0_u64; 0]);
}

#[test]
fn impossible_numbers_are_told() {
    let told = |capacity, max_batch| match BatchQueue::<u64>::with_max_batch(capacity, max_batch) {
        Err(RegionError::UnsuitableQueue { what }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(1, 0), "a batch must have 1 to 64 items, not 0");
    assert_eq!(told(1, 65), "a batch must have 1 to 64 items, not 65");
    assert_eq!(told(0, 1), "the capacity must be 1 to 1048576 items, not 0");
    assert_eq!(
        told(1 << 15, 1),
        "capacity, dead letters, and participants times loans + 1 come to 36864 slots, of which \
         there can be 32767: take less of one of them"
    );
    let most = QueueOptions::new().participants(1).loans(1).create_batches::<u8>(32_765, 64);
    assert_eq!(most.unwrap().capacity(), 32_765);
    let what = BatchQueue::<[u64; 1 << 24]>::with_max_batch(1, 64).map(drop).unwrap_err();
    assert_eq!(
        what.to_string(),
        "there can be no such queue: an item can have 4294967295 bytes at most, not 8589934592"
    );
}

#[test]
fn a_queue_of_batches_is_not_taken_for_another() {
    let batches = queue::<u64>(2, 3);
    let file = |queue: &dyn AsFd| queue.as_fd().try_clone_to_owned().unwrap();
    let as_items = Queue::<u64>::attach(file(&batches));
    assert!(matches!(as_items, Err(RegionError::OtherLayout { .. })), "{as_items:?}");
    let items: Queue<u64> = Queue::new(2).unwrap();
    let as_batches = BatchQueue::<u64>::attach(file(&items));
    assert!(matches!(as_batches, Err(RegionError::OtherLayout { .. })), "{as_batches:?}");
    let of_others = BatchQueue::<u32>::attach(file(&batches));
    assert!(matches!(of_others, Err(RegionError::OtherLayout { .. })), "{of_others:?}");
    let same = BatchQueue::<u64>::attach(file(&batches)).unwrap();
    assert_eq!((same.capacity(), same.max_batch()), (2, 3));
    same.put_many(&[1, 2]).unwrap();
    assert_eq!(batches.receive().unwrap()[..], [1, 2]);
}

/// Random operations, beside a list of batches that is changed in the same way.
#[test]
fn it_does_what_a_list_of_batches_does() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let (capacity, max_batch) = (random.usize(1..5), random.usize(1..7));
        let queue = queue::<[u32; 3]>(capacity, max_batch);
        let mut list: VecDeque<VecDeque<[u32; 3]>> = VecDeque::new();
        let mut next = 0;
        for _ in 0..300 {
            assert_eq!((queue.len(), queue.is_full()), (list.len(), list.len() == capacity));
            match random.u32(..5) {
                0 | 1 => {
                    let items: Vec<_> = (0..random.u32(..12))
                        .map(|_| {
                            next += 1;
                            [next, !next, next << 8]
                        })
                        .collect();
                    let room = max_batch * (capacity - list.len());
                    let put = items.len().min(room);
                    match queue.try_put_many(&items) {
                        Ok(()) => assert_eq!(put, items.len()),
                        Err(refused) => assert_eq!((refused.put, put < items.len()), (put, true)),
                    }
                    let batches = items[..put].chunks(max_batch);
                    list.extend(batches.map(|batch| batch.iter().copied().collect()));
                }
                2 => {
                    let first = list.front_mut().and_then(VecDeque::pop_front);
                    assert_eq!(queue.try_get().ok(), first);
                }
                3 => {
                    let batch = list.pop_front();
                    let received = queue.try_receive().ok();
                    assert_eq!(
                        received.map(|batch| batch.to_vec()),
                        batch.map(|batch| batch.into_iter().collect())
                    );
                }
                _ => {
                    let most = random.usize(1..15);
                    let mut got = Vec::new();
                    let _ = queue.try_get_many(&mut got, most);
                    let mut expected = Vec::new();
                    while expected.len() < most && !list.is_empty() {
                        expected.extend(list[0].pop_front());
                        if list[0].is_empty() {
                            list.pop_front();
                        }
                    }
                    assert_eq!(got, expected);
                }
            }
            if list.front().is_some_and(VecDeque::is_empty) {
                list.pop_front();
            }
        }
    }
}

/// One put of a batch is for as many getters as it has items.
#[test]
fn a_batch_wakes_a_sleeper_for_each_item() {
    let queue = queue::<u64>(4, 8);
    let got: Shm<AtomicU64> = Shm::new(AtomicU64::new(0)).unwrap();
    // No slice makes up for a wake-up that is not given.
    crossproc::set_recheck_interval(None);
    let getters = [(); 5].map(|()| {
        let (queue, got) = (queue.clone(), got.clone());
        let getter = fork(move || {
            got.fetch_add(queue.get_timeout(PATIENCE).unwrap(), Relaxed);
        });
        wait_until_asleep(&getter);
        getter
    });
    queue.put_many(&[1, 10, 100, 1_000, 10_000]).unwrap();
    join_all(getters);
    assert_eq!(got.load(Relaxed), 11_111);
}

/// Each item is got once, in the order of its producer, by getters of all kinds in several
/// processes.
#[test]
fn each_item_is_got_once_in_its_producers_order() {
    const EACH: u64 = 60_000;
    let queue = queue::<[u64; 3]>(16, 16);
    let sum: Shm<AtomicU64> = Shm::new(AtomicU64::new(0)).unwrap();
    let producers = [1, 2].map(|producer: u64| {
        let queue = queue.clone();
        fork(move || {
            let mut next = 0;
            while next < EACH {
                let count = fastrand::u64(1..40).min(EACH - next);
                let items: Vec<_> =
                    (next..next + count).map(|number| [producer, number, !number]).collect();
                queue.put_many(&items).unwrap();
                next += count;
            }
        })
    });
    let getters = [0, 1, 2].map(|how| {
        let (queue, sum) = (queue.clone(), sum.clone());
        fork(move || {
            let mut last = [None; 3];
            let mut see = |[producer, number, mirrored]: [u64; 3]| {
                assert_eq!(mirrored, !number);
                let before = last[producer as usize].replace(number);
                assert!(before < Some(number), "{number} after {before:?} of {producer}");
                sum.fetch_add(number + 1, Relaxed);
            };
            loop {
                match how {
                    0 => match queue.get() {
                        Ok(item) => see(item),
                        Err(_) => break,
                    },
                    1 => {
                        let mut items = Vec::new();
                        if queue.get_many(&mut items, fastrand::usize(1..30)).is_err() {
                            break;
                        }
                        items.into_iter().for_each(&mut see);
                    }
                    _ => match queue.receive() {
                        Ok(items) => items.iter().copied().for_each(&mut see),
                        Err(_) => break,
                    },
                }
            }
        })
    });
    join_all(producers);
    queue.close().unwrap();
    join_all(getters);
    assert_eq!(sum.load(Relaxed), 2 * (EACH * (EACH + 1) / 2));
}

/// What a killed getter had not got is still there; what it had got is gone, and nothing else.
#[test]
fn a_killed_getter_takes_only_what_it_got() {
    for _ in 0..40 {
        let queue = queue::<u64>(64, 8);
        let numbers: Vec<u64> = (0..400).collect();
        queue.put_many(&numbers).unwrap();
        let got: Shm<AtomicU64> = Shm::new(AtomicU64::new(0)).unwrap();
        let victim = {
            let (queue, got) = (queue.clone(), got.clone());
            fork(move || {
                while queue.get().is_ok() {
                    got.fetch_add(1, Release);
                }
            })
        };
        let enough = fastrand::u64(1..300);
        wait_until("it has got some", || got.load(Acquire) >= enough);
        kill(&victim);
        let mut left = Vec::new();
        while queue.try_get_many(&mut left, 1_000).is_ok() {}
        // One may be got and not counted.
        let gone = numbers.len() - left.len();
        let counted = got.load(Acquire) as usize;
        assert!(gone == counted || gone == counted + 1, "{gone} are gone, {counted} were got");
        assert_eq!(left, numbers[gone..]);
    }
}
