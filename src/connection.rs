//! [`Connection`]: messages and handles between two processes, over a socket.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossproc_sys::descriptor::both_above_standard;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_domain, socket_type};
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, getpeername, shutdown, socketpair,
};

mod error;
pub(crate) mod frame;
#[cfg(feature = "tokio")]
mod futures;
mod message;
mod private;
mod socket;

pub use self::error::ConnectionError;
pub use self::message::Message;
use self::private::End;
pub(crate) use self::private::{HeldEnds, adopt, begin, private_pipe};
use crate::memory::{Handle, HandleError};
use crate::wait::Wait;
use crate::wait::forms;
use crossproc_sys::failed::failed;

/// The most bytes that a message can have: 2 GiB.
const MAX_LEN: usize = 1 << 31;
/// A message of more bytes goes through a sealed memfd.
const MAX_INLINE: usize = 1 << 20;

/// One end of a pipe that goes both ways: messages, whole and in order, and handles.
///
/// It corresponds to Python's `multiprocessing.Connection`. [`pipe`] makes two that are connected;
/// forked children inherit them, programs that are started get them [by
/// name](crate::process::CommandExt), and others [over another
/// connection](Connection::send_handle).
///
/// # Messages
/// 0 to [`MAX_LEN`](Connection::MAX_LEN) bytes. One of up to 1 MiB, or what the socket's buffer
/// takes if that is less, is one packet of a `SOCK_SEQPACKET` socket: one system call sends it, one
/// receives it. A longer one goes through memory that is sealed, so that the receiver
/// [reads it where it lies](Message). There are no partial messages.
///
/// # Sharing an end
/// Any number of threads and processes may use an end at the same time: a message is received whole
/// by one of them. The pipe ends when the *last* descriptor of the other end is closed.
///
/// A forked child has copies of both ends, also of one that it has no way to drop, and then nobody
/// is told when its parent dies. So a child that talks to its parent is best forked by
/// [`fork_connected`](crate::process::fork_connected), which leaves each of them its own end, and
/// which later children keep nothing of. Of another pipe a child is not to have an end that is
/// [named to its builder](crate::process::Builder::close).
///
/// # Blocking and fairness
/// [`recv`](Connection::recv) waits while there is no message, [`send`](Connection::send) while the
/// messages that were not received yet fill the buffer: some hundred of short ones, one or two of
/// long ones. Once it waits, three quarters of the buffer must be free before it goes on. So two
/// ends that only send to each other stand still.
///
/// # Memory ordering
/// Sending *synchronises with* receiving.
///
/// # Process death
/// A sender that is killed has sent a message whole, or not at all. A receiver that is killed has
/// received it, and it is gone with it, or has not, and it is the next one's. When nobody has the
/// other end any more, `recv` gives what was sent, and then
/// [`EndOfStream`](ConnectionError::EndOfStream); `send` is
/// [`BrokenPipe`](ConnectionError::BrokenPipe) at once. There is no SIGPIPE. What was sent and not
/// received when the last receiver dies is gone.
///
/// # Signal handlers
/// Not for them.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{ConnectionError, pipe, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (ours, theirs) = pipe()?;
/// let child = process::fork(move || -> Result<(), ConnectionError> {
///     let question = theirs.recv()?;
///     assert_eq!(question, b"6 * 7");
///     theirs.send(b"42")
/// })?;
/// ours.send(b"6 * 7")?;
/// assert_eq!(ours.recv()?, b"42");
/// # child.join()?;
/// # Ok(())
/// # }
/// ```
pub struct Connection {
    end: End,
    /// How long the next message is, probably. Relaxed: a hint.
    expected: AtomicUsize,
}

/// The end of a pipe that only sends. Otherwise as [`Connection`].
#[derive(Debug)]
pub struct Sender(Connection);

/// The end of a pipe that only receives. Otherwise as [`Connection`].
#[derive(Debug)]
pub struct Receiver(Connection);

/// A pipe that goes both ways.
///
/// # Errors
/// No free descriptor, no memory.
pub fn pipe() -> io::Result<(Connection, Connection)> {
    let made = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed("socketpair"))?;
    let (one, other) = both_above_standard(made).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
    for socket in [&one, &other] {
        // Twice that is what the kernel makes of it, unless the administrator has set a limit
        // (net.core.wmem_max): then longer messages take the other way.
        set_socket_send_buffer_size(socket, MAX_INLINE).map_err(failed("setsockopt(SO_SNDBUF)"))?;
    }
    Ok((Connection::of(one), Connection::of(other)))
}

