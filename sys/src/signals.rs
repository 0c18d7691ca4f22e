//! Blocks signals in the calling thread for a while, by `pthread_sigmask(3)`, which leaves out what
//! libc itself needs.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;

use rustix::io::Errno;

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

/// Ignores SIGPIPE, as std does before `main`: what is written to a pipe that nobody reads is an
/// error. If a sandbox refuses it, the signal stays as it is.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Calls `act` with all signals blocked in the calling thread. A thread that `act` starts never
/// runs a handler of the program's. If a sandbox refuses to block them, `act` is called all the
/// same.
pub fn with_all_blocked<R>(act: impl FnOnce() -> R) -> R {
    let _blocked = Blocked::all();
    act()
}
