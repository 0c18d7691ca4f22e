//! [`Semaphore`]: a number of permits.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::mem::offset_of;
use core::time::Duration;
use std::io;
use std::time::Instant;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;

pub(crate) mod state;

use self::state::{Overflow, RawSemaphore};
use crate::memory::Observe;
use crate::memory::shared::{Fingerprint, Shared};
use crate::wait::{Ended, Wait};

/// A number of permits that threads of any processes acquire and release.
///
/// It corresponds to Python's `multiprocessing.Semaphore` and to `sem_t`. Permits have no owner:
/// any thread may release. So a semaphore is also a counter of things that are ready.
///
/// # Blocking and fairness
/// [`acquire`](Semaphore::acquire) looks at a semaphore without permits for a few microseconds,
/// then sleeps. A permit goes to the first thread to ask, even before a waiter that was just woken.
/// Sleepers are woken in the order in which they went to sleep; each goes to sleep anew at the end
/// of a [slice](crate::set_recheck_interval). No other operation blocks. Without sleepers, no
/// operation makes a system call.
///
/// # Memory ordering
/// A release *synchronises with* the acquisitions that follow it: a thread that gets a permit after
/// a release sees what the releaser wrote before.
///
/// # Process death
/// Permits that a dead process had acquired are lost: nothing records that they were its. A waiter
/// that dies has taken its permit or has not; no permit is lost in between, and no thread sleeps
/// while there are permits. A releaser that dies has released or has not. If it has, the permits
/// are acquired, even if it died before it woke any waiter: the kernel wakes the first waiter,
/// which wakes the next. On kernels before 6.2 that can take one
/// [slice](crate::set_recheck_interval).
///
/// # Signal handlers
/// `release`, `release_many`, `try_acquire` and `value` may be called in a signal handler, provided
/// that the thread has already used any lock, semaphore or event that others waited for.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Semaphore, Shm, process};
///
/// # fn main() -> std::io::Result<()> {
/// let done = Shm::new(Semaphore::new(0))?;
/// for _ in 0..3 {
///     let theirs = done.clone();
///     process::fork(move || theirs.release().unwrap())?;
/// }
/// for _ in 0..3 {
///     done.acquire();
/// }
/// assert_eq!(done.value(), 0);
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// The layout is that of glibc's `sem_t`: value and flags in one 64-bit word, with the futex on one
/// half of it. The protocol between sleepers and wakers is our own. See `DESIGN.md`.
#[repr(transparent)]
pub struct Semaphore {
    pub(crate) raw: RawSemaphore,
}

// SAFETY: one atomic; every value of it is valid.
unsafe impl Shared for Semaphore {
    fn layout(to: &mut Fingerprint) {
        to.name("Semaphore");
    }
}

// SAFETY: a load.
unsafe impl Observe for Semaphore {
    type Value = u32;

    fn observe(&self) -> u32 {
        self.value()
    }
}

impl Semaphore {
    /// The largest number of permits: 2^31 - 1, as for `sem_t`.
    pub const MAX: u32 = state::MAX;

    /// Creates a semaphore with `value` permits.
    ///
    /// ```
    /// use crossproc::Semaphore;
    ///
    /// static DONE: Semaphore = Semaphore::new(0);
    ///
    /// assert_eq!(DONE.value(), 0);
    /// ```
    ///
    /// # Panics
    /// If `value` is more than [`MAX`](Semaphore::MAX).
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Semaphore { raw: RawSemaphore::new(value) }
    }

    fn guard(&self) -> SemaphoreGuard<'_> {
        SemaphoreGuard { raw: &self.raw, most: Semaphore::MAX, stays_here: PhantomData }
    }

    /// Adds one permit and wakes a waiter, if there is one.
    ///
    /// ```
    /// use crossproc::Semaphore;
    ///
    /// static DONE: Semaphore = Semaphore::new(0);
    ///
    /// let other = std::thread::spawn(|| DONE.release());
    /// DONE.acquire();
    /// other.join().unwrap()?;
    /// assert_eq!(DONE.value(), 0);
    /// # Ok::<(), crossproc::OverRelease>(())
    /// ```
    ///
    /// # Errors
    /// [`OverRelease`] if there are [`MAX`](Semaphore::MAX) already; nothing has changed then.
    #[inline]
    pub fn release(&self) -> Result<(), OverRelease> {
        self.release_many(1)
    }

    /// Adds `count` permits in one step and wakes as many waiters. Zero does nothing.
    ///
    /// ```
    /// use crossproc::{OverRelease, Semaphore};
    ///
    /// static DONE: Semaphore = Semaphore::new(0);
    ///
    /// DONE.release_many(3)?;
    /// assert_eq!(DONE.value(), 3);
    /// let bound = Semaphore::MAX;
    /// assert_eq!(DONE.release_many(bound), Err(OverRelease { bound }));
    /// # Ok::<(), OverRelease>(())
    /// ```
    ///
    /// # Errors
    /// [`OverRelease`] if there would be more than [`MAX`](Semaphore::MAX); nothing has changed
    /// then.
    #[inline]
    pub fn release_many(&self, count: u32) -> Result<(), OverRelease> {
        released(&self.raw, count, Semaphore::MAX)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("value", &self.value()).finish_non_exhaustive()
    }
}

