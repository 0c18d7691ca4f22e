//! [`LockGuard`]: the right to use a lock's value.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::Lock;
use super::state::RawLock;
use super::unwinding::Panics;
use crate::memory::shared::Guarded;

/// The right to use a [`Lock`]'s value; dropping it unlocks. It stays in its thread, because the
/// kernel knows the owner by thread.
///
/// # Leaked guards
/// A leaked guard keeps the lock until its thread ends, since references to the value may live as
/// long. For the same reason the *process* ends with that thread, by [`abort`](std::process::abort)
/// and a message on the standard error. Other threads then get
/// [`OwnerDied`](super::LockError::OwnerDied). A guard in a `thread_local!` is dropped in time.
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
pub struct LockGuard<'a, T: ?Sized + Guarded> {
    lock: &'a Lock<T>,
    tid: u32,
    panics: Panics,
    /// Neither `Send` nor `Sync`.
    stays_here: PhantomData<*const ()>,
}

impl<'a, T: ?Sized + Guarded> LockGuard<'a, T> {
    /// Returns the guard of a lock that the thread `tid`, which is this one, has just taken.
    #[inline(always)]
    pub(super) fn new(lock: &'a Lock<T>, tid: u32) -> Self {
        LockGuard { lock, tid, panics: Panics::now(), stays_here: PhantomData }
    }

    /// Declares the value whole again, after an owner's death: the next owner gets it
    /// without that error. Does nothing without such a death.
    ///
    /// ```
    /// use crossproc::{Lock, Wait};
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
    ///
    /// let mut both = BOTH.lock_unrepaired(Wait::FOREVER)?;
    /// both[1] = 100 - both[0];
    /// drop(both.recover());
    /// assert_eq!(*BOTH.lock()?, [80, 20]);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
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
    ///
    /// ```
    /// use crossproc::{Lock, Wait};
    ///
    /// static TOTAL: Lock<u64> = Lock::new(0);
    ///
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let panicked = std::thread::spawn(|| {
    ///     let _total = TOTAL.lock().unwrap();
    ///     panic!("with the guard in hand");
    /// });
    /// assert!(panicked.join().is_err());
    ///
    /// let total = TOTAL.lock_unrepaired(Wait::FOREVER)?;
    /// assert!(total.is_inconsistent());
    /// assert!(!total.recover().is_inconsistent());
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.lock.raw.is_inconsistent()
    }

    pub(crate) fn raw(&self) -> &RawLock {
        &self.lock.raw
    }
}

impl<T: ?Sized + Guarded> Deref for LockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread holds the lock, and the borrow of the guard excludes a `&mut
        // T` in this thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized + Guarded> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized + Guarded> Drop for LockGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.panics.have_begun_since() {
            self.lock.raw.abandon(self.tid);
        }
        self.lock.raw.unlock(self.tid);
    }
}

impl<T: ?Sized + Guarded + fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: ?Sized + Guarded + fmt::Display> fmt::Display for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}
