//! [`Directory`]: serves handles by name, to processes that need not be related.

use core::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::sync::{Arc, Mutex, TryLockError};

use crossproc_sys::clock;
use crossproc_sys::ids;
use crossproc_sys::per_process::PerProcess;
use crossproc_sys::poll::Bell;

use super::address::Address;
use super::claim::Claim;
use super::closer::{Closer, Foreign};
use super::error::{DirectoryError, check_name};
use super::options::DirectoryOptions;
use super::server::Server;
use super::service::{Served, Service};
use super::state::Registry;
use crate::memory::Handle;
use crate::reactor::own_threads;

/// Handles, served by name over a Unix socket.
///
/// A process that has the address [connects](super::DirectoryClient), asks for a name, and gets a
/// handle of its own to what is served under it. The handle does not need the directory: it goes on
/// working when the server is gone.
///
/// A directory is [bound](Directory::bind) to an [`Address`], and [served](Directory::serve) by one
/// thread. Its owner [puts](Directory::put) handles into it, and so do clients that are allowed to.
/// The owner's names are served until the directory is dropped. A client's names are served until
/// its connection ends: when the client is killed, they are gone. A taken name stays taken until it
/// is removed: nothing is replaced.
///
/// A name has 1 to 255 bytes of UTF-8, without a NUL.
///
/// # Who may connect
/// By [default](DirectoryOptions), only processes of the same user may look up and put. The kernel
/// tells which user a client belongs to (`SO_PEERCRED`). Other users can be allowed to do either.
///
/// A client that may connect may misbehave. It may send garbage, send without receiving, connect
/// without end, or send descriptors that take for ever to close. The other clients are served all
/// the same: the server takes one request of each in turn, within [limits](DirectoryOptions). It
/// cuts off a client that does not receive.
///
/// What is *in* a handle is another matter: only processes that trust each other should share
/// memory. From clients, the directory takes memory that this crate has made, and Unix sockets,
/// such as a [`Connection`](crate::Connection)'s.
///
/// # Blocking and fairness
/// [`serve`](Directory::serve) blocks until [`close`](Directory::close). Nothing else does.
///
/// Up to 16 threads close what clients have left, because closing can take as long as a client
/// likes. Each ends after a second without work. If no thread can be started, the directory says so
/// once on standard error. The serving thread then closes descriptors itself, when it has to.
///
/// # Memory ordering
/// Putting a handle *synchronises with* getting it.
///
/// # Process death
/// When the server is killed, its clients are [disconnected](DirectoryError::Disconnected). They
/// keep the handles that they have, and can put them into the next server's directory. The next
/// `bind` takes the address over, and the path leads to a socket throughout. While `PATH` is
/// served, and after a kill, `PATH.lock` lies beside it.
///
/// # Working directory
/// `bind` looks a path up once. A client makes a path absolute once, when it begins to connect. A
/// program may change its working directory afterwards, and the folder of a bound path may be
/// moved. (One exception: a client's relative path may come to more than 107 bytes with the working
/// directory before it. It is then looked up anew at each attempt.)
///
/// # Fork
/// Forked children have neither the directory's sockets nor a client's: a handler of
/// `pthread_atfork(3)` takes them away. So a child that outlives a killed server keeps neither its
/// address nor its clients. A killed client's names go, even if it has forked. In the child, a
/// client is [disconnected](DirectoryError::Disconnected) and a directory is [not to be
/// served](DirectoryError::NotToBeServed); neither disturbs the parent's. A program that forks into
/// the background should bind afterwards.
///
/// The limit: a child that is forked by a raw system call, which runs no handlers, has the sockets
/// until it calls `exec` or ends. So does a child that another thread forks between the system call
/// that makes a socket and the note of it. If the server is killed while such a child lives, then
/// - a connecting client is told that nobody serves, since the kernel names the process that made
///   the socket listen;
/// - clients that were connected at the time of the fork wait until their deadlines;
/// - a path can be bound again, but an abstract name cannot, until that child is gone:
///   [`Orphaned`](DirectoryError::Orphaned), after a second, in which a child that was only just
///   forked has closed its copy.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::directory::{Directory, DirectoryClient};
/// use crossproc::{Event, Shm, process};
/// use std::path::Path;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("crossproc-directory-{}", std::process::id()));
/// # std::fs::create_dir(&folder)?;
/// # let path = folder.join("plant");
/// # let path: &Path = &path;
/// // A worker, which need not be a child, nor know more than the address.
/// let address = path.to_owned();
/// let worker = process::fork(move || -> std::io::Result<()> {
///     let mut client =
///         DirectoryClient::connect_timeout(&address, std::time::Duration::from_secs(10))?;
///     let ready: Shm<Event> = client.wait_for("ready")?;
///     ready.set();
///     Ok(())
/// })?;
///
/// let directory = Directory::bind(path)?;
/// let ready = Shm::new(Event::new())?;
/// std::thread::scope(|scope| -> Result<(), Box<dyn std::error::Error>> {
///     let server = scope.spawn(|| directory.serve());
///     directory.put("ready", &ready)?;
///     ready.wait();
///     directory.close();
///     server.join().unwrap()?;
///     Ok(())
/// })?;
/// # assert!(worker.join()?.success());
/// # drop(directory);
/// # std::fs::remove_dir(&folder)?;
/// # Ok(())
/// # }
/// ```
pub struct Directory(Service);

