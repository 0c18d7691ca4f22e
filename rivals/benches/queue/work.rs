//! What the members of a team do with a queue, the same for all queues; and that nothing was lost.

use core::hint::spin_loop;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use crossproc::{Shm, shared};
use crossproc_rivals::{MessageQueue, Side};

use crate::harness::placement::Placement;
use crate::harness::sampler::{Sampler, repeated};
use crate::harness::team::{Team, share};
use crate::rows::{BATCH, Calls, Layout, Row};

shared! {
    /// What is counted. A round's begin and end order all of it, if nothing else is said.
    struct Tally {
        /// The sums of all values since the beginning.
        sum_put: AtomicU64,
        sum_got: AtomicU64,
        /// Items of this round: those of producers that are done, and of consumers that are, or that see whether they are.
        put: AtomicU64,
        got: AtomicU64,
        /// Producers that have put all that they will put in this round.
        done: AtomicU64,
        /// Not zero: the round takes too long, and ends with what has been put.
        cut: AtomicU64,
    }
}

/// Looks at the queue, with a pause after each, before the processor is given away after each further look.
pub(crate) const SPINS: u32 = 64;

/// After that time without a message, or room for one, something has been lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// A round that takes longer is cut short. That happens where a queue is stuck for a scheduler's slice with each item.
const CUT_AFTER: Duration = Duration::from_millis(200);

/// Every how many items, a power of two, a producer looks at the time.
const LOOK_EVERY: u64 = 32;

/// What measures `row` with a new queue; an item is one message that was put and got.
pub(crate) fn sampler<Q: MessageQueue>(row: &Row) -> Result<Sampler, String> {
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
    let tally = Tally { sum_put: zero(), sum_got: zero(), put: zero(), got: zero(), done: zero(), cut: zero() };
    let tally = Shm::new(tally).map_err(|error| error.to_string())?;
    let job = Job { queue: &queue, tally: &tally, calls: row.calls, pairs: members / 2 };
    let work = |index, amount| job.work(index, amount);
    let team = match row.layout {
        Layout::Threads { .. } => Team::of_threads(members, placement, work),
        _ => Team::of_processes(members, placement, work),
    };
    let mut measured = Measured { team, tally, _queue: queue };
    measured.check();
    Ok(Box::new(move |amount| measured.round(amount)))
}

/// In the order in which it is to be dropped: some queues clean up when the last one drops them.
struct Measured<Q> {
    team: Team,
    tally: Shm<Tally>,
    _queue: Q,
}

impl<Q> Measured<Q> {
    /// How long so many items take. If the round was cut short, as many would have taken so long.
    fn round(&mut self, amount: u64) -> Duration {
        for count in [&self.tally.put, &self.tally.got, &self.tally.done, &self.tally.cut] {
            count.store(0, Relaxed);
        }
        let took = self.team.round(amount);
        self.check();
        took.mul_f64(amount as f64 / self.tally.put.load(Relaxed) as f64)
    }

    /// Panics if it were other values that were got than those that were put.
    fn check(&self) {
        let Tally { sum_put, sum_got, put, got, .. } = &*self.tally;
        assert_eq!(put.load(Relaxed), got.load(Relaxed), "so many items were put, and got");
        assert_eq!(sum_put.load(Relaxed), sum_got.load(Relaxed), "the sums of the values that were put, and got");
    }
}

#[inline]
fn put_and_get<Q: MessageQueue>(queue: &Q) {
    // Some queues have no room for a moment after the get before.
    until(|| queue.try_put(1).then_some(()), || false);
    assert_eq!(until(|| queue.try_get(), || false), Some(1));
}

/// What the members have to do.
struct Job<'a, Q> {
    queue: &'a Q,
    tally: &'a Tally,
    calls: Calls,
    pairs: usize,
}

