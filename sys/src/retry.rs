//! Repeats calls that a signal may interrupt; the errno of a call by libc.

use std::io;

use rustix::io::Errno;

/// How often a call is made while it is interrupted, or is said to be.
pub(crate) const ATTEMPTS: u32 = 100;

/// Makes a call that does not sleep, and repeats it while it is interrupted (EINTR). A signal
/// interrupts it once in a while. A sandbox may say EINTR without end, and then that is the result.
pub fn retry<R>(mut call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    for _ in 1..ATTEMPTS {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
    call()
}

/// Returns the errno of the last call by libc that failed in this thread.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
