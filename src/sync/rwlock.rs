//! [`RwLock`]: several readers or one writer.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::time::Duration;
use std::time::Instant;

pub(crate) mod state;

use self::state::{Admitted, RawRwLock};
use crate::memory::shared::{Fingerprint, Plain, Shared};
use crate::sync::lock::LockError;
use crate::sync::lock::state::LockRefused;
use crate::sync::lock::unwinding::Panics;
use crate::sync::tokens::Taken;
use crate::wait::Wait;

/// A value that several threads of any processes may read at a time, or one thread may change.
///
/// It corresponds to `std::sync::RwLock`; Python has none. `READERS` is the number of threads that
/// can read at a time, 32 by default. Each takes 40 bytes, by which the kernel knows that the
/// reader is there. Further readers wait until one of them leaves.
///
/// # Blocking and fairness
/// Writers are preferred. Once a writer waits, no new reader gets in, and the writer waits only for
/// the readers that were there before. So readers starve while writers follow each other without a
/// gap; a writer does not starve. Among writers, and for a reader that waits for a writer, fairness
/// is as for a [`Lock`](crate::Lock). A lock that is free or only read makes no system call.
///
/// # Memory ordering
/// Threads that read or write after a writer see what it wrote. A writer is ordered after all
/// readers before it.
///
/// # Process death
/// A reader that dies is gone, and blocks nobody. A writer that dies is gone, too. The next writers
/// and readers get [`LockError::OwnerDied`] with the guard in it, until a writer calls
/// [`recover`](RwLockWriteGuard::recover). A writer that dies while it still waits for readers has
/// changed nothing, and nobody is told. A waiter that dies leaves no trace. Stopped threads keep
/// what they hold.
///
/// A panic that begins while a writer's guard is held, and unwinds through it, counts as the
/// writer's death, as for a [`Lock`](crate::Lock). A panic through a reader's guard does nothing.
///
/// A dead writer's writes happened in the order of its machine instructions, as for a
/// [`Lock`](crate::Lock).
///
/// # Fork
/// As for a [`Lock`](crate::Lock): a child inherits nothing.
///
/// # Errors
/// Every form gives [`LockError`]. It is [`Deadlock`](LockError::Deadlock) if a thread
/// - reads, and wants to write;
/// - reads, and waits to read once more while a writer waits for it;
/// - reads in all `READERS` places, and waits for another one;
/// - writes, and wants to read or write once more.
///
/// A thread may hold 1,000 locks at a time.
///
/// # Signal handlers
/// Not for use in signal handlers.
///
/// # Examples
/// ```
/// use crossproc::{LockError, RwLock};
///
/// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
///
/// {
///     let one = LIMITS.read().map_err(LockError::without_guard)?;
///     let other = LIMITS.read().map_err(LockError::without_guard)?;
///     assert_eq!(one[1], other[1]);
/// }
/// LIMITS.write().map_err(LockError::without_guard)?[1] = 20;
/// # Ok::<(), LockError<()>>(())
/// ```
///
/// # Source
/// A lock for the writer and a flag for each reader is the "big reader" lock of old Linux kernels.
/// That a reader's flag is a robust futex is our own. See `DESIGN.md`.
#[repr(C)]
pub struct RwLock<T, const READERS: usize = 32> {
    raw: RawRwLock<READERS>,
    value: UnsafeCell<T>,
}

// SAFETY: either one thread at a time reaches the value, which may be any thread, hence `Send`; or
// several threads read it, hence `Sync`.
unsafe impl<T: Send + Sync, const READERS: usize> Sync for RwLock<T, READERS> {}

// SAFETY: the words and the entries are atomics, and the value is plain data; every sequence of
// bytes is valid for each. No pointer is followed: entries are written for the kernel and never
// read back.
unsafe impl<T: Plain + Sync, const READERS: usize> Shared for RwLock<T, READERS> {
    fn layout(to: &mut Fingerprint) {
        to.name("RwLock").number(READERS).plain::<T>();
    }

    fn set_up(&mut self) {
        self.raw = RawRwLock::new();
    }
}

type Read<'a, T, const READERS: usize> =
    Result<RwLockReadGuard<'a, T, READERS>, LockError<RwLockReadGuard<'a, T, READERS>>>;
type Write<'a, T, const READERS: usize> =
    Result<RwLockWriteGuard<'a, T, READERS>, LockError<RwLockWriteGuard<'a, T, READERS>>>;

