//! [`DirectoryClient`]: how it connects, and one request and its reply.

use core::fmt;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::net::SocketAddrUnix;

use super::address::Address;
use super::connect::{ConnectOptions, FolderWatch};
use super::error::DirectoryError;
use super::own::Own;
use super::protocol::{Ask, Reply, Request, Status};
use crate::connection::{Connection, ConnectionError, Message};
use crate::memory::Handle;
use crate::wait::Wait;

/// The time that a request may take if no deadline is given.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client's connection to a [`Directory`](super::Directory).
///
/// Each handle that a client [gets](DirectoryClient::get) is its own, and needs neither the client
/// nor the server. What it [puts](DirectoryClient::put) is served until the client is dropped:
/// **when its process is killed, its names go with it.**
///
/// # Blocking
/// A request takes a round trip. If no deadline is given, it takes
/// [`REQUEST_TIMEOUT`](DirectoryClient::REQUEST_TIMEOUT) at most, so a stopped server hangs nobody.
/// After a time-out the client can be used again: a late answer is skipped. A `put` or `remove`
/// that timed out may have been done, or be done later. The server keeps a client's wait, and the
/// client sleeps until it is told. The `try_` forms, and a wait with a zero time-out or a past
/// deadline, ask once. That takes a round trip, and `REQUEST_TIMEOUT` at most.
///
/// A client makes one request after the other. A thread that waits while another one puts needs a
/// client of its own.
///
/// # Process death
/// When the server is gone, every request returns [`Disconnected`](DirectoryError::Disconnected); a
/// wait does so at once. Then [connect](DirectoryClient::connect_timeout) anew, which waits for the
/// next server, and put the handles again. When the client is gone, so are its names, even if its
/// process has forked. [Children](super::Directory#fork) have no copy of the connection, and a
/// client is `Disconnected` there.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::directory::Address;
/// use crossproc::directory::{Directory, DirectoryClient};
/// use crossproc::{Queue, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let address = Address::abstract_name(format!("example {}", std::process::id()));
/// # let theirs = address.clone();
/// // Each of them may be first.
/// let workers = [1, 2].map(|number: u64| {
///     let address = address.clone();
///     process::fork(move || -> std::io::Result<()> {
///         let mut client =
///             DirectoryClient::connect_timeout(&address, std::time::Duration::from_secs(10))?;
///         let numbers: Queue<u64> = client.get_or_put("numbers", || Ok(Queue::new(8)?))?;
///         numbers.put(number)?;
///         // A name lasts as long as the client that put it.
///         client.wait_for::<Queue<u64>>("enough")?;
///         Ok(())
///     })
/// });
///
/// let directory = Directory::bind(&address)?;
/// std::thread::scope(|scope| -> Result<(), Box<dyn std::error::Error>> {
///     let server = scope.spawn(|| directory.serve());
///     let mut client = DirectoryClient::connect(&address)?;
///     let numbers: Queue<u64> = client.wait_for("numbers")?;
///     assert_eq!(numbers.get()? + numbers.get()?, 3);
///     client.put("enough", &numbers)?;
///     for worker in workers {
///         assert!(worker?.join()?.success());
///     }
///     directory.close();
///     server.join().unwrap()?;
///     Ok(())
/// })
/// # }
/// ```
pub struct DirectoryClient {
    connection: Own<Connection>,
    /// The number of the last request.
    number: u64,
}

/// The reply to a request, with what it brought.
pub(super) struct Answered {
    pub(super) message: Message,
    pub(super) status: Status,
    pub(super) revision: u64,
}

impl DirectoryClient {
    /// The time that a request may take if no deadline is given: 10 s.
    pub const REQUEST_TIMEOUT: Duration = REQUEST_TIMEOUT;

