//! [`Directory`]: handles served by name, to processes that nobody started for it.

use core::fmt;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crossproc_sys::clock;
use crossproc_sys::descriptor::above_standard;
use crossproc_sys::ids;
use crossproc_sys::poll::Bell;
use crossproc_sys::retry::retry;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

mod address;
mod claim;
mod client;
mod closer;
mod connect;
mod error;
mod own;
mod protocol;
mod server;
mod state;

pub use self::address::Address;
pub use self::client::{DirectoryClient, Listing};
pub use self::connect::ConnectOptions;
pub use self::error::DirectoryError;

use self::claim::Claim;
use self::closer::{Closer, Foreign};
use self::own::Own;
use self::server::Server;
use self::state::{Limits, Registry};
use crate::memory::Handle;
use crate::memory::per_process::{Current, PerProcess};
use crate::reactor::own_threads;

/// Handles, served by name over a Unix socket.
///
/// A process that has an address [connects](DirectoryClient), asks for a name, and gets a handle of
/// its own to what is served under it. From then on it needs the directory no more: what it has
/// goes on working when the server is gone.
///
/// A directory is [bound](Directory::bind) to an [`Address`], and [served](Directory::serve) by one
/// thread. Its owner [puts](Directory::put) handles into it, and clients that may. The owner's
/// names are served as long as the directory lives, a client's as long as its connection: when it
/// is killed, they are gone. A name that is taken stays so until it is removed: nothing is
/// replaced.
///
/// A name has 1 to 255 bytes of UTF-8, without a NUL.
///
/// # Who may connect
/// By [default](DirectoryOptions) only processes of the same user, as the kernel tells
/// (`SO_PEERCRED`), may look up and put. Others can be allowed either. Whoever may connect may do
/// all of it badly: what it sends is garbage, it sends without receiving, it connects without end,
/// it sends descriptors that take for ever to close. The others are served all the same: a request
/// of each in turn, within [limits](DirectoryOptions), and whoever does not receive is cut off.
/// What is *in* a handle is another matter: only processes that trust each other should share
/// memory. Of clients the directory takes memory that this crate has made, and Unix sockets, such
/// as a [`Connection`](crate::Connection)'s.
///
/// # Blocking and fairness
/// [`serve`](Directory::serve) blocks until [`close`](Directory::close). Nothing else does.
///
/// Up to 16 threads, which end after a second without work, close what clients have left: that can
/// take as long as a client likes. Where none can be started, which the standard error tells once,
/// the thread that serves closes it, when it has to.
///
/// # Memory ordering
/// Putting a handle *synchronises with* getting it.
///
/// # Process death
/// When the server is killed, its clients are [disconnected](DirectoryError::Disconnected), keep
/// what they have, and can put it into the next one's. The next `bind` takes the address over; a
/// path leads to a socket at any time. Beside a path `PATH` lies `PATH.lock` while it is served,
/// and after a kill.
///
/// # Working directory
/// A path is looked up once, by `bind` or when a client begins to connect. A program may change its
/// working directory afterwards, and its folder may be moved. (A client's relative path that comes
/// to more than 107 bytes with the working directory before it is looked up anew at each attempt.)
///
/// # Fork
/// Forked children have neither the directory's sockets nor a client's: a handler of
/// `pthread_atfork(3)` takes them away. So a child that lives longer than a killed server keeps
/// neither its address nor its clients, and a killed client's names go whomever it has forked. In
/// the child a client is [disconnected](DirectoryError::Disconnected) and a directory is [not to be
/// served](DirectoryError::NotToBeServed); neither disturbs the parent's. What goes into the
/// background by a fork binds afterwards.
///
/// The limit: a child that is forked by a raw system call, which runs no handlers, has them until
/// it calls `exec` or ends; so has one that another thread forks in the very moment, between the
/// system call that makes a socket and the note of it. If the server is killed, then
/// - whoever connects is told that nobody serves, since the kernel says whose the socket was;
/// - clients that were connected when it forked wait for their deadlines;
/// - a path can be bound again, and an abstract name cannot, before that child is gone:
///   [`Orphaned`](DirectoryError::Orphaned).
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Directory, DirectoryClient, Event, Shm, process};
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
///     let mut client = DirectoryClient::connect_timeout(&address, std::time::Duration::from_secs(10))?;
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
pub struct Directory {
    listener: Own<OwnedFd>,
    /// Which has bound it.
    /// The one that has bound it.
    process: &'static Current<()>,
    claim: Claim,
    rules: Rules,
    state: Mutex<Registry<Arc<Served>>>,
    /// Held by the thread that serves.
    serving: Mutex<()>,
    is_closed: AtomicBool,
    bell: Arc<Bell>,
    closer: Arc<Closer>,
}

