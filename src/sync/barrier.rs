//! [`Barrier`]: parties that wait for each other.

#![allow(unsafe_code)]

use core::fmt;
use core::time::Duration;
use std::io;
use std::time::Instant;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;

pub(crate) mod state;

use self::state::{Arrived, Broken, Failed, MAX_PARTIES, RawBarrier};
use crate::memory::shared::{Fingerprint, Shared};
use crate::wait::{Ended, Wait};

/// A place where a number of parties, threads of any processes, wait until all of them are there;
/// then all go on, and the next phase begins.
///
/// It corresponds to `std::sync::Barrier` and to Python's `multiprocessing.Barrier`: it can break.
/// One party whose time is over [breaks](BarrierError::Broken) it for all, as
/// [`abort`](Barrier::abort) does, so that nobody waits for one who will not come. It stays broken
/// until a [`reset`](Barrier::reset).
///
/// # Blocking and fairness
/// Only waiting blocks, until the last party has come; with a few looks first, then asleep. The
/// last one wakes all others by one system call.
///
/// # Memory ordering
/// What any party wrote before it arrived, all parties see once they have returned.
///
/// # Process death
/// Who has arrived counts, dead or alive. Who dies before that is missing, and what bounds the
/// others' wait is their time-out, which breaks the barrier. If the last to arrive dies
/// before it has woken the others, the kernel, and then the first of them, does it for it. On
/// kernels before 6.2 that can take one [slice](crate::set_slice).
///
/// # Errors
/// [`BarrierError`].
///
/// # Signal handlers
/// Not for waiting. `abort`, `is_broken` and `n_waiting` may be called in one, provided that the
/// thread has used any lock, semaphore or event that others waited for before.
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
/// A count with a generation, as everybody's; the interface is that of Python's
/// `threading.Barrier`, and the split into arriving and waiting that of C++'s `std::barrier`.
#[repr(C)]
pub struct Barrier {
    raw: RawBarrier,
    /// Never written after its creation. Relaxed.
    parties: AtomicU32,
    _padding: u32,
}

// SAFETY: two atomics; every value of them is valid, and the number of parties is compared only.
unsafe impl Shared for Barrier {
    fn layout(to: &mut Fingerprint) {
        to.name("Barrier");
    }
}

impl Barrier {
    /// The most parties that there can be.
    pub const MAX_PARTIES: u32 = MAX_PARTIES;

    /// A barrier for `parties`, from 1 to [`MAX_PARTIES`](Barrier::MAX_PARTIES).
    ///
    /// # Panics
    /// If there are none, or more.
    #[must_use]
    pub const fn new(parties: u32) -> Self {
        assert!(parties >= 1, "a barrier needs at least one party");
        assert!(parties <= MAX_PARTIES, "a barrier has 65,535 parties at most");
        Barrier { raw: RawBarrier::new(), parties: AtomicU32::new(parties), _padding: 0 }
    }

    /// Arrives, and waits for the others as long as it takes.
    ///
    /// # Errors
    /// [`Broken`](BarrierError::Broken).
    #[inline]
    pub fn wait(&self) -> Result<BarrierPassed, BarrierError> {
        self.wait_with(Wait::FOREVER)
    }

    /// Passes if all others are there.
    ///
    /// # Errors
    /// [`WouldBlock`](BarrierError::WouldBlock) if others are missing; nothing has changed.
    /// [`Broken`](BarrierError::Broken).
    pub fn try_wait(&self) -> Result<BarrierPassed, BarrierError> {
        match self.raw.arrive(self.parties(), true)? {
            Some(arrived) => Ok(BarrierPassed { arrived }),
            None => Err(BarrierError::WouldBlock),
        }
    }

    /// Arrives, and waits for the others for `timeout` at most; then it breaks the barrier.
    /// [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken).
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierPassed, BarrierError> {
        self.wait_with(Wait::timeout(timeout))
    }

    /// Arrives, and waits for the others until `deadline` at most; then it breaks the barrier.
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken).
    #[inline]
    pub fn wait_deadline(&self, deadline: Instant) -> Result<BarrierPassed, BarrierError> {
        self.wait_with(Wait::deadline(deadline))
    }

    /// Arrives, and waits for the others as `wait` says: [`arrive`](Barrier::arrive) and
    /// [`wait_for`](Barrier::wait_for).
    ///
    /// # Errors
    /// [`TimedOut`](BarrierError::TimedOut), [`Broken`](BarrierError::Broken),
    /// [`Interrupted`](BarrierError::Interrupted) if `wait` is interruptible: go on with its
    /// arrival.
    pub fn wait_with(&self, wait: Wait) -> Result<BarrierPassed, BarrierError> {
        let arrival = self.arrive()?;
        self.wait_for(arrival, wait)
    }

    /// Arrives without waiting: the others need not wait for this party any longer.
    ///
    /// # Errors
    /// [`Broken`](BarrierError::Broken).
    pub fn arrive(&self) -> Result<Arrival, BarrierError> {
        let arrived = self.raw.arrive(self.parties(), false)?;
        Ok(Arrival { arrived: arrived.ok_or(BarrierError::WouldBlock)? })
    }

    /// Waits for the others, of whom this party has [arrived](Barrier::arrive) before, as `wait`
    /// says. If its time is over, that breaks the barrier.
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

    /// Breaks the barrier: whoever waits, and whoever comes, gets [`Broken`](BarrierError::Broken).
    /// Does not block.
    pub fn abort(&self) {
        self.raw.abort();
    }

    /// Makes the barrier whole and empty. Whoever waits gets [`Broken`](BarrierError::Broken); who
    /// comes after begins a new phase. Does not block.
    pub fn reset(&self) {
        self.raw.reset();
    }

    /// Whether the barrier is broken. It may have changed by the time this returns.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.raw.is_broken()
    }

    /// How many have arrived in this phase, and wait or died waiting; 0 if it is broken. It may
    /// have changed by the time this returns.
    #[must_use]
    pub fn n_waiting(&self) -> u32 {
        self.raw.n_waiting()
    }

    /// For how many parties it is.
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

/// A party's arrival at a [`Barrier`], with which it goes on waiting for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "arriving does not wait: give it to `wait_for`"]
pub struct Arrival {
    arrived: Arrived,
}

/// A phase of a [`Barrier`] that has ended, for one of its parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierPassed {
    arrived: Arrived,
}

impl BarrierPassed {
    /// How many parties had arrived before this one: another number for each, from 0 on.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.arrived.index
    }

    /// Whether this party was the last to arrive, which one of each phase is.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.arrived.is_last
    }
}

/// Why a wait at a [`Barrier`] ended without the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// The barrier is broken, or was while this party waited: another's time was over, or someone
    /// has called `abort` or `reset`.
    #[error(
        "the barrier is broken: a party timed out, or it was aborted or reset; reset() makes it whole"
    )]
    Broken,
    /// Others are missing.
    #[error("not all parties have arrived at the barrier")]
    WouldBlock,
    /// Others were missing until the deadline. The barrier is broken now.
    #[error("not all parties had arrived at the barrier by the deadline, which has broken it")]
    TimedOut,
    /// A signal handler ran while the thread waited, interruptibly. The party has arrived: it goes
    /// on by [`wait_for`](Barrier::wait_for).
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