    /// Connects to a server that is there. It may take [`REQUEST_TIMEOUT`](Self::REQUEST_TIMEOUT)
    /// to answer.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError};
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc connect {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let mut client = DirectoryClient::connect(&address)?;
    /// assert!(client.list("")?.names.is_empty());
    /// let nobody = DirectoryClient::connect(Address::abstract_name("nobody serves this"));
    /// assert!(matches!(nobody, Err(DirectoryError::NotServed { .. })));
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotServed`](DirectoryError::NotServed);
    /// [`UntrustedServer`](DirectoryError::UntrustedServer), see [`ConnectOptions`];
    /// [`Unwelcome`](DirectoryError::Unwelcome); [`TimedOut`](DirectoryError::TimedOut);
    /// [`Disconnected`](DirectoryError::Disconnected) if the server ends meanwhile;
    /// [`InvalidAddress`](DirectoryError::InvalidAddress); what the system says: no permission, no
    /// descriptor.
    pub fn connect(address: impl Into<Address>) -> Result<Self, DirectoryError> {
        ConnectOptions::new().connect(address)
    }

    /// Waits until a server is there, for `timeout` at most, and connects to it.
    ///
    /// A server that comes to a path is seen at once. At an abstract name, or in a folder that was
    /// not there, the client looks every 20 ms.
    ///
    /// # Errors
    /// [`TimedOut`](DirectoryError::TimedOut); otherwise as [`connect`](Self::connect), but for
    /// `NotServed` and `Disconnected`.
    pub fn connect_timeout(
        address: impl Into<Address>,
        timeout: Duration,
    ) -> Result<Self, DirectoryError> {
        ConnectOptions::new().connect_timeout(address, timeout)
    }

    /// [`connect_timeout`](Self::connect_timeout), until `deadline` at most.
    ///
    /// # Errors
    /// As [`connect_timeout`](Self::connect_timeout).
    pub fn connect_deadline(
        address: impl Into<Address>,
        deadline: Instant,
    ) -> Result<Self, DirectoryError> {
        ConnectOptions::new().connect_deadline(address, deadline)
    }

    /// [`connect_timeout`](Self::connect_timeout), as `wait` says.
    ///
    /// # Errors
    /// As [`connect_timeout`](Self::connect_timeout); [`Interrupted`](DirectoryError::Interrupted)
    /// if `wait` is interruptible.
    pub fn connect_with(address: impl Into<Address>, wait: Wait) -> Result<Self, DirectoryError> {
        ConnectOptions::new().connect_with(address, wait)
    }

    /// Asks the server whether this client is welcome.
    fn greet(&mut self, wait: Wait) -> Result<(), DirectoryError> {
        let answer = self.request(Ask::Hello, wait)?;
        if answer.status == Status::Done { Ok(()) } else { Err(answer.refusal("")) }
    }

    pub(super) fn request(&mut self, ask: Ask<'_>, wait: Wait) -> Result<Answered, DirectoryError> {
        self.exchange(ask, wait, |connection, packet| connection.send_with(packet, wait))
    }

    /// Sends a request, and receives until its reply comes.
    pub(super) fn exchange(
        &mut self,
        ask: Ask<'_>,
        wait: Wait,
        send: impl FnOnce(&Connection, &[u8]) -> Result<(), ConnectionError>,
    ) -> Result<Answered, DirectoryError> {
        self.number += 1;
        match send(&self.connection, &Request { number: self.number, ask }.encode()) {
            // What the server sent before it ended the connection can still be received.
            Ok(()) | Err(ConnectionError::BrokenPipe) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            let message = self.connection.recv_with(wait)?;
            let Reply { number, status, revision, .. } =
                Reply::parse(&message).map_err(malformed)?;
            let answer = Answered { message, status, revision };
            match number {
                0 => return Err(answer.refusal("")),
                number if number == self.number => return Ok(answer),
                // A late reply. However many come, the deadline stands, and so does the
                // interruption flag.
                _ if wait.is_over() => return Err(DirectoryError::TimedOut),
                _ if wait.is_interrupted() => return Err(DirectoryError::Interrupted),
                _ => {}
            }
        }
    }
}

impl ConnectOptions {
    /// [`DirectoryClient::connect`] with these options.
    ///
    /// ```
    /// use crossproc::directory::{ConnectOptions, Directory};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc connect {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let mut client = ConnectOptions::new().connect(&address)?;
    /// client.put("ready", &Shm::new(Event::new())?)?;
    /// assert_eq!(directory.names(), ["ready"]);
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn connect(&self, address: impl Into<Address>) -> Result<DirectoryClient, DirectoryError> {
        let address = address.into();
        self.attempt(&address, &address.socket_address()?, Wait::timeout(REQUEST_TIMEOUT))
    }

    /// [`DirectoryClient::connect_timeout`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn connect_timeout(
        &self,
        address: impl Into<Address>,
        timeout: Duration,
    ) -> Result<DirectoryClient, DirectoryError> {
        self.connect_with(address, Wait::timeout(timeout))
    }

