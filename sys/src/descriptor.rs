//! Where descriptors lie, and what takes the place of one that is closed: `fcntl(F_DUPFD_CLOEXEC)`,
//! `dup3(2)`.
//!
//! A process may be started with 0, 1 or 2 closed, or close them later. The kernel gives the lowest
//! free number to whatever is opened next. A program that is started then has its standard streams
//! put over that, and a library that prints writes into it. So every descriptor that is kept is
//! moved to 3 or above.
//!
//! References: <https://man7.org/linux/man-pages/man2/F_DUPFD_CLOEXEC.2const.html>,
//! <https://man7.org/linux/man-pages/man2/dup.2.html>

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::retry::ATTEMPTS;

/// The first number that is not a standard stream's.
const FIRST: RawFd = 3;

/// A duplicate of a descriptor (close-on-exec) with a number that is not a standard stream's.
/// Async-signal-safe.
///
/// # Errors
/// EMFILE: no such number is free; EBADF. The caller reports them.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    fcntl_dupfd_cloexec(fd, FIRST)
}

/// The descriptor, or a [`duplicate`] of it if its number is a standard stream's, and then
/// the first one is closed. Async-signal-safe.
///
/// # Errors
/// EMFILE: no other number is free. The caller reports it; the descriptor is closed.
pub fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { duplicate(&fd) }
}

/// [`above_standard`] of both ends of something.
///
/// # Errors
/// As [`above_standard`]; both are closed.
pub fn both_above_standard((one, other): (OwnedFd, OwnedFd)) -> Result<(OwnedFd, OwnedFd), Errno> {
    Ok((above_standard(one)?, above_standard(other)?))
}

/// A descriptor (`O_PATH`) on which every operation is EBADF but closing it and asking for its
/// flags. It leads to no folder either.
#[derive(Debug)]
pub struct Dead(OwnedFd);

impl Dead {
    /// Opens it.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; ENOENT: there is no `/dev/null`. The caller reports them.
    pub fn new() -> Result<Self, Errno> {
        let found = openat(
            CWD,
            c"/dev/null",
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        above_standard(found).map(Dead)
    }

    /// Puts a duplicate in the place of a descriptor, which is closed thereby: whoever has the
    /// number goes on having it, and gets EBADF. Async-signal-safe.
    ///
    /// # Safety
    /// Who owns the number expects no more of it than of a descriptor that may be anything.
    ///
    /// # Errors
    /// EBADF: the number is above the limit (`RLIMIT_NOFILE`), which was lowered since. The caller
    /// reports it.
    pub unsafe fn replace(&self, number: RawFd) -> Result<(), Errno> {
        let mut result = Ok(());
        // EBUSY: the number is just being opened by another thread, of which there is none here. A
        // sandbox may say so all the same, without end.
        for _ in 0..ATTEMPTS {
            // SAFETY: takes integers; the caller answers for the number.
            if unsafe { libc::dup3(self.0.as_raw_fd(), number, libc::O_CLOEXEC) } != -1 {
                return Ok(());
            }
            result =
                Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
            if !matches!(result, Err(Errno::INTR | Errno::BUSY)) {
                break;
            }
        }
        result
    }
}
