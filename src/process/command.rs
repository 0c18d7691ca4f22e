//! [`CommandExt`]: handles that are shared with another program, by name.

#![allow(unsafe_code)]

use core::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crossproc_sys::descriptor::duplicate;
use crossproc_sys::lifeline::Lifeline;
use rustix::fs::fstat;
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::start::{self, Share};
use super::{Child, LINE};
use crate::memory::{Handle, HandleError};
use crossproc_sys::failed::failed;

/// The beginning of an environment variable's name, before the handle's name. The program that is
/// started finds the handle by it.
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
    /// Lets the program inherit a handle, which it gets by calling [`inherited`] with this name.
    /// The handle may be dropped: the command keeps a descriptor.
    ///
    /// The name is in an environment variable of the command, so **`env_clear` comes before this**.
    /// If it comes after, [`start`](CommandExt::start) and [`replace`](CommandExt::replace) are
    /// errors ([`io::ErrorKind::InvalidInput`]). A program that is started in another way does not
    /// find the handle.
    ///
    /// ```standalone_crate
    /// use crossproc::process::{self, CommandExt};
    /// use crossproc::{Event, Shm};
    /// use std::process::Command;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     if std::env::args().len() > 1 {
    ///         // In the program that is started below, which is this one.
    ///         process::inherited::<Shm<Event>>("ready")?.set();
    ///         return Ok(());
    ///     }
    ///     let ready = Shm::new(Event::new())?;
    ///     let mut worker = Command::new(std::env::current_exe()?);
    ///     let child = worker.arg("worker").share("ready", &ready)?.start()?;
    ///     ready.wait();
    ///     assert!(child.join()?.success());
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the name is empty or has anything but ASCII letters,
    /// digits and `_`; no free descriptor, no memory.
    fn share<H: Handle>(&mut self, name: &str, handle: &H) -> io::Result<&mut Command>;

    /// Has the program killed (SIGKILL) when this process ends, however it ends. See the
    /// [module](super). This lasts through a later `exec`. It is for commands that are started:
    /// `exec` by this process ties nothing.
    ///
    /// ```
    /// use crossproc::process::CommandExt;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// // It does not outlive this process.
    /// let child = Command::new("sleep").arg("60").daemon()?.start()?;
    /// assert!(child.is_alive()?);
    /// # child.kill()?;
    /// # child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No free descriptor, no memory, no `/proc`.
    fn daemon(&mut self) -> io::Result<&mut Command>;

    /// Starts the program, as [`Command::spawn`] does, and returns a [`Child`] that is known by a
    /// pidfd. Pipes of the command (`Stdio::piped`) are closed at once: use `spawn` for those.
    ///
    /// The child opens its pidfd itself, before it becomes the program. So the pidfd is the
    /// program's, whatever becomes of it, even if SIGCHLD is ignored.
    ///
    /// ```
    /// use crossproc::process::CommandExt;
    /// use std::io::ErrorKind;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Command::new("sh").args(["-c", "exit 7"]).start()?;
    /// assert_eq!(child.join()?.code(), Some(7));
    /// let error = Command::new("/no/such/program").start().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Command::spawn`], of the same kind, and with its error as the source. Also an error
    /// of the child's in opening or sending the pidfd. In these cases the program was not started.
    ///
    /// If other threads have meanwhile taken the last free descriptors, the pidfd cannot be
    /// received. Then the program was started, and the error says so, and with which pid.
    ///
    /// If the status of the forked child is lost, a program that cannot be executed is a different
    /// error, without a reason. It is lost if SIGCHLD is ignored, or a wait for any child took it.
    /// std panics there, which prints a message; this function catches the panic. In a program
    /// whose panics abort, it aborts.
    fn start(&mut self) -> io::Result<Child>;

    /// Replaces this process by the program, as std's `exec` does, with what was
    /// [shared](CommandExt::share). Returns only if that fails, and then what was shared is closed
    /// to other programs again. As std says of the rest, the process may be left changed: its
    /// standard streams, its working directory, its signals.
    ///
    /// std's `exec` itself is an error for a command that shares something: nothing would close
    /// that again.
    ///
    /// # Errors
    /// As for std's `exec`.
    ///
    /// # Examples
    /// ```
    /// use crossproc::process::CommandExt;
    /// use crossproc::{Event, Shm};
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let ready = Shm::new(Event::new())?;
    /// let error = Command::new("/no/such/program").share("ready", &ready)?.replace();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    fn replace(&mut self) -> io::Error;
}

