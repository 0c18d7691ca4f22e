//! [`Lock`]: mutual exclusion between processes that survives its owner.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::offset_of;

use crossproc_sys::robust::Holding;

mod error;
mod guard;
pub(crate) mod state;
pub(crate) mod unwinding;

pub use self::error::LockError;
pub use self::guard::LockGuard;
use self::state::{LockRefused, RawLock};
use crate::memory::shared::{Fingerprint, Guarded, Plain, Shared};
use crate::sync::error::NotOwner;
use crate::wait::{Wait, forms};

/// A value that one thread of one process at a time may use, in memory that processes share.
///
/// It corresponds to `std::sync::Mutex` and to Python's `multiprocessing.Lock` around a `Value`.
/// Place it in a struct declared with [`shared!`](crate::shared!) or directly in a
/// [`Shm`](crate::Shm). `T` is [plain data](Plain): every sequence of bytes is a valid value,
/// because after an owner's death the data may be half written. It may also be a slice of plain
/// data, of a length that is given at run time ([`Shm::lock_from_fn`](crate::Shm::lock_from_fn)).
///
/// # Blocking and fairness
/// [`lock`](Lock::lock) looks at a held lock for a few microseconds, then sleeps. A free lock goes
/// to the first thread to come, even before a waiter that was just woken. Sleepers are woken in the
/// order in which they went to sleep; each goes to sleep anew at the end of a
/// [slice](crate::set_recheck_interval).
///
/// If a waiter had eight chances and found the lock taken each time, the other threads yield to
/// it. They leave the lock to it for 10 ms at most, because it may be dead or stopped. So no waiter
/// starves, unless others poll by [`try_lock`](Lock::try_lock) or by short time-outs, which do not
/// yield that long.
///
/// Uncontended, neither locking nor unlocking makes a system call; the first operation of each
/// thread makes a few.
///
/// # Size
/// The lock takes 40 bytes, and the value follows it. Where processors contend, a section that
/// touches another cache line than the lock's costs more than the lock. So a value of up to 24
/// bytes costs least, in a lock that begins on a multiple of 64 bytes, as the first field of a
/// shared struct does.
///
/// # Memory ordering
/// Unlocking *synchronises with* the next locking. The next owner sees what the last one wrote, in
/// this value or elsewhere. That holds for an owner that died, too, as far as it got.
///
/// # Process death
/// An owner that dies, by whatever cause, or ends its thread, or calls `exec`, loses the lock at
/// once: the kernel frees it and wakes a waiter. (The kernel makes one exception. If a thread that
/// is not its process's first one calls `exec`, its locks stay owned by a thread that does not
/// exist. Unlock before.)
///
/// From then on, [`lock`](Lock::lock) is an error, [`LockError::OwnerDied`], until one repairs the
/// value: by [`lock_or_repair`](Lock::lock_or_repair), or by
/// [`lock_unrepaired`](Lock::lock_unrepaired) and [`LockGuard::recover`]. A waiter that dies leaves
/// no trace. A stopped thread keeps the lock.
///
/// A panic is a death, too. If a panic begins while the guard is held, and unwinds through it, the
/// next owner gets [`LockError::OwnerDied`], as it would find a `std::sync::Mutex` poisoned. It
/// does not get the error if the panic is caught while the guard is held, or if the guard [ignores
/// panics](LockGuard::ignore_panics).
///
/// A dead owner's writes happened in the order of its machine instructions, which the compiler may
/// have changed. If the next owner draws conclusions from one write about another, put a
/// `core::sync::atomic::compiler_fence` between the two writes, or use atomics beside the lock.
///
/// # Fork
/// A child does not inherit its parent's locks: for the child they are held by another.
/// [`fork`](crate::process::fork) is an error while the process holds a guard, so that no guard
/// gets into a child. A guard that got there in another way does nothing when it is dropped, and
/// must not be used: the parent holds the lock. A lock that is *not* in shared memory, such as a
/// `static`, is copied into the child as it is. It stays locked there if any thread held it.
///
/// # Errors
/// Every form gives [`LockError`]. A thread may hold 1,000 locks at a time.
///
/// # Signal handlers
/// Not for use in signal handlers, like any mutex.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Lock, LockError, Shm, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let account = Shm::new(Lock::new([100_u64, 0]))?;
///
/// let theirs = account.clone();
/// let child = process::fork(move || -> () {
///     let mut both = theirs.lock().unwrap();
///     both[0] -= 10;
///     std::process::abort(); // ... and the other half is never written
/// })?;
/// child.join()?;
///
/// assert_eq!(account.try_lock().unwrap_err(), LockError::OwnerDied);
/// let both = account.lock_or_repair(|both| both[1] = 100 - both[0])?;
/// assert_eq!(*both, [90, 10]);
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// The word and its list are those of the kernel's robust futexes, as glibc's `pthread_mutex_t`
/// with `PTHREAD_MUTEX_ROBUST` uses them. The difference is that unlocking keeps the waiters' flag.
/// See `DESIGN.md`.
#[repr(C)]
pub struct Lock<T: ?Sized> {
    pub(crate) raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches the value (`RawLock`). It may be any thread, hence `Send`,
// and that suffices, as for `std::sync::Mutex`.
unsafe impl<T: ?Sized + Send> Sync for Lock<T> {}

// SAFETY: the word and the entry are atomics, and the value is plain data; every sequence of bytes
// is valid for each. No pointer is followed: entries are written for the kernel and never read
// back.
unsafe impl<T: Plain> Shared for Lock<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("Lock").plain::<T>();
    }

    fn set_up(&mut self) {
        self.raw = RawLock::new();
    }
}

