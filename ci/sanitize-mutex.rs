//! What `ci/sanitize.sh` puts in the place of std's mutex, in a copy of the crates: ThreadSanitizer
//! cannot see what orders the accesses under that one, since std is not built with it.

#![allow(unsafe_code, missing_docs, dead_code, unreachable_pub, clippy::all)]

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{LockResult, TryLockError, TryLockResult};

#[derive(Default, Debug)]
pub struct Mutex<T: ?Sized> {
    is_locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time has a guard.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized>(&'a Mutex<T>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Mutex { is_locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        while self.is_locked.swap(true, Acquire) {
            std::thread::yield_now();
        }
        Ok(MutexGuard(self))
    }

    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if self.is_locked.swap(true, Acquire) {
            Err(TryLockError::WouldBlock)
        } else {
            Ok(MutexGuard(self))
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.0.is_locked.store(false, Release);
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: see above.
        unsafe { &*self.0.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: see above.
        unsafe { &mut *self.0.value.get() }
    }
}
