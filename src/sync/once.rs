//! [`Once`]: work that is done once, by the first caller that lives to finish it.

#![allow(unsafe_code)]

use core::fmt;
use std::io;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::robust::Holding;

use crate::memory::shared::{Fingerprint, Shared};
use crate::sync::error::RobustListError;
use crate::sync::lock::state::{LockRefused, RawLock};
use crate::wait::{Wait, forms};

const DONE: u32 = 1;

/// Work that is done once for all processes, such as filling a table that they share.
///
/// It corresponds to `std::sync::Once`. Unlike there, an initialiser that panics or dies does not
/// spoil it: the next caller does the work.
///
/// # Blocking and fairness
/// While one caller does the work, others wait for it. Afterwards a call is one load. Its waiters
/// are like those of a [`Lock`](crate::Lock).
///
/// # Memory ordering
/// What the initialiser wrote is visible after any call that has returned without an error. It is
/// also visible after [`is_completed`](Once::is_completed) has returned true.
///
/// # Process death
/// An initialiser that dies hands the work to the next caller, waiting or yet to come. That caller
/// is [told](OnceState::predecessor_died): it may find the work half done. An initialiser that
/// panics does the same.
///
/// # Errors
/// [`OnceError`]: [`Deadlock`](OnceError::Deadlock) if the initialiser calls the same `Once`,
/// otherwise as for a [`Lock`](crate::Lock).
///
/// # Signal handlers
/// Not for signal handlers, except [`is_completed`](Once::is_completed).
///
/// # Examples
/// ```
/// use crossproc::{Once, shared};
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// shared! {
///     struct Table {
///         filled: Once,
///         squares: [AtomicU64; 100],
///     }
/// }
///
/// fn squares(table: &Table) -> Result<&[AtomicU64; 100], crossproc::OnceError> {
///     table.filled.call_once(|_| {
///         for (number, square) in table.squares.iter().enumerate() {
///             square.store((number * number) as u64, Relaxed);
///         }
///     })?;
///     Ok(&table.squares)
/// }
///
/// let table = Table { filled: Once::new(), squares: [const { AtomicU64::new(0) }; 100] };
/// assert_eq!(squares(&table)?[12].load(Relaxed), 144);
/// # Ok::<(), crossproc::OnceError>(())
/// ```
///
/// # Source
/// A flag behind a robust lock.
#[repr(C)]
pub struct Once {
    lock: RawLock,
    /// 0, or [`DONE`].
    done: AtomicU32,
    _padding: u32,
}

/// The reason why a [`Once`] was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// The calling thread is doing the work.
    #[error("this thread is doing the work already: waiting for it would never end")]
    Deadlock,
    /// Another thread is doing the work.
    #[error("the work is being done by another thread")]
    WouldBlock,
    /// Another thread was doing the work until the deadline.
    #[error("the work was not done until the deadline")]
    TimedOut,
    /// A signal handler ran during an interruptible wait.
    #[error("a signal handler ran while waiting for the work to be done")]
    Interrupted,
    /// The calling thread holds as many locks as the kernel is willing to free for it when it dies.
    #[error(
        "this thread holds {} locks, more would not be freed if it died: unlock some first",
        crossproc_sys::robust::MAX_HELD
    )]
    TooManyHeld,
    /// The calling thread can do no work that would be handed on at its death.
    #[error("this thread can do no work that another would take over: {0}")]
    Unavailable(#[source] RobustListError),
}

impl From<LockRefused> for OnceError {
    fn from(refused: LockRefused) -> Self {
        match refused {
            LockRefused::Deadlock => OnceError::Deadlock,
            LockRefused::WouldBlock => OnceError::WouldBlock,
            LockRefused::TimedOut => OnceError::TimedOut,
            LockRefused::Interrupted => OnceError::Interrupted,
            LockRefused::TooManyHeld => OnceError::TooManyHeld,
            LockRefused::Unavailable(why) => OnceError::Unavailable(RobustListError::new(why)),
        }
    }
}

