//! [`Panics`]: whether a panic unwinds through a guard.

use std::thread;

/// Whether the thread panicked already when a guard was taken. If so, a drop while it panics says
/// nothing: the guard may have come and gone in a destructor. This is the rule of std's
/// `poison::Guard`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panics {
    before: bool,
}

impl Panics {
    /// The value for a guard through which any panic may unwind.
    pub(crate) const IGNORED: Panics = Panics { before: true };

    /// Returns the value for a guard that is taken now.
    #[inline]
    pub(crate) fn now() -> Self {
        Panics { before: thread::panicking() }
    }

    /// For a guard that is being dropped. Returns whether a panic drops it, and began while it was
    /// held.
    #[inline(always)]
    pub(crate) fn have_begun_since(self) -> bool {
        thread::panicking() && !self.before
    }
}
