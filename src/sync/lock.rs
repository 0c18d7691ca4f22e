//! [`Lock`]: mutual exclusion between processes that survives its owner.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::time::Duration;
use std::io;
use std::time::Instant;

use crossproc_sys::robust::Holding;

pub(crate) mod state;
pub(crate) mod unwinding;

use self::state::{LockRefused, RawLock};
use self::unwinding::Panics;
use crate::memory::shared::{Fingerprint, Plain, Shared};
use crate::wait::Wait;

/// A value that one thread of one process at a time may use, in memory that processes share.
///
/// It corresponds to `std::sync::Mutex` and to Python's `multiprocessing.Lock` around a `Value`.
/// Place it in a struct declared with [`shared!`](crate::shared!) or directly in a
/// [`Shm`](crate::Shm). `T` is [plain data](Plain): every sequence of bytes is a valid value,
/// because after an owner's death the data may be half written.
///
/// # Blocking and fairness
/// [`lock`](Lock::lock) looks at a held lock for a few microseconds, then sleeps. A free lock goes
/// to the first thread to come, even before a waiter that was just woken. Sleepers are woken in the
/// order in which they went to sleep; each goes to sleep anew at the end of a
/// [slice](crate::set_slice).
///
/// If a waiter was woken eight times and found the lock taken each time, the other threads yield to
/// it. They leave the lock to it for 10 ms at most, because it may be dead or stopped. So no waiter
/// starves, unless others poll by [`try_lock`](Lock::try_lock) or by short time-outs, which do not
/// yield that long.
///
/// Uncontended, neither locking nor unlocking makes a system call; the first operation of each
/// thread makes a few.
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
/// The next owner gets [`LockError::OwnerDied`] with the guard in it. It looks at the data, repairs
/// it, and calls [`LockGuard::recover`]. A guard that is dropped without that passes `OwnerDied` on
/// to the owner after it. A waiter that dies leaves no trace. A stopped thread keeps the lock.
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
/// # fn main() -> std::io::Result<()> {
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
/// let mut both = match account.lock() {
///     Ok(guard) => guard,
///     Err(LockError::OwnerDied(mut guard)) => {
///         guard[1] = 100 - guard[0];
///         guard.recover()
///     }
///     Err(error) => return Err(error.into()),
/// };
/// assert_eq!(*both, [90, 10]);
/// both[1] += 1;
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// The word and its list are those of the kernel's robust futexes, as glibc's `pthread_mutex_t`
/// with `PTHREAD_MUTEX_ROBUST` uses them. The difference is that unlocking keeps the waiters' flag.
/// See `DESIGN.md`.
#[repr(C)]
pub struct Lock<T> {
    pub(crate) raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches the value (`RawLock`). It may be any thread, hence `Send`,
// and that suffices, as for `std::sync::Mutex`.
unsafe impl<T: Send> Sync for Lock<T> {}

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
    pub const fn new(value: T) -> Self {
        Lock { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    /// Locks, and waits as long as it takes.
    ///
    /// # Errors
    /// [`OwnerDied`](LockError::OwnerDied) with the guard, [`Deadlock`](LockError::Deadlock),
    /// [`TooManyHeld`](LockError::TooManyHeld), [`Unavailable`](LockError::Unavailable).
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_, T>, LockError<LockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(Wait::FOREVER))
    }

