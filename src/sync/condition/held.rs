//! [`Held`]: the locks that a condition can release and acquire again.

#![allow(private_interfaces, reason = "the sealed trait's method is for this crate alone")]

use crate::memory::shared::{Guarded, Plain};
use crate::sync::lock::state::RawLock;
use crate::sync::lock::{Lock, LockGuard};
use crate::sync::rlock::{RLock, RLockGuard};

/// A lock that the calling thread holds, and that a [`Condition`](crate::Condition) releases while
/// it waits: the guard of a [`Lock`] or an [`RLock`]. For callers that hold a lock without a guard,
/// it is a `&Lock<()>` or a `&RLock<()>`.
pub trait Held: sealed::Held {
    /// What a condition on the value looks at: a [`Lock`]'s value, an [`RLock`]'s guard, or,
    /// without a guard, the reference to the lock.
    type Value: ?Sized;

    #[doc(hidden)]
    fn value(&mut self) -> &mut Self::Value;
}

pub(super) mod sealed {
    use super::RawLock;

    pub trait Held {
        #[doc(hidden)]
        fn lock(&self) -> &RawLock;
    }
}

impl<T: ?Sized + Guarded> Held for LockGuard<'_, T> {
    type Value = T;

    fn value(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + Guarded> sealed::Held for LockGuard<'_, T> {
    fn lock(&self) -> &RawLock {
        self.raw()
    }
}

impl<T: Plain> Held for RLockGuard<'_, T> {
    type Value = Self;

    fn value(&mut self) -> &mut Self {
        self
    }
}

impl<T: Plain> sealed::Held for RLockGuard<'_, T> {
    fn lock(&self) -> &RawLock {
        self.raw().lock_itself()
    }
}

impl Held for &Lock<()> {
    type Value = Self;

    fn value(&mut self) -> &mut Self {
        self
    }
}

impl sealed::Held for &Lock<()> {
    fn lock(&self) -> &RawLock {
        &self.raw
    }
}

impl Held for &RLock<()> {
    type Value = Self;

    fn value(&mut self) -> &mut Self {
        self
    }
}

impl sealed::Held for &RLock<()> {
    fn lock(&self) -> &RawLock {
        self.raw.lock_itself()
    }
}
