//! [`BroadcastOptions`]: how to create a broadcast.

use core::time::Duration;

use super::options::{MOST_PATIENCE, QueueOptions};
use super::ring::layout::{Config, EXPEL, LAG, SlowConfig, WAIT};
use crate::memory::region::RegionError;

/// What the senders of a [`Broadcast`](crate::Broadcast) do about a subscriber that is so slow that
/// they have no room left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SlowSubscribers {
    /// They wait for it. No subscriber misses anything, and one that is stopped stops all senders.
    /// Only with this policy can items be [read in place](crate::Subscriber::view).
    #[default]
    Wait,
    /// They do not wait. The oldest items are overwritten, and a subscriber that has not read them
    /// is told how many it has missed.
    Lag,
    /// They wait for so long, and then it is no subscriber any more. It learns that from its next
    /// receive. The time is up to two hours, and begins when a sender, or one who looks for
    /// [room](crate::Broadcast::room), first finds the subscriber in its way. It begins anew with
    /// each item that the subscriber reads.
    Expel(Duration),
}

/// How to create a [`Broadcast`](crate::Broadcast). Options that are not set are as in
/// [`new`](BroadcastOptions::new).
///
/// ```
/// use crossproc::{Broadcast, BroadcastOptions, SlowSubscribers};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let news: Broadcast<u64> =
///     BroadcastOptions::new().slow_subscribers(SlowSubscribers::Lag).create(1000)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct BroadcastOptions {
    participants: usize,
    slow: SlowSubscribers,
}

impl Default for BroadcastOptions {
    fn default() -> Self {
        BroadcastOptions::new()
    }
}

impl BroadcastOptions {
    /// Returns the defaults: 1,024 participants, and senders wait for slow subscribers.
    ///
    /// ```
    /// use crossproc::BroadcastOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast = BroadcastOptions::new().create::<u64>(16)?;
    /// assert_eq!(broadcast.capacity(), 16);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        BroadcastOptions { participants: 1_024, slow: SlowSubscribers::Wait }
    }

    /// Sets how many participants there may be at the same time, in all processes together: threads
    /// that send, and subscribers. Memory is used for as many as there ever were: for each a record
    /// of 128 bytes, and for each that sends two slots.
    ///
    /// ```
    /// use crossproc::{Broadcast, BroadcastOptions, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = BroadcastOptions::new().participants(1).create(16)?;
    /// let _subscriber = broadcast.subscribe()?;
    /// let refused = broadcast.send(7).unwrap_err().error;
    /// assert!(matches!(refused, QueueError::TooManyParticipants { limit: 1 }));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn participants(mut self, most: usize) -> Self {
        self.participants = most;
        self
    }

    /// Sets what senders do about slow subscribers.
    ///
    /// ```
    /// use crossproc::{Broadcast, BroadcastOptions, QueueError, SlowSubscribers};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let news: Broadcast<u64> =
    ///     BroadcastOptions::new().slow_subscribers(SlowSubscribers::Lag).create(2)?;
    /// let mut subscriber = news.subscribe()?;
    /// for item in 0..5 {
    ///     news.send(item)?;
    /// }
    /// assert!(matches!(subscriber.recv(), Err(QueueError::Lagged { missed: 3 })));
    /// assert_eq!((subscriber.recv()?, subscriber.recv()?), (3, 4));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn slow_subscribers(mut self, slow: SlowSubscribers) -> Self {
        self.slow = slow;
        self
    }

    pub(super) fn config(
        &self,
        capacity: usize,
        size: usize,
        align: usize,
    ) -> Result<Config, RegionError> {
        // Nothing is loaned. With 1, a sender has two places, which is the least.
        let options = QueueOptions::new().participants(self.participants).loans(1);
        let config = options.config(capacity, size, align, false, None)?;
        let slow = match self.slow {
            SlowSubscribers::Wait => SlowConfig { policy: WAIT, patience: 0 },
            SlowSubscribers::Lag => SlowConfig { policy: LAG, patience: 0 },
            SlowSubscribers::Expel(after) => {
                SlowConfig { policy: EXPEL, patience: patience(after)? }
            }
        };
        let capacity = config.capacity + u32::from(slow.has_spare_entry());
        Ok(Config { capacity, slow, ..config })
    }
}

/// Returns at least so much time in ticks.
fn patience(after: Duration) -> Result<u32, RegionError> {
    if after > MOST_PATIENCE {
        return Err(RegionError::UnsuitableQueue {
            what: format!(
                "senders can wait {MOST_PATIENCE:?} at most for a slow subscriber, not {after:?}"
            ),
        });
    }
    if after.is_zero() {
        return Ok(0);
    }
    // The first tick has begun when the time begins. It fits: that is what the most is for.
    Ok(after.as_nanos().div_ceil(TICK) as u32 + 1)
}

/// The nanoseconds of a tick of `SlowConfig::patience`.
const TICK: u128 = 1 << 20;
