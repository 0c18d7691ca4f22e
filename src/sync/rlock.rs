//! [`RLock`]: a lock that its owner may acquire again.

#![allow(unsafe_code)]

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

use crossproc_sys::robust::Holding;

use crate::memory::shared::{Fingerprint, Plain, Shared};
use crate::sync::error::NotOwner;
use crate::sync::lock::state::{self, LockRefused, RawLock};
use crate::sync::lock::unwinding::Panics;
use crate::sync::lock::{Acquired, LockError};
use crate::wait::{Wait, forms};

/// A value that one thread of one process at a time may use, and that this thread may lock again
/// while it holds the lock.
///
/// It corresponds to `std::sync::ReentrantLock` and to Python's `multiprocessing.RLock`. One thread
/// may have several guards of it at once. So a guard gives a shared reference to a [`Cell`],
/// through which plain data is read and replaced.
///
/// Only the thread that holds the lock knows how often it does. The count is not in shared memory.
///
/// Blocking, fairness, memory ordering, fork and signal handlers are as for [`Lock`](crate::Lock).
/// So is a death: the owner and its depth are gone, and locking is an error,
/// [`LockError::OwnerDied`], until one [repairs](RLock::lock_or_repair) the value.
///
/// A panic that unwinds through any of a thread's guards counts as its death, as for a
/// [`Lock`](crate::Lock). If the panic is caught while the thread holds other guards, these see it
/// at once ([`is_inconsistent`](RLockGuard::is_inconsistent)). One of them may then recover the
/// value before another thread gets it.
///
/// # Errors
/// Every form gives [`LockError`]. It is never [`Deadlock`](LockError::Deadlock), but
/// [`TooDeep`](LockError::TooDeep) at 2^32 - 1 guards of one thread.
///
/// # Examples
/// ```
/// use crossproc::{RLock, LockError};
///
/// static TOTAL: RLock<u64> = RLock::new(0);
///
/// fn add(count: u64) -> Result<(), LockError> {
///     let total = TOTAL.lock()?;
///     total.set(total.get() + count);
///     Ok(())
/// }
///
/// let total = TOTAL.lock()?;
/// add(2)?; // locks it again
/// assert_eq!((total.get(), TOTAL.depth()), (2, 1));
/// # Ok::<(), LockError>(())
/// ```
///
/// # Source
/// The [`Lock`](crate::Lock) with a count beside it, as in `std`'s and other re-entrant mutexes.
#[repr(C)]
pub struct RLock<T> {
    pub(crate) raw: RawRLock,
    value: Cell<T>,
}

/// A lock; its owner's own list says how often it is held.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawRLock {
    lock: RawLock,
}

impl RawRLock {
    const fn new() -> Self {
        RawRLock { lock: RawLock::new() }
    }

    /// Locks once more for the owner `tid`, which holds the lock already.
    fn lock_again(
        &self,
        holding: Holding,
        by_guard: bool,
        tid: u32,
    ) -> Result<state::Locked, LockError> {
        let depth = holding.depth.checked_add(1).ok_or(LockError::TooDeep)?;
        self.lock.hold(Holding { depth, guards: holding.guards + u32::from(by_guard) });
        Ok(state::Locked { tid, owner_died: self.lock.is_inconsistent() })
    }

    #[inline]
    fn lock(
        &self,
        by_guard: bool,
        contended: impl FnOnce(&RawLock) -> Result<state::Locked, LockRefused>,
    ) -> Result<state::Locked, LockError> {
        if let Some((tid, holding)) = self.lock.holding() {
            return self.lock_again(holding, by_guard, tid);
        }
        let acquired = match self.lock.lock_uncontended() {
            Some(tid) => state::Locked { tid, owner_died: false },
            None => contended(&self.lock)?,
        };
        if !by_guard {
            self.lock.hold(Holding::BY_HAND);
        }
        Ok(acquired)
    }

    /// Unlocks once for the owner `tid`; the last time frees the lock. Does nothing in another
    /// thread, as for the [`RawLock`].
    #[inline]
    fn unlock(&self, tid: u32, by_guard: bool) {
        match self.lock.holding() {
            Some((owner, Holding { depth: 2.., .. })) if owner != tid => {}
            Some((_, holding @ Holding { depth: 2.., .. })) => {
                self.lock.hold(holding.less(by_guard));
            }
            _ => self.lock.unlock(tid),
        }
    }

    /// Returns the lock that is held at any depth.
    pub(crate) fn lock_itself(&self) -> &RawLock {
        &self.lock
    }

    fn depth(&self) -> u32 {
        self.lock.holding().map_or(0, |(_, holding)| holding.depth)
    }
}

