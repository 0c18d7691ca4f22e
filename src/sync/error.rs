//! What the errors of several primitives have in common.

use std::io;

use crossproc_sys::robust;

/// The calling thread can hold nothing that would be released at its death. The text says why, and
/// what to do.
///
/// The kernel releases what is in a thread's *robust list*, which libc registers. There is none in
/// a thread that libc did not create, or that is about to end. And no list helps in a process that
/// was forked into another pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct RobustListError(robust::Error);

impl RobustListError {
    pub(crate) fn new(error: robust::Error) -> Self {
        RobustListError(error)
    }
}

/// The calling thread does not hold what it was to release, or to recover. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this thread does not hold the lock: only its owner can release or recover it")]
pub struct NotOwner;

impl From<NotOwner> for io::Error {
    fn from(error: NotOwner) -> Self {
        io::Error::new(io::ErrorKind::PermissionDenied, error)
    }
}