/// A handle that is served.
#[derive(Debug)]
struct Served {
    fd: Foreign,
    /// What it is, in the words of whoever put it.
    kind: String,
}

/// Who may do what, and how much.
#[derive(Debug, Clone)]
struct Rules {
    lookers: BTreeSet<u32>,
    putters: BTreeSet<u32>,
    connections: usize,
    connections_per_process: usize,
    limits: Limits,
    /// How many descriptors of clients may be left to close before no more are received.
    left_to_close: usize,
}

impl Rules {
    fn may_look_up(&self, uid: u32) -> bool {
        self.lookers.contains(&uid) || self.may_put(uid)
    }

    fn may_put(&self, uid: u32) -> bool {
        self.putters.contains(&uid)
    }
}

/// How a [`Directory`] is to be: who may connect, and how much of it.
///
/// ```no_run
/// use crossproc::DirectoryOptions;
/// use crossproc::directory::Address;
///
/// # fn main() -> Result<(), crossproc::DirectoryError> {
/// let directory = DirectoryOptions::new().allow_lookup(33).connections(50).bind(Address::abstract_name("plant"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    rules: Rules,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        // A quarter of the descriptors for connections, a quarter for names, an eighth for what is
        // to be closed, and the rest for one packet's and everything else.
        let descriptors = ids::most_descriptors().unwrap_or(u64::MAX);
        let part =
            |of: u64, most: usize| usize::try_from(descriptors / of).unwrap_or(most).clamp(1, most);
        DirectoryOptions {
            rules: Rules {
                lookers: BTreeSet::new(),
                // Where a sandbox refuses to say, `bind` says so.
                putters: ids::user().into_iter().collect(),
                connections: part(4, Self::MAX_CONNECTIONS),
                connections_per_process: 32,
                limits: Limits { names: part(4, 4_096), names_per_client: 64 },
                left_to_close: part(8, 256),
            },
        }
    }
}

impl DirectoryOptions {
    /// The most connections that a directory takes, whatever is set: so many get an answer each in
    /// some ten milliseconds.
    pub const MAX_CONNECTIONS: usize = 1_024;

    /// The defaults: whoever is of this process's effective user may look up and put. There may be
    /// 1,024 connections, 32 of them of one process, 64 names of one connection, and 4,096 names of
    /// all together; connections and names a quarter of `RLIMIT_NOFILE` each, if that is less.
    #[must_use]
    pub fn new() -> Self {
        DirectoryOptions::default()
    }

    /// Lets a user look up what is there, and wait for it.
    #[must_use]
    pub fn allow_lookup(mut self, uid: u32) -> Self {
        self.rules.lookers.insert(uid);
        self
    }

    /// Lets a user look up and put.
    #[must_use]
    pub fn allow_put(mut self, uid: u32) -> Self {
        self.rules.putters.insert(uid);
        self
    }

    /// Lets a user do nothing, also if it is the server's own.
    #[must_use]
    pub fn deny(mut self, uid: u32) -> Self {
        self.rules.lookers.remove(&uid);
        self.rules.putters.remove(&uid);
        self
    }

    /// How many connections there may be: at most [`MAX_CONNECTIONS`](Self::MAX_CONNECTIONS), and
    /// each takes a descriptor of the server.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.rules.connections = most.min(Self::MAX_CONNECTIONS);
        self
    }

    /// How many connections a process may have, by the process that connected.
    #[must_use]
    pub fn connections_per_process(mut self, most: usize) -> Self {
        self.rules.connections_per_process = most;
        self
    }

    /// How many names clients may have, all together. Each takes a descriptor of the server. What
    /// the directory's owner puts does not count.
    #[must_use]
    pub fn names(mut self, most: usize) -> Self {
        self.rules.limits.names = most;
        self
    }

    /// How many names a connection may have.
    #[must_use]
    pub fn names_per_connection(mut self, most: usize) -> Self {
        self.rules.limits.names_per_client = most;
        self
    }

    /// Takes an address. What was there of a server that has ended, however it did, is replaced.
    /// From now on clients can connect; they are answered once it is [served](Directory::serve).
    ///
    /// The socket of a path may be connected to by its user alone (mode 0600), or by all (0666) if
    /// other users are allowed, who are then looked at one by one.
    ///
    /// # Errors
    /// [`AlreadyServed`](DirectoryError::AlreadyServed) if another server lives, also in this
    /// process; [`NotASocket`](DirectoryError::NotASocket) if the path is something else;
    /// [`InvalidAddress`](DirectoryError::InvalidAddress); what the system says: no
    /// such folder, no permission, no descriptor.
    pub fn bind(self, address: impl Into<Address>) -> Result<Directory, DirectoryError> {
        let own = ids::user().map_err(DirectoryError::os("asking for the user (geteuid)"))?;
        let is_open = self.rules.lookers.iter().chain(&self.rules.putters).any(|&uid| uid != own);
        let bell = Arc::new(Bell::new().map_err(DirectoryError::os("making an eventfd"))?);
        let process = PROCESS
            .get()
            .map_err(|source| DirectoryError::Os { what: "mapping memory", source })?;
        let (listener, claim) = Claim::take(&address.into(), is_open)?;
        // A later server's revisions are later ones, unless there is more than one change in a
        // nanosecond.
        let state = Registry::new(self.rules.limits, clock::now());
        let closer = Closer::new(self.rules.left_to_close, Arc::clone(&bell));
        own_threads::ended_by_forks(own_threads::weak(&closer))
            .map_err(|source| DirectoryError::Os { what: "mapping memory", source })?;
        Ok(Directory {
            listener,
            process,
            claim,
            rules: self.rules,
            state: Mutex::new(state),
            serving: Mutex::new(()),
            is_closed: AtomicBool::new(false),
            bell,
            closer,
        })
    }
}