impl CommandExt for Command {
    fn share<H: Handle>(&mut self, name: &str, handle: &H) -> io::Result<&mut Command> {
        check_name(name)?;
        let fd = handle
            .as_fd()
            .try_clone_to_owned()
            .map_err(failed("duplicating the descriptor to share"))?;
        let (variable, value) = (
            format!("{PREFIX}{name}"),
            Passed::of(&fd, H::kind())
                .map_err(failed("finding out which file is shared (fstat)"))?
                .to_string(),
        );
        start::mark_this_process()
            .map_err(failed("marking this process, for the program to be told from it (mmap)"))?;
        self.env(&variable, value);
        let share = Share::new(fd, variable);
        // SAFETY: in a child the closure only makes system calls, and reads what is behind `DOING`.
        // It allocates nothing.
        Ok(unsafe { self.pre_exec(move || share.inherit()) })
    }

    fn daemon(&mut self) -> io::Result<&mut Command> {
        let line = Lifeline::of_this_process().map_err(failed(LINE))?;
        // SAFETY: the closure is async-signal-safe.
        Ok(unsafe { self.pre_exec(move || line.tie()) })
    }

    fn start(&mut self) -> io::Result<Child> {
        start::start(self)
    }

    fn replace(&mut self) -> io::Error {
        start::replace(self)
    }
}

/// Takes a handle that the program which started this one [shared](CommandExt::share) under `name`.
/// It can be called more than once for a name.
///
/// ```standalone_crate
/// use crossproc::process::{self, CommandExt, InheritError};
/// use crossproc::{Lock, Shm};
/// use std::process::Command;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let inherited = process::inherited::<Shm<Lock<u64>>>("total");
///     if std::env::args().len() > 1 {
///         // In the program that is started below, which is this one.
///         *inherited?.lock()? += 1;
///         return Ok(());
///     }
///     assert!(matches!(inherited, Err(InheritError::NotShared { .. })));
///     let total = Shm::new(Lock::new(5_u64))?;
///     let mut worker = Command::new(std::env::current_exe()?);
///     let child = worker.arg("worker").share("total", &total)?.start()?;
///     assert!(child.join()?.success());
///     assert_eq!(*total.lock()?, 6);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// [`InheritError`]: there is no handle of that name, it was not meant for this process, or it is
/// not a handle of this kind.
pub fn inherited<H: Handle>(name: &str) -> Result<H, InheritError> {
    let not_shared = || InheritError::NotShared { name: name.to_owned() };
    let value = std::env::var(format!("{PREFIX}{name}")).map_err(|_| not_shared())?;
    let passed = Passed::parse(&value).ok_or_else(not_shared)?;
    let os = |source| InheritError::Os { name: name.to_owned(), source };
    let fd = passed
        .duplicate()
        .map_err(os)?
        .ok_or_else(|| InheritError::NotOpen { name: name.to_owned() })?;
    let handle = H::check(&passed.kind).and_then(|()| H::from_fd(fd));
    handle.map_err(|source| InheritError::Attach {
        name: name.to_owned(),
        kind: passed.kind,
        expected: H::kind(),
        source,
    })
}

/// Why a handle was not inherited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// The program that started this one shared nothing under this name.
    #[error(
        "no handle was shared as {name:?}: the starting program must call CommandExt::share with \
         that name, after env_clear if it calls that"
    )]
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
    /// The handle exists, but the system refused another descriptor of it.
    #[error(
        "the handle {name:?} could not be duplicated: close descriptors, or raise RLIMIT_NOFILE, \
         if it is for want of them"
    )]
    Os {
        /// The name that was asked for.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// What was shared cannot be attached as the kind that was asked for.
    #[error(
        "the handle {name:?} was shared as a {kind}, and is not the {expected} that was asked for"
    )]
    Attach {
        /// The name that was asked for.
        name: String,
        /// The kind of handle, in the words of the program that shared it.
        kind: String,
        /// The kind that was asked for.
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
            InheritError::NotShared { .. } | InheritError::NotOpen { .. } => {
                io::ErrorKind::NotFound
            }
        };
        io::Error::new(kind, error)
    }
}

/// What the variable says: a descriptor's number, which file is behind it, and the kind of handle.
/// By the file, a process that inherited the variable without the descriptor finds that out.
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
        Ok(Passed {
            number: fd.as_raw_fd(),
            device: file.st_dev,
            inode: file.st_ino,
            kind: kind.to_owned(),
        })
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

    /// Returns a descriptor of the caller's own, if the number is open with that file behind it.
    /// From then on, the number is closed on exec.
    fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: not -1. Whatever the number stands for is only duplicated. It is left as it was,
        // unless it is the file that was passed. Nothing in this program closes the number of a
        // descriptor that the program was started with.
        let inherited = unsafe { BorrowedFd::borrow_raw(self.number) };
        let own = match duplicate(inherited) {
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
