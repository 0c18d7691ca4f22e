//! The interface that all locks share, and the locks that need only an adapter.

use core::ops::DerefMut;

use crossproc::{Lock, Plain};

/// A value that one thread at a time may use.
#[allow(dead_code, reason = "the benchmark of deaths does without")]
pub(crate) trait MutualExclusion {
    type Value;

    /// Locks, runs `section` on the value, unlocks.
    fn with(&self, section: impl FnOnce(&mut Self::Value));
}

impl<T: Plain> MutualExclusion for Lock<T> {
    type Value = T;

    #[inline]
    fn with(&self, section: impl FnOnce(&mut T)) {
        section(self.lock().unwrap().deref_mut());
    }
}

impl<T> MutualExclusion for std::sync::Mutex<T> {
    type Value = T;

    #[inline]
    fn with(&self, section: impl FnOnce(&mut T)) {
        section(self.lock().unwrap().deref_mut());
    }
}

impl<T> MutualExclusion for parking_lot::Mutex<T> {
    type Value = T;

    #[inline]
    fn with(&self, section: impl FnOnce(&mut T)) {
        section(self.lock().deref_mut());
    }
}
