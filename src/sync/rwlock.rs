//! [`RwLock`]: several readers or one writer.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::offset_of;
use core::ops::{Deref, DerefMut};

pub(crate) mod state;

use self::state::{Admitted, RawRwLock};
use crate::memory::shared::{Fingerprint, Guarded, Plain, Shared};
use crate::sync::lock::LockError;
use crate::sync::lock::state::LockRefused;
use crate::sync::lock::unwinding::Panics;
use crate::sync::tokens::Taken;
use crate::wait::{Wait, forms};

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
/// A reader that dies is gone, and blocks nobody. A writer that dies is gone, too. From then on
/// reading and writing are errors, [`LockError::OwnerDied`], until a writer
/// [repairs](RwLock::write_or_repair) the value. A writer that dies while it still waits for
/// readers has changed nothing, and nobody is told. A waiter that dies leaves no trace. Stopped
/// threads keep what they hold.
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
/// use crossproc::RwLock;
///
/// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
///
/// {
///     let one = LIMITS.read()?;
///     let other = LIMITS.read()?;
///     assert_eq!(one[1], other[1]);
/// }
/// LIMITS.write()?[1] = 20;
/// # Ok::<(), crossproc::LockError>(())
/// ```
///
/// # Source
/// A lock for the writer and a flag for each reader is the "big reader" lock of old Linux kernels.
/// That a reader's flag is a robust futex is our own. See `DESIGN.md`.
#[repr(C)]
pub struct RwLock<T: ?Sized, const READERS: usize = 32> {
    raw: RawRwLock<READERS>,
    value: UnsafeCell<T>,
}

// SAFETY: either one thread at a time reaches the value, which may be any thread, hence `Send`; or
// several threads read it, hence `Sync`.
unsafe impl<T: ?Sized + Send + Sync, const READERS: usize> Sync for RwLock<T, READERS> {}

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

impl<T: Plain, const READERS: usize> RwLock<T, READERS> {
    /// Creates a free lock around `value`.
    ///
    /// ```
    /// use crossproc::RwLock;
    ///
    /// // With places for 2 readers instead of 32.
    /// static LIMITS: RwLock<[u32; 2], 2> = RwLock::new([1, 10]);
    ///
    /// assert_eq!(*LIMITS.read()?, [1, 10]);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub const fn new(value: T) -> Self {
        const { assert!(READERS >= 1, "without a place for readers, nobody could ever read") };
        RwLock { raw: RawRwLock::new(), value: UnsafeCell::new(value) }
    }

    /// The bytes before the value.
    pub(crate) const fn offset() -> usize {
        offset_of!(RwLock<T, READERS>, value)
    }
}

impl<T: ?Sized + Guarded, const READERS: usize> RwLock<T, READERS> {
    forms! {
        /// Locks for reading. The forms that wait do so while a writer writes or waits, or too many
        /// threads read.
        ///
        /// ```
        /// use crossproc::RwLock;
        ///
        /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
        ///
        /// let (one, other) = (LIMITS.read()?, LIMITS.read()?);
        /// assert_eq!((one[1], other[1], LIMITS.readers()), (10, 10, 2));
        /// # Ok::<(), crossproc::LockError>(())
        /// ```
        read, try_read, read_timeout, read_deadline, read_with
        (self: &Self) -> Result<RwLockReadGuard<'_, T, READERS>, LockError>, Self::read_locked,
        errors "[`OwnerDied`](LockError::OwnerDied), [`Deadlock`](LockError::Deadlock), \
                [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock), also while a writer \
             [tries](Self::try_write).", of LockError
    }

