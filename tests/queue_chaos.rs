//! Processes are killed at any instant, one after the other, while others put and get. `Queue` and
//! `JoinableQueue` keep everything that does not belong to the dead.
//!
//! `CHAOS_KILLS` sets the number of kills; `ci/chaos.sh` has many.

#![allow(unsafe_code)]

mod forked;

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use core::time::Duration;
use std::collections::HashMap;

use crossproc::process::Child;
use crossproc::{JoinableQueue, Queue, QueueError, QueueOptions};

use forked::{fork, join_all, kill, wait_until};

/// The number of producers, and of consumers.
const WORKERS: usize = 4;
const CAPACITY: usize = 16;
/// The most items of one call.
const BATCH: usize = 4;
/// The number of items after which a producer begins anew under another name.
const ITEMS: usize = 1 << 15;
/// The number of names.
const NAMES: usize = 1 << 15;
/// All workers, the judge, and some to spare.
const PARTICIPANTS: usize = 12;
/// The longest life of a process, in microseconds.
const LIFE: u64 = 1_000;
/// The number of deaths between two checks that things go on.
const LOOK: usize = 50;

/// The account of the items of one name.
struct Account {
    /// How many were put. A call in progress may have put some more.
    put: AtomicU64,
    got: [AtomicU64; ITEMS / 64],
}

/// The data that all processes share.
struct Ledger {
    names: AtomicU32,
    is_over: AtomicU32,
    /// How many items were got in all.
    total: AtomicU64,
    /// How many tasks were done that had been done before.
    again: AtomicU64,
    accounts: [Account; NAMES],
}

impl Ledger {
    /// Maps the ledger in memory that children inherit. It is never unmapped, and only the pages in
    /// use cost memory.
    fn new() -> &'static Ledger {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: no address is asked for, so no existing mapping changes.
        let start = unsafe { libc::mmap(ptr::null_mut(), size_of::<Ledger>(), prot, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "the ledger can be mapped");
        let start: NonNull<Ledger> = NonNull::new(start.cast()).expect("a mapping is not at 0");
        // SAFETY: long enough, page aligned, zeroed, which is a valid ledger (atomics), and never
        // unmapped.
        unsafe { start.as_ref() }
    }

    fn name(&self) -> usize {
        let name = self.names.fetch_add(1, SeqCst) as usize;
        assert!(name < NAMES, "there are not enough names");
        name
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst) != 0
    }

    /// Notes that an item was got. Returns whether it had been got before.
    fn note(&self, item: u64) -> bool {
        let (name, number) = parts(item);
        self.total.fetch_add(1, SeqCst);
        self.accounts[name].got[number / 64].fetch_or(1 << (number % 64), SeqCst)
            & 1 << (number % 64)
            != 0
    }

    /// Returns how many of all put items are missing. Asserts that no name has more than were put,
    /// but for one call in progress.
    fn missing(&self) -> usize {
        let names = &self.accounts[..self.names.load(SeqCst) as usize];
        let missing = |account: &Account| {
            let put = account.put.load(SeqCst) as usize;
            let is_there =
                |number: &usize| account.got[number / 64].load(SeqCst) & 1 << (number % 64) != 0;
            let end = (0..ITEMS).rev().find(is_there).map_or(0, |last| last + 1);
            assert!(end <= put + BATCH, "{end} items of one who has put {put}");
            (0..put.max(end)).filter(|number| !is_there(number)).count()
        };
        names.iter().map(missing).sum()
    }
}

fn parts(item: u64) -> (usize, usize) {
    ((item >> 32) as usize, item as u32 as usize)
}

/// Puts until the test is over. `put` puts some items, in order.
fn produce(ledger: &Ledger, mut put: impl FnMut(&[u64]) -> Result<(), QueueError>) {
    while !ledger.is_over() {
        let name = ledger.name();
        let account = &ledger.accounts[name];
        let mut number = 0;
        while number + BATCH <= ITEMS && !ledger.is_over() {
            let first = (name << 32 | number) as u64;
            let items: [u64; BATCH] = core::array::from_fn(|index| first + index as u64);
            let count = fastrand::usize(1..=BATCH);
            put(&items[..count]).expect("it is not closed before all producers have ended");
            number += count;
            account.put.store(number as u64, SeqCst);
        }
    }
}