impl<T: Plain, const READERS: usize> RwLock<T, READERS> {
    /// Creates a free lock around `value`.
    pub const fn new(value: T) -> Self {
        const { assert!(READERS >= 1, "without a place for readers, nobody could ever read") };
        RwLock { raw: RawRwLock::new(), value: UnsafeCell::new(value) }
    }

    /// Locks for reading, and waits as long as it takes.
    ///
    /// # Errors
    /// [`OwnerDied`](LockError::OwnerDied) with the guard, [`Deadlock`](LockError::Deadlock),
    /// [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).
    #[inline]
    pub fn read(&self) -> Read<'_, T, READERS> {
        self.reading(|| Some(Wait::FOREVER))
    }

    /// Locks for reading, unless a writer writes, waits or [tries](RwLock::try_write), or too many
    /// threads read.
    ///
    /// # Errors
    /// [`WouldBlock`](LockError::WouldBlock); otherwise as [`read`](RwLock::read).
    #[inline]
    pub fn try_read(&self) -> Read<'_, T, READERS> {
        self.reading(|| None)
    }

    /// Locks for reading, and waits for `timeout` at most. Zero tries once; [`Duration::MAX`] waits
    /// for ever.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`read`](RwLock::read).
    #[inline]
    pub fn read_timeout(&self, timeout: Duration) -> Read<'_, T, READERS> {
        self.reading(|| Some(Wait::timeout(timeout)))
    }

    /// Locks for reading, and waits until `deadline` at most. A past deadline tries once.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`read`](RwLock::read).
    #[inline]
    pub fn read_deadline(&self, deadline: Instant) -> Read<'_, T, READERS> {
        self.reading(|| Some(Wait::deadline(deadline)))
    }

    /// Locks for reading, and waits as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut), and [`Interrupted`](LockError::Interrupted) if `wait` is
    /// interruptible; otherwise as [`read`](RwLock::read).
    #[inline]
    pub fn read_with(&self, wait: Wait) -> Read<'_, T, READERS> {
        self.reading(|| Some(wait))
    }

    /// Locks for writing, and waits as long as it takes.
    ///
    /// # Errors
    /// [`OwnerDied`](LockError::OwnerDied) with the guard, [`Deadlock`](LockError::Deadlock),
    /// [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).
    #[inline]
    pub fn write(&self) -> Write<'_, T, READERS> {
        self.writing(|| Some(Wait::FOREVER))
    }

    /// Locks for writing if no thread reads or writes.
    ///
    /// # Errors
    /// [`WouldBlock`](LockError::WouldBlock); otherwise as [`write`](RwLock::write).
    #[inline]
    pub fn try_write(&self) -> Write<'_, T, READERS> {
        self.writing(|| None)
    }

    /// Locks for writing, and waits for `timeout` at most. Zero tries once; [`Duration::MAX`] waits
    /// for ever.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`write`](RwLock::write).
    #[inline]
    pub fn write_timeout(&self, timeout: Duration) -> Write<'_, T, READERS> {
        self.writing(|| Some(Wait::timeout(timeout)))
    }

    /// Locks for writing, and waits until `deadline` at most. A past deadline tries once.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`write`](RwLock::write).
    #[inline]
    pub fn write_deadline(&self, deadline: Instant) -> Write<'_, T, READERS> {
        self.writing(|| Some(Wait::deadline(deadline)))
    }

    /// Locks for writing, and waits as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut), and [`Interrupted`](LockError::Interrupted) if `wait` is
    /// interruptible; otherwise as [`write`](RwLock::write).
    #[inline]
    pub fn write_with(&self, wait: Wait) -> Write<'_, T, READERS> {
        self.writing(|| Some(wait))
    }

    /// Returns the value without locking: nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Returns the TID of the writer, or of a thread that waits for readers to leave before it
    /// writes. It may have changed by the time this returns.
    #[must_use]
    pub fn writer(&self) -> Option<u32> {
        self.raw.writer()
    }

    /// Returns the number of readers. It may have changed by the time this returns.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.raw.readers()
    }

    /// Returns a guard for reading; without a `Wait`, only if there is nothing to wait for.
    #[inline]
    fn reading(&self, wait: impl FnOnce() -> Option<Wait>) -> Read<'_, T, READERS> {
        let result = match self.raw.try_read() {
            Err(LockRefused::WouldBlock) => {
                wait().map_or(Err(LockRefused::WouldBlock), |wait| self.raw.read(wait))
            }
            result => result,
        };
        let Admitted { by, is_inconsistent } = result?;
        let guard =
            RwLockReadGuard { lock: self, taken: by, is_inconsistent, stays_here: PhantomData };
        if is_inconsistent { Err(LockError::OwnerDied(guard)) } else { Ok(guard) }
    }

    /// Returns a guard for writing; without a `Wait`, only if there is nothing to wait for.
    #[inline]
    fn writing(&self, wait: impl FnOnce() -> Option<Wait>) -> Write<'_, T, READERS> {
        let result = match self.raw.try_write() {
            Err(LockRefused::WouldBlock) => {
                wait().map_or(Err(LockRefused::WouldBlock), |wait| self.raw.write(wait))
            }
            result => result,
        };
        let Admitted { by, is_inconsistent } = result?;
        let guard = RwLockWriteGuard {
            lock: self,
            tid: by,
            is_inconsistent,
            panics: Panics::now(),
            stays_here: PhantomData,
        };
        if is_inconsistent { Err(LockError::OwnerDied(guard)) } else { Ok(guard) }
    }
}

