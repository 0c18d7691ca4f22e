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
mod taking;

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

/// One end of a two-way pipe for messages, whole and in order, and for handles.
///
/// It corresponds to Python's `multiprocessing.Connection`. [`pipe`] makes a connected pair. Forked
/// children inherit the ends, started programs get them [by name](crate::process::CommandExt), and
/// other processes get them [over another connection](Connection::send_handle).
///
/// # Messages
/// A message has 0 to [`MAX_LEN`](Connection::MAX_LEN) bytes. Up to 1 MiB, or what the socket's
/// buffer takes if that is less, it is one packet of a `SOCK_SEQPACKET` socket. One system call
/// sends it, and one receives it. A longer message goes through sealed memory, so the receiver
/// [reads it in place](Message). There are no partial messages.
///
/// # Sharing an end
/// Any number of threads and processes may use an end at the same time: each message is received
/// whole by one of them. The pipe ends when the *last* descriptor of the other end is closed.
///
/// A forked child has copies of both ends, even of an end that it has no way to drop. Then nobody
/// is told when its parent dies. So fork a child that talks to its parent with
/// [`fork_connected`](crate::process::fork_connected): each of the two keeps only its own end, and
/// later children keep neither. For any other pipe, [tell the
/// builder](crate::process::Builder::close) which end the child must not have.
///
/// # Blocking and fairness
/// [`recv`](Connection::recv) waits while there is no message. [`send`](Connection::send) waits
/// while the messages that have not been received fill the buffer: some hundred short ones, or one
/// or two long ones. Once `send` waits, three quarters of the buffer must be free before it goes
/// on. So two ends that only send to each other block for ever.
///
/// # Memory ordering
/// Sending *synchronises with* receiving.
///
/// # Process death
/// A killed sender has sent its message whole, or not at all. A killed receiver has either received
/// the message, which is lost with it, or left it for the next receiver. When no process has the
/// other end any more, `recv` returns what was sent, and then
/// [`EndOfStream`](ConnectionError::EndOfStream). `send` fails with
/// [`BrokenPipe`](ConnectionError::BrokenPipe) at once. There is no SIGPIPE. Messages that have not
/// been received when the last receiver dies are lost.
///
/// # Signal handlers
/// Not for use in signal handlers.
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
    /// The probable length of the next message. Relaxed: a hint.
    expected: AtomicUsize,
}

/// The end of a pipe that only sends; otherwise as [`Connection`].
#[derive(Debug)]
pub struct Sender(Connection);

/// The end of a pipe that only receives; otherwise as [`Connection`].
#[derive(Debug)]
pub struct Receiver(Connection);

/// Makes a two-way pipe.
///
/// ```
/// use crossproc::pipe;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (one, other) = pipe()?;
/// one.send(b"6 * 7")?;
/// assert_eq!(other.recv()?, b"6 * 7");
/// other.send(b"42")?;
/// assert_eq!(one.recv()?, b"42");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// No free descriptor, or no memory.
pub fn pipe() -> io::Result<(Connection, Connection)> {
    let made = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed("socketpair"))?;
    let (one, other) = both_above_standard(made).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
    for socket in [&one, &other] {
        // The kernel doubles this, unless the administrator has set a limit (net.core.wmem_max):
        // then longer messages go through a memfd.
        set_socket_send_buffer_size(socket, MAX_INLINE).map_err(failed("setsockopt(SO_SNDBUF)"))?;
    }
    Ok((Connection::of(one), Connection::of(other)))
}

/// Makes a one-way pipe, from the first to the second.
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
/// No free descriptor, or no memory.
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

    /// Makes another descriptor of the same end, in this process.
    ///
    /// ```
    /// use crossproc::pipe;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, other) = pipe()?;
    /// let again = one.try_clone()?;
    /// drop(one); // the pipe does not end
    /// again.send(b"hello")?;
    /// assert_eq!(other.recv()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
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
    /// Makes another descriptor of the same end, in this process.
    ///
    /// ```
    /// use crossproc::simplex;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = simplex()?;
    /// let again = sender.try_clone()?;
    /// drop(sender); // the pipe does not end
    /// again.send(b"hello")?;
    /// assert_eq!(receiver.recv()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No free descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Sender)
    }
}

impl Receiver {
    /// Makes another descriptor of the same end, in this process.
    ///
    /// ```
    /// use crossproc::simplex;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = simplex()?;
    /// let again = receiver.try_clone()?;
    /// sender.send(b"one")?;
    /// sender.send(b"two")?;
    /// // Each message is received once.
    /// assert_eq!(receiver.recv()?, b"one");
    /// assert_eq!(again.recv()?, b"two");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No free descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Receiver)
    }
}

