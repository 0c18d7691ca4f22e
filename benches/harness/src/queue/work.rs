//! What the members of a team do with a queue, the same for all queues, and the check that nothing
//! was lost.

#![allow(unsafe_code)]

use core::hint::spin_loop;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use core::time::Duration;
use std::io;
use std::mem;
use std::thread;
use std::time::Instant;

use crossproc::{Shm, shared};

use super::rows::{BATCH, Calls, Layout, Row};
use super::{MessageQueue, Side};
use crate::placement::Placement;
use crate::sampler::{Sampler, repeated};
use crate::team::{Team, share};

shared! {
    /// The counters. The begin and end of a round order all accesses, if nothing else is said.
    struct Tally {
        /// The sums of all values since the beginning.
        sum_put: AtomicU64,
        sum_got: AtomicU64,
        /// The items of this round.
        put: AtomicU64,
        got: AtomicU64,
        /// How many producers have put everything that they will put in this round.
        done: AtomicU64,
        /// Not zero if the round takes too long, and ends with the items put so far.
        cut: AtomicU64,
    }
}

/// The value after all items of a round, once for each consumer: there is nothing more to do.
const END: u64 = u64::MAX;

/// How many times a thread looks at the queue with a pause after each look. After that, it yields
/// the processor after each further look.
pub const SPINS: u32 = 64;

/// How long a queue may offer no message, or no room for one. After that something has been lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// A round that takes longer is cut short. That happens where a queue is stuck for a scheduler's
/// slice with each item.
const CUT_AFTER: Duration = Duration::from_millis(200);

/// A producer looks at the time every this many items, a power of two.
const LOOK_EVERY: u64 = 32;

/// Returns what measures `row` with a new queue. An item is one message that was put and got.
pub fn sampler<Q: MessageQueue>(row: &Row) -> Result<Sampler, String> {
    let queue = Q::new(row.capacity)?;
    let (members, placement) = match row.layout {
        Layout::Alone => {
            queue.attach(Side::Both);
            return Ok(repeated(Box::new(queue), put_and_get));
        }
        Layout::Processes { pairs, placement } => (2 * pairs, placement),
        Layout::Threads { pairs } => (2 * pairs, Placement::FREE),
    };
    let zero = || AtomicU64::new(0);
    let tally = Tally {
        sum_put: zero(),
        sum_got: zero(),
        put: zero(),
        got: zero(),
        done: zero(),
        cut: zero(),
    };
    let tally = Shm::new(tally).map_err(|error| error.to_string())?;
    let job = Job { queue: &queue, tally: &tally, calls: row.calls, pairs: members / 2 };
    let is_crowded = members > thread::available_parallelism().map_or(1, usize::from);
    let work = |index, amount| {
        if is_crowded {
            give_up_real_time();
        }
        job.work(index, amount);
    };
    let team = match row.layout {
        Layout::Threads { .. } => Team::of_threads(members, placement, work),
        _ => Team::of_processes(members, placement, work),
    };
    let mut measured = Measured { team, tally, _queue: queue };
    measured.check();
    Ok(Box::new(move |amount| measured.round(amount)))
}

/// Leaves the calling thread with the highest priority that is not a real-time one, if it has such.
///
/// Some queues have a member spin until another one goes on. With more members than CPUs and at
/// real-time priority, the other one may never get a CPU.
fn give_up_real_time() {
    // SAFETY: integers; musl's has more of them than the priority.
    let no_priority: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: asks about the calling thread.
    if unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER {
        return;
    }
    // SAFETY: reads the parameter.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const no_priority) };
    assert_eq!(failed, 0, "real-time priority stays: {}", io::Error::last_os_error());
    // SAFETY: takes integers. If it fails, the members have the usual priority.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

/// The fields are in the order of their drops: some queues clean up when the last user drops them.
struct Measured<Q> {
    team: Team,
    tally: Shm<Tally>,
    _queue: Q,
}

impl<Q> Measured<Q> {
    /// Returns how long `amount` items take. If the round was cut short, this is extrapolated.
    fn round(&mut self, amount: u64) -> Duration {
        for count in [&self.tally.put, &self.tally.got, &self.tally.done, &self.tally.cut] {
            count.store(0, Relaxed);
        }
        let took = self.team.round(amount);
        self.check();
        took.mul_f64(amount as f64 / self.tally.put.load(Relaxed) as f64)
    }

    /// Panics if the values that were got are not those that were put.
    fn check(&self) {
        let Tally { sum_put, sum_got, put, got, .. } = &*self.tally;
        assert_eq!(put.load(Relaxed), got.load(Relaxed), "so many items were put, and got");
        assert_eq!(
            sum_put.load(Relaxed),
            sum_got.load(Relaxed),
            "the sums of the values that were put, and got"
        );
    }
}

#[inline]
fn put_and_get<Q: MessageQueue>(queue: &Q) {
    // Some queues have no room for a moment after the previous get.
    until(|| queue.try_put(1).then_some(()));
    assert_eq!(until(|| queue.try_get()), 1);
}

/// The members' work.
struct Job<'a, Q> {
    queue: &'a Q,
    tally: &'a Tally,
    calls: Calls,
    pairs: usize,
}

