//! The part of `Waitable` that only this crate can use.

#![allow(unreachable_pub, reason = "the sealed trait's methods are for this crate alone")]

use std::os::fd::BorrowedFd;

use crossproc_sys::poll::PollFlags;

use crate::queue::QueueError;
use crate::wait::source::Source;

/// What there is to wait for: words or a descriptor.
#[allow(missing_debug_implementations, reason = "for this crate alone")]
pub enum Of<'a> {
    Source(&'a dyn Source),
    Descriptor(BorrowedFd<'a>, PollFlags),
}

/// Why the calling thread cannot wait for it.
#[derive(Debug)]
pub enum Refusal {
    Deadlock,
    Queue(QueueError),
}

/// The methods behind [`Waitable`](super::Waitable).
pub trait Waits {
    /// Checks whether the calling thread can wait for it.
    #[doc(hidden)]
    fn check(&self) -> Result<(), Refusal> {
        Ok(())
    }

    #[doc(hidden)]
    fn of(&self) -> Of<'_>;
}