impl<T: Plain> Lock<T> {
    /// Creates a free lock around `value`.
    ///
    /// ```
    /// use crossproc::Lock;
    ///
    /// static TOTAL: Lock<u64> = Lock::new(5);
    ///
    /// assert_eq!(*TOTAL.lock()?, 5);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub const fn new(value: T) -> Self {
        Lock { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    /// The bytes before the value.
    pub(crate) const fn offset() -> usize {
        offset_of!(Lock<T>, value)
    }
}

impl<T: ?Sized + Guarded> Lock<T> {
    forms! {
        /// Locks.
        ///
        /// ```
        /// use crossproc::{Lock, LockError};
        ///
        /// static TOTAL: Lock<u64> = Lock::new(0);
        ///
        /// *TOTAL.lock()? += 2;
        /// let total = TOTAL.lock()?;
        /// assert_eq!(*total, 2);
        /// assert_eq!(TOTAL.lock().unwrap_err(), LockError::Deadlock);
        /// # Ok::<(), LockError>(())
        /// ```
        lock, try_lock, lock_timeout, lock_deadline, lock_with
        (self: &Self) -> Result<LockGuard<'_, T>, LockError>, Self::locked,
        errors "[`OwnerDied`](LockError::OwnerDied), [`Deadlock`](LockError::Deadlock), \
                [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock) if another thread holds it.", of LockError
    }

    forms! {
        /// Locks. If an owner died and the value was not repaired since, calls `repair` with it
        /// first, and declares it whole. If this thread dies or panics in `repair`, the next owner
        /// is told again.
        ///
        /// ```
        /// use crossproc::Lock;
        ///
        /// static BOTH: Lock<[u64; 2]> = Lock::new([90, 10]);
        ///
        /// # std::panic::set_hook(Box::new(|_| ()));
        /// let half = std::thread::spawn(|| {
        ///     let mut both = BOTH.lock().unwrap();
        ///     both[0] -= 10;
        ///     panic!("and the other half is never written");
        /// });
        /// assert!(half.join().is_err());
        /// let both = BOTH.lock_or_repair(|both| both[1] = 100 - both[0])?;
        /// assert_eq!(*both, [80, 20]);
        /// # Ok::<(), crossproc::LockError>(())
        /// ```
        lock_or_repair, try_lock_or_repair, lock_or_repair_timeout, lock_or_repair_deadline,
        lock_or_repair_with<R: FnOnce(&mut T)>
        (self: &Self; repair: R) -> Result<LockGuard<'_, T>, LockError>, Self::repaired,
        errors "[`Deadlock`](LockError::Deadlock), [`TooManyHeld`](LockError::TooManyHeld), \
                [`Unavailable`](LockError::Unavailable).",
        now "[`WouldBlock`](LockError::WouldBlock) if another thread holds it.", of LockError
    }

