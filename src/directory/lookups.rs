//! What a client asks of a directory: a handle, the names, or to be told of them.

use std::time::Instant;

use crossproc_sys::clock;

use super::client::{Answered, DirectoryClient, REQUEST_TIMEOUT, malformed};
use super::error::{DirectoryError, check_name};
use super::protocol::{Ask, Reply, Status, flaw_of_prefix};
use crate::memory::Handle;
use crate::wait::{Wait, forms};

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

impl DirectoryClient {
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

    pub(super) fn get_within<H: Handle>(
        &mut self,
        name: &str,
        wait: Wait,
    ) -> Result<H, DirectoryError> {
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
        now "[`NotFound`](DirectoryError::NotFound). \
             Then the [descriptor](DirectoryClient#method.as_fd) becomes \
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
        now "[`Unchanged`](DirectoryError::Unchanged). \
             Then the [descriptor](DirectoryClient#method.as_fd) becomes \
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
}

/// Returns the limit of a question that must be asked although there is no time to wait for its
/// subject.
fn one_round(wait: Option<Wait>) -> Wait {
    wait.unwrap_or(Wait::FOREVER).within(REQUEST_TIMEOUT)
}
