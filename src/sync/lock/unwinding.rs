//! [`Panics`]: whether one unwinds through a guard.

use std::thread;

/// Whether the thread panicked already when a guard was taken, in which case a drop while it
/// panics says nothing: the guard may have come and gone in a destructor. The rule of std's
/// `poison::Guard`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panics {
    before: bool,
}

impl Panics {
    /// For a guard through which any panic may unwind.
    pub(crate) const IGNORED: Panics = Panics { before: true };

    /// For a guard that is taken now.
    #[inline]
    pub(crate) fn now() -> Self {
        Panics { before: thread::panicking() }
    }

    /// For a guard that is dropped: whether it is a panic that drops it, and began with it in hand.
    #[inline(always)]
    pub(crate) fn have_begun_since(self) -> bool {
        thread::panicking() && !self.before
    }
}
