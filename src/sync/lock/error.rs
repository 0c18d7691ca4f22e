//! [`LockError`]: why a lock was not acquired.

use std::io;

use super::state::LockRefused;
use crate::sync::error::RobustListError;

/// The reason why a lock was not acquired. The calling thread holds it no more than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// An owner died, or panicked, while it held the lock, and nobody has repaired the value since:
    /// it may be half written.
    #[error(
        "the lock's owner died while it held it, and the value may be half written: \
         lock_or_repair() repairs it, or write_or_repair() of a readers' lock"
    )]
    OwnerDied,
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
    /// The calling thread holds the [`RLock`](crate::RLock) as often as can be counted.
    #[error("this thread holds the lock {} times: it is locked more often than unlocked", u32::MAX)]
    TooDeep,
    /// The calling thread holds as many locks as the kernel is willing to free for it when it dies.
    #[error(
        "this thread holds {} locks, more would not be freed if it died: unlock some first",
        crossproc_sys::robust::MAX_HELD
    )]
    TooManyHeld,
    /// The calling thread can hold no lock that would be released at its death.
    #[error("this thread can hold no lock that survives it: {0}")]
    Unavailable(#[source] RobustListError),
}

impl From<LockRefused> for LockError {
    fn from(refused: LockRefused) -> Self {
        match refused {
            LockRefused::Deadlock => LockError::Deadlock,
            LockRefused::WouldBlock => LockError::WouldBlock,
            LockRefused::TimedOut => LockError::TimedOut,
            LockRefused::Interrupted => LockError::Interrupted,
            LockRefused::TooManyHeld => LockError::TooManyHeld,
            LockRefused::Unavailable(why) => LockError::Unavailable(RobustListError::new(why)),
        }
    }
}

impl From<LockError> for io::Error {
    fn from(error: LockError) -> Self {
        let kind = match error {
            LockError::WouldBlock => io::ErrorKind::WouldBlock,
            LockError::TimedOut => io::ErrorKind::TimedOut,
            LockError::Deadlock => io::ErrorKind::Deadlock,
            LockError::Interrupted => io::ErrorKind::Interrupted,
            LockError::OwnerDied
            | LockError::TooDeep
            | LockError::TooManyHeld
            | LockError::Unavailable(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