impl DirectoryOptions {
    /// Takes an address. What a server that has ended left there is replaced, however that server
    /// ended. From then on clients can connect. They are answered once the directory is
    /// [served](Directory::serve).
    ///
    /// Only this user can connect to the socket of a path (mode 0600). If other users are allowed,
    /// all users can (0666), and the server checks each of them.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryError, DirectoryOptions};
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc bind 1 {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = DirectoryOptions::new().connections(50).bind(&address)?;
    /// let second = DirectoryOptions::new().bind(&address);
    /// assert!(matches!(second, Err(DirectoryError::AlreadyServed { .. })));
    /// # drop(directory);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AlreadyServed`](DirectoryError::AlreadyServed) if another living server has the address,
    /// even one in this process; [`Orphaned`](DirectoryError::Orphaned) if a child of a dead server
    /// still has its abstract name; [`NotASocket`](DirectoryError::NotASocket) if the path is
    /// something else; [`InvalidAddress`](DirectoryError::InvalidAddress); what the system says: no
    /// such folder, no permission, no descriptor.
    pub fn bind(self, address: impl Into<Address>) -> Result<Directory, DirectoryError> {
        let own = ids::user().map_err(DirectoryError::os("asking for the user (geteuid)"))?;
        let is_open = self.rules.lookers.iter().chain(&self.rules.putters).any(|&uid| uid != own);
        let bell = Arc::new(Bell::new().map_err(DirectoryError::os("making an eventfd"))?);
        let process = PROCESS
            .get()
            .map_err(|source| DirectoryError::Os { what: "mapping memory", source })?;
        let (listener, claim) = Claim::take(&address.into(), is_open)?;
        // Starts at the clock, so that a later server's revisions are later ones, unless there is
        // more than one change in a nanosecond.
        let state = Registry::new(self.rules.limits, clock::now());
        let closer = Closer::new(self.rules.left_to_close, Arc::clone(&bell));
        own_threads::ended_by_forks(own_threads::weak(&closer))
            .map_err(|source| DirectoryError::Os { what: "mapping memory", source })?;
        Ok(Directory(Service {
            listener,
            process,
            claim,
            rules: self.rules,
            state: Mutex::new(state),
            serving: Mutex::new(()),
            is_closed: AtomicBool::new(false),
            bell,
            closer,
        }))
    }
}

/// Tells this process from its forked children, even from one that has the same pid in another
/// namespace.
static PROCESS: PerProcess<()> = PerProcess::new();

impl Directory {
    /// Takes an address, with the [defaults](DirectoryOptions::new).
    ///
    /// ```
    /// use crossproc::directory::Directory;
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc bind 2 {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// drop(directory);
    /// // The address is free again.
    /// let next = Directory::bind(&address)?;
    /// assert!(next.names().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`DirectoryOptions::bind`].
    pub fn bind(address: impl Into<Address>) -> Result<Self, DirectoryError> {
        DirectoryOptions::new().bind(address)
    }

    /// Returns the address, as it was given. A relative path is relative to the working directory
    /// in which it was bound.
    ///
    /// ```
    /// use crossproc::directory::{Address, Directory};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let name = format!("crossproc address {}", std::process::id());
    /// let directory = Directory::bind(Address::abstract_name(&name))?;
    /// assert_eq!(directory.address().to_string(), format!("@{name}"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn address(&self) -> &Address {
        self.0.claim.address()
    }