    /// Locks if the lock is free.
    ///
    /// # Errors
    /// [`WouldBlock`](LockError::WouldBlock) if another thread holds it; otherwise as
    /// [`lock`](Lock::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<'_, T>, LockError<LockGuard<'_, T>>> {
        self.guard(RawLock::try_lock_contended)
    }

    /// Locks, and waits for `timeout` at most. Zero tries once; [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`lock`](Lock::lock).
    #[inline]
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<LockGuard<'_, T>, LockError<LockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(Wait::timeout(timeout)))
    }

    /// Locks, and waits until `deadline` at most. A past deadline tries once.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut); otherwise as [`lock`](Lock::lock).
    #[inline]
    pub fn lock_deadline(
        &self,
        deadline: Instant,
    ) -> Result<LockGuard<'_, T>, LockError<LockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(Wait::deadline(deadline)))
    }

    /// Locks, and waits as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](LockError::TimedOut), and [`Interrupted`](LockError::Interrupted) if `wait` is
    /// interruptible; otherwise as [`lock`](Lock::lock).
    #[inline]
    pub fn lock_with(&self, wait: Wait) -> Result<LockGuard<'_, T>, LockError<LockGuard<'_, T>>> {
        self.guard(|raw| raw.lock_contended(wait))
    }

    /// Releases the lock that this thread has acquired, by [`acquire`](Lock::acquire) or by a guard
    /// that was leaked. If nobody has recovered from an owner's death, `OwnerDied` is passed on.
    ///
    /// # Errors
    /// [`NotOwner`](LockError::NotOwner) if this thread does not hold the lock; nothing changes
    /// then.
    ///
    /// # Safety
    /// After this call, nothing uses a guard or a reference to the value that this thread got by
    /// holding the lock.
    pub unsafe fn force_release(&self) -> Result<(), LockError<()>> {
        self.raw.release().then_some(()).ok_or(LockError::NotOwner)
    }

    /// Returns a pointer to the value, for a thread that holds the lock by
    /// [`acquire`](Lock::acquire). A peer may write the value at any time if the calling thread
    /// does not hold the lock.
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
    /// # Errors
    /// As [`lock_with`](Lock::lock_with), except that [`Acquired`] reports an owner's death,
    /// because the lock is acquired then.
    #[inline]
    pub fn acquire(&self, wait: Wait) -> Result<Acquired, LockError<()>> {
        let owner_died = match self.raw.lock_uncontended() {
            Some(_) => false,
            None => self.raw.lock_contended(wait)?.owner_died,
        };
        self.raw.hold(Holding::BY_HAND);
        Ok(Acquired { owner_died })
    }

    /// Returns whether the calling thread holds the lock.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.raw.is_owned()
    }

    /// Returns the value without locking: nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Returns the owner's TID if the lock is held. It may have changed by the time this returns.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        self.raw.owner()
    }

    /// Returns a guard, by `contended` if the fast path fails.
    #[inline(always)]
    fn guard(
        &self,
        contended: impl FnOnce(&RawLock) -> Result<state::Locked, LockRefused>,
    ) -> Result<LockGuard<'_, T>, LockError<LockGuard<'_, T>>> {
        let guard =
            |tid| LockGuard { lock: self, tid, panics: Panics::now(), stays_here: PhantomData };
        if let Some(tid) = self.raw.lock_uncontended() {
            return Ok(guard(tid));
        }
        match contended(&self.raw) {
            Ok(acquired) if acquired.owner_died => Err(LockError::OwnerDied(guard(acquired.tid))),
            Ok(acquired) => Ok(guard(acquired.tid)),
            Err(refused) => Err(refused.into()),
        }
    }
}

impl Lock<()> {
    /// Releases the lock that this thread has acquired. If nobody has recovered from an owner's
    /// death, `OwnerDied` is passed on.
    ///
    /// ```
    /// use crossproc::{Lock, LockError, Wait};
    ///
    /// static LOCK: Lock<()> = Lock::new(());
    ///
    /// assert!(!LOCK.acquire(Wait::FOREVER)?.owner_died);
    /// assert!(LOCK.is_owned());
    /// LOCK.release()?;
    /// assert!(matches!(LOCK.release(), Err(LockError::NotOwner)));
    /// # Ok::<(), LockError<()>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotOwner`](LockError::NotOwner) if this thread does not hold the lock; nothing changes
    /// then.
    pub fn release(&self) -> Result<(), LockError<()>> {
        // SAFETY: the value holds nothing that a guard or a reference could be used for.
        unsafe { self.force_release() }
    }

