//! [`Condition`]: waiting for a change of what a lock protects.

#![allow(unsafe_code)]

use core::fmt;
use core::time::Duration;
use std::io;
use std::time::Instant;

mod held;
pub(crate) mod state;

pub use self::held::Held;
use self::state::RawCondition;
use crate::memory::shared::{Fingerprint, Shared};
use crate::wait::{Ended, Wait};

/// A condition variable: a thread that holds a lock waits on it until another thread has changed
/// what the lock protects.
///
/// It corresponds to `std::sync::Condvar` and to Python's `multiprocessing.Condition`, except that
/// each call names the lock. That is a [`Lock`](crate::Lock)'s guard, an [`RLock`](crate::RLock)'s,
/// or a lock that was acquired without one. A wait releases the lock, an `RLock` entirely, and
/// **holds it again on every return**, of whatever kind.
///
/// # Blocking and fairness
/// Only waiting blocks. A wait returns after a notification, and then waits for the lock, which can
/// take longer than its deadline. Sleepers are woken in the order in which they went to sleep; each
/// slice counts as going to sleep. [`notify(n)`](Condition::notify) wakes no more than `n` of them.
/// A waiter that has begun to wait, and does not sleep yet, may return, too, and may be the first
/// to have the lock.
///
/// Besides that, spurious wake-ups happen: a wait can return without a notification
/// - after a death among the waiters or notifiers, or after a signal;
/// - seldom, when a waiter begins in the middle of a notification, or two notify at once;
/// - seldom, when a notified waiter does not come for the free lock for a
///   [slice](crate::set_recheck_interval), because it is stopped or does not get to run: it may be
///   dead.
///
/// So look at what you wait for in a loop, as [`wait_while`](Condition::wait_while) does. A
/// notification makes no system call if no thread waits, but for the first one after a waiter that
/// slept gave up or died. There are no `try_` forms: they would not wait at all.
///
/// # Memory ordering
/// That of the lock. Notify while you hold the lock, or after you have held it. Then a waiter that
/// looked before the change gets the notification.
///
/// # Process death
/// A waiter that dies leaves nothing behind: notifying never waits for it. If a notified waiter
/// dies before it holds the lock, another waiter gets the notification. It gets it at once if it
/// sleeps and the dead waiter did not wait for the lock yet. Otherwise it gets it when a
/// [slice](crate::set_recheck_interval) of its own has ended for the second time while that lock
/// was free, and nobody was notified in between. For that, all that wait at the same time have to
/// hold the same lock. If a waiter dies while it holds the lock, the value is to be repaired; the
/// one that repairs it should notify the others.
///
/// A notifier that dies has notified as many waiters as it wanted, or fewer, and others may return
/// for nothing. In `notify_all` it has notified all or none. What it changed before is not taken
/// back. Where a change must not go without its notification, use a
/// [`Semaphore`](crate::Semaphore), whose release is both in one.
///
/// If an owner of the lock dies during a wait, the wait returns
/// [`OwnerDied`](ConditionError::OwnerDied), with the lock held.
///
/// # Errors
/// [`ConditionError`].
///
/// # Signal handlers
/// A handler may call the `notify` forms if its thread has used, before that, any lock, semaphore
/// or event that others waited for.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Condition, Lock, Shm, process, shared};
///
/// shared! {
///     struct Box {
///         full: Lock<u32>,
///         changed: Condition,
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let shared = Shm::new(Box { full: Lock::new(0), changed: Condition::new() })?;
/// let theirs = shared.clone();
/// let child = process::fork(move || -> std::io::Result<()> {
///     *theirs.full.lock()? = 7;
///     theirs.changed.notify_one();
///     Ok(())
/// })?;
///
/// let mut full = shared.full.lock()?;
/// shared.changed.wait_while(&mut full, |full| *full == 0)?;
/// assert_eq!(*full, 7);
/// drop(full);
/// assert!(child.join()?.success());
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// A sequence number that waiters compare and sleep on, as in `std`'s condition variable on
/// futexes. Our own are the promotion to `notify_all` of a notification that finds too few
/// sleepers, and what is done for the dead. See `DESIGN.md`.
#[repr(transparent)]
pub struct Condition {
    raw: RawCondition,
}

// SAFETY: two atomics and padding; every value of them is valid.
unsafe impl Shared for Condition {
    fn layout(to: &mut Fingerprint) {
        to.name("Condition");
    }
}

