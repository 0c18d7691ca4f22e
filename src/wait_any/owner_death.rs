//! [`OwnerDeath`]: waiting for the death of a lock's owner.

use super::Waitable;
use super::sealed::{Of, Refusal, Waits};
use crate::memory::shared::{Guarded, Plain};
use crate::sync::lock::Lock;
use crate::sync::lock::state::RawLock;
use crate::sync::rlock::RLock;

/// The death of a lock's owner, as something to [wait for](fn@crate::wait_any) along with other
/// things. [`Lock::owner_death`] and [`RLock::owner_death`] make it.
#[derive(Debug, Clone, Copy)]
pub struct OwnerDeath<'a> {
    lock: &'a RawLock,
}

impl<T: ?Sized + Guarded> Lock<T> {
    /// Returns the death of the owner, to be [waited for](fn@crate::wait_any) along with other
    /// things. It is ready while the lock is free and the next to lock it gets
    /// [`OwnerDied`](crate::LockError::OwnerDied).
    ///
    /// It is meant for a lock that a peer holds for its whole life. If a lock is locked and
    /// unlocked often, a thread that waits for this wakes up each time. Waiting for a lock that the
    /// calling thread holds is an error.
    ///
    /// ```standalone_crate
    /// use crossproc::{Lock, LockError, Shm, process, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let life = Shm::new(Lock::new(()))?;
    ///
    /// let theirs = life.clone();
    /// let child = process::fork(move || -> () {
    ///     let _held = theirs.lock().unwrap();
    ///     std::process::abort();
    /// })?;
    /// assert_eq!(wait_any(&[&life.owner_death()])?, [0]);
    /// assert_eq!(life.try_lock().unwrap_err(), LockError::OwnerDied);
    /// # child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn owner_death(&self) -> OwnerDeath<'_> {
        OwnerDeath { lock: &self.raw }
    }
}

impl<T: Plain> RLock<T> {
    /// Returns the death of the owner, to be [waited for](fn@crate::wait_any) along with other
    /// things, as [`Lock::owner_death`] does.
    ///
    /// ```
    /// use crossproc::{LockError, RLock, wait_any};
    ///
    /// static LIFE: RLock<()> = RLock::new(());
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # std::panic::set_hook(Box::new(|_| ()));
    /// let peer = std::thread::spawn(|| {
    ///     let _held = LIFE.lock().unwrap();
    ///     panic!("with the guard in hand"); // which counts as a death
    /// });
    /// assert_eq!(wait_any(&[&LIFE.owner_death()])?, [0]);
    /// assert_eq!(LIFE.try_lock().unwrap_err(), LockError::OwnerDied);
    /// # assert!(peer.join().is_err());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn owner_death(&self) -> OwnerDeath<'_> {
        OwnerDeath { lock: self.raw.lock_itself() }
    }
}

impl Waitable for OwnerDeath<'_> {}

impl Waits for OwnerDeath<'_> {
    fn check(&self) -> Result<(), Refusal> {
        // Only this thread can make itself the owner, or stop being it.
        if self.lock.is_owned() { Err(Refusal::Deadlock) } else { Ok(()) }
    }

    fn of(&self) -> Of<'_> {
        Of::Source(self.lock)
    }
}
