//! [`DirectoryClient`]: looks up handles and puts them.

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crossproc_sys::clock;

use super::address::Address;
use super::check_name;
use super::connect::ConnectOptions;
use super::error::DirectoryError;
use super::own::Own;
use super::protocol::{Ask, Reply, Request, Status, flaw_of_prefix};
use crate::connection::{Connection, ConnectionError, Message};
use crate::memory::Handle;
use crate::wait::Wait;
use crate::wait::forms;

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

/// Some of the names of a [`Directory`](super::Directory).
///
/// ```
/// use crossproc::directory::{DirectoryClient, DirectoryError};
/// use crossproc::{Event, Shm};
/// # use crossproc::directory::{Address, Directory};
/// # use std::sync::Arc;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let name = format!("crossproc Listing {}", std::process::id());
/// # let address = Address::abstract_name(name);
/// # let directory = Arc::new(Directory::bind(&address)?);
/// # let served = Arc::clone(&directory);
/// # let server = std::thread::spawn(move || served.serve());
/// // With a directory that is served at `address`:
/// let mut client = DirectoryClient::connect(&address)?;
/// client.put("ready", &Shm::new(Event::new())?)?;
/// let listing = client.list("")?;
/// assert_eq!(listing.names, ["ready"]);
/// let change = client.try_wait_for_change(listing.revision);
/// assert!(matches!(change, Err(DirectoryError::Unchanged { .. })));
/// # drop(client);
/// # directory.close();
/// # server.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The names, in order.
    pub names: Vec<String>,
    /// The directory's revision before the listing.
    /// [`wait_for_change`](DirectoryClient::wait_for_change) since then misses nothing.
    pub revision: u64,
}

/// The reply to a request, with what it brought.
struct Answered {
    message: Message,
    status: Status,
    revision: u64,
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

    pub(super) fn of(connection: Own<Connection>) -> Self {
        DirectoryClient { connection, number: 0 }
    }

    /// Asks the server whether this client is welcome.
    pub(super) fn greet(&mut self, wait: Wait) -> Result<(), DirectoryError> {
        let answer = self.request(Ask::Hello, wait)?;
        if answer.status == Status::Done { Ok(()) } else { Err(answer.refusal("")) }
    }

