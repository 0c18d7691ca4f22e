//! The interface that all events share.

use crossproc::Event;

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