impl<Q: MessageQueue> Job<'_, Q> {
    /// Does the part of member `index`. The first half of the members put a fixed share each, and
    /// the second half get what there is.
    fn work(&self, index: usize, amount: u64) {
        let (queue, pairs) = (self.queue, self.pairs);
        if index < pairs {
            queue.attach(Side::Producer);
            let first = (index as u64) << 40;
            let values = first..first + share(amount, index, pairs);
            match self.calls {
                Calls::Trying => self.produce(values, |value| queue.try_put(value)),
                Calls::Waiting => self.produce(values, |value| queue.put(value)),
                Calls::Batches => self.produce_batches(values),
            }
        } else {
            queue.attach(Side::Consumer);
            match self.calls {
                Calls::Trying => self.consume(|| until(|| queue.try_get())),
                Calls::Waiting => self.consume(|| in_time(|| queue.get_timeout())),
                Calls::Batches => self.consume_batches(),
            }
        }
    }

    #[inline]
    fn produce(&self, values: Range<u64>, put: impl Fn(u64) -> bool) {
        let (start, mut sum, mut count) = (Instant::now(), 0_u64, 0);
        for value in values {
            until(|| put(value).then_some(()));
            sum = sum.wrapping_add(value);
            count += 1;
            if count % LOOK_EVERY == 0 && self.is_cut(start) {
                break;
            }
        }
        self.produced(sum, count);
    }

    fn produce_batches(&self, mut values: Range<u64>) {
        let (start, mut sum, mut count) = (Instant::now(), 0_u64, 0);
        let mut batch: Vec<u64> = Vec::with_capacity(BATCH);
        while !(values.is_empty() || count % LOOK_EVERY == 0 && count > 0 && self.is_cut(start)) {
            batch.clear();
            batch.extend(values.by_ref().take(BATCH));
            let mut rest = &batch[..];
            while !rest.is_empty() {
                let put = until(|| Some(self.queue.put_batch(rest)).filter(|&put| put > 0));
                rest = &rest[put..];
            }
            sum = batch.iter().copied().fold(sum, u64::wrapping_add);
            count += batch.len() as u64;
        }
        self.produced(sum, count);
    }

    fn produced(&self, sum: u64, count: u64) {
        self.tally.sum_put.fetch_add(sum, Relaxed);
        self.tally.put.fetch_add(count, Relaxed);
        // AcqRel: between the producers. The last producer puts the ends after everything that the
        // others have put.
        if self.tally.done.fetch_add(1, AcqRel) + 1 == self.pairs as u64 {
            for _ in 0..self.pairs {
                self.put_end();
            }
        }
    }

    /// Puts an end, as this row's consumers get it.
    fn put_end(&self) {
        until(|| match self.calls {
            Calls::Batches => (self.queue.put_batch(&[END]) > 0).then_some(()),
            _ => self.queue.try_put(END).then_some(()),
        });
    }

    #[inline]
    fn consume(&self, get: impl Fn() -> u64) {
        let (mut sum, mut count) = (0_u64, 0);
        loop {
            let value = get();
            if value == END {
                return self.consumed(sum, count);
            }
            sum = sum.wrapping_add(value);
            count += 1;
        }
    }

    fn consume_batches(&self) {
        let (mut sum, mut count) = (0_u64, 0);
        let mut batch: Vec<u64> = Vec::with_capacity(BATCH);
        loop {
            until(|| Some(self.queue.get_batch(&mut batch, BATCH)).filter(|&got| got > 0));
            let items = batch.iter().position(|&value| value == END).unwrap_or(batch.len());
            count += items as u64;
            sum = batch[..items].iter().copied().fold(sum, u64::wrapping_add);
            if items < batch.len() {
                // The ends that belong to other consumers.
                for _ in items + 1..batch.len() {
                    self.put_end();
                }
                return self.consumed(sum, count);
            }
            batch.clear();
        }
    }

    fn consumed(&self, sum: u64, count: u64) {
        self.tally.sum_got.fetch_add(sum, Relaxed);
        self.tally.got.fetch_add(count, Relaxed);
    }

    /// Returns whether the round, which began at `start`, takes too long.
    #[inline]
    fn is_cut(&self, start: Instant) -> bool {
        if start.elapsed() > CUT_AFTER {
            self.tally.cut.store(1, Relaxed);
        }
        self.tally.cut.load(Relaxed) != 0
    }
}

/// Tries until it succeeds, in the same way for all queues and broadcasts.
#[inline]
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    match attempt() {
        Some(done) => done,
        None => until_later(attempt),
    }
}

#[cold]
fn until_later<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..SPINS {
        spin_loop();
        if let Some(done) = attempt() {
            return done;
        }
    }
    let start = Instant::now();
    loop {
        thread::yield_now();
        if let Some(done) = attempt() {
            return done;
        }
        assert!(
            start.elapsed() < LOST_AFTER,
            "nothing, and no room, for {LOST_AFTER:?}: something was lost"
        );
    }
}

/// Repeats a call that waits, for as long as it chooses each time, until it succeeds.
#[inline]
fn in_time<T>(attempt: impl Fn() -> Option<T>) -> T {
    attempt().unwrap_or_else(|| in_time_later(attempt))
}

#[cold]
fn in_time_later<T>(attempt: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(start.elapsed() < LOST_AFTER, "nothing for {LOST_AFTER:?}: something was lost");
    }
}
