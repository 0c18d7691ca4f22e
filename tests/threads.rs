//! The memory ordering of each primitive, shown by memory that is not atomic. Threads of one
//! process write it before they pass something on, and read it after they have got it. A wrong
//! total shows an error on this processor. ThreadSanitizer (`ci/sanitize.sh`) shows errors that
//! need another one.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::thread;

use crossproc::{
    Barrier, BoundedSemaphore, Broadcast, ByteQueue, Condition, Event, JoinableQueue, Lock, Once,
    Permits, Queue, RLock, RwLock, Semaphore, Shm, shared,
};

const THREADS: usize = 4;
const ROUNDS: usize = 2_000;

/// A number that threads pass from one to another.
struct Passed(UnsafeCell<usize>);

// SAFETY: the primitives under test give it to one thread at a time. Whether they do so is what is
// tested.
unsafe impl Sync for Passed {}

impl Passed {
    const fn new() -> Self {
        Passed(UnsafeCell::new(0))
    }

    fn add(&self, count: usize) {
        // SAFETY: see above.
        unsafe { *self.0.get() += count };
    }

    fn get(&self) -> usize {
        // SAFETY: see above.
        unsafe { *self.0.get() }
    }
}

/// Runs `body` on this many threads, and joins each of them. A sanitizer knows of such a join, but
/// not of the end of a scope.
fn together(threads: usize, body: impl Fn(usize) + Sync) {
    let body = &body;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|index| scope.spawn(move || body(index))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn locks() {
    let passed = Passed::new();
    let lock = Shm::new(Lock::new(0_usize)).unwrap();
    together(THREADS, |_| {
        for _ in 0..ROUNDS {
            let mut guard = lock.lock().unwrap();
            *guard += 1;
            passed.add(1);
        }
    });
    assert_eq!((*lock.lock().unwrap(), passed.get()), (THREADS * ROUNDS, THREADS * ROUNDS));
}

#[test]
fn locks_in_time_and_at_once() {
    let passed = Passed::new();
    let lock = Shm::new(Lock::new(())).unwrap();
    together(THREADS, |index| {
        let mut count = 0;
        while count < ROUNDS {
            let guard = if index % 2 == 0 {
                lock.try_lock()
            } else {
                lock.lock_timeout(std::time::Duration::from_micros(50))
            };
            if guard.is_ok() {
                passed.add(1);
                count += 1;
            }
        }
    });
    assert_eq!(passed.get(), THREADS * ROUNDS);
}

#[test]
fn reentrant_locks() {
    let passed = Passed::new();
    let lock = Shm::new(RLock::new(0_usize)).unwrap();
    together(THREADS, |_| {
        for _ in 0..ROUNDS {
            let outer = lock.lock().unwrap();
            let inner = lock.lock().unwrap();
            inner.set(outer.get() + 1);
            passed.add(1);
        }
    });
    assert_eq!((lock.lock().unwrap().get(), passed.get()), (THREADS * ROUNDS, THREADS * ROUNDS));
}

#[test]
fn readers_and_writers() {
    let passed = Passed::new();
    let lock = Shm::new(RwLock::<usize, THREADS>::new(0)).unwrap();
    together(THREADS, |index| {
        for round in 0..ROUNDS {
            if (round + index) % 4 == 0 {
                *lock.write().unwrap() += 1;
                let _guard = lock.write().unwrap();
                passed.add(1);
            } else {
                let guard = lock.read().unwrap();
                assert!(*guard + THREADS >= passed.get());
            }
        }
    });
    assert_eq!((*lock.read().unwrap(), passed.get()), (THREADS * ROUNDS / 4, THREADS * ROUNDS / 4));
}

#[test]
fn permits_and_semaphores() {
    let passed = [const { Passed::new() }; 3];
    let (permits, semaphore) =
        (Shm::new(Permits::<1>::new()).unwrap(), Shm::new(Semaphore::new(1)).unwrap());
    let bounded = Shm::new(BoundedSemaphore::new(1)).unwrap();
    together(THREADS, |_| {
        for _ in 0..ROUNDS {
            let permit = permits.acquire().unwrap();
            passed[0].add(1);
            drop(permit);
            semaphore.acquire();
            passed[1].add(1);
            semaphore.release().unwrap();
            bounded.acquire();
            passed[2].add(1);
            bounded.release().unwrap();
        }
    });
    assert_eq!(passed.map(|passed| passed.get()), [THREADS * ROUNDS; 3]);
}

shared! {
    struct Turns {
        ping: Event,
        pong: Event,
    }
}

#[test]
fn events() {
    let passed = Passed::new();
    let turns = Shm::new(Turns { ping: Event::new(), pong: Event::new() }).unwrap();
    together(2, |index| {
        let (mine, other) =
            if index == 0 { (&turns.ping, &turns.pong) } else { (&turns.pong, &turns.ping) };
        for round in 0..ROUNDS {
            if index == 0 {
                assert_eq!(passed.get(), 2 * round);
                passed.add(1);
                other.set();
            }
            mine.wait();
            mine.clear();
            if index == 1 {
                assert_eq!(passed.get(), 2 * round + 1);
                passed.add(1);
                other.set();
            }
        }
    });
    assert_eq!(passed.get(), 2 * ROUNDS);
}

shared! {
    struct Signalled {
        turn: Lock<usize>,
        changed: Condition,
    }
}

#[test]
fn conditions() {
    let passed = Passed::new();
    let all = Shm::new(Signalled { turn: Lock::new(0), changed: Condition::new() }).unwrap();
    together(THREADS, |index| {
        for _ in 0..ROUNDS / 10 {
            let mut turn = all.turn.lock().unwrap();
            while *turn % THREADS != index {
                all.changed.wait(&mut turn).unwrap();
            }
            passed.add(1);
            *turn += 1;
            all.changed.notify_all();
        }
    });
    assert_eq!(passed.get(), THREADS * (ROUNDS / 10));
}

#[test]
fn barriers() {
    let passed = [const { Passed::new() }; THREADS];
    let barrier = Shm::new(Barrier::new(THREADS as u32)).unwrap();
    together(THREADS, |index| {
        for round in 0..ROUNDS / 10 {
            passed[index].add(1);
            barrier.wait().unwrap();
            assert!(passed.iter().all(|passed| passed.get() == round + 1));
            barrier.wait().unwrap();
        }
    });
}

#[test]
fn what_is_done_once() {
    for _ in 0..ROUNDS / 10 {
        let passed = Passed::new();
        let once = Shm::new(Once::new()).unwrap();
        together(THREADS, |_| {
            once.call_once(|_| passed.add(1)).unwrap();
            assert_eq!(passed.get(), 1);
        });
    }
}

/// Each item is the number of a place. Its putter has written that place, and no other thread does
/// until the item is got.
/// Each subscriber sees what was written before each send, whether it copies the item or views it.
#[test]
fn broadcasts() {
    let places: Vec<Passed> = (0..THREADS / 2 * ROUNDS).map(|_| Passed::new()).collect();
    let broadcast = Broadcast::<u64>::new(8).unwrap();
    let subscribed = AtomicUsize::new(0);
    together(THREADS, |index| {
        if index % 2 == 0 {
            while subscribed.load(Acquire) < THREADS / 2 {
                thread::yield_now();
            }
            for place in (index / 2 * ROUNDS..).take(ROUNDS) {
                places[place].add(place);
                broadcast.send(place as u64).unwrap();
            }
        } else {
            let mut subscriber = broadcast.subscribe().unwrap();
            subscribed.fetch_add(1, Release);
            for round in 0..places.len() {
                let place = match round % 2 {
                    0 => subscriber.recv().unwrap() as usize,
                    _ => *subscriber.view().unwrap() as usize,
                };
                assert_eq!(places[place].get(), place);
            }
        }
    });
}

#[test]
fn queues() {
    const PLACES: usize = THREADS / 2 * ROUNDS;
    let places: Vec<Passed> = (0..3 * PLACES).map(|_| Passed::new()).collect();
    let (items, tasks) = (Queue::<u64>::new(8).unwrap(), JoinableQueue::<u64>::new(8).unwrap());
    let bytes = ByteQueue::with_max_len(8, 64).unwrap();
    together(THREADS, |index| {
        if index % 2 == 0 {
            for place in (index / 2 * ROUNDS..).take(ROUNDS) {
                places[place].add(place);
                items.put(place as u64).unwrap();
                places[PLACES + place].add(place);
                tasks.put(place as u64).unwrap();
                places[2 * PLACES + place].add(place);
                // Messages of several lengths.
                let mut loan = bytes.loan(8 + place % 10).unwrap();
                loan[..8].copy_from_slice(&place.to_le_bytes());
                loan.send().unwrap();
            }
        } else {
            for _ in 0..ROUNDS {
                let place = items.get().unwrap() as usize;
                assert_eq!(places[place].get(), place);
                let task = tasks.get().unwrap();
                let place = *task as usize;
                assert_eq!(places[PLACES + place].get(), place);
                task.done();
                let message = bytes.receive().unwrap();
                let place = usize::from_le_bytes(message[..8].try_into().unwrap());
                assert_eq!(places[2 * PLACES + place].get(), place);
                assert_eq!(message.len(), 8 + place % 10);
            }
        }
    });
    tasks.join().unwrap();
}

/// A thread that joins sees what was done with the tasks.
#[test]
fn joins() {
    let places = [const { Passed::new() }; 16];
    let tasks = JoinableQueue::<u64>::new(16).unwrap();
    together(THREADS, |index| {
        if index == 0 {
            for round in 1..=ROUNDS / 20 {
                (0..16).for_each(|place| tasks.put(place).unwrap());
                tasks.join().unwrap();
                assert!(places.iter().all(|place| place.get() == round));
            }
            tasks.close().unwrap();
        } else {
            while let Ok(task) = tasks.get() {
                places[*task as usize].add(1);
                task.done();
            }
        }
    });
}
