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

/// A value that several threads of any processes may read at a time, or one may change.
///
/// It corresponds to `std::sync::RwLock`; Python has none. `READERS` is how many can read at a
/// time, 32 if nothing is said: each takes 40 bytes, by which the kernel knows that it is there.
/// Further ones wait until one of them is done.
///
/// # Blocking and fairness
/// Writers are preferred: once one waits, no new reader gets in, and it waits for those only that
/// were there before. So readers starve while writers always follow upon each other, and a writer
/// does not. Among writers, and for a reader on the lock of a writer, it is as for a
/// [`Lock`](crate::Lock). A lock that is free or only read makes no system call.
///
/// # Memory ordering
/// What a writer wrote, those see that read or write after it. A writer is ordered after all
/// readers before it.
///
/// # Process death
/// A reader that dies is gone, and blocks nobody. A writer that dies is gone, too, and the next
/// writers and readers get [`LockError::OwnerDied`] with the guard in it, until a writer calls
/// [`recover`](RwLockWriteGuard::recover). One that dies while it still waits for readers has
/// changed nothing, and nobody is told. A waiter that dies is as if it had never come. Those that
/// are stopped keep what they have.
///
/// A panic that begins while a writer's guard is held, and unwinds through it, counts as the
/// writer's death, as for a [`Lock`](crate::Lock); through a reader's guard it does nothing.
///
/// What a dead writer had written is in the order of its machine's instructions, as for a
/// [`Lock`](crate::Lock).
///
/// # Fork
/// As for a [`Lock`](crate::Lock): a child inherits nothing.
///
/// # Errors
/// Every form gives [`LockError`]. [`Deadlock`](LockError::Deadlock) if a thread that reads wants
/// to write, or to read once more while a writer waits for it, or does anything while it writes. A
/// thread may hold 1,000 locks at a time.
///
/// # Signal handlers
/// Not for them.
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
/// A lock for the writer and a flag for each reader is the "big reader" lock of old Linux kernels;
/// that a reader's flag is a robust futex is our own. See `DESIGN.md`.
#[repr(C)]
pub struct RwLock<T, const READERS: usize = 32> {
    raw: RawRwLock<READERS>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time that may be any, hence `Send`, or by several
// that read it, hence `Sync`.
unsafe impl<T: Send + Sync, const READERS: usize> Sync for RwLock<T, READERS> {}

// SAFETY: words and entries that are atomics, and plain data, for which every sequence of bytes is
// valid; no pointer that is followed: entries are written for the kernel and never read back.
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
    /// A free lock around `value`.
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

    /// Locks for reading if no writer is there, or waits, or [tries](RwLock::try_write), and not
    /// too many read.
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

    /// Locks for reading, and waits until `deadline` at most. A past one tries once.
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

    /// Locks for writing if nobody reads or writes.
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

    /// Locks for writing, and waits until `deadline` at most. A past one tries once.
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

    /// The value, without locking: nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The TID of the writer, or of one that waits for readers to be it. It may have changed by the
    /// time this returns.
    #[must_use]
    pub fn writer(&self) -> Option<u32> {
        self.raw.writer()
    }

    /// How many read. It may have changed by the time this returns.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.raw.readers()
    }

    /// A guard for reading; without a `Wait`, only if nothing is to be waited for.
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

    /// A guard for writing, likewise.
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

/// The right to read an [`RwLock`]'s value; dropping it ends that. It stays in its thread, because
/// the kernel knows the reader by thread.
///
/// One that is leaked keeps writers out for as long as its thread lives, and the process ends with
/// that thread, as for a [`Lock`](crate::LockGuard#leaked-guards)'s.
#[must_use = "dropping the guard unlocks at once"]
pub struct RwLockReadGuard<'a, T: Plain, const READERS: usize = 32> {
    lock: &'a RwLock<T, READERS>,
    taken: Taken,
    is_inconsistent: bool,
    stays_here: PhantomData<*const ()>,
}

impl<T: Plain, const READERS: usize> RwLockReadGuard<'_, T, READERS> {
    /// Whether a writer died, and nobody has recovered the value since.
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

/// The right to change an [`RwLock`]'s value; dropping it ends that. It stays in its thread,
/// because the kernel knows the writer by thread.
///
/// One that is leaked keeps the lock for as long as its thread lives, and the process ends with
/// that thread, as for a [`Lock`](crate::LockGuard#leaked-guards)'s.
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
    /// others get it without that error. Without such a death it does nothing.
    pub fn recover(mut self) -> Self {
        self.is_inconsistent = false;
        self
    }

    /// Lets no panic that unwinds through this guard count as the writer's death.
    pub fn ignore_panics(mut self) -> Self {
        self.panics = Panics::IGNORED;
        self
    }

    /// Whether a writer died, and nobody has [recovered](RwLockWriteGuard::recover) the value
    /// since.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.is_inconsistent
    }
}

impl<T: Plain, const READERS: usize> Deref for RwLockWriteGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread writes, alone, and the borrow of the guard excludes a `&mut T`
        // in this thread.
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
