//! The data that the parent and the workers share: the queues of [tasks](Board::tasks) and of
//! [results](Board::results), and a [`Slot`] for each worker.

use core::num::NonZeroU32;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::Instant;

use crossproc::{ByteQueue, JoinableQueue, QueueOptions, Shm, shared};

use crate::results;
use crate::task::Task;

/// How many tasks wait to be taken: enough for the workers until the parent looks again.
pub(crate) const TASKS: usize = 64;
/// How many messages wait to be read.
pub(crate) const RESULTS: usize = 16;

shared! {
    /// When a worker did what, for the figures alone. It has a cache line of its own, because it is
    /// written for every task. All accesses are relaxed: for the parent the worker's death orders
    /// them.
    #[repr(align(64))]
    pub(crate) struct Slot {
        /// When the worker took up its current task, on the board's clock; 0 if it has none.
        since: AtomicU64,
        /// When the worker took up its first task; 0 if it has not.
        first: AtomicU64,
    }
}

impl Slot {
    fn new() -> Self {
        Slot { since: AtomicU64::new(0), first: AtomicU64::new(0) }
    }

    /// Returns since when the worker has been at a task, if it is at one.
    pub(crate) fn since(&self) -> Option<u64> {
        Some(self.since.load(Relaxed)).filter(|&since| since != 0)
    }

    /// Returns when the present worker took up its first task, if it has.
    pub(crate) fn first(&self) -> Option<u64> {
        Some(self.first.load(Relaxed)).filter(|&first| first != 0)
    }

    /// Clears the slot. The parent calls this before it fills the slot.
    pub(crate) fn clear(&self) {
        self.since.store(0, Relaxed);
        self.first.store(0, Relaxed);
    }

    pub(crate) fn take_up(&self, now: u64) {
        self.since.store(now, Relaxed);
        if self.first.load(Relaxed) == 0 {
            self.first.store(now, Relaxed);
        }
    }

    pub(crate) fn lay_down(&self) {
        self.since.store(0, Relaxed);
    }
}

/// Everything that is shared, and a clock that is the same in all processes.
pub(crate) struct Board {
    pub(crate) tasks: JoinableQueue<Task>,
    /// Results as [`Sender`](results::Sender) writes them. Only the parent reads, and must go on
    /// doing so: workers wait while there is no room.
    pub(crate) results: ByteQueue,
    pub(crate) slots: Shm<[Slot]>,
    /// A reading of the monotonic clock. There is one clock for the whole system, and forked
    /// workers have the same copy of the reading.
    epoch: Instant,
}

impl Board {
    /// Creates a board with empty queues. A task that was given out `attempts` times, and came back
    /// each time, is a dead letter.
    pub(crate) fn new(workers: u32, attempts: u32) -> io::Result<Self> {
        // The parent takes part. One more is allowed, so that the parent need not think about when
        // a dead participant stops being one.
        let options = QueueOptions::new()
            .participants(workers as usize + 2)
            .attempts(NonZeroU32::new(attempts), TASKS);
        let tasks = options.create_joinable(TASKS)?;
        let results = options.loans(1).create_bytes(RESULTS, results::MESSAGE)?;
        let slots = Shm::from_fn(workers as usize, |_| Slot::new())?;
        Ok(Board { tasks, results, slots, epoch: Instant::now() })
    }

    /// Returns the nanoseconds since the job began, never 0.
    pub(crate) fn now(&self) -> u64 {
        1 + self.epoch.elapsed().as_nanos() as u64
    }
}
