//! The interface that all barriers share.

use crossproc::Barrier;

use super::pthread_barrier::PthreadBarrier;

/// A place where a number of parties wait for each other.
pub(crate) trait Meeting {
    fn wait(&self);
}

impl Meeting for Barrier {
    #[inline]
    fn wait(&self) {
        Barrier::wait(self).unwrap();
    }
}

impl Meeting for PthreadBarrier {
    #[inline]
    fn wait(&self) {
        PthreadBarrier::wait(self);
    }
}

impl Meeting for std::sync::Barrier {
    #[inline]
    fn wait(&self) {
        std::sync::Barrier::wait(self);
    }
}
