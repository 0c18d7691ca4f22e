//! [`QueueOptions`]: how a queue is created.

use core::num::NonZeroU32;
use core::time::Duration;

use super::region::check_numbers;
use super::ring::layout::{BlockConfig, Config, MOST_UNITS, PAGE, SlowConfig};
use crate::memory::region::RegionError;

/// How to create a queue. Options that are not set are as in [`new`](QueueOptions::new).
///
/// ```
/// use crossproc::{Queue, QueueOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: Queue<u64> = QueueOptions::new().participants(16).loans(8).create(1000)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct QueueOptions {
    participants: usize,
    loans: usize,
    attempts: Option<NonZeroU32>,
    dead_letters: usize,
    /// The longest message, and the bytes of all long ones together.
    long: Option<(usize, usize)>,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions::new()
    }
}

impl QueueOptions {
    /// Returns the defaults: 1,024 participants, 3 loans for each, and any number of attempts.
    ///
    /// ```
    /// use crossproc::QueueOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = QueueOptions::new().create::<u64>(16)?;
    /// assert_eq!(queue.capacity(), 16);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        QueueOptions { participants: 1_024, loans: 3, attempts: None, dead_letters: 0, long: None }
    }

    /// Sets how many threads may take part at the same time, in all processes together. Memory is
    /// used for as many as ever did: for each a record of 128 bytes or more, and `loans` + 1 slots.
    ///
    /// ```
    /// use crossproc::{Queue, QueueError, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = QueueOptions::new().participants(1).create(16)?;
    /// queue.put(7)?;
    /// let others = queue.clone();
    /// let got = std::thread::spawn(move || others.get()).join().unwrap();
    /// assert!(matches!(got, Err(QueueError::TooManyParticipants { limit: 1 })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn participants(mut self, most: usize) -> Self {
        self.participants = most;
        self
    }

    /// Sets how many items a participant may have loaned, received, or in hand as tasks at the same
    /// time: 1 to 63.
    ///
    /// ```
    /// use crossproc::{Queue, QueueError, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = QueueOptions::new().loans(1).create(16)?;
    /// let _loan = queue.loan()?;
    /// assert!(matches!(queue.loan(), Err(QueueError::TooManyLoans { limit: 1 })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn loans(mut self, most: usize) -> Self {
        self.loans = most;
        self
    }

    /// Sets the number of attempts at a task of a [`JoinableQueue`](super::JoinableQueue). A task
    /// that was given out `most` times and came back each time becomes a dead letter, if there are
    /// fewer than `letters` of them. Otherwise it is given out again. With `None`, tasks never
    /// become dead letters.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    ///
    /// use crossproc::{JoinableQueue, QueueOptions};
    ///
    /// let options = QueueOptions::new().attempts(NonZeroU32::new(2), 100);
    /// let tasks: JoinableQueue<u64> = options.create_joinable(10)?;
    /// tasks.put(7)?;
    /// for _ in 0..2 {
    ///     drop(tasks.get()?); // ... without `done`: it comes back
    /// }
    /// assert_eq!(*tasks.dead_letter()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attempts(mut self, most: Option<NonZeroU32>, letters: usize) -> Self {
        self.attempts = most;
        self.dead_letters = letters;
        self
    }

    /// Lets messages be longer than a slot: up to `longest` bytes, fewer than 2^32. Such *long
    /// messages* lie beside the slots, in up to `total` bytes of memory, each in one piece and in
    /// whole pages. Other kinds of queues ignore this option.
    ///
    /// A put, or a loan, of a long message waits while others have too much of the memory. The
    /// memory is free again once the message is read: when a [`Received`](super::Received) or a
    /// [`DeadLetter`](super::DeadLetter) is dropped, a task is done, or a get has copied it. What a
    /// dead participant had is free, too. Free memory is kept for the next long messages, so that
    /// they cost no system call, until [`trim`](super::Queue::trim).
    ///
    /// A participant that is stopped in the middle of a take, or of a trim, keeps what it takes, or
    /// trims, until it goes on: the pages of one message. A task that is done gives up its memory
    /// after it counts as done.
    ///
    /// Address space is set aside for as many messages of the greatest length as there are slots,
    /// up to 256 GiB, or for `total` if that is more. There are no more long messages at a time
    /// than that: with `longest` of 4 GiB, for example, 64 of any length. A limit on address space
    /// (`ulimit -v`) may forbid the queue. A process that locks all its memory (`mlockall`) would
    /// allocate all that, and should not.
    ///
    /// ```
    /// use crossproc::QueueOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Messages of up to 1,024 bytes lie in slots, and up to 64 MiB of longer ones beside them.
    /// let options = QueueOptions::new().long_messages(64 << 20, 64 << 20);
    /// let queue = options.create_bytes(100, 1024)?;
    /// queue.put(&vec![7; 1_000_000])?;
    /// queue.put(b"hello")?;
    /// assert_eq!(queue.receive()?.len(), 1_000_000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn long_messages(mut self, longest: usize, total: usize) -> Self {
        self.long = Some((longest, total));
        self
    }

    /// Returns the config, if its numbers are possible. `batch` is the most items of a batch, if
    /// there are batches; `size` is that of an item, or of a batch.
    pub(super) fn config(
        &self,
        capacity: usize,
        size: usize,
        align: usize,
        is_joinable: bool,
        batch: Option<usize>,
    ) -> Result<Config, RegionError> {
        let dead_letters = if is_joinable { self.dead_letters } else { 0 };
        check_numbers(capacity, dead_letters, self.participants, self.loans, batch)?;
        Ok(Config {
            // All fit: `check_numbers`. An alignment does, too.
            capacity: capacity as u32,
            letters: dead_letters as u32,
            ids: self.participants as u32,
            places: self.loans as u32 + 1,
            attempts: self.attempts.map_or(0, NonZeroU32::get),
            is_joinable,
            size: size as u64,
            align: align as u32,
            batch: batch.unwrap_or(0) as u32,
            blocks: BlockConfig::default(),
            slow: SlowConfig::default(),
        })
    }

    /// Returns the config of a queue of messages.
    pub(super) fn config_of_bytes(
        &self,
        capacity: usize,
        max_len: usize,
        is_joinable: bool,
    ) -> Result<Config, RegionError> {
        let config = self.config(capacity, max_len, 1, is_joinable, None)?;
        let blocks = match self.long {
            Some((longest, total)) if longest > max_len => blocks(&config, longest, total)?,
            _ => BlockConfig::default(),
        };
        Ok(Config { blocks, ..config })
    }
}

