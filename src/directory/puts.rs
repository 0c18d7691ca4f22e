//! What a client puts into a directory, and removes.

use std::io;
use std::time::Instant;

use super::client::{Answered, DirectoryClient, REQUEST_TIMEOUT};
use super::error::{DirectoryError, check_name};
use super::protocol::{Ask, Status};
use crate::memory::Handle;
use crate::wait::Wait;

impl DirectoryClient {
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
}

fn put_or_not(result: Result<(), DirectoryError>) -> Result<bool, DirectoryError> {
    match result {
        Ok(()) => Ok(true),
        Err(DirectoryError::NameTaken { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