    /// Locks for reading, and waits as `wait` says, whether or not the value was repaired after a
    /// writer's death. [`is_inconsistent`](RwLockReadGuard::is_inconsistent) of the guard tells.
    ///
    /// ```
    /// use crossproc::{RwLock, Wait};
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let _limits = LIMITS.write().unwrap();
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    ///
    /// let limits = LIMITS.read_unrepaired(Wait::FOREVER)?;
    /// assert!(limits.is_inconsistent());
    /// assert_eq!(*limits, [1, 10]);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    ///
    /// # Errors
    /// As [`read_with`](RwLock::read_with), but never [`OwnerDied`](LockError::OwnerDied).
    #[inline]
    pub fn read_unrepaired(
        &self,
        wait: Wait,
    ) -> Result<RwLockReadGuard<'_, T, READERS>, LockError> {
        Ok(self.reading(Some(|| wait))?)
    }

    forms! {
        /// Locks for writing.
        ///
        /// ```
        /// use crossproc::RwLock;
        ///
        /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
        ///
        /// LIMITS.write()?[1] = 20;
        /// assert_eq!(LIMITS.read()?[1], 20);
        /// # Ok::<(), crossproc::LockError>(())
        /// ```
        write, try_write, write_timeout, write_deadline, write_with
        (self: &Self) -> Result<RwLockWriteGuard<'_, T, READERS>, LockError>, Self::write_locked,
        errors "[`OwnerDied`](LockError::OwnerDied), [`Deadlock`](LockError::Deadlock), \
                [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock) if another thread reads or writes.", of LockError
    }

    forms! {
        /// Locks for writing. If a writer died and the value was not repaired since, calls `repair`
        /// with it first, and declares it whole: once the guard is dropped, others get it without
        /// an error. If this thread dies or panics in `repair`, they are told again.
        ///
        /// ```
        /// use crossproc::{LockError, RwLock};
        ///
        /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
        ///
        /// # std::panic::set_hook(Box::new(|_| ()));
        /// let half = std::thread::spawn(|| {
        ///     let mut limits = LIMITS.write().unwrap();
        ///     limits[0] = 20;
        ///     panic!("and the upper limit is lower now");
        /// });
        /// assert!(half.join().is_err());
        /// assert_eq!(LIMITS.read().unwrap_err(), LockError::OwnerDied);
        /// drop(LIMITS.write_or_repair(|limits| *limits = [1, 10])?);
        /// assert_eq!(*LIMITS.read()?, [1, 10]);
        /// # Ok::<(), LockError>(())
        /// ```
        write_or_repair, try_write_or_repair, write_or_repair_timeout, write_or_repair_deadline,
        write_or_repair_with<R: FnOnce(&mut T)>
        (self: &Self; repair: R) -> Result<RwLockWriteGuard<'_, T, READERS>, LockError>,
        Self::repaired,
        errors "[`Deadlock`](LockError::Deadlock), [`TooManyHeld`](LockError::TooManyHeld), \
                [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock) if another thread reads or writes.", of LockError
    }

    /// Locks for writing, and waits as `wait` says, whether or not the value was repaired after a
    /// writer's death, as [`Lock::lock_unrepaired`](crate::Lock::lock_unrepaired) does.
    ///
    /// ```
    /// use crossproc::{RwLock, Wait};
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// let mut limits = LIMITS.write_unrepaired(Wait::FOREVER)?;
    /// if limits.is_inconsistent() && limits[0] < limits[1] {
    ///     limits = limits.recover();
    /// }
    /// assert!(!limits.is_inconsistent());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    ///
    /// # Errors
    /// As [`write_or_repair_with`](RwLock::write_or_repair_with).
    #[inline]
    pub fn write_unrepaired(
        &self,
        wait: Wait,
    ) -> Result<RwLockWriteGuard<'_, T, READERS>, LockError> {
        Ok(self.writing(Some(|| wait))?)
    }

    /// Returns the value without locking: nobody else has it.
    ///
    /// ```
    /// use crossproc::RwLock;
    ///
    /// let mut limits: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    /// limits.get_mut()[1] = 20;
    /// assert_eq!(*limits.read()?, [1, 20]);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Returns the TID of the writer, or of a thread that waits for readers to leave before it
    /// writes. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::RwLock;
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// assert_eq!(LIMITS.writer(), None);
    /// let _limits = LIMITS.write()?;
    /// let tid = LIMITS.writer().unwrap();
    /// assert!(std::fs::exists(format!("/proc/self/task/{tid}"))?, "a thread of this process");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn writer(&self) -> Option<u32> {
        self.raw.writer()
    }

    /// Returns the number of readers. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::RwLock;
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// let (one, _other) = (LIMITS.read()?, LIMITS.read()?);
    /// assert_eq!(LIMITS.readers(), 2);
    /// drop(one);
    /// assert_eq!(LIMITS.readers(), 1);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn readers(&self) -> usize {
        self.raw.readers()
    }

    #[inline]
    fn read_locked(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<RwLockReadGuard<'_, T, READERS>, LockError> {
        let guard = self.reading(wait)?;
        if guard.is_inconsistent { Err(LockError::OwnerDied) } else { Ok(guard) }
    }

    #[inline]
    fn write_locked(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<RwLockWriteGuard<'_, T, READERS>, LockError> {
        let guard = self.writing(wait)?;
        if guard.is_inconsistent { Err(LockError::OwnerDied) } else { Ok(guard) }
    }

    #[inline]
    fn repaired(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        repair: impl FnOnce(&mut T),
    ) -> Result<RwLockWriteGuard<'_, T, READERS>, LockError> {
        let mut guard = self.writing(wait)?;
        if guard.is_inconsistent {
            repair(&mut guard);
            guard = guard.recover();
        }
        Ok(guard)
    }

    /// Returns a guard for reading; without a `Wait`, only if there is nothing to wait for.
    #[inline]
    fn reading(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<RwLockReadGuard<'_, T, READERS>, LockRefused> {
        let admitted = match (self.raw.read_uncontended(), wait) {
            (Some(admitted), _) => admitted,
            (None, Some(wait)) => self.raw.read(wait())?,
            (None, None) => self.raw.try_read()?,
        };
        let Admitted { by, is_inconsistent } = admitted;
        Ok(RwLockReadGuard { lock: self, taken: by, is_inconsistent, stays_here: PhantomData })
    }

    /// Returns a guard for writing; without a `Wait`, only if there is nothing to wait for.
    #[inline]
    fn writing(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<RwLockWriteGuard<'_, T, READERS>, LockRefused> {
        let admitted = match (self.raw.write_uncontended(), wait) {
            (Some(admitted), _) => admitted,
            (None, Some(wait)) => self.raw.write(wait())?,
            (None, None) => self.raw.try_write()?,
        };
        let Admitted { by, is_inconsistent } = admitted;
        let panics = Panics::now();
        Ok(RwLockWriteGuard {
            lock: self,
            tid: by,
            is_inconsistent,
            panics,
            stays_here: PhantomData,
        })
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

impl<T: ?Sized, const READERS: usize> fmt::Debug for RwLock<T, READERS> {
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
pub struct RwLockReadGuard<'a, T: ?Sized + Guarded, const READERS: usize = 32> {
    lock: &'a RwLock<T, READERS>,
    taken: Taken,
    is_inconsistent: bool,
    stays_here: PhantomData<*const ()>,
}

impl<T: ?Sized + Guarded, const READERS: usize> RwLockReadGuard<'_, T, READERS> {
    /// Returns whether a writer died, and nobody has recovered the value since.
    ///
    /// ```
    /// use crossproc::{RwLock, Wait};
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let _limits = LIMITS.write().unwrap();
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    /// assert!(LIMITS.read_unrepaired(Wait::FOREVER)?.is_inconsistent());
    /// drop(LIMITS.write_or_repair(|limits| *limits = [1, 10])?);
    /// assert!(!LIMITS.read()?.is_inconsistent());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.is_inconsistent
    }
}

