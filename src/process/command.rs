//! [`CommandExt`]: handles for another program, by name.

#![allow(unsafe_code)]

use core::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crossproc_sys::pidfd;
use crossproc_sys::process::Lifeline;
use rustix::fs::fstat;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::Pid;

use super::Child;
use super::handle::{Handle, HandleError};

/// A handle is known to the program that is started by an environment variable of this name, with the handle's name after it.
const PREFIX: &str = "CROSSPROC_HANDLE_";

/// What [`std::process::Command`] lacks for programs that share memory.
///
/// # Examples
/// ```no_run
/// use crossproc::process::{self, CommandExt};
/// use crossproc::{Event, Shm};
/// use std::process::Command;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ready = Shm::new(Event::new())?;
/// let child = Command::new("worker").share("ready", &ready)?.daemon()?.start()?;
/// ready.wait();
///
/// // ... and in the program `worker`:
/// let ready: Shm<Event> = process::inherited("ready")?;
/// ready.set();
/// # Ok(())
/// # }
/// ```
pub trait CommandExt {
    /// Lets the program inherit a handle, which it gets by [`inherited`] with this name. The handle need not live on: the command keeps a descriptor.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the name is empty or has anything but ASCII letters, digits and `_`; no free descriptor.
    fn share<H: Handle>(&mut self, name: &str, handle: &H) -> io::Result<&mut Command>;

    /// Has the program killed (SIGKILL) when this process ends, however it ends. See the [module](super). It lasts through a later `exec`. For commands
    /// that are started: `exec` by this process ties nothing.
    ///
    /// # Errors
    /// No free descriptor, no memory.
    fn daemon(&mut self) -> io::Result<&mut Command>;

    /// Starts the program, as [`Command::spawn`] does, for a [`Child`] on a pidfd. What the command pipes (`Stdio::piped`) is closed at once: take `spawn`
    /// for that.
    ///
    /// # Errors
    /// As [`Command::spawn`]; no free descriptor for the pidfd, and then the program is killed, if
    /// that can be.
    fn start(&mut self) -> io::Result<Child>;
}

impl CommandExt for Command {
    fn share<H: Handle>(&mut self, name: &str, handle: &H) -> io::Result<&mut Command> {
        check_name(name)?;
        let fd = handle.as_fd().try_clone_to_owned()?;
        self.env(format!("{PREFIX}{name}"), Passed::of(&fd, H::kind())?.to_string());
        let inherit = move || Ok(fcntl_setfd(&fd, FdFlags::empty())?);
        // SAFETY: the closure makes one system call, between fork and exec, on a descriptor that it owns.
        Ok(unsafe { self.pre_exec(inherit) })
    }

    fn daemon(&mut self) -> io::Result<&mut Command> {
        let line = Lifeline::of_this_process()?;
        // SAFETY: `tie` is async-signal-safe.
        Ok(unsafe { self.pre_exec(move || line.tie()) })
    }

    fn start(&mut self) -> io::Result<Child> {
        let mut started = self.spawn()?;
        let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw);
        // `started` has not been waited for, so the pid is its own still.
        match pid.ok_or_else(|| io::ErrorKind::InvalidData.into()).and_then(|pid| Ok((pid, pidfd::open(pid)?))) {
            Ok((pid, pidfd)) => Ok(Child::new(pid, pidfd)),
            Err(error) => {
                // One that changed its user cannot be killed, and may go on for long.
                if started.kill().is_ok() {
                    let _ = started.wait();
                }
                Err(error)
            }
        }
    }
}

