//! [`Held`]: the locks that a condition can release and acquire again.

use crate::lock::{Lock, LockGuard};
use crate::rlock::{RLock, RLockGuard};
use crate::shared::Plain;

/// A lock in the calling thread's hand, which a [`Condition`](crate::Condition) releases while it waits: the guards of [`Lock`] and [`RLock`], and, for callers that
/// hold one without a guard, a `&Lock<()>` or `&RLock<()>`.
pub trait Held: sealed::Held {
    /// What a condition on the value looks at: a [`Lock`]'s value, an [`RLock`]'s guard, nothing without a guard.
    type Value;

    #[doc(hidden)]
    fn value(&mut self) -> &mut Self::Value;
}

pub(super) mod sealed {
    pub trait Held {
        fn is_held(&self) -> bool;
        /// Frees the lock, however often it is held, which it says.
        fn release_whole(&mut self) -> u32;
        /// Whether nobody holds it.
        fn is_free(&self) -> bool;
        /// Holds it as often again. Whether an owner died.
        fn relock(&mut self, depth: u32) -> bool;
    }
}

impl<T: Plain> Held for LockGuard<'_, T> {
    type Value = T;

    fn value(&mut self) -> &mut T {
        self
    }
}

impl<T: Plain> sealed::Held for LockGuard<'_, T> {
    fn is_held(&self) -> bool {
        self.raw().is_owned()
    }

    fn release_whole(&mut self) -> u32 {
        self.raw().release_anyhow();
        1
    }

    fn is_free(&self) -> bool {
        self.raw().owner().is_none()
    }

    fn relock(&mut self, _: u32) -> bool {
        self.raw().relock()
    }
}

impl<T: Plain> Held for RLockGuard<'_, T> {
    type Value = Self;

    fn value(&mut self) -> &mut Self {
        self
    }
}

impl<T: Plain> sealed::Held for RLockGuard<'_, T> {
    fn is_held(&self) -> bool {
        self.raw().is_owned()
    }

    fn release_whole(&mut self) -> u32 {
        self.raw().release_whole()
    }

    fn is_free(&self) -> bool {
        self.raw().is_free()
    }

    fn relock(&mut self, depth: u32) -> bool {
        self.raw().relock(depth)
    }
}

impl Held for &Lock<()> {
    type Value = Self;

    fn value(&mut self) -> &mut Self {
        self
    }
}

impl sealed::Held for &Lock<()> {
    fn is_held(&self) -> bool {
        self.raw.is_owned()
    }

    fn release_whole(&mut self) -> u32 {
        self.raw.release_anyhow();
        1
    }

    fn is_free(&self) -> bool {
        self.raw.owner().is_none()
    }

    fn relock(&mut self, _: u32) -> bool {
        self.raw.relock()
    }
}

impl Held for &RLock<()> {
    type Value = Self;

    fn value(&mut self) -> &mut Self {
        self
    }
}

impl sealed::Held for &RLock<()> {
    fn is_held(&self) -> bool {
        self.raw.is_owned()
    }

    fn release_whole(&mut self) -> u32 {
        self.raw.release_whole()
    }

    fn is_free(&self) -> bool {
        self.raw.is_free()
    }

    fn relock(&mut self, depth: u32) -> bool {
        self.raw.relock(depth)
    }
}
