//! `Queue` is linearizable. The results of concurrent operations in several processes are always
//! those of a plain bounded queue, for some order of the operations. In that order every operation
//! takes effect between its call and its return. `Full`, `Empty` and time-outs are results like any
//! other.
//!
//! Each process records in shared memory when it calls and when it returns, on the monotonic clock.
//! The histories are short, so that they are quick to check, and there are many. One test stops
//! processes in the middle of an operation, and another test kills one. The interrupted operation
//! may have taken effect or not.
//!
//! The checker is stateright's `LinearizabilityTester`. Among the checkers on crates.io, it is the
//! maintained and widely used one. It accepts operations that never returned, which is what a
//! killed process leaves. A history of a dozen calls takes it a fraction of a millisecond.
//! (`todc-utils` has a checker that remembers the states it has visited, and so copes with longer
//! histories. But it does not support operations that never returned.) The tester knows no
//! operations of several steps. So `put_many` becomes its single puts, in their order, as threads
//! of their own that are all called and return at the same time.

use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::Duration;

use crossproc::process::Child;
use crossproc::{Barrier, Queue, QueueError, Shm};
use rustix::time::{ClockId, clock_gettime};

mod checker;
#[path = "../forked/mod.rs"]
mod forked;

use checker::check;
use forked::{PATIENCE, fork, join_all, wait_until};

/// The most items of one `put_many` or `get_many` here: as many as fit into a result's word.
const MOST: u64 = 3;
/// The time-out of calls that wait. It seldom expires.
const SHORT: Duration = Duration::from_micros(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TryPut,
    Put,
    Send,
    TryPutMany,
    PutMany,
    TryGet,
    Get,
    Receive,
    TryGetMany,
    GetMany,
}

const KINDS: [Kind; 10] = {
    use Kind::*;
    [TryPut, Put, Send, TryPutMany, PutMany, TryGet, Get, Receive, TryGetMany, GetMany]
};

/// A call that a process is about to make, with `count` items. A put numbers its items from
/// `first`.
#[derive(Clone, Copy, Debug)]
struct Call {
    kind: Kind,
    count: u64,
    first: u64,
}

/// The result of a call: the items that were put or got, and whether one more was refused.
#[derive(Clone, Debug)]
struct Outcome {
    items: Vec<u64>,
    is_refused: bool,
}

impl Call {
    fn random(random: &mut fastrand::Rng, first: u64) -> Self {
        let kind = KINDS[random.usize(..KINDS.len())];
        let is_many =
            matches!(kind, Kind::TryPutMany | Kind::PutMany | Kind::TryGetMany | Kind::GetMany);
        Call { kind, count: if is_many { random.u64(1..=MOST) } else { 1 }, first }
    }

    fn is_put(self) -> bool {
        matches!(
            self.kind,
            Kind::TryPut | Kind::Put | Kind::Send | Kind::TryPutMany | Kind::PutMany
        )
    }

    fn make(self, queue: &Queue<u64>) -> Outcome {
        let values = [0, 1, 2].map(|index| self.first + index);
        let values = &values[..self.count as usize];
        let mut got = Vec::new();
        let most = self.count as usize;
        let result = match self.kind {
            Kind::TryPut => queue.try_put(self.first).map_err(QueueError::from),
            Kind::Put => queue.put_timeout(self.first, SHORT).map_err(QueueError::from),
            Kind::Send => queue.loan().and_then(|mut loan| {
                *loan = self.first;
                loan.try_send().map_err(QueueError::from)
            }),
            Kind::TryPutMany | Kind::PutMany => {
                let put = match self.kind {
                    Kind::TryPutMany => queue.try_put_many(values),
                    _ => queue.put_many_timeout(values, SHORT),
                };
                let put =
                    put.map_or_else(|error| refused(&error.error, error.put), |()| values.len());
                return Outcome { items: values[..put].to_vec(), is_refused: put < values.len() };
            }
            Kind::TryGet => queue.try_get().map(|item| got.push(item)),
            Kind::Get => queue.get_timeout(SHORT).map(|item| got.push(item)),
            Kind::Receive => queue.try_receive().map(|item| got.push(*item)),
            Kind::TryGetMany => queue.try_get_many(&mut got, most).map(|_| ()),
            Kind::GetMany => queue.get_many_timeout(&mut got, most, SHORT).map(|_| ()),
        };
        if self.is_put() {
            let put = result.map_or_else(|error| refused(&error, 0), |()| 1);
            return Outcome { items: values[..put].to_vec(), is_refused: put == 0 };
        }
        result.unwrap_or_else(|error| _ = refused(&error, 0));
        // Fewer than asked for: there were no more.
        Outcome { is_refused: got.len() < most, items: got }
    }