// SAFETY: one thread at a time reaches the value (`RawRLock`). It may be any thread, hence `Send`,
// and that suffices, as for `std::sync::ReentrantLock`.
unsafe impl<T: Send> Sync for RLock<T> {}

// SAFETY: the words and the entry are atomics, and the value is plain data in a cell; every
// sequence of bytes is valid for each. No pointer is followed: entries are written for the kernel
// and never read back.
unsafe impl<T: Plain> Shared for RLock<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("RLock").plain::<T>();
    }

    fn set_up(&mut self) {
        self.raw = RawRLock::new();
    }
}

impl<T: Plain> RLock<T> {
    /// Creates a free lock around `value`.
    ///
    /// ```
    /// use crossproc::RLock;
    ///
    /// static TOTAL: RLock<u64> = RLock::new(5);
    ///
    /// assert_eq!(TOTAL.lock()?.get(), 5);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub const fn new(value: T) -> Self {
        RLock { raw: RawRLock::new(), value: Cell::new(value) }
    }

    forms! {
        /// Locks, once more if this thread holds the lock already.
        ///
        /// ```
        /// use crossproc::RLock;
        ///
        /// static LOCK: RLock<u64> = RLock::new(7);
        ///
        /// let first = LOCK.lock()?;
        /// let second = LOCK.lock()?;
        /// second.set(8);
        /// assert_eq!((first.get(), LOCK.depth()), (8, 2));
        /// # Ok::<(), crossproc::LockError>(())
        /// ```
        lock, try_lock, lock_timeout, lock_deadline, lock_with
        (self: &Self) -> Result<RLockGuard<'_, T>, LockError>, Self::locked,
        errors "[`OwnerDied`](LockError::OwnerDied), [`TooDeep`](LockError::TooDeep), \
                [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock) if another thread holds it.", of LockError
    }

    forms! {
        /// Locks, once more if this thread holds the lock already. If an owner died and the value
        /// was not repaired since, calls `repair` with it first, and declares it whole. If this
        /// thread dies or panics in `repair`, the next owner is told again. `repair` must not lock
        /// this lock: that would repair what is being repaired.
        ///
        /// ```
        /// use crossproc::RLock;
        ///
        /// static LOCK: RLock<u64> = RLock::new(7);
        ///
        /// let value = LOCK.lock_or_repair(|value| value.set(0))?;
        /// assert_eq!(value.get(), 7, "nobody died");
        /// # Ok::<(), crossproc::LockError>(())
        /// ```
        lock_or_repair, try_lock_or_repair, lock_or_repair_timeout, lock_or_repair_deadline,
        lock_or_repair_with<R: FnOnce(&Cell<T>)>
        (self: &Self; repair: R) -> Result<RLockGuard<'_, T>, LockError>, Self::repaired,
        errors "[`TooDeep`](LockError::TooDeep), [`TooManyHeld`](LockError::TooManyHeld), \
                [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock) if another thread holds it.", of LockError
    }

    /// Locks, and waits as `wait` says, whether or not the value was repaired after an owner's
    /// death, as [`Lock::lock_unrepaired`](crate::Lock::lock_unrepaired) does.
    ///
    /// ```
    /// use crossproc::{RLock, Wait};
    ///
    /// static TOTAL: RLock<u64> = RLock::new(5);
    ///
    /// let total = TOTAL.lock_unrepaired(Wait::FOREVER)?;
    /// assert!(!total.is_inconsistent(), "nobody died");
    /// assert_eq!(total.get(), 5);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lock_or_repair_with`](RLock::lock_or_repair_with).
    #[inline]
    pub fn lock_unrepaired(&self, wait: Wait) -> Result<RLockGuard<'_, T>, LockError> {
        Ok(self.guard(Some(|| wait))?.0)
    }

    /// Locks without a guard, for callers that unlock in another function, such as language
    /// bindings. Waits as `wait` says.
    ///
    /// The same thread must release the lock as often as it acquired it: by
    /// [`force_release`](RLock::force_release), or, for an `RLock<()>`, by the safe
    /// [`release`](RLock::release). As for a [`Lock`](crate::Lock::acquire), a thread may end
    /// without that if the lock is in a [`Shm`](crate::Shm).
    ///
    /// ```
    /// use crossproc::{RLock, Wait};
    ///
    /// static LOCK: RLock<()> = RLock::new(());
    ///
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
    /// assert_eq!(LOCK.depth(), 2);
    /// LOCK.release()?;
    /// LOCK.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`lock_with`](RLock::lock_with), except that [`Acquired`] reports an owner's death,
    /// because the lock is acquired then.
    #[inline]
    pub fn acquire(&self, wait: Wait) -> Result<Acquired, LockError> {
        let acquired = self.raw.lock(false, |raw| raw.lock_contended(wait))?;
        Ok(Acquired { owner_died: acquired.owner_died })
    }

    /// Releases, once, the lock that this thread has acquired, by [`acquire`](RLock::acquire) or by
    /// a guard that was leaked.
    ///
    /// ```
    /// use crossproc::{RLock, Wait};
    ///
    /// static TOTAL: RLock<u64> = RLock::new(5);
    ///
    /// assert!(!TOTAL.acquire(Wait::FOREVER)?.owner_died);
    /// // SAFETY: this thread has no guard, and no reference to the value.
    /// unsafe { TOTAL.force_release()? };
    /// assert!(!TOTAL.is_owned());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotOwner`] if this thread does not hold the lock; nothing changes
    /// then.
    ///
    /// # Safety
    /// After the last release, nothing uses a guard or a reference to the value that this thread
    /// got by holding the lock.
    pub unsafe fn force_release(&self) -> Result<(), NotOwner> {
        let tid = self.raw.lock.owned_by().ok_or(NotOwner)?;
        self.raw.unlock(tid, false);
        Ok(())
    }

    /// Returns whether the calling thread holds the lock.
    ///
    /// ```
    /// use crossproc::RLock;
    ///
    /// static LOCK: RLock<u64> = RLock::new(0);
    ///
    /// let guard = LOCK.lock()?;
    /// assert!(LOCK.is_owned());
    /// drop(guard);
    /// assert!(!LOCK.is_owned());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.raw.lock.is_owned()
    }

    /// Returns how often the calling thread holds the lock.
    ///
    /// ```
    /// use crossproc::RLock;
    ///
    /// static LOCK: RLock<u64> = RLock::new(0);
    ///
    /// let _one = LOCK.lock()?;
    /// let two = LOCK.lock()?;
    /// assert_eq!(LOCK.depth(), 2);
    /// drop(two);
    /// assert_eq!(LOCK.depth(), 1);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.raw.depth()
    }

    /// Returns the owner's TID if the lock is held. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::RLock;
    ///
    /// static LOCK: RLock<u64> = RLock::new(0);
    ///
    /// assert_eq!(LOCK.owner(), None);
    /// let _guard = LOCK.lock()?;
    /// let tid = LOCK.owner().unwrap();
    /// assert!(std::fs::exists(format!("/proc/self/task/{tid}"))?, "a thread of this process");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        self.raw.lock.owner()
    }

    /// Returns the value without locking: nobody else has it.
    ///
    /// ```
    /// use crossproc::RLock;
    ///
    /// let mut total = RLock::new(5_u64);
    /// *total.get_mut() += 1;
    /// assert_eq!(total.lock()?.get(), 6);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[inline]
    fn locked(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<RLockGuard<'_, T>, LockError> {
        match self.guard(wait)? {
            (guard, false) => Ok(guard),
            // Unlocks, once.
            (_, true) => Err(LockError::OwnerDied),
        }
    }

    #[inline]
    fn repaired(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        repair: impl FnOnce(&Cell<T>),
    ) -> Result<RLockGuard<'_, T>, LockError> {
        match self.guard(wait)? {
            (guard, false) => Ok(guard),
            (guard, true) => {
                repair(&guard);
                Ok(guard.recover())
            }
        }
    }

    /// Returns a guard, and whether an owner died; without a `Wait`, only if there is nothing to
    /// wait for.
    #[inline]
    fn guard(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(RLockGuard<'_, T>, bool), LockError> {
        let locked = self.raw.lock(true, |raw| match wait {
            Some(wait) => raw.lock_contended(wait()),
            None => raw.try_lock_contended(),
        })?;
        let panics = Panics::now();
        let guard = RLockGuard { lock: self, tid: locked.tid, panics, stays_here: PhantomData };
        Ok((guard, locked.owner_died))
    }
}

