//! [`Child`]: a process that this one started.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crossproc_sys::clock;
use crossproc_sys::futex::Awake;
use crossproc_sys::pidfd::{self, Record};
use crossproc_sys::poll::{PollFd, PollFlags, Polled, poll, sleep_until};
use crossproc_sys::process;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::report::Reports;
use crate::connection::{Connection, ConnectionError};
use crate::wait::{Ended, Wait, Waiter};
use crossproc_sys::failed::failed;

/// Nanoseconds between two looks at a child that has ended and cannot be reaped yet.
const AGAIN: u64 = 1_000_000;
/// How many looks at a child that another is about to have reaped are enough.
const MANY: u32 = 1_000;

/// A process that this one started, by [`fork`](super::fork),
/// [`CommandExt::start`](super::CommandExt::start) or a [`Nursery`](super::Nursery).
///
/// It is known by a pidfd, so no operation can hit another process that was given the same pid.
/// Several threads may use it at once, but only in the process that started it: elsewhere a join is
/// [`StatusLost`]. Dropping it leaves the process alone. Unless it is joined,
/// the process stays a zombie after its end, until this process ends, too.
///
/// The descriptor ([`AsFd`]) becomes readable when the process ends, for use with `poll`.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// The exit status, once the process has been reaped.
    status: Mutex<Option<ExitStatus>>,
    /// If it is the child of a nursery's helper: where that reports its end.
    reports: Option<Reports>,
}

