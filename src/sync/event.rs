//! [`Event`]: something that happens and that others wait for.

#![allow(unsafe_code)]

use core::fmt;
use core::time::Duration;
use std::io;
use std::time::Instant;

pub(crate) mod state;

use self::state::RawEvent;
use crate::memory::Observe;
use crate::memory::shared::{Fingerprint, Shared};
use crate::wait::{Ended, Wait};

/// A flag that any number of threads of any processes can wait for. It is set and cleared by hand.
///
/// It corresponds to Python's `multiprocessing.Event`. It starts unset and stays set until
/// [`clear`](Event::clear). While it is set, it releases all waiters, later ones included. A
/// `clear` that follows at once takes no wake-up away: every `wait` that had begun when the event
/// was set returns.
///
/// # Blocking and fairness
/// [`wait`](Event::wait) looks at an unset event for a few microseconds, then sleeps. No other
/// operation blocks. An operation that finds no sleeper makes no system call.
///
/// # Memory ordering
/// A [`set`](Event::set) *synchronises with* every wait, `is_set` and `clear` that sees it, or a
/// later one. That also holds for a `set` that found the event set.
///
/// # Process death
/// A waiter that dies leaves no trace. A setter that dies has set the event or has not. If it has,
/// the waiters return, even if it died before it woke any of them: the kernel wakes the first of
/// them, which wakes the rest. On kernels before 6.2 that can take one
/// [slice](crate::set_recheck_interval).
///
/// # Signal handlers
/// `set`, `clear` and `is_set` may be called in a signal handler, provided that the thread has
/// already used any lock, semaphore or event that others waited for.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Event, Shm, process};
///
/// # fn main() -> std::io::Result<()> {
/// let ready = Shm::new(Event::new())?;
///
/// let theirs = ready.clone();
/// let child = process::fork(move || theirs.set())?;
/// ready.wait();
/// assert!(ready.is_set());
/// assert!(child.join()?.success());
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// Our own; see `DESIGN.md`.
#[repr(transparent)]
pub struct Event {
    pub(crate) raw: RawEvent,
}

// SAFETY: one atomic; every value of it is valid.
unsafe impl Shared for Event {
    fn layout(to: &mut Fingerprint) {
        to.name("Event");
    }
}

// SAFETY: a load.
unsafe impl Observe for Event {
    type Value = bool;

    fn observe(&self) -> bool {
        self.raw.looks_set()
    }
}

impl Event {
    /// Creates an event that is not set.
    ///
    /// ```
    /// use crossproc::Event;
    ///
    /// static READY: Event = Event::new();
    ///
    /// assert!(!READY.is_set());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Event { raw: RawEvent::new() }
    }

    /// Sets the event and wakes all waiters. Does not block.
    ///
    /// ```
    /// use crossproc::Event;
    ///
    /// static READY: Event = Event::new();
    ///
    /// let waiter = std::thread::spawn(|| READY.wait());
    /// READY.set();
    /// waiter.join().unwrap();
    /// assert!(READY.is_set());
    /// ```
    #[inline]
    pub fn set(&self) {
        self.raw.set();
    }

    /// Makes later waits block again. Does not block.
    ///
    /// ```
    /// use crossproc::{Event, EventError};
    ///
    /// static READY: Event = Event::new();
    ///
    /// READY.set();
    /// assert_eq!(READY.try_wait(), Ok(()));
    /// READY.clear();
    /// assert_eq!(READY.try_wait(), Err(EventError::WouldBlock));
    /// ```
    #[inline]
    pub fn clear(&self) {
        self.raw.clear();
    }

    /// Returns whether the event is set. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::Event;
    ///
    /// static STOP: Event = Event::new();
    ///
    /// let mut rounds = 0;
    /// while !STOP.is_set() {
    ///     rounds += 1;
    ///     if rounds == 3 {
    ///         STOP.set();
    ///     }
    /// }
    /// assert_eq!(rounds, 3);
    /// ```
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.raw.is_set()
    }

    /// Waits until the event is set, for as long as it takes.
    ///
    /// ```
    /// use crossproc::Event;
    /// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    ///
    /// static READY: Event = Event::new();
    /// static NUMBER: AtomicU32 = AtomicU32::new(0);
    ///
    /// std::thread::spawn(|| {
    ///     NUMBER.store(7, Relaxed);
    ///     READY.set();
    /// });
    /// READY.wait();
    /// assert_eq!(NUMBER.load(Relaxed), 7);
    /// ```
    #[inline]
    pub fn wait(&self) {
        // Without a deadline there is no time-out.
        let _ = self.raw.wait(|| Wait::FOREVER);
    }

    /// Returns whether the event is set, as a `Result`: the form of `wait` that does not block.
    ///
    /// # Errors
    /// [`EventError::WouldBlock`] if it is not.
    #[inline]
    pub fn try_wait(&self) -> Result<(), EventError> {
        if self.is_set() { Ok(()) } else { Err(EventError::WouldBlock) }
    }

    /// Waits until the event is set, for at most `timeout`. Zero looks once; [`Duration::MAX`]
    /// waits for ever.
    ///
    /// # Errors
    /// [`EventError::TimedOut`].
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), EventError> {
        Ok(self.raw.wait(|| Wait::timeout(timeout))?)
    }

    /// Waits until the event is set, until `deadline` at the latest. A past deadline looks once.
    ///
    /// # Errors
    /// [`EventError::TimedOut`].
    #[inline]
    pub fn wait_deadline(&self, deadline: Instant) -> Result<(), EventError> {
        Ok(self.raw.wait(|| Wait::deadline(deadline))?)
    }

    /// Waits until the event is set, as `wait` says.
    ///
    /// # Errors
    /// [`EventError::TimedOut`], and [`EventError::Interrupted`] if `wait` is interruptible.
    #[inline]
    pub fn wait_with(&self, wait: Wait) -> Result<(), EventError> {
        Ok(self.raw.wait(|| wait)?)
    }
}

impl Default for Event {
    fn default() -> Self {
        Event::new()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}

/// The reason why a wait for an [`Event`] ended without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event is not set.
    #[error("the event is not set")]
    WouldBlock,
    /// The event was not set by the deadline.
    #[error("the event was not set until the deadline")]
    TimedOut,
    /// A signal handler ran while the thread waited interruptibly.
    #[error("a signal handler ran while waiting for the event")]
    Interrupted,
    /// The thread that would sleep in a future's place could not be started.
    #[error("no thread could be started to sleep for the future")]
    NoThread,
}

impl From<Ended> for EventError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => EventError::TimedOut,
            Ended::Interrupted => EventError::Interrupted,
        }
    }
}

impl From<EventError> for io::Error {
    fn from(error: EventError) -> Self {
        let kind = match error {
            EventError::WouldBlock => io::ErrorKind::WouldBlock,
            EventError::TimedOut => io::ErrorKind::TimedOut,
            EventError::Interrupted => io::ErrorKind::Interrupted,
            EventError::NoThread => io::ErrorKind::WouldBlock,
        };
        io::Error::new(kind, error)
    }
}