/// The methods that bounded and unbounded semaphores share.
macro_rules! acquiring {
    ($semaphore:ident) => {
        impl $semaphore {
            /// Takes a permit. Waits for one as long as it takes.
            ///
            /// ```
            /// use crossproc::{BoundedSemaphore, Semaphore};
            ///
            /// let (things, places) = (Semaphore::new(1), BoundedSemaphore::new(2));
            /// things.acquire();
            /// places.acquire();
            /// assert_eq!((things.value(), places.value()), (0, 1));
            /// ```
            #[inline]
            pub fn acquire(&self) {
                // Without a deadline there is no time-out.
                let _ = self.raw.acquire(|| Wait::FOREVER);
            }

            /// Takes a permit if there is one.
            ///
            /// # Errors
            /// [`SemaphoreError::WouldBlock`] if there is none.
            #[inline]
            pub fn try_acquire(&self) -> Result<(), SemaphoreError> {
                if self.raw.try_acquire() { Ok(()) } else { Err(SemaphoreError::WouldBlock) }
            }

            /// Takes a permit. Waits for one for at most `timeout`. Zero tries once;
            /// [`Duration::MAX`] waits for ever.
            ///
            /// # Errors
            /// [`SemaphoreError::TimedOut`].
            #[inline]
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), SemaphoreError> {
                Ok(self.raw.acquire(|| Wait::timeout(timeout))?)
            }

            /// Takes a permit. Waits for one until `deadline` at the latest. A past deadline tries
            /// once.
            ///
            /// # Errors
            /// [`SemaphoreError::TimedOut`].
            #[inline]
            pub fn acquire_deadline(&self, deadline: Instant) -> Result<(), SemaphoreError> {
                Ok(self.raw.acquire(|| Wait::deadline(deadline))?)
            }

            /// Takes a permit. Waits for one as `wait` says.
            ///
            /// # Errors
            /// [`SemaphoreError::TimedOut`], and [`SemaphoreError::Interrupted`] if `wait` is
            /// interruptible.
            #[inline]
            pub fn acquire_with(&self, wait: Wait) -> Result<(), SemaphoreError> {
                Ok(self.raw.acquire(|| wait)?)
            }

            /// [Acquires](Self::acquire) a permit that the guard releases.
            ///
            /// ```
            /// use crossproc::{BoundedSemaphore, Semaphore};
            ///
            /// let (things, places) = (Semaphore::new(1), BoundedSemaphore::new(2));
            /// let (thing, place) = (things.access(), places.access());
            /// assert_eq!((things.value(), places.value()), (0, 1));
            /// drop((thing, place));
            /// assert_eq!((things.value(), places.value()), (1, 2));
            /// ```
            #[inline]
            pub fn access(&self) -> SemaphoreGuard<'_> {
                self.acquire();
                self.guard()
            }

            /// [Acquires](Self::try_acquire) a permit that the guard releases, if there is one.
            ///
            /// # Errors
            /// [`SemaphoreError::WouldBlock`] if there is none.
            #[inline]
            pub fn try_access(&self) -> Result<SemaphoreGuard<'_>, SemaphoreError> {
                self.try_acquire().map(|()| self.guard())
            }

            /// [Acquires](Self::acquire_timeout) a permit that the guard releases. Waits for one
            /// for at most `timeout`.
            ///
            /// # Errors
            /// [`SemaphoreError::TimedOut`].
            #[inline]
            pub fn access_timeout(
                &self,
                timeout: Duration,
            ) -> Result<SemaphoreGuard<'_>, SemaphoreError> {
                self.acquire_timeout(timeout).map(|()| self.guard())
            }

            /// [Acquires](Self::acquire_deadline) a permit that the guard releases. Waits for one
            /// until `deadline` at the latest.
            ///
            /// # Errors
            /// [`SemaphoreError::TimedOut`].
            #[inline]
            pub fn access_deadline(
                &self,
                deadline: Instant,
            ) -> Result<SemaphoreGuard<'_>, SemaphoreError> {
                self.acquire_deadline(deadline).map(|()| self.guard())
            }

            /// [Acquires](Self::acquire_with) a permit that the guard releases. Waits for one as
            /// `wait` says.
            ///
            /// # Errors
            /// [`SemaphoreError::TimedOut`], and [`SemaphoreError::Interrupted`] if `wait` is
            /// interruptible.
            #[inline]
            pub fn access_with(&self, wait: Wait) -> Result<SemaphoreGuard<'_>, SemaphoreError> {
                self.acquire_with(wait).map(|()| self.guard())
            }

            /// Returns how many permits there are. It may have changed by the time this returns.
            ///
            /// ```
            /// use crossproc::{BoundedSemaphore, Semaphore};
            ///
            /// let (things, places) = (Semaphore::new(1), BoundedSemaphore::new(2));
            /// things.acquire();
            /// assert_eq!((things.value(), places.value()), (0, 2));
            /// ```
            #[must_use]
            pub fn value(&self) -> u32 {
                self.raw.value()
            }
        }
    };
}

