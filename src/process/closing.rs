//! The descriptors of its parent that a forked child does not keep.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crossproc_sys::descriptor::Dead;
use crossproc_sys::failed::because;
use rustix::io::Errno;

use crate::connection::{HeldEnds, begin};

/// The descriptors that the child replaces by dead ones. While this exists, none of them is closed
/// in the parent.
#[derive(Debug)]
pub(super) struct Closing<'a> {
    /// `None`: there is nothing to close.
    dead: Option<Dead>,
    asked_for: &'a [BorrowedFd<'a>],
    private: HeldEnds,
    /// The child's own descriptor among them: its end of a connection to its parent.
    kept: Option<RawFd>,
}

impl<'a> Closing<'a> {
    pub(super) fn new(asked_for: &'a [BorrowedFd<'a>], kept: Option<RawFd>) -> io::Result<Self> {
        let private = HeldEnds::hold()?;
        let mut closing = Closing { dead: None, asked_for, private, kept };
        if closing.numbers().next().is_some() {
            let failed = because(
                "opening /dev/null, which takes the place of what a forked child does not keep, \
                 failed",
            );
            closing.dead = Some(Dead::new().map_err(failed)?);
        }
        Ok(closing)
    }

    fn numbers(&self) -> impl Iterator<Item = RawFd> {
        let asked_for = self.asked_for.iter().map(AsRawFd::as_raw_fd);
        let private = self.private.numbers().iter().copied();
        asked_for.chain(private.filter(|&number| Some(number) != self.kept))
    }

    /// The child's part. Async-signal-safe, unless the child is given a connection.
    pub(super) fn close(&mut self) -> Result<(), Errno> {
        if let Some(dead) = self.dead.take() {
            for number in self.numbers() {
                // SAFETY: the number is open: the borrow, or the lock of the list, kept the parent
                // from closing it before the fork. Its owner has asked for this, or is a
                // `Connection`, which takes any error of its socket. This gives nothing access to
                // another file's bytes, mapping or folder: all of that is EBADF.
                unsafe { dead.replace(number) }?;
            }
        }
        if self.kept.is_some() {
            begin().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        }
        Ok(())
    }
}