impl Child {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Child { pid, pidfd, status: Mutex::new(None), reports: None }
    }

    pub(super) fn of_nursery(pid: Pid, pidfd: OwnedFd, reports: Connection) -> Self {
        Child { reports: Some(Reports::of(reports)), ..Child::new(pid, pidfd) }
    }

    /// Returns the pid. Once the child is joined, another process may be given it.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, to_child) =
    ///     process::fork_connected(|parent| parent.send(&std::process::id().to_ne_bytes()))?;
    /// assert_eq!(to_child.recv()?, child.id().to_ne_bytes());
    /// # child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until the process has ended, as long as it takes. Returns its exit code, or the signal
    /// that killed it. Later calls return the same.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = process::fork(|| 7)?;
    /// assert_eq!(child.join()?.code(), Some(7));
    /// let child = process::fork(|| -> ! { std::process::abort() })?;
    /// assert_eq!(child.join()?.signal(), Some(6)); // SIGABRT
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StatusLost`], in the [`io::Error`]: the process has ended, and its status went elsewhere.
    pub fn join(&self) -> io::Result<ExitStatus> {
        self.join_with(Wait::FOREVER)
    }

    /// Waits until the process has ended, for `timeout` at most. Zero looks once; [`Duration::MAX`]
    /// waits for ever.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`join`](Child::join).
    pub fn join_timeout(&self, timeout: Duration) -> io::Result<ExitStatus> {
        self.join_with(Wait::timeout(timeout))
    }

    /// Waits until the process has ended, until `deadline` at most. A deadline in the past looks
    /// once.
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
        let mut in_vain = 0;
        loop {
            let has_ended = self.sleep(&mut waiter)?;
            match self.look()? {
                Look::Ended(status) => return Ok(status),
                Look::IsReaped if in_vain >= MANY => {
                    let taker = self.reports.as_ref().map_or(Taker::Wait, |_| Taker::Nursery);
                    return Err(self.lost(taker));
                }
                Look::IsReaped => in_vain += 1,
                Look::Runs => {}
            }
            match waiter.check() {
                Ok(()) => {}
                Err(Ended::TimedOut) => {
                    let message = format!("process {} had not ended at the deadline", self.pid);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Err(Ended::Interrupted) => {
                    let message =
                        format!("a signal handler ran while waiting for process {}", self.pid);
                    return Err(io::Error::new(io::ErrorKind::Interrupted, message));
                }
            }
            if has_ended {
                // The child has ended, and cannot be reaped before a debugger lets go of it.
                // Nothing reports that: look again in a while.
                waiter.sleep(|until| {
                    let again = clock::now().saturating_add(AGAIN);
                    match sleep_until(until.map_or(again, |until| until.min(again))) {
                        Err(Errno::INTR) => Awake::Interrupted,
                        _ => Awake::Woken,
                    }
                });
            }
        }
    }

    /// Returns the exit status if the process has ended, or `None` while it runs. That of a
    /// [`Nursery`](super::Nursery)'s child comes from the helper, for which this waits up to 100 ms
    /// after the child's end. It is still `None` then if the helper is stopped.
    ///
    /// # Errors
    /// As [`join`](Child::join).
    pub fn try_join(&self) -> io::Result<Option<ExitStatus>> {
        let mut look = self.look()?;
        if let (Look::Runs, Some(reports)) = (&look, &self.reports) {
            if !self.is_alive()? {
                reports.wait();
                look = self.look()?;
            }
        }
        Ok(match look {
            Look::Ended(status) => Some(status),
            Look::Runs | Look::IsReaped => None,
        })
    }

    fn look(&self) -> io::Result<Look> {
        // Held while reaping, so that no thread finds the child reaped and its status not stored
        // yet. Nothing in between panics or blocks.
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = *known {
            return Ok(Look::Ended(status));
        }
        let look = match &self.reports {
            None => self.reap()?,
            Some(reports) => self.hear(reports)?,
        };
        if let Look::Ended(status) = look {
            *known = Some(status);
        }
        Ok(look)
    }

    /// Reaps a child of this process.
    fn reap(&self) -> io::Result<Look> {
        match pidfd::reap(&self.pidfd) {
            Ok(None) => Ok(Look::Runs),
            Ok(Some(status)) => Ok(Look::Ended(status)),
            Err(error) if error.raw_os_error() != Some(Errno::CHILD.raw_os_error()) => {
                Err(failed("waitid")(error))
            }
            Err(_) => match pidfd::record(&self.pidfd) {
                Record::Ended(status) => Ok(Look::Ended(status)),
                Record::Child => Ok(Look::IsReaped),
                Record::OfAnother => Err(self.lost(Taker::Parent)),
                Record::Unknown if process::ignores_children() => Err(self.lost(Taker::Kernel)),
                Record::Unknown => Err(self.lost(Taker::Wait)),
            },
        }
    }

    /// Looks for the report of a nursery's helper.
    fn hear(&self, reports: &Reports) -> io::Result<Look> {
        match reports.look() {
            Ok(Some(status)) => return Ok(Look::Ended(status)),
            Ok(None) => {}
            Err(ConnectionError::Closed) => return Err(self.lost(Taker::Parent)),
            Err(error) => return Err(error.into()),
        }
        if !reports.are_over() || self.is_alive()? {
            return Ok(Look::Runs);
        }
        // This process is its parent by now if it is the first of its pid namespace, or has asked
        // for the orphans of its children. Otherwise one that is has reaped it, or is about to.
        match pidfd::reap(&self.pidfd) {
            Ok(Some(status)) => return Ok(Look::Ended(status)),
            Ok(None) => return Ok(Look::Runs),
            Err(_) => {}
        }
        match pidfd::record(&self.pidfd) {
            Record::Ended(status) => Ok(Look::Ended(status)),
            Record::Child | Record::OfAnother => Ok(Look::IsReaped),
            Record::Unknown => Err(self.lost(Taker::Nursery)),
        }
    }

    /// Returns the error of a process that is another one's child.
    #[cfg(feature = "serde")]
    pub(super) fn is_anothers(&self) -> io::Error {
        self.lost(Taker::Parent)
    }

    fn lost(&self, taker: Taker) -> io::Error {
        io::Error::other(StatusLost { id: self.id(), taker })
    }

    /// Returns whether the process has not ended. It may have ended by the time this returns. Once
    /// the result is false, it stays so.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // The child lives until this process closes the connection.
    /// let (child, to_child) = process::fork_connected(|parent| drop(parent.recv()))?;
    /// assert!(child.is_alive()?);
    /// drop(to_child);
    /// child.join()?;
    /// assert!(!child.is_alive()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No memory for `poll(2)`.
    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(!pidfd::wait(&self.pidfd, Some(0)).map_err(failed("poll"))?)
    }

    /// Asks the process to end (SIGTERM). If it has ended already, this does nothing.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, _to_child) = process::fork_connected(|parent| drop(parent.recv()))?;
    /// child.terminate()?;
    /// assert_eq!(child.join()?.signal(), Some(15)); // SIGTERM
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`]: the process changed its user.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends the process (SIGKILL). If it has ended already, this does nothing.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, _to_child) = process::fork_connected(|parent| drop(parent.recv()))?;
    /// child.kill()?;
    /// assert_eq!(child.join()?.signal(), Some(9)); // SIGKILL
    /// child.kill()?; // does nothing
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`]: the process changed its user.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Stops the process (SIGSTOP): it keeps what it holds and does nothing until
    /// [`resume`](Child::resume).
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, to_child) = process::fork_connected(|parent| parent.send(&parent.recv()?))?;
    /// child.stop()?;
    /// to_child.send(b"hello")?;
    /// assert!(!to_child.poll_timeout(Duration::from_millis(20))?, "a stopped child does nothing");
    /// assert!(child.is_alive()?);
    /// # child.kill()?;
    /// # child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`]: the process changed its user.
    pub fn stop(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a stopped process go on (SIGCONT).
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, to_child) = process::fork_connected(|parent| parent.send(&parent.recv()?))?;
    /// child.stop()?;
    /// to_child.send(b"hello")?;
    /// child.resume()?;
    /// assert_eq!(to_child.recv()?, b"hello");
    /// # child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`]: the process changed its user.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        pidfd::signal(&self.pidfd, signal).map_err(failed("pidfd_send_signal"))
    }

    /// Sleeps until the process has ended, for a slice at most. Returns whether it has ended.
    fn sleep(&self, waiter: &mut Waiter) -> io::Result<bool> {
        // A report comes just after the end of the process that it is about, or never.
        let ended = match &self.reports {
            Some(reports) if !reports.are_over() => reports.as_fd(),
            _ => self.pidfd.as_fd(),
        };
        let mut ended = [PollFd::new(&ended, PollFlags::IN)];
        let mut polled = Ok(Polled::TimedOut);
        waiter.sleep(|until| {
            polled = poll(&mut ended, until);
            match polled {
                Ok(Polled::TimedOut) => Awake::TimedOut,
                Ok(Polled::Interrupted) => Awake::Interrupted,
                _ => Awake::Woken,
            }
        });
        Ok(polled.map_err(failed("poll"))? == Polled::Ready)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The result of a look at a process.
enum Look {
    Runs,
    Ended(ExitStatus),
    /// It has ended, and another is about to have reaped it: the kernel, or a wait for any child.
    IsReaped,
}

/// The error of a process that has ended and whose exit status cannot be known: it was not kept for
/// this process. It is found in the [`io::Error`] of [`Child::join`] and its kin, by
/// [`io::Error::get_ref`] and a downcast.
///
/// The status went to a wait for any child, or the kernel kept none since SIGCHLD is ignored, or
/// the helper of its nursery died before it, or another process is the parent. The text says which.
/// From Linux 6.15 on, the kernel keeps the status for every holder of a pidfd, and a [`Child`] is
/// one. Only the last case happens there, unless a sandbox refuses the call (`PIDFD_GET_INFO`), or
/// nobody reaps the orphan of a helper within a second.
#[derive(Debug, thiserror::Error)]
#[error("process {id} has ended, or is another's, and its exit status is lost: {taker}")]
pub struct StatusLost {
    id: u32,
    taker: Taker,
}

impl StatusLost {
    /// Returns the pid that the process had. Another process may have it meanwhile.
    ///
    /// ```standalone_crate
    /// use crossproc::process::{self, StatusLost};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = process::fork(|| ())?;
    /// let id = child.id();
    /// // The sibling has the handle, and is not the parent: it cannot join.
    /// let sibling = process::fork(move || {
    ///     let error = child.join().unwrap_err();
    ///     let lost: &StatusLost = error.get_ref().unwrap().downcast_ref().unwrap();
    ///     assert_eq!(lost.id(), id);
    /// })?;
    /// assert!(sibling.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns whether an error is this one: nobody will ever tell this process how a child ended.
    pub(super) fn is_in(error: &io::Error) -> bool {
        let lost: Option<&Self> = error.get_ref().and_then(|error| error.downcast_ref());
        lost.is_some()
    }
}

/// Where the status went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Taker {
    #[error(
        "this process ignores SIGCHLD (SIG_IGN or SA_NOCLDWAIT), so the kernel kept none. \
         Give the signal its default before the first child, or run Linux 6.15 or later"
    )]
    Kernel,
    #[error(
        "something else in this process took it by a wait for any child. \
         Have it wait for its own children only, or run Linux 6.15 or later"
    )]
    Wait,
    #[error(
        "the helper of its nursery reported nothing, since it had died, or SIGCHLD is ignored. Run \
         Linux 6.15 or later"
    )]
    Nursery,
    #[error("this process did not start it: only the one that did can join it")]
    Parent,
}
