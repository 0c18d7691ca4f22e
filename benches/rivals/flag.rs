//! What all events have in common.

use crossproc::Event;

/// Something that one waits for until another sets it.
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
