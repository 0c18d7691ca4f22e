//! [`Barrier`]: parties that wait for each other.

#![allow(unsafe_code)]

use core::fmt;
use core::mem::offset_of;
use core::time::Duration;
use std::io;
use std::time::Instant;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;

pub(crate) mod state;

use self::state::{Arrived, Broken, Failed, MAX_PARTIES, RawBarrier};
use crate::memory::shared::{Fingerprint, Shared};
use crate::wait::{Ended, Wait};

/// A barrier for a number of parties, which are threads of any processes. Each party waits until
/// all have arrived; then all go on, and the next phase begins.
///
/// It corresponds to `std::sync::Barrier` and to Python's `multiprocessing.Barrier`: it can break.
/// A party whose deadline passes [breaks](BarrierError::Broken) it for all, as
/// [`abort`](Barrier::abort) does, so that no party waits for one that will not come. The barrier
/// stays broken until a [`reset`](Barrier::reset).
///
/// # Blocking and fairness
/// Only waiting blocks, until the last party has arrived. A waiter looks a few times, then sleeps.
/// The last party wakes all others by one system call.
///
/// # Memory ordering
/// All parties see, once they have returned, what any party wrote before it arrived.
///
/// # Process death
/// A party that has arrived counts, dead or alive. A party that dies before that is missing: only
/// their time-out bounds the others' wait, and it breaks the barrier. If the last party to arrive
/// dies before it has woken the others, the kernel wakes the first of them, which wakes the rest.
/// On kernels before 6.2 that can take one [slice](crate::set_recheck_interval).
///
/// # Errors
/// [`BarrierError`].
///
/// # Signal handlers
/// Waiting is not for signal handlers. `abort`, `is_broken` and `n_waiting` may be called in one,
/// provided that the thread has already used any lock, semaphore or event that others waited for.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Barrier, Shm, process};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let start = Shm::new(Barrier::new(3))?;
/// let mut children = Vec::new();
/// for _ in 0..2 {
///     let start = start.clone();
///     children.push(process::fork(move || start.wait().map(drop).unwrap())?);
/// }
/// let passed = start.wait_timeout(Duration::from_secs(10))?;
/// if passed.is_leader() {
///     println!("I was the last of three, and had the index {}", passed.index());
/// }
/// # for child in &children { assert!(child.join()?.success()); }
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// A count with a generation, as is usual. The interface is that of Python's `threading.Barrier`;
/// the split into arriving and waiting is that of C++'s `std::barrier`.
#[repr(C)]
pub struct Barrier {
    raw: RawBarrier,
    /// The number of parties. Never written after creation. Relaxed.
    parties: AtomicU32,
    _padding: u32,
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(offset_of!(Barrier, parties) == 8 && size_of::<Barrier>() == 16);

// SAFETY: two atomics, and padding; every value of them is valid, and the number of parties is only
// compared.
unsafe impl Shared for Barrier {
    fn layout(to: &mut Fingerprint) {
        to.name("Barrier");
    }
}

impl Barrier {
    /// The largest number of parties.
    pub const MAX_PARTIES: u32 = MAX_PARTIES;

    /// Creates a barrier for `parties` parties, from 1 to [`MAX_PARTIES`](Barrier::MAX_PARTIES).
    ///
    /// ```
    /// use crossproc::Barrier;
    ///
    /// static START: Barrier = Barrier::new(3);
    ///
    /// assert_eq!(START.parties(), 3);
    /// ```
    ///
    /// # Panics
    /// If `parties` is 0 or more than that.
    #[must_use]
    pub const fn new(parties: u32) -> Self {
        assert!(parties >= 1, "a barrier needs at least one party");
        assert!(parties <= MAX_PARTIES, "a barrier has 65,535 parties at most");
        Barrier { raw: RawBarrier::new(), parties: AtomicU32::new(parties), _padding: 0 }
    }

    /// Arrives, and waits for the others for as long as it takes.
    ///
    /// ```
    /// use crossproc::Barrier;
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let other = std::thread::spawn(|| START.wait());
    /// let ours = START.wait()?;
    /// let theirs = other.join().unwrap()?;
    /// assert_eq!(ours.index() + theirs.index(), 1);
    /// # Ok::<(), crossproc::BarrierError>(())
    /// ```
    ///
    /// # Errors
    /// [`Broken`](BarrierError::Broken).
    #[inline]
    pub fn wait(&self) -> Result<BarrierPassed, BarrierError> {
        self.wait_with(Wait::FOREVER)
    }

