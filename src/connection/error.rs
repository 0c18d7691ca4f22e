//! [`ConnectionError`].

use std::io;

use rustix::io::Errno;

use super::message::Message;
use crate::memory::HandleError;

/// Why nothing was sent, or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// There is no message, or no room for one.
    #[error("the connection has no message, or no room for one")]
    WouldBlock,
    /// There was no message, or no room for one, until the deadline.
    #[error("the connection had no message, or no room for one, until the deadline")]
    TimedOut,
    /// A signal handler ran during an interruptible wait. Or a sandbox says so of every call, where
    /// no deadline would end the wait.
    #[error("a signal handler ran while waiting for the connection")]
    Interrupted,
    /// The end of the stream: no process is left that could send, and all that was sent has been
    /// received.
    #[error("end of the stream: no process has the other end any more")]
    EndOfStream,
    /// No process is left that could receive the message: it was not sent.
    #[error("no process has the other end any more: nothing was sent")]
    BrokenPipe,
    /// This process has no descriptor of the end: it is a forked child that was not to keep it.
    #[error(
        "this end was closed in this process when it was forked: it is its parent's own \
         (Connection::inheritable), or Builder::close was called for it"
    )]
    Closed,
    /// The message is longer than the maximum: it was not sent.
    #[error("a message of {len} bytes is longer than {max}")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
        /// The maximum length, in bytes.
        max: usize,
    },
    /// The message is longer than the buffer, or than the caller would take. `message` holds it.
    #[error("a message of {} bytes came, there was room for {max}", message.len())]
    TooShort {
        /// The number of bytes that there was room for.
        max: usize,
        /// The message that came.
        message: Box<Message>,
    },
    /// The message brought a handle that there was no place for. `message` holds both.
    #[error(
        "the message brought a handle ({}): take it with recv",
        message.handle_kind().unwrap_or_default()
    )]
    UnexpectedHandle {
        /// The message that came.
        message: Box<Message>,
    },
    /// The message brought no handle. `message` holds it.
    #[error("a message of {} bytes came without a handle", message.len())]
    NoHandle {
        /// The message that came.
        message: Box<Message>,
    },
    /// The handle is not what was asked for. `message` is the message with it.
    #[error("the handle, a {kind} as its sender says, is not what was asked for: {source}")]
    OtherHandle {
        /// Its kind, in the words of its sender.
        kind: String,
        /// Why it is not what was asked for.
        source: HandleError,
        /// The message that came.
        message: Box<Message>,
    },
    /// A packet came that no program with this crate sends. It is lost, and what comes after it can
    /// be received.
    #[error("a packet that is no message: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The message came with a descriptor, and this process can have no more of them. The message
    /// is lost.
    #[error(
        "the message is lost: it came with a descriptor, and this process can open no more \
         (RLIMIT_NOFILE)"
    )]
    NoDescriptor,
    /// The system refused: no memory, no free descriptor, or too many descriptors on their way.
    #[error("{what} failed: {source}")]
    Os {
        /// What was refused.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ConnectionError {
    pub(super) fn sending(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => ConnectionError::WouldBlock,
            Errno::INTR => ConnectionError::Interrupted,
            Errno::TIMEDOUT => ConnectionError::TimedOut,
            Errno::BADF => ConnectionError::Closed,
            // ECONNREFUSED: from older kernels, if the other end is closed at this moment.
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::CONNREFUSED => {
                ConnectionError::BrokenPipe
            }
            Errno::TOOMANYREFS => ConnectionError::Os {
                what: "sending a descriptor while this user has as many on their way as it may \
                       (RLIMIT_NOFILE)",
                source: errno.into(),
            },
            errno => ConnectionError::Os { what: "sending a message", source: errno.into() },
        }
    }

    pub(super) fn receiving(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => ConnectionError::WouldBlock,
            Errno::INTR => ConnectionError::Interrupted,
            Errno::TIMEDOUT => ConnectionError::TimedOut,
            Errno::BADF => ConnectionError::Closed,
            errno => ConnectionError::Os { what: "receiving a message", source: errno.into() },
        }
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        let kind = match &error {
            ConnectionError::WouldBlock => io::ErrorKind::WouldBlock,
            ConnectionError::TimedOut => io::ErrorKind::TimedOut,
            ConnectionError::Interrupted => io::ErrorKind::Interrupted,
            ConnectionError::EndOfStream => io::ErrorKind::UnexpectedEof,
            ConnectionError::BrokenPipe => io::ErrorKind::BrokenPipe,
            ConnectionError::Closed => io::ErrorKind::NotConnected,
            ConnectionError::TooLong { .. } => io::ErrorKind::InvalidInput,
            ConnectionError::Os { source, .. } => source.kind(),
            ConnectionError::NoDescriptor => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
