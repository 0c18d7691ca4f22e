//! Keeps descriptors clear of the standard streams, and puts a dead one in the place of one that is
//! closed: `fcntl(F_DUPFD_CLOEXEC)`, `dup3(2)`.
//!
//! A process may be started with 0, 1 or 2 closed, or close them later. The kernel gives the lowest
//! free number to whatever is opened next. If a program is started then, its standard streams are
//! put over that descriptor. A library that prints writes into it. So every descriptor that is kept
//! is moved to 3 or above.
//!
//! References: <https://man7.org/linux/man-pages/man2/F_DUPFD_CLOEXEC.2const.html>,
//! <https://man7.org/linux/man-pages/man2/dup.2.html>

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::{DupFlags, Errno, dup3, fcntl_dupfd_cloexec};

use crate::retry::ATTEMPTS;

/// The first number that is not a standard stream's.
const FIRST: RawFd = 3;

/// Returns a duplicate of a descriptor (close-on-exec) with a number that is not a standard
/// stream's. Async-signal-safe.
///
/// # Errors
/// EMFILE: no such number is free; EBADF. The caller reports them.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    fcntl_dupfd_cloexec(fd, FIRST)
}

/// Returns the descriptor, or a [`duplicate`] of it if its number is a standard stream's. In that
/// case the first one is closed. Async-signal-safe.
///
/// # Errors
/// EMFILE: no other number is free. The caller reports it; the descriptor is closed.
pub fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { duplicate(&fd) }
}

/// Does what [`above_standard`] does for both ends of something.
///
/// # Errors
/// As for [`above_standard`]; both are closed.
pub fn both_above_standard((one, other): (OwnedFd, OwnedFd)) -> Result<(OwnedFd, OwnedFd), Errno> {
    Ok((above_standard(one)?, above_standard(other)?))
}

/// Returns whether a number, which may be -1 or closed, leads to the file that [`inode_of`] has
/// told. Async-signal-safe.
pub(crate) fn leads_to(number: RawFd, inode: u64) -> bool {
    if number == -1 {
        return false;
    }
    // SAFETY: borrowed for one system call, which returns an errno if it is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    inode_of(descriptor).is_ok_and(|found| found == inode)
}

/// Returns what stands for a file: its inode, and the device in the upper bits, where inodes of
/// pipes and sockets have none.
///
/// # Errors
/// A sandbox's errno.
#[allow(clippy::unnecessary_cast, reason = "its size depends on the processor")]
pub(crate) fn inode_of(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    let found = fstat(descriptor)?;
    Ok(found.st_ino as u64 ^ (found.st_dev as u64).rotate_right(16))
}

/// A descriptor (`O_PATH`) on which every operation is EBADF, except closing it and asking for its
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

    /// Puts a duplicate in the place of a descriptor, which closes that one. Code that has the
    /// number still has it, and gets EBADF. Async-signal-safe.
    ///
    /// # Safety
    /// The number is open, and its owner expects no more of it than of a descriptor that may be
    /// anything.
    ///
    /// # Errors
    /// EBADF: the number is above the limit (`RLIMIT_NOFILE`), which was lowered since. The caller
    /// reports it.
    pub unsafe fn replace(&self, number: RawFd) -> Result<(), Errno> {
        // SAFETY: the number is open, and given back, not closed.
        let mut there = unsafe { OwnedFd::from_raw_fd(number) };
        let mut result = Ok(());
        // EBUSY: another thread is just opening the number. There is no other thread here, but a
        // sandbox may say so all the same, without end. musl's function would try again for ever:
        // this is the system call.
        for _ in 0..ATTEMPTS {
            result = dup3(&self.0, &mut there, DupFlags::CLOEXEC);
            if !matches!(result, Err(Errno::INTR | Errno::BUSY)) {
                break;
            }
        }
        let _ = there.into_raw_fd();
        result
    }
}
