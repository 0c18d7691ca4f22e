//! A descriptor that a tokio runtime watches.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use crossproc_sys::poll::{PollFd, PollFlags, look};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A duplicate of a descriptor. The runtime watches it from the first time on that it is not ready.
pub(crate) struct Descriptor {
    duplicate: Option<OwnedFd>,
    watched: Option<AsyncFd<OwnedFd>>,
    flags: PollFlags,
}

impl Descriptor {
    pub(crate) fn new(descriptor: BorrowedFd<'_>, flags: PollFlags) -> io::Result<Self> {
        Ok(Descriptor { duplicate: Some(descriptor.try_clone_to_owned()?), watched: None, flags })
    }

    /// Returns whether it is ready. If not, the runtime calls the waker when it may be.
    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if let Some(duplicate) = self.duplicate.take() {
            if is_ready(&duplicate, self.flags)? {
                self.duplicate = Some(duplicate);
                return Ok(true);
            }
            let interest = if self.flags.contains(PollFlags::OUT) {
                Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            // SAFETY: an `OwnedFd` is open until it is dropped, and always has the same number.
            // Nothing else can close it.
            let watched = unsafe { AsyncFd::register_with_interest(duplicate, interest) };
            self.watched = Some(watched.map_err(io::Error::from)?);
        }
        let Some(watched) = &self.watched else { return Ok(false) };
        // What the runtime knows may be out of date. It is cleared only if the descriptor is seen
        // not to be ready after the runtime was asked.
        while let Poll::Ready(guard) = self.poll_watched(watched, context) {
            let mut guard = guard?;
            if is_ready(watched.get_ref(), self.flags)? {
                return Ok(true);
            }
            guard.clear_ready();
        }
        // To the runtime an error alone is the end of writing, which it never forgets. So it is
        // asked once, and what it says is checked against the descriptor.
        let is_failed =
            self.flags.contains(PollFlags::IN) && watched.poll_write_ready(context).is_ready();
        Ok(is_failed && is_ready(watched.get_ref(), self.flags)?)
    }

    fn poll_watched<'w>(
        &self,
        watched: &'w AsyncFd<OwnedFd>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'w, OwnedFd>>> {
        if self.flags.contains(PollFlags::OUT) {
            watched.poll_write_ready(context)
        } else {
            watched.poll_read_ready(context)
        }
    }
}

fn is_ready(descriptor: &OwnedFd, flags: PollFlags) -> io::Result<bool> {
    let mut polled = [PollFd::new(descriptor, flags)];
    look(&mut polled)?;
    Ok(!polled[0].revents().is_empty())
}