/// The longest time that senders can wait for a slow subscriber of a broadcast.
pub(super) const MOST_PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// The most address space that is set aside for more blocks than the total would fill.
const ADDRESS_SPACE: u64 = 1 << 38;

/// Returns how messages of up to `longest` bytes, longer than a slot, fit into `total` bytes.
fn blocks(config: &Config, longest: usize, total: usize) -> Result<BlockConfig, RegionError> {
    let unsuitable = |what: String| Err(RegionError::UnsuitableQueue { what });
    let (longest, total) = (longest as u64, total as u64);
    if u32::try_from(longest).is_err() {
        return unsuitable(format!("a message can have {} bytes at most, not {longest}", u32::MAX));
    }
    let most_total = u64::from(MOST_UNITS) << 31;
    if total > most_total {
        return unsuitable(format!(
            "long messages can have {most_total} bytes altogether, not {total}"
        ));
    }
    if total < longest {
        return unsuitable(format!(
            "a long message of {longest} bytes does not fit into {total}: give all of them as much \
             memory as the longest needs"
        ));
    }
    let mut unit = PAGE as u64;
    while total.div_ceil(unit) > MOST_UNITS.into() {
        unit *= 2;
    }
    let units = total.div_ceil(unit);
    let stride = longest.next_multiple_of(unit);
    let most = (ADDRESS_SPACE / stride).max(units * unit / stride);
    // No more than there are slots. There may be more than units: a participant that is stopped
    // while it takes one, or frees its pages, keeps the others from nobody.
    let most = most.min(config.count_slots());
    // All fit: the units are `MOST_UNITS` at most, and there are fewer slots than 2^21.
    Ok(BlockConfig { most: most as u32, longest, unit, units: units as u32 })
}
