//! `fork(2)`, what runs in its child, and `_exit(2)`.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::*};
use std::io;

use rustix::process::Pid;

use crate::pages;

/// Calls libc's `fork(3)`, which runs its handlers. Returns `None` in the child.
///
/// # Safety
/// In a process with other threads, the child may call only async-signal-safe functions until it
/// calls `exec` or `_exit`. Any lock may be held by a thread that does not exist in the child.
///
/// # Errors
/// EAGAIN, ENOMEM: a limit, or no memory. The caller reports them.
pub unsafe fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller keeps to the contract above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Registers functions with `pthread_atfork(3)`, which run on [`fork`] and on every other use of
/// libc's fork. One, if given, runs before the fork, in the thread that forks; the other runs in
/// the child, before anything else. For good.
///
/// # Safety
/// Both functions are async-signal-safe.
///
/// # Errors
/// ENOMEM. The caller reports it.
pub unsafe fn at_fork(
    before: Option<unsafe extern "C" fn()>,
    in_child: unsafe extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: functions that a child may call, as the caller says.
    match unsafe { libc::pthread_atfork(before, None, Some(in_child)) } {
        0 => Ok(()),
        failed => Err(io::Error::from_raw_os_error(failed)),
    }
}

/// Returns a word that is 1 in this process, and 0 in every child that is forked from it, however
/// that is done (`MADV_WIPEONFORK`). By it, code tells what was copied by a fork, where a pid may
/// be used again. The word is never unmapped: make one for a process and a purpose, not one for
/// each of many things.
///
/// # Errors
/// ENOMEM; EINVAL before Linux 4.14. The caller reports them.
pub fn mark_of_this_process() -> io::Result<&'static AtomicU32> {
    let start = pages::map_wiped_on_fork(size_of::<AtomicU32>())?;
    // SAFETY: zeroed pages, mapped by the line above, never unmapped and aligned to a page; zero is
    // a value of the type.
    let mark = unsafe { start.cast::<AtomicU32>().as_ref() };
    // Relaxed: code that gives the word to other threads orders it.
    mark.store(1, Relaxed);
    Ok(mark)
}

/// `_exit(2)`: ends the process without running destructors or handlers, as a forked child must.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// Returns whether the kernel reaps this process's children by itself and keeps no exit status:
/// SIGCHLD is ignored, or has SA_NOCLDWAIT.
#[must_use]
pub fn ignores_children() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: sets nothing, and writes a whole action.
    if unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written by the line above.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
}