    fn to_word(self) -> u64 {
        self.kind as u64 | self.count << 8 | self.first << 16
    }

    fn from_word(word: u64) -> Self {
        Call { kind: KINDS[word as usize & 0xff], count: word >> 8 & 0xff, first: word >> 16 }
    }
}

/// Returns `result`, and asserts that the error is one of the expected refusals.
fn refused<R>(error: &QueueError, result: R) -> R {
    assert!(
        matches!(error, QueueError::Full | QueueError::Empty | QueueError::TimedOut),
        "{error}"
    );
    result
}

impl Outcome {
    fn to_word(&self) -> u64 {
        let items = self.items.iter().enumerate().map(|(index, item)| item << (16 + 16 * index));
        u64::from(self.is_refused) | (self.items.len() as u64) << 8 | items.sum::<u64>()
    }

    fn from_word(word: u64) -> Self {
        let items = (0..word >> 8 & 0xff).map(|index| word >> (16 + 16 * index) & 0xffff).collect();
        Outcome { items, is_refused: word & 1 != 0 }
    }
}

/// One call of a process. A call that never returned has no outcome.
#[derive(Debug)]
struct Entry {
    process: usize,
    called: u64,
    call: Call,
    returned: Option<(u64, Outcome)>,
}

/// The shared memory for the histories: some entries of four words for each round and process.
#[derive(Clone)]
struct Histories {
    words: Shm<[AtomicU64]>,
    processes: usize,
    /// The number of entries of one process in one round.
    entries: usize,
}

impl Histories {
    fn new(rounds: usize, processes: usize, entries: usize) -> Self {
        let words = Shm::from_fn(rounds * processes * entries * 4, |_| AtomicU64::new(0)).unwrap();
        Histories { words, processes, entries }
    }

    fn entry(&self, round: usize, process: usize, index: usize) -> &[AtomicU64] {
        let at = ((round * self.processes + process) * self.entries + index) * 4;
        &self.words[at..at + 4]
    }

    /// Makes the call, and records its times and its outcome.
    fn make(
        &self,
        round: usize,
        process: usize,
        index: usize,
        call: Call,
        queue: &Queue<u64>,
    ) -> Outcome {
        let [when, what, until, result] = self.entry(round, process, index) else { unreachable!() };
        what.store(call.to_word(), Release);
        // SeqCst, and an exchange: the call comes after the reading of the clock, which the
        // exchange stores.
        when.swap(later_than_now(), SeqCst);
        let outcome = call.make(queue);
        let now = later_than_now();
        result.store(outcome.to_word(), Release);
        until.store(now, Release);
        outcome
    }

    /// Gets until the queue is empty. Returns the number of this process's calls in the round.
    fn drain(&self, round: usize, process: usize, first: usize, queue: &Queue<u64>) -> usize {
        let call = Call { kind: Kind::TryGet, count: 1, first: 0 };
        let empty =
            (first..).find(|&index| self.make(round, process, index, call, queue).is_refused);
        empty.expect("a queue has an end") + 1
    }

