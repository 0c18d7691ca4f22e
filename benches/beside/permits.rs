//! The interface that all semaphores share.

use crossproc::Semaphore;

use crossproc_harness::posix_semaphore::PosixSemaphore;

/// A number of permits.
pub(crate) trait Permits {
    fn acquire(&self);
    fn release(&self);
}

impl Permits for Semaphore {
    #[inline]
    fn acquire(&self) {
        Semaphore::acquire(self);
    }

    #[inline]
    fn release(&self) {
        Semaphore::release(self).unwrap();
    }
}

impl Permits for PosixSemaphore {
    #[inline]
    fn acquire(&self) {
        PosixSemaphore::wait(self);
    }

    #[inline]
    fn release(&self) {
        PosixSemaphore::post(self);
    }
}