acquiring!(Semaphore);
acquiring!(BoundedSemaphore);

/// A permit of a [`Semaphore`] or [`BoundedSemaphore`]; dropping the guard releases the permit.
///
/// It stays in its thread, and so in its process: a copy in a forked child would release the permit
/// once more. A process that forks without this crate must not drop the copies that it carries into
/// the child.
#[must_use = "dropping the guard releases its permit at once"]
pub struct SemaphoreGuard<'a> {
    raw: &'a RawSemaphore,
    most: u32,
    stays_here: PhantomData<*const ()>,
}

impl Drop for SemaphoreGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // There is room for a permit that was taken, unless others have released permits that they
        // did not hold: that is their error.
        let _ = self.raw.release(1, self.most);
    }
}

impl fmt::Debug for SemaphoreGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreGuard").finish_non_exhaustive()
    }
}

/// A [`Semaphore`] that never has more permits than it began with.
///
/// It corresponds to Python's `multiprocessing.BoundedSemaphore`. A release too many is an error
/// and changes nothing, however many threads release at once. Everything else is as for the
/// [`Semaphore`]: permits have no owner, too, and are lost with a process that dies. For permits
/// that come back then, see [`Permits`](crate::Permits).
///
/// # Examples
/// ```
/// use crossproc::{BoundedSemaphore, OverRelease};
///
/// static CONNECTIONS: BoundedSemaphore = BoundedSemaphore::new(2);
///
/// let connection = CONNECTIONS.access();
/// assert_eq!((CONNECTIONS.value(), CONNECTIONS.bound()), (1, 2));
/// drop(connection);
/// assert_eq!(CONNECTIONS.release(), Err(OverRelease { bound: 2 }));
/// ```
#[repr(C)]
pub struct BoundedSemaphore {
    pub(crate) raw: RawSemaphore,
    /// The largest number of permits. Never written after creation. Relaxed.
    bound: AtomicU32,
    _padding: u32,
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(
    offset_of!(BoundedSemaphore, bound) == 8
        && size_of::<BoundedSemaphore>() == 16
        && size_of::<Semaphore>() == 8
);

// SAFETY: two atomics, and padding; every value of them is valid, and the bound is only compared.
unsafe impl Shared for BoundedSemaphore {
    fn layout(to: &mut Fingerprint) {
        to.name("BoundedSemaphore");
    }
}

// SAFETY: a load.
unsafe impl Observe for BoundedSemaphore {
    type Value = u32;

    fn observe(&self) -> u32 {
        self.value()
    }
}

impl BoundedSemaphore {
    /// Creates a semaphore with `bound` permits, which never has more.
    ///
    /// ```
    /// use crossproc::BoundedSemaphore;
    ///
    /// static PLACES: BoundedSemaphore = BoundedSemaphore::new(2);
    ///
    /// assert_eq!((PLACES.value(), PLACES.bound()), (2, 2));
    /// ```
    ///
    /// # Panics
    /// If `bound` is more than [`Semaphore::MAX`].
    #[must_use]
    pub const fn new(bound: u32) -> Self {
        BoundedSemaphore {
            raw: RawSemaphore::new(bound),
            bound: AtomicU32::new(bound),
            _padding: 0,
        }
    }