impl<T: Plain + Default, const READERS: usize> Default for RwLock<T, READERS> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T: Plain, const READERS: usize> From<T> for RwLock<T, READERS> {
    fn from(value: T) -> Self {
        RwLock::new(value)
    }
}

impl<T, const READERS: usize> fmt::Debug for RwLock<T, READERS> {
    /// Shows the writer and the number of readers, not the value: it does not lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock")
            .field("writer", &self.raw.writer())
            .field("readers", &self.raw.readers())
            .finish_non_exhaustive()
    }
}

/// The right to read an [`RwLock`]'s value; dropping it ends that right. It stays in its thread,
/// because the kernel knows the reader by thread.
///
/// A leaked guard keeps writers out until its thread ends, and the process ends with that thread,
/// as for a [`Lock`](crate::LockGuard#leaked-guards).
#[must_use = "dropping the guard unlocks at once"]
pub struct RwLockReadGuard<'a, T: Plain, const READERS: usize = 32> {
    lock: &'a RwLock<T, READERS>,
    taken: Taken,
    is_inconsistent: bool,
    stays_here: PhantomData<*const ()>,
}

impl<T: Plain, const READERS: usize> RwLockReadGuard<'_, T, READERS> {
    /// Returns whether a writer died, and nobody has recovered the value since.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.is_inconsistent
    }
}

impl<T: Plain, const READERS: usize> Deref for RwLockReadGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread holds a reader's cell, so nobody writes.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: Plain, const READERS: usize> Drop for RwLockReadGuard<'_, T, READERS> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.end_read(self.taken);
    }
}

impl<T: Plain + fmt::Debug, const READERS: usize> fmt::Debug for RwLockReadGuard<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The right to change an [`RwLock`]'s value; dropping it ends that right. It stays in its thread,
/// because the kernel knows the writer by thread.
///
/// A leaked guard keeps the lock until its thread ends, and the process ends with that thread, as
/// for a [`Lock`](crate::LockGuard#leaked-guards).
#[must_use = "dropping the guard unlocks at once"]
pub struct RwLockWriteGuard<'a, T: Plain, const READERS: usize = 32> {
    lock: &'a RwLock<T, READERS>,
    tid: u32,
    is_inconsistent: bool,
    panics: Panics,
    stays_here: PhantomData<*const ()>,
}

impl<T: Plain, const READERS: usize> RwLockWriteGuard<'_, T, READERS> {
    /// Declares the value whole again, after [`LockError::OwnerDied`]: once this guard is dropped,
    /// others get it without that error. Does nothing without such a death.
    pub fn recover(mut self) -> Self {
        self.is_inconsistent = false;
        self
    }

    /// Lets no panic that unwinds through this guard count as the writer's death.
    pub fn ignore_panics(mut self) -> Self {
        self.panics = Panics::IGNORED;
        self
    }

    /// Returns whether a writer died, and nobody has [recovered](RwLockWriteGuard::recover) the
    /// value since.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.is_inconsistent
    }
}

impl<T: Plain, const READERS: usize> Deref for RwLockWriteGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread is the only one that writes, and no other reads. The borrow of
        // the guard excludes a `&mut T` in this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: Plain, const READERS: usize> DerefMut for RwLockWriteGuard<'_, T, READERS> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: Plain, const READERS: usize> Drop for RwLockWriteGuard<'_, T, READERS> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.end_write(self.tid, !self.is_inconsistent && !self.panics.have_begun_since());
    }
}

impl<T: Plain + fmt::Debug, const READERS: usize> fmt::Debug for RwLockWriteGuard<'_, T, READERS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
