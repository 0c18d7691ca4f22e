//! [`ConnectOptions`]: which servers a client trusts. And finding one that may not be there yet.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crossproc_sys::clock;
use crossproc_sys::descriptor::above_standard;
use crossproc_sys::ids;
use crossproc_sys::pidfd;
use crossproc_sys::poll::{PollFd, PollFlags, Polled, poll};
use crossproc_sys::socket as sys;
use rustix::fs::inotify;
use rustix::io::{Errno, read};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::address::Address;
use super::error::DirectoryError;
use super::own::Own;
use crate::connection::Connection;
use crate::wait::{Wait, recheck_interval};

/// The nanoseconds between two looks for a server whose coming nothing announces: at an abstract
/// name, in a folder that is not there, or without an inotify watch.
const LOOK: u64 = 20_000_000;

/// Options of a client that connects to a [`Directory`](super::Directory): which users' servers it
/// trusts.
///
/// Any process may take an abstract name, or a path in a folder that all may write to. A client
/// therefore checks the user of the process that listens (`SO_PEERCRED`). It must be the client's
/// own effective user, or root, or a trusted one.
///
/// ```no_run
/// use crossproc::directory::{Address, ConnectOptions};
///
/// # fn main() -> Result<(), crossproc::directory::DirectoryError> {
/// let client = ConnectOptions::new().trust(33).connect(Address::abstract_name("plant"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    trusted: BTreeSet<u32>,
    /// The error, if a sandbox refused to say which user this process belongs to.
    own_is_unknown: Option<Errno>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        let own = ids::user();
        ConnectOptions { trusted: own.into_iter().chain([0]).collect(), own_is_unknown: own.err() }
    }
}

impl ConnectOptions {
    /// Returns the defaults: only this process's effective user and root are trusted.
    ///
    /// ```
    /// use crossproc::directory::{ConnectOptions, Directory};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc new {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = Directory::bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let mut client = ConnectOptions::new().connect(&address)?;
    /// assert!(client.list("")?.names.is_empty());
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        ConnectOptions::default()
    }

    /// Trusts servers of this user, too.
    ///
    /// ```
    /// use crossproc::directory::{ConnectOptions, Directory};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc trust {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let own = rustix::process::geteuid().as_raw();
    /// let directory = Directory::bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let only_own = ConnectOptions::new().distrust(0).trust(own);
    /// let mut client = only_own.connect(&address)?;
    /// assert!(client.list("")?.names.is_empty());
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn trust(mut self, uid: u32) -> Self {
        self.trusted.insert(uid);
        self
    }

    /// Does not trust servers of this user, even if it is this process's own user, or root.
    ///
    /// ```
    /// use crossproc::directory::{ConnectOptions, Directory, DirectoryError};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc distrust {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let own = rustix::process::geteuid().as_raw();
    /// let directory = Directory::bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let refused = ConnectOptions::new().distrust(own).connect(&address);
    /// assert!(matches!(refused, Err(DirectoryError::UntrustedServer { uid, .. }) if uid == own));
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn distrust(mut self, uid: u32) -> Self {
        self.trusted.remove(&uid);
        self
    }

    /// Tries once to connect to the server. Returns the connection to one that is trusted.
    pub(super) fn dial(
        &self,
        address: &Address,
        place: &SocketAddrUnix,
        wait: Wait,
    ) -> Result<Own<Connection>, DirectoryError> {
        let socket = dial(address, place, wait)?;
        let peer = sys::peer(&*socket).map_err(DirectoryError::os("finding out who serves"))?;
        if !self.trusted.contains(&peer.uid) {
            if let Some(errno) = self.own_is_unknown {
                return Err(DirectoryError::os("asking for this process's user (geteuid)")(errno));
            }
            return Err(DirectoryError::UntrustedServer {
                address: address.clone(),
                uid: peer.uid,
                pid: peer.pid,
            });
        }
        if pidfd::has_ended(peer.pid) {
            // A process that the server forked by a raw system call has its socket still.
            let source = io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("its server, process {}, has ended", peer.pid),
            );
            return Err(DirectoryError::NotServed { address: address.clone(), source });
        }
        Ok(socket.into_connection())
    }
}