    fn guard(&self) -> SemaphoreGuard<'_> {
        SemaphoreGuard { raw: &self.raw, most: self.bound(), stays_here: PhantomData }
    }

    /// Adds one permit and wakes a waiter, if there is one.
    ///
    /// ```
    /// use crossproc::{BoundedSemaphore, OverRelease};
    ///
    /// static PLACES: BoundedSemaphore = BoundedSemaphore::new(2);
    ///
    /// PLACES.acquire();
    /// PLACES.release()?;
    /// assert_eq!(PLACES.release(), Err(OverRelease { bound: 2 }));
    /// # Ok::<(), OverRelease>(())
    /// ```
    ///
    /// # Errors
    /// [`OverRelease`] if all permits are there; nothing has changed then.
    #[inline]
    pub fn release(&self) -> Result<(), OverRelease> {
        self.release_many(1)
    }

    /// Adds `count` permits in one step and wakes as many waiters. Zero does nothing.
    ///
    /// ```
    /// use crossproc::{BoundedSemaphore, OverRelease};
    ///
    /// static PLACES: BoundedSemaphore = BoundedSemaphore::new(3);
    ///
    /// PLACES.acquire();
    /// PLACES.acquire();
    /// // Three would be too many: none is released.
    /// assert_eq!(PLACES.release_many(3), Err(OverRelease { bound: 3 }));
    /// PLACES.release_many(2)?;
    /// assert_eq!(PLACES.value(), 3);
    /// # Ok::<(), OverRelease>(())
    /// ```
    ///
    /// # Errors
    /// [`OverRelease`] if there would be more than the bound; nothing has changed then.
    #[inline]
    pub fn release_many(&self, count: u32) -> Result<(), OverRelease> {
        released(&self.raw, count, self.bound())
    }

    /// Returns the largest number of permits.
    ///
    /// ```
    /// let places = crossproc::BoundedSemaphore::new(2);
    /// places.acquire();
    /// assert_eq!(places.bound(), 2);
    /// ```
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.bound.load(Relaxed)
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSemaphore")
            .field("value", &self.value())
            .field("bound", &self.bound())
            .finish_non_exhaustive()
    }
}

/// The reason why no permit was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SemaphoreError {
    /// There is no permit.
    #[error("the semaphore has no permit")]
    WouldBlock,
    /// There was no permit by the deadline.
    #[error("the semaphore had no permit until the deadline")]
    TimedOut,
    /// A signal handler ran while the thread waited interruptibly.
    #[error("a signal handler ran while waiting for a permit")]
    Interrupted,
    /// The thread that would sleep in a future's place could not be started.
    #[error("no thread could be started to sleep for the future")]
    NoThread,
}

impl From<Ended> for SemaphoreError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => SemaphoreError::TimedOut,
            Ended::Interrupted => SemaphoreError::Interrupted,
        }
    }
}

/// A release of more permits than were acquired: the semaphore would have more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the semaphore would have more than its {bound} permits: it was released more often than \
     acquired"
)]
pub struct OverRelease {
    /// The largest number of permits: the [bound](BoundedSemaphore::bound), or [`Semaphore::MAX`].
    pub bound: u32,
}

impl From<OverRelease> for io::Error {
    fn from(error: OverRelease) -> Self {
        io::Error::other(error)
    }
}

#[inline]
fn released(semaphore: &RawSemaphore, count: u32, bound: u32) -> Result<(), OverRelease> {
    semaphore.release(count, bound).map_err(|Overflow| OverRelease { bound })
}

impl From<SemaphoreError> for io::Error {
    fn from(error: SemaphoreError) -> Self {
        let kind = match error {
            SemaphoreError::WouldBlock => io::ErrorKind::WouldBlock,
            SemaphoreError::TimedOut => io::ErrorKind::TimedOut,
            SemaphoreError::Interrupted => io::ErrorKind::Interrupted,
            SemaphoreError::NoThread => io::ErrorKind::WouldBlock,
        };
        io::Error::new(kind, error)
    }
}