    /// Serves a handle under a name until the directory is dropped or the name is
    /// [removed](Directory::remove). The handle need not live on.
    ///
    /// ```
    /// use crossproc::directory::{Directory, DirectoryError};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc put {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// let ready = Shm::new(Event::new())?;
    /// directory.put("ready", &ready)?;
    /// assert!(matches!(directory.put("ready", &ready), Err(DirectoryError::NameTaken { .. })));
    /// assert!(matches!(directory.put("", &ready), Err(DirectoryError::InvalidName { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NameTaken`](DirectoryError::NameTaken): nothing is replaced;
    /// [`InvalidName`](DirectoryError::InvalidName); no free descriptor.
    pub fn put<H: Handle>(&self, name: &str, handle: &H) -> Result<(), DirectoryError> {
        check_name(name)?;
        let fd = handle
            .as_fd()
            .try_clone_to_owned()
            .map_err(DirectoryError::os("duplicating the handle's descriptor"))?;
        let served = Served { fd: Foreign::new(fd, &self.0.closer), kind: H::kind().to_owned() };
        if !self.0.state().put(name, Arc::new(served)) {
            return Err(DirectoryError::NameTaken { name: name.to_owned() });
        }
        // For the clients that wait for it.
        self.0.bell.ring();
        Ok(())
    }

    /// Stops serving a name, whether the owner or a client put it. Participants that have a handle
    /// keep it.
    ///
    /// ```
    /// use crossproc::directory::{Directory, DirectoryError};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc remove {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// directory.put("ready", &Shm::new(Event::new())?)?;
    /// directory.remove("ready")?;
    /// assert!(matches!(directory.remove("ready"), Err(DirectoryError::NotFound { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](DirectoryError::NotFound).
    pub fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        if !self.0.state().remove(name) {
            return Err(DirectoryError::NotFound { name: name.to_owned() });
        }
        self.0.bell.ring();
        Ok(())
    }

    /// Returns all served names, in order: the owner's and the clients'.
    ///
    /// ```
    /// use crossproc::directory::Directory;
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc names 2 {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// let event = Shm::new(Event::new())?;
    /// directory.put("stop", &event)?;
    /// directory.put("ready", &event)?;
    /// assert_eq!(directory.names(), ["ready", "stop"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.state().names().map(str::to_owned).collect()
    }

    /// Serves until the directory is [closed](Directory::close). Then the clients are disconnected.
    ///
    /// ```
    /// use crossproc::directory::{Directory, DirectoryClient, DirectoryError};
    /// use std::thread;
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc serve {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// let (mut client, served) = thread::scope(|scope| {
    ///     let server = scope.spawn(|| directory.serve());
    ///     let client = DirectoryClient::connect(&address);
    ///     directory.close();
    ///     (client.unwrap(), server.join().unwrap())
    /// });
    /// served?;
    /// assert!(matches!(client.list(""), Err(DirectoryError::Disconnected)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotToBeServed`](DirectoryError::NotToBeServed) if another thread serves, or if this
    /// process is a fork of the one that bound the directory; no descriptor or no memory for an
    /// epoll instance.
    pub fn serve(&self) -> Result<(), DirectoryError> {
        if !self.0.process.is_of_this_process() {
            return Err(DirectoryError::NotToBeServed {
                what: "was bound by the process that this one is a fork of: bind it after the fork",
            });
        }
        let _serving = match self.0.serving.try_lock() {
            Ok(serving) => serving,
            Err(TryLockError::Poisoned(serving)) => serving.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(DirectoryError::NotToBeServed {
                    what: "is served by another thread already",
                });
            }
        };
        let _named = own_threads::serves(self.address().to_string());
        Server::new(&self.0)?.run()
    }

    /// Ends [`serve`](Directory::serve) for good: a later call returns at once, and no client can
    /// connect. The address is free once the directory is dropped.
    ///
    /// ```
    /// use crossproc::directory::{Directory, DirectoryClient, DirectoryError};
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc close {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// directory.close();
    /// directory.serve()?; // returns at once
    /// let late = DirectoryClient::connect(&address);
    /// assert!(matches!(late, Err(DirectoryError::NotServed { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        // Release: pairs with the Acquire in `Server::run`, which loads it after each bell.
        self.0.is_closed.store(true, Release);
        self.0.turn_away();
        self.0.bell.ring();
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("address", self.address())
            .field("names", &self.names())
            .finish_non_exhaustive()
    }
}
