//! [`PerProcess`]: what each process has one of, and a forked child a new one.

#![allow(unsafe_code)]

use core::ops::Deref;
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicPtr, AtomicU32};
use std::io;

use crossproc_sys::process::mark_of_this_process;

/// A value that each process makes when it needs it. A forked child's copy of its parent's may be
/// in the middle of a change, and locked: the child begins with one of its own, however it was
/// forked.
#[derive(Debug)]
pub(crate) struct PerProcess<T: 'static> {
    current: AtomicPtr<Current<T>>,
}

/// The value of the process that made it. It is never freed.
#[derive(Debug)]
pub(crate) struct Current<T> {
    /// 1 in the process that it was made in, 0 in its children.
    mark: &'static AtomicU32,
    value: T,
}

impl<T> Current<T> {
    /// Whether it is this process's own, or its parent's.
    pub(crate) fn is_of_this_process(&self) -> bool {
        // Relaxed: it was 1 before anybody knew of it, and whoever reads 0 is alone in a new
        // process.
        self.mark.load(Relaxed) == 1
    }
}

impl<T: Default> Current<T> {
    /// Makes one, for this process alone.
    ///
    /// # Errors
    /// ENOMEM, for the page that tells a child from its parent.
    pub(crate) fn make() -> io::Result<&'static Self> {
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

impl<T: Default + Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// This process's value, if it has made one.
    pub(crate) fn existing(&self) -> Option<&'static Current<T>> {
        // SAFETY: null, or what was stored below, which is never freed. Acquire: pairs with the
        // Release there.
        unsafe { self.current.load(Acquire).as_ref() }
            .filter(|current| current.is_of_this_process())
    }

    /// This process's value.
    ///
    /// # Errors
    /// ENOMEM, for the page that tells a child from its parent.
    pub(crate) fn get(&self) -> io::Result<&'static Current<T>> {
        let mut known = self.current.load(Acquire);
        loop {
            if let Some(current) = self.existing() {
                return Ok(current);
            }
            let new = ptr::from_ref(Current::<T>::make()?).cast_mut();
            // Release: pairs with the Acquire loads here. Who comes second leaves one behind that
            // nobody uses.
            if let Err(other) = self.current.compare_exchange(known, new, AcqRel, Acquire) {
                known = other;
            }
        }
    }
}