/// A pipe that goes one way, from the first to the second.
///
/// ```
/// use crossproc::{ConnectionError, simplex};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = simplex()?;
/// sender.send(b"hello")?;
/// drop(sender);
/// assert_eq!(receiver.recv()?, b"hello");
/// assert!(matches!(receiver.recv(), Err(ConnectionError::EndOfStream)));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// No free descriptor, no memory.
pub fn simplex() -> io::Result<(Sender, Receiver)> {
    let (from, to) = pipe()?;
    shutdown(&*to.end, Shutdown::Write).map_err(failed("shutdown"))?;
    Ok((Sender(from), Receiver(to)))
}

impl Connection {
    /// The most bytes that a message can have: 2 GiB.
    pub const MAX_LEN: usize = MAX_LEN;

    pub(crate) fn of(socket: OwnedFd) -> Self {
        Connection { end: End::of(socket), expected: AtomicUsize::new(0) }
    }

    /// Another descriptor of the same end, in this process.
    ///
    /// # Errors
    /// No free descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Connection {
            end: self.end.try_clone()?,
            expected: AtomicUsize::new(self.expected.load(Relaxed)),
        })
    }
}

impl Sender {
    /// Another descriptor of the same end, in this process.
    ///
    /// # Errors
    /// No free descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Sender)
    }
}

impl Receiver {
    /// Another descriptor of the same end, in this process.
    ///
    /// # Errors
    /// No free descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Receiver)
    }
}