impl From<OnceError> for io::Error {
    fn from(error: OnceError) -> Self {
        let kind = match error {
            OnceError::WouldBlock => io::ErrorKind::WouldBlock,
            OnceError::TimedOut => io::ErrorKind::TimedOut,
            OnceError::Deadlock => io::ErrorKind::Deadlock,
            OnceError::Interrupted => io::ErrorKind::Interrupted,
            OnceError::TooManyHeld | OnceError::Unavailable(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// What an initialiser is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnceState {
    predecessor_died: bool,
}

impl OnceState {
    /// Returns whether an earlier initialiser has begun the work and died of it, or panicked.
    ///
    /// ```
    /// use crossproc::Once;
    ///
    /// static ONCE: Once = Once::new();
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let half = std::thread::spawn(|| ONCE.call_once(|_| panic!("in the middle of the work")));
    /// assert!(half.join().is_err());
    /// ONCE.call_once(|state| {
    ///     assert!(state.predecessor_died());
    ///     // ... clear away what is half done, and do the work ...
    /// })?;
    /// # Ok::<(), crossproc::OnceError>(())
    /// ```
    #[must_use]
    pub fn predecessor_died(&self) -> bool {
        self.predecessor_died
    }
}

// SAFETY: words and an entry that are atomics; every value of them is valid, and entries are never
// read back.
unsafe impl Shared for Once {
    fn layout(to: &mut Fingerprint) {
        to.name("Once");
    }

    fn set_up(&mut self) {
        *self = Once::new();
    }
}

impl Once {
    /// Creates a `Once` whose work is not done yet.
    ///
    /// ```
    /// use crossproc::Once;
    ///
    /// static ONCE: Once = Once::new();
    ///
    /// assert!(!ONCE.is_completed());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Once { lock: RawLock::new(), done: AtomicU32::new(0), _padding: 0 }
    }

    forms! {
        /// Does the work, unless it is done. The forms that wait do so while another caller does
        /// it.
        ///
        /// ```
        /// use crossproc::Once;
        ///
        /// static ONCE: Once = Once::new();
        ///
        /// let mut times = 0;
        /// ONCE.call_once(|_| times += 1)?;
        /// ONCE.call_once(|_| times += 1)?;
        /// assert!(times == 1 && ONCE.is_completed());
        /// # Ok::<(), crossproc::OnceError>(())
        /// ```
        call_once, try_call_once, call_once_timeout, call_once_deadline,
        call_once_with<F: FnOnce(OnceState)>
        (self: &Self; work: F) -> Result<(), OnceError>, Self::call,
        errors "[`Deadlock`](OnceError::Deadlock), [`TooManyHeld`](OnceError::TooManyHeld), \
                [`Unavailable`](OnceError::Unavailable).",
        now "[`WouldBlock`](OnceError::WouldBlock) if another caller is doing it.", of OnceError
    }

    /// Returns whether the work is done. Once it is, it stays so.
    ///
    /// ```
    /// use crossproc::Once;
    ///
    /// static ONCE: Once = Once::new();
    ///
    /// ONCE.call_once(|_| assert!(!ONCE.is_completed()))?;
    /// assert!(ONCE.is_completed());
    /// # Ok::<(), crossproc::OnceError>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        // Acquire: pairs with the Release in `complete`.
        self.done.load(Acquire) == DONE
    }

    #[inline]
    fn call(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        if self.is_completed() { Ok(()) } else { self.complete(wait, work) }
    }

    #[cold]
    fn complete(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        let acquired = match wait {
            Some(wait) => self.lock.lock_contended(wait())?,
            None => self.lock.try_lock_contended()?,
        };
        // Held without a guard: nothing here gives out references, and the work may fork.
        self.lock.hold(Holding::BY_HAND);
        let _unlocks = Unlocks(&self.lock, acquired.tid);
        // Relaxed: the lock orders it, since the thread that did the work held the lock before.
        if self.done.load(Relaxed) == DONE {
            return Ok(());
        }
        let died = Died(&self.lock);
        work(OnceState { predecessor_died: acquired.owner_died });
        core::mem::forget(died);
        self.lock.recover();
        // Release: pairs with the Acquire in `is_completed`.
        self.done.store(DONE, Release);
        Ok(())
    }
}

/// Unlocks the lock when it is dropped.
struct Unlocks<'a>(&'a RawLock, u32);

impl Drop for Unlocks<'_> {
    fn drop(&mut self) {
        self.0.unlock(self.1);
    }
}

/// Marks the lock as a dead owner's when it is dropped, which happens if the work panics.
struct Died<'a>(&'a RawLock);

impl Drop for Died<'_> {
    fn drop(&mut self) {
        self.0.spoil();
    }
}

impl Default for Once {
    fn default() -> Self {
        Once::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("is_completed", &self.is_completed()).finish_non_exhaustive()
    }
}
