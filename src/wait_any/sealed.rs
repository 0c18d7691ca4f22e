//! What this crate alone can say of what can be waited for.

#![allow(unreachable_pub, reason = "the sealed trait's methods are for this crate alone")]

use std::os::fd::BorrowedFd;

use crossproc_sys::poll::PollFlags;

use crate::queue::QueueError;
use crate::wait::source::Source;

/// What there is to wait for.
#[allow(missing_debug_implementations, reason = "for this crate alone")]
pub enum Of<'a> {
    Source(&'a dyn Source),
    Descriptor(BorrowedFd<'a>, PollFlags),
}

/// Why it cannot be waited for.
#[derive(Debug)]
pub enum Refusal {
    Deadlock,
    Queue(QueueError),
}

/// What is behind [`Waitable`](super::Waitable).
pub trait Waits {
    /// Whether the calling thread can wait for it.
    #[doc(hidden)]
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }

    #[doc(hidden)]
    fn of(&self) -> Of<'_>;
}
