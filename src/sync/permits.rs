//! [`Permits`]: permits that belong to their holders.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use std::io;

use crossproc_sys::robust::Holding;

use crate::memory::shared::{Fingerprint, Shared};
use crate::sync::error::RobustListError;
use crate::sync::lock::state::LockRefused;
use crate::sync::tokens::{Cells, Taken};
use crate::wait::{Wait, Waiter, forms};

/// `N` permits, each of which comes back when its holder releases it, or dies.
///
/// Like a [`Semaphore`](crate::Semaphore), it limits how many threads do something at once; System
/// V had `SEM_UNDO` for that. Python has nothing like it. The price is that a permit is acquired
/// and released by the same thread, and 40 bytes for each permit.
///
/// # Blocking and fairness
/// [`acquire`](Permits::acquire) looks at all permits, then sleeps until one is free. A free permit
/// goes to the first thread to ask, even before a waiter that was just woken. Sleepers are woken in
/// the order in which they went to sleep; each goes to sleep anew at the end of a
/// [slice](crate::set_recheck_interval). Releasing does not block. Without sleepers, no operation
/// makes a system call.
///
/// # Memory ordering
/// A release *synchronises with* the next acquisition of the same permit, and with any acquisition
/// if there is only one permit. A holder's death counts as its release.
///
/// # Process death
/// The permits of a thread that dies, ends, or calls `exec` are free at once, and the kernel wakes
/// a waiter for each. On kernels before 6.2, and for the permits beyond the 126th, that can take
/// one [slice](crate::set_recheck_interval). A waiter that dies leaves no trace. No participant is
/// told of a death: the permits protected nothing but themselves.
///
/// # Fork
/// A forked child does not inherit its parent's permits. A guard that was carried into it does
/// nothing when it is dropped there.
///
/// # Errors
/// [`PermitsError`]. A thread may hold 1,000 permits and locks at a time.
///
/// # Signal handlers
/// Not for signal handlers.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Permits, Shm, process};
///
/// # fn main() -> std::io::Result<()> {
/// let licences: Shm<Permits<2>> = Shm::new(Permits::new())?;
///
/// let theirs = licences.clone();
/// let child = process::fork(move || -> () {
///     let _one = theirs.acquire().unwrap();
///     std::process::abort(); // ... without giving it back
/// })?;
/// child.join()?;
///
/// let _one = licences.acquire()?;
/// let _two = licences.acquire()?;
/// assert!(licences.try_acquire().is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// A robust futex for each permit. The way in which they are waited for is our own; see
/// `DESIGN.md`.
#[repr(transparent)]
pub struct Permits<const N: usize> {
    cells: Cells<N>,
}

// SAFETY: the words and entries are atomics; every value of them is valid, and entries are never
// read back.
unsafe impl<const N: usize> Shared for Permits<N> {
    fn layout(to: &mut Fingerprint) {
        to.name("Permits").number(N);
    }

    fn set_up(&mut self) {
        *self = Permits::new();
    }
}

impl<const N: usize> Permits<N> {
    /// Creates `N` free permits.
    ///
    /// ```
    /// use crossproc::Permits;
    ///
    /// static LICENCES: Permits<2> = Permits::new();
    ///
    /// assert_eq!(LICENCES.value(), 2);
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N >= 1, "without permits, nobody could ever acquire one") };
        Permits { cells: Cells::new() }
    }

    forms! {
        /// Takes a permit.
        ///
        /// ```
        /// use crossproc::{Permits, PermitsError};
        ///
        /// static LICENCES: Permits<2> = Permits::new();
        ///
        /// let one = LICENCES.acquire()?;
        /// let two = LICENCES.acquire()?;
        /// assert_eq!(LICENCES.try_acquire().unwrap_err(), PermitsError::WouldBlock);
        /// drop(one);
        /// assert_eq!(LICENCES.value(), 1);
        /// # Ok::<(), PermitsError>(())
        /// ```
        acquire, try_acquire, acquire_timeout, acquire_deadline, acquire_with
        (self: &Self) -> Result<Permit<'_, N>, PermitsError>, Self::acquire_until,
        errors "[`Deadlock`](PermitsError::Deadlock), [`TooManyHeld`](PermitsError::TooManyHeld), \
                [`Unavailable`](PermitsError::Unavailable).",
        now "[`WouldBlock`](PermitsError::WouldBlock) if none was found: each permit was held \
             when it was looked at.", of PermitsError
    }

    /// Returns how many permits are free. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::Permits;
    ///
    /// static LICENCES: Permits<2> = Permits::new();
    ///
    /// let _one = LICENCES.acquire()?;
    /// assert_eq!(LICENCES.value(), 1);
    /// # Ok::<(), crossproc::PermitsError>(())
    /// ```
    #[must_use]
    pub fn value(&self) -> usize {
        self.cells.free()
    }

    #[inline]
    fn acquire_until(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Permit<'_, N>, PermitsError> {
        let taken = match (self.cells.try_take(Holding::BY_HAND)?, wait) {
            (Some(taken), _) => taken,
            (None, Some(wait)) => {
                self.cells.take_waiting(&mut Waiter::new(wait()), Holding::BY_HAND)?
            }
            (None, None) => return Err(PermitsError::WouldBlock),
        };
        Ok(self.permit(taken))
    }

    fn permit(&self, taken: Taken) -> Permit<'_, N> {
        Permit { permits: self, taken, stays_here: PhantomData }
    }
}

