//! Calls that a signal may interrupt.

use rustix::io::Errno;

/// How often a call is made that is interrupted, or is said to be.
pub(crate) const ATTEMPTS: u32 = 100;

/// Makes a call that does not sleep, and makes it again while it is interrupted (EINTR). A signal
/// does that once in a while; a sandbox may say so without end, and then that is the result.
pub fn retry<R>(mut call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    for _ in 1..ATTEMPTS {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
    call()
}