    /// Declares what the lock protects whole again, after [`Acquired::owner_died`].
    ///
    /// # Errors
    /// [`NotOwner`](LockError::NotOwner) if this thread does not hold the lock; nothing changes
    /// then.
    pub fn recover(&self) -> Result<(), LockError<()>> {
        if !self.is_owned() {
            return Err(LockError::NotOwner);
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

impl<T> fmt::Debug for Lock<T> {
    /// Shows the owner, not the value: it does not lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("owner", &self.raw.owner()).finish_non_exhaustive()
    }
}

/// The right to use a [`Lock`]'s value; dropping it unlocks. It stays in its thread, because the
/// kernel knows the owner by thread.
///
/// # Leaked guards
/// A leaked guard keeps the lock until its thread ends, since references to the value may live as
/// long. For the same reason the *process* ends with that thread, by [`abort`](std::process::abort)
/// and a message on the standard error. Other threads then get [`OwnerDied`](LockError::OwnerDied).
/// A guard in a `thread_local!` is dropped in time.
///
/// A lock held by [`acquire`](Lock::acquire) does not end the process. The exception is a lock in
/// memory that is not shared, such as a `Box`, which could have been freed meanwhile. Suppose that
/// the memory of such a lock is used for something else while the thread holds it, and the thread
/// is killed. Then what the thread took after that lock may stay locked.
///
/// In two cases others may be told of the death before the threads of such a process have stopped:
/// - The kernel is not allowed to dump core for the process (`PR_SET_DUMPABLE`, set-user-ID
///   programs).
/// - A handler of SIGABRT ends the process in another way.
#[must_use = "dropping the guard unlocks at once"]
pub struct LockGuard<'a, T: Plain> {
    lock: &'a Lock<T>,
    tid: u32,
    panics: Panics,
    /// Neither `Send` nor `Sync`.
    stays_here: PhantomData<*const ()>,
}

impl<T: Plain> LockGuard<'_, T> {
    /// Declares the value whole again, after [`LockError::OwnerDied`]: the next owner gets it
    /// without that error. Does nothing without such a death.
    pub fn recover(self) -> Self {
        self.lock.raw.recover();
        self
    }

    /// Lets no panic count as the owner's death. Whatever unwinds through this guard, the next
    /// owner gets the value without an error. For values that every write leaves whole.
    ///
    /// ```
    /// use crossproc::Lock;
    ///
    /// static COUNT: Lock<u64> = Lock::new(0);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let mut count = COUNT.lock().unwrap().ignore_panics();
    ///     *count += 1;
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    /// assert_eq!(*COUNT.lock()?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ignore_panics(mut self) -> Self {
        self.panics = Panics::IGNORED;
        self
    }

    /// Returns whether an owner died and nobody has [recovered](LockGuard::recover) the value
    /// since.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.lock.raw.is_inconsistent()
    }

    pub(crate) fn raw(&self) -> &RawLock {
        &self.lock.raw
    }
}

impl<T: Plain> Deref for LockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread holds the lock, and the borrow of the guard excludes a `&mut
        // T` in this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: Plain> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: Plain> Drop for LockGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.panics.have_begun_since() {
            self.lock.raw.abandon(self.tid);
        }
        self.lock.raw.unlock(self.tid);
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: Plain + fmt::Display> fmt::Display for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

