//! What is written to the standard streams: without a lock, without SIGPIPE, or nowhere.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;
use std::io;
use std::os::fd::{IntoRawFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_getfd, fcntl_setfd};

use crate::clock;
use crate::descriptor::duplicate;
use crate::poll::{self, PollFlags};
use crate::retry::retry;
use crate::signals::{self, Blocked, Disposition};

/// Does what std does before `main`, in a process that gets no further. SIGPIPE is ignored: what is
/// written to a pipe that nobody reads is an error. Standard streams that are closed lead to
/// `/dev/null`: no file that is opened later is taken for one. What the system refuses stays as it
/// is.
pub fn prepare_as_std() {
    let _ = signals::dispose(libc::SIGPIPE, Disposition::Ignored);
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    // From the first on: each gets the lowest free number.
    while streams.iter().any(|&stream| fcntl_getfd(stream) == Err(Errno::BADF)) {
        let Ok(made) = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty()) else { return };
        // Never closed: it is a standard stream.
        if made.into_raw_fd() >= streams.len() as RawFd {
            return;
        }
    }
}

/// Writes a message to the standard error, without a lock and without allocating. It does no harm
/// if the message cannot be written: for a reader that reads nothing it waits a second, and a
/// reader that is gone raises no SIGPIPE. Returns `false` if the rest was not written.
#[must_use]
pub fn complain(parts: &[&str]) -> bool {
    without_sigpipe(|| {
        let stderr = rustix::stdio::stderr();
        parts.iter().all(|part| {
            let deadline = clock::now().saturating_add(1_000_000_000);
            // A sandbox that refuses the wait may allow the write.
            poll::wait(stderr, PollFlags::OUT, Some(deadline)).unwrap_or(true)
                && retry(|| rustix::io::write(stderr, part.as_bytes())).is_ok()
        })
    })
}

/// Runs something whose writes may fail for lack of a reader (EPIPE). The calling thread gets no
/// SIGPIPE for them, even if the program has given that signal its default action again.
pub fn without_sigpipe<R>(act: impl FnOnce() -> R) -> R {
    let mut pipe = MaybeUninit::uninit();
    // SAFETY: writes a whole set.
    unsafe { libc::sigemptyset(pipe.as_mut_ptr()) };
    // SAFETY: the set was written by the line above; SIGPIPE is a signal.
    unsafe { libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: as above.
    let pipe = unsafe { pipe.assume_init() };
    let was_pending = is_pending(libc::SIGPIPE);
    let _blocked = Blocked::these(&pipe);
    let result = act();
    if !was_pending && is_pending(libc::SIGPIPE) {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: takes a signal that is blocked, waits for nothing, and asks for no details.
        unsafe { libc::sigtimedwait(&raw const pipe, ptr::null_mut(), &raw const now) };
    }
    result
}

fn is_pending(signal: i32) -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: writes a whole set.
    if unsafe { libc::sigpending(pending.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written by the line above.
    unsafe { libc::sigismember(pending.as_ptr(), signal) == 1 }
}

/// Runs something while the number of the standard output stands for nothing: what is written there
/// goes nowhere and waits for no reader (EBADF). Afterwards the number stands for what it did
/// before. For a forked child with one thread: no other thread could open or write anything
/// meanwhile, and no handler runs.
///
/// # Errors
/// EMFILE, and any errno of a sandbox's: nothing was done. The last call, which gives the number
/// back, may fail, too: then the process is left without a standard output. The child reports them
/// and ends.
pub fn without_stdout(act: impl FnOnce()) -> io::Result<()> {
    let stdout = rustix::stdio::stdout();
    let flags = match fcntl_getfd(stdout) {
        Err(Errno::BADF) => {
            act();
            return Ok(());
        }
        flags => flags?,
    };
    let kept = duplicate(stdout)?;
    signals::with_all_blocked(|| {
        // SAFETY: no other code is there to use the number, which is opened again below.
        let closed = unsafe { libc::close(libc::STDOUT_FILENO) };
        let refused = (closed == -1).then(io::Error::last_os_error);
        // After some errors it is closed; after a sandbox's it is not.
        if fcntl_getfd(stdout) != Err(Errno::BADF) {
            return Err(refused.unwrap_or_else(|| Errno::BADF.into()));
        }
        act();
        rustix::stdio::dup2_stdout(&kept)?;
        if !flags.is_empty() {
            fcntl_setfd(stdout, flags)?;
        }
        Ok(())
    })
}
