//! The interface that all locks of readers and writers share, and the locks that need only an
//! adapter.

use core::ops::DerefMut;

use crossproc::{Plain, RwLock};

/// A value that several threads may read at a time, or one may change.
pub(crate) trait SharedExclusion {
    type Value;

    /// Locks for reading, runs `section` on the value, unlocks.
    fn read(&self, section: impl FnOnce(&Self::Value));

    /// Locks for writing, runs `section` on the value, unlocks.
    fn write(&self, section: impl FnOnce(&mut Self::Value));
}

impl<T: Plain> SharedExclusion for RwLock<T> {
    type Value = T;

    #[inline]
    fn read(&self, section: impl FnOnce(&T)) {
        section(&*RwLock::read(self).unwrap());
    }

    #[inline]
    fn write(&self, section: impl FnOnce(&mut T)) {
        section(RwLock::write(self).unwrap().deref_mut());
    }
}

impl<T> SharedExclusion for std::sync::RwLock<T> {
    type Value = T;

    #[inline]
    fn read(&self, section: impl FnOnce(&T)) {
        section(&*std::sync::RwLock::read(self).unwrap());
    }

    #[inline]
    fn write(&self, section: impl FnOnce(&mut T)) {
        section(std::sync::RwLock::write(self).unwrap().deref_mut());
    }
}

impl<T> SharedExclusion for parking_lot::RwLock<T> {
    type Value = T;

    #[inline]
    fn read(&self, section: impl FnOnce(&T)) {
        section(&*parking_lot::RwLock::read(self));
    }

    #[inline]
    fn write(&self, section: impl FnOnce(&mut T)) {
        section(parking_lot::RwLock::write(self).deref_mut());
    }
}