    /// Passes if all others have arrived.
    ///
    /// # Errors
    /// [`WouldBlock`](BarrierError::WouldBlock) if others are missing; nothing has changed then.
    /// [`Broken`](BarrierError::Broken).
    pub fn try_wait(&self) -> Result<BarrierPassed, BarrierError> {
        match self.raw.arrive(self.parties(), true)? {
            Some(arrived) => Ok(BarrierPassed { arrived }),
            None => Err(BarrierError::WouldBlock),
        }
    }

    /// Arrives, and waits for the others for at most `timeout`; then it breaks the barrier.
    /// [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken).
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierPassed, BarrierError> {
        self.wait_with(Wait::timeout(timeout))
    }

    /// Arrives, and waits for the others until `deadline` at the latest; then it breaks the
    /// barrier.
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken).
    #[inline]
    pub fn wait_deadline(&self, deadline: Instant) -> Result<BarrierPassed, BarrierError> {
        self.wait_with(Wait::deadline(deadline))
    }

    /// Arrives, and waits for the others as `wait` says: [`arrive`](Barrier::arrive), then
    /// [`wait_for`](Barrier::wait_for).
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken),
    /// [`Interrupted`](BarrierError::Interrupted) if `wait` is interruptible: go on with the
    /// arrival in it.
    pub fn wait_with(&self, wait: Wait) -> Result<BarrierPassed, BarrierError> {
        let arrival = self.arrive()?;
        self.wait_for(arrival, wait)
    }

    /// Arrives without waiting: the others need not wait for this party any longer.
    ///
    /// ```
    /// use crossproc::{Barrier, Wait};
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let arrival = START.arrive()?;
    /// let other = std::thread::spawn(|| START.wait());
    /// // ... do something else meanwhile ...
    /// assert_eq!(START.wait_for(arrival, Wait::FOREVER)?.index(), 0);
    /// assert!(other.join().unwrap()?.is_leader());
    /// # Ok::<(), crossproc::BarrierError>(())
    /// ```
    ///
    /// # Errors
    /// [`Broken`](BarrierError::Broken).
    pub fn arrive(&self) -> Result<Arrival, BarrierError> {
        let arrived = self.raw.arrive(self.parties(), false)?;
        Ok(Arrival { arrived: arrived.ok_or(BarrierError::WouldBlock)? })
    }

    /// Waits for the others as `wait` says, after this party has [arrived](Barrier::arrive). If the
    /// wait times out, that breaks the barrier.
    ///
    /// ```
    /// use crossproc::{Barrier, BarrierError, Wait};
    /// use std::time::Duration;
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let arrival = START.arrive()?;
    /// // Nobody else comes.
    /// let wait = Wait::timeout(Duration::from_millis(1));
    /// assert_eq!(START.wait_for(arrival, wait), Err(BarrierError::TimedOut));
    /// assert!(START.is_broken());
    /// # Ok::<(), BarrierError>(())
    /// ```
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken),
    /// [`Interrupted`](BarrierError::Interrupted) if `wait` is interruptible.
    pub fn wait_for(&self, arrival: Arrival, wait: Wait) -> Result<BarrierPassed, BarrierError> {
        let arrived = arrival.arrived;
        match self.raw.wait(arrived, wait) {
            Ok(()) => Ok(BarrierPassed { arrived }),
            Err(Failed::Broken) => Err(BarrierError::Broken),
            Err(Failed::Ended(Ended::TimedOut)) => Err(BarrierError::TimedOut),
            Err(Failed::Ended(Ended::Interrupted)) => Err(BarrierError::Interrupted(arrival)),
        }
    }

    /// Breaks the barrier: current waiters and later arrivals get [`Broken`](BarrierError::Broken).
    /// Does not block.
    ///
    /// ```
    /// use crossproc::{Barrier, BarrierError};
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// START.abort();
    /// assert_eq!(START.wait(), Err(BarrierError::Broken));
    /// ```
    pub fn abort(&self) {
        self.raw.abort();
    }

    /// Makes the barrier whole and empty. Current waiters get [`Broken`](BarrierError::Broken); the
    /// next arrival begins a new phase. Does not block.
    ///
    /// ```
    /// use crossproc::{Barrier, BarrierError, Wait};
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let early = START.arrive()?;
    /// START.reset();
    /// assert_eq!(START.wait_for(early, Wait::FOREVER), Err(BarrierError::Broken));
    /// assert_eq!((START.is_broken(), START.n_waiting()), (false, 0));
    /// # Ok::<(), BarrierError>(())
    /// ```
    pub fn reset(&self) {
        self.raw.reset();
    }

    /// Returns whether the barrier is broken. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::Barrier;
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// START.abort();
    /// assert!(START.is_broken());
    /// START.reset();
    /// assert!(!START.is_broken());
    /// ```
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.raw.is_broken()
    }

    /// Returns how many parties have arrived in this phase, and wait or died waiting; 0 if the
    /// barrier is broken. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::{Barrier, Wait};
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let first = START.arrive()?;
    /// assert_eq!(START.n_waiting(), 1);
    /// let second = START.arrive()?; // the last party: the next phase begins
    /// assert_eq!(START.n_waiting(), 0);
    /// # START.wait_for(first, Wait::FOREVER)?;
    /// # START.wait_for(second, Wait::FOREVER)?;
    /// # Ok::<(), crossproc::BarrierError>(())
    /// ```
    #[must_use]
    pub fn n_waiting(&self) -> u32 {
        self.raw.n_waiting()
    }

    /// Returns the number of parties that the barrier is for.
    ///
    /// ```
    /// let start = crossproc::Barrier::new(4);
    /// assert_eq!(start.parties(), 4);
    /// ```
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.parties.load(Relaxed)
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("n_waiting", &self.n_waiting())
            .field("is_broken", &self.is_broken())
            .finish_non_exhaustive()
    }
}