impl Condition {
    /// Creates a condition that no thread waits for.
    ///
    /// ```
    /// use crossproc::{Condition, Lock, shared};
    ///
    /// shared! {
    ///     struct Mailbox {
    ///         full: Lock<u32>,
    ///         changed: Condition,
    ///     }
    /// }
    ///
    /// let mailbox = Mailbox { full: Lock::new(0), changed: Condition::new() };
    /// mailbox.changed.notify_all(); // no thread waits
    /// assert_eq!(*mailbox.full.lock()?, 0);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Condition { raw: RawCondition::new() }
    }

    /// Waits for a notification, as long as it takes.
    ///
    /// ```
    /// use crossproc::{Condition, Lock};
    ///
    /// static NUMBER: Lock<u32> = Lock::new(0);
    /// static CHANGED: Condition = Condition::new();
    ///
    /// let other = std::thread::spawn(|| {
    ///     *NUMBER.lock().unwrap() = 7;
    ///     CHANGED.notify_one();
    /// });
    /// let mut number = NUMBER.lock()?;
    /// while *number == 0 {
    ///     CHANGED.wait(&mut number)?;
    /// }
    /// assert_eq!(*number, 7);
    /// # other.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OwnerDied`](ConditionError::OwnerDied), [`NotOwner`](ConditionError::NotOwner).
    pub fn wait<H: Held>(&self, held: &mut H) -> Result<(), ConditionError> {
        self.wait_with(held, Wait::FOREVER)
    }

    /// Waits for a notification, for `timeout` at most, and then for the lock. [`Duration::MAX`]
    /// waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](ConditionError::TimedOut); otherwise as [`wait`](Condition::wait).
    pub fn wait_timeout<H: Held>(
        &self,
        held: &mut H,
        timeout: Duration,
    ) -> Result<(), ConditionError> {
        self.wait_with(held, Wait::timeout(timeout))
    }

    /// Waits for a notification, until `deadline` at most, and then for the lock.
    ///
    /// # Errors
    /// [`TimedOut`](ConditionError::TimedOut); otherwise as [`wait`](Condition::wait).
    pub fn wait_deadline<H: Held>(
        &self,
        held: &mut H,
        deadline: Instant,
    ) -> Result<(), ConditionError> {
        self.wait_with(held, Wait::deadline(deadline))
    }

    /// Waits for a notification as `wait` says, and then for the lock.
    ///
    /// # Errors
    /// [`TimedOut`](ConditionError::TimedOut), and [`Interrupted`](ConditionError::Interrupted) if
    /// `wait` is interruptible; otherwise as [`wait`](Condition::wait).
    pub fn wait_with<H: Held>(&self, held: &mut H, wait: Wait) -> Result<(), ConditionError> {
        if !held.lock().is_owned() {
            return Err(ConditionError::NotOwner);
        }
        let begun = self.raw.begin();
        let lock = held.lock();
        let holding = lock.release_whole();
        let result = self.raw.sleep(begun, wait, || lock.owner().is_none());
        let owner_died = lock.relock(holding);
        let result = result.map(|notified| self.raw.has_lock(notified));
        // `OwnerDied` comes first. The caller looks at what it waits for, and at the clock, once
        // more anyway. But it would not see that the data is half written.
        if owner_died { Err(ConditionError::OwnerDied) } else { Ok(result?) }
    }

    /// Waits while `condition` returns true for the value, which it may change. `condition` is
    /// called with the lock held, for the first time before any waiting.
    ///
    /// ```
    /// use crossproc::{Condition, Lock};
    ///
    /// static NUMBER: Lock<u32> = Lock::new(0);
    /// static CHANGED: Condition = Condition::new();
    ///
    /// let other = std::thread::spawn(|| {
    ///     *NUMBER.lock().unwrap() = 7;
    ///     CHANGED.notify_one();
    /// });
    /// let mut number = NUMBER.lock()?;
    /// CHANGED.wait_while(&mut number, |number| *number == 0)?;
    /// assert_eq!(*number, 7);
    /// # other.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub fn wait_while<H: Held>(
        &self,
        held: &mut H,
        condition: impl FnMut(&mut H::Value) -> bool,
    ) -> Result<(), ConditionError> {
        self.wait_while_with(held, Wait::FOREVER, condition)
    }

    /// Waits like [`wait_while`](Condition::wait_while), for `timeout` at most. After that,
    /// `condition` is called once more.
    ///
    /// # Errors
    /// [`TimedOut`](ConditionError::TimedOut) if it still returns true; otherwise as
    /// [`wait`](Condition::wait).
    pub fn wait_while_timeout<H: Held>(
        &self,
        held: &mut H,
        timeout: Duration,
        condition: impl FnMut(&mut H::Value) -> bool,
    ) -> Result<(), ConditionError> {
        self.wait_while_with(held, Wait::timeout(timeout), condition)
    }

    /// Waits like [`wait_while`](Condition::wait_while), until `deadline` at most. After that,
    /// `condition` is called once more.
    ///
    /// # Errors
    /// [`TimedOut`](ConditionError::TimedOut) if it still returns true; otherwise as
    /// [`wait`](Condition::wait).
    pub fn wait_while_deadline<H: Held>(
        &self,
        held: &mut H,
        deadline: Instant,
        condition: impl FnMut(&mut H::Value) -> bool,
    ) -> Result<(), ConditionError> {
        self.wait_while_with(held, Wait::deadline(deadline), condition)
    }

    /// Waits like [`wait_while`](Condition::wait_while), as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](ConditionError::TimedOut), and [`Interrupted`](ConditionError::Interrupted) if
    /// `wait` is interruptible; otherwise as [`wait`](Condition::wait).
    pub fn wait_while_with<H: Held>(
        &self,
        held: &mut H,
        wait: Wait,
        mut condition: impl FnMut(&mut H::Value) -> bool,
    ) -> Result<(), ConditionError> {
        if !held.lock().is_owned() {
            return Err(ConditionError::NotOwner);
        }
        while condition(held.value()) {
            match self.wait_with(held, wait) {
                Err(ConditionError::TimedOut) if condition(held.value()) => {
                    return Err(ConditionError::TimedOut);
                }
                Ok(()) => {}
                Err(ConditionError::TimedOut) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Wakes one waiter. Does not block.
    ///
    /// ```
    /// use crossproc::{Condition, Lock};
    ///
    /// static ITEMS: Lock<u32> = Lock::new(0);
    /// static CHANGED: Condition = Condition::new();
    ///
    /// let taker = std::thread::spawn(|| {
    ///     let mut items = ITEMS.lock().unwrap();
    ///     CHANGED.wait_while(&mut items, |items| *items == 0).unwrap();
    ///     *items -= 1;
    /// });
    /// *ITEMS.lock()? += 1;
    /// CHANGED.notify_one();
    /// taker.join().unwrap();
    /// assert_eq!(*ITEMS.lock()?, 0);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[inline]
    pub fn notify_one(&self) {
        self.raw.notify(1);
    }

    /// Wakes `count` waiters, or all if there are fewer. Does not block.
    ///
    /// ```
    /// use crossproc::{Condition, Lock};
    ///
    /// static ITEMS: Lock<u32> = Lock::new(0);
    /// static CHANGED: Condition = Condition::new();
    ///
    /// let takers = [(); 2].map(|()| {
    ///     std::thread::spawn(|| {
    ///         let mut items = ITEMS.lock().unwrap();
    ///         CHANGED.wait_while(&mut items, |items| *items == 0).unwrap();
    ///         *items -= 1;
    ///     })
    /// });
    /// *ITEMS.lock()? += 2;
    /// CHANGED.notify(2);
    /// takers.map(|taker| taker.join().unwrap());
    /// assert_eq!(*ITEMS.lock()?, 0);
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[inline]
    pub fn notify(&self, count: u32) {
        self.raw.notify(count);
    }

    /// Wakes all waiters. Does not block, not even on dead or stopped ones.
    ///
    /// ```
    /// use crossproc::{Condition, Lock};
    ///
    /// static STARTED: Lock<u32> = Lock::new(0);
    /// static CHANGED: Condition = Condition::new();
    ///
    /// let runners = [(); 3].map(|()| {
    ///     std::thread::spawn(|| {
    ///         let mut started = STARTED.lock().unwrap();
    ///         CHANGED.wait_while(&mut started, |started| *started == 0)
    ///     })
    /// });
    /// *STARTED.lock()? = 1;
    /// CHANGED.notify_all();
    /// for runner in runners {
    ///     assert_eq!(runner.join().unwrap(), Ok(()));
    /// }
    /// # Ok::<(), crossproc::LockError>(())
    /// ```
    #[inline]
    pub fn notify_all(&self) {
        self.raw.notify_all();
    }
}

impl Default for Condition {
    fn default() -> Self {
        Condition::new()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}

/// The reason why a wait for a [`Condition`] ended without a notification, or with one and
/// something else. The lock is held in each case except [`NotOwner`](ConditionError::NotOwner).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// There was no notification until the deadline.
    #[error("there was no notification until the deadline")]
    TimedOut,
    /// A signal handler ran during an interruptible wait.
    #[error("a signal handler ran while waiting for a notification")]
    Interrupted,
    /// An owner of the lock died while this thread waited: what the lock protects may be half
    /// written. There may have been a notification, too.
    #[error(
        "the lock's owner died while it held it: repair the value and call recover(), of the guard \
         or of the lock"
    )]
    OwnerDied,
    /// The calling thread does not hold the lock that it is to release.
    #[error("this thread does not hold the lock: acquire it before waiting for its condition")]
    NotOwner,
}

impl From<Ended> for ConditionError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => ConditionError::TimedOut,
            Ended::Interrupted => ConditionError::Interrupted,
        }
    }
}

impl From<ConditionError> for io::Error {
    fn from(error: ConditionError) -> Self {
        let kind = match error {
            ConditionError::TimedOut => io::ErrorKind::TimedOut,
            ConditionError::Interrupted => io::ErrorKind::Interrupted,
            ConditionError::OwnerDied => io::ErrorKind::Other,
            ConditionError::NotOwner => io::ErrorKind::PermissionDenied,
        };
        io::Error::new(kind, error)
    }
}