/// Takes a handle that the program which started this one [shared](CommandExt::share) under `name`. It can be asked for more than once.
///
/// # Errors
/// [`InheritError`]: there is none of that name, it was not meant for this process, or it is not a handle of this kind.
pub fn inherited<H: Handle>(name: &str) -> Result<H, InheritError> {
    let not_shared = || InheritError::NotShared { name: name.to_owned() };
    let value = std::env::var(format!("{PREFIX}{name}")).map_err(|_| not_shared())?;
    let passed = Passed::parse(&value).ok_or_else(not_shared)?;
    let os = |source| InheritError::Os { name: name.to_owned(), source };
    let fd = passed.duplicate().map_err(os)?.ok_or_else(|| InheritError::NotOpen { name: name.to_owned() })?;
    let handle = H::check(&passed.kind).and_then(|()| H::from_fd(fd));
    handle.map_err(|source| InheritError::Attach { name: name.to_owned(), kind: passed.kind, expected: H::kind(), source })
}

/// Why a handle was not inherited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// Whoever started this program shared nothing under this name.
    #[error("no handle was shared as {name:?}: the starting program must call CommandExt::share with that name")]
    NotShared {
        /// The name that was asked for.
        name: String,
    },
    /// The handle was shared with a program that then started this one, without sharing it again.
    #[error("the handle {name:?} was shared with another process than this one: share it again")]
    NotOpen {
        /// The name that was asked for.
        name: String,
    },
    /// It is there, but the system refused another descriptor of it.
    #[error("the handle {name:?} could not be duplicated: close descriptors, or raise RLIMIT_NOFILE, if it is for want of them")]
    Os {
        /// The name that was asked for.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// What was shared cannot be attached as what was asked for.
    #[error("the handle {name:?} was shared as a {kind}, and is not the {expected} that was asked for")]
    Attach {
        /// The name that was asked for.
        name: String,
        /// What it is, in the words of the program that shared it.
        kind: String,
        /// What was asked for.
        expected: &'static str,
        /// What is wrong with it.
        source: HandleError,
    },
}

impl From<InheritError> for io::Error {
    fn from(error: InheritError) -> Self {
        let kind = match &error {
            InheritError::Attach { .. } => io::ErrorKind::InvalidData,
            InheritError::Os { source, .. } => source.kind(),
            InheritError::NotShared { .. } | InheritError::NotOpen { .. } => io::ErrorKind::NotFound,
        };
        io::Error::new(kind, error)
    }
}

/// What the variable says: a descriptor's number, which file is behind it, by which a process that inherited the variable
/// and not the descriptor finds out, and what kind of handle it is.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    number: RawFd,
    device: u64,
    inode: u64,
    kind: String,
}

impl Passed {
    fn of(fd: &OwnedFd, kind: &str) -> io::Result<Self> {
        let file = fstat(fd)?;
        Ok(Passed { number: fd.as_raw_fd(), device: file.st_dev, inode: file.st_ino, kind: kind.to_owned() })
    }

    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(4, ':');
        Some(Passed {
            number: parts.next()?.parse().ok().filter(|&number| number >= 0)?,
            device: parts.next()?.parse().ok()?,
            inode: parts.next()?.parse().ok()?,
            kind: parts.next()?.to_owned(),
        })
    }

    /// A descriptor of the caller's own, if the number is open and that file is behind it. From then on, the number is closed on exec.
    fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: not -1. Whatever the number stands for, it is duplicated and, if it is not the file that was passed, left as it was; nothing of
        // this program closes the number of a descriptor that it was started with.
        let inherited = unsafe { BorrowedFd::borrow_raw(self.number) };
        let own = match fcntl_dupfd_cloexec(inherited, 3) {
            Err(Errno::BADF) => return Ok(None),
            own => own?,
        };
        let file = fstat(&own)?;
        if (file.st_dev, file.st_ino) != (self.device, self.inode) {
            return Ok(None);
        }
        fcntl_setfd(inherited, FdFlags::CLOEXEC)?;
        Ok(Some(own))
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.number, self.device, self.inode, self.kind)
    }
}

fn check_name(name: &str) -> io::Result<()> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    let message = format!("a handle is named by ASCII letters, digits and '_', not {name:?}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
