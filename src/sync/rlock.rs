//! [`RLock`]: a lock that its owner may acquire again.

#![allow(unsafe_code)]

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::time::Duration;
use std::time::Instant;

use crossproc_sys::robust::Holding;

use crate::memory::shared::{Fingerprint, Plain, Shared};
use crate::sync::lock::state::{self, LockRefused, RawLock};
use crate::sync::lock::unwinding::Panics;
use crate::sync::lock::{Acquired, LockError};
use crate::wait::Wait;

/// A value that one thread of one process at a time may use, and that this thread may lock again
/// while it has it locked.
///
/// It corresponds to `std::sync::ReentrantLock` and to Python's `multiprocessing.RLock`. Since one
/// thread may have several guards of it at once, a guard gives a shared reference: to a [`Cell`],
/// through which plain data is read and replaced.
///
/// How often a thread holds the lock is known to that thread alone, and is not in shared memory.
///
/// Blocking, fairness, memory ordering, fork and signal handlers are as for [`Lock`](crate::Lock),
/// and so is what a death does: the owner and its depth are gone, and the next owner gets
/// [`LockError::OwnerDied`], until one of them has [recovered](RLockGuard::recover) the value.
///
/// A panic that unwinds through any of a thread's guards counts as its death, as for a
/// [`Lock`](crate::Lock). If it is caught while others of the thread's guards are held, these
/// see it at once ([`is_inconsistent`](RLockGuard::is_inconsistent)), and one of them may recover
/// the value before anybody else gets it.
///
/// # Errors
/// Every form gives [`LockError`]; never [`Deadlock`](LockError::Deadlock), but
/// [`TooDeep`](LockError::TooDeep) at 2^32 - 1 guards of one thread.
///
/// # Examples
/// ```
/// use crossproc::{RLock, LockError};
///
/// static TOTAL: RLock<u64> = RLock::new(0);
///
/// fn add(count: u64) -> Result<(), LockError<()>> {
///     let total = TOTAL.lock().map_err(LockError::without_guard)?;
///     total.set(total.get() + count);
///     Ok(())
/// }
///
/// let total = TOTAL.lock().map_err(LockError::without_guard)?;
/// add(2)?; // locks it again
/// assert_eq!((total.get(), TOTAL.depth()), (2, 1));
/// # Ok::<(), LockError<()>>(())
/// ```
///
/// # Source
/// The [`Lock`](crate::Lock) with a count beside it, as in `std`'s and everybody's re-entrant
/// mutexes.
#[repr(C)]
pub struct RLock<T> {
    pub(crate) raw: RawRLock,
    value: Cell<T>,
}

/// A lock, of which the owner's own list says how often it is held.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawRLock {
    lock: RawLock,
}

impl RawRLock {
    const fn new() -> Self {
        RawRLock { lock: RawLock::new() }
    }

    /// Once more for the owner `tid`, who holds it already.
    fn lock_again(
        &self,
        holding: Holding,
        by_guard: bool,
        tid: u32,
    ) -> Result<state::Locked, LockRefused> {
        let depth = holding.depth.checked_add(1).ok_or(LockRefused::TooDeep)?;
        self.lock.hold(Holding { depth, guards: holding.guards + u32::from(by_guard) });
        Ok(state::Locked { tid, owner_died: self.lock.is_inconsistent() })
    }

    #[inline]
    fn lock(
        &self,
        by_guard: bool,
        contended: impl FnOnce(&RawLock) -> Result<state::Locked, LockRefused>,
    ) -> Result<state::Locked, LockRefused> {
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

    /// Once less for the owner `tid`, and not at all at the last. Nothing in another thread, as for
    /// the [`RawLock`].
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

    /// What is held at any depth.
    pub(crate) fn lock_itself(&self) -> &RawLock {
        &self.lock
    }

    fn depth(&self) -> u32 {
        self.lock.holding().map_or(0, |(_, holding)| holding.depth)
    }
}

// SAFETY: the value is reached by one thread at a time (`RawRLock`), which may be any: hence
// `Send`, and that suffices, as for `std::sync::ReentrantLock`.
unsafe impl<T: Send> Sync for RLock<T> {}

// SAFETY: words and an entry that are atomics, and plain data in a cell, for which every sequence
// of bytes is valid; no pointer that is followed: entries are written for the kernel and never read
// back.
unsafe impl<T: Plain> Shared for RLock<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("RLock").plain::<T>();
    }

    fn set_up(&mut self) {
        self.raw = RawRLock::new();
    }
}