/// What tells this process from its forked children, also from one that has the same pid, in
/// another namespace.
static PROCESS: PerProcess<()> = PerProcess::new();

impl Directory {
    /// Takes an address, with the [defaults](DirectoryOptions::new).
    ///
    /// # Errors
    /// As [`DirectoryOptions::bind`].
    pub fn bind(address: impl Into<Address>) -> Result<Self, DirectoryError> {
        DirectoryOptions::new().bind(address)
    }

    /// Where it is served, as it was given: a relative path is one from the working directory that
    /// it was bound in.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.claim.address()
    }

    /// Serves a handle under a name, as long as the directory lives, or until the name is
    /// [removed](Directory::remove). The handle need not live on.
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
        let served = Served { fd: Foreign::new(fd, &self.closer), kind: H::kind().to_owned() };
        if !self.state().put(name, Arc::new(served)) {
            return Err(DirectoryError::NameTaken { name: name.to_owned() });
        }
        // For those who wait for it.
        self.bell.ring();
        Ok(())
    }

    /// Serves nothing under this name any more, whoever has put it. Those who have a handle keep
    /// it.
    ///
    /// # Errors
    /// [`NotFound`](DirectoryError::NotFound).
    pub fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        if !self.state().remove(name) {
            return Err(DirectoryError::NotFound { name: name.to_owned() });
        }
        self.bell.ring();
        Ok(())
    }

    /// What is served, in order: the owner's names and the clients'.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().names().map(str::to_owned).collect()
    }

    /// Serves, until it is [closed](Directory::close). Then the clients are disconnected.
    ///
    /// # Errors
    /// [`NotToBeServed`](DirectoryError::NotToBeServed) if another thread serves, or this is a fork
    /// of the process that has bound it; no descriptor or no memory for an epoll instance.
    pub fn serve(&self) -> Result<(), DirectoryError> {
        if !self.process.is_of_this_process() {
            return Err(DirectoryError::NotToBeServed {
                what: "was bound by the process that this one is a fork of: bind it after the fork",
            });
        }
        let _serving = match self.serving.try_lock() {
            Ok(serving) => serving,
            Err(TryLockError::Poisoned(serving)) => serving.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(DirectoryError::NotToBeServed {
                    what: "is served by another thread already",
                });
            }
        };
        let _named = own_threads::serves(self.address().to_string());
        Server::new(self)?.run()
    }

    /// Ends [`serve`](Directory::serve), for good: a later one returns at once, and no client can
    /// connect. The address is free once the directory is dropped.
    pub fn close(&self) {
        // Release: pairs with the Acquire in `Server::run`, which loads it after each bell.
        self.is_closed.store(true, Release);
        self.turn_away();
        self.bell.ring();
    }

    /// Refuses connections from now on, and ends those that were not accepted yet. What lies in
    /// them is closed elsewhere: it may take as long as strangers like.
    fn turn_away(&self) {
        // It cannot fail for a socket that listens.
        let _ = shutdown(&*self.listener, Shutdown::Both);
        loop {
            match retry(|| accept_with(&*self.listener, SocketFlags::CLOEXEC))
                .and_then(above_standard)
            {
                Ok(socket) => drop(Foreign::new(socket, &self.closer)),
                Err(Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// Nothing panics while it holds this lock, and nobody holds it for long.
    fn state(&self) -> MutexGuard<'_, Registry<Arc<Served>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.turn_away();
        self.listener.close();
        self.closer.finish();
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

fn check_name(name: &str) -> Result<(), DirectoryError> {
    match protocol::flaw_of_name(name) {
        None => Ok(()),
        Some(why) => {
            Err(DirectoryError::InvalidName { name: name.to_owned(), why: why.to_owned() })
        }
    }
}
