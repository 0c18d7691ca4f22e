//! [`Semaphore`]: a number of permits.

#![allow(unsafe_code)]

use core::fmt;
use core::time::Duration;
use std::io;
use std::time::Instant;

pub(crate) mod state;

use self::state::{Overflow, RawSemaphore};
use crate::shared::{Fingerprint, Shared};
use crate::wait::{TimedOut, Waiter};

/// A number of permits that threads of any processes acquire and release.
///
/// It corresponds to Python's `multiprocessing.Semaphore` and to `sem_t`. Permits have no owner: whoever likes may release, which makes a
/// semaphore a counter of things that are ready, too.
///
/// # Blocking and fairness
/// [`acquire`](Semaphore::acquire) looks at a semaphore without permits for a few microseconds, then sleeps. A permit goes to whoever comes first, also
/// before a waiter that was just woken; sleepers are woken in the order in which they went to sleep. No other operation blocks. Without sleepers, no operation
/// makes a system call.
///
/// # Memory ordering
/// A release *synchronises with* the acquisitions that follow it: what a releaser wrote before, whoever gets a permit after it sees.
///
/// # Process death
/// Permits that a dead process had acquired are gone: nobody knows that they were its. A waiter that dies has
/// taken its permit or has not; none is lost between the two, and nobody sleeps while there are permits. A releaser that dies has released or has not; if it has, the
/// permits are acquired, even if it died before it woke anyone: the kernel, and then the first of the waiters, does it for it. On kernels before 6.2 that
/// can take one [slice](crate::set_slice).
///
/// # Signal handlers
/// `release`, `release_many`, `try_acquire` and `value` may be called in one, provided that the thread has used any lock,
/// semaphore or event that others waited for before.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Semaphore, Shm, process};
///
/// # fn main() -> std::io::Result<()> {
/// let done = Shm::new(Semaphore::new(0))?;
/// for _ in 0..3 {
///     let theirs = done.clone();
///     process::fork(move || theirs.release().unwrap())?;
/// }
/// for _ in 0..3 {
///     done.acquire();
/// }
/// assert_eq!(done.value(), 0);
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// Value and flags in one 64-bit word, the futex on a half of it, is glibc's `sem_t`; the protocol between sleepers and wakers is our own. See `DESIGN.md`.
#[repr(transparent)]
pub struct Semaphore {
    raw: RawSemaphore,
}

// SAFETY: one atomic; every value of it is valid.
unsafe impl Shared for Semaphore {
    fn layout(to: &mut Fingerprint) {
        to.name("Semaphore");
    }
}

impl Semaphore {
    /// The most permits that there can be.
    pub const MAX: u32 = u32::MAX;

    /// A semaphore with `value` permits.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Semaphore { raw: RawSemaphore::new(value) }
    }

    /// Takes a permit, and waits for one as long as it takes.
    #[inline]
    pub fn acquire(&self) {
        // Without a deadline there is no time-out.
        let _ = self.raw.acquire(Waiter::forever);
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    /// [`SemaphoreError::WouldBlock`] if there is none.
    #[inline]
    pub fn try_acquire(&self) -> Result<(), SemaphoreError> {
        if self.raw.try_acquire() { Ok(()) } else { Err(SemaphoreError::WouldBlock) }
    }

    /// Takes a permit, and waits for one for `timeout` at most. Zero tries once; [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`SemaphoreError::TimedOut`].
    #[inline]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), SemaphoreError> {
        Ok(self.raw.acquire(|| Waiter::timeout(timeout))?)
    }

    /// Takes a permit, and waits for one until `deadline` at most. A past one tries once.
    ///
    /// # Errors
    /// [`SemaphoreError::TimedOut`].
    #[inline]
    pub fn acquire_deadline(&self, deadline: Instant) -> Result<(), SemaphoreError> {
        Ok(self.raw.acquire(|| Waiter::deadline(deadline))?)
    }

    /// Adds one permit and wakes a waiter, if there is one.
    ///
    /// # Errors
    /// [`SemaphoreError::Overflow`] if there are [`MAX`](Semaphore::MAX) already; nothing has changed.
    #[inline]
    pub fn release(&self) -> Result<(), SemaphoreError> {
        self.release_many(1)
    }

    /// Adds `count` permits in one step and wakes as many waiters. Zero does nothing.
    ///
    /// # Errors
    /// [`SemaphoreError::Overflow`] if there would be more than [`MAX`](Semaphore::MAX); nothing has changed.
    #[inline]
    pub fn release_many(&self, count: u32) -> Result<(), SemaphoreError> {
        Ok(self.raw.release(count)?)
    }

    /// How many permits there are. It may have changed by the time this returns.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.raw.value()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("value", &self.value()).finish_non_exhaustive()
    }
}

/// Why no permit was acquired or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SemaphoreError {
    /// There is no permit.
    #[error("the semaphore has no permit")]
    WouldBlock,
    /// There was no permit until the deadline.
    #[error("the semaphore had no permit until the deadline")]
    TimedOut,
    /// There would be more permits than a semaphore can count.
    #[error("the semaphore would have more than {} permits: it was released more often than acquired", Semaphore::MAX)]
    Overflow,
}

impl From<TimedOut> for SemaphoreError {
    fn from(_: TimedOut) -> Self {
        SemaphoreError::TimedOut
    }
}

impl From<Overflow> for SemaphoreError {
    fn from(_: Overflow) -> Self {
        SemaphoreError::Overflow
    }
}

impl From<SemaphoreError> for io::Error {
    fn from(error: SemaphoreError) -> Self {
        let kind = match error {
            SemaphoreError::WouldBlock => io::ErrorKind::WouldBlock,
            SemaphoreError::TimedOut => io::ErrorKind::TimedOut,
            SemaphoreError::Overflow => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
