//! Signals that the calling thread does not get for a while, by `pthread_sigmask(3)`, which leaves
//! out what libc itself needs.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;

use rustix::io::Errno;

/// Signals are blocked in the calling thread while this exists; what was blocked before is blocked
/// afterwards.
#[derive(Debug)]
pub struct Blocked(libc::sigset_t);

impl Blocked {
    /// Blocks all.
    ///
    /// # Errors
    /// A sandbox's.
    pub fn all() -> Result<Self, Errno> {
        let mut all = MaybeUninit::uninit();
        // SAFETY: writes a whole set.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: written by the line above.
        Blocked::these(&unsafe { all.assume_init() })
    }

    /// Blocks these as well.
    ///
    /// # Errors
    /// A sandbox's.
    pub fn these(signals: &libc::sigset_t) -> Result<Self, Errno> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: the set is there, and there is room for the one before; SIG_BLOCK is a valid
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

/// Does something with all signals blocked in the calling thread, so that a thread that is started
/// there never runs a handler of the program's. If a sandbox refuses that, it is done all the same.
pub fn with_all_blocked<R>(act: impl FnOnce() -> R) -> R {
    let _blocked = Blocked::all();
    act()
}
