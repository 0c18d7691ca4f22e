//! Record locks, `fcntl(F_GETLK)`: which process has a file locked.
//!
//! References: <https://man7.org/linux/man-pages/man2/F_GETLK.2const.html>

#![allow(unsafe_code)]

use core::mem;
use std::os::fd::{AsFd, AsRawFd};

/// Returns the process that keeps this one from locking the whole file for writing. `None` if there
/// is none, or it cannot be told: it has an open file description's lock, or is in another pid
/// namespace. Every errno is `None`, too.
pub fn holder(file: impl AsFd) -> Option<u32> {
    // SAFETY: only integers, for which zero is valid; zeros stand for the whole file.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    // SAFETY: reads and writes a struct of the kind that the command takes.
    let failed = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    let is_locked = failed == 0 && i32::from(lock.l_type) != libc::F_UNLCK;
    is_locked.then_some(lock.l_pid).and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0)
}
