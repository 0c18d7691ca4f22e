//! [`Once`]: work that is done once, by the first caller that lives to finish it.

#![allow(unsafe_code)]

use core::convert::Infallible;
use core::fmt;
use core::time::Duration;
use std::time::Instant;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::robust::Holding;

use crate::memory::shared::{Fingerprint, Shared};
use crate::sync::lock::LockError;
use crate::sync::lock::state::{LockRefused, Locked, RawLock};
use crate::wait::Wait;

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
/// [`OnceError`]: [`Deadlock`](LockError::Deadlock) if the initialiser calls the same `Once`,
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

/// The reason why a [`Once`] was not done. There is no guard that could come with an owner's death.
pub type OnceError = LockError<Infallible>;

/// What an initialiser is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnceState {
    predecessor_died: bool,
}

impl OnceState {
    /// Returns whether an earlier initialiser has begun the work and died of it, or panicked.
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
    #[must_use]
    pub const fn new() -> Self {
        Once { lock: RawLock::new(), done: AtomicU32::new(0), _padding: 0 }
    }

    /// Does the work, unless it is done. Waits for as long as another caller does it.
    ///
    /// # Errors
    /// [`Deadlock`](LockError::Deadlock), [`TooManyHeld`](LockError::TooManyHeld),
    /// [`Unavailable`](LockError::Unavailable).
    #[inline]
    pub fn call_once(&self, work: impl FnOnce(OnceState)) -> Result<(), OnceError> {
        self.call_once_with(Wait::FOREVER, work)
    }

    /// Does the work, unless it is done or another caller is doing it.
    ///
    /// # Errors
    /// [`WouldBlock`](LockError::WouldBlock) if another caller is doing it; otherwise as
    /// [`call_once`](Once::call_once).
    #[inline]
    pub fn try_call_once(&self, work: impl FnOnce(OnceState)) -> Result<(), OnceError> {
        self.call(RawLock::try_lock_contended, work)
    }

    /// Does the work, unless it is done. If another caller is doing it, waits for at most
    /// `timeout`.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`call_once`](Once::call_once).
    #[inline]
    pub fn call_once_timeout(
        &self,
        timeout: Duration,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        self.call(|lock| lock.lock_contended(Wait::timeout(timeout)), work)
    }

    /// Does the work, unless it is done. If another caller is doing it, waits until `deadline` at
    /// the latest.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`call_once`](Once::call_once).
    #[inline]
    pub fn call_once_deadline(
        &self,
        deadline: Instant,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        self.call(|lock| lock.lock_contended(Wait::deadline(deadline)), work)
    }

    /// Does the work, unless it is done. If another caller is doing it, waits as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut), and [`Interrupted`](LockError::Interrupted) if `wait` is
    /// interruptible; otherwise as [`call_once`](Once::call_once).
    #[inline]
    pub fn call_once_with(
        &self,
        wait: Wait,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        self.call(|lock| lock.lock_contended(wait), work)
    }

    /// Returns whether the work is done. Once it is, it stays so.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        // Acquire: pairs with the Release in `complete`.
        self.done.load(Acquire) == DONE
    }

    #[inline]
    fn call(
        &self,
        lock: impl FnOnce(&RawLock) -> Result<Locked, LockRefused>,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        if self.is_completed() { Ok(()) } else { self.complete(lock, work) }
    }

    #[cold]
    fn complete(
        &self,
        lock: impl FnOnce(&RawLock) -> Result<Locked, LockRefused>,
        work: impl FnOnce(OnceState),
    ) -> Result<(), OnceError> {
        let acquired = lock(&self.lock)?;
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
