//! [`QueueOptions`]: how a queue is created.

use core::num::NonZeroU32;

use super::region::check_numbers;
use super::ring::layout::Config;
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
        QueueOptions { participants: 1_024, loans: 3, attempts: None, dead_letters: 0 }
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
        })
    }
}