/// The reason why a lock was not acquired, or, for [`OwnerDied`](LockError::OwnerDied), what is
/// wrong with the acquired one.
///
/// `G` is the guard. With `?` the error becomes an [`io::Error`] without the guard, so that an
/// owner's death is passed on to the next owner.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LockError<G> {
    /// The lock is acquired, and its last owner died, or panicked, while it held it: the value may
    /// be half written.
    #[error(
        "the lock's owner died while it held it: repair the value and call recover() on the guard"
    )]
    OwnerDied(G),
    /// The calling thread holds the lock already.
    #[error("this thread holds the lock already: waiting for it would never end")]
    Deadlock,
    /// Another thread holds the lock.
    #[error("the lock is held by another thread")]
    WouldBlock,
    /// Another thread held the lock until the deadline.
    #[error("the lock was held by another thread until the deadline")]
    TimedOut,
    /// A signal handler ran during an interruptible wait.
    #[error("a signal handler ran while waiting for the lock")]
    Interrupted,
    /// The calling thread does not hold the lock that it releases.
    #[error("this thread does not hold the lock: only its owner can release it")]
    NotOwner,
    /// The calling thread holds the [`RLock`](crate::RLock) as often as can be counted.
    #[error("this thread holds the lock {} times: it is locked more often than unlocked", u32::MAX)]
    TooDeep,
    /// The calling thread holds as many locks as the kernel is willing to free for it when it dies.
    #[error(
        "this thread holds {} locks, more would not be freed if it died: unlock some first",
        crossproc_sys::robust::MAX_HELD
    )]
    TooManyHeld,
    /// The calling thread can hold no robust lock.
    #[error("this thread can hold no lock that survives it")]
    Unavailable(#[source] crossproc_sys::robust::Error),
}

impl<G> LockError<G> {
    /// Returns the error without the guard. For [`OwnerDied`](LockError::OwnerDied) this unlocks,
    /// and passes the error on to the next owner.
    pub fn without_guard(self) -> LockError<()> {
        match self {
            LockError::OwnerDied(_) => LockError::OwnerDied(()),
            LockError::Deadlock => LockError::Deadlock,
            LockError::WouldBlock => LockError::WouldBlock,
            LockError::TimedOut => LockError::TimedOut,
            LockError::Interrupted => LockError::Interrupted,
            LockError::NotOwner => LockError::NotOwner,
            LockError::TooDeep => LockError::TooDeep,
            LockError::TooManyHeld => LockError::TooManyHeld,
            LockError::Unavailable(source) => LockError::Unavailable(source),
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::OwnerDied(_) => f.write_str("OwnerDied(..)"),
            LockError::Deadlock => f.write_str("Deadlock"),
            LockError::WouldBlock => f.write_str("WouldBlock"),
            LockError::TimedOut => f.write_str("TimedOut"),
            LockError::Interrupted => f.write_str("Interrupted"),
            LockError::NotOwner => f.write_str("NotOwner"),
            LockError::TooDeep => f.write_str("TooDeep"),
            LockError::TooManyHeld => f.write_str("TooManyHeld"),
            LockError::Unavailable(source) => f.debug_tuple("Unavailable").field(source).finish(),
        }
    }
}

impl<G> From<LockRefused> for LockError<G> {
    fn from(refused: LockRefused) -> Self {
        match refused {
            LockRefused::Deadlock => LockError::Deadlock,
            LockRefused::WouldBlock => LockError::WouldBlock,
            LockRefused::TimedOut => LockError::TimedOut,
            LockRefused::Interrupted => LockError::Interrupted,
            LockRefused::TooDeep => LockError::TooDeep,
            LockRefused::TooManyHeld => LockError::TooManyHeld,
            LockRefused::Unavailable(source) => LockError::Unavailable(source),
        }
    }
}

impl<G> From<LockError<G>> for io::Error {
    fn from(error: LockError<G>) -> Self {
        let kind = match error {
            LockError::WouldBlock => io::ErrorKind::WouldBlock,
            LockError::TimedOut => io::ErrorKind::TimedOut,
            LockError::Deadlock => io::ErrorKind::Deadlock,
            LockError::Interrupted => io::ErrorKind::Interrupted,
            LockError::NotOwner => io::ErrorKind::PermissionDenied,
            LockError::OwnerDied(_)
            | LockError::TooDeep
            | LockError::TooManyHeld
            | LockError::Unavailable(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error.without_guard())
    }
}