/// The sending methods of `$of`. `$sends` is its connection, where `$connection` is `self`.
macro_rules! sending {
    ($of:ident, $connection:ident => $sends:expr) => {
        impl $of {
            forms! {
                /// Sends a message, whole.
                ///
                /// ```
                /// use crossproc::{ConnectionError, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// one.send(b"hello")?;
                /// one.send(b"")?;
                /// assert_eq!(other.recv()?, b"hello");
                /// assert_eq!(other.recv()?, b"");
                /// drop(other);
                /// assert!(matches!(one.send(b"hello"), Err(ConnectionError::BrokenPipe)));
                /// # Ok(())
                /// # }
                /// ```
                send, try_send, send_timeout, send_deadline, send_with
                (self: &Self, message: &[u8]) -> Result<(), ConnectionError>, Self::send_until,
                errors "[`BrokenPipe`](ConnectionError::BrokenPipe), \
    [`TooLong`](ConnectionError::TooLong), no memory. An empty message, and one \
    that is too long for a packet, bring a descriptor: none may be free here, or \
    this user may have too many on their way (`RLIMIT_NOFILE`). Nothing was sent \
    then.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Sends a handle. The process that [receives](Receiver::recv_handle) it gets its
                /// own handle to the same thing. The caller may drop this one afterwards.
                ///
                /// ```
                /// use crossproc::{Event, Shm, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// let ready = Shm::new(Event::new())?;
                /// one.send_handle(&ready)?;
                /// let theirs: Shm<Event> = other.recv_handle()?;
                /// theirs.set();
                /// assert!(ready.is_set());
                /// # Ok(())
                /// # }
                /// ```
                send_handle, try_send_handle, send_handle_timeout, send_handle_deadline,
                send_handle_with <H: Handle>
                (self: &Self, handle: &H) -> Result<(), ConnectionError>, Self::send_handle_until,
                errors "As `send`. The system refuses if this user has too many descriptors on \
    their way (`RLIMIT_NOFILE`).",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Sends a message with a handle, which the receiver [takes out of
                /// it](Message::take_handle).
                ///
                /// ```
                /// use crossproc::{Event, Shm, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// one.send_both(b"ready", &Shm::new(Event::new())?)?;
                /// let mut message = other.recv()?;
                /// assert_eq!(message, b"ready");
                /// let ready: Shm<Event> = message.take_handle()?;
                /// assert!(!ready.is_set());
                /// # Ok(())
                /// # }
                /// ```
                send_both, try_send_both, send_both_timeout, send_both_deadline,
                send_both_with <H: Handle>
                (self: &Self, message: &[u8], handle: &H) -> Result<(), ConnectionError>,
                Self::send_both_until,
                errors "As [`send_handle`](Self::send_handle).",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            #[inline(always)]
            pub(crate) fn send_until(
                &self,
                message: &[u8],
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ConnectionError> {
                let $connection = self;
                $sends.send_bytes(message, wait)
            }

            fn send_handle_until<H: Handle>(
                &self,
                handle: &H,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ConnectionError> {
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

/// The receiving methods of `$of`. `$receives` is its connection, where `$connection` is `self`.
macro_rules! receiving {
    ($of:ident, $connection:ident => $receives:expr) => {
        impl $of {
            forms! {
                /// Receives a message, whole, along with its handle if it has one.
                ///
                /// ```
                /// use crossproc::{ConnectionError, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// one.send(b"hello")?;
                /// assert_eq!(other.recv()?, b"hello");
                /// assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)));
                /// drop(one);
                /// assert!(matches!(other.recv(), Err(ConnectionError::EndOfStream)));
                /// # Ok(())
                /// # }
                /// ```
                recv, try_recv, recv_timeout, recv_deadline, recv_with
                (self: &Self) -> Result<Message, ConnectionError>, Self::recv_until,
                errors "[`EndOfStream`](ConnectionError::EndOfStream); \
    [`Malformed`](ConnectionError::Malformed), after which the next one can be \
    received; no memory.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Receives a message into a buffer and returns its length in bytes.
                ///
                /// ```
                /// use crossproc::{ConnectionError, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// let mut buffer = [0; 8];
                /// one.send(b"hello")?;
                /// let len = other.recv_into(&mut buffer)?;
                /// assert_eq!(buffer[..len], *b"hello");
                ///
                /// one.send(b"good morning")?;
                /// match other.recv_into(&mut buffer) {
                ///     Err(ConnectionError::TooShort { message, .. }) => {
                ///         assert_eq!(*message, b"good morning");
                ///     }
                ///     other => panic!("{other:?}"),
                /// }
                /// # Ok(())
                /// # }
                /// ```
                recv_into, try_recv_into, recv_into_timeout, recv_into_deadline, recv_into_with
                (self: &Self, buffer: &mut [u8]) -> Result<usize, ConnectionError>,
                Self::recv_into_until,
                errors "[`TooShort`](ConnectionError::TooShort) and \
    [`UnexpectedHandle`](ConnectionError::UnexpectedHandle), each with the \
    message; otherwise as `recv`. The buffer's contents are lost, too.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            forms! {
                /// Receives a handle and checks that it is of this kind. Nothing that its sender
                /// says is trusted.
                ///
                /// ```
                /// use crossproc::{ConnectionError, Event, Lock, Shm, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// one.send_handle(&Shm::new(Event::new())?)?;
                /// let ready: Shm<Event> = other.recv_handle()?;
                /// assert!(!ready.is_set());
                ///
                /// one.send_handle(&ready)?;
                /// let wrong = other.recv_handle::<Shm<Lock<u64>>>();
                /// assert!(matches!(wrong, Err(ConnectionError::OtherHandle { .. })));
                /// # Ok(())
                /// # }
                /// ```
                recv_handle, try_recv_handle, recv_handle_timeout, recv_handle_deadline,
                recv_handle_with <H: Handle>
                (self: &Self) -> Result<H, ConnectionError>, Self::recv_handle_until,
                errors "[`NoHandle`](ConnectionError::NoHandle) and \
    [`OtherHandle`](ConnectionError::OtherHandle), each with the message that \
    came; [`NoDescriptor`](ConnectionError::NoDescriptor); otherwise as `recv`.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            /// Returns whether there is something to receive: a message, or the end of the stream.
            /// Other receivers at this end may take it first.
            ///
            /// ```
            /// use crossproc::pipe;
            ///
            /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// let (one, other) = pipe()?;
            /// assert!(!other.poll()?);
            /// one.send(b"hello")?;
            /// assert!(other.poll()?);
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// # Errors
            /// No memory for `poll(2)`.
            pub fn poll(&self) -> Result<bool, ConnectionError> {
                self.poll_with(Wait::NONE)
            }

            /// Waits until there is something to receive, for `timeout` at most. Returns whether
            /// there is.
            ///
            /// # Errors
            /// No memory for `poll(2)`.
            pub fn poll_timeout(
                &self,
                timeout: core::time::Duration,
            ) -> Result<bool, ConnectionError> {
                self.poll_with(Wait::timeout(timeout))
            }

            /// Waits until there is something to receive, until `deadline` at most. Returns whether
            /// there is.
            ///
            /// # Errors
            /// No memory for `poll(2)`.
            pub fn poll_deadline(
                &self,
                deadline: std::time::Instant,
            ) -> Result<bool, ConnectionError> {
                self.poll_with(Wait::deadline(deadline))
            }

            /// Waits until there is something to receive, as `wait` says. Returns whether there is.
            ///
            /// # Errors
            /// [`Interrupted`](ConnectionError::Interrupted) if `wait` is interruptible; no memory
            /// for `poll(2)`.
            pub fn poll_with(&self, wait: Wait) -> Result<bool, ConnectionError> {
                let $connection = self;
                $receives.poll_until(wait)
            }

            #[inline(always)]
            pub(crate) fn recv_until(
                &self,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<Message, ConnectionError> {
                let $connection = self;
                $receives.receive(wait)
            }

            #[inline(always)]
            fn recv_into_until(
                &self,
                buffer: &mut [u8],
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<usize, ConnectionError> {
                let $connection = self;
                $receives.receive_into(buffer, wait)
            }

            fn recv_handle_until<H: Handle>(
                &self,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<H, ConnectionError> {
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
    /// Returns the socket, which is close-on-exec. It is readable when [`recv`](Connection::recv)
    /// would not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl AsFd for Sender {
    /// Returns the socket, which is close-on-exec. It is writable when [`send`](Sender::send) would
    /// not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Receiver {
    /// Returns the socket, which is close-on-exec. It is readable when [`recv`](Receiver::recv)
    /// would not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("socket", &*self.end).finish_non_exhaustive()
    }
}

/// Checks that a descriptor is a socket like those that [`pipe`] makes.
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

/// A handle whose kind the descriptor alone does not tell: the sender states it.
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