    /// Puts until the queue is full. Returns the number of this process's calls in the round.
    fn fill(&self, round: usize, process: usize, first: usize, queue: &Queue<u64>) -> usize {
        let call = |index| Call {
            kind: Kind::TryPut,
            count: 1,
            first: (process * 1000 + index * 10 + 1) as u64,
        };
        let full = (first..)
            .find(|&index| self.make(round, process, index, call(index), queue).is_refused);
        full.expect("a queue is full some time") + 1
    }

    fn of_round(&self, round: usize) -> Vec<Entry> {
        let mut all = Vec::new();
        for process in 0..self.processes {
            for index in 0..self.entries {
                let [when, what, until, result] = self.entry(round, process, index) else {
                    unreachable!()
                };
                let (called, until) = (when.load(Acquire), until.load(Acquire));
                if called != 0 {
                    let returned =
                        (until != 0).then(|| (until, Outcome::from_word(result.load(Acquire))));
                    all.push(Entry {
                        process,
                        called,
                        call: Call::from_word(what.load(Acquire)),
                        returned,
                    });
                }
            }
        }
        all
    }

    fn called(&self, round: usize, process: usize) -> usize {
        (0..self.entries)
            .take_while(|&index| self.entry(round, process, index)[0].load(Acquire) != 0)
            .count()
    }
}