    /// Locks, and waits as `wait` says, whether or not the value was repaired after an owner's
    /// death. [`is_inconsistent`](LockGuard::is_inconsistent) of the guard tells, and
    /// [`recover`](LockGuard::recover) declares the value whole. It serves those who want to look
    /// at the value without repairing it, or may fail to repair it.
    ///
    /// ```
    /// use crossproc::{Lock, Wait};
    ///
    /// static LOCK: Lock<u64> = Lock::new(1);
    ///
    /// let guard = LOCK.lock_unrepaired(Wait::FOREVER)?;
    /// let guard = if guard.is_inconsistent() && *guard < 100 { guard.recover() } else { guard };
    /// assert!(!guard.is_inconsistent());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lock_or_repair_with`](Lock::lock_or_repair_with).
    #[inline]
    pub fn lock_unrepaired(&self, wait: Wait) -> Result<LockGuard<'_, T>, LockError> {
        Ok(self.guard(Some(|| wait))?.0)
    }

    /// Releases the lock that this thread has acquired, by [`acquire`](Lock::acquire) or by a guard
    /// that was leaked. If nobody has recovered from an owner's death, `OwnerDied` is passed on.
    ///
    /// ```
    /// use crossproc::{Lock, Wait};
    ///
    /// static TOTAL: Lock<u64> = Lock::new(5);
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
    /// After this call, nothing uses a guard or a reference to the value that this thread got by
    /// holding the lock.
    pub unsafe fn force_release(&self) -> Result<(), NotOwner> {
        self.raw.release().then_some(()).ok_or(NotOwner)
    }