impl<Q: MessageQueue> Job<'_, Q> {
    /// The part of member `index`: the first half puts, the second half gets, all of them a fixed share.
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
            let share = share(amount, index - pairs, pairs);
            match self.calls {
                Calls::Trying => self.consume(share, || queue.try_get()),
                Calls::Waiting => self.consume(share, || queue.get_timeout()),
                Calls::Batches => self.consume_batches(share),
            }
        }
    }

    #[inline]
    fn produce(&self, values: Range<u64>, put: impl Fn(u64) -> bool) {
        let (start, mut sum, mut count) = (Instant::now(), 0_u64, 0);
        for value in values {
            until(|| put(value).then_some(()), || false);
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
                let put = until(|| Some(self.queue.put_batch(rest)).filter(|&put| put > 0), || false);
                rest = &rest[put.unwrap_or(0)..];
            }
            sum = batch.iter().copied().fold(sum, u64::wrapping_add);
            count += batch.len() as u64;
        }
        self.produced(sum, count);
    }

    #[inline]
    fn consume(&self, share: u64, get: impl Fn() -> Option<u64>) {
        let (mut sum, mut count) = (0_u64, 0);
        while count < share {
            let Some(value) = until(&get, || self.is_over()) else { break };
            sum = sum.wrapping_add(value);
            count += 1;
        }
        self.consumed(sum, count, count < share);
    }

    fn consume_batches(&self, share: u64) {
        let (mut sum, mut count) = (0_u64, 0);
        let mut batch: Vec<u64> = Vec::with_capacity(BATCH);
        while count < share {
            let most = (share - count).min(BATCH as u64) as usize;
            let Some(got) = until(|| Some(self.queue.get_batch(&mut batch, most)).filter(|&got| got > 0), || self.is_over()) else {
                break;
            };
            assert_eq!(got, batch.len());
            count += got as u64;
            sum = batch.drain(..).fold(sum, u64::wrapping_add);
        }
        self.consumed(sum, count, count < share);
    }

    fn produced(&self, sum: u64, count: u64) {
        self.tally.sum_put.fetch_add(sum, Relaxed);
        self.tally.put.fetch_add(count, Relaxed);
        // Release: pairs with the Acquire in `is_over`. Who finds all done knows how much was put.
        self.tally.done.fetch_add(1, Release);
    }

    /// `is_short`: the round was cut short, and somebody may still have to get something.
    fn consumed(&self, mut sum: u64, count: u64, is_short: bool) {
        self.tally.got.fetch_add(count, Relaxed);
        // `put` does not change any more: a round is short for a consumer only once all producers are done.
        while is_short && self.tally.got.load(Relaxed) < self.tally.put.load(Relaxed) {
            match self.queue.try_get() {
                Some(value) => {
                    sum = sum.wrapping_add(value);
                    self.tally.got.fetch_add(1, Relaxed);
                }
                None => thread::yield_now(),
            }
        }
        self.tally.sum_got.fetch_add(sum, Relaxed);
    }

    /// Says whether the round, which began at `start`, takes too long.
    #[inline]
    fn is_cut(&self, start: Instant) -> bool {
        if start.elapsed() > CUT_AFTER {
            self.tally.cut.store(1, Relaxed);
        }
        self.tally.cut.load(Relaxed) != 0
    }

    /// Says whether there is no more to come than what was put, and that less than what was wanted.
    #[inline]
    fn is_over(&self) -> bool {
        // Acquire: pairs with the Release in `produced`.
        self.tally.cut.load(Relaxed) != 0 && self.tally.done.load(Acquire) == self.pairs as u64
    }
}

/// Tries it until it succeeds, or is of no use any more. The same for all queues.
#[inline]
fn until<T>(mut attempt: impl FnMut() -> Option<T>, is_useless: impl Fn() -> bool) -> Option<T> {
    attempt().or_else(|| until_later(attempt, is_useless))
}

#[cold]
fn until_later<T>(mut attempt: impl FnMut() -> Option<T>, is_useless: impl Fn() -> bool) -> Option<T> {
    for _ in 0..SPINS {
        spin_loop();
        if let Some(done) = attempt() {
            return Some(done);
        }
    }
    let start = Instant::now();
    loop {
        if is_useless() {
            return None;
        }
        thread::yield_now();
        if let Some(done) = attempt() {
            return Some(done);
        }
        assert!(start.elapsed() < LOST_AFTER, "nothing, and no room, for {LOST_AFTER:?}: something was lost");
    }
}
