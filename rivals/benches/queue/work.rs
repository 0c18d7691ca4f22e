//! What the members of a team do with a queue, the same for all queues; and that nothing was lost.

use core::hint::spin_loop;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use crossproc::{Shm, shared};
use crossproc_rivals::{MessageQueue, Side};

use crate::harness::sampler::{Sampler, repeated};
use crate::harness::team::{Team, share};
use crate::rows::{BATCH, Calls, Layout, Row};

shared! {
    /// The sums of all values since the beginning. A round's end orders them.
    struct Tally {
        put: AtomicU64,
        got: AtomicU64,
    }
}

/// Looks at the queue, with a pause after each, before the processor is given away after each further look.
pub(crate) const SPINS: u32 = 64;

/// After that time without a message, or room for one, something has been lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What measures `row` with a new queue; an item is one message that was put and got.
pub(crate) fn sampler<Q: MessageQueue>(row: &Row) -> Result<Sampler, String> {
    let queue = Q::new(row.capacity)?;
    let tally = Shm::new(Tally { put: AtomicU64::new(0), got: AtomicU64::new(0) }).map_err(|error| error.to_string())?;
    let calls = row.calls;
    let (team, pairs) = match row.layout {
        Layout::Alone => {
            queue.attach(Side::Both);
            return Ok(repeated(Box::new(queue), put_and_get));
        }
        Layout::Processes { pairs, placement } => {
            (Team::of_processes(2 * pairs, placement, |index, amount| work(&queue, &tally, calls, index, pairs, amount)), pairs)
        }
        Layout::Threads { pairs } => {
            let placement = crate::harness::placement::Placement::FREE;
            (Team::of_threads(2 * pairs, placement, |index, amount| work(&queue, &tally, calls, index, pairs, amount)), pairs)
        }
    };
    let mut measured = Measured { team, tally, _queue: queue };
    measured.check(pairs);
    Ok(Box::new(move |amount| {
        let took = measured.team.round(amount);
        measured.check(pairs);
        took
    }))
}

/// In the order in which it is to be dropped: some queues clean up when the last one drops them.
struct Measured<Q> {
    team: Team,
    tally: Shm<Tally>,
    _queue: Q,
}

impl<Q> Measured<Q> {
    /// Panics if it were other values that were got than those that were put.
    fn check(&self, pairs: usize) {
        let (put, got) = (self.tally.put.load(Relaxed), self.tally.got.load(Relaxed));
        assert_eq!(put, got, "{pairs} producers and consumers: the sums of the values that were put, and got");
    }
}

#[inline]
fn put_and_get<Q: MessageQueue>(queue: &Q) {
    // Some queues have no room for a moment after the get before.
    until(|| queue.try_put(1).then_some(()));
    assert_eq!(until(|| queue.try_get()), 1);
}

/// The part of member `index`: the first half puts, the second half gets, all of them a fixed share.
fn work<Q: MessageQueue>(queue: &Q, tally: &Tally, calls: Calls, index: usize, pairs: usize, amount: u64) {
    if index < pairs {
        queue.attach(Side::Producer);
        let first = (index as u64) << 40;
        let values = first..first + share(amount, index, pairs);
        let sum = values.clone().fold(0, u64::wrapping_add);
        match calls {
            Calls::Trying => values.for_each(|value| until(|| queue.try_put(value).then_some(()))),
            Calls::Waiting => values.for_each(|value| until(|| queue.put(value).then_some(()))),
            Calls::Batches => put_batches(queue, values),
        }
        tally.put.fetch_add(sum, Relaxed);
    } else {
        queue.attach(Side::Consumer);
        let share = share(amount, index - pairs, pairs);
        let sum = match calls {
            Calls::Trying => (0..share).map(|_| until(|| queue.try_get())).fold(0, u64::wrapping_add),
            Calls::Waiting => (0..share).map(|_| until(|| queue.get_timeout())).fold(0, u64::wrapping_add),
            Calls::Batches => get_batches(queue, share),
        };
        tally.got.fetch_add(sum, Relaxed);
    }
}

fn put_batches<Q: MessageQueue>(queue: &Q, mut values: core::ops::Range<u64>) {
    let mut batch: Vec<u64> = Vec::with_capacity(BATCH);
    loop {
        batch.extend(values.by_ref().take(BATCH));
        if batch.is_empty() {
            return;
        }
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let put = until(|| Some(queue.put_batch(rest)).filter(|&put| put > 0));
            rest = &rest[put..];
        }
        batch.clear();
    }
}

fn get_batches<Q: MessageQueue>(queue: &Q, share: u64) -> u64 {
    let mut batch: Vec<u64> = Vec::with_capacity(BATCH);
    let (mut sum, mut left) = (0_u64, share as usize);
    while left > 0 {
        left -= until(|| Some(queue.get_batch(&mut batch, left.min(BATCH))).filter(|&got| got > 0));
        sum = batch.drain(..).fold(sum, u64::wrapping_add);
    }
    sum
}

/// Tries it until it succeeds. The same for all queues.
#[inline]
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
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
        assert!(start.elapsed() < LOST_AFTER, "nothing, and no room, for {LOST_AFTER:?}: something was lost");
    }
}