impl<T: ?Sized + Guarded, const READERS: usize> Deref for RwLockReadGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread holds a reader's cell, so nobody writes.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized + Guarded, const READERS: usize> Drop for RwLockReadGuard<'_, T, READERS> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.end_read(self.taken);
    }
}

impl<T: ?Sized + Guarded + fmt::Debug, const READERS: usize> fmt::Debug
    for RwLockReadGuard<'_, T, READERS>
{
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
pub struct RwLockWriteGuard<'a, T: ?Sized + Guarded, const READERS: usize = 32> {
    lock: &'a RwLock<T, READERS>,
    tid: u32,
    is_inconsistent: bool,
    panics: Panics,
    stays_here: PhantomData<*const ()>,
}

impl<T: ?Sized + Guarded, const READERS: usize> RwLockWriteGuard<'_, T, READERS> {
    /// Declares the value whole again, after an owner's death: once this guard is dropped,
    /// others get it without that error. Does nothing without such a death.
    ///
    /// ```
    /// use crossproc::{RwLock, Wait};
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let mut limits = LIMITS.write().unwrap();
    ///     limits[0] = 20;
    ///     panic!("and the upper limit is lower now");
    /// });
    /// assert!(panicked.join().is_err());
    ///
    /// let mut limits = LIMITS.write_unrepaired(Wait::FOREVER)?;
    /// limits[1] = limits[0] + 10;
    /// drop(limits.recover());
    /// assert_eq!(*LIMITS.read()?, [20, 30]);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn recover(mut self) -> Self {
        self.is_inconsistent = false;
        self
    }

    /// Lets no panic that unwinds through this guard count as the writer's death.
    ///
    /// ```
    /// use crossproc::RwLock;
    ///
    /// static COUNT: RwLock<u64> = RwLock::new(0);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let mut count = COUNT.write().unwrap().ignore_panics();
    ///     *count += 1;
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    /// assert_eq!(*COUNT.read()?, 1);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn ignore_panics(mut self) -> Self {
        self.panics = Panics::IGNORED;
        self
    }

    /// Returns whether a writer died, and nobody has [recovered](RwLockWriteGuard::recover) the
    /// value since.
    ///
    /// ```
    /// use crossproc::{RwLock, Wait};
    ///
    /// static LIMITS: RwLock<[u32; 2]> = RwLock::new([1, 10]);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let _limits = LIMITS.write().unwrap();
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    ///
    /// let limits = LIMITS.write_unrepaired(Wait::FOREVER)?;
    /// assert!(limits.is_inconsistent());
    /// assert!(!limits.recover().is_inconsistent());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.is_inconsistent
    }
}

impl<T: ?Sized + Guarded, const READERS: usize> Deref for RwLockWriteGuard<'_, T, READERS> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread is the only one that writes, and no other reads. The borrow of
        // the guard excludes a `&mut T` in this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized + Guarded, const READERS: usize> DerefMut for RwLockWriteGuard<'_, T, READERS> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized + Guarded, const READERS: usize> Drop for RwLockWriteGuard<'_, T, READERS> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.end_write(self.tid, !self.is_inconsistent && !self.panics.have_begun_since());
    }
}

impl<T: ?Sized + Guarded + fmt::Debug, const READERS: usize> fmt::Debug
    for RwLockWriteGuard<'_, T, READERS>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
