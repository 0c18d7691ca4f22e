//! [`DirectoryError`].

use std::io;

use super::address::{Address, AddressError};
use super::protocol::flaw_of_name;
use crate::connection::ConnectionError;
use crate::memory::HandleError;

/// Why a directory could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another living server has the address.
    #[error(
        "{address} is served already{}: end that server first, or take another address",
        by(*.pid)
    )]
    AlreadyServed {
        /// The address.
        address: Address,
        /// The other server's process, if that can be found out.
        pid: Option<u32>,
    },
    /// The server is dead, and a process that it forked by a raw system call has its socket. Nobody
    /// can take an abstract name until that process ends, or calls `exec`.
    #[error(
        "{address} was served by process {pid}, which has ended, and a process that it has forked \
         has its socket still: end that process (ss -xlp names it), or take another address"
    )]
    Orphaned {
        /// The address.
        address: Address,
        /// The process that served.
        pid: u32,
    },
    /// Something other than a socket has the path. It was left alone.
    #[error("{address} is there already, and is no socket: remove it, or take another path")]
    NotASocket {
        /// The address.
        address: Address,
    },
    /// No socket can have this address.
    #[error(transparent)]
    InvalidAddress(#[from] AddressError),
    /// Another thread serves this directory already, or another process bound it.
    #[error("the directory {what}")]
    NotToBeServed {
        /// Which of the two.
        what: &'static str,
    },
    /// No living server is there.
    #[error("nobody serves {address}: start the server, or wait for it with connect_timeout")]
    NotServed {
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The server belongs to a user that is not trusted.
    #[error(
        "{address} is served by user {uid} (process {pid}), who is neither this one, nor root, \
         nor trusted: see ConnectOptions::trust"
    )]
    UntrustedServer {
        /// The address.
        address: Address,
        /// The server's user.
        uid: u32,
        /// The server's process, or 0 if that cannot be found out.
        pid: u32,
    },
    /// The server refuses this client: its user may not connect, or there are too many connections.
    #[error("the server refuses the connection: {why}")]
    Unwelcome {
        /// The reason, in the server's words.
        why: String,
    },
    /// By the deadline, the server did not answer, or what was waited for did not happen.
    #[error(
        "the directory did not answer until the deadline, or what was waited for did not happen"
    )]
    TimedOut,
    /// A signal handler ran during an interruptible wait.
    #[error("a signal handler ran while waiting for the directory")]
    Interrupted,
    /// The server is gone, or has ended this connection. What this client put is not served any
    /// more.
    #[error("the connection to the directory is lost: connect again, and put again what was put")]
    Disconnected,
    /// Nothing has this name.
    #[error("nothing is served as {name:?}: put it, or wait for it with wait_for")]
    NotFound {
        /// The name.
        name: String,
    },
    /// Nothing has changed yet.
    #[error("the directory is still at revision {revision}")]
    Unchanged {
        /// The directory's revision.
        revision: u64,
    },
    /// Something has this name.
    #[error(
        "something is served as {name:?} already: remove it first, take another name, or see \
         get_or_put"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another participant put it.
    #[error("{name:?} was put by another one, who alone can remove it")]
    NotYours {
        /// The name.
        name: String,
    },
    /// This user may look up, but not put.
    #[error("this user may not put anything into the directory: see DirectoryOptions::allow_put")]
    NotAllowed,
    /// The text cannot be a name.
    #[error("{name:?} is no name: {why}; a name has 1 to 255 bytes of UTF-8 without a NUL")]
    InvalidName {
        /// The text.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A limit of the directory is reached.
    #[error("the directory's limit is reached: {why}")]
    TooMany {
        /// The limit, in the server's words.
        why: String,
    },
    /// The directory does not serve what was put.
    #[error("{name:?} was not put, because {why}")]
    RefusedHandle {
        /// The name.
        name: String,
        /// What is wrong with it, in the server's words.
        why: String,
    },
    /// What is served is not what was asked for.
    #[error("what is served as {name:?} is a {kind:?}, not a {expected:?}: {source}")]
    OtherHandle {
        /// The name.
        name: String,
        /// Its kind, in the words of the participant that put it.
        kind: String,
        /// The kind that was asked for.
        expected: &'static str,
        /// Why it is not of that kind.
        source: HandleError,
    },
    /// The peer is no directory, or one of another version.
    #[error("this is no directory, or one of another version: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The system refused: there is no memory, no free descriptor, no permission.
    #[error("{what} failed: {source}")]
    Os {
        /// What was refused.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(", by process {pid}")).unwrap_or_default()
}

impl DirectoryError {
    /// Returns a function for `map_err`.
    pub(super) fn os<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |source| DirectoryError::Os { what, source: source.into() }
    }
}

impl From<ConnectionError> for DirectoryError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut | ConnectionError::WouldBlock => DirectoryError::TimedOut,
            ConnectionError::Interrupted => DirectoryError::Interrupted,
            ConnectionError::EndOfStream | ConnectionError::BrokenPipe => {
                DirectoryError::Disconnected
            }
            ConnectionError::Os { what, source } => DirectoryError::Os { what, source },
            ConnectionError::NoDescriptor => DirectoryError::Os {
                what: "receiving a descriptor",
                source: io::Error::other("this process can open no more (RLIMIT_NOFILE)"),
            },
            other => DirectoryError::Malformed { what: other.to_string() },
        }
    }
}

impl From<DirectoryError> for io::Error {
    fn from(error: DirectoryError) -> Self {
        let kind = match &error {
            DirectoryError::AlreadyServed { .. } | DirectoryError::Orphaned { .. } => {
                io::ErrorKind::AddrInUse
            }
            DirectoryError::NotServed { .. } => io::ErrorKind::ConnectionRefused,
            DirectoryError::NotASocket { .. } | DirectoryError::NameTaken { .. } => {
                io::ErrorKind::AlreadyExists
            }
            DirectoryError::InvalidAddress(_) | DirectoryError::InvalidName { .. } => {
                io::ErrorKind::InvalidInput
            }
            DirectoryError::UntrustedServer { .. }
            | DirectoryError::Unwelcome { .. }
            | DirectoryError::NotYours { .. }
            | DirectoryError::NotAllowed => io::ErrorKind::PermissionDenied,
            DirectoryError::TimedOut => io::ErrorKind::TimedOut,
            DirectoryError::Interrupted => io::ErrorKind::Interrupted,
            DirectoryError::Disconnected => io::ErrorKind::ConnectionReset,
            DirectoryError::NotFound { .. } => io::ErrorKind::NotFound,
            DirectoryError::Unchanged { .. } => io::ErrorKind::WouldBlock,
            DirectoryError::OtherHandle { .. } | DirectoryError::Malformed { .. } => {
                io::ErrorKind::InvalidData
            }
            DirectoryError::Os { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Checks a name before it is sent, or put.
pub(super) fn check_name(name: &str) -> Result<(), DirectoryError> {
    match flaw_of_name(name) {
        None => Ok(()),
        Some(why) => {
            Err(DirectoryError::InvalidName { name: name.to_owned(), why: why.to_owned() })
        }
    }
}