/// Notes items in the order in which it gets them, until the queue is closed.
fn consume(ledger: &Ledger, mut get: impl FnMut(&mut Vec<u64>) -> Result<(), QueueError>) {
    let mut last = HashMap::new();
    let mut items = Vec::with_capacity(BATCH);
    loop {
        match get(&mut items) {
            Ok(()) => {}
            Err(QueueError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
        for item in items.drain(..) {
            let (name, number) = parts(item);
            assert!(last.insert(name, number) < Some(number), "{number} of {name} is out of order");
            assert!(!ledger.note(item), "{number} of {name} was got twice");
        }
    }
}

/// Kills and replaces as many workers as the test wants. Returns how many of each kind were killed,
/// and the workers that are left, producers first.
fn chaos(ledger: &'static Ledger, work: impl Fn(bool) -> Child) -> ([usize; 2], Vec<Child>) {
    let kills = std::env::var("CHAOS_KILLS")
        .map_or(300, |kills| kills.parse().expect("CHAOS_KILLS is a number"));
    let mut workers: Vec<Child> = (0..2 * WORKERS).map(|index| work(index < WORKERS)).collect();
    let mut killed = [0; 2];
    for round in 0..kills {
        // Any instant is as good as any other.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..LIFE)));
        let index = fastrand::usize(..workers.len());
        let is_producer = index < WORKERS;
        assert!(workers[index].is_alive().expect("it is ours"), "one has ended by itself: {index}");
        kill(&workers[index]);
        killed[usize::from(is_producer)] += 1;
        workers[index] = work(is_producer);
        if round % LOOK == 0 {
            let before = ledger.total.load(SeqCst);
            wait_until("things go on", || ledger.total.load(SeqCst) > before + 100);
        }
    }
    (killed, workers)
}

#[test]
fn a_queue_survives_chaos() {
    let ledger = Ledger::new();
    let queue: Queue<u64> =
        QueueOptions::new().participants(PARTICIPANTS).create(CAPACITY).unwrap();
    let work = |is_producer: bool| {
        let queue = queue.clone();
        fork(move || match is_producer {
            true => produce(ledger, |items| match *items {
                [item] if fastrand::bool() => {
                    let mut loan = queue.loan()?;
                    *loan = item;
                    loan.send().map_err(|refused| refused.error)
                }
                [item] => queue.put(item).map_err(|refused| refused.error),
                _ => queue.put_many(items).map_err(|refused| refused.error),
            }),
            false => consume(ledger, |items| {
                match fastrand::u8(..3) {
                    0 => items.push(queue.get()?),
                    1 => items.push(*queue.receive()?),
                    _ => _ = queue.get_many(items, BATCH)?,
                }
                Ok(())
            }),
        })
    };
    let ([consumers, _], mut workers) = chaos(ledger, work);
    let rest = workers.split_off(WORKERS);
    ledger.is_over.store(1, SeqCst);
    join_all(workers);
    queue.close().unwrap();
    join_all(rest);
    assert!(matches!(queue.try_get(), Err(QueueError::Closed)));
    let missing = ledger.missing();
    assert!(
        missing <= consumers * BATCH,
        "{missing} items are missing, and {consumers} consumers were killed"
    );
    println!("{} items; {missing} have gone with {consumers} consumers", ledger.total.load(SeqCst));
}

#[test]
fn a_queues_capacity_survives_chaos() {
    let ledger = Ledger::new();
    let queue: Queue<u64> =
        QueueOptions::new().participants(PARTICIPANTS).create(CAPACITY).unwrap();
    let work = |is_producer: bool| {
        let queue = queue.clone();
        fork(move || {
            while !ledger.is_over() {
                let is_done = match is_producer {
                    true => queue.try_put(1).is_ok(),
                    false => queue.try_get().is_ok(),
                };
                ledger.total.fetch_add(is_done.into(), SeqCst);
            }
        })
    };
    let (_, workers) = chaos(ledger, work);
    ledger.is_over.store(1, SeqCst);
    join_all(workers);
    while queue.try_get().is_ok() {}
    for _ in 0..3 {
        let mut count = 0;
        while queue.try_put(1).is_ok() {
            count += 1;
        }
        assert_eq!(count, CAPACITY);
        assert!((0..CAPACITY).all(|_| queue.try_get().is_ok()));
        assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
    }
}

#[test]
fn no_task_is_lost_in_chaos() {
    let ledger = Ledger::new();
    let tasks: JoinableQueue<u64> =
        QueueOptions::new().participants(PARTICIPANTS).create_joinable(CAPACITY).unwrap();
    let work = |is_producer: bool| {
        let tasks = tasks.clone();
        fork(move || {
            if is_producer {
                produce(ledger, |items| tasks.put_many(items).map_err(|refused| refused.error));
                return;
            }
            loop {
                match tasks.get() {
                    // The task comes back.
                    Ok(_task) if fastrand::u8(..8) == 0 => {}
                    Ok(task) => {
                        ledger.again.fetch_add(ledger.note(*task).into(), SeqCst);
                        task.done();
                    }
                    Err(QueueError::Closed) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    let ([workers_killed, _], mut workers) = chaos(ledger, work);
    let rest = workers.split_off(WORKERS);
    ledger.is_over.store(1, SeqCst);
    join_all(workers);
    tasks.join_timeout(forked::PATIENCE).unwrap();
    assert_eq!((ledger.missing(), tasks.unfinished()), (0, 0));
    tasks.close().unwrap();
    join_all(rest);
    let again = ledger.again.load(SeqCst) as usize;
    assert!(
        again <= workers_killed,
        "{again} tasks were done twice, and {workers_killed} workers were killed"
    );
    println!("{} tasks, {again} twice", ledger.total.load(SeqCst));
}
