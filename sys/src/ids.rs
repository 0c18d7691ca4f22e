//! The ids of this process, its parent, this thread and their user. The kernel refuses these calls
//! to no process, but a sandbox may. Each then returns the errno, and its caller does without, or
//! says so.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::retry::last_errno;

/// The calls that take nothing and return a number.
#[derive(Clone, Copy)]
#[repr(i64)]
enum Call {
    ThisProcess = libc::SYS_getpid,
    ThisThread = libc::SYS_gettid,
    Parent = libc::SYS_getppid,
    User = libc::SYS_geteuid,
}

fn call(call: Call) -> Result<i32, Errno> {
    // SAFETY: it takes nothing.
    match unsafe { libc::syscall(call as libc::c_long) } {
        -1 => Err(last_errno()),
        id => Ok(id as i32),
    }
}

/// Returns this process's pid, in its pid namespace: `getpid(2)`. Async-signal-safe, like all of
/// these.
///
/// # Errors
/// A sandbox's errno.
pub fn this_process() -> Result<Pid, Errno> {
    call(Call::ThisProcess).and_then(|id| Pid::from_raw(id).ok_or(Errno::INVAL))
}

/// Returns this thread's TID, in its pid namespace: `gettid(2)`.
///
/// # Errors
/// A sandbox's errno.
pub fn this_thread() -> Result<Pid, Errno> {
    call(Call::ThisThread).and_then(|id| Pid::from_raw(id).ok_or(Errno::INVAL))
}

/// Returns the parent's pid, or `None` if the parent is in another pid namespace: `getppid(2)`.
///
/// # Errors
/// A sandbox's errno.
pub fn parent() -> Result<Option<Pid>, Errno> {
    call(Call::Parent).map(Pid::from_raw)
}

/// Returns the effective user: `geteuid(2)`.
///
/// # Errors
/// A sandbox's errno.
pub fn user() -> Result<u32, Errno> {
    call(Call::User).map(|id| id as u32)
}

/// Returns `RLIMIT_FSIZE`, the length in bytes of the longest file that this process may make:
/// `getrlimit(2)`. `None` if there is no limit, or none is told.
#[must_use]
pub fn longest_file() -> Option<u64> {
    let mut limit = MaybeUninit::uninit();
    // SAFETY: writes the limit where it is told.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, limit.as_mut_ptr()) };
    told(failed, limit)
}

/// Returns `RLIMIT_NOFILE`, the most descriptors that this process may have, in the same way.
#[must_use]
pub fn most_descriptors() -> Option<u64> {
    let mut limit = MaybeUninit::uninit();
    // SAFETY: writes the limit where it is told.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) };
    told(failed, limit)
}

/// Returns a limit, which the call has written unless it failed.
fn told(failed: i32, limit: MaybeUninit<libc::rlimit>) -> Option<u64> {
    if failed != 0 {
        return None;
    }
    // SAFETY: written, since it did not fail.
    let most = unsafe { limit.assume_init() }.rlim_cur;
    (most != libc::RLIM_INFINITY).then_some(most)
}
