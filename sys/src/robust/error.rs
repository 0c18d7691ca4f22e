//! [`Error`]: why a thread can have no robust list.

use rustix::io::Errno;

use super::word::FUTEX_OFFSET;
use crate::namespace;

/// Why this thread can have no robust list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// libc has registered no list for this thread: libc did not create it (a raw `clone`).
    NoList,
    /// libc's list has another layout than this program was compiled for.
    OtherLayout {
        /// The distance that libc registered.
        futex_offset: isize,
    },
    /// This process was forked into another pid namespace than its parent's, and can see the
    /// parent's locks.
    OtherPidNamespace,
    /// The thread is about to end: its last destructors are running.
    ThreadEnds,
    /// This process cannot find out its pid namespace.
    UnknownPidNamespace(namespace::Unknown),
    /// A system call failed, such as the one for the memory of the thread's record.
    Os(Errno),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::NoList => f.write_str(
                "libc has registered no robust list for this thread: start threads and processes \
                 through libc",
            ),
            Error::OtherLayout { futex_offset } => {
                write!(
                    f,
                    "libc's robust list has its futex words at {futex_offset}, this program was \
                     compiled for {FUTEX_OFFSET}"
                )
            }
            Error::OtherPidNamespace => {
                // A TID may name another thread in each namespace.
                f.write_str(
                    "forked into another pid namespace: exec before using locks, which name their \
                     owner by TID",
                )
            }
            Error::ThreadEnds => f.write_str(
                "the thread is about to end: what it took now, \
                 nobody would release",
            ),
            Error::UnknownPidNamespace(unknown) => core::fmt::Display::fmt(unknown, f),
            Error::Os(errno) => write!(f, "the thread's robust list could not be set up: {errno}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::UnknownPidNamespace(unknown) => unknown.source(),
            Error::Os(errno) => Some(errno),
            _ => None,
        }
    }
}

impl From<namespace::Unknown> for Error {
    fn from(unknown: namespace::Unknown) -> Self {
        Error::UnknownPidNamespace(unknown)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Os(errno)
    }
}
