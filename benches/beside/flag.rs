//! The interface that all events share, and the events that need only an adapter.

use crossproc::Event;

use super::futex_flag::FutexFlag;
use super::monitor::Monitor;
use super::pthread_monitor::PthreadMonitor;

/// A flag that a waiter waits for until another thread sets it.
pub(crate) trait Flag {
    fn set(&self);
    fn clear(&self);
    fn wait(&self);
}

impl Flag for Event {
    #[inline]
    fn set(&self) {
        Event::set(self);
    }

    #[inline]
    fn clear(&self) {
        Event::clear(self);
    }

    #[inline]
    fn wait(&self) {
        Event::wait(self);
    }
}

impl<const SLICED: bool, const WATCHED: bool> Flag for FutexFlag<SLICED, WATCHED> {
    #[inline]
    fn set(&self) {
        FutexFlag::set(self);
    }

    #[inline]
    fn clear(&self) {
        FutexFlag::clear(self);
    }

    #[inline]
    fn wait(&self) {
        FutexFlag::wait(self);
    }
}

/// An event as it is made with pthreads.
impl Flag for PthreadMonitor {
    fn set(&self) {
        self.wait_while(|[is_set, _]| {
            *is_set = 1;
            self.notify_all();
            false
        });
    }

    fn clear(&self) {
        self.wait_while(|[is_set, _]| {
            *is_set = 0;
            false
        });
    }

    fn wait(&self) {
        self.wait_while(|&mut [is_set, _]| is_set == 0);
    }
}
