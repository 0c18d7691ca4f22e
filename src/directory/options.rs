//! [`DirectoryOptions`]: who may connect to a directory, and its limits.

use std::collections::BTreeSet;

use crossproc_sys::ids;

use super::state::Limits;

/// Which users may do what, and how much.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) lookers: BTreeSet<u32>,
    pub(super) putters: BTreeSet<u32>,
    pub(super) connections: usize,
    pub(super) connections_per_process: usize,
    pub(super) limits: Limits,
    /// The number of client descriptors left to close at which no more are received.
    pub(super) left_to_close: usize,
}

impl Rules {
    pub(super) fn may_look_up(&self, uid: u32) -> bool {
        self.lookers.contains(&uid) || self.may_put(uid)
    }

    pub(super) fn may_put(&self, uid: u32) -> bool {
        self.putters.contains(&uid)
    }
}

/// Options of a [`Directory`](super::Directory): who may connect, and the limits.
///
/// ```no_run
/// use crossproc::directory::DirectoryOptions;
/// use crossproc::directory::Address;
///
/// # fn main() -> Result<(), crossproc::directory::DirectoryError> {
/// let directory = DirectoryOptions::new()
///     .allow_lookup(33)
///     .connections(50)
///     .bind(Address::abstract_name("plant"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    pub(super) rules: Rules,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        // Of all descriptors, a quarter is for connections, a quarter for names, and an eighth for
        // what is left to close. The rest is for one packet's descriptors and everything else.
        let descriptors = ids::most_descriptors().unwrap_or(u64::MAX);
        let part =
            |of: u64, most: usize| usize::try_from(descriptors / of).unwrap_or(most).clamp(1, most);
        DirectoryOptions {
            rules: Rules {
                lookers: BTreeSet::new(),
                // If a sandbox refuses to name the user, `bind` reports it.
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
    /// The greatest number of connections of a directory, whatever is set. To answer so many once
    /// each takes the server some ten milliseconds.
    pub const MAX_CONNECTIONS: usize = 1_024;

    /// Returns the defaults. Processes of this process's effective user may look up and put. There
    /// may be 1,024 connections, 32 of them of one process. One connection may have 64 names, and
    /// all connections together 4,096. Connections and names are each limited to a quarter of
    /// `RLIMIT_NOFILE`, if that is less.
    ///
    /// ```
    /// use crossproc::directory::DirectoryOptions;
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc new {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = DirectoryOptions::new().bind(&address)?;
    /// assert_eq!(directory.address(), &address);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        DirectoryOptions::default()
    }

    /// Lets a user look up names, and wait for them.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError, DirectoryOptions};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc allow_lookup {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let own = rustix::process::geteuid().as_raw();
    /// // This user, and no other, may look up; nobody may put.
    /// let directory = DirectoryOptions::new().deny(own).allow_lookup(own).bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let ready = Shm::new(Event::new())?;
    /// directory.put("ready", &ready)?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// client.get::<Shm<Event>>("ready")?.set();
    /// assert!(ready.is_set());
    /// assert!(matches!(client.put("steady", &ready), Err(DirectoryError::NotAllowed)));
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn allow_lookup(mut self, uid: u32) -> Self {
        self.rules.lookers.insert(uid);
        self
    }

    /// Lets a user look up and put.
    ///
    /// ```
    /// use crossproc::directory::DirectoryOptions;
    /// # use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc allow_put {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// // Besides this user, 33 may look up, and 34 may look up and put.
    /// let directory = DirectoryOptions::new().allow_lookup(33).allow_put(34).bind(&address)?;
    /// assert!(directory.names().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn allow_put(mut self, uid: u32) -> Self {
        self.rules.putters.insert(uid);
        self
    }

    /// Denies a user everything, even if it is the server's own user.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError, DirectoryOptions};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc deny {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let own = rustix::process::geteuid().as_raw();
    /// let directory = DirectoryOptions::new().deny(own).bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let refused = DirectoryClient::connect(&address);
    /// assert!(matches!(refused, Err(DirectoryError::Unwelcome { .. })));
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn deny(mut self, uid: u32) -> Self {
        self.rules.lookers.remove(&uid);
        self.rules.putters.remove(&uid);
        self
    }

    /// Sets how many connections there may be: at most [`MAX_CONNECTIONS`](Self::MAX_CONNECTIONS).
    /// Each takes a descriptor of the server.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError, DirectoryOptions};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc connections {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = DirectoryOptions::new().connections(1).bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let _client = DirectoryClient::connect(&address)?;
    /// let refused = DirectoryClient::connect(&address);
    /// assert!(matches!(refused, Err(DirectoryError::Unwelcome { .. })));
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.rules.connections = most.min(Self::MAX_CONNECTIONS);
        self
    }

    /// Sets how many connections a process may have. A connection counts for the process that made
    /// it.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError, DirectoryOptions};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc connections_per_process {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = DirectoryOptions::new().connections_per_process(1).bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let _client = DirectoryClient::connect(&address)?;
    /// let refused = DirectoryClient::connect(&address);
    /// assert!(matches!(refused, Err(DirectoryError::Unwelcome { .. })));
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connections_per_process(mut self, most: usize) -> Self {
        self.rules.connections_per_process = most;
        self
    }

    /// Sets how many names all clients together may have. Each takes a descriptor of the server.
    /// What the directory's owner puts does not count.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError, DirectoryOptions};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc names {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = DirectoryOptions::new().names(1).bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let event = Shm::new(Event::new())?;
    /// directory.put("the owner's", &event)?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// client.put("ready", &event)?;
    /// assert!(matches!(client.put("steady", &event), Err(DirectoryError::TooMany { .. })));
    /// # drop(client);
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn names(mut self, most: usize) -> Self {
        self.rules.limits.names = most;
        self
    }

    /// Sets how many names a connection may have.
    ///
    /// ```
    /// use crossproc::directory::{DirectoryClient, DirectoryError, DirectoryOptions};
    /// use crossproc::{Event, Shm};
    /// # use crossproc::directory::Address;
    /// # use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let name = format!("crossproc names_per_connection {}", std::process::id());
    /// # let address = Address::abstract_name(name);
    /// let directory = DirectoryOptions::new().names_per_connection(1).bind(&address)?;
    /// # let directory = Arc::new(directory);
    /// # let served = Arc::clone(&directory);
    /// # let server = std::thread::spawn(move || served.serve());
    /// // With the directory served:
    /// let event = Shm::new(Event::new())?;
    /// let mut client = DirectoryClient::connect(&address)?;
    /// client.put("ready", &event)?;
    /// assert!(matches!(client.put("steady", &event), Err(DirectoryError::TooMany { .. })));
    /// let mut other = DirectoryClient::connect(&address)?;
    /// other.put("steady", &event)?;
    /// # drop((client, other));
    /// # directory.close();
    /// # server.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn names_per_connection(mut self, most: usize) -> Self {
        self.rules.limits.names_per_client = most;
        self
    }
}
