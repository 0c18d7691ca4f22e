//! [`PerProcess`]: a value that exists once in each process; a forked child gets a new one.

#![allow(unsafe_code)]

use core::ops::Deref;
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicPtr, AtomicU32};
use std::io;

use crate::process::mark_of_this_process;

/// A value that each process makes when it needs it. A forked child's copy of its parent's value
/// may be locked and in the middle of a change. So the child begins with a value of its own,
/// however it was forked.
#[derive(Debug)]
pub struct PerProcess<T: 'static> {
    current: AtomicPtr<Current<T>>,
}

/// A value, and the mark of the process that made it. It is never freed.
#[derive(Debug)]
pub struct Current<T> {
    /// 1 in the process that made the value, 0 in its children.
    mark: &'static AtomicU32,
    value: T,
}

impl<T> Current<T> {
    /// Returns whether the value is this process's own, and not its parent's.
    #[must_use]
    pub fn is_of_this_process(&self) -> bool {
        // Relaxed: it was 1 before any other thread knew of it, and a thread that reads 0 is alone
        // in a new process.
        self.mark.load(Relaxed) == 1
    }
}

impl<T: Default> Current<T> {
    /// Makes a value for this process alone.
    ///
    /// # Errors
    /// ENOMEM, for the page that tells a child from its parent.
    pub fn make() -> io::Result<&'static Self> {
        let made = Current { mark: mark_of_this_process()?, value: T::default() };
        Ok(Box::leak(Box::new(made)))
    }
}

impl<T> Deref for Current<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default + Send + Sync> Default for PerProcess<T> {
    fn default() -> Self {
        PerProcess::new()
    }
}

impl<T: Default + Send + Sync> PerProcess<T> {
    /// Returns a value that no process has made.
    #[must_use]
    pub const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Returns this process's value, if it has made one.
    #[must_use]
    pub fn existing(&self) -> Option<&'static Current<T>> {
        // SAFETY: null, or a pointer that `get` stored, which is never freed. Acquire: pairs with
        // the Release there.
        unsafe { self.current.load(Acquire).as_ref() }
            .filter(|current| current.is_of_this_process())
    }

    /// Returns this process's value, and makes it first if there is none.
    ///
    /// # Errors
    /// ENOMEM, for the page that tells a child from its parent.
    pub fn get(&self) -> io::Result<&'static Current<T>> {
        let mut known = self.current.load(Acquire);
        loop {
            if let Some(current) = self.existing() {
                return Ok(current);
            }
            let new = ptr::from_ref(Current::<T>::make()?).cast_mut();
            // Release: pairs with the Acquire loads here. The thread that comes second leaves an
            // unused value behind.
            if let Err(other) = self.current.compare_exchange(known, new, AcqRel, Acquire) {
                known = other;
            }
        }
    }
}