/// A party's arrival at a [`Barrier`], by which the party goes on waiting for the others. It is for
/// that barrier alone: at another one the wait does not end before its deadline, and breaks that
/// one then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "arriving does not wait: give it to `wait_for`"]
pub struct Arrival {
    arrived: Arrived,
}

/// A party's passage through a [`Barrier`]: its phase has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierPassed {
    arrived: Arrived,
}

impl BarrierPassed {
    /// Returns how many parties had arrived before this one: a different number for each, from 0.
    ///
    /// ```
    /// use crossproc::{Barrier, Wait};
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let (first, second) = (START.arrive()?, START.arrive()?);
    /// assert_eq!(START.wait_for(first, Wait::FOREVER)?.index(), 0);
    /// assert_eq!(START.wait_for(second, Wait::FOREVER)?.index(), 1);
    /// # Ok::<(), crossproc::BarrierError>(())
    /// ```
    #[must_use]
    pub fn index(&self) -> u32 {
        self.arrived.index
    }

    /// Returns whether this party was the last to arrive. One of each phase is.
    ///
    /// ```
    /// use crossproc::Barrier;
    ///
    /// static START: Barrier = Barrier::new(2);
    ///
    /// let other = std::thread::spawn(|| START.wait());
    /// let ours = START.wait()?;
    /// let theirs = other.join().unwrap()?;
    /// assert_ne!(ours.is_leader(), theirs.is_leader());
    /// # Ok::<(), crossproc::BarrierError>(())
    /// ```
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.arrived.is_last
    }
}

/// Why a wait at a [`Barrier`] ended without the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// The barrier is broken, or was broken while this party waited: another party timed out, or
    /// `abort` or `reset` was called.
    #[error(
        "the barrier is broken: a party timed out, or it was aborted or reset; reset() makes it \
         whole"
    )]
    Broken,
    /// Others are missing.
    #[error("not all parties have arrived at the barrier")]
    WouldBlock,
    /// Others were missing until the deadline. That has broken the barrier.
    #[error("not all parties had arrived at the barrier by the deadline, which has broken it")]
    TimedOut,
    /// A signal handler ran while the thread waited interruptibly. The party has arrived: it goes
    /// on waiting by [`wait_for`](Barrier::wait_for).
    #[error("a signal handler ran while waiting at the barrier")]
    Interrupted(Arrival),
}

impl From<Broken> for BarrierError {
    fn from(_: Broken) -> Self {
        BarrierError::Broken
    }
}

impl From<BarrierError> for io::Error {
    fn from(error: BarrierError) -> Self {
        let kind = match error {
            BarrierError::Broken => io::ErrorKind::Other,
            BarrierError::WouldBlock => io::ErrorKind::WouldBlock,
            BarrierError::TimedOut => io::ErrorKind::TimedOut,
            BarrierError::Interrupted(_) => io::ErrorKind::Interrupted,
        };
        io::Error::new(kind, error)
    }
}