impl<const N: usize> Default for Permits<N> {
    fn default() -> Self {
        Permits::new()
    }
}

impl<const N: usize> fmt::Debug for Permits<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permits")
            .field("value", &self.value())
            .field("of", &N)
            .finish_non_exhaustive()
    }
}

/// One of the [`Permits`]; dropping it releases it. It stays in its thread, because the kernel
/// knows the holder by thread.
///
/// A leaked permit stays held until its thread ends, and is free then. If the permits are not in a
/// [`Shm`](crate::Shm), the *process* ends with such a thread, by [`abort`](std::process::abort)
/// and a message: the memory of the permits could have been freed meanwhile.
#[must_use = "dropping the permit releases it at once"]
pub struct Permit<'a, const N: usize> {
    permits: &'a Permits<N>,
    taken: Taken,
    stays_here: PhantomData<*const ()>,
}

impl<const N: usize> Drop for Permit<'_, N> {
    #[inline]
    fn drop(&mut self) {
        self.permits.cells.release(self.taken, 1);
    }
}

impl<const N: usize> fmt::Debug for Permit<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// The reason why no permit was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PermitsError {
    /// No permit was found free.
    #[error("no permit is free")]
    WouldBlock,
    /// No permit was free by the deadline.
    #[error("no permit was free until the deadline")]
    TimedOut,
    /// A signal handler ran while the thread waited interruptibly.
    #[error("a signal handler ran while waiting for a permit")]
    Interrupted,
    /// The calling thread holds all the permits.
    #[error("this thread holds all the permits: waiting for one would never end")]
    Deadlock,
    /// The calling thread holds as many locks and permits as the kernel would free at its death.
    #[error(
        "this thread holds {} locks and permits, more would not be freed if it died: release some \
         first",
        crossproc_sys::robust::MAX_HELD
    )]
    TooManyHeld,
    /// The calling thread cannot hold a permit that would come back if it died.
    #[error("this thread can hold no permit that survives it: {0}")]
    Unavailable(#[source] RobustListError),
}

impl From<LockRefused> for PermitsError {
    fn from(refused: LockRefused) -> Self {
        match refused {
            LockRefused::WouldBlock => PermitsError::WouldBlock,
            LockRefused::TimedOut => PermitsError::TimedOut,
            LockRefused::Interrupted => PermitsError::Interrupted,
            LockRefused::Deadlock => PermitsError::Deadlock,
            LockRefused::TooManyHeld => PermitsError::TooManyHeld,
            LockRefused::Unavailable(why) => PermitsError::Unavailable(RobustListError::new(why)),
        }
    }
}

impl From<PermitsError> for io::Error {
    fn from(error: PermitsError) -> Self {
        let kind = match error {
            PermitsError::WouldBlock => io::ErrorKind::WouldBlock,
            PermitsError::TimedOut => io::ErrorKind::TimedOut,
            PermitsError::Interrupted => io::ErrorKind::Interrupted,
            PermitsError::Deadlock => io::ErrorKind::Deadlock,
            PermitsError::TooManyHeld | PermitsError::Unavailable(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
