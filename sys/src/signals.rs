//! Blocks signals in the calling thread for a while, by `pthread_sigmask(3)`, which leaves out what
//! libc itself needs.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;

use rustix::io::Errno;

use crate::retry::last_errno;

/// Signals are blocked in the calling thread while this exists. Dropping it restores what was
/// blocked before.
#[derive(Debug)]
pub struct Blocked(libc::sigset_t);

impl Blocked {
    /// Blocks all signals.
    ///
    /// # Errors
    /// A sandbox's errno.
    pub fn all() -> Result<Self, Errno> {
        let mut all = MaybeUninit::uninit();
        // SAFETY: writes a whole set.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: written by the line above.
        Blocked::these(&unsafe { all.assume_init() })
    }

    /// Blocks these signals as well.
    ///
    /// # Errors
    /// A sandbox's errno.
    pub fn these(signals: &libc::sigset_t) -> Result<Self, Errno> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: the set is there, and there is room for the one before. SIG_BLOCK is a valid
        // request.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, signals, before.as_mut_ptr()) } {
            // SAFETY: the call has not failed, and has written the set.
            0 => Ok(Blocked(unsafe { before.assume_init() })),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: a set that the kernel has written; SIG_SETMASK is a valid request, and no old set
        // is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// What a process does about a signal, other than calling a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// What the kernel does by default.
    Default,
    /// Nothing.
    Ignored,
}

/// Sets what this process does about a signal. Async-signal-safe.
///
/// # Errors
/// EINVAL: there is no such signal, or it cannot be ignored (SIGKILL, SIGSTOP). The caller reports
/// it.
pub fn dispose(signal: i32, disposition: Disposition) -> Result<(), Errno> {
    let action = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignored => libc::SIG_IGN,
    };
    // SAFETY: no handler is set.
    match unsafe { libc::signal(signal, action) } {
        libc::SIG_ERR => Err(last_errno()),
        _ => Ok(()),
    }
}

/// Calls `act` with all signals blocked in the calling thread. A thread that `act` starts never
/// runs a handler of the program's. If a sandbox refuses to block them, `act` is called all the
/// same.
pub fn with_all_blocked<R>(act: impl FnOnce() -> R) -> R {
    let _blocked = Blocked::all();
    act()
}