/// What sends. The connection of `$of` is `$connection`.
macro_rules! sending {
    ($of:ident, $connection:ident => $sends:expr) => {
        impl $of {
            forms! {
                /// Sends a message, whole.
                send, try_send, send_timeout, send_deadline, send_with
                (self: &Self, message: &[u8]) -> Result<(), ConnectionError>, Self::send_until,
                errors "[`BrokenPipe`](ConnectionError::BrokenPipe), [`TooLong`](ConnectionError::TooLong), no memory. An empty message, and one that is too long for a packet, bring a descriptor: none may be free here, or this user may have too many on their way (`RLIMIT_NOFILE`). Nothing was sent then.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Sends a handle: whoever [receives](Receiver::recv_handle) it gets one of its own, to the same thing. This one need not live on.
                send_handle, try_send_handle, send_handle_timeout, send_handle_deadline, send_handle_with <H: Handle>
                (self: &Self, handle: &H) -> Result<(), ConnectionError>, Self::send_handle_until,
                errors "As `send`. The system refuses if this user has too many descriptors on their way (`RLIMIT_NOFILE`).",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Sends a message and a handle with it, which is [taken out of it](Message::take_handle).
                send_both, try_send_both, send_both_timeout, send_both_deadline, send_both_with <H: Handle>
                (self: &Self, message: &[u8], handle: &H) -> Result<(), ConnectionError>, Self::send_both_until,
                errors "As [`send_handle`](Self::send_handle).",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            #[inline(always)]
            pub(crate) fn send_until(&self, message: &[u8], wait: Option<impl FnOnce() -> Wait>) -> Result<(), ConnectionError> {
                let $connection = self;
                $sends.send_bytes(message, wait)
            }

            fn send_handle_until<H: Handle>(&self, handle: &H, wait: Option<impl FnOnce() -> Wait>) -> Result<(), ConnectionError> {
                self.send_both_until(&[], handle, wait)
            }

            fn send_both_until<H: Handle>(
                &self,
                message: &[u8],
                handle: &H,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ConnectionError> {
                let $connection = self;
                $sends.send_parcel(message, (handle.as_fd(), H::kind()), wait)
            }
        }
    };
}

/// What receives. The connection of `$of` is `$connection`.
macro_rules! receiving {
    ($of:ident, $connection:ident => $receives:expr) => {
        impl $of {
            forms! {
                /// Receives a message, whole, with the handle that came with it, if there is one.
                recv, try_recv, recv_timeout, recv_deadline, recv_with
                (self: &Self) -> Result<Message, ConnectionError>, Self::recv_until,
                errors "[`EndOfStream`](ConnectionError::EndOfStream); [`Malformed`](ConnectionError::Malformed), after which the next one can be received; no memory.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Receives a message into a buffer: how many bytes it has.
                recv_into, try_recv_into, recv_into_timeout, recv_into_deadline, recv_into_with
                (self: &Self, buffer: &mut [u8]) -> Result<usize, ConnectionError>, Self::recv_into_until,
                errors "[`TooShort`](ConnectionError::TooShort) and [`UnexpectedHandle`](ConnectionError::UnexpectedHandle), each with the message; otherwise as `recv`. The buffer's contents are lost, too.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Receives a handle, and checks that it is of this kind: nothing that its sender says is trusted.
                recv_handle, try_recv_handle, recv_handle_timeout, recv_handle_deadline, recv_handle_with <H: Handle>
                (self: &Self) -> Result<H, ConnectionError>, Self::recv_handle_until,
                errors "[`NoHandle`](ConnectionError::NoHandle) and [`OtherHandle`](ConnectionError::OtherHandle), each with the message that came; [`NoDescriptor`](ConnectionError::NoDescriptor); otherwise as `recv`.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            /// Whether there is something to receive: a message, or the end of the stream. If others receive from this end, too, they may be faster.
            ///
            /// # Errors
            /// No memory for `poll(2)`.
            pub fn poll(&self) -> Result<bool, ConnectionError> {
                self.poll_with(Wait::NONE)
            }

            /// Waits until there is something to receive, for `timeout` at most, and says whether there is.
            ///
            /// # Errors
            /// No memory for `poll(2)`.
            pub fn poll_timeout(&self, timeout: core::time::Duration) -> Result<bool, ConnectionError> {
                self.poll_with(Wait::timeout(timeout))
            }

            /// Waits until there is something to receive, until `deadline` at most, and says whether there is.
            ///
            /// # Errors
            /// No memory for `poll(2)`.
            pub fn poll_deadline(&self, deadline: std::time::Instant) -> Result<bool, ConnectionError> {
                self.poll_with(Wait::deadline(deadline))
            }

            /// Waits until there is something to receive, as `wait` says, and says whether there is.
            ///
            /// # Errors
            /// [`Interrupted`](ConnectionError::Interrupted) if `wait` is interruptible; no memory for `poll(2)`.
            pub fn poll_with(&self, wait: Wait) -> Result<bool, ConnectionError> {
                let $connection = self;
                $receives.poll_until(wait)
            }

            #[inline(always)]
            pub(crate) fn recv_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<Message, ConnectionError> {
                let $connection = self;
                $receives.receive(wait)
            }

            #[inline(always)]
            fn recv_into_until(&self, buffer: &mut [u8], wait: Option<impl FnOnce() -> Wait>) -> Result<usize, ConnectionError> {
                let $connection = self;
                $receives.receive_into(buffer, wait)
            }

            fn recv_handle_until<H: Handle>(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<H, ConnectionError> {
                self.recv_until(wait)?.take_handle()
            }
        }
    };
}

sending!(Connection, connection => connection);
sending!(Sender, sender => sender.0);
receiving!(Connection, connection => connection);
receiving!(Receiver, receiver => receiver.0);

impl AsFd for Connection {
    /// The socket; close-on-exec. It is readable when [`recv`](Connection::recv) would not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl AsFd for Sender {
    /// The socket; close-on-exec. It is writable when [`send`](Sender::send) would not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Receiver {
    /// The socket; close-on-exec. It is readable when [`recv`](Receiver::recv) would not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("socket", &*self.end).finish_non_exhaustive()
    }
}

/// That a descriptor is a socket such as [`pipe`] makes.
fn check_socket(fd: OwnedFd) -> Result<Connection, HandleError> {
    let not = |what| Err(HandleError::NotConnected { what });
    match (socket_domain(&fd), socket_type(&fd)) {
        (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET)) => {}
        (Ok(AddressFamily::UNIX), Ok(_)) => {
            return not("it is a Unix socket of another type than SOCK_SEQPACKET");
        }
        (Ok(_), _) => return not("it is a socket of another family"),
        (Err(_), _) => return not("it is not a socket"),
    }
    match getpeername(&fd) {
        Ok(_) => Ok(Connection::of(fd)),
        Err(_) => not("it is a socket that is not connected"),
    }
}

/// A handle of which the descriptor does not say all: whoever hands it on says it.
macro_rules! handle_by_kind {
    ($($of:ident = $kind:literal, $make:expr;)*) => {$(
        impl Handle for $of {
            fn kind() -> &'static str {
                $kind
            }

            fn check(kind: &str) -> Result<(), HandleError> {
                if kind == Self::kind() || kind == OwnedFd::kind() {
                    return Ok(());
                }
                Err(HandleError::OtherKind { found: kind.to_owned(), expected: Self::kind() })
            }

            fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
                check_socket(fd).map($make)
            }
        }
    )*};
}

handle_by_kind! {
    Connection = "Connection", |connection| connection;
    Sender = "Sender", Sender;
    Receiver = "Receiver", Receiver;
}