    /// Returns a pointer to the value, for a thread that holds the lock by
    /// [`acquire`](Lock::acquire). A peer may write the value at any time if the calling thread
    /// does not hold the lock.
    ///
    /// ```
    /// use crossproc::{Lock, Wait};
    ///
    /// static TOTAL: Lock<u64> = Lock::new(5);
    ///
    /// assert!(!TOTAL.acquire(Wait::FOREVER)?.owner_died);
    /// // SAFETY: this thread holds the lock, and has no reference to the value.
    /// unsafe { *TOTAL.data_ptr() += 1 };
    /// // SAFETY: as above.
    /// unsafe { TOTAL.force_release()? };
    /// assert_eq!(*TOTAL.lock()?, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn data_ptr(&self) -> *mut T {
        self.value.get()
    }

    /// Locks without a guard, for callers that unlock in another function, such as language
    /// bindings. Waits as `wait` says.
    ///
    /// The same thread must release the lock: by [`force_release`](Lock::force_release), or, for a
    /// `Lock<()>`, by the safe [`release`](Lock::release). A thread that ends without that has died
    /// as the owner, and the lock is handed on. If the lock is not in a [`Shm`](crate::Shm), the
    /// process ends with such a thread: see [`LockGuard`].
    ///
    /// ```
    /// use crossproc::{Lock, LockError, Wait};
    ///
    /// static LOCK: Lock<()> = Lock::new(());
    ///
    /// // What a binding's `acquire` calls, and then its `release`:
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
    /// assert_eq!(LOCK.acquire(Wait::FOREVER), Err(LockError::Deadlock));
    /// LOCK.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`lock_with`](Lock::lock_with), except that [`Acquired`] reports an owner's death,
    /// because the lock is acquired then.
    #[inline]
    pub fn acquire(&self, wait: Wait) -> Result<Acquired, LockError> {
        let owner_died = match self.raw.lock_uncontended() {
            Some(_) => false,
            None => self.raw.lock_contended(wait)?.owner_died,
        };
        self.raw.hold(Holding::BY_HAND);
        Ok(Acquired { owner_died })
    }

    /// Returns whether the calling thread holds the lock.
    ///
    /// ```
    /// use crossproc::Lock;
    ///
    /// static LOCK: Lock<u64> = Lock::new(0);
    ///
    /// let guard = LOCK.lock()?;
    /// assert!(LOCK.is_owned());
    /// std::thread::scope(|scope| scope.spawn(|| assert!(!LOCK.is_owned())).join()).unwrap();
    /// drop(guard);
    /// assert!(!LOCK.is_owned());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.raw.is_owned()
    }

    /// Returns the value without locking: nobody else has it.
    ///
    /// ```
    /// use crossproc::Lock;
    ///
    /// let mut total = Lock::new(5_u64);
    /// *total.get_mut() += 1;
    /// assert_eq!(*total.lock()?, 6);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Returns the owner's TID if the lock is held. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::Lock;
    ///
    /// static LOCK: Lock<u64> = Lock::new(0);
    ///
    /// assert_eq!(LOCK.owner(), None);
    /// let _guard = LOCK.lock()?;
    /// let tid = LOCK.owner().unwrap();
    /// assert!(std::fs::exists(format!("/proc/self/task/{tid}"))?, "a thread of this process");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        self.raw.owner()
    }

    #[inline(always)]
    fn locked(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<LockGuard<'_, T>, LockError> {
        match self.guard(wait)? {
            (guard, false) => Ok(guard),
            // Unlocks.
            (_, true) => Err(LockError::OwnerDied),
        }
    }

    #[inline(always)]
    fn repaired(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        repair: impl FnOnce(&mut T),
    ) -> Result<LockGuard<'_, T>, LockError> {
        match self.guard(wait)? {
            (guard, false) => Ok(guard),
            (mut guard, true) => {
                repair(&mut guard);
                Ok(guard.recover())
            }
        }
    }

    /// Returns a guard, and whether an owner died; without a `Wait`, only if there is nothing to
    /// wait for.
    #[inline(always)]
    fn guard(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(LockGuard<'_, T>, bool), LockRefused> {
        if let Some(tid) = self.raw.lock_uncontended() {
            return Ok((LockGuard::new(self, tid), false));
        }
        let locked = match wait {
            Some(wait) => self.raw.lock_contended(wait())?,
            None => self.raw.try_lock_contended()?,
        };
        Ok((LockGuard::new(self, locked.tid), locked.owner_died))
    }
}

impl Lock<()> {
    /// Releases the lock that this thread has acquired. If nobody has recovered from an owner's
    /// death, `OwnerDied` is passed on.
    ///
    /// ```
    /// use crossproc::{Lock, NotOwner, Wait};
    ///
    /// static LOCK: Lock<()> = Lock::new(());
    ///
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
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
    /// use crossproc::{Lock, Shm, Wait};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Shm::new(Lock::new(()))?;
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
        self.raw.recover();
        Ok(())
    }
}

/// A lock that was acquired without a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "its owner may have died: what it protects is half written then"]
pub struct Acquired {
    /// Whether an owner died while it held the lock, and nobody has recovered since. If so, what
    /// the lock protects may be half written.
    pub owner_died: bool,
}

impl<T: Plain + Default> Default for Lock<T> {
    fn default() -> Self {
        Lock::new(T::default())
    }
}

impl<T: Plain> From<T> for Lock<T> {
    fn from(value: T) -> Self {
        Lock::new(value)
    }
}

impl<T: ?Sized> fmt::Debug for Lock<T> {
    /// Shows the owner, not the value: it does not lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("owner", &self.raw.owner()).finish_non_exhaustive()
    }
}