/// Returns the time in nanoseconds, never the same twice in a process.
fn later_than_now() -> u64 {
    let now = || {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    let first = now();
    loop {
        let then = now();
        if then > first {
            return then;
        }
    }
}

/// Waits until all processes have arrived, awake, so that they begin as nearly at once as they can.
fn meet(arrived: &AtomicU64, all: u64) {
    arrived.fetch_add(1, SeqCst);
    wait_until("all processes are there", || arrived.load(SeqCst) >= all);
}

/// Spins for a short time: less than an operation takes, or more.
fn linger(random: &mut fastrand::Rng) {
    for _ in 0..random.u32(..300) {
        std::hint::spin_loop();
    }
}

/// Several processes that make some calls at once in each of many rounds. One of them gets the
/// items that are left.
struct Crowd {
    capacity: usize,
    /// The calls of each process in a round.
    calls: usize,
    rounds: usize,
    histories: Histories,
    /// The number of arrivals at the beginnings of all rounds.
    arrived: Shm<AtomicU64>,
    children: Vec<Child>,
}

impl Crowd {
    fn new(capacity: usize, processes: usize, rounds: usize) -> Self {
        let calls = 12 / processes;
        let queue = Queue::<u64>::new(capacity).unwrap();
        let histories = Histories::new(rounds, processes, calls + capacity + 1);
        let barrier = Shm::new(Barrier::new(processes as u32)).unwrap();
        let arrived: Shm<AtomicU64> = Shm::new(AtomicU64::new(0)).unwrap();
        let child = |me| {
            let (queue, histories, barrier, arrived) =
                (queue.clone(), histories.clone(), barrier.clone(), arrived.clone());
            fork(move || {
                let mut random =
                    fastrand::Rng::with_seed((capacity * 100 + processes * 10 + me) as u64);
                for round in 0..rounds {
                    barrier.wait_timeout(PATIENCE).unwrap();
                    meet(&arrived, ((round + 1) * processes) as u64);
                    for index in 0..calls {
                        linger(&mut random);
                        let call = Call::random(&mut random, (me * 1000 + index * 10 + 1) as u64);
                        histories.make(round, me, index, call, &queue);
                    }
                    barrier.wait_timeout(PATIENCE).unwrap();
                    if me == 0 {
                        _ = histories.drain(round, me, calls, &queue);
                    }
                }
            })
        };
        let children = (0..processes).map(child).collect();
        Crowd { capacity, calls, rounds, histories, arrived, children }
    }

    fn is_alive(&self) -> bool {
        self.children.iter().any(|child| child.is_alive().unwrap())
    }

    /// Stops one process, wherever it is. If it is in its calls, the others must finish theirs
    /// without it.
    fn stop(&self, victim: usize) {
        let child = &self.children[victim];
        child.stop().unwrap();
        let processes = self.children.len();
        let arrived = self.arrived.load(SeqCst) as usize;
        if arrived != 0 && arrived % processes == 0 {
            let round = arrived / processes - 1;
            let others = (0..processes).filter(|&other| other != victim);
            for other in others {
                let last = &self.histories.entry(round, other, self.calls - 1)[2];
                wait_until("the others are through with a round", || {
                    last.load(Acquire) != 0 || !self.children[other].is_alive().unwrap()
                });
            }
        }
        child.resume().unwrap();
    }

    fn check(self) {
        join_all(self.children);
        for round in 0..self.rounds {
            check(self.capacity, &self.histories.of_round(round));
        }
    }
}

#[test]
fn histories_of_two_to_four_processes_are_linearizable() {
    for capacity in [1, 2, 3] {
        for processes in [2, 3, 4] {
            Crowd::new(capacity, processes, 200).check();
        }
    }
}

#[test]
fn histories_are_linearizable_when_processes_are_stopped_in_the_middle() {
    let mut random = fastrand::Rng::with_seed(1);
    for capacity in [1, 2, 3] {
        for processes in [2, 3] {
            let crowd = Crowd::new(capacity, processes, 300);
            while crowd.is_alive() {
                crowd.stop(random.usize(..processes));
                linger(&mut random);
            }
            crowd.check();
        }
    }
}

#[test]
fn histories_are_linearizable_when_one_process_is_killed() {
    const ROUNDS: usize = 400;
    const PROCESSES: usize = 3;
    // The victim is process 0. The test itself comes last, as the victim's replacement: it must not
    // overwrite the queue's items.
    const CALLS: [usize; PROCESSES] = [8, 3, 3];
    let mut random = fastrand::Rng::with_seed(7);
    let mut pending = 0;
    for round in 0..ROUNDS {
        let capacity = 1 + round % 3;
        let queue = Queue::<u64>::new(capacity).unwrap();
        let histories = Histories::new(1, PROCESSES + 1, CALLS[0].max(4 * (capacity + 1)));
        let arrived: Shm<AtomicU64> = Shm::new(AtomicU64::new(0)).unwrap();
        let mut children: Vec<Child> = (0..PROCESSES)
            .map(|me| {
                let (queue, histories, arrived) =
                    (queue.clone(), histories.clone(), arrived.clone());
                fork(move || {
                    let mut random = fastrand::Rng::with_seed((round * PROCESSES + me) as u64);
                    // The victim becomes the first participant, so that the test is the participant
                    // that takes over what the victim leaves.
                    wait_until("the victim takes part", || me == 0 || arrived.load(SeqCst) > 0);
                    assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
                    meet(&arrived, PROCESSES as u64);
                    for index in 0..CALLS[me] {
                        linger(&mut random);
                        let call = Call::random(&mut random, (me * 1000 + index * 10 + 1) as u64);
                        histories.make(0, me, index, call, &queue);
                    }
                })
            })
            .collect();
        let victim = children.swap_remove(0);
        let after = random.usize(1..CALLS[0]);
        wait_until("the victim has called", || histories.called(0, 0) >= after);
        linger(&mut random);
        forked::kill(&victim);
        join_all(children);
        let mut calls = 0;
        for _ in 0..2 {
            calls = histories.fill(0, PROCESSES, calls, &queue);
            calls = histories.drain(0, PROCESSES, calls, &queue);
        }
        let history = histories.of_round(0);
        pending += usize::from(history.iter().any(|entry| entry.returned.is_none()));
        check(capacity, &history);
    }
    println!("{pending} of {ROUNDS} were killed in an operation");
    assert!(pending > 0, "nobody was ever killed in an operation");
}
