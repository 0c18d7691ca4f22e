//! `ppoll(2)`: which of some descriptors are ready. And `eventfd(2)`: a descriptor that can be made
//! ready.
//!
//! References: <https://man7.org/linux/man-pages/man2/poll.2.html>,
//! <https://man7.org/linux/man-pages/man2/eventfd.2.html>

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd, poll as ppoll};
pub use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, write};
use rustix::thread::{ClockId, clock_nanosleep_absolute};

use crate::clock;
use crate::descriptor::above_standard;
use crate::retry::retry;

/// How a [`poll`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Some descriptors are ready: their flags tell which.
    Ready,
    /// The deadline has passed.
    TimedOut,
    /// A signal handler ran (EINTR), and none is ready.
    Interrupted,
}

/// Sleeps until one of the descriptors is ready, or until `deadline` ([`clock::now`]'s nanoseconds)
/// if there is one. A deadline in the past looks once.
///
/// # Errors
/// ENOMEM, and EINVAL for more descriptors than the process may have open: the caller reports them.
/// EINTR: a sandbox may answer every call with it, even those that do not sleep. Nothing would ever
/// be found ready then.
pub fn poll(descriptors: &mut [PollFd<'_>], deadline: Option<u64>) -> io::Result<Polled> {
    let left = deadline.map(|deadline| clock::timespec(deadline.saturating_sub(clock::now())));
    match ppoll(descriptors, left.as_ref()) {
        Ok(0) => Ok(Polled::TimedOut),
        Ok(_) => Ok(Polled::Ready),
        Err(Errno::INTR) => {
            look(descriptors)?;
            let is_ready = descriptors.iter().any(|descriptor| !descriptor.revents().is_empty());
            Ok(if is_ready { Polled::Ready } else { Polled::Interrupted })
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Finds out which of the descriptors are ready, without waiting. The kernel reports an
/// interruption only if none is. A sandbox may report one without having looked, so the call is
/// repeated.
///
/// # Errors
/// As for [`poll`].
pub fn look(descriptors: &mut [PollFd<'_>]) -> io::Result<()> {
    Ok(retry(|| ppoll(descriptors, Some(&clock::timespec(0))).map(|_| ()))?)
}

/// Sleeps until the descriptor is ready for `what`, or has failed, or the deadline has passed.
/// Returns `false` if the deadline has passed. Signals do not end the wait.
///
/// # Errors
/// As for [`poll`].
pub fn wait(descriptor: impl AsFd, what: PollFlags, deadline: Option<u64>) -> io::Result<bool> {
    let descriptor = descriptor.as_fd();
    let mut polled = [PollFd::new(&descriptor, what)];
    loop {
        match poll(&mut polled, deadline)? {
            Polled::Ready => return Ok(true),
            Polled::TimedOut => return Ok(false),
            Polled::Interrupted if deadline.is_some_and(|deadline| clock::now() >= deadline) => {
                return Ok(false);
            }
            Polled::Interrupted => {}
        }
    }
}

/// Sleeps until this time, in [`clock::now`]'s nanoseconds: by `clock_nanosleep(2)`, or by
/// `ppoll(2)` if that is refused. If both are refused, it yields the processor and returns at once.
///
/// # Errors
/// EINTR: a signal handler ran. Any other errno is the second call's.
pub fn sleep_until(until: u64) -> Result<(), Errno> {
    match clock_nanosleep_absolute(ClockId::Monotonic, &clock::timespec(until)) {
        Err(errno) if errno != Errno::INTR => {
            let slept = ppoll(&mut [], Some(&clock::timespec(until.saturating_sub(clock::now()))))
                .map(|_| ());
            if slept.is_err_and(|errno| errno != Errno::INTR) {
                std::thread::yield_now();
            }
            slept
        }
        slept => slept,
    }
}

/// An `eventfd(2)`: a descriptor that is readable from when it is rung until it is silenced.
/// Close-on-exec.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// Creates a bell that has not been rung.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENODEV, ENOMEM: the caller reports them.
    pub fn new() -> io::Result<Self> {
        Ok(Bell(above_standard(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)?))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        // EAGAIN: it was rung 2^64 - 2 times, which is enough.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable until it is rung again.
    pub fn silence(&self) {
        // EAGAIN: it was not rung.
        let _ = read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