/// Returns a connected socket.
fn dial(
    address: &Address,
    place: &SocketAddrUnix,
    wait: Wait,
) -> Result<Own<OwnedFd>, DirectoryError> {
    loop {
        let made =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .and_then(above_standard);
        let socket = made.map_err(DirectoryError::os("making a socket"))?;
        // Before connecting, which may take long.
        let socket = Own::new(socket)
            .map_err(DirectoryError::os("keeping the socket from forked children"))?;
        // While too many connections wait to be accepted, `connect` blocks until this time-out. A
        // time-out of zero would mean for ever.
        let left = |until: u64| Duration::from_nanos(until.saturating_sub(clock::now()).max(1_000));
        let limit = |left| {
            set_socket_timeout(&*socket, Timeout::Send, left)
                .map_err(DirectoryError::os("setting a time-out"))
        };
        if wait.is_interrupted() {
            return Err(DirectoryError::Interrupted);
        }
        limit([wait.until(), wait.look_at()].into_iter().flatten().min().map(left))?;
        match connect(&*socket, place) {
            Ok(()) => {
                limit(None)?;
                return Ok(socket);
            }
            Err(Errno::INTR) if wait.ends_by_signal() => return Err(DirectoryError::Interrupted),
            Err(Errno::INTR) if wait.is_over() => return Err(DirectoryError::TimedOut),
            Err(Errno::INTR) => {}
            // Only a slice is over, not the whole wait. (The kernel counts in ticks and may be a
            // little early.)
            Err(Errno::AGAIN) if wait.look_at().is_some() && !wait.is_over() => {}
            Err(Errno::AGAIN) => return Err(DirectoryError::TimedOut),
            Err(errno @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                return Err(DirectoryError::NotServed {
                    address: address.clone(),
                    source: errno.into(),
                });
            }
            Err(errno) => return Err(DirectoryError::os("connecting to the directory")(errno)),
        }
    }
}

/// Watches what comes into a folder: `inotify(7)`.
pub(super) struct FolderWatch(OwnedFd);

impl FolderWatch {
    /// Returns `None` if there is no such folder, or the system has no watch left.
    pub(super) fn of_folder(path: &Path) -> Option<Self> {
        let folder = path
            .parent()
            .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .and_then(above_standard)
            .ok()?;
        inotify::add_watch(&events, fs::canonicalize(folder).ok()?, inotify::WatchFlags::MOVED_TO)
            .ok()?;
        Some(FolderWatch(events))
    }

    /// Waits until something has come, or until it is time to look again.
    pub(super) fn wait(watch: Option<&Self>, wait: Wait) -> Result<(), DirectoryError> {
        let mut watched: Vec<_> =
            watch.iter().map(|watch| PollFd::new(&watch.0, PollFlags::IN)).collect();
        if wait.is_interrupted() {
            return Err(DirectoryError::Interrupted);
        }
        let pause = if watch.is_some() {
            recheck_interval().map(|slice| slice.as_nanos() as u64)
        } else {
            Some(LOOK)
        };
        let end = pause.map(|pause| clock::now().saturating_add(pause));
        let until = [wait.until(), end].into_iter().flatten().min();
        let failed = |source| DirectoryError::Os { what: "waiting for a server", source };
        match poll(&mut watched, until).map_err(failed)? {
            Polled::Interrupted if wait.ends_by_signal() => Err(DirectoryError::Interrupted),
            Polled::TimedOut if wait.until() == until => Err(DirectoryError::TimedOut),
            // This ends the wait even if something comes into the folder all the time.
            Polled::Ready | Polled::Interrupted if wait.is_over() => Err(DirectoryError::TimedOut),
            Polled::TimedOut | Polled::Interrupted => Ok(()),
            Polled::Ready => watch.map_or(Ok(()), |watch| watch.forget().map_err(failed)),
        }
    }

    /// Discards the events: the waiting caller looks for the server itself.
    fn forget(&self) -> io::Result<()> {
        let mut events = [0; 4_096];
        // Bounded, since events may come without end.
        for _ in 0..16 {
            match read(&self.0, &mut events) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
