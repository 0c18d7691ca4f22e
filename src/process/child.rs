//! [`Child`]: a process that this one started.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crossproc_sys::futex::Awake;
use crossproc_sys::pidfd;
use crossproc_sys::poll::{PollFd, PollFlags, Polled, poll};
use rustix::process::{Pid, Signal};

use crate::wait::{Ended, Wait, Waiter};

/// Between two looks at a child that has ended and cannot be reaped.
const AGAIN: Duration = Duration::from_millis(1);

/// A process that this one started, by [`fork`](super::fork) or [`CommandExt::start`](super::CommandExt::start).
///
/// It is known by a pidfd, so that no operation can ever hit another process that was given the same pid. Several threads may use it at once. Dropping
/// it leaves the process alone; unless it is joined, it stays a zombie after its end until this process ends, too.
///
/// The descriptor ([`AsFd`]) becomes readable when the process ends, for use with `poll`.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// Once it has been reaped.
    status: Mutex<Option<ExitStatus>>,
}

impl Child {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Child { pid, pidfd, status: Mutex::new(None) }
    }

    /// The pid. Once the child is joined, another process may be given it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Waits until the process has ended, as long as it takes: its exit code, or the signal that killed it. The second time it is the same.
    ///
    /// # Errors
    /// `ECHILD`: someone else took the status: a wait for any child, SIGCHLD being ignored, or this is not the process that started the child.
    pub fn join(&self) -> io::Result<ExitStatus> {
        self.join_with(Wait::FOREVER)
    }

    /// Waits until the process has ended, for `timeout` at most. Zero looks once; [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`join`](Child::join).
    pub fn join_timeout(&self, timeout: Duration) -> io::Result<ExitStatus> {
        self.join_with(Wait::timeout(timeout))
    }

    /// Waits until the process has ended, until `deadline` at most. A past one looks once.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`join`](Child::join).
    pub fn join_deadline(&self, deadline: Instant) -> io::Result<ExitStatus> {
        self.join_with(Wait::deadline(deadline))
    }

    /// Waits until the process has ended, as `wait` says.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], and [`io::ErrorKind::Interrupted`] if `wait` is interruptible;
    /// otherwise as [`join`](Child::join).
    pub fn join_with(&self, wait: Wait) -> io::Result<ExitStatus> {
        let mut waiter = Waiter::new(wait);
        loop {
            let has_ended = self.sleep(&mut waiter)?;
            if let Some(status) = self.try_join()? {
                return Ok(status);
            }
            match waiter.check() {
                Ok(()) => {}
                Err(Ended::TimedOut) => {
                    let message = format!("process {} had not ended at the deadline", self.pid);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Err(Ended::Interrupted) => {
                    let message = format!("a signal handler ran while waiting for process {}", self.pid);
                    return Err(io::Error::new(io::ErrorKind::Interrupted, message));
                }
            }
            if has_ended {
                // Ended, and not to be reaped before a debugger lets go of it, of which nothing tells: look again in a while.
                thread::sleep(AGAIN);
            }
        }
    }

    /// The exit status if the process has ended, `None` while it runs.
    ///
    /// # Errors
    /// As [`join`](Child::join).
    pub fn try_join(&self) -> io::Result<Option<ExitStatus>> {
        // Held while reaping, so that nobody finds the child reaped and its status not yet here. Nothing in between panics or blocks.
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.is_none() {
            *status = pidfd::reap(&self.pidfd)?;
        }
        Ok(*status)
    }

    /// Whether the process has not ended. It may have by the time this returns; once false it stays so.
    ///
    /// # Errors
    /// No memory for `poll(2)`.
    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(!pidfd::wait(&self.pidfd, Some(0))?)
    }

    /// Asks the process to end (SIGTERM). To one that has ended this does nothing.
    ///
    /// # Errors
    /// `EPERM`: the process changed its user.
    pub fn terminate(&self) -> io::Result<()> {
        pidfd::signal(&self.pidfd, Signal::TERM)
    }

    /// Ends the process (SIGKILL). To one that has ended this does nothing.
    ///
    /// # Errors
    /// `EPERM`: the process changed its user.
    pub fn kill(&self) -> io::Result<()> {
        pidfd::signal(&self.pidfd, Signal::KILL)
    }

    /// Stops the process (SIGSTOP): it keeps what it holds and does nothing until [`resume`](Child::resume).
    ///
    /// # Errors
    /// `EPERM`: the process changed its user.
    pub fn stop(&self) -> io::Result<()> {
        pidfd::signal(&self.pidfd, Signal::STOP)
    }

    /// Lets a stopped process go on (SIGCONT).
    ///
    /// # Errors
    /// `EPERM`: the process changed its user.
    pub fn resume(&self) -> io::Result<()> {
        pidfd::signal(&self.pidfd, Signal::CONT)
    }

    /// Sleeps for a slice at most, until the process has ended. Whether it has.
    fn sleep(&self, waiter: &mut Waiter) -> io::Result<bool> {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let mut polled = Ok(Polled::TimedOut);
        waiter.sleep(|until| {
            polled = poll(&mut ended, until);
            match polled {
                Ok(Polled::TimedOut) => Awake::TimedOut,
                Ok(Polled::Interrupted) => Awake::Interrupted,
                _ => Awake::Woken,
            }
        });
        Ok(polled? == Polled::Ready)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