impl RLock<()> {
    /// Releases, once, the lock that this thread has acquired. The last release passes `OwnerDied`
    /// on if nobody has recovered from an owner's death.
    ///
    /// ```
    /// use crossproc::{NotOwner, RLock, Wait};
    ///
    /// static LOCK: RLock<()> = RLock::new(());
    ///
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
    /// LOCK.release()?;
    /// assert!(LOCK.is_owned());
    /// LOCK.release()?;
    /// assert_eq!(LOCK.release(), Err(NotOwner));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotOwner`] if this thread does not hold the lock; nothing changes
    /// then.
    pub fn release(&self) -> Result<(), NotOwner> {
        // SAFETY: the value holds nothing that a guard or a reference could be used for.
        unsafe { self.force_release() }
    }

    /// Declares what the lock protects whole again, after [`Acquired::owner_died`].
    ///
    /// ```
    /// use crossproc::{RLock, Shm, Wait};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Shm::new(RLock::new(()))?;
    /// let theirs = lock.clone();
    /// // A thread that ends without releasing the lock has died as its owner.
    /// std::thread::spawn(move || theirs.acquire(Wait::FOREVER)).join().unwrap()?;
    ///
    /// assert!(lock.acquire(Wait::FOREVER)?.owner_died);
    /// // ... repair what the lock protects ...
    /// lock.recover()?;
    /// lock.release()?;
    /// assert!(!lock.acquire(Wait::FOREVER)?.owner_died);
    /// # lock.release()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotOwner`] if this thread does not hold the lock; nothing changes
    /// then.
    pub fn recover(&self) -> Result<(), NotOwner> {
        if !self.is_owned() {
            return Err(NotOwner);
        }
        self.raw.lock.recover();
        Ok(())
    }
}