impl<T: Plain> RLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        RLock { raw: RawRLock::new(), value: Cell::new(value) }
    }

    /// Locks, once more if this thread holds the lock, and waits as long as it takes.
    ///
    /// # Errors
    /// [`OwnerDied`](LockError::OwnerDied) with the guard, [`TooDeep`](LockError::TooDeep),
    /// [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).
    #[inline]
    pub fn lock(&self) -> Result<RLockGuard<'_, T>, LockError<RLockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(Wait::FOREVER))
    }

    /// Locks if the lock is free or this thread's.
    ///
    /// # Errors
    /// [`WouldBlock`](LockError::WouldBlock) if another thread holds it; otherwise as
    /// [`lock`](RLock::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<RLockGuard<'_, T>, LockError<RLockGuard<'_, T>>> {
        self.guard(RawLock::try_lock_contended)
    }

    /// Locks, and waits for `timeout` at most. Zero tries once; [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`lock`](RLock::lock).
    #[inline]
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<RLockGuard<'_, T>, LockError<RLockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(Wait::timeout(timeout)))
    }

    /// Locks, and waits until `deadline` at most. A past one tries once.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`lock`](RLock::lock).
    #[inline]
    pub fn lock_deadline(
        &self,
        deadline: Instant,
    ) -> Result<RLockGuard<'_, T>, LockError<RLockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(Wait::deadline(deadline)))
    }

    /// Locks, and waits as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut), and [`Interrupted`](LockError::Interrupted) if `wait` is
    /// interruptible; otherwise as [`lock`](RLock::lock).
    #[inline]
    pub fn lock_with(&self, wait: Wait) -> Result<RLockGuard<'_, T>, LockError<RLockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(wait))
    }

    /// Locks without a guard, for callers that unlock in another function: language bindings. Waits
    /// as `wait` says.
    ///
    /// It is to be released in the same thread, as often as it was acquired, by
    /// [`force_release`](RLock::force_release), or, for an `RLock<()>`, by the safe
    /// [`release`](RLock::release). As for a [`Lock`](crate::Lock::acquire), a thread may end
    /// without that if the lock is in a [`Shm`](crate::Shm).
    ///
    /// # Errors
    /// As [`lock_with`](RLock::lock_with), but that an owner has died is told in [`Acquired`],
    /// because the lock is acquired then.
    #[inline]
    pub fn acquire(&self, wait: Wait) -> Result<Acquired, LockError<()>> {
        let acquired = self.raw.lock(false, |raw| raw.lock_contended(wait))?;
        Ok(Acquired { owner_died: acquired.owner_died })
    }

    /// Releases once the lock that this thread has acquired, by [`acquire`](RLock::acquire) or by a
    /// guard that was leaked.
    ///
    /// # Errors
    /// [`NotOwner`](LockError::NotOwner) if this thread does not hold the lock; nothing has
    /// changed.
    ///
    /// # Safety
    /// If it is the last time, no guard or reference to the value that this thread got by holding
    /// the lock is used any more.
    pub unsafe fn force_release(&self) -> Result<(), LockError<()>> {
        let tid = self.raw.lock.owned_by().ok_or(LockError::NotOwner)?;
        self.raw.unlock(tid, false);
        Ok(())
    }

    /// Whether the calling thread holds the lock.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.raw.lock.is_owned()
    }

    /// How often the calling thread holds the lock.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.raw.depth()
    }

    /// The owner's TID, if it is locked. It may have changed by the time this returns.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        self.raw.lock.owner()
    }

    /// The value, without locking: nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[inline]
    fn guard(
        &self,
        contended: impl FnOnce(&RawLock) -> Result<state::Locked, LockRefused>,
    ) -> Result<RLockGuard<'_, T>, LockError<RLockGuard<'_, T>>> {
        match self.raw.lock(true, contended) {
            Ok(acquired) => {
                let guard = RLockGuard {
                    lock: self,
                    tid: acquired.tid,
                    panics: Panics::now(),
                    stays_here: PhantomData,
                };
                if acquired.owner_died { Err(LockError::OwnerDied(guard)) } else { Ok(guard) }
            }
            Err(refused) => Err(refused.into()),
        }
    }
}

impl RLock<()> {
    /// Releases once the lock that this thread has acquired. At the last time, an owner's death
    /// that nobody has recovered from is passed on.
    ///
    /// # Errors
    /// [`NotOwner`](LockError::NotOwner) if this thread does not hold the lock; nothing has
    /// changed.
    pub fn release(&self) -> Result<(), LockError<()>> {
        // SAFETY: there is nothing in the value that a guard or a reference could be used for.
        unsafe { self.force_release() }
    }

    /// Declares whole again what the lock protects, after [`Acquired::owner_died`].
    ///
    /// # Errors
    /// [`NotOwner`](LockError::NotOwner) if this thread does not hold the lock; nothing has
    /// changed.
    pub fn recover(&self) -> Result<(), LockError<()>> {
        if !self.is_owned() {
            return Err(LockError::NotOwner);
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

/// The right to use an [`RLock`]'s value; dropping the last one of a thread unlocks. It stays in
/// its thread, because the kernel knows the owner by thread.
///
/// A guard that is leaked keeps the lock for as long as its thread lives, and the process ends with
/// that thread, as for a [`Lock`](crate::LockGuard#leaked-guards)'s.
#[must_use = "dropping the guard unlocks at once"]
pub struct RLockGuard<'a, T: Plain> {
    lock: &'a RLock<T>,
    tid: u32,
    panics: Panics,
    stays_here: PhantomData<*const ()>,
}

impl<T: Plain> RLockGuard<'_, T> {
    /// Declares the value whole again, after [`LockError::OwnerDied`]: the next one to lock gets it
    /// without that error. Without such a death it does nothing.
    pub fn recover(self) -> Self {
        self.lock.raw.lock.recover();
        self
    }

    /// Lets no panic that unwinds through this guard count as its owner's death. The thread's other
    /// guards are not concerned.
    pub fn ignore_panics(mut self) -> Self {
        self.panics = Panics::IGNORED;
        self
    }

    /// Whether an owner died and nobody has [recovered](RLockGuard::recover) the value since.
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