    /// Gets a handle to what is served under a name, and checks that it is of kind `H`.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc get {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let ready = Shm::new(Event::new())?;
    /// directory.put("ready", &ready)?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// client.get::<Shm<Event>>("ready")?.set();
    /// assert!(ready.is_set());
    /// let steady = client.get::<Shm<Event>>("steady");
    /// assert!(matches!(steady, Err(DirectoryError::NotFound { .. })));
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](DirectoryError::NotFound); [`OtherHandle`](DirectoryError::OtherHandle), which
    /// names both kinds; [`TooMany`](DirectoryError::TooMany) if as many handles are on their way
    /// as the server may send: ask again; [`Disconnected`](DirectoryError::Disconnected);
    /// [`TimedOut`](DirectoryError::TimedOut); [`InvalidName`](DirectoryError::InvalidName); no
    /// free descriptor.
    pub fn get<H: Handle>(&mut self, name: &str) -> Result<H, DirectoryError> {
        self.get_within(name, Wait::timeout(REQUEST_TIMEOUT))
    }

    /// [`get`](Self::get), until `deadline`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_deadline<H: Handle>(
        &mut self,
        name: &str,
        deadline: Instant,
    ) -> Result<H, DirectoryError> {
        self.get_within(name, Wait::deadline(deadline))
    }

    fn get_within<H: Handle>(&mut self, name: &str, wait: Wait) -> Result<H, DirectoryError> {
        check_name(name)?;
        self.request(Ask::Get { name }, wait)?.into_handle(name)
    }

    /// Returns all names that begin with `prefix`, which may be empty.
    ///
    /// A longer list comes in several pages, so a name that comes or goes meanwhile may be in it or
    /// not.
    ///
    /// ```
    /// use crossproc::directory::DirectoryClient;
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc list {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let event = Shm::new(Event::new())?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// for name in ["worker 2", "stop", "worker 1"] {
    ///     client.put(name, &event)?;
    /// }
    /// assert_eq!(client.list("worker ")?.names, ["worker 1", "worker 2"]);
    /// assert_eq!(client.list("")?.names.len(), 3);
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Disconnected`](DirectoryError::Disconnected); [`TimedOut`](DirectoryError::TimedOut);
    /// [`InvalidName`](DirectoryError::InvalidName) if no name can begin with `prefix`.
    pub fn list(&mut self, prefix: &str) -> Result<Listing, DirectoryError> {
        self.list_within(prefix, Wait::timeout(REQUEST_TIMEOUT))
    }

    /// [`list`](Self::list), until `deadline`.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn list_deadline(
        &mut self,
        prefix: &str,
        deadline: Instant,
    ) -> Result<Listing, DirectoryError> {
        self.list_within(prefix, Wait::deadline(deadline))
    }

    fn list_within(&mut self, prefix: &str, wait: Wait) -> Result<Listing, DirectoryError> {
        if let Some(why) = flaw_of_prefix(prefix) {
            return Err(DirectoryError::InvalidName {
                name: prefix.to_owned(),
                why: why.to_owned(),
            });
        }
        let mut names: Vec<String> = Vec::new();
        let mut revision = None;
        loop {
            let after = names.last().map_or("", String::as_str);
            let answer = self.request(Ask::List { prefix, after }, wait)?;
            if answer.status != Status::Names {
                return Err(answer.refusal(prefix));
            }
            let revision = *revision.get_or_insert(answer.revision);
            let reply = Reply::parse(&answer.message).map_err(malformed)?;
            let before = names.len();
            names.extend(reply.names().map(str::to_owned));
            // The client would ask again and again for a page that brings nothing.
            if !reply.has_more || names.len() == before {
                return Ok(Listing { names, revision });
            }
        }
    }

    /// Puts a handle under a name. It is served until this client is dropped or
    /// [removes](Self::remove) the name. The handle need not live on.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc put {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let event = Shm::new(Event::new())?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// client.put("ready", &event)?;
    /// assert!(matches!(client.put("ready", &event), Err(DirectoryError::NameTaken { .. })));
    /// assert_eq!(directory.names(), ["ready"]);
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NameTaken`](DirectoryError::NameTaken), even if this client has put it;
    /// [`NotAllowed`](DirectoryError::NotAllowed); [`TooMany`](DirectoryError::TooMany);
    /// [`RefusedHandle`](DirectoryError::RefusedHandle): only the directory's owner can put what is
    /// neither memory of this crate nor a Unix socket;
    /// [`Disconnected`](DirectoryError::Disconnected); [`TimedOut`](DirectoryError::TimedOut);
    /// [`InvalidName`](DirectoryError::InvalidName).
    pub fn put<H: Handle>(&mut self, name: &str, handle: &H) -> Result<(), DirectoryError> {
        self.put_within(name, handle, false, Wait::timeout(REQUEST_TIMEOUT)).map(|_| ())
    }

    /// [`put`](Self::put), until `deadline`.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_deadline<H: Handle>(
        &mut self,
        name: &str,
        handle: &H,
        deadline: Instant,
    ) -> Result<(), DirectoryError> {
        self.put_within(name, handle, false, Wait::deadline(deadline)).map(|_| ())
    }

    /// [`put`](Self::put), unless the name is taken. Returns whether it was free.
    ///
    /// ```
    /// use crossproc::directory::DirectoryClient;
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc put_if_absent {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let event = Shm::new(Event::new())?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// assert!(client.put_if_absent("ready", &event)?);
    /// assert!(!client.put_if_absent("ready", &event)?);
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`put`](Self::put), but for `NameTaken`.
    pub fn put_if_absent<H: Handle>(
        &mut self,
        name: &str,
        handle: &H,
    ) -> Result<bool, DirectoryError> {
        put_or_not(self.put(name, handle))
    }

    /// [`put_if_absent`](Self::put_if_absent), until `deadline`.
    ///
    /// # Errors
    /// As [`put_if_absent`](Self::put_if_absent).
    pub fn put_if_absent_deadline<H: Handle>(
        &mut self,
        name: &str,
        handle: &H,
        deadline: Instant,
    ) -> Result<bool, DirectoryError> {
        put_or_not(self.put_deadline(name, handle, deadline))
    }

    /// Gets a handle to what is served under a name. If there is nothing, calls `make` and puts the
    /// result. If several clients do so at the same time, one is the first, and all get what it has
    /// made. That is served as long as *that* client lives.
    ///
    /// ```
    /// use crossproc::directory::DirectoryClient;
    /// use crossproc::Queue;
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc get_or_put {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let mut client = DirectoryClient::connect(&address)?;
    /// let first: Queue<u64> = client.get_or_put("numbers", || Ok(Queue::new(8)?))?;
    /// let second: Queue<u64> = client.get_or_put("numbers", || panic!("there is one"))?;
    /// first.put(7)?;
    /// assert_eq!(second.get()?, 7);
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`put`](Self::put), but for `NotFound` and `NameTaken`;
    /// [`Os`](DirectoryError::Os) with the error of `make`.
    pub fn get_or_put<H: Handle>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> io::Result<H>,
    ) -> Result<H, DirectoryError> {
        self.get_or_put_within(name, make, Wait::timeout(REQUEST_TIMEOUT))
    }

    /// [`get_or_put`](Self::get_or_put), until `deadline`.
    ///
    /// # Errors
    /// As [`get_or_put`](Self::get_or_put).
    pub fn get_or_put_deadline<H: Handle>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> io::Result<H>,
        deadline: Instant,
    ) -> Result<H, DirectoryError> {
        self.get_or_put_within(name, make, Wait::deadline(deadline))
    }

    fn get_or_put_within<H: Handle>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> io::Result<H>,
        wait: Wait,
    ) -> Result<H, DirectoryError> {
        match self.get_within(name, wait) {
            Err(DirectoryError::NotFound { .. }) => {}
            result => return result,
        }
        let made = make().map_err(DirectoryError::os("making what is to be put"))?;
        let answer = self.put_within(name, &made, true, wait)?;
        if answer.status == Status::Handle { answer.into_handle(name) } else { Ok(made) }
    }

    fn put_within<H: Handle>(
        &mut self,
        name: &str,
        handle: &H,
        or_get: bool,
        wait: Wait,
    ) -> Result<Answered, DirectoryError> {
        check_name(name)?;
        let answer = self.exchange(Ask::Put { name, or_get }, wait, |connection, packet| {
            connection.send_both_with(packet, handle, wait)
        })?;
        match answer.status {
            Status::Done => Ok(answer),
            Status::Handle if or_get => Ok(answer),
            _ => Err(answer.refusal(name)),
        }
    }

    /// Removes a name that this client has put. Participants that have a handle keep it.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::{Address, Directory};
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc remove {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// # let directory = Arc::new(Directory::bind(&address)?);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With a directory that is served at `address`:
    /// let event = Shm::new(Event::new())?;
    /// directory.put("stop", &event)?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// client.put("ready", &event)?;
    /// client.remove("ready")?;
    /// assert!(matches!(client.remove("ready"), Err(DirectoryError::NotFound { .. })));
    /// assert!(matches!(client.remove("stop"), Err(DirectoryError::NotYours { .. })));
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](DirectoryError::NotFound); [`NotYours`](DirectoryError::NotYours);
    /// [`Disconnected`](DirectoryError::Disconnected); [`TimedOut`](DirectoryError::TimedOut);
    /// [`InvalidName`](DirectoryError::InvalidName).
    pub fn remove(&mut self, name: &str) -> Result<(), DirectoryError> {
        self.remove_within(name, Wait::timeout(REQUEST_TIMEOUT))
    }

    /// [`remove`](Self::remove), until `deadline`.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_deadline(&mut self, name: &str, deadline: Instant) -> Result<(), DirectoryError> {
        self.remove_within(name, Wait::deadline(deadline))
    }

    fn remove_within(&mut self, name: &str, wait: Wait) -> Result<(), DirectoryError> {
        check_name(name)?;
        let answer = self.request(Ask::Remove { name }, wait)?;
        if answer.status == Status::Done { Ok(()) } else { Err(answer.refusal(name)) }
    }

    forms! {
        /// Gets a handle to what is served under a name, as soon as there is something.
        ///
        /// ```
        /// use crossproc::directory::DirectoryClient;
        /// use crossproc::{Event, Shm};
        /// # use crossproc::directory::{Address, Directory};
        /// # use std::sync::Arc;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// # let name = format!("crossproc wait_for {}", std::process::id());
        /// # let address = Address::abstract_name(name);
        /// # let directory = Arc::new(Directory::bind(&address)?);
        /// # let served = Arc::clone(&directory);
        /// # let server = std::thread::spawn(move || served.serve());
        /// // With a directory that is served at `address`:
        /// let theirs = address.clone();
        /// let waiter = std::thread::spawn(move || -> std::io::Result<()> {
        ///     let ready: Shm<Event> = DirectoryClient::connect(&theirs)?.wait_for("ready")?;
        ///     ready.set();
        ///     Ok(())
        /// });
        /// let ready = Shm::new(Event::new())?;
        /// let mut client = DirectoryClient::connect(&address)?;
        /// client.put("ready", &ready)?;
        /// ready.wait();
        /// # waiter.join().unwrap()?;
        /// # drop(client);
        /// # directory.close();
        /// # server.join().unwrap()?;
        /// # Ok(())
        /// # }
        /// ```
        wait_for, try_wait_for, wait_for_timeout, wait_for_deadline, wait_for_with <H: Handle>
        (self: &mut Self, name: &str) -> Result<H, DirectoryError>, Self::wait_for_until,
        errors "As [`get`](Self::get), but for `NotFound`.",
        now "[`NotFound`](DirectoryError::NotFound). Then the [descriptor](Self::as_fd) becomes \
             readable when something is put under that name.",
        of directory::DirectoryError
    }

    forms! {
        /// Waits until the directory's revision is not `since`: until a name has come or gone since
        /// then. Returns the new revision. Take the first one from a [listing](Listing::revision).
        ///
        /// So a publisher can follow which subscribers there are, if each of them puts a name.
        ///
        /// ```
        /// use crossproc::directory::DirectoryClient;
        /// use crossproc::{Event, Shm};
        /// # use crossproc::directory::{Address, Directory};
        /// # use std::sync::Arc;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// # let name = format!("crossproc wait_for_change {}", std::process::id());
        /// # let address = Address::abstract_name(name);
        /// # let directory = Arc::new(Directory::bind(&address)?);
        /// # let served = Arc::clone(&directory);
        /// # let server = std::thread::spawn(move || served.serve());
        /// // With a directory that is served at `address`:
        /// let mut client = DirectoryClient::connect(&address)?;
        /// let before = client.list("worker ")?;
        /// assert!(before.names.is_empty());
        /// // Another participant puts a name.
        /// directory.put("worker 1", &Shm::new(Event::new())?)?;
        /// let revision = client.wait_for_change(before.revision)?;
        /// assert_ne!(revision, before.revision);
        /// assert_eq!(client.list("worker ")?.names, ["worker 1"]);
        /// # drop(client);
        /// # directory.close();
        /// # server.join().unwrap()?;
        /// # Ok(())
        /// # }
        /// ```
        wait_for_change, try_wait_for_change, wait_for_change_timeout, wait_for_change_deadline,
        wait_for_change_with
        (self: &mut Self, since: u64) -> Result<u64, DirectoryError>, Self::wait_for_change_until,
        errors "[`Disconnected`](DirectoryError::Disconnected).",
        now "[`Unchanged`](DirectoryError::Unchanged). Then the [descriptor](Self::as_fd) becomes \
             readable at the next change.",
        of directory::DirectoryError
    }

    fn wait_for_until<H: Handle>(
        &mut self,
        name: &str,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<H, DirectoryError> {
        check_name(name)?;
        self.until(
            |tell| Ask::Wait { name, tell },
            wait,
            |_| DirectoryError::NotFound { name: name.to_owned() },
        )?
        .into_handle(name)
    }

    fn wait_for_change_until(
        &mut self,
        since: u64,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<u64, DirectoryError> {
        let ask = |tell| Ask::Change { since, tell };
        let answer = self.until(ask, wait, |revision| DirectoryError::Unchanged { revision })?;
        if answer.status == Status::Done { Ok(answer.revision) } else { Err(answer.refusal("")) }
    }

    /// Has the server wait. A caller without time to wait asks to be told at once if there is
    /// nothing yet.
    fn until<'n>(
        &mut self,
        ask: impl FnOnce(bool) -> Ask<'n>,
        wait: Option<impl FnOnce() -> Wait>,
        not_yet: impl FnOnce(u64) -> DirectoryError,
    ) -> Result<Answered, DirectoryError> {
        let wait = wait.map(|wait| wait());
        match wait {
            Some(wait) if wait.until().is_none_or(|until| until > clock::now()) => {
                self.request(ask(false), wait)
            }
            _ => match self.request(ask(true), one_round(wait))? {
                Answered { status: Status::Pending, revision, .. } => {
                    Err(if wait.is_some() { DirectoryError::TimedOut } else { not_yet(revision) })
                }
                answer => Ok(answer),
            },
        }
    }

    fn request(&mut self, ask: Ask<'_>, wait: Wait) -> Result<Answered, DirectoryError> {
        self.exchange(ask, wait, |connection, packet| connection.send_with(packet, wait))
    }

    /// Sends a request, and receives until its reply comes.
    fn exchange(
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

impl Drop for DirectoryClient {
    /// Closes the connection, without a moment in which a child could get it and keep the names.
    fn drop(&mut self) {
        self.connection.close();
    }
}

impl Answered {
    /// Returns the handle that it brought.
    fn into_handle<H: Handle>(mut self, name: &str) -> Result<H, DirectoryError> {
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
    fn refusal(&self, name: &str) -> DirectoryError {
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

/// Returns the limit of a question that must be asked although there is no time to wait for its
/// subject.
fn one_round(wait: Option<Wait>) -> Wait {
    wait.unwrap_or(Wait::FOREVER).within(REQUEST_TIMEOUT)
}

fn put_or_not(result: Result<(), DirectoryError>) -> Result<bool, DirectoryError> {
    match result {
        Ok(()) => Ok(true),
        Err(DirectoryError::NameTaken { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn malformed(what: impl Into<String>) -> DirectoryError {
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