impl<T: Plain + Default> Default for RLock<T> {
    fn default() -> Self {
        RLock::new(T::default())
    }
}

impl<T: Plain> From<T> for RLock<T> {
    fn from(value: T) -> Self {
        RLock::new(value)
    }
}

impl<T> fmt::Debug for RLock<T> {
    /// Shows the owner, not the value: it does not lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock").field("owner", &self.raw.lock.owner()).finish_non_exhaustive()
    }
}

/// The right to use an [`RLock`]'s value; dropping a thread's last guard unlocks. It stays in its
/// thread, because the kernel knows the owner by thread.
///
/// A leaked guard keeps the lock until its thread ends, and the process ends with that thread, as
/// for a [`Lock`](crate::LockGuard#leaked-guards).
#[must_use = "dropping the guard unlocks at once"]
pub struct RLockGuard<'a, T: Plain> {
    lock: &'a RLock<T>,
    tid: u32,
    panics: Panics,
    stays_here: PhantomData<*const ()>,
}

impl<T: Plain> RLockGuard<'_, T> {
    /// Declares the value whole again, after an owner's death: the next owner gets it
    /// without that error. Does nothing without such a death.
    ///
    /// ```
    /// use crossproc::{RLock, Wait};
    ///
    /// static TOTAL: RLock<u64> = RLock::new(0);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let _total = TOTAL.lock().unwrap();
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    ///
    /// let total = TOTAL.lock_unrepaired(Wait::FOREVER)?;
    /// total.set(1);
    /// drop(total.recover());
    /// assert_eq!(TOTAL.lock()?.get(), 1);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn recover(self) -> Self {
        self.lock.raw.lock.recover();
        self
    }

    /// Lets no panic that unwinds through this guard count as the owner's death. Does not affect
    /// the thread's other guards.
    ///
    /// ```
    /// use crossproc::RLock;
    ///
    /// static COUNT: RLock<u64> = RLock::new(0);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let count = COUNT.lock().unwrap().ignore_panics();
    ///     count.set(count.get() + 1);
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    /// assert_eq!(COUNT.lock()?.get(), 1);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn ignore_panics(mut self) -> Self {
        self.panics = Panics::IGNORED;
        self
    }

    /// Returns whether an owner died and nobody has [recovered](RLockGuard::recover) the value
    /// since.
    ///
    /// ```
    /// use crossproc::RLock;
    /// use std::panic::catch_unwind;
    ///
    /// static TOTAL: RLock<u64> = RLock::new(0);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let outer = TOTAL.lock()?;
    /// let panicked = catch_unwind(|| {
    ///     let _inner = TOTAL.lock().unwrap();
    ///     panic!("with the inner guard in hand");
    /// });
    /// assert!(panicked.is_err() && outer.is_inconsistent());
    /// let outer = outer.recover();
    /// assert!(!outer.is_inconsistent());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.lock.raw.lock.is_inconsistent()
    }

    pub(crate) fn raw(&self) -> &RawRLock {
        &self.lock.raw
    }
}

impl<T: Plain> Deref for RLockGuard<'_, T> {
    type Target = Cell<T>;

    #[inline]
    fn deref(&self) -> &Cell<T> {
        // The guard's thread holds the lock, and the reference stays in this thread: a cell is not
        // `Sync`.
        &self.lock.value
    }
}

impl<T: Plain> Drop for RLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.panics.have_begun_since() {
            self.lock.raw.lock.abandon(self.tid);
        }
        self.lock.raw.unlock(self.tid, true);
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for RLockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}