    /// [`DirectoryClient::connect_deadline`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn connect_deadline(
        &self,
        address: impl Into<Address>,
        deadline: Instant,
    ) -> Result<DirectoryClient, DirectoryError> {
        self.connect_with(address, Wait::deadline(deadline))
    }

    /// [`DirectoryClient::connect_with`] with these options.
    ///
    /// # Errors
    /// As there.
    pub fn connect_with(
        &self,
        address: impl Into<Address>,
        wait: Wait,
    ) -> Result<DirectoryClient, DirectoryError> {
        let address = address.into();
        // Waiting may take long, and the program may change its working directory meanwhile.
        let anchored = address.anchored();
        let place = anchored.socket_address()?;
        // Watches before the first attempt, so that nothing comes unseen in between.
        let watch = anchored.path().and_then(FolderWatch::of_folder);
        loop {
            match self.attempt(&address, &place, wait) {
                // The server may have been killed just now; the next one will come.
                Err(DirectoryError::NotServed { .. } | DirectoryError::Disconnected) => {}
                result => return result,
            }
            FolderWatch::wait(watch.as_ref(), wait)?;
        }
    }

    /// Tries once to connect to the server.
    fn attempt(
        &self,
        address: &Address,
        place: &SocketAddrUnix,
        wait: Wait,
    ) -> Result<DirectoryClient, DirectoryError> {
        let connection = self.dial(address, place, wait)?;
        let mut client = DirectoryClient { connection, number: 0 };
        client.greet(wait)?;
        Ok(client)
    }
}

impl Drop for DirectoryClient {
    /// Closes the connection, without a moment in which a child could get it and keep the names.
    fn drop(&mut self) {
        self.connection.close();
    }
}

impl Answered {
    /// Returns the handle that it brought.
    pub(super) fn into_handle<H: Handle>(mut self, name: &str) -> Result<H, DirectoryError> {
        if self.status != Status::Handle {
            return Err(self.refusal(name));
        }
        self.message.take_handle().map_err(|error| match error {
            ConnectionError::OtherHandle { kind, source, .. } => DirectoryError::OtherHandle {
                name: name.to_owned(),
                kind,
                expected: H::kind(),
                source,
            },
            other => other.into(),
        })
    }

    /// Returns why the server has not done what it was asked.
    pub(super) fn refusal(&self, name: &str) -> DirectoryError {
        let name = name.to_owned();
        let why = Reply::parse(&self.message)
            .map_or_else(std::borrow::Cow::into_owned, |reply| reply.text.to_owned());
        match self.status {
            Status::NotFound => DirectoryError::NotFound { name },
            Status::Taken => DirectoryError::NameTaken { name },
            Status::NotYours => DirectoryError::NotYours { name },
            Status::NotAllowed => DirectoryError::NotAllowed,
            Status::BadName => DirectoryError::InvalidName { name, why },
            Status::TooMany => DirectoryError::TooMany { why },
            Status::BadHandle => DirectoryError::RefusedHandle { name, why },
            Status::Unwelcome => DirectoryError::Unwelcome { why },
            Status::Malformed => DirectoryError::Malformed { what: why },
            Status::Done | Status::Handle | Status::Names | Status::Pending => {
                DirectoryError::Malformed {
                    what: "the reply is not one to what was asked".to_owned(),
                }
            }
        }
    }
}

pub(super) fn malformed(what: impl Into<String>) -> DirectoryError {
    DirectoryError::Malformed { what: what.into() }
}

impl AsFd for DirectoryClient {
    /// Returns the socket, which is close-on-exec. Between requests it is readable when the server
    /// has ended the connection. It is also readable when a wait is over that was
    /// [tried](Self::try_wait_for_change) or given up. Call the same wait again to see how it
    /// ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl fmt::Debug for DirectoryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryClient")
            .field("socket", &self.connection.as_fd())
            .finish_non_exhaustive()
    }
}
